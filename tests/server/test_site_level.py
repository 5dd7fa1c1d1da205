"""Site-level privacy in a whole study: who is noisy, what a site sends, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.arrays import Parameters
from common.config.secure_aggregation import sum_plan
from common.config.site_level import protected_rounds, shared_noise, site_level_cost, site_level_of
from common.config.study import StudyConfig
from common.errors import Code, ConfigError, FederationError, PrivacyError
from common.messages import LocalUpdate, Refusal, Reply, Request, Train
from common.privacy.contribution import from_words, to_words
from common.privacy.ledger import epsilon
from common.privacy.mask_keys import MaskWords
from server.site_level import NORM
from server.training_state import TrainingState
from tests.server.memory_sites import MemorySite, final_digests, members, run, study

BASE = (
    ("local_only = true", "local_only = false"),
    ("federated = { quorum = 2 }", 'federated = { strategy = { kind = "fedavg", weighting = "uniform" } }'),
)
LEVEL = "site_level = { clipping_norm = 0.5, target_epsilon = 30, target_delta = 1e-3"


def protected_study(level: str = LEVEL, *more: tuple[str, str]) -> StudyConfig:
    return study(*BASE, ("minimum_cases = 1", f"minimum_cases = 1, {level} }}"), *more)


class Watched(MemorySite):
    """Keeps what it sends."""

    def __init__(self, of, site, data) -> None:
        super().__init__(of, site, data)
        self.sent: list[LocalUpdate] = []

    def answer(self, request: Request) -> Reply:
        reply = super().answer(request)
        if isinstance(reply, LocalUpdate):
            self.sent.append(reply)
        return reply


def watched(of: StudyConfig) -> dict[str, MemorySite]:
    return {name: Watched(of, name, site._opened.data) for name, site in members(of).items()}


def state(store, model: str) -> TrainingState:
    unit = store.load(f"training.federated.{model}.fold0")
    assert unit is not None
    return TrainingState.from_unit(unit)


def test_updates_are_short_and_say_neither_loss_nor_number_of_cases(tmp_path: Path):
    of = protected_study()
    sites = watched(of)
    store = run(of, tmp_path, sites=sites)
    for name in of.training_sites:
        assert len(sites[name].sent) == 5  # rounds of both models
        for update in sites[name].sent:
            assert update.delta.norm() <= 0.5
            assert (update.n_cases, update.train_loss) == (1, 0.0)
    assert [entry.n_cases for entry in state(store, "logistic").history] == [1] * 9
    assert all(site.asked for site in sites.values())


def test_the_noise_is_drawn_anew_in_every_run(tmp_path: Path):
    of = protected_study()
    one, other = (final_digests(run(of, tmp_path / name)) for name in ("one", "other"))
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one)


def test_with_hardly_any_noise_and_a_wide_norm_the_study_ends_where_it_ends_without(tmp_path: Path):
    quiet = protected_study("site_level = { clipping_norm = 1000, noise_multiplier = 1e-9, target_delta = 1e-3")
    plain = run(study(*BASE), tmp_path / "plain")
    found = run(quiet, tmp_path / "quiet")
    for model in ("logistic", "cnn"):
        one, other = (state(store, model).parameters.flatten() for store in (plain, found))
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_rounds_are_counted_and_their_cost_is_the_target():
    of = protected_study()
    assert protected_rounds(of) == 5
    assert 29.9 < epsilon(site_level_cost(of), 1e-3) <= 30
    left_out = protected_study(LEVEL, ('"holdout", test_fraction = 0.4', '"leave_one_site_out"'))
    assert protected_rounds(left_out) == 2 * 5  # each site trains in two of three folds


def test_a_round_without_all_sites_stops_the_study_and_names_who_is_absent(tmp_path: Path):
    def silent(site: str, request: Request) -> Reply | None:
        return Refusal(Code.SITE_SILENT) if site == "b" and isinstance(request, Train) else None

    with pytest.raises(FederationError, match=r"2 sites sent an update, expected 3; absent .*: 1 b site_silent"):
        run(protected_study(), tmp_path, disturb=silent)


def test_an_adaptive_norm_goes_to_the_sites_and_through_the_checkpoint(tmp_path: Path):
    of = protected_study(LEVEL + ", adaptive = { learning_rate = 1 }")
    sites = watched(of)
    store = run(of, tmp_path, sites=sites)
    asked = [r for r in sites["a"].asked if isinstance(r, Train) and r.model == "logistic"]
    assert asked[0].clipping_norm == 0.5
    assert len({request.clipping_norm for request in asked}) == 3
    assert state(store, "logistic").server.vectors[NORM][0] > 0
    for request, update in zip(asked, sites["a"].sent, strict=False):
        assert update.delta.norm() <= request.clipping_norm


def test_an_adaptive_optimiser_keeps_its_moments_beside_the_norm(tmp_path: Path):
    adam = ('kind = "fedavg", weighting = "uniform"', 'kind = "fedadam", weighting = "uniform"')
    of = protected_study(LEVEL + ", adaptive = {}", adam)
    assert set(state(run(of, tmp_path), "logistic").server.vectors) == {"first", "second", NORM}


def test_a_norm_that_the_study_does_not_have_is_refused_by_the_site(tmp_path: Path):
    of = protected_study()
    sites = watched(of)
    run(of, tmp_path, sites=sites)
    request = next(r for r in sites["a"].asked if isinstance(r, Train))
    reply = sites["a"].answer(replace(request, clipping_norm=1e9))
    assert isinstance(reply, Refusal)
    assert reply.code == Code.MESSAGE


SECURE = ("minimum_cases = 1", "minimum_cases = 1, secure_aggregation = { value_bound = 40 }")
NO_EXTERNAL = (', { name = "x", role = "external" }', "")


def test_under_masks_the_mean_of_the_clipped_updates_comes_back_with_the_noise_of_the_shares():
    """From words to words, without the cryptography between, which is exact."""
    noisy = "site_level = { clipping_norm = 0.5, noise_multiplier = 2, target_delta = 1e-3"
    of = protected_study(noisy, SECURE, NO_EXTERNAL)
    size, cohort = 20_000, of.training_sites
    found = shared_noise(of, cohort, size=size)
    assert found.cost.noise_multiplier == pytest.approx(2.0, rel=1e-6)
    plan = sum_plan(of, cohort)
    start = Parameters({"w": np.zeros(size)})
    values = np.zeros((3, size))
    values[:, :4] = [[0.1, 0.2, 0.3, 0], [0.1, -0.2, 0.1, 0], [0.1, 0, 0.2, 0.3]]
    words = [to_words(LocalUpdate("m", 1, 1, Parameters({"w": row}), 0.0), plan, share=found.share) for row in values]
    total = MaskWords(words[0][1].wide.copy(), words[0][1].narrow.copy())
    for _, more in words[1:]:
        total.add(more)
    question = Train("d", 0, "m", 1, start)
    mean = from_words(question, words[0][0], total, plan, n_included=3)
    assert isinstance(mean, LocalUpdate)
    noise = mean.delta.flatten() - values.mean(axis=0)
    assert mean.n_cases == 3
    assert noise.std() == pytest.approx(2 * 0.5 / 3, rel=0.03)
    assert abs(noise.mean()) < 5 * 0.34 / np.sqrt(size)


def test_a_noisy_value_beyond_the_bound_is_refused():
    of = protected_study(LEVEL, SECURE, NO_EXTERNAL)
    share = shared_noise(of, of.training_sites, size=10).share
    narrow = replace(sum_plan(of, of.training_sites), value_bound=0.0001)
    update = LocalUpdate("m", 1, 1, Parameters({"w": np.zeros(10)}), 0.0)
    with pytest.raises(PrivacyError, match="does not fit value_bound"):
        to_words(update, narrow, share=replace(share, variance=2**52, shift=8))


@pytest.mark.parametrize(
    ("level", "changes", "reason"),
    [
        (LEVEL, [('weighting = "uniform"', 'weighting = "n_cases"')], 'needs weighting = "uniform"'),
        (LEVEL, [("federated = { ", "federated = { quorum = 2, ")], "needs all 3 training sites in each round, got 2"),
        (LEVEL + ", adaptive = {}", [SECURE], "nobody sees the length of one update"),
        (LEVEL, [(SECURE[0], SECURE[1].replace("40", "1"))], "leaves no room for an update of norm 0.5 and a share"),
        (LEVEL, [("local_only = false", "local_only = true")], "local_only: a hospital's own model"),
        (LEVEL + ", noise_multiplier = 1", [], "give either noise_multiplier or target_epsilon"),
        ("site_level = { clipping_norm = 1, target_delta = 1e-3", [], "give either noise_multiplier or target_epsilon"),
        (
            LEVEL,
            [('name = "cnn"\nrounds = 2\nmodel = { kind = "cnn3d", channels = [8], blocks = 0 }\ntraining = { '
              "learning_rate = 0.002, batch_size = 8 }", 'name = "net"\nmodel = { kind = "ridge", penalty = 0.1 }')],
            "model net: kind ridge has no rounds",
        ),
        (
            LEVEL,
            [('{ name = "b" }, { name = "c" }', '{ name = "b", role = "external" }')],
            "with one training site the model is that site's data set",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_protected_is_refused(level: str, changes: list[tuple[str, str]], reason: str):
    with pytest.raises(ConfigError, match=reason):
        protected_study(level, *changes)


def test_an_explicit_quorum_of_all_is_allowed():
    assert site_level_of(protected_study(LEVEL, ("federated = { ", "federated = { quorum = 3, "))) is not None
