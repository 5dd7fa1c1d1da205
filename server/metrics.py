"""Prometheus metrics on a loopback port of their own: rounds, sites, bytes, time by phase, refusals, queue, memory.

Labels are names of sites, models, courses, phases and error codes, all of which the study file or fedrad itself names;
no case, path or text is among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from common.errors import FederationError
from server.status import StudyStatus
from server.tls_server import split_address
from server.watch import Watch

STATES = ("not started", "running", "paused", "aborted", "failed", "finished")


class StudyCollector(Collector):
    """Reads the watch at every scrape."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        with self._watch.lock:
            online = self._watch.connected()
            yield GaugeMetricFamily("fedrad_sites_online", "Hospitals that are connected.", value=len(online))
            queued = len(self._watch.queued())
            yield GaugeMetricFamily("fedrad_queue_length", "Studies that wait in the queue.", value=queued)
            run = self._watch.run
            if run is not None:
                yield from _of_study(run.study.name, run.status(), online, [site.name for site in run.study.sites])


def _of_study(study: str, status: StudyStatus, online: tuple[str, ...], sites: list[str]) -> Iterator[Metric]:
    state = GaugeMetricFamily("fedrad_study_state", "1 for the state that the study is in.", labels=["study", "state"])
    for name in STATES:
        state.add_metric([study, name], float(status.state == name))
    up = GaugeMetricFamily("fedrad_site_online", "1 where the hospital is connected.", labels=["site"])
    moved = CounterMetricFamily("fedrad_bytes", "Bytes to and from a hospital.", labels=["study", "site", "direction"])
    refused = CounterMetricFamily("fedrad_refusals", "Answers that were a code.", labels=["study", "site", "code"])
    for name in sites:
        up.add_metric([name], float(name in online))
    for name, site in sorted(status.sites.items()):
        moved.add_metric([study, name, "down"], site.bytes_down)
        moved.add_metric([study, name, "up"], site.bytes_up)
        for code, n in sorted(site.codes.items()):
            refused.add_metric([study, name, code], n)
    labels = ["study", "model", "course", "fold"]
    rounds = GaugeMetricFamily("fedrad_rounds_completed", "Complete rounds of a model.", labels=labels)
    loss = GaugeMetricFamily("fedrad_training_loss", "Training loss of the last complete round.", labels=labels)
    for (model, course, fold), (done, _, value) in sorted(status.rounds.items()):
        rounds.add_metric([study, model, course, str(fold)], done)
        loss.add_metric([study, model, course, str(fold)], value)
    phases = CounterMetricFamily("fedrad_phase_seconds", "Time in phases that ended.", labels=["study", "phase"])
    for phase, seconds in sorted(status.phase_seconds.items()):
        phases.add_metric([study, phase], seconds)
    yield from (state, up, moved, refused, rounds, loss, phases)


class MetricsServer:
    """``/metrics`` on ``host:port``, plain HTTP, of this machine alone; port 0 takes a free one.

    Raises
    ------
    FederationError
        If the address is not a loopback one, or cannot be bound.
    """

    def __init__(self, watch: Watch, address: str) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(StudyCollector(watch))
        ProcessCollector(registry=self._registry)
        host, port = loopback(address)
        try:
            self._server, self._thread = start_http_server(port, host, self._registry)
        except OSError as error:
            raise FederationError(f"cannot listen on {address}: {error.strerror}") from error

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def loopback(address: str) -> tuple[str, int]:
    """Host and port of an address that no other machine reaches; FederationError for any other."""
    host, port = split_address(address)
    try:
        inside = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise FederationError(f"{address}: has neither login nor TLS, so it listens on a loopback address only")
    return host, port
