"""Steps that change intensities, the resegmentation of the ROI by them, and checks of their range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from client.imaging import bias, intensity, tissue
from client.imaging.case import Case, Learned
from client.imaging.implementation import Found, body_of, floats, voxels_over
from common.config import imaging as config
from common.config.imaging import ImagingStep
from common.errors import CaseError, Code, StatisticError
from common.statistics import nyul
from common.volume import Volume


def learn_zscore(step: config.ZScore, case: Case, image: Volume) -> Found:
    found = intensity.location(floats(image), voxels_over(case, image, step.over, body_above=step.body_above))
    if found.std == 0:
        raise CaseError(case.case_id, f"all intensities of the {step.over} are equal", code=Code.INTENSITY_CONSTANT)
    return {"mean": (found.mean,), "std": (found.std,)}


def standardise(step: ImagingStep, case: Case, image: Volume, found: Found) -> Volume:
    return intensity.rescale(image, offset=found["mean"][0], scale=found["std"][0])


def learn_stripe(step: config.WhiteStripe, case: Case, image: Volume) -> Found:
    try:
        stripe = tissue.reference_stripe(floats(image)[body_of(case, image)], peak=step.peak, width=step.width)
    except ValueError as error:
        raise CaseError(case.case_id, str(error), code=Code.INTENSITY_CONSTANT) from error
    limits = (stripe.lower, stripe.upper)
    return {"mean": (stripe.place.mean,), "std": (stripe.place.std,), "peak": (stripe.peak,), "limits": limits}


def learn_nyul(step: config.Nyul, case: Case, image: Volume) -> Found:
    if step.landmarks is None:
        raise ValueError("nyul has no landmarks yet: they are learned from all sites before images are standardised")
    return {"percentiles": tuple(float(x) for x in case_percentiles(step, case, image))}


def case_percentiles(step: config.Nyul, case: Case, image: Volume) -> npt.NDArray[np.float64]:
    """The image's percentiles over body or ROI; a `CaseError` where they span no range."""
    voxels = voxels_over(case, image, step.over, body_above=step.body_above)
    found = nyul.image_percentiles(floats(image)[voxels], step.percentiles)
    if not found[-1] > found[0]:
        raise CaseError(case.case_id, f"intensities of the {step.over} span no range", code=Code.INTENSITY_CONSTANT)
    return found


def map_landmarks(step: config.Nyul, case: Case, image: Volume, found: Found) -> Volume:
    assert step.landmarks is not None  # learning refuses a step without landmarks
    try:
        array = nyul.standardise_intensity(
            floats(image), found=np.array(found["percentiles"]), landmarks=step.landmarks
        )
    except StatisticError as error:
        raise CaseError(case.case_id, str(error), code=Code.INTENSITY_CONSTANT) from error
    return image.with_array(array)


def correct_bias(step: config.N4, case: Case, image: Volume, found: Found) -> Volume:
    field = bias.bias_field(image, body_of(case, image), shrink_factor=step.shrink_factor, iterations=step.iterations)
    return bias.divide_by(image, field)


def round_hu(step: config.RoundHu, case: Case, image: Volume, found: Found) -> Volume:
    return intensity.round_hu(image)


def window(step: config.Window, case: Case, image: Volume, found: Found) -> Volume:
    return intensity.window(image, lower=step.lower, upper=step.upper)


def learn_resegment(step: config.Resegment, case: Case, image: Volume) -> Found:
    values = floats(image)[case.mask()].astype(np.float64)
    low, high = intensity.resegmentation_limits(values, lower=step.lower, upper=step.upper, n_sigma=step.n_sigma)
    kept = (values >= low) & (values <= high)
    if not kept.any():
        raise CaseError(case.case_id, "resegmentation leaves no voxel of the ROI", code=Code.ROI_EMPTY)
    # an open end is recorded as the ROI's own extreme: the same voxels stay, and JSON knows no infinity
    limits = max(low, float(values.min())), min(high, float(values.max()))
    return {"limits": limits, "n_kept": (float(kept.sum()),), "n_roi": (float(kept.size),)}


def resegment(step: config.Resegment, case: Case, images: Sequence[str], learned: Learned) -> Case:
    kept = case.measured_roi
    for name in images:
        low, high = learned[name]["limits"]
        kept = intensity.resegment(case.images[name], kept, lower=low, upper=high)
    if not kept.array.any():
        raise CaseError(case.case_id, "resegmentation leaves no voxel of the ROI", code=Code.ROI_EMPTY)
    return replace(case, intensity_roi=kept)


# Checks that change nothing


def check_range(step: config.CheckRange, case: Case, image: Volume) -> Found:
    array = floats(image)
    inside = array[case.mask()]
    low, high = float(inside.min()), float(inside.max())
    if low < step.lower or high > step.upper:
        reason = f"intensities of the ROI run from {low:g} to {high:g}, expected {step.lower:g} to {step.upper:g}"
        raise CaseError(case.case_id, reason, code=Code.INTENSITY_OUT_OF_RANGE)
    beyond = float(((array < step.lower) | (array > step.upper)).mean())
    if beyond > step.tolerated_share:
        reason = f"{beyond:.1%} of the voxels lie outside {step.lower:g} to {step.upper:g}, as after 16-bit overflow"
        raise CaseError(case.case_id, reason, code=Code.INTENSITY_OUT_OF_RANGE)
    return {"roi_range": (low, high), "share_beyond": (beyond,)}


def check_suv(step: config.SuvCheck, case: Case, image: Volume) -> Found:
    low, high = float(floats(image).min()), float(floats(image).max())
    if low < 0:
        raise CaseError(
            case.case_id, f"lowest intensity {low:g}: SUV is not negative", code=Code.INTENSITY_OUT_OF_RANGE
        )
    if not step.minimum_of_maximum <= high <= step.maximum:
        expected = f"a maximum of {step.minimum_of_maximum:g} to {step.maximum:g} for SUV"
        raise CaseError(
            case.case_id, f"largest intensity {high:g}, expected {expected}", code=Code.INTENSITY_OUT_OF_RANGE
        )
    return {"range": (low, high)}
