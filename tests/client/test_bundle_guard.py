"""Code that comes with a run is not run: against the runtime API of an unmodified SuperNode, with a hostile bundle."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import sleep

import httpx
import pytest
import uvicorn
from flwr.app import Message, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.cli.build import build_fab_from_disk
from flwr.common.constant import ErrorCode, Status
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.start_client_internal import _pull_and_store_message

from client.bundle_guard import GuardedExecutor, bundle_hash
from common.codec import encode
from common.errors import Code
from common.journal import JsonLines
from common.messages import Finish, Hello, Reply, Request, Welcome
from common.wire import Limits, decode_message, encode_message
from server.coordinator import CoordinatorSettings, FlowerFederation
from tests.commands import fedrad
from tests.deployment import REPOSITORY, consortium, running, site_command, until
from tests.hostile_bundle import CODE, Listener, hostile_bundle

SECRET = b"shared by the SuperNode and its executor"
NODE_ID = 77


class SuperNode:
    """The runtime API of an unmodified SuperNode, and messages as its own loop stores them."""

    def __init__(self) -> None:
        self._stores = ObjectStoreFactory()
        factory = NodeStateFactory(self._stores)
        self.state = factory.state()
        self.state.set_node_id(NODE_ID)
        app = create_app(state_factory=factory, superexec_auth_secret=SECRET)
        self._server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws="none"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)
        self.address = f"127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def receives(
        self,
        record: RecordDict,
        bundle: bytes,
        *,
        run_id: int = 5,
        kind: str = TaskType.SERVER_APP,
        object_s: float = 0.0,
        ends: bool = False,
    ) -> None:
        """A message of a run that comes with ``bundle``, as from a SuperLink; the run may end while it is fetched."""
        run = Run.create_empty(run_id)
        run.fab_id, run.fab_version, run.fab_hash = "fedrad/fedrad", "0.1.0", bundle_hash(bundle)
        run.series_id, run.primary_task_type = run_id, kind
        message = make_message(metadata=_metadata(run_id), content=record)
        message.metadata.__dict__["_message_id"] = message.object_id
        objects = {key: found.deflate() for key, found in get_all_nested_objects(message).items()}

        def pull(_: int, key: str) -> bytes:
            if ends:
                raise RunNotRunningException
            sleep(object_s)
            return objects[key]

        stored = _pull_and_store_message(
            self.state,
            self._stores.store(),
            {},
            lambda: (message, get_object_tree(message)),
            lambda _: run,
            lambda *_: Fab(run.fab_hash, bundle, {}),
            pull,
            lambda *_: None,
            None,
        )
        assert stored == (None if ends else run_id)

    def reply(self) -> Message:
        (head,) = self.state.get_messages_legacy(is_reply=True)
        store = self._stores.store()
        found = {key: store.get(key) for key in _ids(store.get_object_tree(head.metadata.message_id))}
        return inflate_object_from_contents(head.metadata.message_id, found)


def _ids(tree: object) -> list[str]:
    return [tree.object_id, *(key for child in tree.children for key in _ids(child))]  # type: ignore[attr-defined]


def _metadata(run_id: int) -> Metadata:
    return Metadata(run_id, "", 1, NODE_ID, "", "", 0.0, 1e12, "query")


@pytest.fixture
def node() -> Iterator[SuperNode]:
    running = SuperNode()
    yield running
    running.stop()


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as listening:
        yield listening


def greet(request: Request) -> Reply:
    assert isinstance(request, Hello)
    return Welcome("east", {})


def takes_one(node: SuperNode, folder: Path, *allowed: bytes, secret: bytes = SECRET) -> bool:
    """An executor takes a task."""
    hashes = {bundle_hash(bundle) for bundle in allowed}
    log = JsonLines(folder / "log.jsonl")
    with closing(GuardedExecutor(node.address, secret, greet, allowed=hashes, log=log)) as executor:
        return executor.take_one()


def hello() -> RecordDict:
    return encode_message(Hello("0" * 64, {})).record


def refusals(folder: Path) -> list[dict[str, object]]:
    return list(JsonLines(folder / "log.jsonl").read())


def test_the_hostile_bundle_is_hostile_where_it_is_run(tmp_path: Path, listener: Listener) -> None:
    """Otherwise the tests below would prove nothing."""
    (tmp_path / "cases.csv").write_text("anna smith")
    code = CODE.format(marks=str(tmp_path), port=listener.port) + "\nattack()\n"
    environment = {**os.environ, "HOSPITAL": str(tmp_path), "MARK": "mark", "FLWR_TELEMETRY_ENABLED": "0"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert (tmp_path / "mark").read_text() == "anna smith"
    until(lambda: listener.received == [b"anna smith"])


def test_a_bundle_that_is_not_on_the_list_is_refused_and_logged(
    node: SuperNode, tmp_path: Path, listener: Listener
) -> None:
    bundle = hostile_bundle(tmp_path, listener.port)
    node.receives(hello(), bundle)
    assert takes_one(node, tmp_path, b"another bundle")
    reply = node.reply()
    assert (reply.error.code, reply.error.reason) == (ErrorCode.INVALID_FAB, "bundle_not_allowed")
    (line,) = refusals(tmp_path)
    assert (line["request"], line["code"]) == ("bundle", Code.BUNDLE_NOT_ALLOWED)
    assert bundle_hash(bundle) in str(line["reason"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl"]
    assert not listener.received


def test_the_right_bundle_is_answered_by_the_installed_fedrad(node: SuperNode, tmp_path: Path) -> None:
    bundle = build_fab_from_disk(REPOSITORY)
    node.receives(hello(), bundle)
    assert takes_one(node, tmp_path, bundle)
    assert encode(decode_message(node.reply().content, Limits())) == encode(Welcome("east", {}))
    assert not refusals(tmp_path)


def test_objects_that_come_after_the_task_are_waited_for(node: SuperNode, tmp_path: Path) -> None:
    bundle = build_fab_from_disk(REPOSITORY)
    receiving = threading.Thread(target=lambda: node.receives(hello(), bundle, object_s=1.0))
    receiving.start()
    until(lambda: takes_one(node, tmp_path, bundle))
    receiving.join()
    assert encode(decode_message(node.reply().content, Limits())) == encode(Welcome("east", {}))


def test_a_message_that_the_supernode_drops_holds_up_nobody(node: SuperNode, tmp_path: Path) -> None:
    """The run ends while its message is fetched: the task stays, the objects never come, the next run's does."""
    bundle = build_fab_from_disk(REPOSITORY)
    node.receives(hello(), bundle, run_id=5, ends=True)
    log = JsonLines(tmp_path / "log.jsonl")
    hashes = {bundle_hash(bundle)}
    with closing(GuardedExecutor(node.address, SECRET, greet, allowed=hashes, log=log)) as executor:
        taking = threading.Thread(target=executor.take_one)
        taking.start()
        until(lambda: not node.state.get_tasks(statuses=[Status.PENDING]))
        sleep(0.5)  # its objects are asked for
        node.receives(hello(), bundle, run_id=6)
        taking.join(10)
        assert not taking.is_alive()
        assert executor.take_one()
    reply = node.reply()
    assert reply.metadata.run_id == 6
    assert encode(decode_message(reply.content, Limits())) == encode(Welcome("east", {}))
    assert not node.state.get_tasks(statuses=[Status.PENDING, Status.STARTING, Status.RUNNING])


def test_a_changed_bundle_is_another_one(node: SuperNode, tmp_path: Path) -> None:
    bundle = build_fab_from_disk(REPOSITORY)
    node.receives(hello(), bundle + b"\x00")
    assert takes_one(node, tmp_path, bundle)
    assert node.reply().error.code == ErrorCode.INVALID_FAB


def test_even_an_allowed_bundle_is_not_run(node: SuperNode, tmp_path: Path, listener: Listener) -> None:
    bundle = hostile_bundle(tmp_path, listener.port)
    node.receives(hello(), bundle)
    assert takes_one(node, tmp_path, bundle)
    assert encode(decode_message(node.reply().content, Limits())) == encode(Welcome("east", {}))
    assert not [path for path in tmp_path.iterdir() if path.name != "log.jsonl"]
    assert not listener.received


def test_a_run_of_another_kind_of_app_is_refused_and_does_not_block(node: SuperNode, tmp_path: Path) -> None:
    bundle = build_fab_from_disk(REPOSITORY)
    node.receives(hello(), bundle, kind=TaskType.AGENT_APP)
    assert takes_one(node, tmp_path, bundle)
    assert node.reply().error.code == ErrorCode.INVALID_FAB


def test_a_site_that_fails_sends_a_code_and_no_sentence(node: SuperNode, tmp_path: Path) -> None:
    bundle = build_fab_from_disk(REPOSITORY)
    node.receives(encode_message(Finish("0" * 64, "completed")).record, bundle)
    assert takes_one(node, tmp_path, bundle)
    reply = node.reply()
    assert encode(decode_message(reply.content, Limits()))[0].count(b"internal") == 1


def test_nobody_without_the_secret_takes_a_task(node: SuperNode, tmp_path: Path) -> None:
    bundle = build_fab_from_disk(REPOSITORY)
    node.receives(hello(), bundle)
    with pytest.raises(httpx.HTTPStatusError, match=r"401|403"):
        takes_one(node, tmp_path, bundle, secret=b"guessed")
    assert takes_one(node, tmp_path, bundle)
    assert not takes_one(node, tmp_path, bundle)


def test_the_hash_as_the_command_prints_it(tmp_path: Path) -> None:
    bundle = build_fab_from_disk(REPOSITORY)
    (tmp_path / "fedrad.fab").write_bytes(bundle)
    assert fedrad("site", "bundle-hash", tmp_path / "fedrad.fab").output.strip() == bundle_hash(bundle)


def test_the_bundle_of_fedrad_holds_no_code() -> None:
    import io
    import zipfile

    names = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(REPOSITORY))).namelist()
    assert sorted(names) == [".info/CONTENT", "LICENSE", "pyproject.toml"]


def test_fedrads_own_node_never_asks_what_code_a_run_came_with(tmp_path: Path) -> None:
    """A coordinator whose runs name a bundle: the node answers as ever and asks for neither run nor bundle."""
    consortium(tmp_path, sites=("east",))
    with FlowerFederation(CoordinatorSettings(tmp_path, "127.0.0.1:0")) as federation:
        (run,) = federation._state.get_run_info(run_ids=[federation._state.run_id])
        run.fab_id, run.fab_hash = "someone/else", bundle_hash(b"hostile")
        asked: list[str] = []
        handle = federation._listener._handle

        def watched(path: str, request: object) -> object:
            asked.append(path)
            return handle(path, request)

        federation._listener._handle = watched  # type: ignore[method-assign, assignment]
        with running(site_command(tmp_path, "east", federation.port)):
            assert federation.wait_for(["east"], deadline_s=30) == ()
            (answer,) = federation.ask({"east": Hello("0" * 64, {})}, deadline_s=30)
    assert isinstance(answer.reply, Welcome)
    assert {path.rsplit("/", 1)[-1] for path in asked} <= {
        *("activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages"),
        *("pull-object", "push-object", "confirm-message-received"),
    }
    assert any(path.endswith("pull-messages") for path in asked)
