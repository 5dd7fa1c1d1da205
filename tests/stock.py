"""An unmodified SuperLink with unmodified SuperNodes as processes: TLS, node keys registered, telemetry off."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from client.bundle_guard import bundle_hash
from client.identity import load_key
from simulations.consortium import Consortium, free_port, last_lines
from tests.deployment import REPOSITORY, stop, until

BIN = Path(sys.executable).parent
UP = "Uvicorn running"
SUPERVISE = (sys.executable, "-m", "simulations", "supervise", "--longest-delay-s", "5", "--most-restarts", "1000")


@dataclass
class StockFlower:
    """Processes of an unmodified Flower; none outlives the ``with`` statement.

    Certificates are those of the consortium's own authority; ``home`` receives keys, logs and one FLWR_HOME a process.
    Where ``supervised``, each runs under `fedrad supervise`, and the SuperExec beside the SuperLink, not below it.
    """

    made: Consortium
    home: Path
    port: int = field(default_factory=free_port)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    supervised: bool = False

    @property
    def ca(self) -> Path:
        return self.made.hospital(self.made.hospitals[0]) / "keys" / "ca.pem"

    def start(self, name: str, command: Sequence[str | Path]) -> None:
        watched = [*SUPERVISE, "--"] if self.supervised else []
        with self.log(name).open("ab") as output:
            self.running[name] = subprocess.Popen(
                [str(part) for part in (*watched, *command)],
                cwd=self.home,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def environment(self, name: str) -> dict[str, str]:
        home = self.home / f"flwr-{name}"
        home.mkdir(exist_ok=True)
        return {
            **os.environ,
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
            "HOSPITAL": str(self.made.hospital(name)),
            "MARK": name,
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
        }

    def start_superlink(self) -> None:
        keys = self.made.coordinator / "keys"
        tls = [
            "--ssl-certfile",
            keys / "server.pem",
            "--ssl-keyfile",
            keys / "server.key",
            "--ssl-ca-certfile",
            self.ca,
        ]
        options = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--database", self.home / "superlink.sqlite"]
        before = self.log("superlink").read_text().count(UP) if self.log("superlink").exists() else 0
        if self.supervised:
            self.secret.write_bytes(secrets.token_bytes(32))
            options += ["--isolation", "process", "--superexec-auth-secret-file", str(self.secret)]
        self.start("superlink", [BIN / "flower-superlink", *tls, *options, *address])
        until(lambda: self.log("superlink").read_text().count(UP) > before, seconds=60)

    @property
    def secret(self) -> Path:
        return self.home / "superexec.secret"

    def start_superexec(self) -> None:
        """Of a SuperLink that starts none itself."""
        api = ["--runtime-api-address", f"127.0.0.1:{self.port}", "--root-certificates", self.ca]
        self.start("superexec", [BIN / "flower-superexec", *api, "--superexec-auth-secret-file", self.secret])

    def start_submission(self, app: Path, study: Path, out: Path) -> None:
        self.connect("submission")
        command = [sys.executable, "-m", "simulations", "coordinator", "submit", study, "--out", out]
        self.start("submission", [*command, "--connection", "stock", "--app", app, "--every-s", "3"])

    def connect(self, name: str) -> dict[str, str]:
        """The environment of a process that knows the SuperLink as the connection ``stock``."""
        environment = self.environment(name)
        connection = f'address = "127.0.0.1:{self.port}"\nroot-certificates = "{self.ca}"\n'
        (Path(environment["FLWR_HOME"]) / "config.toml").write_text(
            f'[superlink]\ndefault = "stock"\n\n[superlink.stock]\n{connection}'
        )
        return environment

    def below(self, name: str, word: str) -> bool:
        """Whether a process that was started here has a living one below it whose command holds ``word``."""
        return bool(self._below(name, word))

    def _below(self, name: str, word: str) -> list[psutil.Process]:
        alive = []
        for found in psutil.Process(self.running[name].pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it ended meanwhile
                if found.status() != psutil.STATUS_ZOMBIE and word in " ".join(found.cmdline()):
                    alive.append(found)
        return alive

    def kill(self, name: str, *, child: str = "") -> None:
        """``kill -9`` of a process, or of the first one below it whose command holds ``child``."""
        process = psutil.Process(self.running[name].pid)
        if child:
            self._below(name, child)[0].kill()
            return
        further = process.children(recursive=True)
        process.kill()
        self.running.pop(name).wait()
        for orphan in further:  # Flower's own end with their parent, some seconds later
            with suppress(psutil.NoSuchProcess):
                orphan.kill()

    def node_key(self, site: str) -> Path:
        """The hospital's key as OpenSSH writes it, which is what Flower reads; its public half beside it."""
        path = self.home / f"{site}.key"
        key = load_key(self.made.hospital(site) / "keys" / "node.key")
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        path.chmod(0o600)
        path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
        return path

    def flwr(self, *arguments: str | Path) -> str:
        """What a ``flwr`` command prints; it must succeed."""
        environment = self.connect("cli")
        done = subprocess.run(
            [BIN / "flwr", *map(str, arguments)], env=environment, cwd=self.home, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def register(self, site: str) -> None:
        self.flwr("supernode", "register", self.node_key(site).with_suffix(".pub"), "stock")

    def start_supernode(self, site: str) -> None:
        """Unmodified; the site file is named in its node config."""
        self.start(
            site,
            [
                *(BIN / "flower-supernode", "--superlink", f"127.0.0.1:{self.port}", "--root-certificates", self.ca),
                *("--auth-supernode-private-key", self.home / f"{site}.key", "--port", str(free_port())),
                *("--node-config", f'site="{self.made.hospital(site) / "site.toml"}"'),
            ],
        )

    def start_guarded(self, site: str, *allowed: bytes) -> None:
        """An unmodified SuperNode with fedrad's executor, which lets runs with these bundles in."""
        site_file = self.made.hospital(site) / "site.toml"
        text = site_file.read_text()
        if self.made.address in text:  # the first time
            text = text.replace(self.made.address, f"127.0.0.1:{self.port}")
            site_file.write_text(f"allowed_bundles = {[bundle_hash(bundle) for bundle in allowed]}\n{text}")
        self.start(site, [sys.executable, "-m", "simulations", "site", "supernode", site_file])

    def run(self, app: Path, **config: str | Path) -> None:
        values = [f'{name}="{value}"' for name, value in config.items()]
        self.flwr("run", app, "stock", "--run-config", " ".join(values))

    def tails(self) -> str:
        return "\n".join(f"--- {name}\n" + "\n".join(last_lines(self.log(name), 30)) for name in self.running)

    def stop(self) -> None:
        """End every process, and what a SuperLink or SuperNode started itself."""
        started = [psutil.Process(process.pid) for process in self.running.values() if process.poll() is None]
        further = [child for process in started for child in process.children(recursive=True)]
        for process in self.running.values():
            stop(process)
        for child in further:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(further, 10)


@contextmanager
def stock_flower(made: Consortium, home: Path, *, supervised: bool = False) -> Iterator[StockFlower]:
    home.mkdir()
    flower = StockFlower(made, home, supervised=supervised)
    try:
        yield flower
    finally:
        flower.stop()
