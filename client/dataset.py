"""A site's cases as arrays, and which of them a fold trains and tests on. Nothing here leaves the site."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from client.batches import site_batches
from client.ingest.manifest import CaseRow
from client.preparation import PreparedCase, study_feature_names
from common.config.study import (
    ClassOutcomeConfig,
    HoldoutConfig,
    LeaveOneSiteOutConfig,
    OutcomeConfig,
    ScalarOutcomeConfig,
    StudyConfig,
)
from common.errors import StatisticError
from common.messages import Split
from common.outcomes import ClassOutcome, Outcome, ScalarOutcome, SurvivalOutcome
from common.tables import FeatureTable

Rows = npt.NDArray[np.int64]

NEVER_TESTED = -1


@dataclass(frozen=True, eq=False)
class Dataset:
    """The usable cases of a site, sorted by case id.

    Parameters
    ----------
    features, clinical : FeatureTable
        Radiomics (n_cases, n_features) and coded clinical columns (n_cases, n_clinical).
    patches : ndarray of float32, shape (n_cases, C, D, H, W), or None
        Image channels and the ROI as the last one.
    outcome : Outcome
    batch : tuple of str
        ComBat's batch of each case.
    tested_in : ndarray of int64, shape (n_cases,)
        The fold in which a case is tested, or `NEVER_TESTED`; in all other folds it is trained on.
    trains : bool
        False at an external site, whose cases are only tested.
    labels : mapping of column to tuple of str
        Scanner and subgroup of each case, as the manifest has them; empty where not known.
    """

    features: FeatureTable
    clinical: FeatureTable
    patches: npt.NDArray[np.float32] | None
    outcome: Outcome
    batch: tuple[str, ...]
    tested_in: Rows
    trains: bool
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def rows(self, fold: int, split: Split) -> Rows:
        """Row numbers of a split."""
        tested = self.tested_in == fold
        if split == "test":
            return np.flatnonzero(tested)
        return np.flatnonzero(~tested) if self.trains else np.zeros(0, dtype=np.int64)


def assign_folds(
    case_ids: Sequence[str], strata: Sequence[int], study: StudyConfig, *, trains: bool, site: str = ""
) -> Rows:
    """The fold in which each case is tested, shape (n_cases,).

    Within each stratum (the class, or the event) cases are ordered by a hash of seed and case id: the assignment does
    not depend on the order of the manifest. Where one site is left out at a time, all its cases are tested in its own
    fold; those of an external site are dealt to the folds, as in cross-validation.
    """
    tested = np.full(len(case_ids), NEVER_TESTED, dtype=np.int64)
    split = study.split
    if isinstance(split, LeaveOneSiteOutConfig) and trains:
        tested[:] = study.training_sites.index(site)
        return tested
    started = 0
    for stratum in sorted(set(strata)):
        members = [i for i, s in enumerate(strata) if s == stratum]
        members.sort(key=lambda i: hashlib.sha256(f"{study.seed}\x1f{case_ids[i]}".encode()).digest())
        if not isinstance(split, HoldoutConfig):
            for position, i in enumerate(members):
                tested[i] = (started + position) % study.n_folds
            started += len(members)
        elif not trains:
            tested[members] = 0
        else:
            tested[members[: _n_test(len(members), split)]] = 0
    return tested


def _n_test(n: int, split: HoldoutConfig) -> int:
    return round(n * split.test_fraction)


def global_ids(case_ids: Sequence[str], site: str) -> tuple[str, ...]:
    """Case ids with their site's name, as draws name cases: pooled rows, which have it already, are drawn alike."""
    return tuple(case_id if "/" in case_id else f"{site}/{case_id}" for case_id in case_ids)


def make_outcome(config: OutcomeConfig, values: Sequence[tuple[float, ...]]) -> Outcome:
    """The outcome of cases from the manifest's numbers."""
    table = np.asarray(values, dtype=np.float64)
    if isinstance(config, ClassOutcomeConfig):
        return ClassOutcome(table[:, 0].astype(np.int64), config.names)
    if isinstance(config, ScalarOutcomeConfig):
        return ScalarOutcome(table[:, 0], config.unit)
    return SurvivalOutcome(table[:, 0] > 0, table[:, 1])


def strata(outcome: Outcome) -> list[int]:
    """What a split keeps in proportion: the class, or whether the event came; one stratum for a number."""
    if isinstance(outcome, ClassOutcome):
        return [int(label) for label in outcome.labels]
    if isinstance(outcome, SurvivalOutcome):
        return [int(event) for event in outcome.event]
    return [0] * len(outcome)


def build_dataset(
    cases: Sequence[tuple[CaseRow, PreparedCase]], study: StudyConfig, *, site: str, minimum_cases: int = 1
) -> Dataset:
    """Arrays of the prepared cases, sorted by case id, with the folds assigned.

    Parameters
    ----------
    minimum_cases : int
        Scanners with fewer cases are taken together to one batch.

    Raises
    ------
    StatisticError
        If no case is usable.
    """
    if not cases:
        raise StatisticError(f"site {site} has no usable case")
    ordered = sorted(cases, key=lambda pair: pair[0].case_id)
    ids = tuple(row.case_id for row, _ in ordered)
    clinical = study.clinical_names
    outcome = make_outcome(study.outcome, [row.outcome for row, _ in ordered])
    trains = site in study.training_sites
    patches = [case.patch for _, case in ordered if case.patch is not None]
    values = np.array([[row.clinical[name] for name in clinical] for row, _ in ordered], dtype=np.float64)
    tested_in = assign_folds(ids, strata(outcome), study, trains=trains, site=site)
    labels = {column: tuple(row.labels.get(column, "") for row, _ in ordered) for column in study.label_columns}
    scanner = study.table.combat.batch_column if study.table.combat else None
    batch = (site,) * len(ids)
    if scanner is not None:
        batch = site_batches(
            site,
            labels[scanner],
            tested_in=tested_in,
            n_folds=study.n_folds,
            trains=trains,
            minimum_cases=minimum_cases,
        )
    return Dataset(
        features=FeatureTable(np.stack([case.features for _, case in ordered]), study_feature_names(study), ids),
        clinical=FeatureTable(values.reshape(len(ids), len(clinical)), clinical, ids),
        patches=np.stack(patches) if patches else None,
        outcome=outcome,
        batch=batch,
        tested_in=tested_in,
        trains=trains,
        labels=labels,
    )
