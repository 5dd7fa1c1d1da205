"""Hospitals in masked sums with numbers of their own making: real keys, protocol and rules, no images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from client.credentials import Credentials
from client.masked_sums import MaskedSums
from common.arrays import Parameters
from common.config.loading import digest, parse
from common.config.secure_aggregation import SiteSecureAggregationConfig
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import FedradError
from common.journal import JsonLines
from common.messages import (
    AskStatistic,
    EvaluationSums,
    LocalUpdate,
    MaskingRequest,
    Question,
    Refusal,
    Reply,
    Request,
    StatisticSums,
    Train,
)
from common.privacy.contribution import Summable
from common.rng import generator
from tests.common.config.test_secure_aggregation import MASKED, SITES
from tests.common.privacy.hospitals import authorities, names, signer_of

PARAMETERS = Parameters({"w": np.zeros((4, 5), dtype=np.float32), "b": np.zeros(3, dtype=np.float32)})


def masked_study(
    n: int, *, quorum: int | None = None, external: int = 0, settings: str = "most_cases = 50"
) -> StudyConfig:
    """A study of ``n`` training sites, named as in `hospitals.names`, and some external ones."""
    listed = [f'{{ name = "{name}" }}' for name in names(n)]
    listed += [f'{{ name = "outside-{i}", role = "external" }}' for i in range(external)]
    text = MASKED.replace(SITES, f"sites = [{', '.join(listed)}]").replace("most_cases = 50", settings)
    if quorum is not None:
        text = text.replace("federated = {", f"federated = {{ quorum = {quorum},")
    return parse(text, StudyConfig, source="study.toml")


class Member:
    """One hospital.

    Attributes
    ----------
    log : list of str
        Why it refused, in sentences.
    """

    def __init__(
        self,
        name: str,
        study: StudyConfig,
        folder: Path,
        *,
        minimum_sites: int = 3,
        compute: Callable[[str, Question], Summable] | None = None,
    ) -> None:
        self.name = name
        self.study = study
        self.config = SiteConfig(
            site=name,
            manifest=folder / "cases.csv",
            data=folder / "images",
            state=folder / name,
            studies=(folder / "study.toml",),
            secure_aggregation=SiteSecureAggregationConfig(minimum_sites=minimum_sites),
        )
        self.compute = compute or answer_of
        self.log: list[str] = []
        self.computed = 0
        self.restart()

    def restart(self) -> None:
        """As after a crash: what was in memory is gone, what is on the disk is there."""
        record = JsonLines(self.config.state / "sums.jsonl")
        self.sums = MaskedSums(self.config, record, lambda: Credentials(signer_of(self.name), authorities()))

    def answer(self, request: Request) -> Reply:
        try:
            assert isinstance(request, MaskingRequest)
            return self.sums.answer(request, self.study, self._answer)
        except FedradError as error:
            self.log.append(str(error))
            return Refusal(error.code)

    def _answer(self, question: Question) -> Summable:
        self.computed += 1
        return self.compute(self.name, question)


def answer_of(name: str, question: Question) -> Summable:
    """Numbers that follow from name and question."""
    rng = generator(7, name, type(question).__name__)
    n_cases = int(rng.integers(5, 50))
    sums = {"n": np.array([n_cases]), "total": rng.normal(0, 1e6, 6), "tiny": rng.normal(0, 1e-9, (2, 2))}
    if isinstance(question, AskStatistic):
        return StatisticSums(n_cases, sums)
    if isinstance(question, Train):
        delta = PARAMETERS.unflatten(rng.normal(0, 0.1, PARAMETERS.size))
        return LocalUpdate(question.model, question.round_number, n_cases, delta, float(rng.uniform(0.1, 1)))
    return EvaluationSums(question.model, n_cases, sums)


def train_request(study: StudyConfig, round_number: int = 1, value: float = 0.0) -> Train:
    parameters = PARAMETERS.unflatten(np.full(PARAMETERS.size, value))
    return Train(digest(study), 0, "radiomics", round_number, parameters)
