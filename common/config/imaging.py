"""The steps that turn a site's image into one of the study: their configuration only.

A closed, tagged union: a study file names steps by ``kind``, never code. What each does stands in ``client/imaging``
(the coordinator never touches an image); a test fails where a step has no implementation.

Spacings and margins are in x, y, z order, as in DICOM and NIfTI. Intensities are in the image's own unit (HU, SUV, none
for MR).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from common.config.loading import Frozen, refuse, require

Interpolation = Literal["nearest", "linear", "cubic"]
Over = Literal["image", "body", "roi"]
Share = Annotated[float, Field(gt=0, le=1)]

NYUL_PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
"""The landmarks of Nyul, Udupa and Zhang 2000 (doi 10.1109/42.836373): deciles between the two ends."""


class ToLps(Frozen):
    """Turn and flip whole axes so that they run as near as may be to the patient's left, back and head."""

    kind: Literal["to_lps"] = "to_lps"


class CropToRoi(Frozen):
    """Keep the ROI's bounding box and ``margin_mm`` around it."""

    kind: Literal["crop_to_roi"] = "crop_to_roi"
    margin_mm: NonNegativeFloat


class Resample(Frozen):
    """Interpolate to the IBSI grid.

    Parameters
    ----------
    spacing_mm : tuple of 3
        New spacing in x, y, z; 0 keeps that axis.
    interpolation : str
        Of the intensities; the ROI is always interpolated linearly and cut at ``roi_threshold``.
    margin_mm : float, optional
        Compute only the ROI and this much around it: the same values, in less time and memory.
    """

    kind: Literal["resample"] = "resample"
    spacing_mm: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat]
    interpolation: Interpolation = "linear"
    roi_threshold: Share = 0.5
    margin_mm: NonNegativeFloat | None = None


class RoundHu(Frozen):
    """Round to integers: Hounsfield units are."""

    kind: Literal["round_hu"] = "round_hu"


class Window(Frozen):
    """Clip to ``lower`` .. ``upper`` and scale that to 0 .. 1."""

    kind: Literal["window"] = "window"
    lower: float
    upper: float

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        faults: list[str] = []
        require(self.lower < self.upper, f"lower {self.lower:g} must be below upper {self.upper:g}", faults)
        refuse(faults)
        return self


class Resegment(Frozen):
    """Take voxels out of the ROI whose intensity lies outside a range or far from the ROI's mean (IBSI 2.6)."""

    kind: Literal["resegment"] = "resegment"
    lower: float | None = None
    upper: float | None = None
    n_sigma: PositiveFloat | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Resegment:
        faults: list[str] = []
        given = [limit for limit in (self.lower, self.upper, self.n_sigma) if limit is not None]
        require(bool(given), "give lower, upper or n_sigma", faults)
        if self.lower is not None and self.upper is not None:
            require(self.lower < self.upper, f"lower {self.lower:g} must be below upper {self.upper:g}", faults)
        refuse(faults)
        return self


class ZScore(Frozen):
    """Mean 0 and standard deviation 1 over the whole image, the body or the ROI.

    Parameters
    ----------
    body_above : float, optional
        Intensity that body exceeds (-500 HU in CT); where it is not given, it is found on each image.
    """

    kind: Literal["zscore"] = "zscore"
    over: Over
    body_above: float | None = None


class N4(Frozen):
    """Divide by the smooth bias field that N4 finds in the body (Tustison et al. 2010, doi 10.1109/TMI.2010.2046908).

    Parameters
    ----------
    shrink_factor : int
        The field is sought on an image this much smaller and applied to the full one.
    iterations : tuple of int
        Most iterations at each of the levels, coarse to fine.
    """

    kind: Literal["n4"] = "n4"
    shrink_factor: Annotated[int, Field(ge=1, le=16)] = 4
    iterations: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=8)] = (50, 50, 50, 50)


class Nyul(Frozen):
    """Map the image's percentiles onto landmarks that the sites learned together (`common.statistics.nyul`).

    Parameters
    ----------
    landmarks : tuple of float, optional
        Intensities of the standard scale, one a percentile. A study file leaves them out: they are learned.
    body_above : float, optional
        As in `ZScore`.
    """

    kind: Literal["nyul"] = "nyul"
    over: Literal["body", "roi"] = "body"
    body_above: float | None = None
    percentiles: Annotated[tuple[float, ...], Field(min_length=2)] = NYUL_PERCENTILES
    landmarks: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _rising(self) -> Nyul:
        faults: list[str] = []
        require(_rises(self.percentiles), "percentiles must rise", faults)
        require(all(0 <= p <= 100 for p in self.percentiles), "percentiles must lie in 0 .. 100", faults)
        if self.landmarks is not None:
            require(len(self.landmarks) == len(self.percentiles), "give one landmark a percentile", faults)
            require(_rises(self.landmarks), "landmarks must rise", faults)
        refuse(faults)
        return self


class WhiteStripe(Frozen):
    """Z-score over the tissue around a peak of the body's histogram (after Shinohara et al. 2014,
    doi 10.1016/j.nicl.2014.08.008).

    Parameters
    ----------
    peak : str
        ``last`` is white matter in T1, ``highest`` the most frequent tissue.
    width : float
        Half width of the stripe, as a share of the body's voxels.
    """

    kind: Literal["white_stripe"] = "white_stripe"
    peak: Literal["last", "highest"] = "highest"
    width: Annotated[float, Field(gt=0, lt=0.5)] = 0.05


class CheckRange(Frozen):
    """Refuse an image with intensities that its modality cannot have, as 16-bit overflow leaves them.

    Parameters
    ----------
    lower, upper : float
        Plausible intensities; inside the ROI all voxels must keep to them.
    tolerated_share : float
        Share of the image's voxels outside the ROI that may lie beyond (metal, padding).
    """

    kind: Literal["check_range"] = "check_range"
    lower: float = -1100.0
    upper: float = 31743.0
    tolerated_share: Annotated[float, Field(ge=0, lt=1)] = 0.5


class SuvCheck(Frozen):
    """Refuse a PET image that is not in SUV: negative values, or a scale of counts or Bq/ml.

    Parameters
    ----------
    maximum : float
        No voxel may exceed it; Bq/ml are in the thousands.
    minimum_of_maximum : float
        The largest voxel must reach it: fractions of a maximum (0 .. 1) do not.
    """

    kind: Literal["suv_check"] = "suv_check"
    maximum: PositiveFloat = 500.0
    minimum_of_maximum: PositiveFloat = 1.0


class CheckRegistration(Frozen):
    """Require that the image lies on the grid of another image of the case, or bring it there.

    Parameters
    ----------
    reference : str
        Name of the other image.
    otherwise : str
        ``refuse`` a case on another grid; ``resample`` it where the world coordinates are trusted; ``rigid``: find a
        rigid transform by mutual information first.
    """

    kind: Literal["check_registration"] = "check_registration"
    reference: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    otherwise: Literal["refuse", "resample", "rigid"] = "refuse"


class Anisotropy(Frozen):
    """Decide whether a stack is read slice by slice (2D) or as a volume (3D).

    Parameters
    ----------
    maximum_ratio : float
        A stack whose largest spacing exceeds its smallest by more is read slice by slice.
    otherwise : str
        ``record`` the decision on the case, or ``refuse`` a stack that would be read slice by slice.
    """

    kind: Literal["anisotropy"] = "anisotropy"
    maximum_ratio: Annotated[float, Field(ge=1)] = 3.0
    otherwise: Literal["record", "refuse"] = "record"


ImagingStep = Annotated[
    ToLps
    | CropToRoi
    | Resample
    | RoundHu
    | Window
    | Resegment
    | ZScore
    | N4
    | Nyul
    | WhiteStripe
    | CheckRange
    | SuvCheck
    | CheckRegistration
    | Anisotropy,
    Field(discriminator="kind"),
]


Modality = Literal["CT", "MR", "PET"]

_ONLY_FOR: Mapping[str, tuple[Modality, ...]] = {
    "round_hu": ("CT",),
    "suv_check": ("PET",),
    "n4": ("MR",),
    "nyul": ("MR",),
    "white_stripe": ("MR",),
}
_RESCALING = ("window", "zscore", "nyul", "white_stripe")
"""After these, intensities are no longer in the image's unit."""


def step_faults(steps: Sequence[ImagingStep], *, modality: Modality) -> list[str]:
    """What is wrong with steps in this order for this modality, a sentence each; for the validator of a study file."""
    faults: list[str] = []
    rescaled_by = resegmented = ""
    for number, step in enumerate(steps, start=1):
        where = f"step {number} ({step.kind})"
        if modality not in _ONLY_FOR.get(step.kind, (modality,)):
            faults.append(f"{where}: is for {' and '.join(_ONLY_FOR[step.kind])}, this image is {modality}")
        if rescaled_by and step.kind in {"round_hu", "suv_check", "check_range", "n4"}:
            faults.append(f"{where}: comes after {rescaled_by}, which leaves other units")
        if resegmented and step.kind == "resample":
            faults.append(f"{where}: comes after resegment; IBSI resegments on the new grid")
        if step.kind in _RESCALING:
            rescaled_by = step.kind
        resegmented = resegmented or (step.kind if step.kind == "resegment" else "")
    waiting = [number for number, step in enumerate(steps, start=1) if step.kind == "nyul"]
    if len(waiting) > 1:
        faults.append(f"steps {', '.join(map(str, waiting))}: nyul can be there once")
    return faults


def _rises(values: tuple[float, ...]) -> bool:
    return all(a < b for a, b in itertools.pairwise(values))
