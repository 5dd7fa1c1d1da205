"""What each error code means and what to do about it: one text for the report, the command line and docs/errors.md.

A code is all that leaves a site, so these sentences are all that a coordinator can read about a failure elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import Code


@dataclass(frozen=True)
class Explanation:
    """A code in plain words: ``meaning`` for the reader of a report, ``remedy`` for the person who can act."""

    meaning: str
    remedy: str


EXPLANATIONS: Mapping[Code, Explanation] = {
    Code.FILE_MISSING: Explanation(
        "An image or ROI file of the case does not exist.",
        "Check the paths of the manifest, or the patterns of the study file, against the site's data folder.",
    ),
    Code.FILE_UNREADABLE: Explanation(
        "A file exists but cannot be read: damaged, cut short, or of another format.",
        "Export the file again; the site's log names it and says what the reader found.",
    ),
    Code.GRID_MISMATCH: Explanation(
        "Image and ROI lie on different voxel grids.",
        "Export the ROI on the image's grid; a contour drawn on another series has to be resampled on purpose.",
    ),
    Code.ROI_EMPTY: Explanation("The ROI marks no voxel.", "Draw the ROI, or leave the case out of the manifest."),
    Code.ROI_LABEL_ABSENT: Explanation(
        "The ROI file has voxels, but none with the label that the study asks for.",
        "Compare the label in the file with roi_label in the study file.",
    ),
    Code.ROI_TOO_SMALL: Explanation(
        "The ROI is smaller than the study's grid or features can measure.",
        "Check the ROI; a lesion below a voxel of the study's grid cannot take part.",
    ),
    Code.VOXELS_NOT_FINITE: Explanation(
        "The image holds voxels that are not a number, or infinite.",
        "Repeat the conversion that made the file; such voxels are never guessed.",
    ),
    Code.INTENSITY_CONSTANT: Explanation(
        "All intensities are equal where the study measures their spread, so they cannot be standardised.",
        "Look at the image: an empty acquisition, a mask given as the image, or a body that was not found.",
    ),
    Code.INTENSITY_OUT_OF_RANGE: Explanation(
        "Intensities lie outside what the modality allows.",
        "Check units and conversion: Hounsfield units without the rescale, PET without SUV, a 16-bit overflow.",
    ),
    Code.NOT_3D: Explanation(
        "The image is not a single volume: it has two or four dimensions, or several values a voxel.",
        "Choose one volume of the series and write it as a file of its own.",
    ),
    Code.ONE_SLICE: Explanation("The image has a single slice.", "Export the whole series, not its key image."),
    Code.CASE_DUPLICATE: Explanation(
        "The manifest lists the case twice; the first line was used.", "Remove the second line."
    ),
    Code.SITE_UNKNOWN: Explanation(
        "The case, or the hospital, belongs to no site of the study.",
        "Compare the site names of the manifest and of site.toml with those of the study file.",
    ),
    Code.OUTCOME_MISSING: Explanation(
        "The outcome of the case is not known.", "Complete the manifest; a case without outcome cannot take part."
    ),
    Code.OUTCOME_INVALID: Explanation(
        "The outcome is none of the values that the study allows.",
        "Compare the outcome column with the values of the study file.",
    ),
    Code.CLINICAL_MISSING: Explanation(
        "A clinical value is missing and the study does not fill it in.",
        'Complete the manifest, or agree on missing = "impute" for this column.',
    ),
    Code.CLINICAL_INVALID: Explanation(
        "A clinical value is no number, out of its plausible range, or not in the study's list.",
        "Check the cell; the site's log names case, column and value.",
    ),
    Code.COLUMN_MISSING: Explanation(
        "The manifest lacks a column that the study needs, or the case's id is empty.",
        "Add the column under the name that the study file gives.",
    ),
    Code.FEATURE_UNDEFINED: Explanation(
        "A radiomic feature has no value for this case.",
        "Usually a tiny or uniform ROI; the site's log names the feature.",
    ),
    Code.CASE_INVALID: Explanation(
        "The case breaks another rule of the study.", "The site's log says which rule, what was found and expected."
    ),
    Code.CONFIG: Explanation(
        "A study file, site file or manifest has faults.", "All faults are listed at once where it was read."
    ),
    Code.STATISTIC: Explanation(
        "A statistic is undefined on these data.",
        "Too few cases, or columns without variation; the site's log names the statistic.",
    ),
    Code.METRIC: Explanation(
        "A measure of evaluation is undefined on these data, for example with a single class.",
        "More test cases, or fewer folds.",
    ),
    Code.PRIVACY: Explanation(
        "The request would break a privacy promise; nothing was computed.", "Compare the study's privacy settings."
    ),
    Code.GATE: Explanation("The hospital's own rules refuse the request.", "Ask the hospital; its log names the rule."),
    Code.GATE_LIMIT: Explanation(
        "The hospital answers no further questions of this kind: its limit for the study is reached.",
        "Ask the hospital; its log names the limit, which [gate] in its site.toml sets.",
    ),
    Code.SITE_STOPPED: Explanation(
        "The hospital stopped taking part for now; nothing leaves it until it resumes.",
        "Ask the hospital why; a study goes on with --resume after fedrad site resume.",
    ),
    Code.SMALL_CELL: Explanation(
        "The answer would rest on fewer cases than the hospital's minimum, so it was not given.",
        "More cases, fewer folds, or a lower minimum where the hospital agrees.",
    ),
    Code.BUDGET_EXCEEDED: Explanation(
        "The training would cost more than is left of the hospital's privacy budget; nothing was computed.",
        "Fewer rounds, more noise, or a larger budget in site.toml where the hospital agrees.",
    ),
    Code.STUDY_NOT_APPROVED: Explanation(
        "The hospital has not approved exactly this study file.",
        "Send the hospital the file; it approves its copy with fedrad site approve.",
    ),
    Code.BUNDLE_NOT_ALLOWED: Explanation(
        "The Flower bundle that came with the run is not on the hospital's list; nothing of it was run.",
        "Send the hospital the bundle; it puts what fedrad site bundle-hash prints into allowed_bundles.",
    ),
    Code.VERSION_MISMATCH: Explanation(
        "The hospital computes with other versions of the software that changes numbers.",
        "Install the versions of the coordinator; both logs list what differs.",
    ),
    Code.MESSAGE: Explanation(
        "What arrived was not a valid message of this version.", "Compare versions at both ends; nothing was used."
    ),
    Code.FEDERATION: Explanation(
        "The exchange between coordinator and hospital failed.", "See the log of the side that reports it."
    ),
    Code.SITE_SILENT: Explanation(
        "The hospital did not answer before the deadline.",
        "Check that its node runs and reaches the coordinator; a study that stopped goes on with --resume.",
    ),
    Code.BASE_ABSENT: Explanation(
        "The hospital no longer held the model that a compressed round started from; it was sent the model whole.",
        "Nothing: this follows a restart of its node, and costs one whole model on the network.",
    ),
    Code.STATE: Explanation(
        "A file that fedrad keeps (checkpoint, cache) is damaged or belongs to another study.",
        "Remove the file named in the log, or use another folder.",
    ),
    Code.INTERNAL: Explanation(
        "Something failed that was not foreseen; only this code left the hospital.",
        "The site's log holds the whole message; please report it without patient data.",
    ),
}


def explain(code: str) -> Explanation:
    """The explanation of a code that arrived; one that this version does not know says so."""
    try:
        return EXPLANATIONS[Code(code)]
    except ValueError:
        return Explanation("A code that this version of fedrad does not know.", "Compare the versions of both sides.")
