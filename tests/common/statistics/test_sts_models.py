"""The classical models on real features and follow-up: 26 soft-tissue sarcomas (Vallieres et al. 2015), three sites."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.utils import concordance_index
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from common.evaluation.metrics import auc
from common.evaluation.risk_grid import RiskSums, risk_of_score
from common.evaluation.scores import ScoreSums
from common.evaluation.survival import concordance
from common.outcomes import ClassOutcome, SurvivalOutcome
from common.statistics.cox import cox
from common.statistics.forest import ForestSettings, forest
from common.statistics.margins import linear_svm, ridge_logistic
from common.statistics.procedure import Cohort
from common.statistics.quantiles import balanced_edges
from common.tables import FeatureTable
from tests.common.statistics.cohorts import by_batch, solve, split
from tests.common.statistics.test_sts import CLASSES, DATA, features

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="../shared/data/sts is missing")

NAMES = ("log volume", "CT mean", "PET p90", "MR_T1 skewness")


@pytest.fixture(scope="module")
def sarcomas() -> Cohort:
    with (DATA / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = [features(DATA / "nifti" / row["case_id"]) for row in rows]
    ids = tuple(row["case_id"] for row in rows)
    return Cohort(
        table=FeatureTable(np.array([[row[name] for name in NAMES] for row in found]), NAMES, ids),
        clinical=FeatureTable(np.array([[float(row["age_years"])] for row in rows]), ("age",), ids),
        outcome=ClassOutcome(np.array([int(row["lung_metastasis"]) for row in rows], dtype=np.int64), CLASSES),
        batch=tuple(row["site"] for row in rows),
        seed=3,
    )


@pytest.fixture(scope="module")
def followed(sarcomas) -> Cohort:
    with (DATA / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    died = np.array([row["status"] == "D" for row in rows])
    return replace(sarcomas, outcome=SurvivalOutcome(died, np.array([float(row["follow_up_days"]) for row in rows])))


def standardised(whole):
    return (whole.table.values - whole.table.values.mean(axis=0)) / whole.table.values.std(axis=0)


def test_cox_equals_pooled_lifelines(followed):
    frame = pd.DataFrame(followed.table.values, columns=list(NAMES))
    frame = frame.assign(time=followed.outcome.time_days, event=followed.outcome.event, site=followed.batch)
    oracle = CoxPHFitter().fit(frame, "time", "event", strata=["site"], fit_options={"precision": 1e-12})
    found = solve(lambda: cox(NAMES), by_batch(followed))
    np.testing.assert_allclose(found.coefficients, oracle.params_.to_numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.standard_errors, oracle.standard_errors_.to_numpy(), rtol=1e-6)
    score = found.score(followed.table)
    merged = RiskSums.merge(
        [RiskSums.summarise(risk_of_score(found.score(site.table)), site.outcome) for site in by_batch(followed)]
    )
    expected = concordance_index(followed.outcome.time_days, -score, followed.outcome.event)
    estimate = concordance(merged)
    assert abs(estimate.value - expected) <= estimate.bound
    assert estimate.bound < 0.1


@pytest.mark.parametrize("n_sites", [3, 7])
def test_logistic_and_its_auc(sarcomas, n_sites):
    sites = split(sarcomas, n_sites)
    found = solve(lambda: ridge_logistic(NAMES, penalty=0.05), sites)
    oracle = LogisticRegression(C=1 / (26 * 0.05), tol=1e-12, solver="newton-cholesky")
    oracle.fit(standardised(sarcomas), sarcomas.outcome.labels)
    np.testing.assert_allclose(found.coefficients, oracle.coef_[0], rtol=1e-6)
    sums = ScoreSums.merge([ScoreSums.summarise(found.predict(site.table), site.outcome.labels) for site in sites])
    true = roc_auc_score(sarcomas.outcome.labels, found.predict(sarcomas.table)[:, 1])
    estimate = auc(sums)
    assert abs(estimate.value - true) <= estimate.bound <= 0.01
    assert estimate.low < estimate.value < estimate.high


def test_svm_and_forest_do_not_depend_on_the_split(sarcomas):
    machines = [solve(lambda: linear_svm(NAMES, penalty=0.05), split(sarcomas, n)) for n in (1, 5)]
    np.testing.assert_allclose(machines[0].coefficients, machines[1].coefficients, rtol=1e-8)
    edges = solve(lambda: balanced_edges(NAMES, 8), [sarcomas])
    settings = ForestSettings(n_trees=10, max_depth=3, least_cases=2)
    forests = [solve(lambda: forest(NAMES, CLASSES, edges, settings), split(sarcomas, n)) for n in (1, 5)]
    np.testing.assert_array_equal(*(model.predict(sarcomas.table) for model in forests))
