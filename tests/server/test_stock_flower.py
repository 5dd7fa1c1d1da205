"""The same study under an unmodified SuperLink and `flwr run .`: equal to one process, bit for bit.

One hospital runs an unmodified SuperNode, the other one with fedrad's executor. Afterwards somebody starts a run with a
hostile bundle: the first hospital runs it, which is what docs/stock_flower.md warns of, and the second does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import ErrorCode

from common.errors import Code
from common.journal import JsonLines
from server.opening import open_run
from simulations.run import simulate
from simulations.tiny_study import tiny_consortium, write_cases, write_study
from tests.deployment import REPOSITORY, until
from tests.hostile_bundle import Listener, hostile_files
from tests.over_flower import final_digests
from tests.stock import StockFlower, stock_flower

SITES = ("east", "north")
SUPEREXEC = "flower-superexec"
DEADLINE_S = 300.0
"""Of a round: a SuperNode that was killed counts as connected for a minute, and is let in again after that."""

CRASHED = f"east answered with Flower's error {ErrorCode.CLIENT_APP_CRASHED}"
TAKING, TAKEN_S = "Start `flwr-clientapp` process", 0.7
"""What a ClientApp's process writes before it takes its message, and for how long it then loads fedrad at least."""

WITHOUT_S = 10.0
"""How long the SuperLink is watched after its SuperExec died."""


@pytest.mark.stock
@pytest.mark.timeout(1200)
def test_a_study_under_stock_flower_ends_with_the_same_bits(tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    study_file, study = write_study(alone, SITES, rounds=1)
    opened = open_run(study_file, alone / "run", resume=False)
    simulate(study, write_cases(alone, SITES), out=alone / "run", journal=opened.journal, baselines=False)

    (tmp_path / "made").mkdir()
    made = tiny_consortium(tmp_path / "made", SITES, rounds=1)
    out = tmp_path / "out"
    with stock_flower(made, tmp_path / "flower") as flower:
        flower.start_superlink()
        for site in SITES:
            flower.register(site)
        flower.start_supernode("east")
        flower.start_guarded("north", build_fab_from_disk(REPOSITORY))
        flower.run(REPOSITORY, study=made.coordinator / "study.toml", out=out)
        wait(flower, (out / "report.html").exists)
        assert final_digests(out, study) == final_digests(alone / "run", study)
        require_hostile_run_refused(flower, tmp_path / "hostile")


@pytest.mark.stock
@pytest.mark.timeout(1200)
def test_sums_under_masks_end_with_the_same_bits(tmp_path: Path) -> None:
    """A site that stays in memory keeps the keys of a sum between messages, whoever carries them."""
    sites = (*SITES, "west")
    alone = tmp_path / "alone"
    alone.mkdir()
    study_file, study = write_study(alone, sites, rounds=1, deadline_s=DEADLINE_S, masked=True)
    opened = open_run(study_file, alone / "run", resume=False)
    simulate(study, write_cases(alone, sites), out=alone / "run", journal=opened.journal, baselines=False)
    (tmp_path / "made").mkdir()
    made = tiny_consortium(tmp_path / "made", sites, rounds=1, deadline_s=DEADLINE_S, masked=True)
    out = tmp_path / "out"
    with stock_flower(made, tmp_path / "flower") as flower:
        flower.start_superlink()
        for site in sites:
            flower.register(site)
            flower.start_guarded(site, build_fab_from_disk(REPOSITORY))
        flower.run(REPOSITORY, study=made.coordinator / "study.toml", out=out)
        wait(flower, (out / "report.html").exists)
        assert final_digests(out, study) == final_digests(alone / "run", study)
        replies = {line["reply"] for line in JsonLines(out / "events.jsonl").read() if line["event"] == "answer"}
        assert not {"StatisticSums", "LocalUpdate", "EvaluationSums"} & replies


@pytest.mark.stock
@pytest.mark.timeout(1200)
def test_every_process_is_killed_once_and_nobody_does_anything(tmp_path: Path) -> None:
    """`docs/stock_flower.md`, "When a process dies": supervised, the study ends with the bits of an undisturbed run."""
    rounds = 8
    alone = tmp_path / "alone"
    alone.mkdir()
    study_file, study = write_study(alone, SITES, rounds=rounds, deadline_s=DEADLINE_S)
    opened = open_run(study_file, alone / "run", resume=False)
    simulate(study, write_cases(alone, SITES), out=alone / "run", journal=opened.journal, baselines=False)
    (tmp_path / "made").mkdir()
    made = tiny_consortium(tmp_path / "made", SITES, rounds=rounds, deadline_s=DEADLINE_S)
    out = tmp_path / "out"
    journal = JsonLines(out / "events.jsonl")

    def rounds_done() -> int:
        return sum(line["event"] == "round" for line in journal.read()) if (out / "events.jsonl").exists() else 0

    with stock_flower(made, tmp_path / "flower", supervised=True) as flower:
        flower.start_superlink()
        flower.start_superexec()
        for site in SITES:
            flower.register(site)
        flower.start_supernode("east")
        flower.start_guarded("north", build_fab_from_disk(REPOSITORY))
        flower.start_submission(REPOSITORY, made.coordinator / "study.toml", out)
        wait(flower, lambda: rounds_done() >= 1)

        def submitted() -> int:
            return flower.log("submission").read_text().count(" submitted")

        def killed(name: str, child: str) -> None:
            """Kill it in the middle of a round, and wait until a round is complete again."""
            wait(flower, lambda: flower.below(name, child))
            before = rounds_done()
            flower.kill(name, child=child)
            wait(flower, lambda: rounds_done() > before)

        started = flower.log("east").read_text().count(TAKING)
        wait(flower, lambda: flower.log("east").read_text().count(TAKING) > started)
        sleep(TAKEN_S)
        killed("east", "flwr-clientapp")
        killed("east", "flower-supernode")
        killed("north", "site supernode")
        assert submitted() == 1  # the run itself went on: the sites came back and were asked again
        killed("submission", "coordinator submit")
        assert submitted() == 1  # it follows the run that it left
        killed("superexec", "flwr-serverapp")
        killed("superexec", "flower-superexec")
        killed("superlink", "flower-superlink")
        wait(flower, (out / "report.html").exists)
        assert final_digests(out, study) == final_digests(alone / "run", study)
        wait(flower, lambda: flower.running["submission"].poll() is not None)
        assert flower.running["submission"].returncode == 0
        sites = [line["sites"] for line in journal.read() if line["event"] == "round"]
        assert sites == [len(SITES)] * len(sites)
        assert CRASHED in (out / "events.jsonl").read_text()


@pytest.mark.stock
def test_a_superlink_starts_no_second_superexec_but_has_one_again_after_its_own_restart(tmp_path: Path) -> None:
    """Why `docs/stock_flower.md` has the SuperLink started again where its SuperExec died."""
    (tmp_path / "made").mkdir()
    made = tiny_consortium(tmp_path / "made", SITES, rounds=1)
    with stock_flower(made, tmp_path / "flower") as flower:
        flower.start_superlink()
        wait(flower, lambda: flower.below("superlink", SUPEREXEC))
        flower.kill("superlink", child=SUPEREXEC)
        end = monotonic() + WITHOUT_S
        wait(flower, lambda: not flower.below("superlink", SUPEREXEC))
        while monotonic() < end:
            assert not flower.below("superlink", SUPEREXEC)
            assert flower.running["superlink"].poll() is None
            sleep(0.5)
        flower.kill("superlink")
        flower.start_superlink()
        wait(flower, lambda: flower.below("superlink", SUPEREXEC))


def require_hostile_run_refused(flower: StockFlower, folder: Path) -> None:
    marks, app, result = folder / "marks", folder / "app", folder / "result.json"
    marks.mkdir(parents=True)
    with Listener() as listener:
        for name, content in hostile_files(marks, listener.port).items():
            (app / name).parent.mkdir(parents=True, exist_ok=True)
            (app / name).write_bytes(content)
        flower.run(app, result=result)
        wait(flower, result.exists)
    assert json.loads(result.read_text()) == [0, ErrorCode.INVALID_FAB]
    assert [path.name for path in marks.iterdir()] == ["east"]
    stolen = (flower.made.hospital("east") / "cases.csv").read_bytes().splitlines()
    assert [received.splitlines() for received in listener.received] == [stolen]
    lines = list(JsonLines(flower.made.hospital("north") / "state" / "log.jsonl").read())
    assert [line["code"] for line in lines if line.get("request") == "bundle"] == [Code.BUNDLE_NOT_ALLOWED]


def wait(flower: StockFlower, condition: Callable[[], bool]) -> None:
    try:
        until(condition, seconds=600)
    except TimeoutError as error:
        raise AssertionError(flower.tails()) from error
