from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.errors import StatisticError
from common.statistics.batch_effect import batch_effect
from common.statistics.batch_effect_plot import draw_batch_effect
from common.statistics.columns import fold_rows
from common.statistics.combat import combat
from common.statistics.combat_model import CombatSettings
from common.statistics.selection_tests import analysis_of_variance
from tests.common.statistics.cohorts import cohort, solve, split

BATCHES = ("scanner-0", "scanner-1", "scanner-2")


def test_same_for_any_split():
    whole = cohort(240, 10)
    effects = [solve(lambda: batch_effect(whole.table.names, BATCHES), split(whole, n)) for n in (1, 3, 7)]
    for effect in effects[1:]:
        np.testing.assert_allclose(effect.between_share, effects[0].between_share, rtol=1e-10)
        assert effect.accuracy == effects[0].accuracy


def test_share_between_batches_equals_direct_computation():
    whole = cohort(150, 4)
    effect = solve(lambda: batch_effect(whole.table.names, BATCHES), split(whole, 3))
    rows = np.array([BATCHES.index(name) for name in whole.batch])
    for j in range(4):
        x = whole.table.values[:, j]
        fitted = np.array([x[rows == b].mean() for b in range(3)])[rows]
        np.testing.assert_allclose(effect.between_share[j], fitted.var() / x.var(), rtol=1e-9)


def test_discriminant_equals_direct_computation():
    whole = cohort(200, 5, shift=0.4)
    effect = solve(lambda: batch_effect(whole.table.names, BATCHES), split(whole, 4))
    rows = np.array([BATCHES.index(name) for name in whole.batch])
    folds, x = fold_rows(whole, 3), whole.table.values
    hits = np.zeros(200, dtype=bool)
    for fold in range(3):
        train = folds != fold
        means = np.array([x[train & (rows == b)].mean(axis=0) for b in range(3)])
        residual = x[train] - means[rows[train]]
        covariance = residual.T @ residual / (train.sum() - 3)
        shrunk = 0.9 * covariance + 0.1 * np.diag(np.diag(covariance))
        distance = np.stack([((x - m) @ np.linalg.inv(shrunk) * (x - m)).sum(axis=1) for m in means])
        hits[~train] = (distance.argmin(axis=0) == rows)[~train]
    assert effect.accuracy == pytest.approx(np.mean([hits[rows == b].mean() for b in range(3)]))


def test_harmonisation_hides_the_batch(tmp_path):
    whole = cohort(400, 12, shift=1.5)
    sites = split(whole, 4)
    before = solve(lambda: batch_effect(whole.table.names, BATCHES), sites)
    model = solve(lambda: combat(whole.table.names, CombatSettings(BATCHES)), sites)
    after = solve(lambda: batch_effect(whole.table.names, BATCHES), [model.apply_to(site, fold=-1) for site in sites])
    assert before.accuracy > 0.9
    assert after.accuracy < 0.5
    assert after.chance == pytest.approx(1 / 3)
    assert np.median(after.between_share) < 0.02 < np.median(before.between_share)
    assert "balanced accuracy" in after.sentence()
    draw_batch_effect(before, after).savefig(tmp_path / "effect.svg")
    assert (tmp_path / "effect.svg").stat().st_size > 1000


def test_too_few_cases_for_the_folds_are_named():
    whole = cohort(200, 3)
    lonely = replace(whole, batch=("scanner-9", *("scanner-0" for _ in whole.batch[1:])))
    with pytest.raises(StatisticError, match=r"fewer than 2 cases outside a fold: scanner-9"):
        solve(lambda: batch_effect(whole.table.names, ("scanner-0", "scanner-9")), [lonely])


def test_p_values_are_those_of_the_analysis_of_variance():
    whole = cohort(120, 4)
    effect = solve(lambda: batch_effect(whole.table.names, BATCHES), [whole])
    rows = np.array([BATCHES.index(name) for name in whole.batch])
    as_outcome = replace(whole, outcome=type(whole.outcome)(rows, BATCHES))
    ranking = solve(lambda: analysis_of_variance(whole.table.names, BATCHES), [as_outcome])
    expected = dict(zip(ranking.names, ranking.p_value, strict=True))
    np.testing.assert_allclose(effect.p_value, [expected[name] for name in whole.table.names], rtol=1e-9)
