"""The study as a Flower `ServerApp`, and `GridFederation`: a federation over the Grid of an unmodified SuperLink.

For consortia that operate a SuperLink already; ``docs/stock_flower.md`` says which protection is lost there. The study
itself is the same: `server.study` cannot tell this federation from `server.coordinator.FlowerFederation`.

A SuperLink knows nodes by numbers. Which hospital a node is, it says itself when it is greeted: nothing but the node's
key, registered with the SuperLink, vouches for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TypeVar, cast

import httpx
from flwr.app import Context, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp

from common.config.loading import digest
from common.errors import Code, ConfigError, FederationError, MessageError
from common.federation import Answer
from common.messages import REPLIES, Hello, Refusal, Reply, Request, Welcome
from common.version import versions
from common.wire import Limits, decode_message, encode_message, wire_size

MESSAGE_TYPE = "query"
POLL_S = (0.2, 0.5, 1.0, 2.0)
"""Pauses between two questions to the SuperLink; the last one is repeated."""

GREETING_S = 120.0
"""How long a node may take to say who it is: stock Flower starts a process for it."""

GRACE_S = 60.0
"""How long one call to the SuperLink may take beyond the deadline that it serves, before it counts as gone."""

Found = TypeVar("Found")
OnEvent = Callable[[str], None]

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator, unused-ignore]  # flwr is read as Any
def main(grid: Grid, context: Context) -> None:
    """Run, or go on with, the study that the run's configuration names."""
    run_over_grid(grid, context.run_config)


def run_over_grid(grid: Grid, run_config: Mapping[str, object]) -> None:
    """Run the study file ``study`` and write checkpoints, journal and report into the folder ``out``.

    A folder that holds a run of this study is gone on with from its last complete round.

    Raises
    ------
    ConfigError
        If the configuration names no study or no folder.
    FederationError
        Naming the hospitals that no node speaks for, and all of `server.study.run_study`.
    """
    from server.courses import groups_of
    from server.opening import open_run
    from server.report import write_report
    from server.results import load_results, write_tables
    from server.study import run_study

    missing = [name for name in ("study", "out") if not run_config.get(name)]
    if missing:
        raise ConfigError("run config", [f"{name}: missing, give --run-config '{name}=\"...\"'" for name in missing])
    out = Path(str(run_config["out"]))
    opened = open_run(Path(str(run_config["study"])), out, resume=True)

    def note(text: str) -> None:
        opened.journal.write("note", text=text)

    federation = GridFederation(grid, digest(opened.study), on_event=note)
    federation.require([site.name for site in opened.study.sites], deadline_s=opened.study.federated.join_deadline_s)
    run_study(opened.study, federation, groups=groups_of(opened.study), store=opened.store, journal=opened.journal)
    results = load_results([out])
    write_tables(results, out)
    write_report(results, out / "report.html")


@dataclass(frozen=True)
class _Asked:
    """A request on its way."""

    message_id: str
    size: int
    at: float


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
        """See `common.federation.Federation.ask`. A site whose node came back under another number is found again."""
        end = monotonic() + deadline_s
        online = self._online(deadline_s)
        if any(self._nodes.get(site) not in online for site in requests):
            self._greet(online, min(GREETING_S, deadline_s / 2))
        asked = self._send({self._nodes[site]: requests[site] for site in sorted(requests) if site in self._nodes}, end)
        for site in sorted(requests):
            on_its_way = asked.get(self._nodes.get(site, -1))
            if on_its_way is None:
                yield Answer(site, Refusal(Code.SITE_SILENT), 0, 0, 0.0)
            else:
                reply, size = self._reply(site, on_its_way, end)
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
            reply, _ = self._reply("a node", on_its_way, end)
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
            node: _Asked(message_id, encoded[id(request)].size, at)
            for (node, request), message_id in zip(requests.items(), ids, strict=False)
            if message_id
        }

    def _reply(self, who: str, asked: _Asked, end: float) -> tuple[Reply, int]:
        """The reply and its size; what Flower reports instead of one is a refusal."""
        message = self._await(asked.message_id, end)
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
            with suppress(httpx.HTTPError):  # asked again until the deadline
                for message in _bounded(lambda: list(self._grid.pull_messages([message_id])), max(left, 0) + GRACE_S):
                    return message
            if left <= 0:
                return None
            sleep(min(POLL_S[min(attempt, len(POLL_S) - 1)], left))
            attempt += 1


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
