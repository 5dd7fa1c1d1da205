"""What statistics give away of a hospital: a property of its patients, and, by differencing, a single patient.

**Property inference** (Ateniese et al. 2015; Melis et al. 2019): the attacker knows patients of other hospitals, draws
cohorts from them with known shares of a property, learns by ridge regression how the released statistics depend on the
share, and reads the hospital's share from its own.

**Differencing**: the same statistic asked twice, with one patient more the second time, is that patient's row by
subtraction. The small-cell rule does not see it, because both groups are large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulations.audit.intervals import Scores
from simulations.audit.similarity import correlation

Matrix = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

RIDGE = 1.0
LEAST_SPREAD = 1e-3
"""Numbers that vary less over the known cohorts, relative to the one that varies most, are left out."""
LARGEST_SCORE = 4.0
"""In standard deviations: a hospital whose scanner shifts a feature would else decide the guess by that feature."""


@dataclass(frozen=True)
class PropertyResult:
    """How well the share of a property is read from statistics.

    Parameters
    ----------
    error : float
        Mean absolute error of the inferred share over cohorts.
    error_of_guess : float
        Of an attacker who sees nothing and guesses the mean share.
    explained : float
        Share of the variance of the true share that the inference explains (R squared); 0 or less is nothing.
    """

    error: float
    error_of_guess: float
    explained: float
    n_cohorts: int


@dataclass(frozen=True, eq=False)
class Patients:
    """Rows of features (n, F) and who has the property, shape (n,)."""

    rows: Matrix
    has: Flags


def infer_share(
    known: Patients,
    victim: Patients,
    statistic: Callable[[Matrix], Matrix],
    *,
    n_cases: int,
    n_cohorts: int,
    n_summed: int = 1,
    rng: np.random.Generator,
) -> PropertyResult:
    """Learn on cohorts of ``known`` patients, judge on cohorts of the victim's.

    Parameters
    ----------
    statistic : callable
        From a cohort's rows (n_cases, F) to what leaves, a vector.
    n_cases, n_cohorts : int
        Size of each cohort, and how many are drawn of either side.
    n_summed : int
        Hospitals whose sums alone are seen: each observation is then of so many cohorts of independent shares together,
        and the share of one of them is asked for.

    Raises
    ------
    ValueError
        Where a side has nobody with, or nobody without the property.
    """
    for side, patients in (("known", known), ("victim", victim)):
        if patients.has.all() or not patients.has.any():
            raise ValueError(f"of the {side} cases {int(patients.has.sum())} of {len(patients.has)} have the property")

    def observed(patients: Patients) -> tuple[Matrix, Scores]:
        drawn = [_observation(patients, known, statistic, n_cases, n_summed, rng) for _ in range(n_cohorts)]
        return np.array([numbers for numbers, _ in drawn]), np.array([share for _, share in drawn])

    seen, shares = observed(known)
    asked, truth = observed(victim)
    guess = _ridge(seen, shares)(asked)
    rest = float(np.sum((truth - guess) ** 2)) / float(np.sum((truth - truth.mean()) ** 2))
    return PropertyResult(
        error=float(np.mean(np.abs(truth - guess))),
        error_of_guess=float(np.mean(np.abs(truth - shares.mean()))),
        explained=1.0 - rest,
        n_cohorts=n_cohorts,
    )


def difference_attack(before: Matrix, after: Matrix, row: Matrix) -> float:
    """Correlation of what was subtracted with the true row of the patient who was added; 1 is the whole row."""
    return correlation(after - before, row)


def _observation(
    patients: Patients,
    others: Patients,
    statistic: Callable[[Matrix], Matrix],
    n_cases: int,
    n_summed: int,
    rng: np.random.Generator,
) -> tuple[Matrix, float]:
    """The statistic of a cohort, together with those of ``n_summed - 1`` other hospitals, and the cohort's share."""
    rows, share = _cohort(patients, n_cases, rng)
    rest = [_cohort(others, n_cases, rng)[0] for _ in range(n_summed - 1)]
    return statistic(np.vstack([rows, *rest])), share


def _cohort(patients: Patients, n_cases: int, rng: np.random.Generator) -> tuple[Matrix, float]:
    """A cohort (n_cases, F) with a share of the property between a tenth and nine tenths."""
    n_with = round(float(rng.uniform(0.1, 0.9)) * n_cases)
    having, lacking = np.flatnonzero(patients.has), np.flatnonzero(~patients.has)
    chosen = np.concatenate([rng.choice(having, n_with), rng.choice(lacking, n_cases - n_with)])
    return patients.rows[chosen], n_with / n_cases


def _ridge(seen: Matrix, shares: Scores) -> Callable[[Matrix], Scores]:
    """Ridge regression in its dual form on standardised columns: there are more numbers than cohorts."""
    centre, scale = seen.mean(axis=0), seen.std(axis=0)
    varies = scale > LEAST_SPREAD * scale.max()

    def standard(numbers: Matrix) -> Matrix:
        scores: Matrix = (numbers[:, varies] - centre[varies]) / scale[varies]
        return np.asarray(np.clip(scores, -LARGEST_SCORE, LARGEST_SCORE), dtype=np.float64)

    inputs = standard(seen)
    kernel = inputs @ inputs.T + RIDGE * inputs.shape[1] * np.eye(len(inputs))
    weights = inputs.T @ np.linalg.solve(kernel, shares - shares.mean())
    return lambda asked: np.asarray(np.clip(standard(asked) @ weights + shares.mean(), 0.0, 1.0), dtype=np.float64)
