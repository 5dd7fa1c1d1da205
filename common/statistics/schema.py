"""What sites declare about their tables before any statistic, and how a study agrees on one set of features.

Declarations hold no value of any case: names, versions, batches. All that differs is collected and named at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from common.errors import StatisticError

MissingFeature = Literal["refuse", "drop"]


@dataclass(frozen=True)
class TableSchema:
    """One site's declaration.

    Parameters
    ----------
    site : str
    feature_names : tuple of str
        Columns of its feature table, in order.
    extractor_version : str
        Of the software that computed the features.
    settings_digest : str
        SHA-256 of the extraction settings.
    batches : tuple of str
        Sites or scanners that its cases belong to.
    """

    site: str
    feature_names: tuple[str, ...]
    extractor_version: str
    settings_digest: str
    batches: tuple[str, ...]


@dataclass(frozen=True)
class AgreedSchema:
    """What all sites have: feature names in the first site's order, all batches, and what was dropped everywhere."""

    feature_names: tuple[str, ...]
    batches: tuple[str, ...]
    dropped: tuple[str, ...]


def agree(schemas: Sequence[TableSchema], *, missing_feature: MissingFeature = "refuse") -> AgreedSchema:
    """One schema for the study.

    Parameters
    ----------
    missing_feature : {"refuse", "drop"}
        What to do with a feature that some sites lack: refuse, or drop it everywhere.

    Raises
    ------
    StatisticError
        Where extractor versions or settings differ (both named), a feature is missing at a site and is not to be
        dropped, or nothing is common to all.
    """
    if not schemas:
        raise StatisticError("no site has declared its features")
    first, faults = schemas[0], []
    for schema in schemas[1:]:
        if schema.extractor_version != first.extractor_version:
            faults.append(
                f"extractor {first.extractor_version} at {first.site}, {schema.extractor_version} at {schema.site}"
            )
        if schema.settings_digest != first.settings_digest:
            faults.append(
                f"extraction settings {first.settings_digest[:12]} at {first.site}, "
                f"{schema.settings_digest[:12]} at {schema.site}"
            )
    held = {schema.site: set(schema.feature_names) for schema in schemas}
    everywhere = set.intersection(*held.values())
    anywhere = dict.fromkeys(name for schema in schemas for name in schema.feature_names)
    dropped = tuple(name for name in anywhere if name not in everywhere)
    if missing_feature == "refuse":
        for name in dropped[:10]:
            lacking = ", ".join(site for site, names in held.items() if name not in names)
            faults.append(f"feature {name} is missing at {lacking}")
        if len(dropped) > 10:
            faults.append(f"and {len(dropped) - 10} further features are missing at some site")
    if not everywhere:
        faults.append("no feature is common to all sites")
    if faults:
        raise StatisticError("feature tables differ between sites: " + "; ".join(faults))
    batches = tuple(dict.fromkeys(batch for schema in schemas for batch in schema.batches))
    return AgreedSchema(tuple(name for name in first.feature_names if name in everywhere), batches, dropped)
