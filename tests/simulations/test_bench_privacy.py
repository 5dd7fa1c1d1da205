from __future__ import annotations

from pathlib import Path

import pytest

from simulations.benchmarks.privacy import BEGIN, DELTA, END, EPSILONS, MODELS, Curve, Model, markdown, read, study_text

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
    text = markdown([whole, small], (0.02, 0.03))
    assert "| linear | 500 | 0.0002 | 0.800 | 0.810 | 0.820 | 0.830 ± 0.010 | 0.840 | 0.010 |" in text
    assert "| linear | 100 | 0.001 | — | — | — | 0.700 | 0.800 | 0.100 |" in text
    assert "1.5 times as long" in text


def test_the_page_has_a_place_for_the_tables():
    page = DOCS.read_text()
    assert 0 < page.index(BEGIN) < page.index(END)
