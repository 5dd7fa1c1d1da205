"""The three ways to look at sums that came by site: each site, all sites, and all but one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

from common.errors import MetricError


class Mergeable(Protocol):
    """`ScoreSums`, `ErrorSums` and `RiskSums`."""

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self: ...


Part = TypeVar("Part", bound=Mergeable)


@dataclass(frozen=True)
class SiteViews(Generic[Part]):
    """Sums of each site, of all sites together, and of all without one (empty for a single site)."""

    by_site: Mapping[str, Part]
    overall: Part
    without: Mapping[str, Part]


def site_views(by_site: Mapping[str, Part]) -> SiteViews[Part]:
    """Merge the sums of the sites, in the order of their names.

    Raises
    ------
    MetricError
        Without any site.
    """
    names = sorted(by_site)
    if not names:
        raise MetricError("no site sent evaluation sums")
    merge = type(by_site[names[0]]).merge
    without = {
        left_out: merge([by_site[name] for name in names if name != left_out]) for left_out in names if len(names) > 1
    }
    return SiteViews({name: by_site[name] for name in names}, merge([by_site[name] for name in names]), without)
