"""Codes: what is decoded differs from what was encoded by no more than the code's law says; nothing else decodes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import TypeAdapter, ValidationError

from common.arrays import PIECE, Parameters, moved
from common.compression import (
    LARGEST,
    LEVELS,
    Bfloat16,
    CompressionConfig,
    Compressor,
    StochasticInt8,
    TopK,
    rebuild,
    send,
)
from common.errors import Code, MessageError, StatisticError
from common.messages import Difference
from common.rng import generator

CODES = [Bfloat16(), StochasticInt8(64), StochasticInt8(256), TopK(0.05), TopK(0.5)]
VECTORS = hnp.arrays(np.float64, st.integers(0, 700), elements=st.floats(-1e30, 1e30))


def draws(name: str = "test") -> np.random.Generator:
    return generator(0, name)


@pytest.mark.parametrize("code", CODES, ids=repr)
@given(VECTORS)
def test_a_code_has_the_size_it_declares_and_decodes_to_finite_values(code: Compressor, values):
    data = code.compress(values, draws())
    assert data.dtype == np.uint8
    assert data.shape == (code.n_bytes(values.size),)
    decoded = code.decompress(data, values.size)
    assert decoded.dtype == np.float32
    assert decoded.shape == values.shape
    assert np.isfinite(decoded).all()


@given(VECTORS)
def test_bf16_is_what_torch_rounds_to(values):
    decoded = Bfloat16().decompress(Bfloat16().compress(values, draws()), values.size)
    expected = torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(decoded, expected)


@given(VECTORS)
def test_int8_is_within_one_level_of_its_block(values):
    decoded = StochasticInt8(64).decompress(StochasticInt8(64).compress(values, draws()), values.size)
    for start in range(0, values.size, 64):
        block, got = values[start : start + 64], decoded[start : start + 64]
        level = np.abs(block).max() / LEVELS
        assert (np.abs(got - block) <= level * (1 + 1e-5) + 1e-40).all()


def test_int8_is_unbiased():
    """Mean of 4000 draws against its standard error; a rounding to nearest would be off by up to half a level."""
    values = np.linspace(-1, 1, 130)
    n = 4000
    rng = draws()
    code = StochasticInt8(64)
    sums = np.zeros(values.size)
    for _ in range(n):
        sums += code.decompress(code.compress(values, rng), values.size)
    standard_error = 0.5 / LEVELS / np.sqrt(n)
    assert (np.abs(sums / n - values) < 5 * standard_error).all()
    nearest = np.round(values * LEVELS) / LEVELS
    assert (np.abs(nearest - values) > 5 * standard_error).any()


def test_topk_keeps_the_largest_and_of_equal_ones_the_first():
    values = np.array([1.0, -8.0, 1.0, 4.0, 1.0, 0.5, 0.0, 0.0, 1.0])
    decoded = TopK(0.4).decompress(TopK(0.4).compress(values, draws()), values.size)
    np.testing.assert_array_equal(decoded, [1.0, -8.0, 1.0, 4.0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_pieces_make_no_difference(code: Compressor):
    """A vector of more than one piece, cut at a piece, decodes as its parts."""
    values = draws("values").normal(size=PIECE + 1000)
    data = code.compress(values, draws())
    decoded = code.decompress(data, values.size)
    assert np.corrcoef(decoded, values)[0, 1] > 0.4
    if not isinstance(code, TopK):
        assert np.abs(decoded - values).max() < 0.05


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_what_a_code_leaves_out_is_sent_later(code: Compressor):
    """Sum of what arrived, and what is left, are the sum of what was sent."""
    rng = draws("values")
    residual = None
    sent_sum, arrived = np.zeros(500), np.zeros(500)
    for number in range(40):
        values = rng.normal(size=500).astype(np.float32)
        sent = send(code, values, residual, generator(0, "round", number))
        np.testing.assert_array_equal(sent.values, code.decompress(sent.data, 500))
        sent_sum += values
        arrived += sent.values
        residual = sent.residual
        np.testing.assert_allclose(arrived + residual, sent_sum, atol=1e-4)
    assert np.abs(residual).max() < 0.2 * np.abs(sent_sum).max() or isinstance(code, TopK)


def test_equal_generators_give_equal_bytes_and_others_do_not():
    values = draws("values").normal(size=300)
    one, same, other = (StochasticInt8().compress(values, generator(0, name)) for name in ("a", "a", "b"))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_bytes_for_a_model_of_a_million_values():
    model = 4 * 900_000
    assert 2 * StochasticInt8(256).n_bytes(900_000) / model < 0.51
    assert 2 * Bfloat16().n_bytes(900_000) / model == 1.0
    assert 2 * TopK(0.05).n_bytes(900_000) / model < 0.12


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e37, -1e37])
@pytest.mark.parametrize("code", CODES, ids=repr)
def test_values_that_no_model_has_are_refused(code: Compressor, bad: float):
    with pytest.raises(StatisticError):
        code.compress(np.array([0.0, bad, 1.0]), draws())


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 1e-40, 3e-38, LARGEST])
def test_the_ends_of_float32_survive(value: float):
    for code in CODES:
        decoded = code.decompress(code.compress(np.full(70, value), draws()), 70)
        assert np.isfinite(decoded).all()
        assert (np.abs(decoded) <= value * 1.01 + 1e-44).all()


@pytest.mark.parametrize("code", CODES, ids=repr)
@given(st.integers(0, 300), st.binary(max_size=700))
def test_random_bytes_are_refused_or_are_values(code: Compressor, n: int, content: bytes):
    data = np.frombuffer(content, np.uint8)
    _refused_or_finite(code, data, n)
    padded = np.resize(data, code.n_bytes(n)) if data.size else np.zeros(code.n_bytes(n), np.uint8)
    _refused_or_finite(code, padded, n)


def _refused_or_finite(code: Compressor, data: np.ndarray, n: int) -> None:
    try:
        values = code.decompress(data, n)
    except MessageError:
        return
    assert data.size == code.n_bytes(n)
    assert values.shape == (n,)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_a_wrong_length_dtype_or_shape_is_refused_before_anything_is_allocated(code: Compressor):
    n = 10**8
    tracemalloc.start()
    for data in (np.zeros(9, np.uint8), np.zeros(8, np.float64), np.zeros((3, 3), np.uint8)):
        with pytest.raises(MessageError, match="expected"):
            code.decompress(data, n)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_forged_codes_are_refused():
    code = StochasticInt8(64)
    good = code.compress(np.ones(64), draws())
    for scale in (np.nan, np.inf, -1.0, 1e38):
        forged = good.copy()
        forged[:4] = np.frombuffer(np.float32(scale).tobytes(), np.uint8)
        with pytest.raises(MessageError):
            code.decompress(forged, 64)
    forged = good.copy()
    forged[10] = 128
    with pytest.raises(MessageError, match="-127"):
        code.decompress(forged, 64)
    marks = TopK(0.5).compress(np.arange(9.0), draws())
    for place, byte in ((0, 0xFF), (1, 0xFF), (1, 0x40)):
        forged = marks.copy()
        forged[place] = byte
        with pytest.raises(MessageError, match="mark"):
            TopK(0.5).decompress(forged, 9)


def _model() -> Parameters:
    rng = draws("model")
    return Parameters(
        {"w": rng.normal(size=(40, 8)).astype(np.float32), "b": rng.normal(size=()), "e": np.zeros((0, 3))}
    )


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_both_ends_of_a_broadcast_reach_the_same_bits(code: Compressor):
    base = _model()
    sent = send(code, draws("change").normal(size=base.size), None, draws())
    reached = moved(base, sent.values)
    assert reached.layout == base.layout
    difference = Difference(base.digest(), reached.digest(), sent.data)
    assert rebuild(code, base, difference).digest() == reached.digest()


def test_a_receiver_without_the_base_or_with_another_change_says_so():
    base, code = _model(), StochasticInt8()
    sent = send(code, np.ones(base.size), None, draws())
    reached = moved(base, sent.values)
    right = Difference(base.digest(), reached.digest(), sent.data)
    with pytest.raises(MessageError) as refused:
        rebuild(code, reached, right)
    assert refused.value.code == Code.BASE_ABSENT
    changed = sent.data.copy()
    changed[-1] ^= 1
    with pytest.raises(MessageError) as refused:
        rebuild(code, base, Difference(right.base, right.result, changed))
    assert refused.value.code == Code.BASE_ABSENT


def test_settings_are_a_closed_union():
    adapter: TypeAdapter[CompressionConfig] = TypeAdapter(CompressionConfig)
    assert adapter.validate_python({"kind": "none"}).build() is None
    for kind, code in (("bf16", Bfloat16()), ("int8", StochasticInt8()), ("topk", TopK())):
        assert adapter.validate_python({"kind": kind}).build() == code
    for bad in (
        {"kind": "zip"},
        {"kind": "int8", "block": 100},
        {"kind": "topk", "share": 0},
        {"kind": "topk", "share": 0.6},
        {"kind": "none", "share": 0.1},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(bad)
