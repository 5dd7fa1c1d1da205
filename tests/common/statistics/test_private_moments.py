"""Moments from one question, what follows from them, and learned ranges: without noise, equal to the usual ones."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import StatisticError
from common.statistics.bounded_sums import bounded_sums
from common.statistics.bounds import Limits, learned_bounds
from common.statistics.combat import combat, combat_of_moments
from common.statistics.combat_model import CombatSettings
from common.statistics.design import Covariates
from common.statistics.moments import Imputer, Moments, Scaler
from common.statistics.private_moments import imputed, moments_after, private_moments, select_moments, whole
from common.statistics.procedure import Query, Sums, run
from common.statistics.table_steps import Keep, apply_steps
from tests.common.statistics.cohorts import by_batch, cohort, solve

SITES = by_batch(cohort(240, 5))
BATCHES = tuple(site.batch[0] for site in SITES)
NAMES = SITES[0].table.names
WIDE = Limits(NAMES, np.full(5, -60.0), np.full(5, 60.0))


def close(a: Moments, b: Moments) -> None:
    assert (a.names, a.n_cases) == (b.names, b.n_cases)
    np.testing.assert_array_equal(a.present, b.present)
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-9)
    np.testing.assert_allclose(a.m2, b.m2, rtol=1e-6)


def asked(procedure, *, noise: float = 0.0, seed: int = 0, limits: Limits = WIDE, sites=SITES):
    """As over the network: bounded sums of each site, with noise of the given multiplier."""
    rng = np.random.default_rng(seed)

    def ask(query: Query) -> list[Sums]:
        parts = [bounded_sums(query, site, limits) for site in sites]
        return [part.answer(part.scaled() + noise * rng.normal(size=part.scaled().shape)) for part in parts]

    return run(procedure, ask)


def test_moments_of_one_question_are_those_of_the_rows():
    found = asked(private_moments(NAMES, WIDE, by="batch", groups=BATCHES))
    for moments, site in zip(found, SITES, strict=True):
        close(moments, Moments.of(site.table))
    merged = whole(found)
    assert merged.n_cases == 240


def test_what_steps_do_to_moments_needs_no_question():
    found = asked(private_moments(NAMES, WIDE, by="batch", groups=BATCHES))
    settings = CombatSettings(BATCHES, fold=0)
    steps = (
        combat_of_moments(NAMES, settings, found),
        Keep(NAMES[1:4]),
        Scaler(NAMES[1:4], np.array([1.0, -2, 0]), np.array([2.0, 3, 0.5])),
    )
    for step in steps:
        found = moments_after(step, found, batches=BATCHES, fold=0)
    for moments, site in zip(found, SITES, strict=True):
        close(moments, Moments.of(apply_steps(site, steps, fold=0).table))


def test_combat_of_moments_is_combat():
    exact = solve(lambda: combat(NAMES, CombatSettings(BATCHES, fold=0)), SITES)
    found = combat_of_moments(NAMES, CombatSettings(BATCHES, fold=0), [Moments.of(site.table) for site in SITES])
    for field in ("grand_mean", "pooled_variance", "gamma_star", "delta_star"):
        np.testing.assert_allclose(getattr(found, field), getattr(exact, field), rtol=1e-9)
    with pytest.raises(StatisticError, match="no covariates, got age"):
        combat_of_moments(NAMES, CombatSettings(BATCHES, Covariates(("age",))), [])


def test_a_private_spread_of_nothing_has_a_floor():
    moments = [Moments.of(site.table) for site in SITES]
    flat = Moments(NAMES, moments[0].n_cases, moments[0].present, moments[0].mean, np.zeros(5))
    model = combat_of_moments(NAMES, CombatSettings(BATCHES, method="none"), [flat, *moments[1:]])
    assert (model.delta_star[0] >= 0.01).all()
    assert (model.delta_star[0] < 0.03).all()


def test_imputed_moments_are_those_of_imputed_rows():
    table = SITES[0].table
    values = table.values.copy()
    values[np.random.default_rng(0).random(values.shape) < 0.2] = np.nan
    imputer = Imputer(NAMES[::-1], np.arange(5.0))
    lacking = table.with_values(values)
    close(imputed(Moments.of(lacking), imputer), Moments.of(imputer.apply(lacking)))
    close(select_moments(Moments.of(table), ("feature-003", "feature-001")), Moments.of(table.select(NAMES[3:0:-2])))


def test_noise_of_moments_is_that_of_its_scale():
    """Mean of 300 draws: unbiased, and as wide as the scale says."""
    draws = [asked(private_moments(NAMES, WIDE, by="all", groups=("all",)), noise=0.5, seed=s)[0] for s in range(300)]
    exact = whole([Moments.of(site.table) for site in SITES])
    error = np.array([draw.mean - exact.mean for draw in draws])
    expected = 0.5 * np.sqrt(3 * 5) * 60 * np.sqrt(len(SITES)) / 240
    assert np.abs(error.mean(axis=0)).max() < 5 * expected / np.sqrt(300)
    assert error.std(axis=0) == pytest.approx(np.full(5, expected), rel=0.2)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_learned_ranges_hold_nearly_all_values_and_are_not_wide(noise: float):
    none = Limits((), np.zeros(0), np.zeros(0))
    sites = by_batch(cohort(2_000, 5))
    std = noise * np.sqrt(5) * np.sqrt(len(sites))
    found = asked(learned_bounds(NAMES, noise_std=std), noise=noise, limits=none, sites=sites)
    values = np.vstack([site.table.values for site in sites])
    inside = ((values >= found.low) & (values <= found.high)).mean(axis=0)
    assert (inside > (0.97 if noise == 0 else 0.93)).all()
    assert ((found.high - found.low) < 2.2 * (values.max(axis=0) - values.min(axis=0))).all()


def test_a_range_that_noise_hides_is_refused_by_name():
    none = Limits((), np.zeros(0), np.zeros(0))
    with pytest.raises(StatisticError, match="no range stands out of the noise for feature-000"):
        asked(learned_bounds(NAMES, noise_std=500.0), limits=none)
