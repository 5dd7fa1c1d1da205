"""Nothing is lost between Flower's link state, a dying site and the study; and nothing is kept."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from common.messages import Done, Finish, StatisticSums
from common.wire import CHUNK_BYTES, Limits, decode_message, encode_message, inflate_record
from server.link_state import Arrived, FleetState
from server.spool import DEEPEST, SPOOLED, SpooledStore

REQUEST = encode_message(Finish("study", "completed")).record
DONE = encode_message(Done()).record


class Reply:
    """What a site's process would push."""

    def __init__(self, state: FleetState, request: Message, record: RecordDict = DONE) -> None:
        self.state = state
        self.message = Message(record, reply_to=request)
        self.message.metadata.__dict__["_message_id"] = self.message.object_id
        self.objects = {name: value.deflate() for name, value in get_all_nested_objects(self.message).items()}

    def push(self, *, all_but: int = 0) -> bool:
        session = self.state.start_session(self.state.run_id)
        head = remove_content_from_message(self.message)
        stored, missing = self.state.store_message_and_object_tree(head, get_object_tree(self.message), session)
        for name in missing[: len(missing) - all_but]:
            assert self.state.store_object(self.state.run_id, session, name, self.objects[name])
        return stored


@pytest.fixture
def woken() -> list[int]:
    return []


@pytest.fixture
def state(woken: list[int], spool: SpooledStore) -> FleetState:
    state = FleetState(spool, woken.append)
    state.sync({"east": "key of east", "north": "key of north"})
    return state


def pull(state: FleetState, site: str) -> list[Message]:
    return state.get_message_ins(state.node_of(site), 1)


def send(state: FleetState, site: str) -> str:
    return state.send([(state.node_of(site), REQUEST)])[0]


def taken(state: FleetState, message_id: str) -> Any:
    """The message of a complete reply, which is forgotten then."""
    arrived = state.reply_to(message_id)
    assert isinstance(arrived, Arrived)
    decoded = decode_message(inflate_record(arrived.root, arrived.objects, Limits()), Limits())
    state.withdraw([message_id])
    return decoded


def test_a_site_that_is_offline_may_be_asked_and_is_woken(state, woken):
    assert state.online() == set()
    message_id = send(state, "east")
    assert woken[-1] == state.node_of("east")
    assert [message.metadata.message_id for message in pull(state, "east")] == [message_id]
    assert pull(state, "north") == []


def test_a_request_that_was_fetched_and_not_answered_is_handed_out_again(state):
    message_id = send(state, "east")
    assert not state.delivered(message_id)
    for _ in range(3):
        assert [message.metadata.message_id for message in pull(state, "east")] == [message_id]
        assert state.delivered(message_id)


def test_a_reply_is_read_until_it_is_withdrawn_and_nothing_remains(state):
    message_id = send(state, "east")
    assert state.reply_to(message_id) is None
    reply = Reply(state, pull(state, "east")[0])
    assert reply.push()
    assert pull(state, "east") == []
    assert isinstance(taken(state, message_id), Done)
    assert state.reply_to(message_id) is None
    assert not state.message_ins_store
    assert not state.message_res_store
    assert not state.object_store.store


def test_an_incomplete_reply_does_not_count_and_the_next_process_may_answer(state):
    message_id = send(state, "east")
    request = pull(state, "east")[0]
    assert Reply(state, request).push(all_but=1)
    assert state.reply_to(message_id) is None
    again = pull(state, "east")[0]
    assert again.metadata.message_id == message_id
    assert Reply(state, again, encode_message(StatisticSums(1, {"x": np.ones(2)})).record).push()
    assert isinstance(taken(state, message_id), StatisticSums)
    assert not state.object_store.store


def test_the_same_reply_may_be_pushed_again_after_a_lost_answer(state):
    message_id = send(state, "east")
    reply = Reply(state, pull(state, "east")[0])
    assert reply.push(all_but=1)
    assert reply.push()
    assert reply.push()
    assert state.reply_to(message_id) is not None


def test_a_reply_to_a_withdrawn_request_is_dropped(state):
    message_id = send(state, "east")
    reply = Reply(state, pull(state, "east")[0])
    state.withdraw([message_id])
    assert not reply.push()
    assert state.reply_to(message_id) is None
    assert not state.object_store.store


def test_a_poll_while_the_reply_is_being_taken_does_not_ask_again(state, monkeypatch):
    """The site confirms and polls at once; the study is still reading the reply."""
    message_id = send(state, "east")
    Reply(state, pull(state, "east")[0]).push()
    polled: list[list[Message]] = []
    original = state.object_store.get

    def get(object_id: str) -> bytes | None:
        polled.append(pull(state, "east"))
        return original(object_id)

    monkeypatch.setattr(state.object_store, "get", get)
    assert isinstance(taken(state, message_id), Done)
    assert polled
    assert not any(polled)


def test_equal_requests_are_stored_once_and_equal_replies_do_not_take_each_other_away(state):
    ids = state.send([(state.node_of(site), REQUEST) for site in ("east", "north")])
    assert len(state.object_store.store) == 2 + 2  # two messages, one record, one header
    for site in ("east", "north"):
        assert Reply(state, pull(state, site)[0]).push()
    assert all(isinstance(taken(state, message_id), Done) for message_id in ids)
    assert not state.object_store.store


def test_a_returning_process_is_let_in_while_the_former_counts_as_online(state):
    node_id = state.node_of("east")
    assert state.activate_node(node_id, 30)
    generation = state.generation[node_id]
    assert state.activate_node(node_id, 30)
    assert state.generation[node_id] == generation + 1
    assert state.online() == {"east"}
    state.deactivate_node(node_id)
    assert state.online() == set()


def test_the_registry_decides_who_exists(state):
    former = state.node_of("east")
    state.sync({"east": "new key", "west": "key of west"})
    assert state.node_of("north") is None
    assert state.node_of("east") not in (None, former)
    assert state.get_node_id_by_public_key(b"key of north") is None
    assert state.get_node_id_by_public_key(b"key of east") is None
    state.sync({"north": "key of north"})
    assert state.get_node_id_by_public_key(b"key of north") == state.node_of("north")


def test_the_run_does_not_expire(state):
    for record in state.task_token_store.values():
        record.active_until = record.active_until.replace(year=2000)
    assert send(state, "east")


def test_what_exceeds_memory_waits_on_disk_and_disappears_with_its_message(tmp_path: Path):
    store = SpooledStore(tmp_path, memory_bytes=3 << 20)
    assert not list(tmp_path.iterdir())  # nothing that a killed process could leave behind
    state = FleetState(store, lambda _: None)
    state.sync({"east": "key of east", "north": "key of north"})
    arrays = {site: np.random.default_rng(seed).random(1 << 18) for seed, site in enumerate(("east", "north"))}
    ids = {site: send(state, site) for site in arrays}
    for site, array in arrays.items():
        record = encode_message(StatisticSums(1, {"x": array})).record
        assert Reply(state, pull(state, site)[0], record).push()
    assert sum(len(entry.content) for entry in store.store.values()) < 3 << 20
    assert any(entry.content is SPOOLED for entry in store.store.values())
    for site, array in arrays.items():
        decoded = taken(state, ids[site])
        np.testing.assert_array_equal(decoded.sums["x"], array)
    assert not store.store
    assert store._free_bytes == 3 << 20
    assert sorted(store._free_slots) == list(range(store._slots))
    store.close()


def test_parts_of_an_object_are_its_content_in_memory_and_on_disk_and_nothing_when_it_is_gone(tmp_path: Path):
    store = SpooledStore(tmp_path, memory_bytes=3 << 20)
    state = FleetState(store, lambda _: None)
    state.sync({"east": "key of east"})
    record = encode_message(StatisticSums(1, {"x": np.random.default_rng(0).random(1 << 20)})).record
    (message_id,) = state.send([(state.node_of("east"), record)])
    sizes = {object_id: store.size(object_id) for object_id in store.store}
    assert any(entry.content is SPOOLED for entry in store.store.values())
    for object_id, size in sizes.items():
        parts = [store.part(object_id, start, 1 << 20) for start in range(0, size, 1 << 20)]
        assert b"".join(parts) == store.get(object_id)
    state.withdraw([message_id])
    assert [store.size(object_id) for object_id in sizes] == [0] * len(sizes)
    assert [store.part(object_id, 0, 9) for object_id in sizes] == [b""] * len(sizes)
    store.close()


def test_a_large_reply_is_in_memory_once_while_it_is_read(state):
    array = np.random.default_rng(0).random(4 << 20)
    message_id = send(state, "east")
    assert Reply(state, pull(state, "east")[0], encode_message(StatisticSums(1, {"x": array})).record).push()
    tracemalloc.start()
    decoded = taken(state, message_id)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(decoded.sums["x"], array)
    assert peak < array.nbytes + 2 * CHUNK_BYTES + (1 << 20)


def test_objects_that_share_what_is_below_them_are_looked_at_once(tmp_path: Path):
    """Each level declared with the one below twice: by the path two to the fifteenth, by the object sixteen."""
    store = SpooledStore(tmp_path, memory_bytes=3 << 20)
    ids = [hashlib.sha256(bytes([level])).hexdigest() for level in range(DEEPEST + 1)]

    def declare(level: int) -> list[str]:
        below = [ObjectTree(object_id=ids[level - 1])] * 2 if level else []
        return store.preregister(1, ObjectTree(object_id=ids[level], children=below))

    for level in range(DEEPEST):
        declare(level)
    assert store.ids_below(ids[DEEPEST - 1]) == set(ids[:DEEPEST])
    with pytest.raises(ValueError, match="more than 16 deep"):
        declare(DEEPEST)
    assert ids[DEEPEST] not in store
    store.delete(ids[DEEPEST - 1])
    assert not len(store)
    assert not store._depths
    store.close()
