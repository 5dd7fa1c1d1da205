"""The federation over Flower with real site processes and mutual TLS on loopback, and what happens when things die."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from client.node import NodeConnection, serve
from common.arrays import Parameters
from common.codec import encode, encoded_size
from common.errors import Code, StateError
from common.federation import Answer
from common.messages import AskStatistic, Done, Finish, Hello, LocalUpdate, Refusal, StatisticSums, Train, Welcome
from server.coordinator import CoordinatorSettings, FlowerFederation
from tests.deployment import (
    REPOSITORY,
    SITES,
    answered,
    connection,
    consortium,
    kill,
    running,
    site_command,
    start,
    until,
)
from tests.deployment_site import doubled

MODEL = Parameters({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.linspace(0, 1, 7)})
TRAIN = Train("study", 0, "model", 1, MODEL)


@dataclass(frozen=True)
class Running:
    home: Path
    federation: FlowerFederation
    events: list[str]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Three site processes that stay for all tests of this file; each test leaves them idle."""
    home = tmp_path_factory.mktemp("consortium")
    consortium(home)
    events: list[str] = []
    with FlowerFederation(CoordinatorSettings(home, "127.0.0.1:0"), on_event=events.append) as federation:
        commands = [site_command(home, site, federation.port) for site in SITES]
        with running(*commands):
            assert federation.wait_for(SITES, deadline_s=30) == ()
            yield Running(home, federation, events)


def ask(federation: FlowerFederation, request, sites=SITES, deadline_s: float = 30.0) -> dict[str, Answer]:
    answers = list(federation.ask(dict.fromkeys(sites, request), deadline_s=deadline_s))
    assert [answer.site for answer in answers] == sorted(sites)
    return {answer.site: answer for answer in answers}


def test_every_site_answers_in_sorted_order_with_its_own_delta_and_the_sizes_of_the_codec(deployment):
    answers = ask(deployment.federation, TRAIN)
    for site, answer in answers.items():
        assert isinstance(answer.reply, LocalUpdate)
        expected = doubled(TRAIN, site)
        assert answer.reply.delta.digest() == expected.delta.digest()
        assert answer.bytes_down == encoded_size(encode(TRAIN))
        assert answer.bytes_up == encoded_size(encode(expected))
        assert 0 < answer.seconds < 30


def test_each_site_may_be_asked_something_else(deployment):
    requests = {"east": Hello("d", {}), "north": AskStatistic("d", 0, "sum", {}), "southern": Finish("d", "completed")}
    kinds = [type(answer.reply) for answer in deployment.federation.ask(requests, deadline_s=30)]
    assert kinds == [Welcome, StatisticSums, Done]


def test_large_parameters_cross_unchanged(deployment):
    model = Parameters({"w": np.random.default_rng(0).random(4_000_000, dtype=np.float32)})  # several chunks of Flower
    request = Train("study", 0, "model", 2, model)
    for site, answer in ask(deployment.federation, request).items():
        assert answer.reply.delta.digest() == doubled(request, site).delta.digest()


@pytest.mark.parametrize(("kind", "code"), [("case", Code.ROI_EMPTY), ("crash", Code.INTERNAL)])
def test_of_a_failure_only_the_code_leaves_the_site(deployment, kind, code):
    for answer in ask(deployment.federation, AskStatistic("d", 0, kind, {})).values():
        assert isinstance(answer.reply, Refusal)
        assert answer.reply.code == code
        assert answer.bytes_up == encoded_size(encode(Refusal(code)))


def test_a_site_that_nobody_knows_is_silent_at_once(deployment):
    answers = ask(deployment.federation, TRAIN, sites=("east", "nowhere"))
    assert answers["nowhere"].reply.code == Code.SITE_SILENT
    assert isinstance(answers["east"].reply, LocalUpdate)


def test_nothing_is_left_in_memory_after_a_round_and_after_one_that_was_given_up(deployment):
    state = deployment.federation._state
    ask(deployment.federation, TRAIN)
    given_up = deployment.federation.ask(dict.fromkeys(SITES, TRAIN), deadline_s=30)
    next(given_up)
    given_up.close()
    until(lambda: not state.object_store.store and not state.message_ins_store and not state.message_res_store)
    assert not state._complete


def test_a_site_is_heard_though_its_heartbeat_starved(deployment):
    """C code that holds the interpreter's lock stops the heartbeat; the reply counts whenever it comes."""
    federation = deployment.federation
    answers = federation.ask(dict.fromkeys(SITES, TRAIN), deadline_s=30)
    for node in federation._state.nodes.values():
        node.online_until = 0.0
    assert federation.sites() == ()
    assert all(isinstance(answer.reply, LocalUpdate) for answer in answers)
    assert federation.wait_for(SITES, deadline_s=20) == ()


def test_a_slow_site_is_silent_its_late_reply_is_dropped_and_it_takes_part_again(tmp_path):
    consortium(tmp_path, sites=("east",))
    events: list[str] = []
    with (
        FlowerFederation(CoordinatorSettings(tmp_path, "127.0.0.1:0"), on_event=events.append) as federation,
        running(site_command(tmp_path, "east", federation.port, "seconds=1.5")),
    ):
        assert federation.wait_for(["east"], deadline_s=30) == ()
        started = monotonic()
        answer = ask(federation, TRAIN, ["east"], deadline_s=0.5)["east"]
        assert answer.reply.code == Code.SITE_SILENT
        assert 0.5 <= monotonic() - started < 1.4
        assert any("east did not answer" in event for event in events)
        second = Train("study", 0, "model", 2, MODEL)
        late = ask(federation, second, ["east"], deadline_s=30)["east"]
        assert late.reply.round_number == 2
        assert not federation._state.object_store.store or federation.wait_for(["east"], deadline_s=1) == ()


def test_a_site_killed_while_it_answers_gets_the_same_request_when_it_returns(tmp_path):
    consortium(tmp_path)
    with FlowerFederation(CoordinatorSettings(tmp_path, "127.0.0.1:0")) as federation:
        commands = [site_command(tmp_path, site, federation.port) for site in ("east", "southern")]
        doomed = site_command(tmp_path, "north", federation.port, "kill_at=1")
        with running(*commands):
            victim = start(*doomed)
            assert federation.wait_for(SITES, deadline_s=30) == ()
            answers = federation.ask(dict.fromkeys(SITES, TRAIN), deadline_s=30)
            assert next(answers).site == "east"
            assert victim.wait(20) == -9
            with running(doomed):
                second = next(answers)
                assert second.site == "north"
                assert second.reply.delta.digest() == doubled(TRAIN, "north").delta.digest()
                assert isinstance(next(answers).reply, LocalUpdate)
            asked = answered(tmp_path, "north")
            assert len(asked) == 2
            assert len(set(asked)) == 2  # two processes, one request each


def test_a_site_that_was_never_here_is_waited_for_and_named(tmp_path):
    consortium(tmp_path)
    with (
        FlowerFederation(CoordinatorSettings(tmp_path, "127.0.0.1:0")) as federation,
        running(site_command(tmp_path, "east", federation.port)),
    ):
        said: list[str] = []
        assert federation.wait_for(["east"], deadline_s=60) == ()
        assert federation.wait_for(["east", "north"], deadline_s=2, on_event=said.append) == ("north",)
        assert said[0].startswith("waiting for north")
        assert federation.sites() == ("east",)
        answers = federation.ask(dict.fromkeys(["east", "north"], TRAIN), deadline_s=60)
        assert next(answers).site == "east"
        with running(site_command(tmp_path, "north", federation.port)):
            assert isinstance(next(answers).reply, LocalUpdate)  # it came within the deadline


def test_a_coordinator_killed_and_started_again_finds_the_same_site_processes(tmp_path):
    consortium(tmp_path)
    port = _free_port()
    log = tmp_path / "rounds.txt"
    command = ["tests.deployment_coordinator", str(tmp_path), str(port)]
    with running(*[site_command(tmp_path, site, port, "seconds=0.2") for site in SITES]) as sites:
        first = start(*command, "100")
        until(lambda: log.exists() and len(log.read_text().split()) >= 2)
        kill(first)
        log.unlink()
        started = monotonic()
        second = start(*command, "2")
        assert second.wait(30) == 0
        assert log.read_text().split() == ["1", "2"]
        assert monotonic() - started < 20
        assert all(site.poll() is None for site in sites)
        pids = {line.split()[1] for site in SITES for line in answered(tmp_path, site)}
        assert pids == {str(site.pid) for site in sites}


def test_a_site_that_computes_for_a_dead_coordinator_meets_the_next_one_meanwhile(tmp_path):
    consortium(tmp_path, sites=("east",))
    port = _free_port()
    settings = CoordinatorSettings(tmp_path, f"127.0.0.1:{port}")
    with running(site_command(tmp_path, "east", port, "seconds=9")):
        with FlowerFederation(settings) as former:
            assert former.wait_for(["east"], deadline_s=30) == ()
            former.ask({"east": TRAIN}, deadline_s=30)
            until(lambda: len(answered(tmp_path, "east")) == 1)
        with FlowerFederation(settings) as federation:
            started = monotonic()
            assert federation.wait_for(["east"], deadline_s=8) == ()
            assert monotonic() - started < 8  # long before the 9 s of the answer that nobody wants any more
            assert isinstance(ask(federation, Hello("d", {}), ["east"])["east"].reply, Welcome)


def test_a_node_says_for_whom_it_waits_and_stops_at_once(tmp_path):
    consortium(tmp_path, sites=("east",))
    port = _free_port()
    said: list[str] = []
    stop_it = threading.Event()
    arguments = {"stop": stop_it, "on_event": said.append}
    node = threading.Thread(target=serve, args=(connection(tmp_path, "east", port), lambda _: Done()), kwargs=arguments)
    node.start()
    until(lambda: bool(said))
    stop_it.set()
    node.join(5)
    assert not node.is_alive()
    assert said == [f"waiting for 127.0.0.1:{port}: [Errno 111] Connection refused"]


def test_a_refused_node_says_why_and_goes_on_trying(tmp_path):
    authority = consortium(tmp_path, sites=("east",))
    authority.revoke("east")
    said: list[str] = []
    stop_it = threading.Event()
    with FlowerFederation(CoordinatorSettings(tmp_path, "127.0.0.1:0")) as federation:
        here = connection(tmp_path, "east", federation.port)
        node = threading.Thread(
            target=serve, args=(here, lambda _: Done()), kwargs={"stop": stop_it, "on_event": said.append}
        )
        node.start()
        until(lambda: bool(said))
        assert "401 (certificate is not registered here, or was revoked or replaced)" in said[0]
        members = authority.registry.read()
        authority.registry.write("east", type(members["east"])(**{**vars(members["east"]), "revoked": False}))
        assert federation.wait_for(["east"], deadline_s=10) == ()
        stop_it.set()
        node.join(10)
        assert not node.is_alive()


def test_unusable_files_are_named_before_anything_is_sent(tmp_path):
    consortium(tmp_path, sites=("east", "north"))
    here = connection(tmp_path, "east", 1)
    mixed = NodeConnection(here.address, here.ca, here.node_key, tmp_path / "north" / "node.pem")
    for broken in (mixed, NodeConnection(here.address, tmp_path / "absent.pem", here.node_key, here.certificate)):
        with pytest.raises(StateError, match="cannot be used"):
            serve(broken, lambda _: Done(), stop=threading.Event(), on_event=print)


def test_the_node_does_not_import_torch():
    code = "import sys, client.node; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


class Proxy(threading.Thread):
    """An HTTP proxy that knows CONNECT and resolves every name to one local port."""

    def __init__(self, target: int) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.target, self.asked = target, []

    def run(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            self.asked.append(head.split(b"\r\n")[0])
            server = socket.create_connection(("127.0.0.1", self.target))
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self.copy, args=pair, daemon=True).start()

    @staticmethod
    def copy(source: socket.socket, sink: socket.socket) -> None:
        with source, sink:
            try:
                while piece := source.recv(65536):
                    sink.sendall(piece)
            except OSError:
                return


def test_a_node_goes_through_the_hospitals_proxy_by_name_and_tls_stays_closed(tmp_path, monkeypatch):
    consortium(tmp_path, sites=("east",), addresses=("coordinator.example",))
    stop_it = threading.Event()
    with FlowerFederation(CoordinatorSettings(tmp_path, "127.0.0.1:0")) as federation:
        proxy = Proxy(federation.port)
        proxy.start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.listener.getsockname()[1]}")
        here = connection(tmp_path, "east", 9443, host="coordinator.example")
        node = threading.Thread(
            target=serve, args=(here, lambda _: Done()), kwargs={"stop": stop_it, "on_event": print}
        )
        node.start()
        assert federation.wait_for(["east"], deadline_s=20) == ()
        assert isinstance(ask(federation, Finish("d", "completed"), ["east"])["east"].reply, Done)
        assert set(proxy.asked) == {b"CONNECT coordinator.example:9443 HTTP/1.1"}
        stop_it.set()
        node.join(10)
        proxy.listener.close()
    assert not node.is_alive()


def test_a_proxy_is_not_asked_for_this_machine_itself(tmp_path, monkeypatch):
    consortium(tmp_path, sites=("east",))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{_free_port()}")
    stop_it = threading.Event()
    with FlowerFederation(CoordinatorSettings(tmp_path, "127.0.0.1:0")) as federation:
        here = connection(tmp_path, "east", federation.port)
        node = threading.Thread(
            target=serve, args=(here, lambda _: Done()), kwargs={"stop": stop_it, "on_event": print}
        )
        node.start()
        assert federation.wait_for(["east"], deadline_s=20) == ()
        stop_it.set()
        node.join(10)
    assert not node.is_alive()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
