"""What the parties of a masked sum sign, commit to and bind ciphertexts to; both halves compute these alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from common.errors import PrivacyError
from common.masking_messages import Bytes, KeysAdvertised
from common.privacy.mask_graph import MaskGraph
from common.privacy.mask_keys import Terms, digest_of
from common.privacy.signing import is_signed

SEED, KEY = b"seed", b"key"
"""The two secrets of a site: of its own mask, and of its masks with others."""


def octets(content: bytes) -> Bytes:
    return np.frombuffer(content, dtype=np.uint8)


def is_octets(array: Bytes) -> bool:
    return array.dtype == np.uint8 and array.ndim == 1


def as_bytes(array: Bytes) -> bytes:
    if not is_octets(array):
        raise PrivacyError(f"octets came as {array.dtype} of {array.ndim} dimensions")
    return array.tobytes()


def agree(terms: Terms, roster: Sequence[KeysAdvertised]) -> tuple[MaskGraph, bytes]:
    """Graph and context that follow from the roster; a site with another roster derives other keys."""
    keys = [part for entry in roster for part in (entry.site, as_bytes(entry.seal_key), as_bytes(entry.mask_key))]
    context = digest_of(b"roster", terms.context, *keys)
    return MaskGraph.of([entry.site for entry in roster], least=terms.threshold, seed=context), context


def key_statement(terms: Terms, site: str, seal_key: bytes, mask_key: bytes) -> bytes:
    return digest_of(b"keys", terms.context, site, seal_key, mask_key)


def set_statement(context: bytes, included: Sequence[str]) -> bytes:
    return digest_of(b"included", context, *included)


def bound_to(context: bytes, owner: str, holder: str) -> bytes:
    return digest_of(b"shares", context, owner, holder)


def commitment(context: bytes, owner: str, holder: str, kind: bytes, share: bytes) -> bytes:
    """Hides the share, whose entropy is that of the field."""
    return digest_of(b"share", context, owner, holder, kind, share)


def require_signed(terms: Terms, entry: KeysAdvertised, key: EllipticCurvePublicKey) -> None:
    statement = key_statement(terms, entry.site, as_bytes(entry.seal_key), as_bytes(entry.mask_key))
    if not is_signed(key, as_bytes(entry.signature), statement):
        raise PrivacyError(f"the keys of {entry.site} are not signed by it for this session and question")


def mask_sign(site: str, peer: str) -> int:
    """Of two sites one adds their mask and the other takes it away."""
    return 1 if site < peer else -1
