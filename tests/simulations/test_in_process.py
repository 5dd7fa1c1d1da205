"""The federation of objects keeps the contract of the seam: sorted, counted, and no site's failure is another's."""

from __future__ import annotations

import threading

import pytest

from common.codec import encode, encoded_size
from common.errors import Code
from common.messages import Done, Finish, Refusal, Reply, Request, StatisticSums
from simulations.in_process import InProcessFederation

FINISH = Finish("d" * 64, "completed")


class Says:
    def __init__(self, reply: Reply | Exception) -> None:
        self.reply = reply
        self.heard: list[Request] = []

    def answer(self, request: Request) -> Reply:
        self.heard.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def ask(members: dict[str, Says], *sites: str, **settings: object):
    with InProcessFederation(members, **settings) as federation:  # type: ignore[arg-type]
        return list(federation.ask(dict.fromkeys(sites or members, FINISH), deadline_s=1))


@pytest.mark.parametrize("threads", [1, 4])
def test_sites_and_answers_are_sorted(threads: int):
    members = {site: Says(Done()) for site in ("c", "a", "b")}
    assert InProcessFederation(members).sites() == ("a", "b", "c")
    assert [answer.site for answer in ask(members, threads=threads)] == ["a", "b", "c"]


def test_a_message_goes_through_the_codec_both_ways_and_is_counted():
    member = Says(Done())
    (answer,) = ask({"a": member})
    assert member.heard[0] is not FINISH
    assert member.heard[0] == Finish(FINISH.study_digest, FINISH.outcome) or vars(member.heard[0]) == vars(FINISH)
    assert answer.bytes_down == encoded_size(encode(FINISH))
    assert answer.bytes_up == encoded_size(encode(Done()))
    assert answer.seconds >= 0


def test_what_cannot_travel_and_what_breaks_is_silence_of_one_site():
    members = {
        "a": Says(Done()),
        "b": Says(RuntimeError("bug")),
        "c": Says(StatisticSums(1, {"x": "no array"})),  # type: ignore[dict-item]  # what is tested
        "d": Says(Done()),
    }
    replies = {answer.site: answer.reply for answer in ask(members, "a", "b", "c", "d", "nobody")}
    assert {site: type(reply) for site, reply in replies.items()} == {
        "a": Done, "b": Refusal, "c": Refusal, "d": Done, "nobody": Refusal,
    }  # fmt: skip
    assert {reply.code for reply in replies.values() if isinstance(reply, Refusal)} == {Code.SITE_SILENT}


def test_a_disturbance_takes_the_place_of_one_sites_answer():
    members = {site: Says(Done()) for site in "ab"}
    answers = ask(members, disturb=lambda site, request: Refusal(Code.GATE) if site == "a" else None)
    assert [type(answer.reply) for answer in answers] == [Refusal, Done]
    assert not members["a"].heard


def test_sites_are_asked_at_the_same_time():
    """Each of two sites answers only once the other was asked."""
    both = threading.Barrier(2, timeout=20)

    class Meets:
        def answer(self, request: Request) -> Reply:
            both.wait()
            return Done()

    with InProcessFederation({"a": Meets(), "b": Meets()}, threads=2) as federation:
        replies = [answer.reply for answer in federation.ask({"a": FINISH, "b": FINISH}, deadline_s=1)]
    assert [type(reply) for reply in replies] == [Done, Done]
