"""Where the coordinator is, how TLS to it is made, and what the failures of a call to it mean."""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import httpx

from common.errors import StateError

WORTH_REPEATING = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)


class Endpoint(Protocol):
    """The part of ``site.toml`` that says how the coordinator is reached (`common.config.site.CoordinatorConfig`)."""

    @property
    def address(self) -> str: ...
    @property
    def ca(self) -> Path: ...
    @property
    def node_key(self) -> Path: ...
    @property
    def certificate(self) -> Path: ...


@dataclass(frozen=True)
class NodeConnection:
    """Where the coordinator is and who we are.

    Parameters
    ----------
    address : str
        ``host:port``, with [ ] around an IPv6 address.
    ca : Path
        The only authority that is trusted for the coordinator's certificate.
    node_key, certificate : Path
        This site's key and its certificate, for TLS and for Flower's signatures alike.
    """

    address: str
    ca: Path
    node_key: Path
    certificate: Path

    @classmethod
    def of(cls, endpoint: Endpoint) -> NodeConnection:
        """The connection that a ``site.toml`` names."""
        return cls(endpoint.address, endpoint.ca, endpoint.node_key, endpoint.certificate)

    @property
    def is_loopback(self) -> bool:
        """True where the coordinator runs on this machine, so that no proxy can reach it."""
        host = self.address.rpartition(":")[0].strip("[]")
        return host in ("localhost", "::1") or host.startswith("127.")

    def tls(self) -> ssl.SSLContext:
        """TLS 1.3 with our certificate, trusting the consortium's authority alone.

        Raises
        ------
        StateError
            If a file is missing or damaged, or key and certificate do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_verify_locations(self.ca)
            context.load_cert_chain(self.certificate, self.node_key)
        except OSError as error:  # ssl.SSLError is one too
            raise StateError(f"{self.ca}, {self.certificate} or {self.node_key} cannot be used: {error}") from error
        return context


class NotKnownError(Exception):
    """The coordinator does not know this node: it was restarted, or it refuses this site."""


class OutdatedError(Exception):
    """The coordinator no longer wants what was being done."""


class StoppedError(Exception):
    """`serve` was asked to end."""


def status_of(error: httpx.HTTPError) -> int | None:
    """The HTTP status of a failed call; None where no answer came."""
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None


def raise_if_final(error: httpx.HTTPError) -> None:
    """Turn an answer that repeating will not change into what it means."""
    status = status_of(error)
    if status == httpx.codes.UNAUTHORIZED:
        raise NotKnownError(reason_of(error)) from error
    if status is not None and status < httpx.codes.INTERNAL_SERVER_ERROR and status not in WORTH_REPEATING:
        raise OutdatedError(reason_of(error)) from error


def reason_of(error: httpx.HTTPError) -> str:
    """Why a call failed, for the hospital's IT."""
    if not isinstance(error, httpx.HTTPStatusError):
        return str(error) or type(error).__name__
    detail = detail_of(error)
    return f"the coordinator answers {error.response.status_code}{f' ({detail})' if detail else ''}"


def detail_of(error: httpx.HTTPStatusError) -> str:
    """The sentence in an answer of the coordinator; empty where there is none, as from a proxy."""
    try:
        return str(json.loads(error.response.text).get("detail", ""))
    except (ValueError, AttributeError):
        return ""
