"""What sites fetch comes out of the store in parts, and is what Flower's own handler would have sent."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.superlink.servicer.fleet import fleet_handlers

from common.messages import StatisticSums
from common.wire import CHUNK_BYTES, INLINE_BYTES, encode_message


@pytest.mark.parametrize("n_values", [3, 100, 40_000, 3_000_000])
def test_objects_come_out_as_flower_itself_would_send_them(door, n_values):
    node = door.east.node()
    state = door.federation._state
    record = encode_message(StatisticSums(1, {"x": np.arange(float(n_values))})).record
    (message_id,) = state.send([(node.node_id, record)])
    ids = {tree.object_id for tree in iterate_object_tree(state.object_store.get_object_tree(message_id))}
    for object_id in ids:
        request = PullObjectRequest(node=node, run_id=state.run_id, object_id=object_id)
        answer = PullObjectResponse.FromString(door.east.post("/v1/fleet/pull-object", request).content)
        assert answer == fleet_handlers.pull_object(request, state)
        assert answer.object_content == state.object_store.get(object_id)
    apart = 8 * n_values > INLINE_BYTES
    assert len(ids) == (5 + -(-8 * n_values // CHUNK_BYTES) if apart else 3)


def test_objects_of_a_withdrawn_message_are_not_there(door):
    node = door.east.node()
    state = door.federation._state
    (message_id,) = state.send([(node.node_id, encode_message(StatisticSums(1, {"x": np.ones(9)})).record)])
    state.withdraw([message_id])
    request = PullObjectRequest(node=node, run_id=state.run_id, object_id=message_id)
    answer = PullObjectResponse.FromString(door.east.post("/v1/fleet/pull-object", request).content)
    assert not answer.object_found
