"""`site.toml`: what is private to one hospital. No other party ever sees it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from common.config.gate import GateConfig
from common.config.loading import Check, Frozen
from common.config.pacs import PacsConfig
from common.config.secure_aggregation import SiteSecureAggregationConfig

Device = Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")]


class CoordinatorConfig(Frozen):
    """How this hospital reaches the coordinator: one outbound TLS connection.

    Parameters
    ----------
    address : str
        ``host:port`` of the coordinator's listener.
    ca : Path
        Certificate of the authority that the consortium agreed on.
    node_key, certificate : Path
        This hospital's private key, made here, and the certificate that the coordinator signed for it.
    """

    address: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^\s:\[\]]+):\d{1,5}$")]
    ca: Path
    node_key: Path
    certificate: Path

    @model_validator(mode="after")
    def _port_exists(self) -> CoordinatorConfig:
        port = int(self.address.rpartition(":")[2])
        if not 1 <= port <= 65535:
            raise ValueError(f"address: port {port} does not exist, expected 1 to 65535")
        return self


def _state_is_elsewhere(site: SiteConfig) -> Iterator[str]:
    state, data = (Path(os.path.normpath(path)) for path in (site.state, site.data))
    if state == data:
        yield "state: must not be the data folder, fedrad never writes among images"
    elif data.is_relative_to(state) and state != Path():
        yield "data: must not lie in the state folder, which fedrad may empty"


class SiteConfig(Frozen):
    """One hospital.

    Parameters
    ----------
    site : str
        The name that the study uses.
    manifest : Path
        CSV, one row a case; columns as the study names them.
    data : Path
        Folder that the manifest's image paths, or the study's patterns, start from.
    state : Path
        Folder for the cache, the log and everything else that fedrad writes at this site.
    device : str
        ``cpu`` or ``cuda``; a GPU is used only when this file says so.
    processes : int
        Processes that read images and extract features.
    minimum_cases : int
        No statistic, update or metric is computed from fewer cases than this.
    studies : tuple of Path
        The study files that this hospital agreed to, in its own copy. A request for a study that differs from all of
        them in any setting (SHA-256 of its canonical JSON) is refused; so is one that was not approved
        (``fedrad site approve``), where the hospital has a coordinator.
    gate : GateConfig
        This hospital's own limits on what may be asked and what leaves.
    allowed_bundles : tuple of str
        SHA-256 of the Flower bundles with which a run of an unmodified SuperLink may come (``fedrad site supernode``).
        Even of these nothing is run: what answers is the installed fedrad.
    secure_aggregation : SiteSecureAggregationConfig
        For studies whose answers leave under masks.
    pacs : PacsConfig, optional
        The archive that ``fedrad site preflight`` tries. Images are read from ``data``.
    """

    checks: ClassVar[tuple[Check, ...]] = (Check(("state", "data"), _state_is_elsewhere),)

    site: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    manifest: Path
    data: Path
    state: Path
    device: Device = "cpu"
    processes: Annotated[int, Field(ge=1, le=256)] = 1
    minimum_cases: Annotated[int, Field(ge=1)] = 10
    studies: Annotated[tuple[Path, ...], Field(min_length=1)]
    coordinator: CoordinatorConfig | None = None
    allowed_bundles: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = ()
    gate: GateConfig = GateConfig()
    secure_aggregation: SiteSecureAggregationConfig = SiteSecureAggregationConfig()
    pacs: PacsConfig | None = None

    def relative_to(self, folder: Path) -> SiteConfig:
        """Paths in the file are relative to the folder that holds it."""
        moved: dict[str, object] = {name: folder / getattr(self, name) for name in ("manifest", "data", "state")}
        moved["studies"] = tuple(folder / study for study in self.studies)
        if self.coordinator:
            paths = {name: folder / getattr(self.coordinator, name) for name in ("ca", "node_key", "certificate")}
            moved["coordinator"] = self.coordinator.model_copy(update=paths)
        if self.gate.head:
            moved["gate"] = self.gate.model_copy(update={"head": folder / self.gate.head})
        if self.pacs:
            moved["pacs"] = self.pacs.relative_to(folder)
        further = tuple(folder / path for path in self.secure_aggregation.authorities)
        moved["secure_aggregation"] = self.secure_aggregation.model_copy(update={"authorities": further})
        return self.model_copy(update=moved)
