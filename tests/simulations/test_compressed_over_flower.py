"""A study in int8 over real processes: the bits of one process, also after `kill -9` on either side."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import Code
from common.journal import JsonLines
from simulations.consortium import COORDINATOR, Consortium
from simulations.parties import Parties
from simulations.run import Cohort
from tests.over_flower import digests_in_process, kill, laid_out, start_all, wait_for_end, wait_for_rounds
from tests.small_study import STUDY

FEDERATED = "federated = { round_deadline_s = 60, prepare_deadline_s = 120 }"
IN_INT8 = 'federated = { round_deadline_s = 60, prepare_deadline_s = 120, compression = { kind = "int8" } }'
MEASURED = (
    'clinical = [{ column = "age_years", kind = "numeric" }]\n',
    'radiomics = [{ image = "ct", preset = "fast" }]\n',
)


def images_alone() -> str:
    """The small study in int8, with the network alone, for more rounds."""
    text = STUDY.replace(FEDERATED, IN_INT8)
    for line in MEASURED:
        assert line in text
        text = text.replace(line, "")
    head, _, network = text.split("[[models]]")
    return f"{head}[[models]]{network}".replace("rounds = 3", "rounds = 12")


COMPRESSED = images_alone()


@pytest.fixture(scope="module")
def in_process(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return digests_in_process(tmp_path_factory.mktemp("in-process"), cohort, COMPRESSED)


def test_kills_on_both_sides_change_no_bit(
    cohort: Cohort, parties: Parties, in_process: dict[str, str], tmp_path: Path
) -> None:
    """North is killed and sent the model whole when it is back; then the coordinator is."""
    consortium = laid_out(cohort, tmp_path, COMPRESSED)
    start_all(consortium, parties)
    wait_for_rounds(consortium, parties, 3)
    kill(parties, "north")
    consortium.start_hospital(parties, "north")
    wait_for_rounds(consortium, parties, 7)
    kill(parties, COORDINATOR)
    consortium.start_coordinator(parties, resume=True)
    assert wait_for_end(consortium, parties) == in_process
    assert ("north", Code.BASE_ABSENT) in _refusals(consortium)
    kept = [path for name in consortium.hospitals for path in consortium.hospital(name).rglob("*.residual")]
    assert kept == []


def _refusals(consortium: Consortium) -> set[tuple[str, str]]:
    lines = JsonLines(consortium.run_folder / "events.jsonl").read()
    return {(line["site"], line["code"]) for line in lines if line["event"] == "answer" and line["code"]}
