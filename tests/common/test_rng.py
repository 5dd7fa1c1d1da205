from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.rng import SystemNoise, derived_seed, generator

NAMES = st.lists(st.one_of(st.integers(), st.text(st.characters(exclude_characters="\x1f"), max_size=8)), max_size=4)


@given(st.integers(0, 2**31), NAMES, st.integers(0, 2**31), NAMES)
def test_streams_of_other_names_or_seeds_differ(seed: int, names: list[str | int], other: int, others: list[str | int]):
    same = seed == other and names == others
    assert (derived_seed(seed, *names) == derived_seed(other, *others)) == same


def test_a_name_is_not_its_number_nor_two_names_one():
    streams = [("train", "1"), ("train", 1), ("train1",), ("train", 1, ""), ("train",), (1, "train")]
    draws = [tuple(generator(0, *names).integers(2**63, size=4)) for names in streams]
    assert all(a != b for a, b in combinations(draws, 2))


def test_a_name_cannot_hide_a_separator():
    with pytest.raises(ValueError, match="unit separator"):
        derived_seed(0, "train\x1fstr:north")


def test_a_stream_is_the_same_in_another_process():
    code = "from common.rng import generator; print(generator(7, 'train', 'north', 3).integers(2**63))"
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "5"}, cwd="."
    )
    assert int(elsewhere.stdout) == generator(7, "train", "north", 3).integers(2**63)


def test_streams_are_as_recorded():
    """Golden, recorded with version 0.1.0 (numpy's PCG64): a change here changes every study's numbers."""
    assert derived_seed(2026, "initial", "cnn") == 8840857146470523016
    assert generator(2026, "train", "north", 1).integers(2**63) == 1445045889795277235


def test_a_seed_fits_torch():
    assert all(0 <= derived_seed(seed, "x") < 2**63 for seed in range(200))


def test_keystream_is_that_of_the_standard():
    """RFC 8439, appendix A.1, test vector 1: key and nonce of zeros, block counter 0."""
    expected = bytes.fromhex(
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    assert SystemNoise(key=bytes(32)).bytes(64) == expected


def test_the_next_block_follows():
    """RFC 8439, appendix A.1, test vector 2: the same with block counter 1."""
    expected = bytes.fromhex(
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )
    source = SystemNoise(key=bytes(32))
    source.bytes(64)
    assert source.bytes(64) == expected


def test_without_a_key_no_two_sources_agree():
    assert SystemNoise().bytes(32) != SystemNoise().bytes(32)


def test_noise_does_not_depend_on_global_seeds():
    np.random.seed(0)  # noqa: NPY002 - the global generator is what must not matter
    first = SystemNoise().normal(4)
    np.random.seed(0)  # noqa: NPY002
    assert (SystemNoise().normal(4) != first).all()


def test_uniform_numbers_have_their_moments_and_range():
    values = SystemNoise(key=b"k" * 32).uniform(200_000)
    assert 0 <= values.min() < values.max() < 1
    # standard errors: 0.00065 and 0.00017
    assert values.mean() == pytest.approx(0.5, abs=0.003)
    assert values.var() == pytest.approx(1 / 12, abs=0.0008)
    assert (values * 2**53 == np.floor(values * 2**53)).all()


def test_normal_numbers_have_their_moments():
    values = SystemNoise(key=b"k" * 32).normal(200_001)
    assert np.isfinite(values).all()
    # standard errors: 0.0022, 0.0032, 0.0055, 0.011
    assert values.mean() == pytest.approx(0, abs=0.01)
    assert values.var() == pytest.approx(1, abs=0.015)
    assert (values**3).mean() == pytest.approx(0, abs=0.03)
    assert (values**4).mean() == pytest.approx(3, abs=0.06)
    halves = values[:100_000], values[100_000:200_000]
    assert np.corrcoef(*halves)[0, 1] == pytest.approx(0, abs=0.015)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_as_many_numbers_as_asked(n: int):
    assert SystemNoise().normal(n).shape == SystemNoise().uniform(n).shape == (n,)
