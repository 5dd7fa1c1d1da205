"""Every solved model, selection step and outcome runs as a study, and ends in what the pooled rows give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.utils import concordance_index
from sklearn.decomposition import PCA
from sklearn.linear_model import ElasticNetCV, LogisticRegression
from sklearn.metrics import mean_absolute_error, roc_auc_score
from sklearn.preprocessing import StandardScaler

from common.arrays import Parameters
from common.config.loading import digest
from common.errors import FederationError
from common.evaluation import ErrorSums, RiskSums, ScoreSums, read_sums
from common.evaluation.metrics import auc, macro_auc
from common.evaluation.regression import mean_absolute_error as federated_mae
from common.evaluation.survival import concordance
from common.messages import Evaluate, Refusal
from common.statistics.boosting import Boosted
from common.statistics.calibration import IsotonicMap, PlattMap
from common.statistics.forest import Forest
from common.statistics.pca import PrincipalComponents
from common.statistics.solution import decode_solution, encode_solution
from common.statistics.table_steps import columns_after, encode_steps
from server.table import entries_from_unit, steps_from_unit
from tests.server.memory_sites import MemorySite
from tests.server.table_study import N_CASES, dataset, rows, run, table_study

TRAINING = ("a", "b", "c")


def model(settings: str, *, name: str = "m", more: str = "") -> str:
    return f'[[models]]\nname = "{name}"\nmodel = {{ {settings} }}\n{more}\n'


def solution(store, name: str = "m"):
    return decode_solution(entries_from_unit(store.load(f"solution.federated.{name}.fold0")))


def table(store):
    return steps_from_unit(store.load("table.federated.fold0"))


def merged(store, name: str, sites) -> ScoreSums | ErrorSums | RiskSums:
    unit = store.load(f"evaluation.federated.{name}.fold0")
    assert unit.values["refused"] == {}
    parts = [
        read_sums(
            {
                k.removeprefix(f"{site}/"): v
                for k, v in unit.arrays.items()
                if k.startswith(f"{site}/") and k.count("/") == 1
            }
        )
        for site in sites
    ]
    return type(parts[0]).merge(parts)


def pooled(of, kind: str, sites=TRAINING, split: str = "train"):
    """Features and clinical columns, and outcomes, of a split over some sites."""
    parts = [dataset(of, kind, site, N_CASES[site]) for site in sites]
    chosen = [part.rows(0, split) for part in parts]
    values = np.vstack(
        [np.hstack([p.features.values, p.clinical.values])[r] for p, r in zip(parts, chosen, strict=True)]
    )
    return values, [part.outcome.take(r) for part, r in zip(parts, chosen, strict=True)]


def test_elastic_net_of_a_number_is_scikit_learns(tmp_path: Path):
    of = table_study("number", models=model('kind = "elastic_net", l1_ratio = 0.7, penalty = 0.05'))
    store = run(of, "number", tmp_path)
    values, outcomes = pooled(of, "number")
    target = np.concatenate([o.values for o in outcomes])
    scaler = StandardScaler().fit(values)
    oracle = ElasticNetCV(l1_ratio=0.7, alphas=[0.05], tol=1e-12, max_iter=100_000).fit(
        scaler.transform(values), target
    )
    found = solution(store).model
    names = columns_after(table(store), ())
    sparse = dict.fromkeys(names, 0.0) | dict(zip(found.names, found.coefficients, strict=True))
    np.testing.assert_allclose(list(sparse.values()), oracle.coef_, atol=1e-7)
    test, tested = pooled(of, "number", split="test")
    expected = mean_absolute_error(np.concatenate([o.values for o in tested]), oracle.predict(scaler.transform(test)))
    assert federated_mae(merged(store, "m", TRAINING)).value == pytest.approx(expected, rel=1e-7)


def test_cox_with_a_stratum_a_hospital_is_lifelines(tmp_path: Path):
    models = model('kind = "cox", penalty = 0.0') + model('kind = "discrete_survival"', name="d")
    of = table_study("survival", models=models, minimum=1)
    store = run(of, "survival", tmp_path)
    scaler = StandardScaler().fit(pooled(of, "survival")[0])
    frames = []
    for site in TRAINING:
        values, (outcome,) = pooled(of, "survival", (site,))
        frame = pd.DataFrame(scaler.transform(values)).add_prefix("c")
        frames.append(frame.assign(days=outcome.time_days, event=outcome.event, site=site))
    oracle = CoxPHFitter().fit(pd.concat(frames), "days", "event", strata=["site"], fit_options={"precision": 1e-12})
    np.testing.assert_allclose(solution(store).model.coefficients, oracle.params_.to_numpy(), rtol=1e-5, atol=1e-6)
    for site in (*TRAINING, "x"):
        values, (outcome,) = pooled(of, "survival", (site,), split="test")
        risk = scaler.transform(values) @ oracle.params_.to_numpy()
        expected = concordance_index(outcome.time_days, -risk, outcome.event)
        assert concordance(merged(store, "m", (site,))).value == pytest.approx(expected, abs=1e-6)
    assert concordance(merged(store, "d", TRAINING)).value > 0.6


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("classes", 'kind = "rbf_svm", n_random = 30'),
        ("classes", 'kind = "boosting", n_trees = 5'),
        ("classes", 'kind = "elastic_net", n_folds = 2, n_penalties = 5, choose = "simplest"'),
        ("three", 'kind = "forest", n_trees = 8, max_depth = 3'),
        ("number", 'kind = "boosting", n_trees = 5'),
        ("classes", 'kind = "xgboost", rounds = 5'),
        ("number", 'kind = "xgboost", rounds = 5'),
        ("number", 'kind = "ridge"'),
    ],
)
def test_every_solved_model_runs_as_a_study(tmp_path: Path, kind: str, settings: str):
    store = run(table_study(kind, models=model(settings)), kind, tmp_path)
    sums = merged(store, "m", TRAINING)
    if isinstance(sums, ScoreSums):
        assert macro_auc(sums).value > 0.6
    else:
        assert federated_mae(sums).value < 1.1


def test_calibration_is_platts_line_through_the_training_scores(tmp_path: Path):
    models = model('kind = "svm"', more='calibration = "platt"') + model('kind = "svm"', name="raw")
    of = table_study("classes", models=models)
    store = run(of, "classes", tmp_path)
    found = solution(store)
    assert isinstance(found.calibration, PlattMap)
    assert solution(store, "raw").calibration is None
    values, outcomes = pooled(of, "classes")
    score = StandardScaler().fit_transform(values) @ found.model.coefficients + found.model.intercept
    labels = np.concatenate([o.labels for o in outcomes])
    oracle = LogisticRegression(C=np.inf).fit(score[:, None], labels)
    assert found.calibration.slope == pytest.approx(oracle.coef_[0, 0], rel=0.1)
    assert found.calibration.intercept == pytest.approx(oracle.intercept_[0], abs=0.1)
    same = [merged(store, name, TRAINING) for name in ("m", "raw")]
    assert macro_auc(same[0]).value == pytest.approx(macro_auc(same[1]).value, abs=0.02)


def test_isotonic_calibration_is_a_rising_map(tmp_path: Path):
    of = table_study("classes", models=model('kind = "svm"', more='calibration = "isotonic"'))
    assert isinstance(solution(run(of, "classes", tmp_path)).calibration, IsotonicMap)


def test_components_are_scikit_learns_and_clinical_columns_stay(tmp_path: Path):
    of = table_study("classes", models=model('kind = "ridge"'), table="[table.pca]\nn_components = 4")
    store = run(of, "classes", tmp_path)
    steps = table(store)
    components = steps[-1]
    assert isinstance(components, PrincipalComponents)
    assert columns_after(steps, ()) == ("pca-1", "pca-2", "pca-3", "pca-4", "age", "sex=m")
    values, _ = pooled(of, "classes")
    oracle = PCA(4, svd_solver="full").fit(StandardScaler().fit_transform(values)[:, :12])
    signs = np.sign((components.components * oracle.components_).sum(axis=1))
    np.testing.assert_allclose(components.components, oracle.components_ * signs[:, None], atol=1e-8)


STEPS = {
    "welch": '{ kind = "univariate", test = "welch", keep = 4 }',
    "fdr": '{ kind = "univariate", test = "anova", false_discovery_rate = 0.05 }',
    "mann_whitney": '{ kind = "univariate", test = "mann_whitney", keep = 4 }',
    "information": '{ kind = "mutual_information", keep = 4, n_bins = 5 }',
    "mrmr": '{ kind = "mrmr", keep = 4, relevance = "anova" }',
    "lasso": '{ kind = "lasso", n_folds = 2 }',
    "stability": '{ kind = "stability", keep = 4, draws = 20, threshold = 0.6 }',
    "stable_lasso": '{ kind = "stability", by = "lasso", keep = 4, draws = 20, threshold = 0.6 }',
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_every_selection_keeps_features_that_tell_of_the_class(tmp_path: Path, step: str):
    of = table_study("classes", models=model('kind = "ridge"'), table=f"[table]\nselection = [{step}]", minimum=1)
    store = run(of, "classes", tmp_path)
    (entry,) = store.load("selection.federated.fold0").values["steps"]
    assert entry["n_before"] == 12
    informative = {"f00", "f01", "f02", "f03", "f04", "f06"}
    assert len(set(entry["names"]) & informative) >= 0.6 * len(entry["names"])
    assert len(entry["values"]) == len(entry["names"])
    assert entry["score"]
    assert columns_after(table(store), ()) == (*entry["names"], "age", "sex=m")


def test_subgroups_are_those_of_the_pooled_test_cases(tmp_path: Path):
    subgroups = 'evaluation = { subgroups = [{ column = "sex", values = ["f", "m"] }] }\n'
    of = table_study("classes", models=model('kind = "ridge"'), table=subgroups)
    store = run(of, "classes", tmp_path)
    unit = store.load("evaluation.federated.m.fold0")
    found = {}
    for level in ("f", "m"):
        parts = []
        for site in TRAINING:
            prefix = f"{site}/sex/{level}/"
            parts.append(
                ScoreSums.from_arrays(
                    {k.removeprefix(prefix): v for k, v in unit.arrays.items() if k.startswith(prefix)}
                )
            )
        found[level] = ScoreSums.merge(parts)
    values, outcomes = pooled(of, "classes", split="test")
    labels = np.concatenate([o.labels for o in outcomes])
    scores = solution(store).model
    scaler = StandardScaler().fit(pooled(of, "classes")[0])
    score = scaler.transform(values) @ scores.coefficients
    for level, sums in found.items():
        rows_of = values[:, -1] == (level == "m")
        assert sums.n_cases in (0, rows_of.sum())
        if sums.n_cases:
            estimate = auc(sums)
            assert abs(estimate.value - roc_auc_score(labels[rows_of], score[rows_of])) < 0.05


def test_trees_respect_the_minimum_of_cases(tmp_path: Path):
    of = table_study(
        "classes",
        models=model('kind = "forest", n_trees = 4')
        + model('kind = "boosting", n_trees = 3', name="b")
        + model('kind = "xgboost", rounds = 3', name="x"),
        minimum=8,
    )
    store = run(of, "classes", tmp_path)
    assert isinstance(solution(store).model, Forest)
    assert isinstance(solution(store, "b").model, Boosted)
    assert isinstance(solution(store, "x").model, Boosted)


def test_a_model_and_a_solution_that_do_not_belong_together_are_refused(tmp_path: Path):
    trained = '[[models]]\nname = "t"\nrounds = 1\nmodel = { kind = "linear" }\ntraining = {}\n'
    of = table_study("classes", models=model('kind = "ridge"') + trained)
    store = run(of, "classes", tmp_path)
    site = MemorySite(of, "a", dataset(of, "classes", "a", 80))
    good = Evaluate(
        digest(of), 0, "m", "test", Parameters({}), encode_steps(table(store)), encode_solution(solution(store))
    )
    assert not isinstance(site.answer(good), Refusal)
    for bad in (replace(good, solution=()), replace(good, model="t"), replace(good, solution=good.solution * 3)):
        assert site.answer(bad).code == "message"


def test_a_training_site_that_is_too_small_for_the_folds_is_named(tmp_path: Path):
    of = table_study("classes", models=model('kind = "elastic_net", n_folds = 10'), minimum=5)
    with pytest.raises(FederationError, match="solve m: site a refused AskStatistic: small_cell"):
        run(of, "classes", tmp_path)


def test_rows_of_a_site_are_its_own():
    assert not np.array_equal(rows("classes", "a", 9)[0], rows("classes", "b", 9)[0])
