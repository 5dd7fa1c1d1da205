"""Federated ComBat against neuroCombat 0.2.12 on the pooled rows."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from neuroCombat import neuroCombat

from common.errors import StatisticError
from common.statistics.combat import combat
from common.statistics.combat_model import CombatSettings, adapt
from common.statistics.design import Covariates
from tests.common.statistics.cohorts import by_batch, cohort, solve, split, take

COVARIATES = Covariates(continuous=("age",), categorical=("sex",), level_counts=(2,), levels=(0.0, 1.0))
CASES = {
    "parametric": {},
    "nonparametric": {"method": "nonparametric"},
    "mean_only": {"mean_only": True},
    "nonparametric_mean_only": {"method": "nonparametric", "mean_only": True},
    "no_bayes": {"method": "none"},
    "reference": {"reference": "scanner-1"},
    "reference_mean_only": {"reference": "scanner-1", "mean_only": True},
}


def pooled(whole, monkeypatch, *, covariates=COVARIATES, **options):
    """neuroCombat on all rows; np.int, which its reference batch needs, left numpy with 1.24."""
    monkeypatch.setattr(np, "int", int, raising=False)
    frame = pd.DataFrame(
        {"batch": [int(name.split("-")[1]) for name in whole.batch], "age": whole.clinical.values[:, 0]}
    )
    frame["sex"] = whole.clinical.values[:, 1].astype(int)
    if covariates.classes:
        frame["outcome"] = whole.outcome.labels
    reference = options.get("reference")
    with contextlib.redirect_stdout(io.StringIO()):
        return neuroCombat(
            whole.table.values.T.copy(),
            frame,
            "batch",
            categorical_cols=[*covariates.categorical, *(["outcome"] if covariates.classes else [])] or None,
            continuous_cols=list(covariates.continuous) or None,
            eb=options.get("method") != "none",
            parametric=options.get("method") != "nonparametric",
            mean_only=options.get("mean_only", False),
            ref_batch=int(reference.split("-")[1]) if reference else None,
        )


def fitted(whole, sites, *, covariates=COVARIATES, **options):
    settings = CombatSettings(tuple(sorted(set(whole.batch))), covariates, **options)
    return solve(lambda: combat(whole.table.names, settings), sites)


def assert_equal(model, whole, oracle, *, rtol=1e-6):
    estimates = oracle["estimates"]
    np.testing.assert_allclose(model.grand_mean, estimates["stand.mean"][:, 0], rtol=rtol)
    np.testing.assert_allclose(model.pooled_variance, np.ravel(estimates["var.pooled"]), rtol=rtol)
    fitted_batches = [i for i, name in enumerate(model.batches) if name != model.reference]
    for ours, theirs in (
        (model.gamma_hat, estimates["gamma_hat"]),
        (model.delta_hat, np.array(estimates["delta_hat"])),
        (model.gamma_star, estimates["gamma.star"]),
        (model.delta_star, estimates["delta.star"]),
        (model.priors[:, 0], estimates["gamma_bar"]),
        (model.priors[:, 1], estimates["t2"]),
    ):
        if model.method == "parametric" or ours.ndim == 2:
            np.testing.assert_allclose(ours[fitted_batches], np.asarray(theirs)[fitted_batches], rtol=rtol)
    if model.method == "parametric" and not model.mean_only:
        np.testing.assert_allclose(
            model.priors[fitted_batches, 2], np.array(estimates["a_prior"])[fitted_batches], rtol=rtol
        )
        np.testing.assert_allclose(
            model.priors[fitted_batches, 3], np.array(estimates["b_prior"])[fitted_batches], rtol=rtol
        )
    harmonised = model.apply_to(whole, fold=-1).table.values
    np.testing.assert_allclose(harmonised, oracle["data"].T, rtol=rtol)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("covariates", [COVARIATES, Covariates()], ids=["covariates", "plain"])
def test_equal_to_pooled_neurocombat_for_any_split(options, covariates, monkeypatch):
    whole = cohort(130, 12, n_batches=4, seed=5)
    oracle = pooled(whole, monkeypatch, covariates=covariates, **options)
    for sites in ([whole], by_batch(whole), split(whole, 5, seed=2), split(whole, 9, seed=3)):
        assert_equal(fitted(whole, sites, covariates=covariates, **options), whole, oracle)


def test_equal_with_the_outcome_kept(monkeypatch):
    covariates = replace(COVARIATES, classes=("class-0", "class-1"))
    whole = cohort(130, 12, n_batches=3, seed=6)
    model = fitted(whole, split(whole, 4), covariates=covariates)
    oracle = pooled(whole, monkeypatch, covariates=replace(covariates, categorical=("sex",)))
    assert_equal(model, whole, oracle)


def test_large_offsets_keep_their_digits(monkeypatch):
    whole = cohort(130, 12, n_batches=3, seed=5)
    far = replace(whole, table=whole.table.with_values(whole.table.values + 1e7))
    near, shifted = fitted(whole, split(whole, 3)), fitted(far, split(far, 3))
    np.testing.assert_allclose(shifted.delta_star, near.delta_star, rtol=1e-7)
    np.testing.assert_allclose(shifted.grand_mean - 1e7, near.grand_mean, rtol=1e-7)


def test_harmonised_batches_have_one_location_and_scale():
    whole = cohort(600, 12, n_batches=3, signal=0.0)
    after = fitted(whole, split(whole, 3), covariates=Covariates()).apply_to(whole, fold=-1).table.values
    rows = np.array(whole.batch)
    means = np.array([after[rows == name].mean(axis=0) for name in sorted(set(whole.batch))])
    spreads = np.array([after[rows == name].std(axis=0) for name in sorted(set(whole.batch))])
    assert np.abs(means - means.mean(axis=0)).max() < 0.05 * after.std()
    assert (spreads / spreads.mean(axis=0)).max() < 1.1


def test_unseen_site_without_covariates():
    whole = cohort(900, 20, n_batches=4, signal=0.0, seed=8)
    rows = np.array(whole.batch)
    seen, unseen = take(whole, np.flatnonzero(rows != "scanner-3")), take(whole, np.flatnonzero(rows == "scanner-3"))
    model = fitted(seen, split(seen, 3))
    after = adapt(model, unseen.table, batch="scanner-3").apply(unseen.table).values
    reference = model.apply_to(seen, fold=-1).table.values
    before = np.abs(unseen.table.values.mean(axis=0) - reference.mean(axis=0)) / reference.std(axis=0)
    distance = np.abs(after.mean(axis=0) - reference.mean(axis=0)) / reference.std(axis=0)
    assert distance.max() < 0.15 < before.max()
    np.testing.assert_allclose(after.std(axis=0) / reference.std(axis=0), 1.0, atol=0.15)
    with pytest.raises(StatisticError, match="not in the fit: scanner-3; use the covariate-free path"):
        model.apply_to(unseen, fold=-1)


def test_adapting_a_seen_batch_agrees_with_the_fit():
    whole = cohort(400, 15, n_batches=3)
    model = fitted(whole, split(whole, 3), covariates=Covariates())
    site = by_batch(whole)[1]
    learned = adapt(model, site.table, batch="scanner-1").apply(site.table).values
    np.testing.assert_allclose(learned, model.apply_to(site, fold=-1).table.values, rtol=1e-8)


def test_without_covariates_leaves_the_covariate_effect_in_the_case():
    whole = cohort(300, 8)
    model = fitted(whole, split(whole, 3))
    free = model.without_covariates()
    blind = replace(whole, clinical=whole.clinical.select(()))
    after = free.apply_to(blind, fold=-1).table.values
    assert np.abs(after - model.apply_to(whole, fold=-1).table.values).max() < whole.table.values.std()
    np.testing.assert_allclose(free.grand_mean, model.grand_mean + model.mean_effect)


def test_model_of_another_fold_is_refused():
    whole = cohort(100, 5)
    model = fitted(whole, [whole], fold=2)
    model.apply_to(whole, fold=2)
    with pytest.raises(StatisticError, match="fitted on training fold 2 and cannot serve fold 0"):
        model.apply_to(whole, fold=0)


def test_one_case_in_a_batch_is_named():
    whole = cohort(60, 5)
    lonely = replace(whole, batch=("scanner-9", *whole.batch[1:]))
    with pytest.raises(StatisticError, match=r"fewer than 2 cases: scanner-9 \(1\)"):
        fitted(lonely, [lonely])
    fitted(lonely, [lonely], mean_only=True)


def test_collinear_covariates_are_named():
    whole = cohort(90, 5)
    doubled = np.column_stack([whole.clinical.values, 3 * whole.clinical.values[:, 0] + 2])
    clinical = replace(whole.clinical, values=doubled, names=("age", "sex", "age_months"))
    whole = replace(whole, clinical=clinical)
    with pytest.raises(StatisticError, match="collinear covariates: age_months follow from"):
        fitted(whole, split(whole, 3), covariates=Covariates(continuous=("age", "age_months")))
    by_site = np.array([float(name[-1]) for name in whole.batch])
    clinical = replace(clinical, values=np.column_stack([whole.clinical.values[:, :2], by_site]))
    whole = replace(whole, clinical=clinical)
    with pytest.raises(StatisticError, match="collinear covariates: age_months"):
        fitted(whole, split(whole, 3), covariates=Covariates(continuous=("age", "age_months")))


def test_constant_features_are_named_and_kept():
    whole = cohort(90, 6)
    values = whole.table.values.copy()
    values[:, 2] = 0.3
    at_one = np.array(whole.batch) == "scanner-1"
    values[at_one, 4] = 0.1
    whole = replace(whole, table=whole.table.with_values(values))
    model = fitted(whole, split(whole, 3), covariates=Covariates())
    assert model.unadjusted == ("feature-002",)
    assert "constant in batch scanner-1: feature-004; their scale there was taken as 1" in model.notes
    after = model.apply_to(whole, fold=-1).table.values
    np.testing.assert_array_equal(after[:, 2], values[:, 2])
    assert np.isfinite(after).all()
    with pytest.raises(StatisticError, match="constant in batch scanner-1: feature-004; filter"):
        fitted(whole, split(whole, 3), covariates=Covariates(), constant_in_batch="refuse")


def test_missing_values_are_refused_with_counts():
    whole = cohort(50, 4)
    values = whole.table.values.copy()
    values[:3, 1] = np.nan
    whole = replace(whole, table=whole.table.with_values(values))
    with pytest.raises(StatisticError, match=r"feature-001 \(3 of 50\); impute before"):
        fitted(whole, [whole])


def test_unknown_code_of_a_covariate_is_named():
    whole = cohort(50, 4)
    narrow = Covariates(categorical=("sex",), level_counts=(2,), levels=(1.0, 2.0))
    with pytest.raises(StatisticError, match=r"covariate sex: codes \[0.0\]"):
        fitted(whole, [whole], covariates=narrow)
