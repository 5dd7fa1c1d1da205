"""Aggregation strategies: a closed, tagged union. Adding one is a file and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.strategies.fedavg import FedAvgConfig
from common.strategies.fedopt import FedOptConfig
from common.strategies.fedprox import FedProxConfig
from common.strategies.interface import ServerState, Strategy

StrategyConfig = Annotated[FedAvgConfig | FedProxConfig | FedOptConfig, Field(discriminator="kind")]

__all__ = ["FedAvgConfig", "FedOptConfig", "FedProxConfig", "ServerState", "Strategy", "StrategyConfig"]
