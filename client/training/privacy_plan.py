"""How much noise a hospital's training needs, solved once for the whole study from public numbers.

What is taken as public: the study file, and how many training cases this hospital has in each fold (hospitals tell
their numbers of cases anyway). From these follow the sampling rate ``batch_size / n_cases``, the number of steps, and
so the least noise with which *all* trained models, rounds, folds and courses of the study together stay within the
target. Every round, and every restart, finds the same number.

Two things are left to the reader of an epsilon. The unit is one training case, given which cases are held out: the
split is stratified, so that one case more may move another one between training and test. And the cost of all folds
is added up, although a case that is held out in a fold costs nothing there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from client.training.dp_sgd import Mechanism
from common.config.privacy import SampleLevelConfig
from common.config.study import StudyConfig, StudyModel
from common.privacy.ledger import solve_noise_for
from common.tasks import TrainingConfig

Plan = Mapping[tuple[str, int], Mechanism]
"""By model and fold."""


def privacy_plan(
    study: StudyConfig, privacy: SampleLevelConfig, n_cases: Mapping[int, int], *, n_courses: int
) -> dict[tuple[str, int], Mechanism]:
    """Noise and sampling of every model in every fold.

    Parameters
    ----------
    n_cases : mapping of fold to int
        Training cases of this hospital; folds without any are left out.
    n_courses : int
        How often each model is trained here in a fold: once together, and once more alone where the study asks for it.

    Raises
    ------
    PrivacyError
        If no noise is enough.
    """
    trained = [(entry, entry.trained[1]) for entry in study.models if entry.solved is None]
    folds = {fold: n for fold, n in n_cases.items() if n > 0}
    rounds = [  # sampling rate, steps a round, rounds
        part for entry, settings in trained for n in folds.values() for part in _rounds(entry, settings, n)
    ]
    dearest = max(rounds, key=lambda own: own[0] * math.sqrt(own[1]), default=(1.0, 0, 0))
    schedule = [(rate, steps * count * n_courses) for rate, steps, count in rounds]
    schedule.append((dearest[0], dearest[1] * privacy.spare_rounds))
    noise = solve_noise_for(schedule, target_epsilon=privacy.target_epsilon, delta=privacy.target_delta)
    return {
        (entry.name, fold): Mechanism(
            noise_multiplier=noise,
            clipping_norm=privacy.clipping_norm,
            sampling_rate=sampling_rate(settings, n),
            steps_per_epoch=steps_per_epoch(settings, n),
            local_epochs=settings.local_epochs,
        )
        for entry, settings in trained
        for fold, n in folds.items()
    }


def _rounds(entry: StudyModel, settings: TrainingConfig, n_cases: int) -> list[tuple[float, int, int]]:
    """Sampling rate, steps and number of each kind of round: a centred model's first one sees every case once."""
    trains = (sampling_rate(settings, n_cases), steps_per_epoch(settings, n_cases) * settings.local_epochs)
    centred = int(entry.trained[0].centred)
    return [(*trains, entry.rounds - centred), (1.0, 1, 1)][: 1 + centred]


def sampling_rate(settings: TrainingConfig, n_cases: int) -> float:
    """Probability that a case is in a sample whose expected size is ``batch_size``; 1 where there are no more cases."""
    return min(1.0, settings.batch_size / n_cases)


def steps_per_epoch(settings: TrainingConfig, n_cases: int) -> int:
    """Steps after which each case was, on average, seen at least once."""
    return -(-n_cases // settings.batch_size)
