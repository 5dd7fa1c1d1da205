"""A small consortium for tests: certificates in a folder, site processes, a coordinator process to be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from client.identity import make_identity
from client.node import NodeConnection
from server.provisioning import Authority, init_authority

SITES = ("east", "north", "southern")
REPOSITORY = Path(__file__).parents[1]

SITE_FILE = """
site = "east"
manifest = "cases.csv"
data = "images"
state = "state"
studies = ["small.toml"]
[coordinator]
address = "127.0.0.1:{port}"
ca = "east/ca.pem"
node_key = "east/node.key"
certificate = "east/node.pem"
"""


def consortium(home: Path, *, sites: Sequence[str] = SITES, addresses: Sequence[str] = ("127.0.0.1",)) -> Authority:
    """Authority, listener's certificate and one folder a site below ``home``."""
    authority = init_authority(home, addresses=addresses)
    for site in sites:
        join(authority, home, site)
    return authority


def join(authority: Authority, home: Path, site: str) -> None:
    """Make a site's key and have it signed."""
    folder = home / site
    (folder / "node.pem").write_bytes(authority.sign(make_identity(folder, site=site), site=site))
    (folder / "ca.pem").write_bytes(authority.ca_certificate)


def connection(home: Path, site: str, port: int, host: str = "127.0.0.1") -> NodeConnection:
    folder = home / site
    return NodeConnection(f"{host}:{port}", folder / "ca.pem", folder / "node.key", folder / "node.pem")


@contextmanager
def running(*commands: Sequence[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Modules as processes, which end with the block."""
    processes = [start(*command) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            stop(process)


def start(*command: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", *command], cwd=REPOSITORY, env=environment)


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def site_command(home: Path, site: str, port: int, *behaviour: str) -> list[str]:
    return ["tests.deployment_site", f"127.0.0.1:{port}", str(home / site), site, *behaviour]


def until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    """Wait for a condition."""
    end = monotonic() + seconds
    while not condition():
        if monotonic() > end:
            raise TimeoutError("the condition did not come true")
        sleep(0.02)


def answered(home: Path, site: str) -> list[str]:
    """What a site process was asked: one line a request, ``kind pid``."""
    path = home / site / "answered.txt"
    return path.read_text().splitlines() if path.exists() else []
