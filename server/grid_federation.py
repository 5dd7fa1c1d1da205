"""`GridFederation`: a federation over the Grid of an unmodified SuperLink.

The study itself is the same: `server.study` cannot tell this federation from `server.coordinator.FlowerFederation`.

A SuperLink knows nodes by numbers. Which hospital a node is, it says itself when it is greeted: nothing but the node's
key, registered with the SuperLink, vouches for it.

A SuperLink hands a message to a node once. Where the node dies with it, the SuperLink answers in its place, and nobody
asks again. So the request is put on its way again as soon as the hospital's node is back, until the deadline of the
question.

    law: a site that goes away and comes back before the deadline answers as one that never left; a reply to an earlier
         putting of the request is never taken.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import TypeVar, cast

import httpx
from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from common.errors import Code, FederationError, MessageError
from common.federation import Answer
from common.messages import REPLIES, Hello, Refusal, Reply, Request, Welcome
from common.version import versions
from common.wire import Limits, decode_message, encode_message, wire_size

MESSAGE_TYPE = "query"
POLL_S = (0.2, 0.5, 1.0)
"""Pauses between two questions to the SuperLink; the last one is repeated. A node that is gone and back in between is
not noticed: what it had fetched is asked again after the deadline."""

GREETING_S = 120.0
"""How long a node may take to say who it is: stock Flower starts a process for it."""

GRACE_S = 60.0
"""How long one call to the SuperLink may take beyond the deadline that it serves, before it counts as gone."""

REPEAT_S = (1.0, 30.0)
"""Pause before a lost request is put on its way again, the first one and the longest; it doubles."""

LOST = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)
"""Flower's answers in place of a node that died with the request, or in the middle of its reply."""

Found = TypeVar("Found")
OnEvent = Callable[[str], None]


@dataclass(frozen=True)
class _Asked:
    """A request on its way; ``losses`` counts how often it was lost."""

    node: int
    message_id: str
    size: int
    at: float
    losses: int = 0

    def again_after_s(self) -> float:
        first, longest = REPEAT_S
        return min(longest, first * 2.0 ** min(self.losses, 30))


class GridFederation:
    """`common.federation.Federation` over a stock Grid.

    Parameters
    ----------
    grid : Grid
    study_digest : str
        Of the study that nodes are greeted with; only nodes whose hospital approved it say who they are.
    on_event : callable
        Told in one sentence each what nobody else reports. What a node says in words is never among it.
    limits : Limits, optional
        What a reply may measure, once Flower has put it together.
    """

    def __init__(self, grid: Grid, study_digest: str, *, on_event: OnEvent, limits: Limits | None = None) -> None:
        self._grid = grid
        self._hello = Hello(study_digest, versions())
        self._on_event = on_event
        self._limits = limits or Limits()
        self._nodes: dict[str, int] = {}
        self._refused: dict[int, str] = {}

    def sites(self) -> tuple[str, ...]:
        """Names of the hospitals whose node is connected, sorted; nodes that are new are asked for theirs."""
        online = self._online(GRACE_S)
        self._greet(online, GREETING_S)
        return tuple(sorted(site for site, node in self._nodes.items() if node in online))

    def require(self, sites: Sequence[str], *, deadline_s: float) -> None:
        """Wait until a node speaks for each of ``sites``.

        Raises
        ------
        FederationError
            Naming those that are missing at the deadline, and how the other nodes refused.
        """
        end = monotonic() + deadline_s
        told: tuple[str, ...] = ()
        while missing := tuple(sorted(set(sites) - set(self.sites()))):
            if monotonic() > end:
                codes = f"; nodes that refused: {', '.join(sorted(self._refused.values()))}" if self._refused else ""
                raise FederationError(f"not connected after {deadline_s:g} s: {', '.join(missing)}{codes}")
            if missing != told:
                self._on_event(f"waiting for {', '.join(missing)}")
                told = missing
            sleep(POLL_S[-1])

    def ask(self, requests: Mapping[str, Request], *, deadline_s: float) -> Iterator[Answer]:
        """See `common.federation.Federation.ask`.

        A site whose node came back, under another number perhaps, is found and asked again until the deadline.
        """
        end = monotonic() + deadline_s
        online = self._online(deadline_s)
        if any(self._nodes.get(site) not in online for site in requests):
            self._greet(online, min(GREETING_S, deadline_s / 2))
        known = {site: self._nodes[site] for site in sorted(requests) if site in self._nodes}
        asked = self._send({node: requests[site] for site, node in known.items()}, end)
        question = _Question(requests, end)
        for site, node in known.items():
            question.asked[site] = asked.get(node) or _Asked(node, "", 0, monotonic())
            if node not in asked:  # the SuperLink did not take it
                self._lose(site, question)
        for site in sorted(requests):
            if site not in question.asked:
                yield Answer(site, Refusal(Code.SITE_SILENT), 0, 0, 0.0)
            else:
                message = self._insist(site, question)
                on_its_way = question.asked.pop(site)
                reply, size = self._read(site, on_its_way, message)
                yield Answer(site, reply, on_its_way.size, size, monotonic() - on_its_way.at)

    # ----------------------------------------------------------------------------------------------------------

    def _online(self, patience_s: float) -> set[int]:
        return set(_bounded(lambda: list(self._grid.get_node_ids()), patience_s + GRACE_S))

    def _greet(self, online: set[int], patience_s: float) -> None:
        """Ask every node that is new for the name of its hospital."""
        new = sorted(online - set(self._nodes.values()) - set(self._refused))
        end = monotonic() + patience_s
        asked = self._send(dict.fromkeys(new, self._hello), end)
        for node, on_its_way in asked.items():
            reply, _ = self._read("a node", on_its_way, self._await(on_its_way.message_id, end))
            if isinstance(reply, Welcome):
                self._know(reply.site, node, online)
            elif isinstance(reply, Refusal) and reply.code != Code.SITE_SILENT:
                self._refused[node] = reply.code

    def _know(self, site: str, node: int, online: set[int]) -> None:
        if self._nodes.get(site) in online:
            raise FederationError(f"two nodes say that they are {site}", code=Code.SITE_UNKNOWN)
        self._nodes[site] = node

    def _send(self, requests: Mapping[int, Request], end: float) -> dict[int, _Asked]:
        """Put every request on its way; one that several nodes get is encoded once."""
        encoded = {id(request): encode_message(request) for request in requests.values()}
        left = max(end - monotonic(), 1.0)
        messages = [
            Message(encoded[id(request)].record, dst_node_id=node, message_type=MESSAGE_TYPE, ttl=left + GRACE_S)
            for node, request in requests.items()
        ]
        if not messages:
            return {}
        ids = _bounded(lambda: list(self._grid.push_messages(messages)), left + GRACE_S)
        at = monotonic()
        return {
            node: _Asked(node, message_id, encoded[id(request)].size, at)
            for (node, request), message_id in zip(requests.items(), ids, strict=False)
            if message_id
        }

    def _read(self, who: str, asked: _Asked, message: Message | None) -> tuple[Reply, int]:
        """The reply and its size; what Flower reports instead of one is a refusal."""
        if message is None:
            self._on_event(f"{who} did not answer in {monotonic() - asked.at:.0f} s")
            return Refusal(Code.SITE_SILENT), 0
        if message.has_error():  # its reason is a sentence of the other side, which may hold what must not leave it
            self._on_event(f"{who} answered with Flower's error {message.error.code}")
            refused = message.error.code == ErrorCode.INVALID_FAB
            return Refusal(Code.BUNDLE_NOT_ALLOWED if refused else Code.SITE_SILENT), 0
        try:
            reply = decode_message(message.content, self._limits)
            if not isinstance(reply, REPLIES):
                raise MessageError(f"{type(reply).__name__} is not a reply")
        except MessageError as error:
            self._on_event(f"reply of {who} cannot be read: {error}")
            return Refusal(error.code), 0
        return cast(Reply, reply), wire_size(message.content)

    def _await(self, message_id: str, end: float) -> Message | None:
        """The message that answers one; only this one is fetched, so the others wait in the SuperLink."""
        attempt = 0
        while True:
            left = end - monotonic()
            message = self._fetch(message_id, left)
            if message is not None or left <= 0:
                return message
            sleep(min(POLL_S[min(attempt, len(POLL_S) - 1)], left))
            attempt += 1

    def _fetch(self, message_id: str, left: float) -> Message | None:
        with suppress(httpx.HTTPError):  # asked again until the deadline
            for message in _bounded(lambda: list(self._grid.pull_messages([message_id])), max(left, 0) + GRACE_S):
                return message
        return None

    def _insist(self, site: str, question: _Question) -> Message | None:
        """As `_await`, but what was lost with its node is put on its way again once the node is back."""
        attempt = 0
        while True:
            left = question.end - monotonic()
            if site not in question.lost:
                message = self._fetch(question.asked[site].message_id, left)
                if message is not None and not (message.has_error() and message.error.code in LOST):
                    return message
                if message is not None:
                    self._lose(site, question)
            if left <= 0:
                return None
            sleep(min(POLL_S[min(attempt, len(POLL_S) - 1)], left))
            attempt += 1
            with suppress(httpx.HTTPError):  # looked again after the next pause
                self._look_after(question)

    def _look_after(self, question: _Question) -> None:
        """Notice every node that is gone, and ask again whoever is back."""
        left = max(question.end - monotonic(), 1.0)
        online = self._online(left)
        for site, asked in question.asked.items():
            if asked.node not in online and site not in question.lost:
                self._lose(site, question)
        if any(self._nodes[site] not in online for site in question.lost):
            self._greet(online, min(GREETING_S, left / 2))
        for site in [site for site, at in question.lost.items() if self._nodes[site] in online and at <= monotonic()]:
            former, node = question.asked[site], self._nodes[site]
            sent = self._send({node: question.requests[site]}, question.end)
            if node in sent:
                question.asked[site] = replace(sent[node], at=former.at, losses=former.losses + 1)
                del question.lost[site]
                self._on_event(f"{site} is asked again")

    def _lose(self, site: str, question: _Question) -> None:
        question.lost[site] = monotonic() + question.asked[site].again_after_s()
        self._on_event(f"the request to {site} is lost with its node; asked again when it is back")


class _Question:
    """Requests that are on their way at the same time, until ``end``.

    Attributes
    ----------
    asked : dict of site to _Asked
        Whose answer was not taken yet, and under which message it will come.
    lost : dict of site to float
        Those of them that must be asked again, and from when on.
    """

    def __init__(self, requests: Mapping[str, Request], end: float) -> None:
        self.requests = requests
        self.end = end
        self.asked: dict[str, _Asked] = {}
        self.lost: dict[str, float] = {}


def _bounded(call: Callable[[], Found], seconds: float) -> Found:
    """The result of a call to the SuperLink, which Flower's client alone would repeat for ever.

    Raises
    ------
    FederationError
        If there is none in time.
    """
    found: list[Found] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            failed.append(error)

    thread = threading.Thread(target=run, name="fedrad-grid", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise FederationError(f"the SuperLink did not answer in {seconds:.0f} s")
    if failed:
        raise failed[0]
    return found[0]
