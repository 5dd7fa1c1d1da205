"""Can this machine reach the coordinator, and does each recognise the other? One step after the other, each explained.

The steps up to the TLS handshake are made by hand, so that the one that fails is known; the last one is made with the
node's own client, so that what is tried is what will run.
"""

from __future__ import annotations

import base64
import socket
import ssl
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from urllib.parse import unquote, urlsplit

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from client.connection import NodeConnection
from client.fleet_client import Knock, knock
from client.preflight_finding import Finding, attention, failed, ok, skipped
from common.errors import StateError

TIMEOUT_S = 10.0
CLOCK_TOLERANCE_S, CLOCK_WORRY_S = 300.0, 60.0
"""The coordinator refuses a request whose clock differs by more than the first; above the second IT should know."""

KNOWN_HERE = "node id is not known here"
"""What the coordinator says to an empty request of a site that it lets in (`server.listener`); pinned by a test."""

MAX_HEAD_BYTES = 1 << 16
WRONG_NAME = ("Hostname mismatch", "IP address mismatch")
ALERTS = {
    "unknown ca": "the coordinator does not know this certificate's authority; ask for a kit, or have yours trusted",
    "certificate expired": "the certificate has ended; rotate it",
    "certificate required": "no certificate was shown; check certificate and node_key in site.toml",
    "bad certificate": "the coordinator refuses the certificate; ask for another kit",
}
NAME, PROXY, PORT, CHAIN, SAN, ADMITTED, CLOCK = (
    "name resolution",
    "proxy",
    "port",
    "TLS chain",
    "coordinator's name",
    "admitted",
    "clock",
)


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy that is asked to CONNECT; ``authorization`` is secret and never shown."""

    host: str
    port: int
    authorization: str

    @classmethod
    def for_host(cls, host: str, port: int) -> Proxy | None:
        """The proxy that the environment names for this host (HTTPS_PROXY, ALL_PROXY, NO_PROXY).

        Raises
        ------
        ValueError
            If the variable is no ``http://host:port``; the sentence does not repeat it.
        """
        found = urllib.request.getproxies()
        url = found.get("https") or found.get("all")
        if not url or urllib.request.proxy_bypass(f"{host}:{port}") or urllib.request.proxy_bypass(host):
            return None
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError("HTTPS_PROXY is not of the form http://host:port")
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
        return cls(parts.hostname, parts.port or 80, base64.b64encode(login.encode()).decode() if login else "")


def check_network(connection: NodeConnection) -> list[Finding]:
    """Findings from the name of the coordinator to its consent; what stands behind a failed step is skipped."""
    host, _, digits = connection.address.rpartition(":")
    host, port = host.strip("[]"), int(digits)
    steps = (NAME, PROXY, PORT, CHAIN, SAN, ADMITTED, CLOCK)
    try:
        proxy = None if connection.is_loopback else Proxy.for_host(host, port)
    except ValueError as error:
        return [failed(PROXY, str(error), "correct the variable, or unset it"), *_rest(steps, {PROXY})]
    findings = [_proxy(proxy)]
    if proxy and ":" in host:
        advice = "put the coordinator's name into site.toml in place of its IPv6 address"
        return [
            failed(PROXY, "proxies are not asked for an IPv6 address in a form that they know", advice),
            *_rest(steps, {PROXY}),
        ]
    first_hop = (proxy.host, proxy.port) if proxy else (host, port)
    made: tuple[Callable[[], Finding], ...] = (
        partial(_resolve, *first_hop),
        partial(_reach, host, port, proxy),
        partial(_chain, host, port, proxy, connection),
        partial(_name, host, port, proxy, connection),
    )
    for step in made:
        findings.append(step())
        if findings[-1].state == "failed":
            return [*findings, *_rest(steps, {finding.check for finding in findings})]
    return findings + _admission(connection)


def _rest(steps: tuple[str, ...], done: set[str]) -> list[Finding]:
    return [skipped(step, "after the step above") for step in steps if step not in done]


def _proxy(proxy: Proxy | None) -> Finding:
    if proxy is None:
        return skipped(PROXY, "none (HTTPS_PROXY is not set, or NO_PROXY exempts the coordinator)")
    return ok(PROXY, f"{proxy.host}:{proxy.port}{', with a login' * bool(proxy.authorization)}")


def _resolve(host: str, port: int) -> Finding:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return failed(NAME, f"{host}: {error.strerror or error}", f"have {host} entered in this network's DNS")
    return ok(NAME, f"{host} is {', '.join(dict.fromkeys(str(entry[4][0]) for entry in found))}")


def _reach(host: str, port: int, proxy: Proxy | None) -> Finding:
    where = f"{host}:{port}"
    try:
        _open(host, port, proxy).close()
    except TimeoutError:
        hop = f"the proxy {proxy.host}:{proxy.port}" if proxy else where
        return failed(
            PORT, f"{where}: no answer in {TIMEOUT_S:.0f} s", f"let this machine connect outward to {hop} (TCP)"
        )
    except OSError as error:
        hop = f"{where} through the proxy" if proxy else where
        return failed(PORT, f"{hop}: {error.strerror or error}", _port_advice(where, proxy))
    return ok(PORT, f"{where} answers{' through the proxy' * (proxy is not None)}")


def _port_advice(where: str, proxy: Proxy | None) -> str:
    if proxy:
        return f"have the proxy allow CONNECT to {where}, or exempt it with NO_PROXY"
    return (
        f"check the port with the coordinator, and that the firewall lets this machine connect outward to {where} (TCP)"
    )


def _open(host: str, port: int, proxy: Proxy | None) -> socket.socket:
    """A connection to the coordinator, through the proxy where there is one.

    Raises
    ------
    OSError
        If it cannot be made; of a proxy with the status that it answered.
    """
    if proxy is None:
        return socket.create_connection((host, port), TIMEOUT_S)
    opened = socket.create_connection((proxy.host, proxy.port), TIMEOUT_S)
    try:
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        login = f"Proxy-Authorization: Basic {proxy.authorization}\r\n" if proxy.authorization else ""
        opened.sendall(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n{login}\r\n".encode("ascii"))
        head = b""
        while b"\r\n\r\n" not in head and len(head) < MAX_HEAD_BYTES:
            piece = opened.recv(4096)
            if not piece:
                raise ConnectionError("the proxy closed the connection")
            head += piece
        status = head.split(b"\r\n", 1)[0].split(b" ", 1)[-1].decode("latin-1")
        if not status.startswith("200"):
            raise ConnectionError(f"the proxy answers {status}")
    except OSError:
        opened.close()
        raise
    return opened


def _chain(host: str, port: int, proxy: Proxy | None, connection: NodeConnection) -> Finding:
    """Is the certificate that is shown of the consortium's authority, and valid now?"""
    try:
        context = connection.tls()
    except StateError as error:
        return failed(CHAIN, str(error), "check ca, certificate and node_key in site.toml")
    context.check_hostname = False
    try:
        shown = _shown(host, port, proxy, context)
    except ssl.SSLCertVerificationError as error:
        return _not_verified(error, host, port, proxy)
    except OSError as error:  # ssl.SSLError is one too
        return failed(
            CHAIN, f"no TLS here: {error}", "check the port, and that no proxy or firewall opens the connection"
        )
    return ok(CHAIN, f"of the consortium's authority, valid until {shown.not_valid_after_utc:%Y-%m-%d}")


def _not_verified(error: ssl.SSLCertVerificationError, host: str, port: int, proxy: Proxy | None) -> Finding:
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE  # only to say whose certificate it is; nothing is sent
    try:
        shown = _shown(host, port, proxy, unverified)
    except OSError:
        return failed(CHAIN, error.verify_message, "ask the coordinator")
    now = datetime.now(UTC)
    if not shown.not_valid_before_utc <= now <= shown.not_valid_after_utc:
        valid = f"{shown.not_valid_before_utc:%Y-%m-%d} to {shown.not_valid_after_utc:%Y-%m-%d}"
        detail = (
            f"the coordinator's certificate is valid from {valid}; this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
        )
        return failed(CHAIN, detail, "set this machine's clock, or have the coordinator renew its certificate")
    issuer = [str(name.value) for name in shown.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)]
    fingerprint = shown.fingerprint(hashes.SHA256()).hex(":")
    return failed(
        CHAIN,
        f"the certificate shown is of {', '.join(issuer) or 'an unnamed authority'}, not of the authority in ca "
        f"({error.verify_message}; SHA-256 {fingerprint})",
        f"if that is your own network, exempt {host}:{port} from TLS inspection; otherwise tell the coordinator",
    )


def _name(host: str, port: int, proxy: Proxy | None, connection: NodeConnection) -> Finding:
    """Is the name in site.toml in the coordinator's certificate?"""
    context = connection.tls()
    try:
        _shown(host, port, proxy, context)
    except ssl.SSLCertVerificationError as error:
        if not error.verify_message.startswith(WRONG_NAME):
            return failed(SAN, error.verify_message, "ask the coordinator")
        context.check_hostname = False
        held = ", ".join(_names(_shown(host, port, proxy, context)))
        advice = "use one of them in site.toml, or have the coordinator renew its certificate with this name"
        return failed(SAN, f"{host} is not in the coordinator's certificate, which is for {held}", advice)
    except OSError as error:
        return failed(SAN, str(error), "try again; if it stays, ask the coordinator")
    return ok(SAN, f"{host} is in its certificate")


def _shown(host: str, port: int, proxy: Proxy | None, context: ssl.SSLContext) -> x509.Certificate:
    """The certificate that is shown in a handshake, after which nothing is sent."""
    with _open(host, port, proxy) as opened, context.wrap_socket(opened, server_hostname=host) as tls:
        return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ["no name at all"]
    return [*held.get_values_for_type(x509.DNSName), *map(str, held.get_values_for_type(x509.IPAddress))]


def _admission(connection: NodeConnection, *, ask: Callable[[NodeConnection], Knock] = knock) -> list[Finding]:
    """Does the coordinator let this site in, and what time is it there?"""
    try:
        answer = ask(connection)
    except httpx.HTTPError as error:
        return [_cut_off(str(error)), *_rest((CLOCK,), set())]
    clock = _clock(answer.clock)
    if answer.status == httpx.codes.UNAUTHORIZED and answer.sentence == KNOWN_HERE:
        return [ok(ADMITTED, "the coordinator lets this certificate and key in"), clock]
    said = f"the coordinator answers {answer.status}{f': {answer.sentence}' if answer.sentence else ''}"
    if "clocks differ" in answer.sentence:
        return [failed(ADMITTED, said, "see the clock"), clock]
    return [
        failed(ADMITTED, said, "ask the coordinator whether this site is admitted; its kit may be a former one"),
        clock,
    ]


def _cut_off(sentence: str) -> Finding:
    """Why the connection ended after a handshake that was fine on this side: there the client certificate is judged."""
    for alert, advice in ALERTS.items():
        if alert in sentence.lower().replace("_", " "):
            return failed(ADMITTED, f"the coordinator ends the connection: {alert}", advice)
    return failed(
        ADMITTED,
        f"the coordinator ends the connection after the handshake: {sentence}",
        "the certificate is of another authority than the coordinator's, or has ended: join with a new kit",
    )


def _clock(theirs: datetime | None) -> Finding:
    if theirs is None:
        return skipped(CLOCK, "the coordinator does not tell the time")
    seconds = (datetime.now(UTC) - theirs).total_seconds()
    detail = f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the coordinator"
    if abs(seconds) > CLOCK_TOLERANCE_S:
        return failed(CLOCK, detail, f"set the clock (NTP); more than {CLOCK_TOLERANCE_S:.0f} s are refused")
    return attention(CLOCK, detail, "set the clock (NTP)") if abs(seconds) > CLOCK_WORRY_S else ok(CLOCK, detail)
