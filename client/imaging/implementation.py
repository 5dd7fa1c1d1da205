"""What an imaging step is made of, and the shapes that most of them have.

A step *learns* from a case (a mean, a box, a transform), and *transforms* it with what was learned; both are functions
of the step's configuration, so that the record of a step is enough to do it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from client.imaging import intensity
from client.imaging.case import Case, Learned
from common.config.imaging import ImagingStep
from common.errors import CaseError, Code
from common.volume import FloatArray, Volume

Found = Mapping[str, tuple[float, ...]]
CASE = "case"
"""The key under which a step keeps what it learned of the grid, not of one image."""


@dataclass(frozen=True)
class Implementation:
    """What a step does: ``learn(step, case, images)`` looks, ``transform(step, case, images, learned)`` changes.

    Parameters
    ----------
    any_grid : bool
        True where the images may lie on several grids.
    """

    learn: Callable[[Any, Case, Sequence[str]], Learned]
    transform: Callable[[Any, Case, Sequence[str], Learned], Case]
    any_grid: bool = False


def nothing(step: ImagingStep, case: Case, images: Sequence[str]) -> Learned:
    return {}


def unchanged(step: ImagingStep, case: Case, images: Sequence[str], learned: Learned) -> Case:
    return case


def learn_each(learn: Callable[[Any, Case, Volume], Found]) -> Callable[[Any, Case, Sequence[str]], Learned]:
    return lambda step, case, images: {name: learn(step, case, case.images[name]) for name in images}


def change_each(
    change: Callable[[Any, Case, Volume, Found], Volume],
) -> Callable[[Any, Case, Sequence[str], Learned], Case]:
    def transform(step: ImagingStep, case: Case, images: Sequence[str], learned: Learned) -> Case:
        changed = {name: change(step, case, case.images[name], learned.get(name, {})) for name in images}
        return replace(case, images={**case.images, **changed})

    return transform


def move_all(case: Case, move: Callable[[Volume], Volume], move_roi: Callable[[Volume], Volume] | None = None) -> Case:
    """The same change of grid for every volume of the case; a `CaseError` where it leaves no ROI."""
    move_roi = move_roi or move
    moved = replace(
        case,
        images={name: move(image) for name, image in case.images.items()},
        roi=move_roi(case.roi),
        intensity_roi=None if case.intensity_roi is None else move_roi(case.intensity_roi),
    )
    if not moved.measured_roi.array.any():
        raise CaseError(case.case_id, "the ROI is smaller than a voxel of the new grid", code=Code.ROI_TOO_SMALL)
    return moved


def voxels_over(case: Case, image: Volume, over: str, *, body_above: float | None) -> npt.NDArray[np.bool_] | None:
    """The mask that ``over`` names; None for the whole image."""
    if over == "roi":
        return case.mask()
    return body_of(case, image, above=body_above) if over == "body" else None


def body_of(case: Case, image: Volume, *, above: float | None = None) -> npt.NDArray[np.bool_]:
    """`intensity.body_mask`, with the case's name in its error."""
    try:
        return intensity.body_mask(image, threshold=above)
    except ValueError as error:
        raise CaseError(case.case_id, f"no body found: {error}", code=Code.INTENSITY_CONSTANT) from error


def floats(image: Volume) -> FloatArray:
    array: FloatArray = image.array  # type: ignore[assignment]  # images are floating by `Case`'s contract
    return array
