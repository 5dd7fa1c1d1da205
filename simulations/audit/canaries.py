"""Canaries: a crafted case that a hospital trains on or does not, many times over, and what the updates tell of it.

The canary points where no other case does (along the direction in which the training table varies least) and is long
enough that its gradient is always clipped, so each step that draws it moves the model by the whole clipping norm: no
case can do more. The attacker is the coordinator, who sees every round's update and knows the canary, as the guarantee
allows (Nasr et al. 2023, section 4). What the trials show is compared with what the hospital's own ledger says that
these very updates cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.messages import PrivacyEvent
from common.privacy.ledger import event_to_json
from simulations.audit.epsilon import EpsilonBound, epsilon_lower_bound
from simulations.audit.intervals import Scores

Vector = npt.NDArray[np.float64]

Trial = Callable[[int, bool], tuple[Vector, Sequence[PrivacyEvent]]]
"""Train once with the number of the trial, with or without the canary: the sum of the updates, and what they cost."""


@dataclass(frozen=True, eq=False)
class CanaryTrials:
    """Scores of trainings without and with the canary, and what each cost by the ledger.

    Parameters
    ----------
    events : tuple of PrivacyEvent
        Of one training; all trainings cost the same.
    """

    without: Scores
    with_canary: Scores
    events: tuple[PrivacyEvent, ...]

    def bound(self, *, delta: float, confidence: float = 0.95) -> EpsilonBound:
        """The epsilon that the trials show; the Gaussian family where every step looked at all cases."""
        is_gaussian = bool(self.events) and all(event.sampling_rate == 1 for event in self.events)
        return epsilon_lower_bound(
            self.without, self.with_canary, delta=delta, confidence=confidence, is_gaussian=is_gaussian
        )


def canary_row(table: npt.NDArray[np.floating], *, length: float) -> Vector:
    """A row (F,) of L2 norm ``length`` along the direction in which the rows of ``table`` (n, F) vary least."""
    if len(table) == 0:
        raise ValueError("a canary is placed beside at least one case")
    _, _, directions = np.linalg.svd(np.asarray(table, dtype=np.float64), full_matrices=True)
    return np.asarray(length * directions[-1], dtype=np.float64)


def run_trials(trial: Trial, direction: Vector, *, n_trials: int, first: int = 0) -> CanaryTrials:
    """Trials ``first`` to ``first + n_trials``, every other with the canary.

    The score is the length of the update along ``direction``.

    Raises
    ------
    ValueError
        With fewer than two trials, or where a training cost something else than the first one.
    """
    if n_trials < 2:
        raise ValueError(f"{n_trials} trials, expected at least 2")
    unit = direction / np.linalg.norm(direction)
    scores: dict[bool, list[float]] = {False: [], True: []}
    cost: tuple[PrivacyEvent, ...] | None = None
    for number in range(first, first + n_trials):
        has_canary = number % 2 == 1
        update, events = trial(number, has_canary)
        scores[has_canary].append(float(update @ unit))
        if cost is not None and list(map(event_to_json, events)) != list(map(event_to_json, cost)):
            raise ValueError(f"trial {number} cost {tuple(events)}, the first one {cost}")
        cost = tuple(events)
    return CanaryTrials(np.array(scores[False]), np.array(scores[True]), cost or ())
