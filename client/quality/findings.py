"""What a reader should look at first: cases that stand out, and what is given twice or not at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from client.quality.measure import CaseQuality, ImageQuality

Level = Literal["warning", "note"]

OUTLIER_SCORE = 3.5
"""Modified z-score of an outlier (Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers")."""

FEWEST_FOR_OUTLIERS = 6

RELATIVE_SPREAD = 0.01
"""Cases that agree to this share count as spread by it."""

TILT_NOTE_DEG = 1.0
SMALL_ROI_VOXELS = 64
"""Texture features of smaller ROIs say little: some grey-level pairs occur once."""

PILE_SHARE = 0.02
"""More of the body at one extreme intensity than this looks clipped."""

NORMAL_MAD = 0.6744897501960817


@dataclass(frozen=True)
class Finding:
    """One line of the report: which cases (by number, from 1), of which image, and what about them."""

    level: Level
    cases: tuple[int, ...]
    image: str
    text: str


@dataclass(frozen=True)
class Measured:
    """A quantity in which cases are compared; ``log`` where ratios matter, not differences."""

    name: str
    of: Callable[[ImageQuality], float]
    log: bool = False


QUANTITIES = (
    Measured("ROI volume (ml)", lambda q: q.roi.volume_ml, log=True),
    Measured("median intensity of the body", lambda q: q.percentiles[2]),
    Measured("95th percentile of the body", lambda q: q.percentiles[3]),
    Measured("mean intensity in the ROI", lambda q: q.roi.mean),
    Measured("standard deviation in the ROI", lambda q: q.roi.std),
)


def find(cases: Sequence[CaseQuality]) -> tuple[Finding, ...]:
    """All findings over the cases, numbered from 1 in their order; warnings first."""
    found: list[Finding] = []
    for image in _image_names(cases):
        numbered = {i: case.images[image] for i, case in enumerate(cases, start=1) if image in case.images}
        found += [*_duplicates(image, numbered), *_geometry(image, numbered), *_rois(image, numbered)]
        found += _outliers(image, numbered)
    return tuple(sorted(found, key=lambda finding: finding.level != "warning"))


def modified_z(values: npt.NDArray[np.float64], *, smallest_spread: float) -> npt.NDArray[np.float64]:
    """Distance to the median over the median distance, in standard deviations of a normal sample (n_values,).

    A median distance below ``smallest_spread`` counts as that: where nearly all cases agree to the last digit, a
    difference in that digit is no outlier.
    """
    distance = values - np.median(values)
    spread = max(float(np.median(np.abs(distance))), smallest_spread)
    return NORMAL_MAD * distance / spread if spread > 0 else np.zeros_like(values)


def missing_clinical(cases: Sequence[CaseQuality]) -> dict[str, tuple[int, ...]]:
    """Clinical column -> numbers of the cases that lack it; every column is there."""
    columns = {column: None for case in cases for column in case.clinical}
    return {
        column: tuple(i for i, case in enumerate(cases, start=1) if np.isnan(case.clinical.get(column, np.nan)))
        for column in columns
    }


def _image_names(cases: Sequence[CaseQuality]) -> tuple[str, ...]:
    return tuple({name: None for case in cases for name in case.images})


def _duplicates(image: str, numbered: Mapping[int, ImageQuality]) -> list[Finding]:
    groups: dict[str, list[int]] = defaultdict(list)
    for i, quality in numbered.items():
        groups[quality.digest].append(i)
    return [
        Finding("warning", tuple(same), image, "the same voxels: one image is given for several cases")
        for same in groups.values()
        if len(same) > 1
    ]


def _geometry(image: str, numbered: Mapping[int, ImageQuality]) -> list[Finding]:
    def where(test: Callable[[ImageQuality], bool]) -> tuple[int, ...]:
        return tuple(i for i, quality in numbered.items() if test(quality))

    found = _minorities(image, numbered, lambda q: f"{q.geometry.plane} stack")
    found += _minorities(image, numbered, lambda q: f"spacing {spacing_text(q)} mm")
    tilted, mirrored = where(lambda q: q.geometry.tilt_deg > TILT_NOTE_DEG), where(lambda q: q.geometry.left_handed)
    if tilted:
        found.append(Finding("note", tilted, image, f"oblique: tilted by more than {TILT_NOTE_DEG:g} degree"))
    if mirrored:
        found.append(Finding("note", mirrored, image, "left-handed grid; places are right, voxel order is mirrored"))
    piled = where(lambda q: q.share_at_extremes > PILE_SHARE)
    if piled:
        text = f"more than {PILE_SHARE:.0%} of the body at one extreme intensity: clipped or overflowed?"
        found.append(Finding("warning", piled, image, text))
    return found


def spacing_text(quality: ImageQuality) -> str:
    """Spacing in x, y, z, to the digits that protocols differ in."""
    return " x ".join(f"{s:.3g}" for s in quality.geometry.spacing_mm)


def _minorities(
    image: str, numbered: Mapping[int, ImageQuality], group_of: Callable[[ImageQuality], str]
) -> list[Finding]:
    """A note for each group but the largest, so that a second protocol or scanner shows."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, quality in numbered.items():
        groups[group_of(quality)].append(i)
    usual = max(groups, key=lambda group: len(groups[group]))
    return [
        Finding("note", tuple(members), image, f"{group}; {len(groups[usual])} cases have {usual}")
        for group, members in groups.items()
        if group != usual
    ]


def _rois(image: str, numbered: Mapping[int, ImageQuality]) -> list[Finding]:
    checks: tuple[tuple[Level, Callable[[ImageQuality], bool], str], ...] = (
        ("warning", lambda q: q.roi.n_voxels < SMALL_ROI_VOXELS, f"ROI of fewer than {SMALL_ROI_VOXELS} voxels"),
        ("warning", lambda q: q.roi.n_slices == 1, "ROI in one slice only"),
        ("warning", lambda q: q.roi.std == 0, "all intensities in the ROI are equal"),
        ("note", lambda q: q.roi.n_parts > 1, "ROI of several parts"),
        ("note", lambda q: q.roi.n_holes > 0, "ROI with enclosed holes"),
        ("note", lambda q: q.roi.touches_border, "ROI touches the border of the image"),
    )
    found = []
    for level, test, text in checks:
        hit = tuple(i for i, quality in numbered.items() if test(quality))
        if hit:
            found.append(Finding(level, hit, image, text))
    return found


def _outliers(image: str, numbered: Mapping[int, ImageQuality]) -> list[Finding]:
    if len(numbered) < FEWEST_FOR_OUTLIERS:
        return []
    found = []
    for quantity in QUANTITIES:
        values = np.array([quantity.of(quality) for quality in numbered.values()])
        if quantity.log:
            scores = modified_z(np.log(values), smallest_spread=RELATIVE_SPREAD)
        else:
            scores = modified_z(values, smallest_spread=RELATIVE_SPREAD * abs(float(np.median(values))))
        for i, value, score in zip(numbered, values, scores, strict=True):
            if abs(score) > OUTLIER_SCORE:
                text = f"{quantity.name} is {value:.4g}, median {np.median(values):.4g} (score {score:+.1f})"
                found.append(Finding("warning", (i,), image, text))
    return found
