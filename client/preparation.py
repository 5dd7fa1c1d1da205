"""From a row of the manifest to a prepared case: read, check, harmonise, extract, cut the patch.

The rows of other tables that the study asks about (`common.messages.Prepare.table`) are measured here too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from client.imaging import Case, apply
from client.imaging.landmarks import landmark_row
from client.imaging.patch import patch_pair
from client.ingest.manifest import CaseRow
from client.ingest.nifti import read_roi, read_volume
from client.radiomics.settings import preset
from common.config.imaging import CheckRegistration
from common.config.study import ImageConfig, PatchConfig, RadiomicsConfig, StudyConfig
from common.errors import CaseError, Code
from common.messages import TRAINING
from common.version import versions
from common.volume import grid_difference

PERTURBATIONS = {"rotations_deg", "translations", "noise_repetitions", "volume_changes"}
"""What of ``[robustness]`` shapes a measurement; the rest decides about it afterwards."""


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """What the study needs of one case.

    Parameters
    ----------
    features : ndarray of float64, shape (n_features,)
        In the order of `study_feature_names`.
    patch : ndarray of float32, shape (C, D, H, W), or None
    steps : tuple of str
        What was applied to each image, as JSON, for the site's quality report.
    """

    case_id: str
    features: npt.NDArray[np.float64]
    patch: npt.NDArray[np.float32] | None
    steps: tuple[str, ...]


def study_feature_names(study: StudyConfig) -> tuple[str, ...]:
    """Names of the radiomics columns, the same at every site: ``image_feature``."""
    return tuple(name for entry in study.radiomics for name in table_names(study, entry.image))


def table_names(study: StudyConfig, image: str) -> tuple[str, ...]:
    """Names of the radiomics columns of one image."""
    entries = [entry for entry in study.radiomics if entry.image == image]
    if not entries:
        return ()
    from client.radiomics.columns import feature_names  # here: loaded by studies that have features, as all below

    return tuple(f"{image}_{name}" for entry in entries for name in feature_names(preset(entry.preset)))


def settings_digest(study: StudyConfig, table: str = TRAINING) -> str:
    """SHA-256 of everything but the files that shapes a prepared case: the study's settings, and what computes."""
    content: dict[str, Any] = {
        "versions": versions(),
        "images": [image.model_dump(mode="json") for image in study.images],
        "radiomics": [[entry.image, preset(entry.preset).model_dump(mode="json")] for entry in study.radiomics],
        "patch": study.patch.model_dump(mode="json") if study.patch else None,
    }
    if table != TRAINING:
        robustness = study.robustness.model_dump(mode="json", include=PERTURBATIONS) if study.robustness else None
        content |= {"table": table, "seed": study.seed, "perturbations": robustness}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def prepare_case(row: CaseRow, study: StudyConfig) -> PreparedCase:
    """Read, check, harmonise and measure one case.

    Raises
    ------
    CaseError
        If anything about the case is not as it should be.
    """
    cases = {image.name: _harmonised(row, image) for image in study.images}
    return PreparedCase(
        case_id=row.case_id,
        features=_features(cases, study.radiomics),
        patch=_patch(cases, study.patch) if study.patch else None,
        steps=tuple(step.to_json() for case in cases.values() for step in case.steps),
    )


def prepare_row(row: CaseRow, study: StudyConfig, table: str) -> PreparedCase:
    """What a table needs of one case, in the place of features: percentiles, or features under each perturbation.

    Parameters
    ----------
    table : str
        One that the study has (`client.side_tables.require_table`).

    Raises
    ------
    CaseError
        As `prepare_case`; also where one of the repeats cannot be measured.
    """
    if table == TRAINING:
        return prepare_case(row, study)
    kind, _, name = table.partition(".")
    image = next(image for image in study.images if image.name == name)
    if kind == "landmarks":
        found = landmark_row(read_image(row, image), image.steps, image=name)
        return PreparedCase(row.case_id, found, None, ())
    return PreparedCase(row.case_id, _repeats(_harmonised(row, image), study, name), None, ())


def _repeats(case: Case, study: StudyConfig, image: str) -> npt.NDArray[np.float64]:
    """Features under every perturbation, one after the other: (n_repeats * n_features,)."""
    from client.radiomics.robustness import measure

    assert study.robustness is not None  # there is no such table otherwise
    settings = preset(next(entry.preset for entry in study.radiomics if entry.image == image))
    config, seed = study.robustness, study.seed
    return measure(case.images[image], case.roi, settings, config, seed=seed, case_id=case.case_id).ravel()


def _harmonised(row: CaseRow, image: ImageConfig) -> Case:
    """One image and its ROI after the study's steps."""
    case = read_image(row, image)
    for step in image.steps:
        case = apply(step, case, images=[image.name])
    case.mask()
    return case


def read_image(row: CaseRow, image: ImageConfig) -> Case:
    """One image and its ROI, with the image that it is registered with, where there is one."""
    references = [step.reference for step in image.steps if isinstance(step, CheckRegistration)]
    volumes = {
        name: read_volume(row.images[name].image, case_id=row.case_id)
        for name in {image.name: None, **dict.fromkeys(references)}
    }
    roi = read_roi(row.images[image.name].roi, label=image.roi_label, case_id=row.case_id)
    # an image that is still to be registered brings the ROI of the one that it is registered with
    drawn_on = references[0] if references else image.name
    difference = grid_difference(volumes[drawn_on], roi)
    if difference:
        raise CaseError(row.case_id, f"{image.name}: the ROI's grid has {difference}", code=Code.GRID_MISMATCH)
    return Case(case_id=row.case_id, images=volumes, roi=roi)


def _features(cases: Mapping[str, Case], entries: Sequence[RadiomicsConfig]) -> npt.NDArray[np.float64]:
    if not entries:
        return np.zeros(0)
    from client.radiomics.extractor import extract

    values: list[float] = []
    for entry in entries:
        case = cases[entry.image]
        found = extract(case.images[entry.image], case.roi, preset(entry.preset), case_id=case.case_id)
        values += [feature.value for feature in found]
    return np.asarray(values, dtype=np.float64)


def _patch(cases: Mapping[str, Case], config: PatchConfig) -> npt.NDArray[np.float32]:
    spacing, shape = config.spacing_mm[::-1], config.shape[::-1]
    pairs = [patch_pair(cases[n].images[n], cases[n].roi, spacing_mm=spacing, shape=shape) for n in config.images]
    channels = [_intensity(intensities, config) for intensities, _ in pairs]
    return np.stack([*channels, pairs[0][1]])


def _intensity(patch: npt.NDArray[np.float32], config: PatchConfig) -> npt.NDArray[np.float32]:
    if config.window is not None:
        low, high = config.window
        scaled: npt.NDArray[np.float32] = ((np.clip(patch, low, high) - low) / (high - low)).astype(np.float32)
        return scaled
    spread = float(patch.std())
    scored: npt.NDArray[np.float32] = ((patch - patch.mean()) / (spread if spread > 0 else 1.0)).astype(np.float32)
    return scored
