"""Every internal of Flower and uvicorn that fedrad relies on, by name: an upgrade fails here and not in a study.

flwr is pinned exactly. Before the pin moves: read the release's changes of the files named below, run this file and
the tests of the transport, and change `PINNED`.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.metadata import version

import numpy as np
import pytest
from flwr.app import Array, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.common import constant
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.inflatable.inflatable_object import get_object_head_values_from_object_content
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.superlink.federation import NoOpFederationManager
from flwr.supernode.fleet_http_client import FleetHttpClient
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from client import node
from common.errors import FederationError
from common.wire import CHUNK_BYTES
from server.flower_state import UNUSED, NotLoaded, ObjectTree
from server.link_state import FleetState
from server.listener import HANDLERS

PINNED = "1.41.0"

PARAMETERS = {
    # client/node.py, client/fleet_client.py
    "flwr.supernode.fleet_http_client:FleetHttpClient.__init__": "base_url interceptors verify timeout retry_invoker",
    "flwr.supernode.fleet_http_client:FleetHttpClient.ActivateNode": "request",
    "flwr.supernode.fleet_http_client:FleetHttpClient.DeactivateNode": "request",
    "flwr.supernode.fleet_http_client:FleetHttpClient.SendNodeHeartbeat": "request",
    "flwr.supernode.fleet_http_client:FleetHttpClient.PullMessages": "request",
    "flwr.supernode.fleet_http_client:FleetHttpClient.PushMessages": "request",
    "flwr.supernode.fleet_http_client:FleetHttpClient.PullObject": "request",
    "flwr.supernode.fleet_http_client:FleetHttpClient.PushObject": "request",
    "flwr.supernode.fleet_http_client:FleetHttpClient.ConfirmMessageReceived": "request",
    "flwr.supernode.node_auth_http_interceptor:NodeAuthHttpInterceptor.__init__": "private_key public_key",
    "flwr.supernode.node_auth_http_interceptor:NodeAuthHttpInterceptor.intercept": "context call_next",
    "flwr.supercore.primitives.asymmetric:sign_message": "private_key message",
    "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": "obj",
    "flwr.supercore.inflatable.inflatable_object:get_object_tree": "obj",
    "flwr.supercore.inflatable.inflatable_object:iterate_object_tree": "tree",
    "flwr.supercore.inflatable.inflatable_object:no_object_id_recompute": "",
    "flwr.app.message:make_message": "metadata content error",
    "flwr.app.message:remove_content_from_message": "message",
    "flwr.common.serde:message_from_proto": "message_proto",
    "flwr.common.serde:message_to_proto": "message",
    "flwr.supercore.primitives.asymmetric:public_key_to_bytes": "public_key",
    # client/bundle_guard.py
    "flwr.supercore.runtime:RuntimeHttpClient.from_server_address": (
        "server_address insecure root_certificates interceptors retry_invoker"
    ),
    "flwr.supercore.runtime:RuntimeHttpClient.AcquireTask": "request",
    "flwr.supercore.runtime:RuntimeHttpClient.PullTaskInput": "request",
    "flwr.supercore.runtime:RuntimeHttpClient.PullMessages": "request",
    "flwr.supercore.runtime:RuntimeHttpClient.PullObject": "request",
    "flwr.supercore.runtime:RuntimeHttpClient.ConfirmMessageReceived": "request",
    "flwr.supernode.runtime.run_clientapp:push_message": "client message context",
    "flwr.supernode.runtime.run_clientapp:push_task_output": "client context sub_status details",
    "flwr.supercore.heartbeat:HeartbeatSender.__init__": "heartbeat_fn",
    "flwr.supercore.heartbeat:make_task_heartbeat_fn_http": "client",
    "flwr.supercore.interceptors:SuperExecAuthHttpInterceptor.__init__": "master_secret protected_methods",
    "flwr.supercore.interceptors:RuntimeTokenHttpInterceptor.__init__": "token",
    "flwr.supercore.interceptors:RuntimeVersionHttpInterceptor.__init__": "component_name",
    "flwr.common.serde:context_from_proto": "context_proto",
    # common/wire.py
    "flwr.supercore.inflatable.inflatable_object:get_object_head_values_from_object_content": "object_content",
    # server/listener.py, server/admission.py
    "flwr.supercore.primitives.asymmetric:bytes_to_public_key": "public_key_bytes",
    "flwr.supercore.primitives.asymmetric:verify_signature": "public_key message signature",
    "flwr.superlink.servicer.fleet.fleet_handlers:activate_node": "request state",
    "flwr.superlink.servicer.fleet.fleet_handlers:deactivate_node": "request state",
    "flwr.superlink.servicer.fleet.fleet_handlers:send_node_heartbeat": "request state",
    "flwr.superlink.servicer.fleet.fleet_handlers:pull_messages": "request state store",
    "flwr.superlink.servicer.fleet.fleet_handlers:push_messages": "request state",
    "flwr.superlink.servicer.fleet.fleet_handlers:get_run": "request state",
    "flwr.superlink.servicer.fleet.fleet_handlers:push_object": "request state",
    "flwr.superlink.servicer.fleet.fleet_handlers:pull_object": "request state",
    "flwr.superlink.servicer.fleet.fleet_handlers:confirm_message_received": "request state store",
    # server/link_state.py: called
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.__init__": "federation_manager object_store",
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.create_node": (
        "owner_aid owner_name public_key heartbeat_interval location name"
    ),
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.delete_node": "owner_aid node_id",
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.get_node_info": (
        "node_ids owner_aids statuses"
    ),
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.store_message_ins": "message",
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.delete_messages": "message_ins_ids",
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.start_session": "run_id",
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.preregister_object_tree": (
        "object_tree session_id"
    ),
    "flwr.supercore.object_store.in_memory_object_store:InMemoryObjectStore.preregister": "run_id object_tree",
    "flwr.supercore.object_store.in_memory_object_store:InMemoryObjectStore.get": "object_id",
    "flwr.supercore.object_store.in_memory_object_store:InMemoryObjectStore.delete": "object_id",
    # server/link_state.py: overridden
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.activate_node": "node_id heartbeat_interval",
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.deactivate_node": "node_id",
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.get_message_ins": "node_id limit run_id",
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.store_message_and_object_tree": (
        "message object_tree session_id"
    ),
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState.store_object": (
        "run_id session_id object_id object_content"
    ),
    "flwr.server.superlink.linkstate.in_memory_linkstate:InMemoryLinkState._cleanup_expired_task_tokens_locked": "",
    # server/tls_server.py: overridden
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.connection_made": "transport",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.connection_lost": "exc",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.on_message_begin": "",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.on_headers_complete": "",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol.on_body": "body",
}
"""Each function that is called or overridden, with the names of its parameters."""


def test_the_installed_flower_is_the_pinned_one():
    assert version("flwr") == PINNED


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_every_function_has_the_parameters_that_we_use(name, parameters):
    module, _, path = name.partition(":")
    found = import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    assert [p for p in inspect.signature(found).parameters if p != "self"] == parameters.split()


def test_the_link_state_has_the_fields_that_we_read():
    state = InMemoryLinkState(NoOpFederationManager(), InMemoryObjectStore())
    fields = [
        "nodes", "node_public_key_to_node_id", "message_ins_store", "message_res_store", "lock",
        "message_ins_id_to_message_res_id", "_object_push_sessions", "object_store",
    ]  # fmt: skip
    assert [name for name in fields if not hasattr(state, name)] == []
    store = InMemoryObjectStore()
    store.preregister(1, ObjectTree(object_id="a" * 64, children=[ObjectTree(object_id="b" * 64)]))
    assert store.store["a" * 64].child_object_ids == ["b" * 64]
    assert store.lock_store


def test_our_link_state_overrides_nothing_that_does_not_exist():
    own = {name for name, value in vars(FleetState).items() if inspect.isfunction(value)}
    inherited = {name for name in own if hasattr(InMemoryLinkState, name)}
    assert inherited == {
        "__init__", "activate_node", "deactivate_node", "get_message_ins", "store_message_and_object_tree",
        "store_object", "_cleanup_expired_task_tokens_locked",
    }  # fmt: skip


def test_every_path_of_ours_is_a_path_of_flowers_and_those_we_leave_out_are_known():
    theirs = {path for method, path in PROTOBUF_REQUEST_TYPES if method == "POST" and path.startswith("/v1/fleet/")}
    assert theirs - set(HANDLERS) == {"/v1/fleet/register-node", "/v1/fleet/unregister-node", "/v1/fleet/get-fab"}
    assert set(HANDLERS) <= theirs


def test_every_request_names_the_node_in_one_of_two_ways():
    for path in HANDLERS:
        fields = PROTOBUF_REQUEST_TYPES["POST", path].DESCRIPTOR.fields_by_name
        assert "node" in fields or "node_id" in fields or path.endswith("activate-node")


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (fleet_pb2.ActivateNodeRequest, "public_key heartbeat_interval"),
        (fleet_pb2.PullMessagesResponse, "messages_list message_object_trees"),
        (fleet_pb2.PushMessagesRequest, "node messages_list message_object_trees clientapp_runtime_list"),
        (fleet_pb2.PushMessagesResponse, "objects_to_push session_id"),
        (heartbeat_pb2.SendNodeHeartbeatRequest, "node heartbeat_interval"),
        (message_pb2.PushObjectRequest, "node run_id object_id object_content session_id"),
        (message_pb2.PushObjectResponse, "stored"),
        (message_pb2.PullObjectRequest, "node run_id object_id"),
        (message_pb2.PullObjectResponse, "object_found object_available object_content"),
        (message_pb2.ConfirmMessageReceivedRequest, "node run_id message_object_id"),
        (message_pb2.ObjectTree, "object_id children"),
    ],
)
def test_every_wire_message_has_the_fields_that_we_use(message, fields):
    assert set(fields.split()) <= set(message.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize(("module", "name"), UNUSED.items())
def test_what_is_left_out_is_flowers_and_can_still_be_loaded(module, name):
    assert getattr(import_module(module), name) is not NotLoaded
    with pytest.raises(FederationError, match="not loaded"):
        NotLoaded("a database")


def test_flower_cuts_arrays_where_our_limits_think():
    assert constant.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE == CHUNK_BYTES
    array = Array("uint8", (CHUNK_BYTES + 1,), "raw", np.random.default_rng(0).bytes(CHUNK_BYTES + 1))
    assert len(array.children) == 2


def test_objects_look_as_our_inflation_reads_them():
    content = Array("uint8", (1,), "raw", b"x").deflate()
    kind, children, length = get_object_head_values_from_object_content(content)
    assert (kind, len(children)) == ("Array", 1)
    assert len(content) == content.index(b"\0") + 1 + length


def test_the_heartbeat_is_within_what_flower_accepts():
    assert constant.HEARTBEAT_MIN_INTERVAL <= node.HEARTBEAT_INTERVAL_S <= constant.HEARTBEAT_MAX_INTERVAL
    assert node.HEARTBEAT_S * 3 < node.HEARTBEAT_INTERVAL_S * constant.HEARTBEAT_PATIENCE


def test_the_message_id_is_the_object_id_and_is_set_as_we_set_it():
    message = make_message(metadata=Metadata(1, "", 1, 2, "", "", 1e9, 60.0, "query"), content=RecordDict())
    before = message.object_id
    message.metadata.__dict__["_message_id"] = before
    assert message.metadata.message_id == before
    assert message.object_id == before


def test_flowers_client_and_uvicorns_protocol_have_the_attributes_that_we_use():
    assert "verify" in inspect.signature(FleetHttpClient.__init__).parameters
    source = inspect.getsource(HttpToolsProtocol)
    for name in ("self.app_state", "self.cycle", "self.flow", "self.loop", "message_event", "response_complete"):
        assert name in source
