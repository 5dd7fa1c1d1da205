"""The cohort of a simulation: each row goes to its hospital, and those of none are counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config.gate import GateConfig
from common.errors import ConfigError
from server.checkpoint import CheckpointStore
from simulations.run import Cohort, split_cohort
from tests.client.cases import STUDY, study

WITH_SITE = study(STUDY, ('title = "Small"', 'title = "Small"\nsite_column = "site"'))

CSV = """case_id,site,malignant,age,sex
p1,north,0,60,f
p2,south,1,61,m,one cell too many
,,,,

p3,mars,1,62,f
p4, north ,1
p5,,0,63,m
"""


def split(folder: Path, text: str, of=WITH_SITE):
    (folder / "cases.csv").write_text(text)
    store = CheckpointStore(folder / "checkpoints", "d" * 64)
    configs = split_cohort(of, Cohort(folder / "cases.csv", folder), folder / "out", store, 1)
    unassigned = store.load("unassigned")
    assert unassigned is not None
    return configs, unassigned.values


def test_every_row_goes_to_its_site_or_is_counted(tmp_path: Path):
    configs, unassigned = split(tmp_path, CSV)
    rows = {site: config.manifest.read_text().splitlines()[1:] for site, config in configs.items()}
    assert {site: [row.split(",")[0] for row in listed] for site, listed in rows.items()} == {
        "north": ["p1", "p4"],
        "south": ["p2"],
        "west": [],
    }
    assert unassigned == {"n_listed": 2, "exclusions": {"site_unknown": 2}}


def test_a_study_of_any_length_is_within_the_rules_of_simulated_hospitals(tmp_path: Path):
    longer = study(STUDY, ('title = "Small"', 'title = "Small"\nsite_column = "site"'), ("rounds = 2", "rounds = 2500"))
    assert max(entry.rounds for entry in longer.models) == 2500
    configs, _ = split(tmp_path, CSV, longer)
    assert {config.gate.max_rounds for config in configs.values()} == {2500}
    configs, _ = split(tmp_path, CSV)
    assert {config.gate for config in configs.values()} == {GateConfig()}


def test_nobody_is_counted_where_all_have_a_site(tmp_path: Path):
    _, unassigned = split(tmp_path, "\n".join(CSV.splitlines()[:3]))
    assert unassigned == {"n_listed": 0, "exclusions": {}}


@pytest.mark.parametrize("of", [WITH_SITE, study()])
def test_without_the_column_that_names_the_site_nothing_can_be_split(tmp_path: Path, of):
    with pytest.raises(ConfigError, match="has no column"):
        split(tmp_path, CSV.replace("site", "centre"), of)


def test_a_file_that_is_not_there(tmp_path: Path):
    store = CheckpointStore(tmp_path / "checkpoints", "d" * 64)
    with pytest.raises(ConfigError, match="cannot be read"):
        split_cohort(WITH_SITE, Cohort(tmp_path / "absent.csv", tmp_path), tmp_path / "out", store, 1)
