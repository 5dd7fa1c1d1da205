"""Steps that change or check the grid of a case: orientation, crop, resampling, registration, thick slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from client.imaging import geometry, registration
from client.imaging.case import Case, Learned
from client.imaging.implementation import CASE, Found, move_all
from client.imaging.resample import Order, Region, resample_image, resample_roi, roi_region
from common.config import imaging as config
from common.errors import CaseError, Code
from common.volume import same_grid

ORDER_OF: Mapping[str, Order] = {"nearest": 0, "linear": 1, "cubic": 3}


def learn_crop(step: config.CropToRoi, case: Case, images: Sequence[str]) -> Learned:
    case.mask()
    box = geometry.margin_box(case.roi, margin_mm=step.margin_mm)
    return {CASE: _box_numbers(box)}


def crop(step: config.CropToRoi, case: Case, images: Sequence[str], learned: Learned) -> Case:
    box = _box(learned[CASE])
    return move_all(case, lambda volume: volume.crop(box.start, box.stop))


def to_lps(step: config.ToLps, case: Case, images: Sequence[str], learned: Learned) -> Case:
    return move_all(case, geometry.to_lps)


def learn_resample(step: config.Resample, case: Case, images: Sequence[str]) -> Learned:
    case.mask()
    if step.margin_mm is None:
        return {}
    return {CASE: _box_numbers(roi_region(case.roi, spacing_mm=step.spacing_mm[::-1], margin_mm=step.margin_mm))}


def resample(step: config.Resample, case: Case, images: Sequence[str], learned: Learned) -> Case:
    spacing = step.spacing_mm[::-1]
    region = _box(learned[CASE]) if CASE in learned else None
    order = ORDER_OF[step.interpolation]
    return move_all(
        case,
        lambda image: resample_image(image, spacing_mm=spacing, order=order, region=region),
        lambda roi: resample_roi(roi, spacing_mm=spacing, threshold=step.roi_threshold, region=region),
    )


def _box_numbers(box: Region) -> Found:
    return {"start": tuple(map(float, box.start)), "stop": tuple(map(float, box.stop))}


def _box(found: Found) -> Region:
    (d0, h0, w0), (d1, h1, w1) = (map(int, found[key]) for key in ("start", "stop"))
    return Region((d0, h0, w0), (d1, h1, w1))


def learn_stack(step: config.Anisotropy, case: Case, images: Sequence[str]) -> Learned:
    stack = geometry.stack_of(case.roi)
    slice_wise = stack.slice_wise(maximum_ratio=step.maximum_ratio)
    if slice_wise and step.otherwise == "refuse":
        reason = f"largest spacing is {stack.ratio:.3g} times the smallest, at most {step.maximum_ratio:g}"
        raise CaseError(case.case_id, reason, code=Code.CASE_INVALID)
    return {CASE: {"ratio": (stack.ratio,), "axis": (float(stack.axis),), "slice_wise": (float(slice_wise),)}}


def slice_wise(case: Case) -> bool | None:
    """What the last ``anisotropy`` step decided: slice by slice or not; None where there was no such step."""
    decided = [done.learned[CASE]["slice_wise"][0] for done in case.steps if done.kind == "anisotropy"]
    return bool(decided[-1]) if decided else None


def learn_registration(step: config.CheckRegistration, case: Case, images: Sequence[str]) -> Learned:
    if step.reference not in case.images:
        raise CaseError(case.case_id, f"no image {step.reference} to register with", code=Code.CASE_INVALID)
    fixed = case.images[step.reference]
    found: dict[str, Found] = {}
    for name in images:
        if same_grid(fixed, case.images[name]):
            continue
        if step.otherwise == "refuse":
            geometry.on_grid_of(fixed, case.images[name], case_id=case.case_id, name=name)
        rigid = registration.IDENTITY
        if step.otherwise == "rigid":
            try:
                rigid = registration.rigid_transform(case.images[name], fixed)
            except RuntimeError as error:  # how SimpleITK says that the images share no voxel
                reason = f"{name} could not be registered to {step.reference}"
                raise CaseError(case.case_id, reason, code=Code.GRID_MISMATCH) from error
        found[name] = {"rigid": rigid}
    return found


def register(step: config.CheckRegistration, case: Case, images: Sequence[str], learned: Learned) -> Case:
    fixed = case.images[step.reference]
    moved = {
        name: registration.resample_onto(case.images[name], fixed, transform=found["rigid"])
        for name, found in learned.items()
    }
    return replace(case, images={**case.images, **moved}).on_one_grid()
