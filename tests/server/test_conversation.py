"""Who answers, who is awaited, who is refused: with scripted sites."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest

from common.errors import Code, FederationError
from common.journal import JsonLines
from common.messages import Done, Finish, Hello, Refusal, Reply, Request, Welcome
from server.conversation import ATTEMPTS, Conversation, Refused
from simulations.in_process import InProcessFederation

DIGEST = "d" * 64
HELLO = Hello(DIGEST, {})
SITES = ("a", "b", "c")


class Scripted:
    """Answers with the entries of a script, the last one for ever."""

    def __init__(self, *script: Reply | Callable[[], Reply]) -> None:
        self.script = list(script)
        self.asked: list[Request] = []

    def answer(self, request: Request) -> Reply:
        self.asked.append(request)
        reply = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        return reply() if callable(reply) else reply


def welcome(site: str) -> Welcome:
    return Welcome(site, {})


SILENT = Refusal(Code.SITE_SILENT)


def talk(folder: Path, members: dict[str, Scripted], *, threads: int = 1) -> Conversation:
    return Conversation(InProcessFederation(members, threads=threads), JsonLines(folder / "events.jsonl"), DIGEST)


def insist(conversation: Conversation, sites=SITES) -> list[tuple[str, Welcome | Refused]]:
    return list(conversation.insist(dict.fromkeys(sites, HELLO), Welcome, deadline_s=1, phase="hello"))


def test_answers_come_sorted_whoever_was_asked_first(tmp_path: Path):
    for order in permutations(SITES):
        conversation = talk(tmp_path, {site: Scripted(welcome(site)) for site in order}, threads=3)
        assert [site for site, _ in insist(conversation, order)] == ["a", "b", "c"]


@pytest.mark.parametrize("silent", [["a"], ["b"], ["c"], ["a", "c"], ["a", "b", "c"]])
def test_a_silent_site_is_asked_again_and_the_order_stays(tmp_path: Path, silent: list[str]):
    members = {
        site: Scripted(SILENT, SILENT, welcome(site)) if site in silent else Scripted(welcome(site)) for site in SITES
    }
    found = insist(talk(tmp_path, members))
    assert [(site, type(reply)) for site, reply in found] == [(site, Welcome) for site in SITES]
    assert {site: len(member.asked) for site, member in members.items()} == {
        site: 3 if site in silent else 1 for site in SITES
    }
    awaited = [line for line in JsonLines(tmp_path / "events.jsonl").read() if line["event"] == "awaited"]
    assert sorted((line["site"], line["attempt"]) for line in awaited) == [(s, n) for s in silent for n in (1, 2)]


def test_answers_before_a_silent_site_are_handed_out_at_once(tmp_path: Path):
    members = {"a": Scripted(welcome("a")), "b": Scripted(SILENT, welcome("b")), "c": Scripted(welcome("c"))}
    answers = talk(tmp_path, members).insist(dict.fromkeys(SITES, HELLO), Welcome, deadline_s=1, phase="hello")
    assert next(answers)[0] == "a"
    assert len(members["b"].asked) <= 1


def test_a_site_that_stays_silent_is_named_after_its_attempts(tmp_path: Path):
    members = {"a": Scripted(welcome("a")), "b": Scripted(SILENT), "c": Scripted(welcome("c"))}
    found = dict(insist(talk(tmp_path, members)))
    assert found["b"] == Refused("b", Code.SITE_SILENT, "Hello")
    assert len(members["b"].asked) == ATTEMPTS
    conversation = talk(tmp_path, members)
    with pytest.raises(FederationError, match=r"hello: site b refused Hello: site_silent$"):
        conversation.all_of(dict.fromkeys(SITES, HELLO), Welcome, deadline_s=1, phase="hello")


def test_every_refusal_is_named_with_its_code(tmp_path: Path):
    members = {
        "a": Scripted(Refusal(Code.VERSION_MISMATCH)),
        "b": Scripted(welcome("b")),
        "c": Scripted(Refusal(Code.STUDY_NOT_APPROVED)),
    }
    with pytest.raises(FederationError) as caught:
        talk(tmp_path, members).all_of(dict.fromkeys(SITES, HELLO), Welcome, deadline_s=1, phase="hello")
    assert str(caught.value) == (
        "hello: site a refused Hello: version_mismatch; site c refused Hello: study_not_approved"
    )
    assert all(len(member.asked) == 1 for member in members.values())


def test_another_kind_of_reply_is_a_message_at_fault(tmp_path: Path):
    members = {"a": Scripted(welcome("a")), "b": Scripted(Done()), "c": Scripted(welcome("c"))}
    found = dict(insist(talk(tmp_path, members)))
    assert found["b"] == Refused("b", Code.MESSAGE, "Hello")
    (line,) = [entry for entry in JsonLines(tmp_path / "events.jsonl").read() if entry.get("code")]
    assert (line["site"], line["reply"], line["code"]) == ("b", "Refusal", "message")


def test_a_site_that_breaks_or_does_not_exist_is_silent_and_the_others_go_on(tmp_path: Path):
    def broken() -> Reply:
        raise ZeroDivisionError("bug")

    found = dict(insist(talk(tmp_path, {"a": Scripted(welcome("a")), "b": Scripted(broken)})))
    assert isinstance(found["a"], Welcome)
    assert [found[site] for site in "bc"] == [Refused(site, Code.SITE_SILENT, "Hello") for site in "bc"]


def test_every_answer_is_in_the_journal_with_its_bytes(tmp_path: Path):
    conversation = talk(tmp_path, {site: Scripted(welcome(site)) for site in SITES})
    insist(conversation)
    asked, *lines = JsonLines(tmp_path / "events.jsonl").read()
    assert (asked["event"], asked["phase"], asked["sites"]) == ("asked", "hello", ",".join(SITES))
    assert [(line["event"], line["site"], line["request"], line["reply"]) for line in lines] == [
        ("answer", site, "Hello", "Welcome") for site in SITES
    ]
    assert all(line["bytes_up"] > 0 and line["bytes_down"] > 0 and line["seconds"] >= 0 for line in lines)
    assert {line["phase"] for line in lines} == {"hello"}
    assert {line["course"] for line in lines} == {""}


def test_every_answer_is_noted_under_its_course(tmp_path: Path):
    conversation = talk(tmp_path, {site: Scripted(Done()) for site in SITES})
    requests: dict[str, Request] = {site: Finish("0" * 64, "completed") for site in SITES}
    courses = {site: f"local-{site}" for site in SITES}
    list(conversation.ask(requests, Done, deadline_s=1, phase="finish", course=courses))
    list(conversation.ask(requests, Done, deadline_s=1, phase="finish", course="federated"))
    lines = JsonLines(tmp_path / "events.jsonl").read()
    noted = [(line["site"], line["course"]) for line in lines if line["event"] == "answer"]
    assert noted == [*courses.items(), *((site, "federated") for site in SITES)]


def test_requests_differ_by_site_where_they_do(tmp_path: Path):
    members = {site: Scripted(Done()) for site in SITES}
    requests = {site: Finish(site * 64, "completed") for site in SITES}
    list(talk(tmp_path, members).ask(requests, Done, deadline_s=1, phase="finish"))
    for site, member in members.items():
        (asked,) = member.asked
        assert isinstance(asked, Finish)
        assert asked.study_digest == site * 64
