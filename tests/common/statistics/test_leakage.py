from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.errors import StatisticError
from common.outcomes import SurvivalOutcome
from common.statistics.combat_model import CombatSettings
from common.statistics.design import Covariates
from common.statistics.leakage import LeakageGuard, confounding, guarded_combat
from tests.common.statistics.cohorts import cohort, solve, split

LABELS = ("class-0", "class-1")
AGE = Covariates(continuous=("age",))


def guarded(whole, *, covariates=AGE, guard=None, labels=LABELS, n_codes=1):
    settings = CombatSettings(tuple(sorted(set(whole.batch))), covariates)
    return solve(
        lambda: guarded_combat(whole.table.names, settings, guard or LeakageGuard(), labels=labels, n_codes=n_codes),
        split(whole, 3),
    )


def with_column(whole, name, values):
    clinical = replace(
        whole.clinical,
        values=np.column_stack([whole.clinical.values, values]),
        names=(*whole.clinical.names, name),
    )
    return replace(whole, clinical=clinical)


def confounded(whole):
    labels = whole.outcome.labels.copy()
    labels[np.array(whole.batch) == "scanner-1"] = 0
    return replace(whole, outcome=replace(whole.outcome, labels=labels))


def test_outcome_as_covariate_needs_a_reason():
    whole = cohort(90, 5)
    kept = replace(AGE, classes=LABELS)
    with pytest.raises(StatisticError, match="labels would leak into the features"):
        guarded(whole, covariates=kept)
    model, _ = guarded(whole, covariates=kept, guard=LeakageGuard(outcome_kept_because="of a method comparison"))
    assert "the outcome was kept as a covariate because of a method comparison" in model.notes
    assert model.classes == LABELS


def test_outcome_column_is_refused_by_name_and_in_disguise():
    whole = cohort(90, 5)
    labelled = with_column(whole, "metastasis", whole.outcome.labels.astype(float))
    with pytest.raises(StatisticError, match=r"outcome \(metastasis\) is a covariate"):
        guarded(
            labelled,
            covariates=Covariates(continuous=("metastasis",)),
            guard=LeakageGuard(outcome_columns=("metastasis",)),
        )
    disguised = with_column(whole, "group", 7.0 - 2.5 * whole.outcome.labels)
    with pytest.raises(StatisticError, match=r"covariate group is the outcome under another name \(1.0000"):
        guarded(disguised, covariates=Covariates(continuous=("age", "group")))
    coded = with_column(whole, "code", whole.outcome.labels * 2.0 + np.arange(90) % 2)
    with pytest.raises(StatisticError, match="covariate code is the outcome"):
        guarded(coded, covariates=Covariates((), ("code",), (4,), (0.0, 1.0, 2.0, 3.0)))
    guarded(whole)


def test_follow_up_time_is_refused():
    whole = cohort(90, 5)
    time = np.random.default_rng(0).uniform(10, 1000, 90)
    survival = replace(whole, outcome=SurvivalOutcome(whole.outcome.labels == 1, time))
    in_months = with_column(survival, "months", time / 30)
    with pytest.raises(StatisticError, match="covariate months is the outcome"):
        guarded(in_months, covariates=Covariates(("months",)), labels=("censored", "event"), n_codes=2)
    guarded(survival, labels=("censored", "event"), n_codes=2)


def test_confounded_batches_are_refused_with_the_numbers():
    whole = confounded(cohort(90, 5))
    with pytest.raises(
        StatisticError, match=r"one outcome label only \(scanner-1\): scanner-0: \d+ class-0, \d+ class-1"
    ):
        guarded(whole)


def test_confounded_batches_without_the_outcome():
    whole = confounded(cohort(90, 5))
    guard = LeakageGuard(outcome_kept_because="asked for", confounded="without_outcome")
    model, found = guarded(whole, covariates=replace(AGE, classes=LABELS), guard=guard)
    assert model.classes == ()
    assert any(note.startswith("harmonised without the outcome") for note in model.notes)
    assert found.one_label_batches == ("scanner-1",)
    assert 0 < found.cramers_v < 1


def test_association_of_batch_and_outcome():
    whole = cohort(300, 2)
    batches = tuple(sorted(set(whole.batch)))
    found = solve(lambda: confounding(batches, LABELS), split(whole, 4))
    for i, name in enumerate(batches):
        rows = np.array(whole.batch) == name
        np.testing.assert_array_equal(found.counts[i], np.bincount(whole.outcome.labels[rows], minlength=2))
    assert found.cramers_v < 0.2
    same = replace(whole, batch=tuple(f"scanner-{k}" for k in whole.outcome.labels))
    assert solve(lambda: confounding(("scanner-0", "scanner-1"), LABELS), [same]).cramers_v == pytest.approx(1.0)
