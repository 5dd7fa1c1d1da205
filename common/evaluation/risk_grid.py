"""`RiskSums`: what a site says about predicted risk and follow-up, as arrays that merge by addition.

Cases are counted on an agreed grid of risk and time, events and censored cases apart. Pairs of cases within one site
are compared exactly at the site and sent as a correction (as in `common.evaluation.scores`).

Comparable are pairs in which the shorter time ended with the event; at equal times the event comes before the
censoring; equal risks count half (Harrell et al. 1996, Stat. Med. 15:361; as in lifelines and scikit-survival).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from common.arrays import merge_sums
from common.errors import Code, GateError, MessageError, MetricError
from common.evaluation.rounding import largest_error, redrawn_grid
from common.outcomes import SurvivalOutcome

Matrix = npt.NDArray[np.float64]
Grid = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]

N_RISKS = 160
"""Equal bins of the risk between 0 and 1."""

TIME_EDGES_DAYS: Matrix = np.concatenate(
    [np.arange(0, 730, 7), np.arange(730, 1826, 15), np.arange(1905, 5480, 90), np.arange(5845, 14700, 365)]
).astype(np.float64)
"""Weeks for 2 years, half months to 5, quarters to 15, years to 40; later times fall into the last bin. Bins are open
below and closed above."""
N_TIMES = len(TIME_EDGES_DAYS)

CONCORDANT, COMPARABLE, OWN_OPEN = range(3)
"""Positions in `RiskSums.pairs`: exact minus gridded pairs (concordant, comparable) within a site; pairs within a site
that the grid leaves open."""


@dataclass(frozen=True, eq=False)
class RiskSums:
    """Mergeable counts of cases by predicted risk and time.

    Parameters
    ----------
    events, censored : ndarray of int32, shape (N_RISKS, N_TIMES)
        Under the small-cell rule, of cases redrawn from groups (`common.evaluation.rounding`).
    pairs : ndarray of float64, shape (3,)
        See `CONCORDANT`.
    slack : ndarray of int64, shape (1,)
        Cases of the largest group, summed over sites; 0 without the small-cell rule.
    """

    events: Grid
    censored: Grid
    pairs: Matrix
    slack: Counts

    def __post_init__(self) -> None:
        shapes = {
            "events": ((N_RISKS, N_TIMES), np.int32),
            "censored": ((N_RISKS, N_TIMES), np.int32),
            "pairs": ((3,), np.float64),
            "slack": ((1,), np.int64),
        }
        for name, (shape, dtype) in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype or not np.isfinite(array).all():
                raise ValueError(f"{name}: got {array.dtype} {array.shape}, expected finite {np.dtype(dtype)} {shape}")
            if array.dtype.kind == "i" and (array < 0).any():
                raise ValueError(f"{name} holds negative counts")

    @property
    def n_events(self) -> int:
        return int(self.events.sum())

    @property
    def n_cases(self) -> int:
        return int(self.events.sum() + self.censored.sum())

    @classmethod
    def summarise(cls, risk: npt.NDArray[np.floating], outcome: SurvivalOutcome, *, minimum_cases: int = 1) -> RiskSums:
        """Sums of one site's cases.

        Parameters
        ----------
        risk : ndarray, shape (n_cases,)
            Between 0 and 1, higher for an earlier event: see `risk_of_survival` and `risk_of_score`.
        minimum_cases : int
            The site's small-cell minimum.

        Raises
        ------
        MetricError
            Where a risk is not finite or not between 0 and 1.
        GateError
            Code ``small_cell``, where 1 to ``minimum_cases`` - 1 cases have the event, or are censored.
        """
        r = risk.astype(np.float64)
        if r.shape != outcome.event.shape or not (np.isfinite(r).all() and (r >= 0).all() and (r <= 1).all()):
            raise MetricError(f"risks {r.shape} must lie between 0 and 1, one for each of {len(outcome)} cases")
        n_events = int(outcome.event.sum())
        for kind, n in (("events", n_events), ("censored cases", len(r) - n_events)):
            if 0 < n < minimum_cases:
                raise GateError(f"{n} {kind} here, the minimum is {minimum_cases}", code=Code.SMALL_CELL)
        events = _grid(r[outcome.event], outcome.time_days[outcome.event], minimum_cases)
        censored = _grid(r[~outcome.event], outcome.time_days[~outcome.event], minimum_cases)
        slack = max(largest_error(n, minimum_cases) for n in (n_events, len(r) - n_events))
        found, on_grid = _exact_pairs(r, outcome), compared(events, censored)
        differing = (found[0] - on_grid.concordant, found[1] - on_grid.comparable)
        pairs = np.array([*differing, open_pairs(events, censored)])
        return cls(events, censored, pairs, np.array([slack]))

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> RiskSums:
        """The sums that arrived as ``arrays``; MessageError where they are not as agreed."""
        names = {field.name for field in fields(cls)}
        if arrays.keys() != names:
            raise MessageError(f"risk sums with fields {sorted(arrays)}, expected {sorted(names)}")
        try:
            return cls(**arrays)  # type: ignore[arg-type]  # dtypes are checked by the class
        except ValueError as wrong:
            raise MessageError(f"risk sums: {wrong}") from wrong

    @classmethod
    def merge(cls, parts: Sequence[RiskSums]) -> RiskSums:
        """The sums of all cases of the parts."""
        return cls.from_arrays(merge_sums([part.to_arrays() for part in parts]))


def risk_of_survival(survival: npt.NDArray[np.floating]) -> Matrix:
    """One risk a case from its survival probabilities (n_cases, n_times): the mean share that is lost."""
    lost: Matrix = 1.0 - survival.astype(np.float64).mean(axis=1)
    return np.clip(lost, 0.0, 1.0)


def risk_of_score(score: npt.NDArray[np.floating], *, centre: float = 0.0, scale: float = 1.0) -> Matrix:
    """Risk between 0 and 1 from a score without limits, such as Cox's linear predictor; the order is kept.

    ``centre`` and ``scale`` are agreed by all sites.
    """
    at = np.clip((score.astype(np.float64) - centre) / scale, -500.0, 500.0)
    risk: Matrix = 1.0 / (1.0 + np.exp(-at))
    return risk


@dataclass(frozen=True, eq=False)
class Compared:
    """Pairs on the grid, and for a case in each cell how many pairs it is in and how many of them agree."""

    concordant: float
    comparable: float
    agreeing: tuple[Matrix, Matrix]
    compared: tuple[Matrix, Matrix]


def compared(events: Grid, censored: Grid) -> Compared:
    """Compare each event with all cases of later time bins and the censored ones of its own bin."""
    e, both = events.astype(np.float64), (events + censored).astype(np.float64)
    outlasting = _after(both) + censored
    as_event = _below(outlasting)
    earlier_events = _before(e)
    above_earlier, above_equal = _above(earlier_events), _above(earlier_events + e)
    n_outlasting = np.broadcast_to(outlasting.sum(axis=0), e.shape)
    n_earlier = np.broadcast_to(earlier_events.sum(axis=0), e.shape)
    n_equal = np.broadcast_to((earlier_events + e).sum(axis=0), e.shape)
    return Compared(
        concordant=float((e * as_event).sum()),
        comparable=float((e * n_outlasting).sum()),
        agreeing=(as_event + above_earlier, above_equal),
        compared=(n_outlasting + n_earlier, n_equal),
    )


def open_pairs(events: Grid, censored: Grid) -> float:
    """Pairs with an event whose order the grid leaves open: in one time bin, and half of those in one risk bin."""
    e, both = events.astype(np.float64), (events + censored).astype(np.float64)
    one_time = float(e.sum(axis=0) @ both.sum(axis=0))
    one_risk = float((e * (_after(both) + censored)).sum())
    return one_time + 0.5 * one_risk


def _exact_pairs(risk: Matrix, outcome: SurvivalOutcome) -> tuple[float, float]:
    """Concordant and comparable pairs of one site's cases, event by event."""
    concordant = comparable = 0.0
    time, event = outcome.time_days, outcome.event
    for i in np.flatnonzero(event):
        later = (time > time[i]) | ((time == time[i]) & ~event)
        others = risk[later]
        comparable += len(others)
        concordant += float(np.count_nonzero(others < risk[i]) + 0.5 * np.count_nonzero(others == risk[i]))
    return concordant, comparable


def _grid(risk: Matrix, time_days: Matrix, minimum: int) -> Grid:
    row = np.minimum((risk * N_RISKS).astype(np.int64), N_RISKS - 1)
    column = np.searchsorted(TIME_EDGES_DAYS[1:], time_days, side="left").astype(np.int64)
    return redrawn_grid(row, column, shape=(N_RISKS, N_TIMES), minimum=minimum).astype(np.int32)


def _after(counts: Matrix) -> Matrix:
    """Sum over later time bins."""
    return counts[:, ::-1].cumsum(axis=1)[:, ::-1] - counts


def _before(counts: Matrix) -> Matrix:
    """Sum over earlier time bins."""
    return counts.cumsum(axis=1) - counts


def _below(counts: Matrix) -> Matrix:
    """Sum over lower risk bins, and half of the own."""
    return counts.cumsum(axis=0) - 0.5 * counts


def _above(counts: Matrix) -> Matrix:
    """Sum over higher risk bins, and half of the own."""
    return counts[::-1].cumsum(axis=0)[::-1] - 0.5 * counts
