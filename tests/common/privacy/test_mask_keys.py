import hmac

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.errors import PrivacyError
from common.privacy.mask_keys import (
    CHUNK_BYTES,
    MaskWords,
    Terms,
    agreed,
    derive,
    digest_of,
    pair_mask_key,
    seal,
    unseal,
)

ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
KEYSTREAM = bytes.fromhex(
    "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
)


def zeros(wide: int, narrow: int) -> MaskWords:
    return MaskWords(np.zeros(wide, np.uint64), np.zeros(narrow, np.uint32))


def test_x25519_known_answer():
    """RFC 7748, section 6.1."""
    assert agreed(X25519PrivateKey.from_private_bytes(ALICE), BOB_PUBLIC, whose="bob").hex() == SHARED


def test_hkdf_known_answer():
    """RFC 5869, appendix A.1."""
    made = HKDF(hashes.SHA256(), 42, bytes(range(13)), bytes(range(0xF0, 0xFA))).derive(b"\x0b" * 22)
    assert made.hex() == ("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")


def test_derive_is_hkdf_of_the_context_as_salt_and_the_purpose_as_info():
    """One block of RFC 5869 by hand."""
    extracted = hmac.digest(b"context", b"secret", "sha256")
    expected = hmac.digest(extracted, digest_of(b"use", "a", "b") + b"\x01", "sha256")
    assert derive(b"secret", b"context", b"use", "a", "b") == expected


def test_a_mask_is_the_chacha20_keystream():
    """RFC 8439, appendix A.1, test vector 1: key, counter and nonce of zeros; wide words first, little-endian."""
    words = zeros(4, 8)
    words.apply(bytes(32), sign=1)
    assert words.wide.astype("<u8").tobytes() + words.narrow.astype("<u4").tobytes() == KEYSTREAM


def test_chacha20_poly1305_known_answer():
    """RFC 8439, section 2.8.2: the tag of the published text."""
    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would "
        b"be it."
    )
    sealed = ChaCha20Poly1305(bytes(range(0x80, 0xA0))).encrypt(
        bytes.fromhex("070000004041424344454647"), text, bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    )
    assert sealed[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"


@pytest.mark.parametrize(("wide", "narrow"), [(0, 0), (3, 0), (0, 7), (CHUNK_BYTES // 8 + 5, CHUNK_BYTES // 2 + 3)])
def test_a_mask_taken_away_leaves_the_words(wide, narrow):
    words = zeros(wide, narrow)
    words.apply(b"k" * 32, sign=1)
    assert wide + narrow == 0 or words.wide.any() or words.narrow.any()
    words.apply(b"k" * 32, sign=-1)
    assert not words.wide.any()
    assert not words.narrow.any()


def test_long_masks_are_one_keystream_in_pieces():
    words = zeros(CHUNK_BYTES // 4, 0)
    words.apply(b"k" * 32, sign=1)
    short = zeros(16, 0)
    short.apply(b"k" * 32, sign=1)
    assert np.array_equal(words.wide[:16], short.wide)
    assert len(np.unique(words.wide)) == words.wide.size


def test_both_ends_of_a_pair_derive_one_key_and_nobody_else_does():
    alice, bob = X25519PrivateKey.from_private_bytes(ALICE), X25519PrivateKey.from_private_bytes(BOB)
    one = pair_mask_key(alice, bob.public_key().public_bytes_raw(), b"c", "alice", "bob")
    assert one == pair_mask_key(bob, alice.public_key().public_bytes_raw(), b"c", "bob", "alice")
    assert one != pair_mask_key(alice, BOB_PUBLIC, b"another session", "alice", "bob")
    assert one != pair_mask_key(alice, BOB_PUBLIC, b"c", "alice", "carol")


def test_a_key_of_low_order_is_refused():
    with pytest.raises(PrivacyError, match="key of bob is no X25519 key"):
        agreed(X25519PrivateKey.from_private_bytes(ALICE), bytes(32), whose="bob")


@pytest.mark.parametrize("position", [0, 40, -1])
def test_a_sealed_share_that_was_changed_is_refused(position):
    sealed = bytearray(seal(b"k" * 32, [b"share", b"of key"], b"a for b"))
    assert unseal(b"k" * 32, bytes(sealed), b"a for b", whose="a") == b"shareof key"
    sealed[position % len(sealed)] ^= 1
    with pytest.raises(PrivacyError, match="shares that came for a were changed"):
        unseal(b"k" * 32, bytes(sealed), b"a for b", whose="a")


def test_a_sealed_share_of_another_pair_is_refused():
    with pytest.raises(PrivacyError):
        unseal(b"k" * 32, seal(b"k" * 32, [b"share"], b"a for c"), b"a for b", whose="a")


def test_lists_of_parts_never_look_alike():
    lists = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ()]
    assert len({digest_of(b"x", *parts) for parts in lists} | {digest_of(b"y", "abc")}) == len(lists) + 1


TERMS = {"study_digest": "d", "session": "0" * 32, "asked": "q", "cohort": ("a", "b", "c"), "threshold": 2}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"session": "0"}, "32 hexadecimal digits"),
        ({"cohort": ("b", "a", "c")}, "every site once, sorted"),
        ({"cohort": ("a", "a", "c")}, "every site once, sorted"),
        ({"threshold": 1}, "more than half"),
        ({"threshold": 4}, "more than half"),
    ],
)
def test_terms_that_protect_nobody_are_refused(change, reason):
    with pytest.raises(PrivacyError, match=reason):
        Terms(**(TERMS | change))


def test_every_term_is_in_the_context():
    changes = [
        {"study_digest": "e"},
        {"session": "1" * 32},
        {"asked": "r"},
        {"cohort": ("a", "b", "d")},
        {"threshold": 3},
    ]
    assert len({Terms(**(TERMS | change)).context for change in [{}, *changes]}) == len(changes) + 1
