from __future__ import annotations

from pathlib import Path

import pytest

from simulations.benchmarks.privacy import BEGIN, DELTA, END, EPSILONS, MODELS, Curve, Model, markdown, read, study_text
from simulations.benchmarks.privacy_cohorts import CohortLoss, missed_cohorts

DOCS = Path(__file__).parents[2] / "docs" / "privacy.md"


@pytest.mark.parametrize("model", MODELS, ids=[model.name for model in MODELS])
def test_every_study_of_the_benchmark_is_one(model: Model):
    for epsilon in (*EPSILONS, float("inf")):
        study = read(study_text(model, epsilon, 0.375, DELTA))
        privacy = study.privacy.sample_level
        assert (privacy is None) == (epsilon == float("inf"))
        assert study.training_sites == ("east", "north", "south")


def test_the_table_has_a_row_a_curve_and_a_dash_for_what_was_not_run():
    inf = float("inf")
    aucs = {1.0: (0.8,), 2.0: (0.81,), 4.0: (0.82,), 8.0: (0.82, 0.83, 0.84), inf: (0.84,)}
    whole = Curve("linear", 500, DELTA, aucs)
    small = Curve("linear", 100, 1e-3, {8.0: (0.7,), inf: (0.8,)})
    cohorts = [CohortLoss(201, 7, (0.80, 0.82), 0.84), CohortLoss(202, 7, (0.78, 0.79), 0.84)]
    text = markdown([whole, small, Curve("demo", 500, DELTA, {inf: (0.85,)})], cohorts, (0.02, 0.03))
    assert "| linear | 500 | 0.0002 | 0.800 | 0.810 | 0.820 | 0.830 ± 0.010 | 0.840 | 0.010 |" in text
    assert "| linear | 100 | 0.001 | — | — | — | 0.700 | 0.800 | 0.100 |" in text
    assert "| demo | 500 | 0.0002 | — | — | — | — | 0.850 | — |" in text
    assert "| 201 | 7 | 0.800, 0.820 | 0.840 | 0.030 | 0.040 |" in text
    assert "Mean loss 0.042, worst 0.060, of 4 runs." in text
    assert "1.5 times as long" in text


def test_a_cohort_misses_the_target_by_its_mean_over_seeds_and_draws():
    near = [
        CohortLoss(1, 7, (0.75, 0.85), 0.84),
        CohortLoss(1, 8, (0.82,), 0.84),
    ]  # 0.09 in one draw, 0.033 in the mean
    far = [CohortLoss(2, 7, (0.78,), 0.84)]
    assert missed_cohorts([*near, *far], target=0.05) == [2]


def test_only_the_linear_model_measures_radiomics_and_seeds_are_the_study_s():
    assert [bool(read(study_text(m, 8.0, 0.375, DELTA)).radiomics) for m in MODELS] == [True, False]
    assert read(study_text(MODELS[1], 8.0, 0.375, DELTA, seed=8)).seed == 8


def test_the_page_has_a_place_for_the_tables():
    page = DOCS.read_text()
    assert 0 < page.index(BEGIN) < page.index(END)
