"""What a case brings to a study: images with their steps, clinical columns, features and the patch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from common.config.fields import ColumnName, Name, Pattern
from common.config.imaging import ImagingStep, Modality, Nyul, step_faults
from common.config.loading import Frozen, refuse, require
from common.config.study_rules import pattern_faults


class ImageConfig(Frozen):
    """One image of a case and its ROI.

    Parameters
    ----------
    image, roi : str
        Where the files lie below the site's data folder; ``{case_id}`` stands for the case. A manifest with the columns
        ``NAME_image`` and ``NAME_roi`` overrides both.
    steps : tuple of imaging steps
        Applied in order; every application is recorded on the case.
    """

    name: Name
    modality: Modality
    image: Pattern
    roi: Pattern
    roi_label: PositiveInt = 1
    steps: tuple[ImagingStep, ...] = ()

    @model_validator(mode="after")
    def _patterns_and_steps(self) -> ImageConfig:
        refuse([*pattern_faults(self), *step_faults(self.steps, modality=self.modality)])
        return self

    @property
    def waiting(self) -> Nyul | None:
        """The ``nyul`` step whose landmarks the study learns before it measures anything; None where there is none."""
        return next((step for step in self.steps if isinstance(step, Nyul) and step.landmarks is None), None)


class ClinicalConfig(Frozen):
    """A clinical column: a number with its plausible range, or one of the listed values (coded one column a value)."""

    column: ColumnName
    kind: Literal["numeric", "categorical"]
    minimum: float | None = None
    maximum: float | None = None
    values: tuple[str, ...] = ()
    missing: Literal["exclude", "impute"] = "impute"

    @model_validator(mode="after")
    def _kind_fits(self) -> ClinicalConfig:
        faults: list[str] = []
        if self.kind == "categorical":
            require(len(self.values) >= 2, "a categorical column needs at least 2 values", faults)
            require(len(set(self.values)) == len(self.values), "values must differ from one another", faults)
            require(self.minimum is None and self.maximum is None, "only numbers have a range", faults)
        else:
            require(not self.values, "a numeric column has no list of values", faults)
            if self.minimum is not None and self.maximum is not None:
                range_text = f"{self.minimum:g} to {self.maximum:g}"
                require(self.minimum < self.maximum, f"the range {range_text} is empty", faults)
        refuse(faults)
        return self

    @property
    def coded_names(self) -> tuple[str, ...]:
        """Its columns of the table: a number keeps its name, a category is ``column=value`` for each but the first."""
        if self.kind == "numeric":
            return (self.column,)
        return tuple(f"{self.column}={value}" for value in self.values[1:])


class RadiomicsConfig(Frozen):
    """Features of one image: a preset of ``configs/radiomics``."""

    image: Name
    preset: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]


class PatchConfig(Frozen):
    """What an image model sees: a box around the ROI's centre, one channel an image and the ROI as the last one.

    Parameters
    ----------
    spacing_mm, shape : tuple of 3
        In x, y, z order, as in DICOM.
    window : tuple of 2, optional
        Intensities that become 0 and 1, with what lies beyond cut off; without it the patch is z-scored.
    """

    images: Annotated[tuple[Name, ...], Field(min_length=1)]
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    window: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _window_rises(self) -> PatchConfig:
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(f"window must rise, got {self.window}")
        return self
