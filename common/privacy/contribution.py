"""What goes into a masked sum and what comes out: a site's answer as words, and the answer of all from their sum.

=============  ====================================================================================================
n_cases        one wide word
whole numbers  one wide word each: counts stay exact
other sums     five wide words each (`common.privacy.fixed_point`): no rounding, whatever their size
delta          weighted as the strategy weights it, one word each on a grid that all sites share; narrow for 32 bits,
               and for 16 (`common.privacy.shared_grid`), in which it comes rounded already
train_loss     times the cases, as other sums
=============  ====================================================================================================

The layout (names, dtypes, shapes) travels in the clear; it follows from the question, not from the cases.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from common.errors import MessageError, PrivacyError
from common.messages import AskStatistic, Evaluate, EvaluationSums, LocalUpdate, Question, StatisticSums, Train
from common.privacy.discrete_gaussian import NoiseShare
from common.privacy.fixed_point import (
    LIMBS,
    MAX_SITES,
    Bits,
    Grid,
    Words,
    decode_counts,
    decode_limbs,
    encode_counts,
    encode_limbs,
)
from common.privacy.mask_keys import MaskWords
from common.privacy.shared_grid import ROOM, SharedGrid, words_of
from common.rng import NoiseSource, SystemNoise

Summable = StatisticSums | LocalUpdate | EvaluationSums
Array = npt.NDArray[np.generic]

DELTA, LOSS = "delta", "train_loss"
MAX_SUMS, MAX_VALUES = 4096, 1 << 28
_ENTRY = re.compile(r"([fiu])([1248]) ((?:\d{1,9}(?:x\d{1,9}){0,7})?)")


@dataclass(frozen=True)
class SumPlan:
    """How the answers of one cohort are put into words; all sites and the coordinator have the same.

    Parameters
    ----------
    n_sites : int
        Size of the cohort, whoever answers in the end.
    value_bound : float
        Largest size of a value of one site's delta.
    most_cases : int
        Most cases of one site.
    """

    n_sites: int
    bits: Bits
    value_bound: float
    most_cases: int
    weighting: Literal["n_cases", "uniform"]

    @property
    def grid(self) -> Grid:
        """Of the weighted deltas."""
        bound = self.value_bound * (self.most_cases if self.weighting == "n_cases" else 1)
        return Grid.for_sum(n_sites=self.n_sites, bound=bound, bits=self.bits)

    def weight(self, n_cases: int) -> int:
        return n_cases if self.weighting == "n_cases" else 1


def to_words(
    reply: Summable, plan: SumPlan, *, source: NoiseSource | None = None, share: NoiseShare | None = None
) -> tuple[dict[str, str], MaskWords]:
    """Layout and words of one site's answer.

    Parameters
    ----------
    source : NoiseSource, optional
        For stochastic rounding of the delta; to the nearest where it is not given.
    share : NoiseShare, optional
        Of the noise in the sum of the deltas, from the system's entropy.

    Raises
    ------
    PrivacyError
        Where a number is not finite or does not fit: too many cases, a delta beyond the bound.
    """
    wide = [encode_counts(np.array([reply.n_cases]), n_sites=plan.n_sites)]
    if isinstance(reply, LocalUpdate) and reply.compressed:
        narrow = words_of(reply.compressed[0], size=reply.compressed[0].size // 2)
        if share is not None:
            narrow = _coarse_with_noise(narrow, plan, share)
        wide.append(encode_limbs(np.array([reply.n_cases * reply.train_loss])))
        return {LOSS: "f8 ", DELTA: f"f8 {narrow.size}"}, MaskWords(np.concatenate(wide).astype(np.uint64), narrow)
    if isinstance(reply, LocalUpdate):
        flat = reply.delta.flatten()
        _require_bounds(flat, reply.n_cases, plan)
        delta = plan.grid.encode(flat * plan.weight(reply.n_cases), source=source)
        if share is not None:
            delta = _with_noise(delta, plan, share)
        wide.append(encode_limbs(np.array([reply.n_cases * reply.train_loss])))
        fine = delta if plan.bits == 32 else delta[:0]
        wide += [delta] if plan.bits == 64 else []
        layout = {LOSS: "f8 ", DELTA: f"f8 {flat.size}"}
        return layout, MaskWords(np.concatenate(wide).astype(np.uint64), fine.astype(np.uint32))
    sums = dict(sorted(reply.sums.items()))
    wide += [_encoded(name, array, plan) for name, array in sums.items()]
    layout = {name: _entry(array) for name, array in sums.items()}
    return layout, MaskWords(np.concatenate(wide), np.zeros(0, dtype=np.uint32))


def from_words(
    question: Question,
    layout: Mapping[str, str],
    words: MaskWords,
    plan: SumPlan,
    *,
    n_included: int,
    grid: SharedGrid | None = None,
) -> Summable:
    """The answer of all included sites together, as if one site held all their cases.

    A delta comes back as the weighted mean, with the number of all cases: strategies see one update.

    Parameters
    ----------
    question : Question
        With its parameters whole.
    grid : SharedGrid, optional
        Of a delta in words of 16 bits.

    Raises
    ------
    MessageError
        Where words and layout do not fit one another, or the question.
    """
    require_layout(question, layout, words, plan, grid=grid)
    if isinstance(question, Train):
        return _mean_update(question, words, plan, n_included, grid)
    shapes = {name: _read_entry(entry) for name, entry in layout.items()}
    sizes = [_n_words(dtype, shape) for dtype, shape in shapes.values()]
    n_cases = int(decode_counts(words.wide[:1])[0])
    sums: dict[str, Array] = {}
    start = 1
    for (name, (dtype, shape)), size in zip(shapes.items(), sizes, strict=True):
        part = words.wide[start : start + size]
        flat: Array = decode_limbs(part) if dtype.kind == "f" else decode_counts(part)
        sums[name] = flat.astype(dtype).reshape(shape)
        start += size
    if isinstance(question, AskStatistic):
        return StatisticSums(n_cases, sums)
    assert isinstance(question, Evaluate)
    return EvaluationSums(question.model, n_cases, sums)


def require_layout(
    question: Question, layout: Mapping[str, str], words: MaskWords, plan: SumPlan, *, grid: SharedGrid | None = None
) -> None:
    """Refuse a layout that does not fit the question, or words that do not fit it.

    Raises
    ------
    MessageError
    """
    expected = (1 + sum(_n_words(*_read_entry(entry)) for entry in layout.values()), 0)
    if isinstance(question, Train):
        size = question.parameters.size
        if dict(layout) != {LOSS: "f8 ", DELTA: f"f8 {size}"}:
            raise MessageError(f"masked update of a layout that does not fit {size} parameters")
        is_narrow = grid is not None or plan.bits == 32
        expected = (1 + LIMBS, size) if is_narrow else (1 + LIMBS + size, 0)
    if words.shape != expected:
        raise MessageError(f"masked words of shape {words.shape}, their layout says {expected}")
    if words.narrow.dtype != (np.uint32 if grid is None else np.uint16):
        raise MessageError(f"masked words of {words.narrow.dtype} in place of those that were asked for")


def _mean_update(
    question: Train, words: MaskWords, plan: SumPlan, n_included: int, grid: SharedGrid | None
) -> LocalUpdate:
    n_cases = int(decode_counts(words.wide[:1])[0])
    if n_cases < n_included:
        raise MessageError(f"{n_cases} cases at {n_included} sites: the sum is not one of answers")
    loss = float(decode_limbs(words.wide[1 : 1 + LIMBS])[0])
    if grid is not None:
        total = grid.decode(words.narrow.astype(np.uint16, copy=False))
    else:
        total = plan.grid.decode(words.narrow if plan.bits == 32 else words.wide[1 + LIMBS :])
    weight = n_cases if plan.weighting == "n_cases" else n_included
    delta = question.parameters.unflatten(total / weight)
    return LocalUpdate(question.model, question.round_number, n_cases, delta, loss / n_cases)


def _require_bounds(delta: npt.NDArray[np.float64], n_cases: int, plan: SumPlan) -> None:
    if n_cases > plan.most_cases:
        raise PrivacyError(f"{n_cases} cases at this site, the study's masked sums have room for {plan.most_cases}")
    largest = float(np.abs(delta).max(initial=0.0))
    if not largest <= plan.value_bound:
        n_outside = int((~(np.abs(delta) <= plan.value_bound)).sum())
        raise PrivacyError(
            f"{n_outside} of {delta.size} values of the update lie outside value_bound = {plan.value_bound:g}, the "
            f"largest is {largest:g}; nothing is cut off: train with a smaller step, or agree on a larger bound"
        )


def _with_noise(delta: Words, plan: SumPlan, share: NoiseShare) -> Words:
    """Words of the noisy values, which have to be within the bound as others do."""
    signed = delta.view(np.int32 if plan.bits == 32 else np.int64).astype(np.int64)
    noisy = share.add(signed, SystemNoise())
    largest = float(np.abs(noisy).max(initial=0)) * plan.grid.step
    if largest > plan.grid.bound:
        raise PrivacyError(f"a noisy value of {largest:g} does not fit value_bound = {plan.value_bound:g}")
    return noisy.astype(delta.dtype)


def _coarse_with_noise(delta: npt.NDArray[np.uint16], plan: SumPlan, share: NoiseShare) -> npt.NDArray[np.uint16]:
    noisy = share.add(delta.view(np.int16).astype(np.int64), SystemNoise())
    if noisy.size and np.abs(noisy).max() > ROOM // plan.n_sites:
        raise PrivacyError(f"a noisy value does not fit the words of a sum over {plan.n_sites} sites")
    return noisy.astype(np.int16).view(np.uint16)


def _encoded(name: str, array: Array, plan: SumPlan) -> npt.NDArray[np.uint64]:
    if plan.n_sites > MAX_SITES:
        raise PrivacyError(f"{plan.n_sites} sites, a masked sum holds {MAX_SITES}")
    if np.issubdtype(array.dtype, np.integer):
        return encode_counts(array.astype(np.int64).reshape(-1), n_sites=plan.n_sites)
    if not np.issubdtype(array.dtype, np.floating):
        raise PrivacyError(f"sum {name} has dtype {array.dtype}, expected numbers")
    return encode_limbs(array.astype(np.float64).reshape(-1))


def _entry(array: Array) -> str:
    return f"{array.dtype.kind}{array.dtype.itemsize} {'x'.join(str(n) for n in array.shape)}"


def _read_entry(entry: str) -> tuple[np.dtype[np.generic], tuple[int, ...]]:
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise MessageError("layout of a masked sum cannot be read")
    kind, size, sides = found.groups()
    shape = tuple(int(side) for side in sides.split("x")) if sides else ()
    if math.prod(shape) > MAX_VALUES or f"{kind}{size}" == "f1":
        raise MessageError("layout of a masked sum is too large")
    return np.dtype(f"{kind}{size}"), shape


def _n_words(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> int:
    return math.prod(shape) * (LIMBS if dtype.kind == "f" else 1)
