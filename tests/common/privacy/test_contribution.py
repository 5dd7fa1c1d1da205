import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.arrays import Parameters, merge_sums, weighted_mean
from common.errors import MessageError, PrivacyError
from common.messages import AskStatistic, Evaluate, EvaluationSums, LocalUpdate, StatisticSums, Train
from common.privacy.contribution import SumPlan, from_words, to_words
from common.privacy.fixed_point import MAX_SITES
from common.privacy.mask_keys import MaskWords
from common.rng import SystemNoise, generator
from common.statistics import encode_query
from common.statistics.combat import combat
from common.statistics.combat_model import CombatSettings
from common.statistics.logistic import logistic_lasso
from common.statistics.moments import moments
from common.statistics.procedure import ask_cohorts, run
from simulations.benchmarks.statistics import cohorts

PLAN = SumPlan(3, 32, 4.0, 100, "n_cases")
ASKED = AskStatistic("d", 0, "moments", {})
BIG = {
    "counts": np.array([[1, 2], [3, 4]], dtype=np.int64),
    "energy": np.array([1e30, 1e-20, -5.0]),
    "n": np.array(2.0),
}


def summed(replies, plan, question, **kwargs):
    made = [to_words(reply, plan, **kwargs) for reply in replies]
    total = MaskWords(made[0][1].wide.copy(), made[0][1].narrow.copy())
    for _, words in made[1:]:
        total.add(words)
    return from_words(question, made[0][0], total, plan, n_included=len(replies))


def updates(n_cases, seed=0, size=50):
    rng = generator(seed, "updates")
    shapes = {"w": (size,), "b": ()}
    return [
        LocalUpdate(
            "m", 2, n, Parameters({k: rng.normal(0, 0.1, s).astype(np.float32) for k, s in shapes.items()}), 0.5 + n
        )
        for n in n_cases
    ]


def question(update: LocalUpdate) -> Train:
    return Train("d", 0, "m", 2, update.delta)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("weighting", ["n_cases", "uniform"])
def test_a_sum_of_updates_is_their_weighted_mean_within_half_a_step_a_site(bits, weighting):
    sent = updates([30, 70, 100])
    plan = SumPlan(3, bits, 4.0, 100, weighting)
    merged = summed(sent, plan, question(sent[0]))
    weights = [update.n_cases if weighting == "n_cases" else 1 for update in sent]
    exact = weighted_mean([(update.delta, float(w)) for update, w in zip(sent, weights, strict=True)])
    assert merged.n_cases == 200
    assert merged.train_loss == pytest.approx(sum(u.n_cases * u.train_loss for u in sent) / 200)
    assert (merged.model, merged.round_number, merged.delta.layout) == ("m", 2, sent[0].delta.layout)
    far = np.abs(merged.delta.flatten() - exact.flatten()).max()
    assert far <= 3 * plan.grid.step / 2 / sum(weights) + 2**-24


@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.integers(0, 5), st.booleans())
def test_the_sum_is_that_of_the_fixed_point_values_to_the_last_bit(n_cases, seed, stochastic):
    sent = updates(n_cases, seed)
    plan = SumPlan(5, 32, 4.0, 100, "n_cases")
    words = [to_words(u, plan, source=SystemNoise(bytes(32)) if stochastic else None)[1].narrow for u in sent]
    fixed = np.sum([plan.grid.decode(narrow) / plan.grid.step for narrow in words], axis=0)
    total = np.sum(words, axis=0, dtype=np.uint32)
    assert np.array_equal(plan.grid.decode(total) / plan.grid.step, fixed)


def test_sums_of_all_sizes_come_back_exactly_and_counts_as_counts():
    merged = summed([StatisticSums(7, BIG), StatisticSums(8, BIG)], PLAN, ASKED)
    assert merged.n_cases == 15
    for name, array in merge_sums([BIG, BIG]).items():
        assert merged.sums[name].dtype == array.dtype
        assert merged.sums[name].shape == array.shape
        np.testing.assert_allclose(merged.sums[name], array, rtol=2**-52)
    asked = Evaluate("d", 0, "m", "test", Parameters({}))
    scored = summed([EvaluationSums("m", 7, BIG)] * 3, PLAN, asked)
    assert isinstance(scored, EvaluationSums)
    assert np.array_equal(scored.sums["counts"], 3 * BIG["counts"])


@settings(deadline=None, max_examples=3)
@given(st.integers(0, 2))
def test_procedures_reach_the_same_under_masks(seed):
    """Moments of energies of 1e9, ComBat and Newton steps of the logistic LASSO: sums of sums as words."""
    sites = cohorts(n_features=12, n_sites=3, n_cases=300, seed=seed)
    names = sites[0].table.names
    plan = SumPlan(3, 32, 4.0, 10_000, "n_cases")

    def masked(query):
        kind, values = encode_query(query)
        asked = AskStatistic("d", 0, kind, values)
        parts = [StatisticSums(site.table.n_cases, query.summarise(site)) for site in sites]
        return [summed(parts, plan, asked).sums]

    plain = ask_cohorts(sites)
    settings_ = CombatSettings(tuple(site.batch[0] for site in sites))
    for procedure in (lambda: moments(names), lambda: combat(names, settings_), lambda: logistic_lasso(names)):
        assert_alike(run(procedure(), plain), run(procedure(), masked))


def assert_alike(expected, found):
    """Every array of two results to 1e-9."""
    fields = [name for name in vars(expected) if isinstance(getattr(expected, name), np.ndarray)]
    assert fields
    for name in fields:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"value": 4.5}, "1 of 51 values of the update lie outside value_bound = 4, the largest is 4.5"),
        ({"value": np.nan}, "1 of 51 values"),
        ({"n_cases": 101}, "101 cases at this site, the study's masked sums have room for 100"),
    ],
)
def test_an_update_that_does_not_fit_is_refused(change, reason):
    (update,) = updates([change.get("n_cases", 10)])
    flat = update.delta.flatten()
    flat[3] = change.get("value", 0.0)
    with pytest.raises(PrivacyError, match=reason):
        to_words(LocalUpdate("m", 2, update.n_cases, update.delta.unflatten(flat), 0.5), PLAN)


@pytest.mark.parametrize("array", [np.array([np.inf]), np.array([1e300]), np.array([True])])
def test_sums_that_cannot_be_masked_are_refused(array):
    with pytest.raises(PrivacyError):
        to_words(StatisticSums(1, {"x": array}), PLAN)


def test_more_sites_than_there_is_room_for_are_refused():
    with pytest.raises(PrivacyError, match="a masked sum holds 2047"):
        to_words(StatisticSums(1, BIG), SumPlan(MAX_SITES + 1, 32, 4.0, 100, "n_cases"))


@pytest.mark.parametrize(
    "layout",
    [{"a": "f8 3"}, {"a": "f9 2"}, {"a": "O8 2"}, {"a": "f8 99999x99999x99999"}, {"a": "f8 -1"}, {"a": "f1 2"}],
)
def test_a_layout_that_does_not_fit_is_refused(layout):
    with pytest.raises(MessageError):
        from_words(ASKED, layout, MaskWords(np.zeros(11, np.uint64), np.zeros(0, np.uint32)), PLAN, n_included=3)


def test_an_update_of_another_size_or_of_no_cases_is_refused():
    (update,) = updates([10])
    layout, words = to_words(update, PLAN)
    with pytest.raises(MessageError, match="does not fit 51 parameters"):
        from_words(question(update), {**layout, "delta": "f8 50"}, words, PLAN, n_included=1)
    with pytest.raises(MessageError, match="masked words of shape"):
        from_words(question(update), layout, MaskWords(words.wide, words.narrow[1:]), PLAN, n_included=1)
    with pytest.raises(MessageError, match="10 cases at 11 sites"):
        from_words(question(update), layout, words, PLAN, n_included=11)
