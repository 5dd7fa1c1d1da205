from __future__ import annotations

import numpy as np
import pytest

from common.outcomes import ClassOutcome, ScalarOutcome, SurvivalOutcome


def test_rows_are_taken_in_order():
    rows = np.array([2, 0])
    np.testing.assert_array_equal(ClassOutcome(np.array([0, 1, 1]), ("n", "y")).take(rows).labels, [1, 0])
    np.testing.assert_array_equal(ScalarOutcome(np.array([1.0, 2, 3]), "ml").take(rows).values, [3, 1])
    survival = SurvivalOutcome(np.array([True, False, False]), np.array([1.0, 2, 3])).take(rows)
    np.testing.assert_array_equal(survival.event, [False, True])
    np.testing.assert_array_equal(survival.time_days, [3, 1])
    assert len(survival) == 2


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: ClassOutcome(np.array([0]), ("only",)), "at least 2 classes"),
        (lambda: ClassOutcome(np.array([0]), ("a", "a")), "given twice"),
        (lambda: ClassOutcome(np.array([2]), ("a", "b")), "must lie in 0..1"),
        (lambda: ClassOutcome(np.array([-1]), ("a", "b")), "must lie in 0..1"),
        (lambda: ClassOutcome(np.array([0.5]), ("a", "b")), "one integer a case"),
        (lambda: ClassOutcome(np.array([[0]]), ("a", "b")), "one integer a case"),
        (lambda: ScalarOutcome(np.array([np.nan]), "ml"), "finite"),
        (lambda: ScalarOutcome(np.zeros((2, 1)), "ml"), "one number a case"),
        (lambda: SurvivalOutcome(np.array([True]), np.array([0.0])), "positive"),
        (lambda: SurvivalOutcome(np.array([True]), np.array([np.inf])), "finite"),
        (lambda: SurvivalOutcome(np.array([True]), np.array([1.0, 2.0])), "1 events, 2 times"),
        (lambda: SurvivalOutcome(np.array([1]), np.array([1.0])), "one truth value a case"),
    ],
)
def test_what_is_no_outcome_is_refused(make, reason: str):
    with pytest.raises(ValueError, match=reason):
        make()


def test_an_outcome_of_no_cases_is_fine():
    assert len(ClassOutcome(np.zeros(0, dtype=np.int64), ("a", "b"))) == 0
