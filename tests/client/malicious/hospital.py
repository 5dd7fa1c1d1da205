"""A hospital with approvals of its own, and what a malicious coordinator says to it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from client.approvals import approve
from client.site import Site
from client.site_key import SiteKey
from common.arrays import Parameters
from common.config.gate import GateConfig
from common.config.loading import digest
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import Code
from common.messages import (
    AskStatistic,
    Evaluate,
    Finish,
    Hello,
    Prepare,
    Refusal,
    Reply,
    Request,
    Train,
)
from common.models import initial_parameters
from common.statistics import encode_query
from common.statistics.moments import Imputer, MomentQuery
from common.statistics.table_steps import Keep, encode_steps
from common.version import versions
from tests.client.cases import study

N_CASES = 12
CLEAN = ("ct_stat_mean", "ct_stat_var", "age")
STEPS = encode_steps([Keep(CLEAN), Imputer(CLEAN, np.zeros(3))])
AGREED = study()
DIGEST = digest(AGREED)


@dataclass
class Hospital:
    """A hospital with a key of its own, in a consortium, that approved what ``studies`` says."""

    config: SiteConfig
    studies: tuple[StudyConfig, ...] = (AGREED,)

    def open(self, **gate: object) -> Site:
        config = self.config.model_copy(update={"gate": GateConfig(**gate)})  # type: ignore[arg-type]  # as each test says
        return Site(config, self.studies)

    def approved(self, of: StudyConfig = AGREED, *, site: str = "north", **gate: object) -> Site:
        opened = self.open(**gate)
        approve(opened.gate.log, of, site=site, key=SiteKey.of(self.config))
        return opened

    def entries(self, event: str = "") -> list[dict[str, Any]]:
        lines = (self.config.state / "audit.jsonl").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if event in ("", entry["event"])]


def parameters(shift: float = 0.0, of: StudyConfig = AGREED) -> Parameters:
    first = initial_parameters(of.study_model("radiomics").model, of.model_inputs(3), 0)
    return Parameters({name: array + np.float32(shift) for name, array in first.items()})


def train(shift: float = 0.0, **changes: object) -> Train:
    request = Train(DIGEST, 0, "radiomics", 1, parameters(shift), STEPS)
    return replace(request, **changes)  # type: ignore[arg-type]  # as each test says


def evaluate(shift: float = 0.0, **changes: object) -> Evaluate:
    request = Evaluate(DIGEST, 0, "radiomics", "test", parameters(shift), STEPS)
    return replace(request, **changes)  # type: ignore[arg-type]


def ask(centre: float = 0.0, **changes: object) -> AskStatistic:
    query = MomentQuery(CLEAN, "all", ("all",), np.full((1, 3), float(centre)), 1)
    return replace(AskStatistic(DIGEST, 0, *encode_query(query), STEPS), **changes)  # type: ignore[arg-type]


def refused(site: Site, request: Request, code: Code, because: str) -> None:
    """The request is refused with ``code``, and the hospital's log says ``because``."""
    n_left = left(site)
    reply = site.answer(request)
    assert isinstance(reply, Refusal), f"{type(request).__name__} was answered"
    assert (reply.code, left(site)) == (code, n_left)
    assert because in list(site.log.read())[-1]["reason"]


def answered(reply: Reply) -> bool:
    return not isinstance(reply, Refusal)


def left(site: Site) -> int:
    return (site.config.state / "audit.jsonl").read_text().count('"event":"left"')


EVERY = [Hello(DIGEST, versions()), Prepare(DIGEST), ask(), train(), evaluate(), Finish(DIGEST, "completed")]
