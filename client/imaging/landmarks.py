"""The site's half of learning Nyul's landmarks: where a study's steps wait for them, and what each case gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from client.imaging.case import Case
from client.imaging.intensity_steps import case_percentiles
from client.imaging.steps import apply
from common.config.imaging import ImagingStep, Nyul


def waiting_step(steps: Sequence[ImagingStep]) -> int | None:
    """Position of the first ``nyul`` step without landmarks; None where nothing is left to learn."""
    return next((i for i, step in enumerate(steps) if isinstance(step, Nyul) and step.landmarks is None), None)


def with_landmarks(steps: Sequence[ImagingStep], landmarks: tuple[float, ...]) -> tuple[ImagingStep, ...]:
    """The steps with the landmarks that the study learned put into the one that waits for them."""
    position = waiting_step(steps)
    if position is None:
        raise ValueError("no nyul step waits for landmarks")
    learned = Nyul.model_validate({**steps[position].model_dump(), "landmarks": landmarks})
    return (*steps[:position], learned, *steps[position + 1 :])


def landmark_row(case: Case, steps: Sequence[ImagingStep], *, image: str) -> npt.NDArray[np.float64]:
    """What one case gives: its percentiles (n_percentiles,) after the steps before the waiting one.

    The rows of a site's cases make the table of `common.statistics.nyul.landmark_table`.

    Raises
    ------
    CaseError
        ``INTENSITY_CONSTANT`` where the percentiles span no range, and what the steps before may raise.
    """
    position = waiting_step(steps)
    if position is None:
        raise ValueError("no nyul step waits for landmarks")
    waiting = steps[position]
    assert isinstance(waiting, Nyul)  # `waiting_step` finds no other
    for step in steps[:position]:
        case = apply(step, case, images=(image,))
    return case_percentiles(waiting, case, case.images[image])
