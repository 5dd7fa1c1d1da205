"""Preflight against a real listener: all is well, and every way in which it is not is named with what to do."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from client.connection import NodeConnection
from client.fleet_client import Knock, knock
from client.preflight import (
    check_certificate,
)
from client.preflight_finding import Finding
from client.preflight_network import ADMITTED, CHAIN, CLOCK, KNOWN_HERE, NAME, PORT, PROXY, SAN, check_network
from client.preflight_network import _admission as admission
from server import provisioning
from server.coordinator import CoordinatorSettings, FlowerFederation
from server.provisioning import Authority, init_authority
from simulations.connect_proxy import ConnectProxy
from tests.commands import fedrad
from tests.deployment import SITE_FILE, connection, consortium, join
from tests.small_study import write_study


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


ONLY_THERE = "fedrad.only-the-proxy-knows.invalid"


@dataclass
class Listening:
    home: Path
    authority: Authority
    federation: FlowerFederation
    refused: list[str]

    @property
    def east(self) -> NodeConnection:
        return connection(self.home, "east", self.federation.port)

    @property
    def far_east(self) -> NodeConnection:
        """The same hospital, whose network reaches the coordinator through its proxy alone."""
        return connection(self.home, "east", self.federation.port, ONLY_THERE)

    def proxy(self, allowed: str = "", login: str = "") -> ConnectProxy:
        return ConnectProxy([allowed or self.far_east.address], names={ONLY_THERE: "127.0.0.1"}, login=login)


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    authority = consortium(tmp_path, sites=("east", "north"), addresses=["127.0.0.1", ONLY_THERE])
    refused: list[str] = []
    with FlowerFederation(CoordinatorSettings(tmp_path, "127.0.0.1:0"), on_event=refused.append) as federation:
        yield Listening(tmp_path, authority, federation, refused)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    names = [finding.check for finding in findings]
    assert len(set(names)) == len(names)
    return {finding.check: finding for finding in findings}


def the_failed(findings: list[Finding]) -> Finding:
    """The one failed finding; what comes after it was skipped."""
    found = [finding for finding in findings if finding.state == "failed"]
    assert len(found) == 1, findings
    assert found[0].advice
    return found[0]


def test_all_is_well_and_nothing_changes_at_the_coordinator(listening: Listening) -> None:
    found = by_name(check_network(listening.east))
    assert {name: finding.state for name, finding in found.items()} == {
        PROXY: "skipped",
        NAME: "ok",
        PORT: "ok",
        CHAIN: "ok",
        SAN: "ok",
        ADMITTED: "ok",
        CLOCK: "ok",
    }
    assert listening.federation.sites() == ()  # preflight does not pose as the running site


def test_the_sentence_that_means_admitted_is_the_listeners(listening: Listening) -> None:
    answer = knock(listening.east)
    assert (answer.status, answer.sentence) == (401, KNOWN_HERE)
    assert answer.clock is not None
    assert abs(datetime.now(UTC) - answer.clock) < timedelta(seconds=30)


def test_a_running_site_is_not_disturbed(listening: Listening) -> None:
    from client.node import serve
    from common.messages import Done

    stop, said = threading.Event(), []
    node = threading.Thread(
        target=serve, args=(listening.east, lambda _: Done()), kwargs={"stop": stop, "on_event": said.append}
    )
    node.start()
    try:
        assert listening.federation.wait_for(["east"], deadline_s=20) == ()
        assert by_name(check_network(listening.east))[ADMITTED].state == "ok"
        assert listening.federation.sites() == ("east",)
        assert len(said) == 1
    finally:
        stop.set()
        node.join(10)


def test_unknown_name(listening: Listening) -> None:
    here = replace(listening.east, address="nowhere.invalid:443")
    found = check_network(here)
    assert the_failed(found).check == NAME
    assert by_name(found)[ADMITTED].state == "skipped"


def test_wrong_port(listening: Listening) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refused
        found = the_failed(check_network(replace(listening.east, address=f"127.0.0.1:{taken.getsockname()[1]}")))
    assert found.check == PORT
    assert "refused" in found.detail


def test_a_port_that_speaks_no_tls(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.preflight_network.TIMEOUT_S", 0.5)
    with ConnectProxy([]) as other:
        found = the_failed(check_network(replace(listening.east, address=f"127.0.0.1:{other.port}")))
    assert found.check == CHAIN
    assert "no TLS" in found.detail


def test_wrong_name(listening: Listening) -> None:
    found = the_failed(check_network(replace(listening.east, address=f"localhost:{listening.federation.port}")))
    assert found.check == SAN
    assert "localhost is not in the coordinator's certificate, which is for " in found.detail


def test_another_authority_as_of_a_proxy_that_looks_inside(listening: Listening, tmp_path: Path) -> None:
    other = init_authority(tmp_path / "other", addresses=["127.0.0.1"])
    (tmp_path / "other.pem").write_bytes(other.ca_certificate)
    found = the_failed(check_network(replace(listening.east, ca=tmp_path / "other.pem")))
    assert found.check == CHAIN
    assert "is of fedrad consortium authority, not of the authority in ca" in found.detail
    assert "TLS inspection" in found.advice


def test_an_expired_coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = consortium(tmp_path, sites=("east",))
    monkeypatch.setattr(provisioning, "CERTIFICATE_DAYS", -0.5)
    authority.renew_server(["127.0.0.1"])
    with FlowerFederation(CoordinatorSettings(tmp_path, "127.0.0.1:0")) as federation:
        found = the_failed(check_network(connection(tmp_path, "east", federation.port)))
    assert found.check == CHAIN
    assert "this machine's clock says" in found.detail


def test_an_expired_site(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisioning, "CERTIFICATE_DAYS", -0.5)
    join(listening.authority, listening.home, "southern")
    here = connection(listening.home, "southern", listening.federation.port)
    assert check_certificate(here, "southern").state == "failed"
    found = the_failed(check_network(here))
    assert found.check == ADMITTED
    assert "has ended" in found.advice


def test_a_certificate_of_an_authority_that_the_coordinator_does_not_know(listening: Listening, tmp_path: Path) -> None:
    other = init_authority(tmp_path / "other", addresses=["127.0.0.1"])
    join(other, tmp_path / "other", "east")
    folder = tmp_path / "other" / "east"
    here = replace(listening.east, node_key=folder / "node.key", certificate=folder / "node.pem")
    found = the_failed(check_network(here))
    assert (found.check, "another authority" in found.advice) == (ADMITTED, True)


@pytest.mark.parametrize(("alert", "advice"), [("UNKNOWN_CA", "trusted"), ("CERTIFICATE_EXPIRED", "rotate")])
def test_alerts_of_tls_are_explained(listening: Listening, alert: str, advice: str) -> None:
    def ask(_: NodeConnection) -> Knock:
        raise httpx.ReadError(f"[SSL: TLSV1_ALERT_{alert}] (_ssl.c:2580)")

    assert advice in the_failed(admission(listening.east, ask=ask)).advice


def test_a_revoked_site(listening: Listening) -> None:
    listening.authority.revoke("east")
    found = the_failed(check_network(listening.east))
    assert found.check == ADMITTED
    assert "not registered here, or was revoked or replaced" in found.detail
    assert (
        by_name(check_network(connection(listening.home, "north", listening.federation.port)))[ADMITTED].state == "ok"
    )


@pytest.mark.parametrize(
    ("ahead_s", "state"), [(0, "ok"), (-59, "ok"), (120, "attention"), (-120, "attention"), (400, "failed")]
)
def test_clocks(listening: Listening, ahead_s: float, state: str) -> None:
    theirs = datetime.now(UTC) - timedelta(seconds=ahead_s)
    found = by_name(admission(listening.east, ask=lambda _: Knock(401, KNOWN_HERE, theirs)))
    assert found[CLOCK].state == state
    assert ("ahead of" in found[CLOCK].detail) == (ahead_s > 0) or ahead_s == 0


def test_through_a_proxy_by_name_and_with_a_login(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    where = listening.far_east.address
    with listening.proxy(login="it:s3cret/word") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://it:s3cret%2Fword@localhost:{proxy.port}")
        found = check_network(listening.far_east)
        assert {finding.state for finding in found} == {"ok"}
        assert proxy.requests
        assert set(proxy.requests) == {f"CONNECT {where} HTTP/1.1"}
        assert "s3cret" not in repr(found)
        monkeypatch.setenv("HTTPS_PROXY", f"http://it:wrong@localhost:{proxy.port}")
        refused = the_failed(check_network(listening.far_east))
        assert refused.check == PORT
        assert "the proxy answers 407" in refused.detail


def test_a_proxy_that_does_not_allow_it(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening.proxy("elsewhere:443") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        found = the_failed(check_network(listening.far_east))
        assert found.check == PORT
        assert "the proxy answers 403" in found.detail
        assert f"allow CONNECT to {listening.far_east.address}" in found.advice
        assert {finding.state for finding in check_network(listening.east)} == {
            "ok",
            "skipped",
        }  # no proxy for loopback
        monkeypatch.setenv("NO_PROXY", ONLY_THERE)
        assert the_failed(check_network(listening.far_east)).check == NAME


def test_a_proxy_variable_that_is_none(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://it:s3cret@proxy:21")
    found = check_network(listening.far_east)
    assert the_failed(found).check == PROXY
    assert "s3cret" not in repr(found)


def test_a_coordinator_that_says_nothing_is_not_waited_for_long(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.preflight_network.TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = the_failed(check_network(replace(listening.east, address=f"127.0.0.1:{silent.getsockname()[1]}")))
    assert found.check == CHAIN


def test_one_screen_exit_codes_and_no_secret(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.preflight.check_state.__kwdefaults__", {"min_free_bytes": 1})
    home = listening.home
    (home / "cases.csv").write_text("case_id\n")
    (home / "images").mkdir()
    write_study(home)
    site_file = home / "site.toml"
    site_file.write_text(SITE_FILE.format(port=listening.federation.port))
    done = fedrad("site", "preflight", site_file)
    assert done.exit_code == 1
    assert "small: not approved here" in " ".join(done.output.split())
    assert fedrad("site", "approve", home / "small.toml", "--site", site_file, "--yes").exit_code == 0
    done = fedrad("site", "preflight", site_file)
    assert done.exit_code == 0, done.output
    assert "TO DO" not in done.output
    for check in (NAME, PORT, CHAIN, ADMITTED, CLOCK, "GPU", "PACS", "versions", "state folder"):
        assert check in done.output
    listening.authority.revoke("east")
    done = fedrad("site", "preflight", site_file)
    assert done.exit_code == 1
    assert "TO DO" in done.output
    assert "PRIVATE" not in done.output


def test_tls_1_3_is_what_the_handshakes_speak(listening: Listening) -> None:
    assert listening.east.tls().minimum_version == ssl.TLSVersion.TLSv1_3
