"""From the rows of a manifest to what the report keeps of them, image by image as a study will read them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path

from client.imaging import Case, apply
from client.imaging.geometry import on_grid_of
from client.imaging.landmarks import waiting_step
from client.ingest.manifest import CaseRow, ImagePaths, Manifest
from client.ingest.nifti import read_roi, read_volume
from client.quality.findings import Finding
from client.quality.measure import CaseQuality, ImageQuality, image_quality
from client.quality.report import write_quality_report
from common.config.study import ImageConfig, StudyConfig
from common.errors import CaseError, Code


def report_site(
    manifest: Manifest, study: StudyConfig, out: Path, *, title: str, processes: int, on_case: Callable[[], None]
) -> tuple[Finding, ...]:
    """Read every case of a manifest and write the report; those that cannot be used are counted by their code.

    Parameters
    ----------
    on_case : callable
        Called after each row, for a progress bar.
    """
    cases: list[CaseQuality] = []
    faults = list(manifest.faults)
    with _pool(processes) as pool:
        futures = {pool.submit(_survey, row, study): row.case_id for row in manifest.rows}
        for future in as_completed(futures):
            outcome = future.result()
            if isinstance(outcome, CaseQuality):
                cases.append(outcome)
            else:
                faults.append(CaseError(futures[future], outcome[1], code=outcome[0]))
            on_case()
    return write_quality_report(cases, faults, out, title=title)


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


def _survey(row: CaseRow, study: StudyConfig) -> CaseQuality | tuple[Code, str]:
    """An error comes back as code and reason: exceptions do not cross processes."""
    try:
        return survey_case(row, study)
    except CaseError as error:
        return error.code, error.reason


def _survey_image(case_id: str, paths: ImagePaths, image: ImageConfig) -> ImageQuality:
    volume = read_volume(paths.image, case_id=case_id)
    roi = read_roi(paths.roi, label=image.roi_label, case_id=case_id)
    roi = on_grid_of(volume, roi, case_id=case_id, name=f"{image.name}'s ROI")
    before = after = Case(case_id=case_id, images={image.name: volume}, roi=roi)
    for step in image.steps[: waiting_step(image.steps)]:
        after = apply(step, after)
    return image_quality(before, after if after.steps else None, image=image.name)


def _pool(processes: int) -> Executor:
    if processes == 1:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("forkserver"))
