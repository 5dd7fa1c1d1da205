"""What looks at a coordinator from outside: web page, metrics, health service; started and stopped with it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.errors import FederationError, StateError
from server.coordinator import FlowerFederation
from server.provisioning import KEYS
from server.queue import StudyQueue
from server.watch import Watch


@dataclass(frozen=True)
class ObserverSettings:
    """Addresses (``host:port``), empty for what is not wanted; certificate and key of the page, if it has its own."""

    dashboard: str = ""
    metrics: str = ""
    health: str = ""
    certificate: Path | None = None
    key: Path | None = None


@contextmanager
def observing(
    settings: ObserverSettings,
    home: Path,
    federation: FlowerFederation,
    *,
    queue: StudyQueue | None = None,
    tell: Callable[[str], None],
) -> Iterator[Watch]:
    """Serve what the settings ask for, for as long as the block lasts.

    Raises
    ------
    FederationError
        If an address cannot be used.
    StateError
        If the page's certificate cannot be used, or there is no user who could log in.
    """
    watch = Watch(federation.sites, queue)
    with ExitStack() as stack:
        if settings.dashboard:
            stack.callback(_dashboard(settings, home, watch, tell))
        if settings.metrics:
            from server.metrics import MetricsServer

            metrics = MetricsServer(watch, settings.metrics)
            stack.callback(metrics.stop)
        if settings.health:
            from server.health import HealthServer

            health = HealthServer(watch, settings.health, federation.is_listening)
            stack.callback(health.stop)
        yield watch


def _dashboard(settings: ObserverSettings, home: Path, watch: Watch, tell: Callable[[str], None]) -> Callable[[], None]:
    from server.dashboard import Dashboard
    from server.tls_server import TlsServer
    from server.users import Users

    users = Users(home)
    if not users.read():
        raise StateError("nobody could log in to the web page: fedrad coordinator user add NAME --role operator")
    if (settings.certificate is None) != (settings.key is None):
        raise StateError("a certificate of the web page's own needs its key too")
    context = page_context(
        settings.certificate or home / KEYS / "server.pem",
        settings.key or home / KEYS / "server.key",
    )
    server = TlsServer(Dashboard(watch, users), address=settings.dashboard, context=context)
    try:
        server.start()
    except FederationError:
        server.stop()
        raise
    tell(f"web page on port {server.port}")
    return server.stop


def page_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer, as browsers speak it; StateError where certificate or key cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise StateError(f"certificate {certificate} and key {key} cannot be used: {error}") from error
    return context
