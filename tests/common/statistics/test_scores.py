"""Scores are refused for a whole cohort and cut for one case: neither tells how far out it lies."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import StatisticError
from common.statistics.scores import MAX_RMS, MAX_SCORE, bounded_scores


def test_scores_of_a_fit_stay_as_they_are():
    scores = np.random.default_rng(0).normal(0, 4, (40, 3))
    assert np.array_equal(bounded_scores(scores, advice=""), scores)
    assert bounded_scores(np.zeros((0, 2)), advice="").shape == (0, 2)


@pytest.mark.parametrize("far", [MAX_SCORE - 0.1, MAX_SCORE + 0.1, 80.0])
def test_one_case_far_out_is_cut_and_nobody_hears_of_it(far: float):
    """Refused beyond the largest score, a bisection of the coefficient would end at the largest value."""
    scores = np.append(np.zeros(99), far)
    found = bounded_scores(scores, advice="")
    assert found[-1] == min(far, MAX_SCORE)
    assert np.array_equal(found[:-1], scores[:-1])


@pytest.mark.parametrize("steep", [MAX_RMS * 1.01, 1e4, 1e200, np.inf, np.nan])
def test_coefficients_that_are_steep_for_most_cases_are_refused(steep: float):
    scores = np.column_stack([np.zeros(50), np.full(50, steep)])
    with pytest.raises(StatisticError, match="raise the penalty"):
        bounded_scores(scores, advice="raise the penalty")
