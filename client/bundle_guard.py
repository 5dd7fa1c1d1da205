"""What answers at a hospital that takes part through an unmodified SuperLink: its own fedrad, never the run's code.

Flower ships code: a run comes with a bundle, and a SuperNode's executor unpacks and runs it. `GuardedExecutor` takes
that executor's place. It compares the SHA-256 of the bundle with the hospital's ``allowed_bundles``, refuses and logs
every other, and runs nothing of an allowed one either: what answers is the installed `client.site.Site`. The bundle is
bytes to be hashed here; it is never unpacked, imported or written to disk by fedrad.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from operator import attrgetter
from time import monotonic, sleep
from typing import Any

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import context_from_proto, message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    AcquireTaskResponse,
    PullAppMessagesRequest,
    PullTaskInputRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

from client.flower_app import Answer, make_app
from common.errors import Code, MessageError
from common.journal import JsonLines
from common.wire import Limits, inflate_record

POLL_S = 0.2
TIMEOUT_S = 60.0
PATIENCE_S = 600.0
"""For the objects of a message, which the SuperNode fetches while its task is offered already."""

ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
TAKEN = (TaskType.CLIENT_APP, TaskType.AGENT_APP)
"""Tasks that a SuperNode waits for: the second kind is refused, because one that nobody takes blocks the SuperNode."""

LONGEST_NAME = 100
"""Characters of a bundle's own name in the log: its author chose it."""


def bundle_hash(content: bytes) -> str:
    """SHA-256 of a bundle as ``allowed_bundles`` lists it."""
    return hashlib.sha256(content).hexdigest()


class GuardedExecutor:
    """Takes tasks from a SuperNode that runs with ``--isolation process``, and answers them.

    Parameters
    ----------
    address : str
        ``host:port`` of the SuperNode's runtime API, on this machine.
    secret : bytes
        Shared with the SuperNode, so that nobody else on this machine can take a task.
    answer : callable
        ``Site.answer``.
    allowed : collection of str
        SHA-256 of the bundles with which a run may come.
    log : JsonLines
        The site's log: one line a refused bundle.
    """

    def __init__(
        self,
        address: str,
        secret: bytes,
        answer: Answer,
        *,
        allowed: Collection[str],
        log: JsonLines,
        limits: Limits | None = None,
    ) -> None:
        self._address = address
        self._allowed = frozenset(allowed)
        self._log = log
        self._limits = limits or Limits()
        self._app = make_app(answer, limits=self._limits)
        signing = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={ACQUIRE})
        self._tasks = self._client(signing)
        self._next: AcquireTaskResponse | None = None

    def run(self, stop: threading.Event, *, alive: Callable[[], bool]) -> None:
        """Take tasks until ``stop`` is set, or ``alive`` says that the SuperNode has ended."""
        try:
            while not stop.wait(POLL_S) and alive():
                with suppress(httpx.HTTPError):  # the SuperNode is starting, or gave the task up: asked again
                    self.take_one()
        finally:
            self.close()

    def close(self) -> None:
        """Close the connection to the SuperNode."""
        self._tasks.close()

    def take_one(self) -> bool:
        """Answer one task; False where there is none.

        Raises
        ------
        httpx.HTTPError
            If the SuperNode cannot be reached or takes the task back.
        """
        found, self._next = self._next or self._offered(), None
        if found is None:
            return False
        client = self._client(RuntimeTokenHttpInterceptor(found.token))
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
        heartbeat.start()
        try:
            self._answer(client, str(found.task.type))
        finally:
            heartbeat.stop()
            client.close()
        return True

    def _offered(self) -> AcquireTaskResponse | None:
        found = self._tasks.AcquireTask(AcquireTaskRequest(supported_task_types=[str(kind) for kind in TAKEN]))
        return found if found.HasField("task") and found.token else None

    def _client(self, interceptor: Any) -> RuntimeHttpClient:
        version = RuntimeVersionHttpInterceptor(component_name="fedrad")
        client = RuntimeHttpClient.from_server_address(self._address, True, None, [version, interceptor])
        client._client.close()
        client._client = httpx.Client(timeout=TIMEOUT_S, trust_env=False)  # no proxy reaches this machine's loopback
        return client

    def _answer(self, client: RuntimeHttpClient, kind: str) -> None:
        given = client.PullTaskInput(PullTaskInputRequest())
        context = context_from_proto(given.context)
        try:
            self._answer_message(client, kind, context, given)
        except _DroppedError:  # nothing is owed for it
            push_task_output(client, context, SubStatus.FAILED, "")

    def _answer_message(self, client: RuntimeHttpClient, kind: str, context: Context, given: Any) -> None:
        pull = PullAppMessagesRequest()
        pulled = self._patiently(lambda: client.PullMessages(pull), lambda found: found.messages_list)
        head, tree = message_from_proto(pulled.messages_list[0]), pulled.message_object_trees[0]
        node = Node(node_id=context.node_id)
        if self._refuses(kind, bytes(given.fab.content), str(given.run.fab_id)):
            refusal = Error(code=ErrorCode.INVALID_FAB, reason=str(Code.BUNDLE_NOT_ALLOWED))
            reply = Message(refusal, reply_to=head)
        else:
            reply = self._app(self._fetch(client, node, head, tree), context)
        confirmation = ConfirmMessageReceivedRequest(node=node, run_id=context.run_id, message_object_id=tree.object_id)
        client.ConfirmMessageReceived(confirmation)
        push_message(client, reply, context)
        push_task_output(client, context, SubStatus.COMPLETED, "")

    def _refuses(self, kind: str, bundle: bytes, name: str) -> bool:
        found = bundle_hash(bundle)
        if kind == TaskType.CLIENT_APP and found in self._allowed:
            return False
        reason = f"bundle {found} ({name[:LONGEST_NAME]}, {len(bundle)} bytes, task {kind}) is not in allowed_bundles"
        self._log.write("refused", request="bundle", code=str(Code.BUNDLE_NOT_ALLOWED), reason=reason)
        return True

    def _fetch(self, client: RuntimeHttpClient, node: Node, head: Message, tree: ObjectTree) -> Message:
        """The request with its content; where it is not one, with an empty record, which the app refuses."""
        ids = list(dict.fromkeys(found.object_id for found in iterate_object_tree(tree)))
        record = RecordDict()
        with suppress(MessageError):
            if len(ids) > self._limits.objects:
                raise MessageError(f"request of {len(ids)} objects, at most {self._limits.objects} are accepted")
            pull = partial(PullObjectRequest, node=node, run_id=head.metadata.run_id)
            objects = {key: self._object(client, pull(object_id=key)) for key in ids}
            record = inflate_record(tree.object_id, objects, self._limits)
        return make_message(metadata=head.metadata, content=record)

    def _object(self, client: RuntimeHttpClient, request: PullObjectRequest) -> bytes:
        ready = attrgetter("object_found", "object_available")
        found = self._patiently(lambda: client.PullObject(request), lambda found: all(ready(found)))
        return bytes(found.object_content)

    def _patiently(self, call: Callable[[], Any], ready: Callable[[Any], Any]) -> Any:
        """What a SuperNode hands out once it is there: it offers a task before it fetched the message and its objects.

        It fetches one message at a time. Where it offers the next task before this one's message is there, it has
        dropped this one, because the run ended meanwhile.

        Raises
        ------
        _DroppedError
            If it offers the next one, which is then taken by `take_one`.
        httpx.ReadTimeout
            If nothing comes; the SuperNode then gives the task up.
        """
        end = monotonic() + PATIENCE_S
        while not ready(found := call()):
            if monotonic() > end:
                raise httpx.ReadTimeout("the SuperNode offers a task without its message")
            self._next = self._offered()
            if self._next is not None:
                raise _DroppedError
            sleep(POLL_S)
        return found


class _DroppedError(Exception):
    """The SuperNode gave up the message that it offered."""
