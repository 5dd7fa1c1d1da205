"""Metrics and health as Prometheus and an orchestrator read them, over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from common.errors import FederationError
from common.journal import JsonLines
from server.health import STUDY, HealthServer
from server.metrics import MetricsServer
from server.opening import JOURNAL_FILE
from server.queue import StudyQueue
from server.watch import Watch
from tests.deployment import until
from tests.server.finished_study import study_text, write_run

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    queue = StudyQueue(tmp_path, approval=True)
    queue.create()
    (tmp_path / "queue" / "next.toml").write_text(study_text(folds=3))
    write_run(tmp_path / "run", study_text(), refused={"north": "small_cell"}, finished=False)
    return Watch(lambda: ("east", "west"), queue)


@pytest.fixture
def metrics(watch: Watch) -> Iterator[MetricsServer]:
    server = MetricsServer(watch, "127.0.0.1:0")
    try:
        yield server
    finally:
        server.stop()


def scraped(server: MetricsServer) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = httpx.get(f"http://127.0.0.1:{server.port}/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_say_what_the_journal_says(metrics: MetricsServer, watch: Watch, tmp_path: Path) -> None:
    before = scraped(metrics)
    assert before["fedrad_sites_online", frozenset()] == 2
    assert before["fedrad_queue_length", frozenset()] == 1
    assert before["process_resident_memory_bytes", frozenset()] > 1e6
    watch.follow(tmp_path / "run")
    found = scraped(metrics)
    study = ("study", "example")
    assert found["fedrad_bytes_total", frozenset({study, ("site", "east"), ("direction", "up")})] == (
        244 + 2700 + 4000 + 3 * 1200 + 9000 + 16
    )
    assert found["fedrad_refusals_total", frozenset({study, ("site", "north"), ("code", "small_cell")})] == 1
    place = frozenset({study, ("model", "radiomics"), ("course", "federated"), ("fold", "0")})
    assert found["fedrad_rounds_completed", place] == 3
    assert found["fedrad_study_state", frozenset({study, ("state", "running")})] == 1
    assert found["fedrad_site_online", frozenset({("site", "north")})] == 0
    assert any(name == "fedrad_phase_seconds_total" for name, _ in found)


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "example.org:0"])
def test_what_has_no_login_listens_on_this_machine_alone(watch: Watch, address: str) -> None:
    with pytest.raises(FederationError, match="loopback"):
        MetricsServer(watch, address)
    with pytest.raises(FederationError, match="loopback"):
        HealthServer(watch, address, lambda: True)


def test_health_follows_listener_and_study(watch: Watch, tmp_path: Path) -> None:
    alive = [True]
    server = HealthServer(watch, "127.0.0.1:0", lambda: alive[0])
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)

            def state(service: str) -> int:
                return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)

            assert (state(""), state(STUDY)) == (SERVING, NOT_SERVING)
            watch.follow(tmp_path / "run")
            until(lambda: state(STUDY) == SERVING)
            JsonLines(tmp_path / "run" / JOURNAL_FILE).write("paused", by="otto")
            until(lambda: state(STUDY) == NOT_SERVING)
            assert state("") == SERVING
            alive[0] = False
            until(lambda: state("") == NOT_SERVING)
            with pytest.raises(grpc.RpcError) as failed:
                state("unknown")
            assert failed.value.code() == grpc.StatusCode.NOT_FOUND
    finally:
        server.stop()
