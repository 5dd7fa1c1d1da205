"""The way out of a private answer: refused before it costs, paid before it is answered, noise of the stated width."""

from __future__ import annotations

import numpy as np
import pytest

from client.privacy_budget import PrivacyBudget
from client.private_release import PrivateRelease
from common.errors import Code, GateError, PrivacyError
from common.outcomes import ClassOutcome
from common.privacy.ledger import gaussian
from common.rng import SystemNoise
from common.statistics.bounds import Limits
from common.statistics.moments import MomentQuery
from common.statistics.procedure import Cohort
from common.tables import FeatureTable
from tests.common.statistics.examples import EXAMPLES

NAMES = ("a", "b")
LIMITS = Limits(NAMES, np.array([0.0, -4.0]), np.array([2.0, 4.0]), complete=True)
QUERY = MomentQuery(NAMES, "all", ("all",), np.array([[1.0, 0.0]]), 1)
IDS = tuple(f"case-{i}" for i in range(20))
COHORT = Cohort(
    FeatureTable(np.tile([[1.5, -1.0]], (20, 1)), NAMES, IDS),
    FeatureTable(np.zeros((20, 0)), (), IDS),
    ClassOutcome(np.zeros(20, dtype=np.int64), ("no", "yes")),
    ("here",) * 20,
)


def test_noise_has_the_width_that_the_cost_says():
    release = PrivateRelease(gaussian(2.0), lambda events: None, SystemNoise(bytes(32)))
    draws = np.array([release.statistic(QUERY, COHORT, LIMITS)["power_1"][0] for _ in range(1_500)])
    expected = 2.0 * np.sqrt(2) * np.array([1.0, 4.0])  # noise x root of the columns x half the range
    np.testing.assert_allclose(draws.mean(axis=0), [10.0, -20.0], atol=5 * expected[1] / np.sqrt(1_500))
    np.testing.assert_allclose(draws.std(axis=0), expected, rtol=0.08)


def test_the_cost_is_on_the_disk_before_the_answer_and_an_exhausted_budget_answers_nothing(tmp_path):
    budget = PrivacyBudget(tmp_path, 4.0, 1e-5)
    release = PrivateRelease(gaussian(2.0), lambda events: budget.reserve("study", events))
    release.statistic(QUERY, COHORT, LIMITS)
    assert [len(line.events) for line in budget.reservations()] == [1]
    release.scores(np.full((20, 2), 0.5), np.zeros(20, dtype=np.int64))
    with pytest.raises(GateError) as refused:
        release.scores(np.full((20, 2), 0.5), np.zeros(20, dtype=np.int64))
    assert refused.value.code == Code.BUDGET_EXCEEDED
    assert budget.epsilon() <= 4.0


def test_what_has_no_private_version_costs_nothing(tmp_path):
    budget = PrivacyBudget(tmp_path, 3.0, 1e-5)
    release = PrivateRelease(gaussian(2.0), lambda events: budget.reserve("study", events))
    query = next(q for q in EXAMPLES if q.kind == "forest")
    with pytest.raises(PrivacyError, match="no private version"):
        release.statistic(query, COHORT, LIMITS)
    assert not budget.reservations()


def test_noise_of_a_study_is_the_systems_own():
    first, second = (
        PrivateRelease(gaussian(2.0), lambda events: None).statistic(QUERY, COHORT, LIMITS)["power_1"] for _ in range(2)
    )
    assert not np.array_equal(first, second)
