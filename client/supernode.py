"""``fedrad site supernode``: an unmodified ``flower-supernode`` with fedrad's own executor in place of Flower's."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from client.bundle_guard import GuardedExecutor
from client.identity import load_key
from client.site import Site
from common.config.site import CoordinatorConfig
from common.errors import FederationError, StateError
from common.files import write_atomic
from common.supervision import die_with_parent

FOLDER, KEY_FILE, PUBLIC_FILE, SECRET_FILE = "supernode", "node.key", "node.pub", "executor.secret"
STOP_S = 10.0


def prepare_keys(coordinator: CoordinatorConfig, state: Path) -> Path:
    """Write the hospital's key as Flower reads it (OpenSSH) below ``state``; return the public half, to be registered.

    Raises
    ------
    StateError
        If the key cannot be read, or the folder cannot be written.
    """
    folder = _folder(state)
    key = load_key(coordinator.node_key)
    write_atomic(folder / KEY_FILE, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_atomic(folder / PUBLIC_FILE, public + b"\n")
    return folder / PUBLIC_FILE


def serve_supernode(site: Site, coordinator: CoordinatorConfig, *, stop: threading.Event) -> None:
    """Take part through the SuperLink at ``coordinator.address`` until ``stop`` is set.

    The SuperNode listens on this machine alone, and only who knows a secret made at every start can take its tasks.

    Raises
    ------
    FederationError
        If the SuperNode ends by itself; a supervisor starts both again.
    StateError
        As `prepare_keys`.
    """
    prepare_keys(coordinator, site.config.state)
    folder = _folder(site.config.state)
    secret = secrets.token_bytes(32)
    write_atomic(folder / SECRET_FILE, secret)
    port = _free_port()
    executor = GuardedExecutor(
        f"127.0.0.1:{port}", secret, site.answer, allowed=site.config.allowed_bundles, log=site.log
    )
    process = subprocess.Popen(  # noqa: S603 - Flower's own program, from this installation
        _command(coordinator, folder, port),
        env=_environment(folder),
        stdin=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    try:
        executor.run(stop, alive=lambda: process.poll() is None)
    finally:
        _end(process)
    if not stop.is_set():
        raise FederationError(f"flower-supernode ended with code {process.returncode}")


def _folder(state: Path) -> Path:
    folder = state / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StateError(f"cannot make {folder}: {error.strerror or error}") from error
    return folder


def _command(coordinator: CoordinatorConfig, folder: Path, port: int) -> list[str]:
    command = [str(Path(sys.executable).parent / "flower-supernode"), "--isolation", "process"]
    command += ["--superlink", coordinator.address, "--root-certificates", str(coordinator.ca)]
    command += ["--auth-supernode-private-key", str(folder / KEY_FILE)]
    return [
        *command,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--superexec-auth-secret-file",
        str(folder / SECRET_FILE),
    ]


def _environment(folder: Path) -> dict[str, str]:
    settings = {"FLWR_HOME": str(folder / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    return {**os.environ, **settings}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
