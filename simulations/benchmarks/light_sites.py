"""Many sites in one process that hold nothing: real certificates and Flower's Fleet protocol over mutual TLS.

Each site fetches every object of a request and forgets it, then sends a delta of the model's size that is its own
(Flower stores equal objects once). A few send at a time; the coordinator sees as many connections as there are sites.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)

from client.connection import NodeConnection
from client.fleet_client import HEARTBEAT_INTERVAL_S, FleetClient
from common.arrays import Parameters
from common.messages import LocalUpdate
from common.wire import encode_message

SENDERS = 4
"""Sites that hold a delta at the same time: it bounds this process's memory, not the coordinator's."""


class LightSites:
    """Sites of one coordinator.

    Parameters
    ----------
    layout : Parameters
        Of the model: names and shapes of the deltas.
    model : str
    """

    def __init__(self, layout: Parameters, model: str) -> None:
        self._layout = layout
        self._model = model
        self._sending = threading.Semaphore(SENDERS)

    def run(self, connections: Sequence[NodeConnection]) -> None:
        """Answer until the coordinator is gone."""
        threads = [threading.Thread(target=self._serve, args=item) for item in enumerate(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _serve(self, number: int, connection: NodeConnection) -> None:
        client = FleetClient(connection)
        try:
            activate = ActivateNodeRequest(public_key=client.public_key, heartbeat_interval=HEARTBEAT_INTERVAL_S)
            node = Node(node_id=client.ActivateNode(activate).node_id)
            round_number = 0
            while True:
                client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_INTERVAL_S))
                waiting = client.PullMessages(PullMessagesRequest(node=node))
                if waiting.messages_list:
                    round_number += 1
                    self._answer(client, node, waiting, number, round_number)
        except httpx.HTTPError:
            return  # the coordinator has ended
        finally:
            client.close()

    def _answer(self, client: FleetClient, node: Node, waiting: Any, number: int, round_number: int) -> None:
        head, tree = message_from_proto(waiting.messages_list[0]), waiting.message_object_trees[0]
        run_id = head.metadata.run_id
        for object_id in dict.fromkeys(entry.object_id for entry in iterate_object_tree(tree)):
            client.PullObject(PullObjectRequest(node=node, run_id=run_id, object_id=object_id))
        head.metadata.__dict__["_message_id"] = tree.object_id
        with self._sending:
            self._send(client, node, head, number, round_number)
        confirmation = ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=tree.object_id)
        client.ConfirmMessageReceived(confirmation)

    def _send(self, client: FleetClient, node: Node, head: Message, number: int, round_number: int) -> None:
        value = np.float32(1e-6 * (1 + number + 1000 * round_number))
        parts = {name: np.full(array.shape, value, np.float32) for name, array in self._layout.items()}
        for start, part in enumerate(parts.values()):
            part += np.arange(part.size, dtype=np.float32).reshape(part.shape) * np.float32(1e-12 * (start + 1))
        record = encode_message(LocalUpdate(self._model, round_number, 10 + number, Parameters(parts), 0.5)).record
        reply = Message(record, reply_to=head)
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = get_all_nested_objects(reply)
            push = PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[0.0],
            )
        accepted = client.PushMessages(push)
        for object_id in accepted.objects_to_push:
            client.PushObject(
                PushObjectRequest(
                    node=node,
                    run_id=reply.metadata.run_id,
                    object_id=object_id,
                    object_content=objects[object_id].deflate(),
                    session_id=accepted.session_id,
                )
            )


def connection(home: Path, site: str, port: int) -> NodeConnection:
    folder = home / site
    return NodeConnection(f"127.0.0.1:{port}", folder / "ca.pem", folder / "node.key", folder / "node.pem")
