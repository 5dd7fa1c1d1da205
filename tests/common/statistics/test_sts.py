"""The statistics on real features: 26 soft-tissue sarcomas (Vallieres et al. 2015), three sites.

Simple intensity and size features inside the tumour, computed here with numpy: the statistics are under test, not the
extractor. Each result is that of the pooled rows, whether the cases lie at three sites or at seven.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import ElasticNet

from common.outcomes import ClassOutcome
from common.statistics.batch_effect import batch_effect
from common.statistics.combat_model import CombatSettings, adapt
from common.statistics.design import Covariates
from common.statistics.lasso import PenaltySettings, lasso
from common.statistics.leakage import LeakageGuard, guarded_combat
from common.statistics.moments import Scaler, moments
from common.statistics.pca import principal_components
from common.statistics.procedure import Cohort
from common.statistics.selection_filters import uncorrelated
from common.statistics.selection_tests import welch
from common.tables import FeatureTable
from tests.common.statistics.cohorts import by_batch, solve, split
from tests.common.statistics.test_combat import assert_equal, fitted, pooled

DATA = Path(__file__).parents[3] / "../shared/data/sts"
SITES = ("east", "north", "south")
CLASSES = ("no metastasis", "lung metastasis")
AGE = Covariates(continuous=("age",))
STATISTICS = ("mean", "sd", "skewness", "kurtosis", "p10", "p50", "p90", "iqr", "rms", "gradient")

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="../shared/data/sts is missing")


def features(case: Path) -> dict[str, float]:
    found = {}
    for modality in ("CT", "PET", "MR_T1"):
        image = SimpleITK.ReadImage(str(case / f"{modality}_image.nii.gz"), SimpleITK.sitkFloat64)
        mask = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(case / f"{modality}_mask.nii.gz"))) > 0
        values = SimpleITK.GetArrayFromImage(image)
        inside = values[mask]
        p10, p25, p50, p75, p90 = np.percentile(inside, [10, 25, 50, 75, 90])
        gradient = np.abs(np.diff(values, axis=2))[mask[:, :, 1:] & mask[:, :, :-1]].mean()
        row = (inside.mean(), inside.std(), stats.skew(inside), stats.kurtosis(inside), p10, p50, p90, p75 - p25)
        row = (*row, np.sqrt(np.mean(inside**2)), gradient)
        found |= {f"{modality} {name}": float(value) for name, value in zip(STATISTICS, row, strict=True)}
        if modality == "CT":
            found["log volume"] = float(np.log(mask.sum() * np.prod(image.GetSpacing())))
    return found


@pytest.fixture(scope="module")
def sarcomas() -> Cohort:
    with (DATA / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = [features(DATA / "nifti" / row["case_id"]) for row in rows]
    ids = tuple(row["case_id"] for row in rows)
    return Cohort(
        table=FeatureTable(np.array([list(row.values()) for row in table]), tuple(table[0]), ids),
        clinical=FeatureTable(np.array([[float(row["age_years"])] for row in rows]), ("age",), ids),
        outcome=ClassOutcome(np.array([int(row["lung_metastasis"]) for row in rows], dtype=np.int64), CLASSES),
        batch=tuple(f"scanner-{SITES.index(row['site'])}" for row in rows),
        seed=3,
    )


@pytest.mark.parametrize("options", [{}, {"method": "nonparametric"}, {"mean_only": True}, {"reference": "scanner-1"}])
def test_combat_equals_pooled_neurocombat(sarcomas, options, monkeypatch):
    whole = replace(sarcomas, clinical=with_sex(sarcomas.clinical))
    oracle = pooled(whole, monkeypatch, covariates=AGE, **options)
    for sites in (by_batch(whole), split(whole, 7)):
        assert_equal(fitted(whole, sites, covariates=AGE, **options), whole, oracle)


def with_sex(clinical):
    """The oracle's frame has a sex column, which it does not use here."""
    return replace(
        clinical, values=np.column_stack([clinical.values, np.zeros(len(clinical.values))]), names=("age", "sex")
    )


def test_harmonisation_lowers_the_batch_effect(sarcomas):
    batches = tuple(sorted(set(sarcomas.batch)))
    sites, names = by_batch(sarcomas), sarcomas.table.names
    model, found = solve(
        lambda: guarded_combat(names, CombatSettings(batches, AGE), LeakageGuard(), labels=CLASSES, n_codes=1), sites
    )
    assert found.counts.sum() == 26
    before = solve(lambda: batch_effect(names, batches), sites)
    after = solve(lambda: batch_effect(names, batches), [model.apply_to(site, fold=-1) for site in sites])
    assert np.median(after.between_share) < np.median(before.between_share)
    assert np.mean(after.p_value < 0.05) <= np.mean(before.p_value < 0.05)
    assert after.accuracy < before.accuracy


def test_leaving_a_site_out_and_adapting_it(sarcomas):
    seen, new = by_batch(sarcomas)[1:], by_batch(sarcomas)[0]
    whole = replace(
        sarcomas,
        batch=tuple(name for site in seen for name in site.batch),
        table=sarcomas.table.rows([i for site in seen for i in site.table.case_ids]),
    )
    model = fitted(whole, seen, covariates=AGE)
    adapted = adapt(model, new.table, batch="scanner-0").apply(new.table).values
    centre, scale = model.grand_mean + model.mean_effect, np.sqrt(model.pooled_variance + model.explained_variance)
    before, after = (np.abs((values.mean(axis=0) - centre) / scale) for values in (new.table.values, adapted))
    assert np.median(after) < np.median(before)


@pytest.mark.parametrize("n_sites", [3, 7])
def test_selection_equals_the_pooled_one(sarcomas, n_sites):
    scaler = Scaler.standard(solve(lambda: moments(sarcomas.table.names), split(sarcomas, n_sites)))
    whole = replace(sarcomas, table=scaler.apply(sarcomas.table))
    sites, names, x = split(whole, n_sites), whole.table.names, whole.table.values
    ranking = solve(lambda: welch(names, CLASSES), sites)
    oracle = stats.ttest_ind(x[whole.outcome.labels == 1], x[whole.outcome.labels == 0], equal_var=False)
    np.testing.assert_allclose(
        [dict(zip(ranking.names, ranking.p_value, strict=True))[name] for name in names], oracle.pvalue, rtol=1e-8
    )
    path = solve(lambda: lasso(names, PenaltySettings(n_penalties=8, smallest=0.05)), sites)
    for position in (2, 7):
        model = ElasticNet(alpha=path.penalties[position], l1_ratio=1.0, tol=1e-14, max_iter=1_000_000)
        model.fit(x, whole.outcome.labels)
        np.testing.assert_allclose(path.coefficients[position], model.coef_, rtol=1e-5, atol=1e-8)
    components = solve(lambda: principal_components(names, 4), sites)
    expected = PCA(n_components=4, svd_solver="full").fit(x).components_
    signs = np.sign((components.components * expected).sum(axis=1))[:, None]
    np.testing.assert_allclose(components.components, signs * expected, atol=1e-8)
    assert len(solve(lambda: uncorrelated(ranking.names, largest=0.8), sites)) < len(names)
