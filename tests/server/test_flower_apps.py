"""The ServerApp and the ClientApp that pyproject.toml names, as Flower calls them, without its processes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.supercore.object_ref import load_app

from client.flower_app import SITE_VARIABLE
from client.flower_app import app as client_app
from common.config.loading import digest, load
from common.config.study import StudyConfig
from common.errors import ConfigError
from common.journal import JsonLines
from common.messages import Hello
from common.version import versions
from common.wire import Limits, decode_message, encode_message
from server import flower_app
from server.flower_app import run_over_grid
from server.opening import open_run
from simulations.run import simulate
from simulations.tiny_study import tiny_consortium, write_cases, write_study
from tests.deployment import REPOSITORY
from tests.over_flower import final_digests
from tests.server.memory_grid import MemoryGrid, as_in_a_server_app, code_of

SITES = ("east", "north")
DIGEST = "0" * 64


@pytest.fixture(autouse=True)
def _as_in_a_server_app(monkeypatch: pytest.MonkeyPatch) -> None:
    as_in_a_server_app(monkeypatch)


def test_the_components_that_pyproject_names_are_the_apps() -> None:
    components = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"]
    assert isinstance(load_app(components["serverapp"], ImportError, REPOSITORY), ServerApp)
    assert isinstance(load_app(components["clientapp"], ImportError, REPOSITORY), ClientApp)


def test_a_run_needs_its_study_and_its_folder() -> None:
    with pytest.raises(ConfigError, match=r"study: missing") as caught:
        run_over_grid(MemoryGrid({}), {"study": "", "out": ""})  # type: ignore[arg-type]
    assert len(caught.value.faults) == 2


def test_a_client_without_a_site_file_sends_a_code_and_no_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SITE_VARIABLE, raising=False)
    request = encode_message(Hello(DIGEST, {})).record
    for node_config in ({}, {"site": "/secret/site.toml"}):
        assert code_of(decode_message(call(request, node_config).content, Limits())) == "config"


def call(record: RecordDict, node_config: dict[str, str]) -> Message:
    message = make_message(metadata=Metadata(1, "m", 1, 5, "", "", 0.0, 1e12, "query"), content=record)
    context = Context(run_id=1, node_id=5, node_config=node_config, state=RecordDict(), run_config={"site": "/evil"})
    return client_app(message, context)


def test_a_study_over_the_apps_ends_with_the_bits_of_one_process_and_resumes(tmp_path: Path) -> None:
    """ServerApp and ClientApp as Flower calls them, a site opened anew for every message, no processes."""
    alone = tmp_path / "alone"
    alone.mkdir()
    study_file, study = write_study(alone, SITES, rounds=2)
    opened = open_run(study_file, alone / "run", resume=False)
    simulate(study, write_cases(alone, SITES), out=alone / "run", journal=opened.journal, baselines=False)

    (tmp_path / "made").mkdir()
    made = tiny_consortium(tmp_path / "made", SITES, rounds=2)
    configs = {number: {"site": str(made.hospital(site) / "site.toml")} for number, site in enumerate(SITES, 5)}
    grid = MemoryGrid({n: lambda message, own=own: call_on(message, own) for n, own in configs.items()})  # type: ignore[misc]
    config = {"study": str(made.coordinator / "study.toml"), "out": str(tmp_path / "out")}
    flower_app.app(grid=grid, context=Context(1, 1, {}, RecordDict(), config))  # type: ignore[arg-type]
    assert load(made.coordinator / "study.toml", StudyConfig) == study
    assert digest(study)
    assert final_digests(tmp_path / "out", study) == final_digests(alone / "run", study)
    assert (tmp_path / "out" / "report.html").stat().st_size > 0
    flower_app.app(grid=grid, context=Context(1, 1, {}, RecordDict(), config))  # type: ignore[arg-type]
    assert final_digests(tmp_path / "out", study) == final_digests(alone / "run", study)


def test_a_site_opened_anew_for_every_message_takes_part_in_no_masked_sums(tmp_path: Path) -> None:
    """As under a plain SuperNode: it would lose its keys from step to step, and says so when it is greeted."""
    made = tiny_consortium(tmp_path, (*SITES, "west"), rounds=1, masked=True)
    hello = Hello(digest(load(made.coordinator / "study.toml", StudyConfig)), versions())
    answered = call(encode_message(hello).record, {"site": str(made.hospital("east") / "site.toml")})
    assert code_of(decode_message(answered.content, Limits())) == "gate"
    (line,) = JsonLines(made.hospital("east") / "state" / "log.jsonl").read()
    assert "use fedrad site supernode" in line["reason"]


def call_on(message: Message, node_config: dict[str, str]) -> Message:
    return client_app(message, Context(1, 5, node_config, RecordDict(), {}))
