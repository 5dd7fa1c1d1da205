"""Inversions: exact where a dense layer reads the table, near where a network reads a patch, neither of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.arrays import Parameters
from common.models.initial import initial_parameters
from common.models.weights import set_parameters
from simulations.audit.exact_inversion import first_layer, row_from_gradient
from simulations.audit.inversion import gradients, invert, learn_prior, matching_examples
from simulations.audit.similarity import compare, paired, rank_of, ssim
from simulations.audit.updates import (
    attacker_prior,
    draw_victims,
    reconstruct,
    recovered_row,
    summed_update,
    update_of,
    worst_case,
)
from tests.simulations.audit.subjects import subject


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory):
    return subject(tmp_path_factory.mktemp("inverted"), random_labels=False, n_cases={"a": 160, "b": 160})


@pytest.mark.parametrize("model", ["logistic", "overfit"])
def test_one_case_is_read_exactly_from_the_first_layer(of, model: str):
    victims = draw_victims(of, batch=1, number=0)
    study = worst_case(of.study, of.study.study_model(model), 1)
    delta = update_of(of, study, study.study_model(model), victims).delta
    layer = first_layer(delta, 12)
    assert layer is not None
    row = row_from_gradient(delta[f"{layer}.weight"], delta[f"{layer}.bias"])
    assert row == pytest.approx(of.table(victims.site).values[victims.rows[0]], abs=1e-4)
    assert recovered_row(of, study.study_model(model), victims, delta) == pytest.approx(1.0, abs=1e-6)


def test_the_sum_over_hospitals_hides_the_row(of):
    found = []
    for number in range(6):
        victims = draw_victims(of, batch=1, number=number)
        study = worst_case(of.study, of.study.study_model("logistic"), 1)
        entry = study.study_model("logistic")
        found.append(recovered_row(of, entry, victims, summed_update(of, study, entry, victims)))
    assert np.mean(found) < 0.7


def test_a_layer_is_found_where_it_reads_the_table():
    shapes = {"body.0.weight": np.zeros((4, 7)), "head.weight": np.zeros((1, 4))}
    assert first_layer(Parameters(shapes), 7) == "body.0"
    assert first_layer(Parameters({"head.weight": np.zeros((1, 4))}), 7) is None


def test_a_network_gives_away_its_patch_and_another_update_does_not(of):
    entry = of.study.study_model("cnn")
    study = worst_case(of.study, entry, 1)
    own, other = [], []
    for number in range(2):
        victims, stranger = draw_victims(of, batch=1, number=number), draw_victims(of, batch=1, number=number + 20)
        prior = attacker_prior(of, victims.site)
        for kept, source in ((own, victims), (other, stranger)):
            delta = update_of(of, study, study.study_model("cnn"), source).delta
            kept.append(reconstruct(of, entry, victims, delta, prior, steps=80, starts=480))
    shown = np.mean([update.similarities[0].beyond_mean for update in own])
    assert shown > 0.65
    assert shown > np.mean([update.similarities[0].beyond_mean for update in other]) + 0.3
    assert np.mean([update.similarities[0].ssim for update in own]) > np.mean([u.baseline[0].ssim for u in own])
    assert np.median([update.ranks[0] for update in own]) <= 8


def new_module(of, seed: int):
    """The network as a study begins it."""
    config, inputs = of.study.study_model("cnn").trained[0], of.study.model_inputs(0)
    module = config.build(inputs)
    set_parameters(module, initial_parameters(config, inputs, seed))
    return module


@pytest.mark.parametrize("seed", [1, 2, 9])
@pytest.mark.parametrize("rows", [[3, 50, 200, 90], [3, 50, 200, 90, 301, 402, 17, 555]], ids=["4", "8"])
def test_a_batch_of_patches_that_the_attacker_holds_is_found_out_of_hundreds(of, rows, seed):
    """Of these networks a search that changes one slot at a time finds none, two and two of the first four."""
    task, prior = of.study.outcome.task(), attacker_prior(of, "a")
    module = new_module(of, seed)
    targets = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])[: len(rows)]
    observed = [g.detach() for g in gradients(module, task, prior.patches(prior.examples[rows]), None, targets)]
    generator = torch.Generator().manual_seed(0)
    found = matching_examples(module, task, observed, targets, prior, starts=len(prior.examples), generator=generator)
    hit = [bool((found == prior.examples[row]).all(dim=1).any()) for row in rows]
    assert sum(hit) == len(rows)


def test_an_attacker_who_holds_the_patches_of_a_batch_finds_all_of_them_in_the_update(of):
    entry = of.study.study_model("cnn")
    victims = draw_victims(of, batch=3, number=0)
    study = worst_case(of.study, entry, 3)
    delta = update_of(of, study, study.study_model("cnn"), victims).delta
    prior = learn_prior(of.datasets[victims.site].patches, n_components=512)
    found = reconstruct(of, entry, victims, delta, prior, steps=1, starts=len(prior.examples))
    assert found.ranks == (1, 1, 1)
    assert min(case.beyond_mean for case in found.similarities) > 0.9


def test_inversion_repeats_itself(of):
    victims = draw_victims(of, batch=2, number=1)
    study = worst_case(of.study, of.study.study_model("cnn"), 2)
    delta = update_of(of, study, study.study_model("cnn"), victims).delta
    prior = attacker_prior(of, victims.site)
    twice = [reconstruct(of, of.study.study_model("cnn"), victims, delta, prior, steps=3, starts=5) for _ in range(2)]
    assert np.array_equal(twice[0].found, twice[1].found)
    assert len(twice[0].similarities) == 2


def test_prior_spans_its_examples():
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(3, 2 * 4 * 4 * 4))
    patches = (0.5 + 0.02 * rng.normal(size=(30, 3)) @ basis).reshape(30, 2, 4, 4, 4).astype(np.float32)
    prior = learn_prior(patches, n_components=60)
    again = prior.patches(prior.examples[:30]).numpy()
    assert again == pytest.approx(patches, abs=1e-3)
    assert prior.examples.std(dim=0, unbiased=False).numpy() == pytest.approx(1.0, abs=0.05)


def test_prior_of_one_patch_is_refused():
    with pytest.raises(ValueError, match="at least 2 patches"):
        learn_prior(np.zeros((1, 2, 4, 4, 4), dtype=np.float32))


def test_inversion_keeps_the_model(of):
    module = new_module(of, 0)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    prior = attacker_prior(of, "a")
    observed = [torch.randn_like(parameter) for parameter in module.parameters()]
    task = of.study.outcome.task()
    invert(module, task, observed, torch.ones(1), prior, steps=2, starts=2)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_similarity_of_a_patch_with_itself_and_with_the_mean():
    rng = np.random.default_rng(0)
    truth, mean = rng.random((2, 6, 6, 6)), rng.random((2, 6, 6, 6))
    same, known = compare(truth, truth, mean), compare(mean, truth, mean)
    assert (same.correlation, same.ssim, same.beyond_mean, same.roi_dice) == pytest.approx((1, 1, 1, 1))
    assert known.beyond_mean == 0.0
    assert same.psnr_db > 100


def test_ssim_against_scikit_image_by_its_formula():
    """Of two constant images only the means count: (2 ab + C1) / (a^2 + b^2 + C1), with C1 = 1e-4."""
    a, b = np.full((8, 8, 8), 0.2), np.full((8, 8, 8), 0.6)
    assert ssim(a, b, span=1.0) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4))


def test_reconstructions_are_paired_with_their_cases():
    rng = np.random.default_rng(0)
    truth, mean = rng.random((4, 2, 5, 5, 5)), np.full((2, 5, 5, 5), 0.5)
    order = [2, 0, 3, 1]
    assert paired(truth[order], truth, mean).tolist() == [1, 3, 0, 2]
    assert rank_of(truth[2], 2, truth, mean) == 1


def test_worst_case_is_one_plain_step(tmp_path: Path):
    del tmp_path
    from tests.simulations.audit.subjects import study

    entry = study().study_model("cnn")
    training = worst_case(study(), entry, 4).study_model("cnn").trained[1]
    assert (training.optimiser, training.batch_size, training.local_epochs, training.l2) == ("sgd", 4, 1, 0.0)
    assert training.rate(0.0) == training.rate(1.0) == 0.1
