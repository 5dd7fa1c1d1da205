"""From an image and an ROI to feature values, by a preset.

`extract` checks the pair, brings it to the study's grid, discretises and calls the calculators; `feature_names` says
before any extraction what it will give. Each failure is a `CaseError` with a code: no value is ever NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # ships no types

from client.radiomics import filters, intensity, morphology, preparation, pyradiomics_definitions, spatial, textures
from client.radiomics.columns import ORIGINAL, FeatureValue, descriptions, feature_names
from client.radiomics.discretise import (
    GreyLevels,
    TooManyLevelsError,
    fixed_bin_number,
    fixed_bin_size,
    grey_levels,
    pyradiomics_bin_count,
    pyradiomics_bin_width,
)
from client.radiomics.preparation import Prepared
from client.radiomics.settings import AsIs, BinCount, BinWidth, Discretisation, RadiomicsSettings
from client.radiomics.volume_histogram import volume_histogram_features
from common.errors import CaseError, Code
from common.volume import Volume

Vector = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]

__all__ = ["FeatureValue", "extract", "feature_names"]


def extract(image: Volume, roi: Volume, settings: RadiomicsSettings, *, case_id: str) -> tuple[FeatureValue, ...]:
    """All features of a preset, in the order of `feature_names`.

    Parameters
    ----------
    image : Volume
        Intensities (D, H, W). Real numbers of any kind; integers are taken exactly.
    roi : Volume
        bool, on the grid of the image.
    case_id : str
        For messages only.

    Raises
    ------
    CaseError
        ``GRID_MISMATCH``, ``ROI_EMPTY``, ``ROI_TOO_SMALL``, ``ONE_SLICE``, ``VOXELS_NOT_FINITE``,
        ``INTENSITY_CONSTANT``, ``INTENSITY_OUT_OF_RANGE``, ``FEATURE_UNDEFINED``.
    """
    with _blas().limit(limits=1, user_api="blas"):
        values = _values(image, roi, settings, case_id=case_id)
    entries = tuple(replace(entry, value=float(values[entry.column])) for entry in descriptions(settings))
    undefined = [entry.column for entry in entries if not np.isfinite(entry.value)]
    if undefined:
        shown = ", ".join(undefined[:5]) + (" ..." if len(undefined) > 5 else "")
        raise CaseError(case_id, f"{len(undefined)} features are undefined: {shown}", code=Code.FEATURE_UNDEFINED)
    return entries


@cache
def _blas() -> ThreadpoolController:
    """Held at one thread: the matrices here are small, and more threads would only wait for each other."""
    return ThreadpoolController()


def _values(image: Volume, roi: Volume, settings: RadiomicsSettings, *, case_id: str) -> dict[str, float]:
    """Values by column."""
    prepared = preparation.prepare(image, roi, settings, case_id=case_id)
    values: dict[str, float] = {}
    try:
        if settings.definitions == "pyradiomics":
            _pyradiomics(values, prepared, settings)
        else:
            _ibsi(values, prepared, settings)
    except (TooManyLevelsError, filters.FilterError) as error:
        raise CaseError(case_id, str(error), code=Code.FEATURE_UNDEFINED) from error
    return values


def _pyradiomics(values: dict[str, float], prepared: Prepared, settings: RadiomicsSettings) -> None:
    groups = [group for group in settings.groups if group != "morph"]
    if "morph" in settings.groups:
        shape = morphology.pyradiomics_shape(prepared.roi, spacing_mm=prepared.spacing_mm)
        values |= {f"{ORIGINAL}_shape_{name}": value for name, value in shape.items()}
    volume = float(np.prod(prepared.spacing_mm))
    for name, box in _images(prepared, settings):
        found = box[prepared.intensity_roi]
        rule = settings.discretisation if name == ORIGINAL else settings.filtered_discretisation
        grey = grey_levels(prepared.intensity_roi, _pyradiomics_bins(found, rule))
        features: dict[str, float] = {}
        if "stat" in groups:
            features |= pyradiomics_definitions.first_order(found.astype(np.float64), grey, voxel_volume_mm3=volume)
        features |= pyradiomics_definitions.textures(grey, groups=groups)
        values |= {f"{name}_{feature}": value for feature, value in features.items()}


def _pyradiomics_bins(values: Floats, rule: Discretisation | None) -> npt.NDArray[np.int64]:
    match rule:
        case BinWidth():
            return pyradiomics_bin_width(values, bin_width=rule.bin_width)
        case BinCount():
            return pyradiomics_bin_count(values, bin_count=rule.bin_count)
        case _:
            return np.rint(values).astype(np.int64)


def _ibsi(values: dict[str, float], prepared: Prepared, settings: RadiomicsSettings) -> None:
    for name, box in _images(prepared, settings):
        found = box[prepared.intensity_roi].astype(np.float64)
        original = name == ORIGINAL
        rule = settings.discretisation if original else settings.filtered_discretisation
        assert rule is not None  # the settings refuse filters without it
        bins, n_grey = _ibsi_bins(found, rule, settings, filtered=not original)
        part = _ibsi_values(found, bins, n_grey, prepared, settings)
        if original:
            part |= _ibsi_original(found, prepared, settings)
        values |= part if original else {f"{name}_{tag}": value for tag, value in part.items()}


def _ibsi_values(
    found: Vector, bins: npt.NDArray[np.int64], n_grey: int, prepared: Prepared, settings: RadiomicsSettings
) -> dict[str, float]:
    """What is computed of the original and of every filtered image: statistics, histogram, textures."""
    values: dict[str, float] = {}
    if "stat" in settings.groups:
        values |= {f"stat_{name}": value for name, value in intensity.intensity_statistics(found).items()}
    if "ih" in settings.groups:
        values |= {f"ih_{name}": value for name, value in intensity.histogram_features(bins, n_grey=n_grey).items()}
    families = [family for family in textures.FAMILY_FEATURES if family in settings.groups]
    if families:
        grey: GreyLevels = grey_levels(prepared.intensity_roi, bins, n_grey=n_grey)
        values |= textures.texture_features(
            grey, families=families, aggregations=settings.aggregations, morphological_roi=prepared.roi
        )
    return values


def _ibsi_original(found: Vector, prepared: Prepared, settings: RadiomicsSettings) -> dict[str, float]:
    """What only the original image has: form, spatial autocorrelation, local peaks, volume histogram."""
    values: dict[str, float] = {}
    if "morph" in settings.groups:
        form = morphology.morphological_features(
            prepared.roi, spacing_mm=prepared.spacing_mm, intensity_roi=prepared.intensity_roi, intensities=found
        )
        values |= {f"morph_{name}": value for name, value in form.items()}
    if "spatial" in settings.groups:
        pair = spatial.moran_geary(prepared.intensity_roi, found, spacing_mm=prepared.spacing_mm)
        values["morph_moran_i"], values["morph_geary_c"] = pair
    if "loc" in settings.groups:
        around, roi = prepared.neighbourhood(spatial.PEAK_RADIUS_MM)
        local, largest = spatial.local_peaks(around, roi, spacing_mm=prepared.spacing_mm)
        values |= {"loc_peak_loc": local, "loc_peak_glob": largest}
    if "ivh" in settings.groups:
        values |= {f"ivh_{name}": value for name, value in _volume_histogram(found, settings).items()}
    return values


def _ibsi_bins(
    found: Vector, rule: Discretisation, settings: RadiomicsSettings, *, filtered: bool
) -> tuple[npt.NDArray[np.int64], int]:
    match rule:
        case BinWidth():
            lowest = _lowest(found, rule, settings, filtered=filtered)
            bins = fixed_bin_size(found, bin_width=rule.bin_width, lowest=lowest)
            return bins, int(bins.max())
        case BinCount():
            return fixed_bin_number(found, bin_count=rule.bin_count), rule.bin_count
        case AsIs():
            bins = np.rint(found).astype(np.int64)
            return bins, int(bins.max())


def _lowest(found: Vector, rule: BinWidth, settings: RadiomicsSettings, *, filtered: bool) -> float:
    if rule.lowest is not None:
        return rule.lowest
    if not filtered and settings.resegmentation is not None and settings.resegmentation.lower is not None:
        return settings.resegmentation.lower
    return float(found.min())


def _volume_histogram(found: Vector, settings: RadiomicsSettings) -> dict[str, float]:
    """The intensity-volume histogram over the resegmentation range, or over the ROI's own range."""
    rule = settings.volume_histogram
    limits = settings.resegmentation
    lowest = limits.lower if limits and limits.lower is not None else float(found.min())
    highest = limits.upper if limits and limits.upper is not None else float(found.max())
    match rule:
        case BinWidth():
            start = _lowest(found, rule, settings, filtered=False)
            bins = fixed_bin_size(found, bin_width=rule.bin_width, lowest=start)
            centres = (start + (bins - 0.5) * rule.bin_width).astype(np.float64)
            return volume_histogram_features(
                centres, lowest=start + rule.bin_width / 2, highest=highest, step=rule.bin_width
            )
        case BinCount():
            numbers = fixed_bin_number(found, bin_count=rule.bin_count).astype(np.float64)
            return volume_histogram_features(numbers, lowest=1.0, highest=float(rule.bin_count), step=1.0)
        case _:
            step = 1.0 if settings.round_intensities else 0.0
            return volume_histogram_features(found, lowest=lowest, highest=highest, step=step)


def _images(prepared: Prepared, settings: RadiomicsSettings) -> Iterator[tuple[str, Floats]]:
    """Name and box of the original and of each filtered image."""
    yield ORIGINAL, prepared.intensities
    for chosen in settings.filters:
        yield from filters.filtered_images(prepared.scene, chosen)
