"""`Case`: one patient's images on one grid with their ROI, and the record of what was done to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from client.imaging.geometry import on_grid_of
from common.config.imaging import ImagingStep
from common.errors import CaseError, Code
from common.volume import Volume

Learned = Mapping[str, Mapping[str, tuple[float, ...]]]
"""What a step found on a case: image name (or ``case``) -> quantity -> numbers."""

_STEP: TypeAdapter[ImagingStep] = TypeAdapter(ImagingStep)


@dataclass(frozen=True)
class AppliedStep:
    """One step as it was applied: its configuration, the images it touched and the numbers that it learned from them.

    These are enough to repeat the step on the same voxels bit by bit, or on others in the same way
    (`client.imaging.replay`).
    """

    step: ImagingStep
    images: tuple[str, ...]
    learned: Learned = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.step.kind

    def to_json(self) -> str:
        content = {"step": self.step.model_dump(mode="json"), "images": self.images, "learned": self.learned}
        return json.dumps(content, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> AppliedStep:
        content = json.loads(text)
        learned = {name: {k: tuple(v) for k, v in found.items()} for name, found in content["learned"].items()}
        return cls(_STEP.validate_python(content["step"]), tuple(content["images"]), learned)


@dataclass(frozen=True, eq=False)
class Case:
    """One case of a site; it never leaves it.

    Parameters
    ----------
    case_id : str
    images : mapping of name to Volume
        Intensities. All lie on the grid of ``roi``, unless ``check_registration`` is still to come.
    roi : Volume
        bool: what shape is measured on (IBSI's morphological mask).
    intensity_roi : Volume, optional
        bool: what intensities are measured on, where resegmentation made it smaller than ``roi``.
    clinical : mapping of coded column name to value
        NaN where missing.
    outcome : tuple of float
    steps : tuple of AppliedStep
        In the order of application.
    """

    case_id: str
    images: Mapping[str, Volume]
    roi: Volume
    intensity_roi: Volume | None = None
    clinical: Mapping[str, float] = field(default_factory=dict)
    outcome: tuple[float, ...] = ()
    steps: tuple[AppliedStep, ...] = ()

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError(f"case {self.case_id} has no image")
        if self.roi.array.dtype != np.bool_:
            raise TypeError(f"an ROI is bool, got {self.roi.array.dtype}")

    @property
    def measured_roi(self) -> Volume:
        """Where intensities are measured: the resegmented ROI, or the ROI."""
        return self.roi if self.intensity_roi is None else self.intensity_roi

    def mask(self) -> npt.NDArray[np.bool_]:
        """`measured_roi` as an array; a `CaseError` where it is empty."""
        inside = self.measured_roi.array.astype(np.bool_, copy=False)
        if not inside.any():
            raise CaseError(self.case_id, "the ROI is empty", code=Code.ROI_EMPTY)
        return inside

    def on_one_grid(self) -> Case:
        """The case with one affine for all its volumes; a `CaseError` where grids differ by more than rounding."""
        images = dict(self.images)
        for name, image in images.items():
            images[name] = on_grid_of(self.roi, image, case_id=self.case_id, name=name)
        if self.intensity_roi is None:
            return replace(self, images=images)
        part = on_grid_of(self.roi, self.intensity_roi, case_id=self.case_id, name="intensity ROI")
        return replace(self, images=images, intensity_roi=part)
