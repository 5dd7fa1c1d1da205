"""Who is let in at the listener: one site, one certificate, one key, each request once.

A request is let in when all of these hold:

- the peer's TLS certificate is, to the byte, the one that is registered for a site and not revoked;
- the node key in the header is the key of that certificate, and its signature of the time stamp is valid;
- the time stamp is near the coordinator's clock, and this signature was not seen before;
- the node id in the body belongs to that key, and a reply names it as its sender.
"""

from __future__ import annotations

import hashlib
import threading
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

from server.link_state import FleetState
from server.registry import SiteRegistry

CLOCK_TOLERANCE_S = 300.0
"""Wider than Flower's 5 s towards the future: clocks of hospitals differ, and the certificate is what counts."""

MAX_INTEGER_BYTES, UNIQUE_BYTES = 66, 16
"""Of the random part of a signature (the largest curve's), and what is remembered of it: two are never alike."""

PUBLIC_KEY, SIGNATURE, TIMESTAMP = (
    name.lower().encode() for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER)
)


@dataclass(frozen=True)
class Peer:
    """A site that is let in."""

    site: str
    public_key: bytes
    verifier: ec.EllipticCurvePublicKey


class AdmissionError(Exception):
    """The request is not let in; the sentence goes to the site, which may tell its own IT."""


class Remembered:
    """What came within a span of time, so that nothing is let in twice; it may be asked from several threads.

        law: an entry is known for ``window_s`` at least, and is let go of by what comes two windows after it.

    Memory is so bounded by what comes in two windows, whatever the length of the process's life.

    Parameters
    ----------
    window_s : float
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, window_s: float, clock: Callable[[], float] = monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._now: set[bytes] = set()
        self._before: set[bytes] = set()
        self._turned = clock()

    def __len__(self) -> int:
        return len(self._now) + len(self._before)

    def first_time(self, entry: bytes) -> bool:
        """Remember an entry; False where it is known already."""
        with self._lock:
            at = self._clock()
            if at > self._turned + self._window_s:
                self._before, self._now, self._turned = self._now, set(), at
            if entry in self._now or entry in self._before:
                return False
            self._now.add(entry)
            return True


class Admission:
    """Decides who is let in; follows the registry file.

    Parameters
    ----------
    registry : SiteRegistry
    state : FleetState
        Told of every change of the registry.
    """

    def __init__(self, registry: SiteRegistry, state: FleetState) -> None:
        self._registry = registry
        self._state = state
        self._lock = threading.Lock()
        self._stamp: tuple[int, int] | None = None
        self._peers: dict[str, Peer] = {}
        self._seen = Remembered(2 * CLOCK_TOLERANCE_S)
        self.follow()

    def follow(self) -> tuple[str, ...]:
        """Read the registry again if it changed; the names of the sites that are let in."""
        self._follow()
        return tuple(sorted(peer.site for peer in self._peers.values()))

    def _follow(self) -> None:
        with self._lock:
            stamp = self._registry.stamp()
            if stamp != self._stamp:
                members = {site: m for site, m in self._registry.read().items() if not m.revoked}
                self._peers = {
                    m.certificate_sha256: Peer(site, m.public_key.encode(), bytes_to_public_key(m.public_key.encode()))
                    for site, m in members.items()
                }
                self._state.sync({site: member.public_key for site, member in members.items()})
                self._stamp = stamp

    def of_certificate(self, certificate: bytes | None) -> Peer:
        """The peer of a certificate, which is known before anything of the request is read.

        Raises
        ------
        AdmissionError
            If it is not registered.
        """
        self._follow()
        peer = self._peers.get(hashlib.sha256(certificate or b"").hexdigest())
        if peer is None:
            raise AdmissionError("certificate is not registered here, or was revoked or replaced")
        return peer

    def check(self, certificate: bytes | None, headers: Mapping[bytes, bytes], request: Any) -> Peer:
        """The peer that sent a request.

        Raises
        ------
        AdmissionError
            If it is not let in.
        """
        peer = self.of_certificate(certificate)
        try:
            public_key = b64decode(headers[PUBLIC_KEY], validate=True)
            signature = b64decode(headers[SIGNATURE], validate=True)
            timestamp = headers[TIMESTAMP]
            age = (now() - datetime.fromisoformat(timestamp.decode("ascii"))).total_seconds()
            unique = decode_dss_signature(signature)[0].to_bytes(MAX_INTEGER_BYTES)[-UNIQUE_BYTES:]
        except (KeyError, ValueError, TypeError) as error:
            raise AdmissionError("request is not signed by a node key") from error
        if public_key != peer.public_key or not verify_signature(peer.verifier, timestamp, signature):
            raise AdmissionError("node key and TLS certificate differ, or the signature is wrong")
        if abs(age) > CLOCK_TOLERANCE_S:
            raise AdmissionError(f"clocks differ by {age:.0f} s, at most {CLOCK_TOLERANCE_S:.0f} s are accepted")
        if not self._seen.first_time(unique):
            raise AdmissionError("request was sent before")
        self._require_own_node(peer, request)
        return peer

    def _require_own_node(self, peer: Peer, request: Any) -> None:
        if isinstance(request, ActivateNodeRequest):
            if request.public_key != peer.public_key:
                raise AdmissionError("request activates another node")
            return
        node_id = request.node.node_id if hasattr(request, "node") else request.node_id
        if self._state.get_node_id_by_public_key(peer.public_key) != node_id:
            raise AdmissionError("node id is not known here")
        if isinstance(request, PushMessagesRequest):
            senders = {message.metadata.src_node_id for message in request.messages_list}
            if len(request.messages_list) != 1 or senders != {node_id}:
                raise AdmissionError("reply names another sender")
