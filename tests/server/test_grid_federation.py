"""`GridFederation` and the apps that pyproject.toml names: everything of stock Flower that needs no processes."""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import monotonic

import httpx
import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import ServerApp
from flwr.supercore.object_ref import load_app
from flwr.supercore.task_identity import TaskIdentity

from client.flower_app import SITE_VARIABLE
from client.flower_app import app as client_app
from common.config.loading import digest, load
from common.config.study import StudyConfig
from common.errors import Code, ConfigError, FederationError
from common.federation import Answer
from common.messages import Finish, Hello, Refusal, Welcome
from common.wire import Limits, decode_message, encode_message
from server import flower_app, grid_federation
from server.flower_app import run_over_grid
from server.grid_federation import GridFederation
from server.opening import open_run
from simulations.run import simulate
from simulations.tiny_study import tiny_consortium, write_cases, write_study
from tests.deployment import REPOSITORY, until
from tests.over_flower import final_digests

SITES = ("east", "north")
DIGEST = "0" * 64

Node = Callable[[Message], Message | None]


@pytest.fixture(autouse=True)
def _as_in_a_server_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's processes know which run they belong to; a message cannot be made without."""
    monkeypatch.setattr(TaskIdentity, "_task_id", 1)
    monkeypatch.setattr(TaskIdentity, "_run_id", 1)
    monkeypatch.setattr(TaskIdentity, "_node_id", 1)


class MemoryGrid:
    """A Grid whose nodes are functions; a node that returns None stays silent."""

    def __init__(self, nodes: dict[int, Node]) -> None:
        self.nodes = nodes
        self.replies: dict[str, Message] = {}
        self.failing = 0
        self.pushed = 0

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            metadata = message.metadata
            sent = make_message(
                metadata=Metadata(1, "", 1, metadata.dst_node_id, "", "", 0.0, 1e12, metadata.message_type),
                content=message.content,
            )
            sent.metadata.__dict__["_message_id"] = f"m{self.pushed}-{metadata.dst_node_id}"
            self.pushed += 1
            ids.append(sent.metadata.message_id)
            reply = self.nodes[metadata.dst_node_id](sent)
            if reply is not None:
                self.replies[sent.metadata.message_id] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        if self.failing:
            self.failing -= 1
            raise httpx.ConnectError("gone")
        return [self.replies.pop(key) for key in message_ids if key in self.replies]


def named(site: str) -> Node:
    """A node that says its name and otherwise `Refusal(GATE)`."""

    def answer(message: Message) -> Message:
        hello = isinstance(decode_message(message.content, Limits()), Hello)
        reply = Welcome(site, {}) if hello else Refusal(Code.GATE)
        return Message(encode_message(reply).record, reply_to=message)

    return answer


def failing(code: int) -> Node:
    return lambda message: Message(Error(code=code, reason="/secret/path"), reply_to=message)


def federation(nodes: dict[int, Node]) -> tuple[GridFederation, MemoryGrid, list[str]]:
    grid, events = MemoryGrid(nodes), list[str]()
    return GridFederation(grid, DIGEST, on_event=events.append), grid, events  # type: ignore[arg-type]


def code_of(reply: object) -> str:
    assert isinstance(reply, Refusal), reply
    return str(reply.code)


def test_the_components_that_pyproject_names_are_the_apps() -> None:
    components = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["components"]
    assert isinstance(load_app(components["serverapp"], ImportError, REPOSITORY), ServerApp)
    assert isinstance(load_app(components["clientapp"], ImportError, REPOSITORY), ClientApp)


def test_nodes_say_who_they_are_and_the_rest_is_left_out() -> None:
    made, _, _ = federation({7: named("north"), 5: named("east"), 9: failing(2)})
    assert made.sites() == ("east", "north")


def test_two_nodes_of_one_name_stop_the_study() -> None:
    with pytest.raises(FederationError, match="two nodes say that they are east"):
        federation({5: named("east"), 7: named("east")})[0].sites()


def test_a_node_that_comes_back_under_another_number_is_found_again() -> None:
    made, grid, _ = federation({5: named("east")})
    assert made.sites() == ("east",)
    grid.nodes = {6: named("east")}
    (answer,) = made.ask({"east": Finish(DIGEST, "completed")}, deadline_s=5)
    assert code_of(answer.reply) == "gate"


def test_errors_of_flower_become_codes_and_their_text_goes_nowhere() -> None:
    made, grid, events = federation({5: named("east"), 7: named("north")})
    made.sites()
    grid.nodes = {5: failing(ErrorCode.CLIENT_APP_RAISED_EXCEPTION), 7: failing(ErrorCode.INVALID_FAB)}
    answers = list(made.ask(dict.fromkeys(SITES, Finish(DIGEST, "completed")), deadline_s=5))
    assert [code_of(answer.reply) for answer in answers] == ["site_silent", "bundle_not_allowed"]
    assert "secret" not in " ".join(events)


def test_silence_ends_at_the_deadline_and_names_the_site() -> None:
    made, grid, events = federation({5: named("east")})
    made.sites()
    grid.nodes = {5: lambda _: None}
    started = monotonic()
    (answer,) = made.ask({"east": Finish(DIGEST, "completed")}, deadline_s=0.5)
    assert code_of(answer.reply) == "site_silent"
    assert 0.5 <= monotonic() - started < 5
    assert "east did not answer" in events[-1]


class Mortal:
    """A node that dies with its first messages, for which Flower answers with ``code``."""

    def __init__(self, code: int, deaths: int) -> None:
        self.code, self.deaths = code, deaths
        self.asked: list[str] = []

    def __call__(self, message: Message) -> Message:
        self.asked.append(message.metadata.message_id)
        if len(self.asked) <= self.deaths:
            return failing(self.code)(message)
        return Message(encode_message(Refusal(Code.GATE)).record, reply_to=message)


@pytest.mark.parametrize("code", grid_federation.LOST)
def test_what_is_lost_with_a_node_is_asked_again_until_it_answers(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(grid_federation, "REPEAT_S", (0.01, 0.02))
    made, grid, events = federation({5: named("east"), 7: named("north")})
    made.sites()
    node = Mortal(code, deaths=2)
    grid.nodes[5] = node
    answers = list(made.ask(dict.fromkeys(SITES, Finish(DIGEST, "completed")), deadline_s=20))
    assert [(answer.site, code_of(answer.reply)) for answer in answers] == [("east", "gate"), ("north", "gate")]
    assert len(set(node.asked)) == 3
    assert events.count("east is asked again") == 2


def test_a_node_that_goes_in_the_middle_is_asked_again_when_it_is_back_and_its_late_reply_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is the second in order, so nobody waits for it while it is away and back; it may have another number."""
    monkeypatch.setattr(grid_federation, "POLL_S", (0.05,))
    monkeypatch.setattr(grid_federation, "REPEAT_S", (0.01, 0.02))
    late: list[Message] = []

    def slow(message: Message) -> None:
        late.append(Message(encode_message(Refusal(Code.PRIVACY)).record, reply_to=message))

    for number in (7, 8):
        made, grid, _ = federation({5: named("east"), 7: named("north")})
        made.sites()
        late.clear()
        grid.nodes = {5: slow, 7: slow}  # type: ignore[dict-item]
        looks: list[int] = []
        grid.get_node_ids = lambda grid=grid, looks=looks: looks.append(1) or list(grid.nodes)  # type: ignore
        answers = made.ask(dict.fromkeys(SITES, Finish(DIGEST, "completed")), deadline_s=30)
        found: list[str] = []

        def consume(answers: Iterator[Answer] = answers, found: list[str] = found) -> None:
            found.extend(code_of(answer.reply) for answer in answers)

        thread = threading.Thread(target=consume)
        thread.start()
        until(lambda looks=looks: len(looks) >= 2)  # type: ignore[misc]
        del grid.nodes[7]
        seen = len(looks)
        until(lambda looks=looks, seen=seen: len(looks) > seen + 1)  # type: ignore[misc]
        (former,) = [reply for reply in late if reply.metadata.reply_to_message_id.endswith("-7")]
        grid.replies[former.metadata.reply_to_message_id] = former  # the late one
        grid.nodes[number] = named("north")
        (first,) = [reply for reply in late if reply.metadata.reply_to_message_id.endswith("-5")]
        seen = len(looks)
        until(lambda looks=looks, seen=seen: len(looks) > seen + 2, seconds=30)  # type: ignore[misc]
        grid.replies[first.metadata.reply_to_message_id] = first
        thread.join(30)
        assert found == ["privacy", "gate"]


def test_a_node_that_stays_away_is_silent_at_the_deadline_and_is_asked_the_next_time() -> None:
    made, grid, events = federation({5: named("east"), 7: named("north")})
    made.sites()
    grid.nodes[5] = failing(ErrorCode.NODE_UNAVAILABLE)
    started = monotonic()
    answers = list(made.ask(dict.fromkeys(SITES, Finish(DIGEST, "completed")), deadline_s=0.6))
    assert [code_of(answer.reply) for answer in answers] == ["site_silent", "gate"]
    assert 0.6 <= monotonic() - started < 5
    assert "east did not answer" in events[-1]
    grid.nodes[5] = named("east")
    answers = list(made.ask(dict.fromkeys(SITES, Finish(DIGEST, "completed")), deadline_s=5))
    assert [code_of(answer.reply) for answer in answers] == ["gate", "gate"]


def test_a_superlink_that_is_gone_for_a_moment_is_asked_again() -> None:
    made, grid, _ = federation({5: named("east")})
    made.sites()
    grid.failing = 2
    (answer,) = made.ask({"east": Finish(DIGEST, "completed")}, deadline_s=10)
    assert code_of(answer.reply) == "gate"


def test_a_superlink_that_never_answers_does_not_hang_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_federation, "GRACE_S", 0.1)
    made, grid, _ = federation({5: named("east")})
    held = threading.Event()
    grid.get_node_ids = lambda: [held.wait(30)]  # type: ignore[method-assign, list-item]
    with pytest.raises(FederationError, match="the SuperLink did not answer"):
        made.sites()
    held.set()


def test_who_is_missing_is_named_with_what_other_nodes_refused() -> None:
    def refuses(message: Message) -> Message:
        return Message(encode_message(Refusal(Code.VERSION_MISMATCH)).record, reply_to=message)

    made, _, _ = federation({5: named("east"), 7: refuses})
    with pytest.raises(FederationError, match=r"not connected after 0 s: north; nodes that refused: version_mismatch"):
        made.require(SITES, deadline_s=0)


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


def call_on(message: Message, node_config: dict[str, str]) -> Message:
    return client_app(message, Context(1, 5, node_config, RecordDict(), {}))
