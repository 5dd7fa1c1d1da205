"""The small-cell rule on running counts: an attacker who subtracts, and what is given back of the spread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.evaluation.rounding import largest_error, levels, redrawn, redrawn_grid, rounded

HISTOGRAMS = hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 6))


@given(total=st.integers(1, 300), minimum=st.integers(1, 20))
def test_levels_lie_at_least_the_minimum_apart(total, minimum):
    steps = np.diff(levels(total, minimum))
    assert steps.sum() == total
    if total >= minimum:
        assert minimum <= steps.min() <= steps.max() < 2 * minimum
        assert steps.max() - steps.min() <= 1


@settings(max_examples=100, deadline=None)
@given(counts=HISTOGRAMS, minimum=st.integers(2, 9))
def test_no_difference_of_two_answers_proves_a_small_cell(counts, minimum):
    """The attacker knows the rounding: between any two edges a group of the minimum, or none, stays possible."""
    total = int(counts.sum())
    if total < minimum:
        return
    shown = rounded(np.cumsum(counts), minimum=minimum)
    assert set(shown) <= set(levels(total, minimum))
    candidates = np.arange(total + 1)
    answers = rounded(candidates, minimum=minimum)
    possible = {level: candidates[answers == level] for level in levels(total, minimum)}
    for i in range(len(shown)):
        for j in range(i + 1, len(shown)):
            differences = {b - a for a in possible[shown[i]] for b in possible[shown[j]] if b >= a}
            assert not differences <= set(range(1, minimum))


@settings(max_examples=100, deadline=None)
@given(counts=HISTOGRAMS, minimum=st.integers(1, 9))
def test_redrawn_keeps_the_total_and_stays_near(counts, minimum):
    total = int(counts.sum())
    if 0 < total < minimum:
        return
    found = redrawn(counts, minimum=minimum)
    assert found.sum() == total
    assert (found >= 0).all()
    assert np.abs(np.cumsum(found) - np.cumsum(counts)).max() <= largest_error(total, minimum)
    if minimum == 1:
        np.testing.assert_array_equal(found, counts)


def test_redrawn_gives_the_spread_back():
    rng = np.random.default_rng(0)
    for _ in range(20):
        bins = np.clip(np.round(rng.normal(300, 60, 30)), 0, 600).astype(np.int64)
        counts = np.bincount(bins, minlength=601)
        new = np.repeat(np.arange(601), redrawn(counts, minimum=6))
        assert new.mean() == pytest.approx(bins.mean(), abs=8)
        assert new.std() == pytest.approx(bins.std(), rel=0.12)


def test_the_grid_keeps_margins_and_dependence():
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 100, 80)
    columns = np.clip(rows + rng.integers(-20, 20, 80), 0, 99)
    grid = redrawn_grid(rows, columns, shape=(100, 100), minimum=5)
    assert grid.sum() == 80
    r, c = (np.repeat(part, grid[grid > 0]) for part in np.nonzero(grid))
    assert np.corrcoef(r, c)[0, 1] == pytest.approx(np.corrcoef(rows, columns)[0, 1], abs=0.05)
    np.testing.assert_array_equal(
        redrawn_grid(rows, columns, shape=(100, 100), minimum=1), np.histogram2d(rows, columns, np.arange(101) - 0.5)[0]
    )
    again = rng.permutation(80)
    np.testing.assert_array_equal(grid, redrawn_grid(rows[again], columns[again], shape=(100, 100), minimum=5))
