"""Every fitted model survives the wire, predicts what evaluation takes, and is refused where it is damaged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from common.errors import MessageError, StatisticError
from common.evaluation import evaluation_sums, read_sums
from common.statistics.boosting import BoostingSettings, boosting
from common.statistics.cox import cox
from common.statistics.discrete_survival import discrete_hazards
from common.statistics.fitted import FITTED, decode_model, encode_model
from common.statistics.forest import ForestSettings, forest
from common.statistics.kernel import rbf_svm
from common.statistics.margins import ridge_logistic, ridge_regression
from tests.common.statistics.cohorts import cohort, solve, split, take
from tests.common.statistics.survival_cohorts import survival_cohort

CLASSES, NUMBERS, FOLLOWED = cohort(200, 4), cohort(200, 4, scalar=True), survival_cohort(200, 4)
NAMES = CLASSES.table.names
EDGES = np.quantile(CLASSES.table.values, np.arange(1, 8) / 8, axis=0).T
FITS = {
    "ridge_logistic": (CLASSES, lambda: ridge_logistic(NAMES, penalty=0.1)),
    "ridge_regression": (NUMBERS, lambda: ridge_regression(NAMES, penalty=0.1)),
    "rbf_svm": (CLASSES, lambda: rbf_svm(NAMES, penalty=0.1, seed=11, n_random=20)),
    "cox": (FOLLOWED, lambda: cox(NAMES)),
    "hazards": (FOLLOWED, lambda: discrete_hazards(NAMES, (300.0, 900.0))),
    "forest": (CLASSES, lambda: forest(NAMES, ("class-0", "class-1"), EDGES, ForestSettings(n_trees=4, max_depth=3))),
    "boosting": (CLASSES, lambda: boosting(NAMES, EDGES, BoostingSettings(n_trees=4))),
}


@pytest.fixture(params=FITS, scope="module")
def fitted(request):
    whole, make = FITS[request.param]
    return whole, solve(make, split(whole, 3))


def test_round_trip_and_evaluation(fitted):
    whole, model = fitted
    kind, values = encode_model(model)
    back = decode_model(kind, values)
    assert type(back) is type(model) is FITTED[kind]
    np.testing.assert_array_equal(back.predict(whole.table), model.predict(whole.table))
    sums = read_sums(evaluation_sums(model.predict(whole.table), whole.outcome, minimum_cases=5))
    assert sums.n_cases == 200


def test_damage_is_refused(fitted):
    _, model = fitted
    kind, values = encode_model(model)
    for field in dataclasses.fields(model):
        value = values[field.name]
        with pytest.raises(MessageError):
            decode_model(kind, {name: v for name, v in values.items() if name != field.name})
        if isinstance(value, np.ndarray) and field.name != "roots":  # fewer roots are a smaller forest
            with pytest.raises(MessageError):
                decode_model(kind, {**values, field.name: value[:-1]})
        if isinstance(value, np.ndarray) and value.dtype == np.float64:
            with pytest.raises(MessageError, match="not finite"):
                decode_model(kind, {**values, field.name: np.full_like(value, np.nan)})


def test_missing_values_and_features_are_named(fitted):
    whole, model = fitted
    with pytest.raises(StatisticError, match="feature-003"):
        model.predict(whole.table.select(NAMES[:3]))
    holes = whole.table.values.copy()
    holes[3, 2] = np.nan
    with pytest.raises(StatisticError, match="impute before"):
        model.predict(whole.table.with_values(holes))


def test_the_union_is_closed():
    with pytest.raises(MessageError, match="no fitted model of kind 'pickle'"):
        decode_model("pickle", {})

    class Other:
        def predict(self, table):
            return table.values

    with pytest.raises(MessageError, match="not a fitted model"):
        encode_model(Other())


@pytest.mark.parametrize("name", FITS)
def test_a_site_without_cases_changes_nothing(name):
    whole, make = FITS[name]
    empty = dataclasses.replace(take(whole, np.arange(0)), batch=())
    expected = solve(make, [whole]).predict(whole.table)
    np.testing.assert_allclose(solve(make, [empty, whole, empty]).predict(whole.table), expected, rtol=1e-9)
