"""The head of an audit log on the disk: counter and hash of the last line that something left under, signed.

The file has two places of the size of a block, which are written by turns: a torn write costs the latest head alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from client.audit_chain import Head
from common.errors import StateError
from common.files import write_atomic

ADVICE = "fedrad site audit says what; nothing is answered until it was looked into"
SLOT_BYTES = 512
"""Half of the head file; a disk writes a block of this size whole or not at all."""

_HEAD_MARK = b"fedrad audit head 1\n"


def read_head(path: Path, key: Ed25519PublicKey) -> Head:
    """The head that was kept last.

    Raises
    ------
    StateError
        If the file is gone, or neither of its places holds a head that the log's key signed.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror or error}; {ADVICE}") from error
    found = [_slot(raw[start : start + SLOT_BYTES], key) for start in (0, SLOT_BYTES)]
    heads = [head for head in found if head is not None]
    if not heads:
        raise StateError(f"{path} holds no head of this log; {ADVICE}")
    return max(heads, key=lambda head: head.counter)


def write_head(path: Path, head: Head, key: Ed25519PrivateKey, *, place: int) -> None:
    """Keep a head in one of the two places; who takes them by turns loses at most the latest in a torn write."""
    text = str(head)
    signature = key.sign(_HEAD_MARK + text.encode()).hex()
    slot = json.dumps({"head": text, "signature": signature}).encode().ljust(SLOT_BYTES - 1) + b"\n"
    if not path.exists():
        write_atomic(path, slot + slot)
        return
    try:
        handle = os.open(path, os.O_WRONLY)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        os.pwrite(handle, slot, SLOT_BYTES * place)
    finally:
        os.close(handle)


def _slot(raw: bytes, key: Ed25519PublicKey) -> Head | None:
    try:
        content = json.loads(raw)
        text = str(content["head"])
        key.verify(bytes.fromhex(content["signature"]), _HEAD_MARK + text.encode())
    except (ValueError, KeyError, TypeError, InvalidSignature):
        return None
    counter, _, sha = text.partition(":")
    return Head(int(counter), sha)
