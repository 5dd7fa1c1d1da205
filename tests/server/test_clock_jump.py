"""Clocks that jump while a request is on its way: what is waited for is measured by a clock that does not jump."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from flwr.supercore import date

from server.link_state import FleetState
from server.spool import SpooledStore
from tests.server.test_link_state import Reply, pull, send

Jump = Callable[[float], None]


@pytest.fixture
def jump(monkeypatch: pytest.MonkeyPatch) -> Jump:
    """Move the clock that Flower and the link state look at by so many seconds."""
    original, moved = date.now, [0.0]

    def now() -> datetime:
        return original() + timedelta(seconds=moved[0])

    for module in list(sys.modules.values()):
        if getattr(module, "now", None) is original:
            monkeypatch.setattr(module, "now", now)

    def by(seconds: float) -> None:
        moved[0] = seconds

    return by


@pytest.mark.parametrize("seconds", [-86_400.0, -600.0, 600.0, 86_400.0])
@pytest.mark.parametrize("when", ["sent", "fetched"])
def test_a_reply_is_taken_whatever_the_clock_did_meanwhile(
    spool: SpooledStore, jump: Jump, seconds: float, when: str
) -> None:
    state = FleetState(spool, lambda _: None)
    state.sync({"east": "key of east"})
    message_id = send(state, "east")
    if when == "sent":
        jump(seconds)
    (request,) = pull(state, "east")
    jump(seconds)
    assert Reply(state, request).push()
    assert state.reply_to(message_id) is not None


@pytest.mark.parametrize("seconds", [-86_400.0, 86_400.0])
def test_a_site_whose_clock_was_wrong_is_online_again_with_its_next_heartbeat(
    spool: SpooledStore, jump: Jump, seconds: float
) -> None:
    state = FleetState(spool, lambda _: None)
    state.sync({"east": "key of east"})
    node = state.node_of("east")
    assert node is not None
    state.activate_node(node, 30.0)
    assert state.online() == {"east"}
    jump(seconds)
    state.acknowledge_node_heartbeat(node, 30.0)
    assert state.online() == {"east"}
