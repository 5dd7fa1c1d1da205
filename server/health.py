"""gRPC health service (grpc.health.v1) on a loopback port: what orchestrators ask before they restart something.

Service ``""`` is SERVING while hospitals can connect; ``study`` while a study runs. A paused, aborted, failed or
finished study is NOT_SERVING, and no reason to restart the coordinator.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from common.errors import FederationError, FedradError
from server.metrics import loopback
from server.watch import Watch

COORDINATOR, STUDY = "", "study"
EVERY_S = 0.5
WORKERS = 4


class HealthServer:
    """Serves the state until stopped.

    Parameters
    ----------
    watch : Watch
    address : str
        ``host:port`` of the loopback; port 0 takes a free one.
    alive : callable
        Whether hospitals can connect now.

    Raises
    ------
    FederationError
        If the address is not a loopback one, or cannot be bound.
    """

    def __init__(self, watch: Watch, address: str, alive: Callable[[], bool]) -> None:
        self._watch = watch
        self._alive = alive
        self._servicer = health.HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(WORKERS, thread_name_prefix="fedrad-health"))
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        loopback(address)
        try:
            self.port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise FederationError(f"cannot listen on {address}") from error
        self._stop = threading.Event()
        self._look()
        self._thread = threading.Thread(target=self._follow, name="fedrad-health", daemon=True)
        self._server.start()
        self._thread.start()

    def stop(self) -> None:
        """Say NOT_SERVING to all who watch, and end."""
        self._stop.set()
        self._thread.join()
        self._servicer.enter_graceful_shutdown()
        self._server.stop(grace=0.2).wait()

    def _follow(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        with self._watch.lock:
            run = self._watch.run
            try:
                runs = run is not None and run.status().state == "running"
            except FedradError:  # a journal that cannot be read: the study may run, nobody can tell
                runs = False
        self._servicer.set(COORDINATOR, _word(self._alive()))
        self._servicer.set(STUDY, _word(runs))


def _word(serving: bool) -> int:
    found = health_pb2.HealthCheckResponse
    return int(found.SERVING if serving else found.NOT_SERVING)
