"""`ScoreSums`: what a site says about its predicted probabilities, as arrays that merge by addition.

No score leaves a site. Probabilities are counted in agreed bins (1/400 wide between 0.01 and 0.99, an eighth of an
octave towards 0 and 1), by class; losses are summed exactly. Curves and intervals follow from the merged counts
(`common.evaluation.metrics`, `common.evaluation.reliability`).

Pairs of cases within one site are ordered exactly at the site and sent as one correction, so the AUC of a single site
is exact, and the merged AUC errs only in pairs of two sites that share a bin. How far at most is known (`auc_bound`).

Small cells: with ``minimum_cases`` cases are counted where their groups of at least so many lie, not one by one; each
class's total stays exact (`common.evaluation.rounding`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from common.arrays import merge_sums
from common.errors import Code, GateError, MessageError, MetricError
from common.evaluation.rounding import largest_error, redrawn, rounded

Matrix = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Sums = Mapping[str, npt.NDArray[np.generic]]

N_CASES, BRIER, BRIER_SQUARES, LOG_LOSS, LOG_LOSS_SQUARES = range(5)
"""Positions in `ScoreSums.losses`."""

CORRECTION, OWN_TIES = range(2)
"""Columns of `ScoreSums.pairs`: exact minus binned ordered pairs, and pairs in one bin, both within one site."""

LEAST_PROBABILITY = 2.0**-53
"""Where the log-loss of a prediction of 0 is cut off."""


def _edges() -> Matrix:
    """Exact binary fractions and correctly rounded quotients: bit-equal on every machine."""
    octaves = np.array([(8 + j) * 2.0 ** -(k + 3) for k in range(24, 6, -1) for j in range(8)])
    tail = octaves[octaves < 0.01]
    return np.concatenate([[0.0], tail, np.arange(4, 397) / 400, 1.0 - tail[::-1], [1.0]])


EDGES = _edges()
"""Edges of the bins, (n_bins + 1,): bin i holds ``EDGES[i] <= p < EDGES[i + 1]``, the last bin 1.0 too."""
N_BINS = len(EDGES) - 1
CENTRES = (EDGES[1:] + EDGES[:-1]) / 2


@dataclass(frozen=True, eq=False)
class ScoreSums:
    """Mergeable sums of predicted probabilities against labels.

    A *curve* is a class against the rest: one curve (class 1, the event) for two classes, else one a class.

    Parameters
    ----------
    positives, negatives : ndarray of int64, shape (n_curves, n_bins)
        Cases of the curve's class, and other cases, by bin of the predicted probability of that class.
    confusion : ndarray of int64, shape (n_classes, n_classes)
        Cases of class (row) by most probable class (column); of equal probabilities the first class is taken.
    pairs : ndarray of float64, shape (n_curves, 2)
        See `CORRECTION`.
    losses : ndarray of float64, shape (5,)
        See `N_CASES`.
    slack : ndarray of int64, shape (1,)
        Largest error of any count up to an edge, summed over sites: 0 without the small-cell rule.
    """

    positives: Counts
    negatives: Counts
    confusion: Counts
    pairs: Matrix
    losses: Matrix
    slack: Counts

    def __post_init__(self) -> None:
        n_classes = self.confusion.shape[0]
        n_curves = curves_of(n_classes)
        shapes = {
            "positives": (n_curves, N_BINS),
            "negatives": (n_curves, N_BINS),
            "confusion": (n_classes, n_classes),
            "pairs": (n_curves, 2),
            "losses": (5,),
            "slack": (1,),
        }
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape} for {n_classes} classes")
            if array.dtype.kind == "i" and (array < 0).any():
                raise ValueError(f"{name} holds negative counts")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds numbers that are not finite")
        if not (self.positives.sum(axis=1) + self.negatives.sum(axis=1) == round(float(self.losses[N_CASES]))).all():
            raise ValueError("the counts of a curve do not add up to the number of cases")

    @property
    def n_classes(self) -> int:
        return int(self.confusion.shape[0])

    @property
    def n_cases(self) -> int:
        return round(float(self.losses[N_CASES]))

    @classmethod
    def summarise(
        cls, probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], *, minimum_cases: int = 1
    ) -> ScoreSums:
        """Sums of one site's cases.

        Parameters
        ----------
        probabilities : ndarray, shape (n_cases, n_classes)
            Rows sum to 1.
        labels : ndarray of int, shape (n_cases,)
        minimum_cases : int
            The site's small-cell minimum.

        Raises
        ------
        MetricError
            Where probabilities are not finite, not in 0..1 or do not sum to 1; where a label is no class.
        GateError
            Code ``small_cell``, where a class has 1 to ``minimum_cases`` - 1 cases at this site.
        """
        p = _checked(probabilities, labels)
        n_classes = p.shape[1]
        member = labels[:, None] == np.arange(n_classes)
        _require_large_cells(member.sum(axis=0), minimum_cases)
        shown = [1] if n_classes == 2 else list(range(n_classes))
        positives = np.array([_histogram(p[member[:, k], k]) for k in shown])
        negatives = np.array([_histogram(p[~member[:, k], k]) for k in shown])
        confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
        np.add.at(confusion, (labels, p.argmax(axis=1)), 1)
        totals = np.concatenate([x.sum(axis=1) for x in (positives, negatives, confusion)])
        slack = max(largest_error(int(n), minimum_cases) for n in totals)
        positives, negatives = (
            np.array([redrawn(row, minimum=minimum_cases) for row in x]) for x in (positives, negatives)
        )
        confusion = _rounded_rows(confusion, minimum_cases)
        pairs = [
            _own_pairs(p[member[:, k], k], p[~member[:, k], k], positives[i], negatives[i]) for i, k in enumerate(shown)
        ]
        return cls(positives, negatives, confusion, np.array(pairs), _losses(p, member), np.array([slack]))

    @classmethod
    def empty(cls, n_classes: int) -> ScoreSums:
        """The sums of no case: neutral in `merge`."""
        n_curves = curves_of(n_classes)
        counts = np.zeros((n_curves, N_BINS), dtype=np.int64)
        confusion = np.zeros((n_classes, n_classes), dtype=np.int64)
        return cls(counts, counts, confusion, np.zeros((n_curves, 2)), np.zeros(5), np.zeros(1, dtype=np.int64))

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Field name -> array, for the wire."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Sums) -> ScoreSums:
        """The sums that arrived as ``arrays``; MessageError where they are not as agreed."""
        names = {field.name for field in fields(cls)}
        if arrays.keys() != names:
            raise MessageError(f"score sums with fields {sorted(arrays)}, expected {sorted(names)}")
        for name, array in arrays.items():
            expected = np.dtype(np.float64 if name in ("pairs", "losses") else np.int64)
            if array.dtype != expected:
                raise MessageError(f"score sums, field {name}: dtype {array.dtype}, expected {expected}")
        try:
            return cls(**{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]  # checked above
        except (ValueError, IndexError) as wrong:
            raise MessageError(f"score sums: {wrong}") from wrong

    @classmethod
    def merge(cls, parts: Sequence[ScoreSums]) -> ScoreSums:
        """The sums of all cases of the parts."""
        return cls.from_arrays(merge_sums([part.to_arrays() for part in parts]))

    def curve(self, index: int = 0) -> tuple[Counts, Counts]:
        """Histograms (n_bins,) of one curve's positives and negatives.

        Raises
        ------
        MetricError
            Where one of the two has no case.
        """
        positives, negatives = self.positives[index], self.negatives[index]
        for name, counts in (("positive", positives), ("negative", negatives)):
            if not counts.sum():
                raise MetricError(f"curve {index}: no {name} case among {self.n_cases}")
        return positives, negatives


def curves_of(n_classes: int) -> int:
    """How many class-against-the-rest curves there are."""
    if n_classes < 2:
        raise ValueError(f"scores need at least 2 classes, got {n_classes}")
    return 1 if n_classes == 2 else n_classes


def ordered_pairs(positives: Counts, negatives: Counts) -> float:
    """Pairs of a positive and a negative case in which the positive scores higher; pairs in one bin count half."""
    return float(positives @ (np.cumsum(negatives) - 0.5 * negatives))


def bin_of(probabilities: Matrix) -> Counts:
    """Index of each probability's bin."""
    return np.minimum(np.searchsorted(EDGES, probabilities, side="right") - 1, N_BINS - 1).astype(np.int64)


def _checked(probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Matrix:
    p = probabilities.astype(np.float64)
    if p.ndim != 2 or p.shape[1] < 2 or labels.shape != (len(p),):
        raise MetricError(f"probabilities {p.shape} and labels {labels.shape} do not fit")
    if not (np.isfinite(p).all() and (p >= 0).all() and (p <= 1).all()):
        raise MetricError("probabilities must be finite and lie in 0..1")
    if len(p) and np.abs(p.sum(axis=1) - 1).max() > 1e-5:
        raise MetricError("the probabilities of a case must sum to 1")
    if not ((labels >= 0) & (labels < p.shape[1])).all():
        raise MetricError(f"labels must lie in 0..{p.shape[1] - 1}")
    return p


def _require_large_cells(counts: Counts, minimum_cases: int) -> None:
    small = counts[(counts > 0) & (counts < minimum_cases)]
    if small.size:
        reason = f"a class with {small.min()} cases here, the minimum is {minimum_cases}"
        raise GateError(reason, code=Code.SMALL_CELL)


def _histogram(p: Matrix) -> Counts:
    return np.bincount(bin_of(p), minlength=N_BINS).astype(np.int64)


def _rounded_rows(counts: Counts, minimum: int) -> Counts:
    """Counts whose running totals along each row are levels of `common.evaluation.rounding`."""
    running = np.array([rounded(row, minimum=minimum) for row in np.cumsum(counts, axis=1)])
    return np.diff(running, axis=1, prepend=0).astype(np.int64)


def _own_pairs(above: Matrix, below: Matrix, positives: Counts, negatives: Counts) -> tuple[float, float]:
    order = np.sort(below)
    lower, upper = np.searchsorted(order, above, side="left"), np.searchsorted(order, above, side="right")
    exact = 0.5 * float(lower.sum() + upper.sum())
    ties = float(positives @ negatives)
    return exact - ordered_pairs(positives, negatives), ties


def _losses(p: Matrix, member: npt.NDArray[np.bool_]) -> Matrix:
    squared = (p - member) ** 2
    brier = squared[:, 1] if p.shape[1] == 2 else squared.sum(axis=1)
    log_loss = -np.log(np.maximum(p[member], LEAST_PROBABILITY))
    return np.array([len(p), brier.sum(), brier @ brier, log_loss.sum(), log_loss @ log_loss], dtype=np.float64)
