"""`[privacy.release_gate]` of a study: what an audit may find at most before the study's models are released."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat, model_validator

from common.config.loading import Frozen, refuse, require

Share = Annotated[float, Field(ge=0, le=1)]


class ReleaseGateConfig(Frozen):
    """Limits on what ``fedrad audit`` measures on the study as it ran; one that is not given limits nothing.

    Parameters
    ----------
    max_tpr_at_1_fpr : float, optional
        Share of the training cases that a membership attack finds where it accuses 1 % of the others.
    max_epsilon_lower_bound : float, optional
        What canaries show of epsilon.
    max_inversion_ssim : float, optional
        Mean structural similarity of reconstructed patches with the true ones.
    max_inversion_beyond_mean : float, optional
        Correlation of both once the mean image is taken away; what the mean image shows is 0.
    max_property_explained : float, optional
        Share of the variance of a hidden property that statistics give away (R squared).
    """

    max_tpr_at_1_fpr: Share | None = None
    max_epsilon_lower_bound: PositiveFloat | None = None
    max_inversion_ssim: Share | None = None
    max_inversion_beyond_mean: Share | None = None
    max_property_explained: Share | None = None

    @model_validator(mode="after")
    def _limits_something(self) -> ReleaseGateConfig:
        faults: list[str] = []
        require(bool(self.limits), "give at least one limit", faults)
        refuse(faults)
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Limits that are given, by the measure that they limit."""
        named = {name.removeprefix("max_"): getattr(self, name) for name in type(self).model_fields}
        return {measure: float(limit) for measure, limit in named.items() if limit is not None}
