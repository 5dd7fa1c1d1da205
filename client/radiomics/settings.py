"""Presets: what is done to an image and an ROI before features, and which features are computed.

A preset is a TOML file (``configs/radiomics``), read once into frozen models that refuse unknown keys. Spacings are
given as x, y, z, as DICOM and pyradiomics do; ``Resampling.spacing_dhw_mm`` turns them for arrays.
"""

from __future__ import annotations

import hashlib
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from common.errors import ConfigError

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Group = Literal["morph", "spatial", "loc", "stat", "ih", "ivh", "cm", "rlm", "szm", "dzm", "ngt", "ngl"]
AggregationName = Literal["2D_avg", "2D_comb", "2_5D_avg", "2_5D_comb", "3D_avg", "3D_comb"]

TEXTURES = ("cm", "rlm", "szm", "dzm", "ngt", "ngl")
PYRADIOMICS_GROUPS = ("morph", "stat", "cm", "ngl", "rlm", "szm", "ngt")
"""Groups that pyradiomics has, too: shape, firstorder, glcm, gldm, glrlm, glszm, ngtdm."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Resampling(_Part):
    """The study grid. A spacing of 0 keeps that axis."""

    spacing_mm: tuple[float, float, float]
    interpolation: Literal["nearest", "linear", "cubic"]
    roi_threshold: float = Field(default=0.5, gt=0, le=1)

    @field_validator("spacing_mm")
    @classmethod
    def _not_negative(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if any(not 0 <= spacing < 1e3 for spacing in value):
            raise ValueError(f"spacings lie in 0 to 1000 mm (0 keeps an axis), got {value}")
        return value

    @property
    def spacing_dhw_mm(self) -> tuple[float, float, float]:
        """Spacing in array order D, H, W."""
        x, y, z = self.spacing_mm
        return z, y, x


class Resegmentation(_Part):
    """Which voxels of the ROI keep their intensity: within the range and within ``n_sigma`` of the ROI's mean."""

    lower: float | None = None
    upper: float | None = None
    n_sigma: Positive | None = None

    @model_validator(mode="after")
    def _something(self) -> Resegmentation:
        if self.lower is None and self.upper is None and self.n_sigma is None:
            raise ValueError("resegmentation needs lower, upper or n_sigma")
        if self.lower is not None and self.upper is not None and not self.lower < self.upper:
            raise ValueError(f"resegmentation needs lower < upper, got {self.lower} and {self.upper}")
        return self


class BinWidth(_Part):
    """Bins of a fixed size.

    The first one starts at ``lowest``, else at the lower limit of resegmentation, else at the ROI's minimum.
    """

    kind: Literal["bin_width"]
    bin_width: Positive
    lowest: float | None = None


class BinCount(_Part):
    """A fixed number of bins from minimum to maximum."""

    kind: Literal["bin_count"]
    bin_count: int = Field(ge=2, le=65_000)


class AsIs(_Part):
    """Intensities are grey levels already: integers from 1 (the digital phantom)."""

    kind: Literal["as_is"]


Discretisation = Annotated[BinWidth | BinCount | AsIs, Field(discriminator="kind")]


class Wavelet(_Part):
    """The 8 bands of one level of the stationary wavelet transform."""

    kind: Literal["wavelet"]
    wavelet: Literal["haar", "db2", "db4", "coif1", "coif2", "sym4", "bior2.2"] = "coif1"


class LaplacianOfGaussian(_Part):
    """Laplacian of Gaussian, one image for each sigma."""

    kind: Literal["log"]
    sigmas_mm: tuple[Positive, ...] = Field(min_length=1)


class Pointwise(_Part):
    """Square, square root, logarithm or exponential, scaled to the largest magnitude of the whole image."""

    kind: Literal["square", "squareroot", "logarithm", "exponential"]


class Gradient(_Part):
    """Magnitude of the gradient per mm."""

    kind: Literal["gradient"]


class LocalBinary2D(_Part):
    """Uniform local binary patterns in each slice."""

    kind: Literal["lbp_2d"]
    radius_voxels: Positive = 1.0
    n_samples: int = Field(default=8, ge=3, le=24)


class LocalBinary3D(_Part):
    """Local binary patterns on a sphere, as energies of spherical harmonics, and the kurtosis of its samples."""

    kind: Literal["lbp_3d"]
    radius_voxels: Positive = 1.0
    n_subdivisions: int = Field(default=1, ge=0, le=3)
    n_levels: int = Field(default=2, ge=1, le=4)


Filter = Annotated[
    Wavelet | LaplacianOfGaussian | Pointwise | Gradient | LocalBinary2D | LocalBinary3D, Field(discriminator="kind")
]


class RadiomicsSettings(_Part):
    """A preset.

    ``definitions`` "ibsi" follows the IBSI reference manual; "pyradiomics" gives the names and values of pyradiomics
    3.0.1, whose grids, bins and some formulas differ.
    """

    name: str = Field(min_length=1)
    definitions: Literal["ibsi", "pyradiomics"]
    intensity_unit: Literal["HU", "SUV", "1"]
    round_intensities: bool
    groups: tuple[Group, ...] = Field(min_length=1)
    aggregations: tuple[AggregationName, ...] = ()
    discretisation: Discretisation
    resampling: Resampling | None = None
    resegmentation: Resegmentation | None = None
    filtered_discretisation: Discretisation | None = None
    volume_histogram: Discretisation | None = None
    filters: tuple[Filter, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> RadiomicsSettings:
        faults = []
        if len(set(self.groups)) != len(self.groups) or len(set(self.aggregations)) != len(self.aggregations):
            faults.append("groups and aggregations name each entry once")
        if set(TEXTURES) & set(self.groups) and not self.aggregations:
            faults.append("texture groups need aggregations")
        if self.filters and self.filtered_discretisation is None:
            faults.append("filters need filtered_discretisation")
        if self.definitions == "pyradiomics":
            if set(self.groups) - set(PYRADIOMICS_GROUPS):
                faults.append(f"pyradiomics has the groups {', '.join(PYRADIOMICS_GROUPS)} only")
            if self.resampling or self.round_intensities:
                faults.append("pyradiomics' definitions stand on the image as it is: no resampling, no rounding")
            if set(self.aggregations) - {"3D_avg"}:
                faults.append('pyradiomics aggregates as "3D_avg"')
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: equal digests give equal features."""
        return hashlib.sha256(self.model_dump_json(exclude={"name"}).encode()).hexdigest()


def read_settings(path: Path) -> RadiomicsSettings:
    """Read a preset from a TOML file; a `ConfigError` lists all its faults."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    return _parse(text, source=str(path))


@cache
def preset(name: str) -> RadiomicsSettings:
    """A preset that fedrad brings along, by name."""
    known = preset_names()
    if name not in known:
        raise ConfigError("preset", [f"no preset {name!r}; there are {', '.join(known)}"])
    return _parse((_folder() / f"{name}.toml").read_text(encoding="utf-8"), source=f"{name}.toml")


def preset_names() -> tuple[str, ...]:
    return tuple(
        sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))
    )


def settings_from(name_or_path: str) -> RadiomicsSettings:
    """A preset by name, or a TOML file by path (it ends in ``.toml``)."""
    return read_settings(Path(name_or_path)) if name_or_path.endswith(".toml") else preset(name_or_path)


def _folder() -> Any:
    """Where the presets are; of a type whose module moved between Python 3.11 and 3.14."""
    return files("configs") / "radiomics"


def _parse(text: str, *, source: str) -> RadiomicsSettings:
    try:
        return RadiomicsSettings.model_validate(tomllib.loads(text), strict=False)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [f"is not TOML: {error}"]) from error
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc']) or 'preset'}: {fault['msg']} (got {_short(fault['input'])})"
            for fault in error.errors()
        ]
        raise ConfigError(source, faults) from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."
