"""From a row of the manifest to what the report keeps of it, image by image as a study will read them."""

from __future__ import annotations

from client.imaging import Case, apply
from client.imaging.geometry import on_grid_of
from client.imaging.landmarks import waiting_step
from client.ingest.manifest import CaseRow, ImagePaths
from client.ingest.nifti import read_roi, read_volume
from client.quality.measure import CaseQuality, ImageQuality, image_quality
from common.config.study import ImageConfig, StudyConfig


def survey_case(row: CaseRow, study: StudyConfig) -> CaseQuality:
    """Read, harmonise and measure one case.

    A ``nyul`` step whose landmarks are still to be learned is left out, with the steps after it.

    Raises
    ------
    CaseError
        If anything about the case is not as the study needs it.
    """
    images = {image.name: _survey_image(row.case_id, row.images[image.name], image) for image in study.images}
    return CaseQuality(row.case_id, images, row.clinical)


def _survey_image(case_id: str, paths: ImagePaths, image: ImageConfig) -> ImageQuality:
    volume = read_volume(paths.image, case_id=case_id)
    roi = read_roi(paths.roi, label=image.roi_label, case_id=case_id)
    roi = on_grid_of(volume, roi, case_id=case_id, name=f"{image.name}'s ROI")
    before = after = Case(case_id=case_id, images={image.name: volume}, roi=roi)
    for step in image.steps[: waiting_step(image.steps)]:
        after = apply(step, after)
    return image_quality(before, after if after.steps else None, image=image.name)
