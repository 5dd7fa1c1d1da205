"""The site's half of learning Nyul's landmarks: where a study's steps wait for them, and what each case gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from client.imaging.case import Case
from client.imaging.intensity_steps import case_percentiles
from client.imaging.steps import apply
from common.config.imaging import ImagingStep, Nyul
from common.config.study import StudyConfig
from common.errors import MessageError
from common.messages import Landmarks


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


def with_all_landmarks(study: StudyConfig, landmarks: Landmarks) -> StudyConfig:
    """The study as cases are prepared for it: every ``nyul`` step with the landmarks that were learned.

    Raises
    ------
    MessageError
        Where landmarks are given for an image that does not wait for any, do not fit its percentiles, or are absent.
    """
    waiting = {image.name for image in study.images if image.waiting}
    if landmarks.keys() != waiting:
        raise MessageError(f"landmarks of {sorted(landmarks)}, this study waits for those of {sorted(waiting)}")
    if not waiting:
        return study
    try:
        images = tuple(
            image.model_copy(update={"steps": with_landmarks(image.steps, landmarks[image.name])})
            if image.waiting
            else image
            for image in study.images
        )
    except ValueError as error:
        raise MessageError(f"landmarks do not fit the study: {error}") from error
    return study.model_copy(update={"images": images})


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
