"""The site's half of learning Nyul's landmarks: where a study's steps wait for them, and what each case gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from client.imaging.case import Case
from client.imaging.intensity_steps import case_percentiles
from client.imaging.steps import apply
from common.config.imaging import ImagingStep, Nyul
from common.statistics.nyul import landmark_table
from common.tables import FeatureTable


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


def percentile_table(cases: Iterable[Case], steps: Sequence[ImagingStep], *, image: str) -> FeatureTable:
    """The rows under `common.statistics.nyul.learn_landmarks`: each case after the steps before the waiting one.

    Cases are read one after the other; only their percentiles stay in memory.
    """
    position = waiting_step(steps)
    if position is None:
        raise ValueError("no nyul step waits for landmarks")
    waiting = steps[position]
    assert isinstance(waiting, Nyul)
    found = {}
    for case in cases:
        ready = case
        for step in steps[:position]:
            ready = apply(step, ready, images=(image,))
        found[case.case_id] = case_percentiles(waiting, ready, ready.images[image])
    return landmark_table(image, waiting.percentiles, found)
