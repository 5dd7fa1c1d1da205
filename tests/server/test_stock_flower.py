"""The same study under an unmodified SuperLink, SuperNodes and `flwr run .`: equal to one process, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.opening import open_run
from simulations.run import simulate
from simulations.tiny_study import tiny_consortium, write_cases, write_study
from tests.deployment import REPOSITORY, until
from tests.simulations.test_over_flower import final_digests
from tests.stock import stock_flower

SITES = ("east", "north")


@pytest.mark.stock
@pytest.mark.timeout(900)
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
            flower.start_supernode(site)
        flower.run(REPOSITORY, study=made.coordinator / "study.toml", out=out)
        try:
            until((out / "report.html").exists, seconds=800)
        except TimeoutError as error:
            raise AssertionError(flower.tails()) from error
    assert final_digests(out, study) == final_digests(alone / "run", study)
