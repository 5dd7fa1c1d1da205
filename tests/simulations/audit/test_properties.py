"""Property inference and differencing, on cohorts whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulations.audit.properties import Patients, difference_attack, infer_share
from simulations.audit.protections import NONE, PRIVATE, SECURE_SUM
from simulations.audit.statistics_attack import Attribute, differencing, has_attribute, property_inference
from tests.simulations.audit.subjects import subject


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory):
    return subject(tmp_path_factory.mktemp("statistics"), random_labels=False, n_cases={"a": 240, "b": 60})


def patients(n: int, *, shift: float, seed: int) -> Patients:
    rng = np.random.default_rng(seed)
    has = rng.random(n) < 0.5
    return Patients(rng.normal(size=(n, 4)) + shift * has[:, None], has)


def means(rows: np.ndarray) -> np.ndarray:
    return rows.mean(axis=0)


@pytest.mark.parametrize(("shift", "least", "most"), [(2.0, 0.8, 1.0), (0.0, -9.0, 0.35)])
def test_a_property_is_found_where_it_moves_features_and_only_there(shift: float, least: float, most: float):
    result = infer_share(
        patients(200, shift=shift, seed=1),
        patients(200, shift=shift, seed=2),
        means,
        n_cases=50,
        n_cohorts=100,
        rng=np.random.default_rng(0),
    )
    assert least < result.explained < most
    assert (result.error < result.error_of_guess / 2) == (shift > 0)


def test_a_sum_over_many_hospitals_hides_the_share_of_one():
    known, victim = patients(200, shift=2.0, seed=1), patients(200, shift=2.0, seed=2)
    settings = {"n_cases": 30, "n_cohorts": 100}
    alone, summed = (
        infer_share(known, victim, means, n_summed=n, rng=np.random.default_rng(0), **settings).explained
        for n in (1, 8)
    )
    assert alone > 0.7
    assert summed < 0.3


def test_nobody_with_the_property_is_refused():
    nobody = Patients(np.zeros((5, 2)), np.zeros(5, dtype=bool))
    with pytest.raises(ValueError, match="of the known cases 0 of 5"):
        infer_share(nobody, nobody, means, n_cases=2, n_cohorts=2, rng=np.random.default_rng(0))


def test_a_difference_of_sums_is_the_patient():
    rows = np.random.default_rng(0).normal(size=(9, 20))
    assert difference_attack(rows[:-1].sum(axis=0), rows.sum(axis=0), rows[-1]) == pytest.approx(1.0)


def test_the_studys_own_moments_give_a_patient_away_unless_private(of):
    assert differencing(of, NONE) == pytest.approx(1.0)
    assert differencing(of, SECURE_SUM) == pytest.approx(1.0)
    noisy = differencing(of, PRIVATE)
    assert noisy is not None
    assert abs(noisy) < 0.8


def test_a_column_of_the_manifest_is_inferred(of, monkeypatch: pytest.MonkeyPatch):
    # at epsilon 8 the noise on 240 cases is smaller than the spread of the drawn cohorts
    monkeypatch.setattr("simulations.audit.protections.WHAT_IF_EPSILON", 0.5)
    sex = Attribute("sex", "f")
    flags = has_attribute(of, sex, "a")
    assert flags is not None
    assert np.array_equal(flags, of.cohort("a").table.values[:, 1] > 0)
    alone, private = property_inference(of, sex, NONE), property_inference(of, sex, PRIVATE)
    assert alone is not None
    assert private is not None
    assert alone.explained > 0.3
    assert private.explained < alone.explained


def test_noise_beyond_the_effect_hides_the_share():
    known, victim, noise = patients(200, shift=2.0, seed=1), patients(200, shift=2.0, seed=2), np.random.default_rng(3)
    settings = {"n_cases": 50, "n_cohorts": 100, "rng": np.random.default_rng(0)}
    found = infer_share(known, victim, lambda rows: rows.mean(axis=0) + 3 * noise.normal(size=4), **settings)
    assert found.explained < 0.3


def test_an_attribute_that_nobody_has_is_not_inferred(of):
    assert property_inference(of, Attribute("sex", "x"), NONE) is None
    assert property_inference(of, Attribute("absent", "x"), NONE) is None


def test_outcome_is_the_attribute_where_none_is_named(of, tmp_path: Path):
    del tmp_path
    flags = has_attribute(of, None, "b")
    assert flags is not None
    assert np.array_equal(flags, of.datasets["b"].outcome.labels == 1)
