"""`GridFederation`: what it makes of the nodes of a stock SuperLink and their answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic

import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from common.errors import Code, FederationError
from common.federation import Answer
from common.messages import Finish, Hello, Refusal, Welcome
from common.wire import Limits, decode_message, encode_message
from server import grid_federation
from server.grid_federation import GridFederation
from tests.deployment import until
from tests.server.memory_grid import MemoryGrid, Node, as_in_a_server_app, code_of

SITES = ("east", "north")
DIGEST = "0" * 64


@pytest.fixture(autouse=True)
def _as_in_a_server_app(monkeypatch: pytest.MonkeyPatch) -> None:
    as_in_a_server_app(monkeypatch)


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
