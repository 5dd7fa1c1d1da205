"""The steps from features to a training table: over the wire and back they change it alike; unseen batches adapt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.errors import MessageError, PrivacyError, StatisticError
from common.messages import TableStep
from common.outcomes import ClassOutcome
from common.statistics.bounds import Bounds
from common.statistics.combat import combat
from common.statistics.combat_model import CombatModel, CombatSettings, adapt
from common.statistics.design import Covariates
from common.statistics.moments import Imputer, Scaler
from common.statistics.pca import PrincipalComponents, principal_components
from common.statistics.procedure import Cohort
from common.statistics.table_steps import (
    TABLE_STEPS,
    Keep,
    Step,
    apply_steps,
    columns_after,
    decode_steps,
    encode_steps,
    limits_after,
)
from common.tables import FeatureTable
from tests.common.statistics.cohorts import by_batch, cohort, solve

TABLE = FeatureTable(np.array([[1.0, np.nan, 5.0], [3.0, 4.0, 7.0]]), ("a", "b", "c"), ("p1", "p2"))
SMALL = Cohort(TABLE, TABLE.select(()), ClassOutcome(np.array([0, 1]), ("no", "yes")), ("s", "s"))
STEPS: tuple[Step, ...] = (
    Keep(("c", "b")),
    Imputer(("c", "b"), np.array([0.0, 2.0])),
    Scaler(("c", "b"), np.array([6.0, 3.0]), np.array([1.0, 2.0])),
)

WHOLE = cohort(150, 5)
NAMES = WHOLE.table.names
BATCHES = ("scanner-0", "scanner-1")
FIT = WHOLE.take(np.flatnonzero(np.isin(WHOLE.batch, BATCHES)))
STRANGERS = WHOLE.take(np.flatnonzero(np.array(WHOLE.batch) == "scanner-2"))


def model(**settings) -> CombatModel:
    return solve(lambda: combat(NAMES[:4], CombatSettings(BATCHES, fold=0, **settings)), by_batch(FIT))


COMPONENTS = solve(lambda: principal_components(NAMES[:3], 2), [WHOLE])
LONG: tuple[Step, ...] = (
    Bounds(NAMES, np.full(5, -15.0), np.full(5, 15.0)),
    Keep(NAMES),
    Imputer(NAMES, np.zeros(5)),
    model(),
    Scaler(NAMES, np.zeros(5), np.full(5, 2.0)),
    COMPONENTS,
)


def test_steps_are_applied_in_order():
    table = apply_steps(SMALL, STEPS, fold=0).table
    assert table.names == ("c", "b")
    np.testing.assert_array_equal(table.values, [[-1, -0.5], [1, 0.5]])
    assert apply_steps(SMALL, (), fold=0) is SMALL


def test_every_step_comes_back_from_the_wire():
    assert {type(step) for step in LONG} == set(TABLE_STEPS.values())
    back = decode_steps(encode_steps(LONG))
    assert [type(step) for step in back] == [Bounds, Keep, Imputer, CombatModel, Scaler, PrincipalComponents]
    np.testing.assert_array_equal(
        apply_steps(FIT, back, fold=0).table.values, apply_steps(FIT, LONG, fold=0).table.values
    )


def test_components_take_the_place_of_their_columns():
    table = apply_steps(FIT, LONG, fold=0).table
    assert table.names == ("pca-1", "pca-2", *NAMES[3:]) == columns_after(LONG, ())
    assert columns_after(LONG[2:3], NAMES) == NAMES
    before = apply_steps(FIT, LONG[:-1], fold=0).table
    np.testing.assert_array_equal(table.values[:, 2:], before.values[:, 3:])
    np.testing.assert_array_equal(table.values[:, :2], COMPONENTS.apply(before).values)


@pytest.mark.parametrize("steps", [STEPS, LONG], ids=["table", "combat"])
def test_a_case_of_a_known_batch_is_changed_alike_whatever_other_cases_there_are(steps):
    cases = SMALL if steps is STEPS else FIT
    whole = apply_steps(cases, steps, fold=0).table.values
    for i in range(2):
        alone = apply_steps(cases.take(np.array([i])), steps, fold=0).table.values
        np.testing.assert_allclose(alone, whole[i : i + 1], rtol=1e-12, atol=1e-12)


def test_a_batch_that_was_not_in_the_fit_adapts_or_stays_as_the_study_says():
    steps = (model(),)
    rows = np.flatnonzero(np.array(WHOLE.batch) == "scanner-2")
    known = np.flatnonzero(np.array(WHOLE.batch) != "scanner-2")
    adapted = apply_steps(WHOLE, steps, fold=0, unseen="adapt").table
    expected = adapt(steps[0], STRANGERS.table, batch="scanner-2").apply(STRANGERS.table)
    np.testing.assert_array_equal(adapted.values[rows], expected.values)
    np.testing.assert_allclose(
        adapted.values[known], apply_steps(WHOLE.take(known), steps, fold=0).table.values, rtol=1e-12
    )
    left = apply_steps(WHOLE, steps, fold=0, unseen="leave").table
    np.testing.assert_array_equal(left.values[rows], STRANGERS.table.values)
    with pytest.raises(StatisticError, match="not in the fit: scanner-2"):
        apply_steps(WHOLE, steps, fold=0)
    with pytest.raises(StatisticError, match="fitted on training fold 0 and cannot serve fold 1"):
        apply_steps(WHOLE, steps, fold=1, unseen="adapt")


def test_a_new_batch_is_brought_to_the_others_without_its_labels():
    steps = (model(),)
    other = replace(WHOLE, outcome=ClassOutcome(1 - WHOLE.outcome.labels, WHOLE.outcome.classes))
    adapted = apply_steps(WHOLE, steps, fold=0, unseen="adapt").table.values
    np.testing.assert_array_equal(adapted, apply_steps(other, steps, fold=0, unseen="adapt").table.values)
    new = np.array(WHOLE.batch) == "scanner-2"
    before = np.abs(WHOLE.table.values[new].mean(axis=0) - WHOLE.table.values[~new].mean(axis=0))[:4]
    after = np.abs(adapted[new].mean(axis=0) - adapted[~new].mean(axis=0))[:4]
    assert after.sum() < 0.3 * before.sum()


def test_no_label_of_a_held_out_case_reaches_its_features():
    kept = model(covariates=Covariates(continuous=("age",), classes=WHOLE.outcome.classes))
    other = replace(FIT, outcome=ClassOutcome(1 - FIT.outcome.labels, FIT.outcome.classes))
    told = [apply_steps(c, (kept,), fold=0).table.values for c in (FIT, other)]
    assert np.abs(told[0] - told[1]).max() > 1e-3
    held_out = [apply_steps(c, (kept,), fold=0, outcome_known=False).table.values for c in (FIT, other)]
    np.testing.assert_array_equal(*held_out)
    np.testing.assert_array_equal(held_out[0], kept.without_covariates().apply_to(FIT, fold=0).table.values)
    age_only = model(covariates=Covariates(continuous=("age",)))
    np.testing.assert_array_equal(
        apply_steps(FIT, (age_only,), fold=0, outcome_known=False).table.values,
        apply_steps(FIT, (age_only,), fold=0).table.values,
    )


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (TableStep("pickle", {}), "no table step of kind 'pickle'; there are bounds, keep, imputer, scaler, combat"),
        (TableStep("keep", {}), "absent fields"),
        (TableStep("keep", {"names": ("a",), "more": 1}), "unknown fields"),
        (TableStep("keep", {"names": 3}), "expected a tuple"),
        (TableStep("keep", {"names": (3,)}), "expected str"),
        (TableStep("imputer", {"names": ("a",), "fill": np.array([np.nan])}), "not finite"),
        (TableStep("imputer", {"names": ("a",), "fill": np.array([1, 2])}), "int64"),
        (TableStep("imputer", {"names": ("a",), "fill": np.array([1.0, 2.0])}), "one finite value"),
        (TableStep("bounds", {"names": ("a",), "low": np.array([1.0]), "high": np.array([1.0])}), "have a width"),
    ],
)
def test_what_is_no_step_is_refused(step: TableStep, reason: str):
    with pytest.raises(MessageError, match=reason):
        decode_steps([step])


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(StatisticError, match="features not in the table: x"):
        apply_steps(SMALL, [Keep(("a", "x"))], fold=0)


def test_values_beyond_the_bounds_are_moved_to_them_and_missing_ones_stay_missing():
    step = Bounds(("b", "a"), np.array([0.0, 2.0]), np.array([3.5, 2.5]))
    np.testing.assert_array_equal(step.apply(TABLE).values, [[np.nan, 2.0], [3.5, 2.5]])


def test_ranges_follow_the_steps():
    """What the limits say after the steps holds for every row, and the ends are reached by rows at the bounds."""
    bounds = Bounds(("a", "b", "c"), np.array([0.0, -1.0, 5.0]), np.array([2.0, 1.0, 6.0]))
    steps = (bounds, *STEPS)
    limits = limits_after(steps)
    assert limits.names == ("c", "b")
    assert limits.complete
    assert not limits_after(steps[:2]).complete
    ends = FeatureTable(np.array([bounds.low, bounds.high]), bounds.names, TABLE.case_ids)
    reached = apply_steps(replace(SMALL, table=ends), steps, fold=0).table.values
    fills = replace(SMALL, table=FeatureTable(np.full((2, 3), np.nan), bounds.names, TABLE.case_ids))
    filled = apply_steps(fills, steps, fold=0).table.values
    np.testing.assert_array_equal(np.minimum(reached, filled)[0], limits.low)
    np.testing.assert_array_equal(np.maximum(reached, filled)[1], limits.high)


def test_without_bounds_no_column_has_a_range_and_components_have_none_at_all():
    assert limits_after(STEPS[:1]).names == ()
    with pytest.raises(PrivacyError, match="no range is declared of c"):
        limits_after(STEPS)
    plain = solve(lambda: combat(NAMES, CombatSettings(BATCHES, fold=0)), by_batch(FIT))
    with pytest.raises(PrivacyError, match="principal components"):
        limits_after((LONG[0], LONG[1], LONG[2], plain, LONG[-1]))


def test_what_could_fail_on_some_cases_only_is_refused_from_the_steps_alone():
    """A refusal that depends on the cases would tell of them without noise."""
    plain = solve(lambda: combat(NAMES, CombatSettings(BATCHES, fold=0)), by_batch(FIT))
    assert limits_after((*LONG[:3], plain)).names == NAMES
    with pytest.raises(PrivacyError, match="an imputer before it"):
        limits_after((LONG[0], plain))
    covariates = Covariates(("age",))
    kept = solve(lambda: combat(NAMES, CombatSettings(BATCHES, covariates, fold=0)), by_batch(FIT))
    with pytest.raises(PrivacyError, match="no covariates"):
        limits_after((*LONG[:3], kept))
    for crafted in (
        replace(plain, gamma_star=plain.gamma_star + 1e200),
        replace(plain, delta_star=np.full_like(plain.delta_star, 1e-300), pooled_variance=np.full(5, 1e-300)),
    ):
        with pytest.raises(PrivacyError):
            limits_after((*LONG[:3], crafted))
    with pytest.raises(PrivacyError, match="is none"):
        limits_after((*LONG[:3], Scaler(NAMES, np.zeros(5), np.full(5, 1e-300))))
    with pytest.raises(PrivacyError, match="is none"):
        limits_after((*LONG[:2], Imputer(NAMES, np.full(5, 1e200))))
    with pytest.raises(PrivacyError, match="is none"):
        limits_after((Bounds(NAMES, np.full(5, -1e200), np.full(5, 1e200)),))
