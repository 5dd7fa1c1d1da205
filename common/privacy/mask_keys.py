"""Keys of a masked sum and what is made of them: contexts, X25519, HKDF, ChaCha20 words, sealed shares.

Every key is bound to one context (study, session, question, cohort, roster) and one use, so nothing of one session
means anything in another. A mask is the ChaCha20 keystream (RFC 8439) under a key of 256 bits from HKDF-SHA256 (RFC
5869): the seed is never folded to fewer bits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.errors import PrivacyError
from common.privacy.shamir import SHARE_BYTES

KEY_BYTES = 32
CHUNK_BYTES = 1 << 18
"""Keystream that is made at a time: stays in the processor's cache until it is added."""

_ZEROS = bytes(CHUNK_BYTES)
_NONCE = bytes(12)
"""Each key seals one text, so the nonce never repeats under a key."""


@dataclass(frozen=True)
class Terms:
    """What one masked sum is about; every site signs it.

    Parameters
    ----------
    session : str
        32 hexadecimal digits.
    asked : str
        SHA-256 of the question.
    cohort : tuple of str
        All sites that may take part, sorted.
    threshold : int
        Sites that must be in the sum, and sign that they are; more than half of the cohort, so that two different
        sums of one session can never both find enough signatures.

    Raises
    ------
    PrivacyError
        If the session is no such text, the cohort is not sorted or the threshold not within its bounds.
    """

    study_digest: str
    session: str
    asked: str
    cohort: tuple[str, ...]
    threshold: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{32}", self.session):
            raise PrivacyError("a session is named by 32 hexadecimal digits")
        if list(self.cohort) != sorted(set(self.cohort)):
            raise PrivacyError("a cohort names every site once, sorted")
        if not len(self.cohort) // 2 < self.threshold <= len(self.cohort):
            raise PrivacyError(f"threshold {self.threshold} of {len(self.cohort)} sites: expected more than half")

    @property
    def context(self) -> bytes:
        return digest_of(
            b"terms", self.study_digest, self.session, self.asked, str(self.threshold), *(name for name in self.cohort)
        )


def digest_of(purpose: bytes, *parts: str | bytes) -> bytes:
    """SHA-256 over a purpose and parts, each after its length, so that no two lists of parts look alike."""
    sha = hashlib.sha256(b"fedrad masking 1 " + purpose)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        sha.update(len(content).to_bytes(8, "big") + content)
    return sha.digest()


def derive(secret: bytes, context: bytes, purpose: bytes, *names: str) -> bytes:
    """HKDF-SHA256: 32 bytes from ``secret`` for one purpose in one context."""
    info = digest_of(purpose, *names)
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=context, info=info).derive(secret)


def agreed(own: X25519PrivateKey, theirs: bytes, *, whose: str) -> bytes:
    """The secret that two sites share (X25519, RFC 7748); PrivacyError where the other's key is none."""
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError as error:
        raise PrivacyError(f"the key of {whose} is no X25519 key") from error


def pair_mask_key(own: X25519PrivateKey, theirs: bytes, context: bytes, own_name: str, name: str) -> bytes:
    """The key of the mask between two sites, the same from both sides."""
    return derive(agreed(own, theirs, whose=name), context, b"pair mask", *sorted((own_name, name)))


def self_mask_key(seed: bytes, context: bytes, name: str) -> bytes:
    return derive(seed, context, b"self mask", name)


@dataclass
class MaskWords:
    """Words of a sum that masks are added to, in place.

    Parameters
    ----------
    wide : ndarray of uint64
    narrow : ndarray of uint32, or of uint16 for compressed updates
    """

    wide: npt.NDArray[np.uint64]
    narrow: npt.NDArray[np.unsignedinteger]

    @property
    def shape(self) -> tuple[int, int]:
        return self.wide.size, self.narrow.size

    def add(self, other: MaskWords) -> None:
        if other.shape != self.shape or other.narrow.dtype != self.narrow.dtype:
            raise PrivacyError(f"words of shape {other.shape}, expected {self.shape}, or of other dtypes")
        self.wide += other.wide
        self.narrow += other.narrow

    def apply(self, key: bytes, *, sign: int) -> None:
        """Add (``sign`` 1) or take away (-1) the mask of a key: its keystream, the wide words first."""
        stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
        buffer = bytearray(CHUNK_BYTES)
        for words in (self.wide, self.narrow):
            per_chunk = CHUNK_BYTES // words.itemsize
            for start in range(0, words.size, per_chunk):
                part = words[start : start + per_chunk]
                stream.update_into(memoryview(_ZEROS)[: part.nbytes], memoryview(buffer)[: part.nbytes])
                mask = np.frombuffer(buffer, dtype=words.dtype.newbyteorder("<"), count=part.size)
                if sign > 0:
                    np.add(part, mask, out=part)
                else:
                    np.subtract(part, mask, out=part)


SEALED_BYTES = 2 * SHARE_BYTES + 16
"""Of two shares, of seed and mask key, with their authentication tag."""


def seal(key: bytes, shares: Iterable[bytes], bound_to: bytes) -> bytes:
    """Shares encrypted for their holder (ChaCha20-Poly1305, RFC 8439); ``bound_to`` says whose and in which session."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, b"".join(shares), bound_to)


def unseal(key: bytes, sealed: bytes, bound_to: bytes, *, whose: str) -> bytes:
    """What `seal` sealed; PrivacyError where it was changed, or was meant for another holder or session."""
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, bound_to)
    except InvalidTag as error:
        raise PrivacyError(f"the shares that came for {whose} were changed, or are not of {whose} for us") from error
