import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import PrivacyError
from common.privacy import shamir
from common.privacy.shamir import PRIME, SECRET_BYTES, SHARE_BYTES, combine, split

SECRET = bytes(range(32))


def test_the_modulus_is_prime():
    """Lucas-Lehmer: 2^p - 1 is prime exactly where s(p - 2) = 0, s(0) = 4, s(i + 1) = s(i)^2 - 2."""
    s = 4
    for _ in range(521 - 2):
        s = (s * s - 2) % PRIME
    assert s == 0


@settings(max_examples=30)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 6), st.integers(0, 4), st.randoms())
def test_any_threshold_of_shares_gives_the_secret_back(secret, threshold, spare, random):
    holders = random.sample(range(1, 200), threshold + spare)
    shares = split(secret, holders=holders, threshold=threshold)
    for chosen in itertools.islice(itertools.combinations(holders, threshold), 10):
        assert combine({x: shares[x] for x in chosen}, threshold=threshold) == secret
    assert combine(shares, threshold=threshold) == secret


def test_known_answer(monkeypatch):
    """Line and parabola by hand: f(x) = 7 + 5x, and f(x) = 7 + 5x + 3x^2."""
    secret = (7).to_bytes(SECRET_BYTES, "big")
    drawn = iter([5, 5, 3])
    monkeypatch.setattr(shamir.secrets, "randbelow", lambda _: next(drawn))
    line = split(secret, holders=[1, 2, 3], threshold=2)
    parabola = split(secret, holders=[1, 2, 10], threshold=3)
    assert [int.from_bytes(line[x], "big") for x in (1, 2, 3)] == [12, 17, 22]
    assert [int.from_bytes(parabola[x], "big") for x in (1, 2, 10)] == [15, 29, 357]


def test_one_share_too_few_fits_every_secret():
    """For any other secret there is a share of the missing holder that makes it the answer: nothing is known."""
    shares = split(SECRET, holders=[1, 2, 3], threshold=3)
    found = set()
    for guess in range(5):
        known = {1: shares[1], 2: shares[2], 3: guess.to_bytes(SHARE_BYTES, "big")}
        found.add(_at_zero(known))
    assert len(found) == 5


def _at_zero(shares: dict[int, bytes]) -> int:
    return shamir._at_zero({x: int.from_bytes(share, "big") for x, share in shares.items()})


def test_too_few_shares_and_foreign_shares_are_refused():
    shares = split(SECRET, holders=range(1, 6), threshold=3)
    with pytest.raises(PrivacyError, match="2 shares of a secret, 3 are needed"):
        combine({x: shares[x] for x in (1, 2)}, threshold=3)
    other = split(os.urandom(32), holders=range(1, 6), threshold=3)
    with pytest.raises(PrivacyError, match="not of one secret"):
        combine({1: shares[1], 2: shares[2], 3: shares[3], 4: other[4]}, threshold=3)
    with pytest.raises(PrivacyError, match="outside the field"):
        combine({1: shares[1], 2: shares[2], 3: b"\xff" * SHARE_BYTES}, threshold=3)


@pytest.mark.parametrize(("holders", "threshold"), [([1, 1], 1), ([1, 2], 3), ([0, 1], 1), ([1, PRIME], 1), ([1], 0)])
def test_impossible_splits_are_refused(holders, threshold):
    with pytest.raises(ValueError):
        split(SECRET, holders=holders, threshold=threshold)


def test_a_secret_of_another_size_is_refused():
    with pytest.raises(ValueError, match="31 bytes"):
        split(SECRET[1:], holders=[1], threshold=1)
