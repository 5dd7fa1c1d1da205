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
def test_every_process_is_killed_once_and_the_study_ends_with_the_same_bits(tmp_path: Path) -> None:
    """`docs/stock_flower.md`, "When a process dies": who starts each again, and that nothing of the study is lost."""
    rounds = 5
    alone = tmp_path / "alone"
    alone.mkdir()
    study_file, study = write_study(alone, SITES, rounds=rounds)
    opened = open_run(study_file, alone / "run", resume=False)
    simulate(study, write_cases(alone, SITES), out=alone / "run", journal=opened.journal, baselines=False)
    (tmp_path / "made").mkdir()
    made = tiny_consortium(tmp_path / "made", SITES, rounds=rounds)
    out = tmp_path / "out"
    journal = JsonLines(out / "events.jsonl")

    def rounds_done() -> int:
        return sum(line["event"] == "round" for line in journal.read()) if (out / "events.jsonl").exists() else 0

    with stock_flower(made, tmp_path / "flower") as flower:
        flower.start_superlink()
        for site in SITES:
            flower.register(site)
            flower.start_guarded(site, build_fab_from_disk(REPOSITORY))

        def run_until(n: int) -> None:
            flower.run(REPOSITORY, study=made.coordinator / "study.toml", out=out)
            wait(flower, lambda: rounds_done() >= n)

        run_until(1)
        flower.kill("superlink", child="flwr-serverapp")
        run_until(2)
        flower.kill("east")  # the site, and the SuperNode that it started; Flower says so at once, and the run ends
        wait(flower, lambda: not flower.runs())
        flower.start_guarded("east")
        run_until(3)
        flower.kill("superlink")
        flower.start_superlink()
        run_until(4)
        flower.kill("north", child="flower-supernode")
        wait(flower, lambda: flower.running["north"].poll() is not None)  # it ends with its SuperNode
        wait(flower, lambda: not flower.runs())
        flower.start_guarded("north")
        flower.run(REPOSITORY, study=made.coordinator / "study.toml", out=out)
        wait(flower, (out / "report.html").exists)
        assert final_digests(out, study) == final_digests(alone / "run", study)


@pytest.mark.stock
def test_a_superlink_starts_no_second_superexec_but_has_one_again_after_its_own_restart(tmp_path: Path) -> None:
    """Why `docs/stock_flower.md` has the SuperLink started again where its SuperExec died."""
    (tmp_path / "made").mkdir()
    made = tiny_consortium(tmp_path / "made", SITES, rounds=1)
    with stock_flower(made, tmp_path / "flower") as flower:
        flower.start_superlink()
        wait(flower, lambda: flower.below_superlink(SUPEREXEC))
        flower.kill("superlink", child=SUPEREXEC)
        end = monotonic() + WITHOUT_S
        wait(flower, lambda: not flower.below_superlink(SUPEREXEC))
        while monotonic() < end:
            assert not flower.below_superlink(SUPEREXEC)
            assert flower.running["superlink"].poll() is None
            sleep(0.5)
        flower.kill("superlink")
        flower.start_superlink()
        wait(flower, lambda: flower.below_superlink(SUPEREXEC))


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
