"""The ways a hospital's network leads to the coordinator: a proxy, IPv6, an authority of the hospital's own."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from client.connection import NodeConnection
from client.fleet_client import knock
from client.identity import make_identity
from client.node import serve
from client.preflight_network import KNOWN_HERE, check_network
from common.arrays import Parameters
from common.messages import LocalUpdate, Train
from server.coordinator import CoordinatorSettings, FlowerFederation
from server.provisioning import init_authority
from simulations.connect_proxy import ConnectProxy
from tests.deployment import connection, consortium, until
from tests.deployment_site import doubled

MODEL = Parameters({"w": np.random.default_rng(0).random(1_500_000, dtype=np.float32)})
TRAIN = Train("study", 0, "model", 1, MODEL)
ONLY_THERE = "fedrad.only-the-proxy-knows.invalid"

needs_ipv6 = pytest.mark.skipif(not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@contextmanager
def serving(here: NodeConnection) -> Iterator[list[str]]:
    """A node in a thread; what it says."""
    stop, said = threading.Event(), []
    node = threading.Thread(
        target=serve,
        args=(here, lambda request: doubled(request, "east")),
        kwargs={"stop": stop, "on_event": said.append},
    )
    node.start()
    try:
        yield said
    finally:
        stop.set()
        node.join(30)
        assert not node.is_alive()


def require_round(federation: FlowerFederation) -> None:
    """The site is there and 6 MB reach it and come back unchanged."""
    assert federation.wait_for(["east"], deadline_s=20) == ()
    (answer,) = federation.ask({"east": TRAIN}, deadline_s=30)
    assert isinstance(answer.reply, LocalUpdate)
    assert answer.reply.delta.digest() == doubled(TRAIN, "east").delta.digest()


def test_through_a_proxy_that_alone_can_reach_the_coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    consortium(tmp_path, sites=("east",), addresses=[ONLY_THERE])
    with FlowerFederation(CoordinatorSettings(tmp_path, "127.0.0.1:0")) as federation:
        here = connection(tmp_path, "east", federation.port, ONLY_THERE)
        names = {ONLY_THERE: "127.0.0.1"}
        with ConnectProxy([here.address], names=names, login="it:word") as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://it:word@127.0.0.1:{proxy.port}")
            with serving(here):
                require_round(federation)
                proxy.cut()
                require_round(federation)
            assert set(proxy.requests) == {f"CONNECT {here.address} HTTP/1.1"}


def test_a_proxy_that_refuses_is_named_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    consortium(tmp_path, sites=("east",), addresses=[ONLY_THERE])
    with (
        FlowerFederation(CoordinatorSettings(tmp_path, "127.0.0.1:0")) as federation,
        ConnectProxy([], names={ONLY_THERE: "127.0.0.1"}) as proxy,
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://it:s3cret@127.0.0.1:{proxy.port}")
        here = connection(tmp_path, "east", federation.port, ONLY_THERE)
        with serving(here) as said:
            until(lambda: bool(said))
            assert "403 Forbidden" in said[0]
            proxy.allowed = [here.address]
            require_round(federation)
        assert "s3cret" not in "".join(said)


@needs_ipv6
@pytest.mark.parametrize("listen", ["[::1]:0", "[::]:0"])
def test_over_ipv6(tmp_path: Path, listen: str) -> None:
    consortium(tmp_path, sites=("east",), addresses=["::1"])
    with (
        FlowerFederation(CoordinatorSettings(tmp_path, listen)) as federation,
        serving(connection(tmp_path, "east", federation.port, "[::1]")),
    ):
        require_round(federation)


@needs_ipv6
def test_one_listener_for_ipv4_and_ipv6(tmp_path: Path) -> None:
    consortium(tmp_path, sites=("east",), addresses=["127.0.0.1", "::1"])
    with FlowerFederation(CoordinatorSettings(tmp_path, "[::]:0")) as federation:
        for host in ("127.0.0.1", "[::1]"):
            assert knock(connection(tmp_path, "east", federation.port, host)).sentence == KNOWN_HERE


@needs_ipv6
def test_over_ipv6_through_a_proxy_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    consortium(tmp_path, sites=("east",), addresses=[ONLY_THERE])
    with FlowerFederation(CoordinatorSettings(tmp_path, "[::1]:0")) as federation:
        here = connection(tmp_path, "east", federation.port, ONLY_THERE)
        with ConnectProxy([here.address], names={ONLY_THERE: "::1"}) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
            with serving(here):
                require_round(federation)


def test_an_ipv6_address_through_a_proxy_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpcore writes ``CONNECT 2001:db8::7:443`` without brackets; a name works."""
    consortium(tmp_path, sites=("east",), addresses=["2001:db8::7"])
    here = connection(tmp_path, "east", 443, "[2001:db8::7]")
    with ConnectProxy([here.address]) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(httpx.ProxyError):
            knock(here)
        assert proxy.requests == ["CONNECT 2001:db8::7:443 HTTP/1.1"]
        (failed,) = [finding for finding in check_network(here) if finding.state == "failed"]
        assert "coordinator's name" in failed.advice


def test_with_a_certificate_of_the_hospitals_own_authority(tmp_path: Path) -> None:
    authority = consortium(tmp_path, sites=())
    own = init_authority(tmp_path / "own", addresses=["127.0.0.1"])
    folder = tmp_path / "east"
    signed = own.sign(make_identity(folder, site="east"), site="east")
    (folder / "node.pem").write_bytes(signed)
    (folder / "ca.pem").write_bytes(authority.ca_certificate)
    authority.trust(own.ca_certificate)
    authority.enrol(signed, site="east")
    with FlowerFederation(CoordinatorSettings(tmp_path, "127.0.0.1:0")) as federation:
        here = connection(tmp_path, "east", federation.port)
        with serving(here):
            require_round(federation)
        other = own.sign(make_identity(tmp_path / "west", site="west"), site="west")
        (tmp_path / "west" / "node.pem").write_bytes(other)
        stranger = replace(here, node_key=tmp_path / "west" / "node.key", certificate=tmp_path / "west" / "node.pem")
        assert "not registered here" in knock(stranger).sentence  # trusted authority, yet not enrolled
