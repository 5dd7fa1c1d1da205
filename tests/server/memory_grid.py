"""Flower's `Grid` as an object in memory: its nodes are functions, and no process runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import httpx
import pytest
from flwr.app import Message
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.supercore.task_identity import TaskIdentity

from common.messages import Refusal

Node = Callable[[Message], Message | None]


def as_in_a_server_app(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's processes know which run they belong to; a message cannot be made without."""
    monkeypatch.setattr(TaskIdentity, "_task_id", 1)
    monkeypatch.setattr(TaskIdentity, "_run_id", 1)
    monkeypatch.setattr(TaskIdentity, "_node_id", 1)


class MemoryGrid:
    """A Grid whose nodes are functions; a node that returns None stays silent."""

    def __init__(self, nodes: dict[int, Node]) -> None:
        self.nodes = nodes
        self.replies: dict[str, Message] = {}
        self.failing = 0
        self.pushed = 0

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            metadata = message.metadata
            sent = make_message(
                metadata=Metadata(1, "", 1, metadata.dst_node_id, "", "", 0.0, 1e12, metadata.message_type),
                content=message.content,
            )
            sent.metadata.__dict__["_message_id"] = f"m{self.pushed}-{metadata.dst_node_id}"
            self.pushed += 1
            ids.append(sent.metadata.message_id)
            reply = self.nodes[metadata.dst_node_id](sent)
            if reply is not None:
                self.replies[sent.metadata.message_id] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        if self.failing:
            self.failing -= 1
            raise httpx.ConnectError("gone")
        return [self.replies.pop(key) for key in message_ids if key in self.replies]


def code_of(reply: object) -> str:
    assert isinstance(reply, Refusal), reply
    return str(reply.code)
