"""A masked study over real Flower processes: the bits of one process, also where a hospital dies within a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.journal import JsonLines
from simulations.consortium import Consortium
from simulations.parties import Parties
from simulations.run import Cohort
from tests.over_flower import digests_in_process, kill, laid_out, start_all, wait_for_end, wait_for_lines
from tests.small_study import STUDY

MASKED = STUDY[: STUDY.index('[[models]]\nname = "cnn"')].replace(
    "privacy = { minimum_cases = 2 }", "privacy = { minimum_cases = 2, secure_aggregation = { most_cases = 50 } }"
)
"""One linear model on radiomics and age: what is tested is who says what to whom."""


@pytest.fixture(scope="module")
def in_process(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return digests_in_process(tmp_path_factory.mktemp("in-process"), cohort, MASKED)


@pytest.fixture
def consortium(cohort: Cohort, tmp_path: Path) -> Consortium:
    return laid_out(cohort, tmp_path, MASKED)


def test_masked_sums_over_flower_end_in_the_bits_of_one_process(
    consortium: Consortium, parties: Parties, in_process: dict[str, str]
) -> None:
    """Also where a hospital is killed in the middle of a session: the sum is begun anew with fresh keys."""
    start_all(consortium, parties)
    wait_for_lines(consortium, parties, 2, event="answer", reply="MaskedValues")
    kill(parties, "north")
    consortium.start_hospital(parties, "north")
    assert wait_for_end(consortium, parties) == in_process
    lines = JsonLines(consortium.run_folder / "events.jsonl").read()
    replies = {line["reply"] for line in lines if line["event"] == "answer"}
    assert not {"StatisticSums", "LocalUpdate", "EvaluationSums"} & replies
