"""The models a study can name: a closed, tagged union. A new model is one file and one line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.models.cnn3d import CnnConfig
from common.models.fusion import FusionConfig
from common.models.initial import initial_parameters
from common.models.interface import ModelInputs
from common.models.linear import LinearConfig
from common.models.mlp import MlpConfig

ModelConfig = Annotated[LinearConfig | MlpConfig | CnnConfig | FusionConfig, Field(discriminator="kind")]

__all__ = [
    "CnnConfig",
    "FusionConfig",
    "LinearConfig",
    "MlpConfig",
    "ModelConfig",
    "ModelInputs",
    "initial_parameters",
]
