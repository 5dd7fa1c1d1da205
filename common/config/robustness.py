"""Which perturbations features must withstand, and how much: the same at every site of a study.

After Zwanenburg et al. 2019, "Assessing robustness of radiomic features by image perturbation"
(doi 10.1038/s41598-018-36938-4): each case is measured again under every combination of the listed perturbations, and
a feature is kept where the intraclass correlation of these repeats is high.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from common.config.loading import Frozen, refuse, require

Degrees = Annotated[float, Field(ge=-30, le=30)]
VoxelFraction = Annotated[float, Field(gt=-1, lt=1)]
VolumeChange = Annotated[float, Field(gt=-0.9, le=2)]


class RobustnessConfig(Frozen):
    """All combinations of the lists are made; an entry 0 leaves that kind out.

    Parameters
    ----------
    rotations_deg : tuple of float
        About the ROI's centre, in the slices.
    translations : tuple of float
        Shift along all three axes, in voxels.
    noise_repetitions : int
        How often noise of the image's own strength is added; 0 adds none.
    volume_changes : tuple of float
        Growth (> 0) and erosion (< 0) of the ROI, as a share of its volume.
    minimum_icc : float
        Features below are dropped.
    decides : str
        What is compared with ``minimum_icc``: the ``lower`` end of the interval, or the ``point`` estimate.
    model : str
        ``1,1``: perturbations are random; ``3,1``: they are the same for all cases, and only order matters (Shrout and
        Fleiss 1979, doi 10.1037/0033-2909.86.2.420).
    """

    rotations_deg: Annotated[tuple[Degrees, ...], Field(min_length=1, max_length=20)] = (-6.0, 6.0)
    translations: Annotated[tuple[VoxelFraction, ...], Field(min_length=1, max_length=20)] = (0.25, 0.75)
    noise_repetitions: Annotated[int, Field(ge=0, le=20)] = 1
    volume_changes: Annotated[tuple[VolumeChange, ...], Field(min_length=1, max_length=20)] = (-0.1, 0.1)
    minimum_icc: Annotated[float, Field(ge=0, lt=1)] = 0.75
    decides: Literal["lower", "point"] = "lower"
    model: Literal["1,1", "3,1"] = "1,1"
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95

    @model_validator(mode="after")
    def _at_least_two(self) -> RobustnessConfig:
        faults: list[str] = []
        require(self.n_perturbations >= 2, "the lists give one perturbation; an ICC needs at least 2", faults)
        for name in ("rotations_deg", "translations", "volume_changes"):
            values = getattr(self, name)
            require(len(set(values)) == len(values), f"{name}: an entry is given twice", faults)
        refuse(faults)
        return self

    @property
    def n_perturbations(self) -> PositiveInt:
        """How often each case is measured."""
        repeats = max(self.noise_repetitions, 1)
        return len(self.rotations_deg) * len(self.translations) * len(self.volume_changes) * repeats


class StudyRobustnessConfig(RobustnessConfig):
    """``[robustness]`` of a study: features below ``minimum_icc`` leave the table before anything else is learned.

    Parameters
    ----------
    most_cases : int
        Training cases that a hospital measures under perturbation; each costs ``n_perturbations`` extractions.
    """

    most_cases: Annotated[int, Field(ge=2, le=1000)] = 50
