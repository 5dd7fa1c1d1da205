"""A whole study with a centred model: its means arrive under masks and in few bits as they do in the clear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.outbound import MEANS
from common.arrays import Parameters
from common.config.loading import digest
from common.config.secure_aggregation import ALL_SITES
from common.rng import SystemNoise
from server.checkpoint import CheckpointStore
from server.opening import open_run
from server.results import load_results
from server.training import TrainingState
from simulations.run import Cohort, simulate
from tests.small_study import N_CASES, STUDY, write_study

CENTRED = STUDY.replace("channels = [8]", 'channels = [8], filters = "scattering", centred = true')
INT8 = CENTRED.replace("federated = {", 'federated = { compression = { kind = "int8" },')
MASK = (
    "privacy = { minimum_cases = 2 }",
    "privacy = { minimum_cases = 2, secure_aggregation = { most_cases = 50, value_bound = 24 } }",
)

NOISY = "minimum_cases = 2, sample_level = { target_epsilon = 8, target_delta = 1e-3 }"
SGD = 'optimiser = "sgd", learning_rate = 1, batch_size = 4'
PRIVATE = CENTRED.replace("minimum_cases = 2", NOISY).replace("learning_rate = 0.002, batch_size = 4", SGD)
PRIVATE_MASKED = PRIVATE.replace(
    "minimum_cases = 2,", "minimum_cases = 2, secure_aggregation = { most_cases = 50, value_bound = 48 },"
)


def learned(folder: Path, text: str, cohort: Cohort) -> tuple[Parameters, float]:
    """The network at the end, and its loss on the test cases."""
    folder.mkdir()
    study_file, study = write_study(folder, text)
    opened = open_run(study_file, folder / "run", resume=False)
    simulate(study, cohort, out=folder / "run", journal=opened.journal, baselines=False)
    unit = CheckpointStore(folder / "run" / "checkpoints", digest(study)).load("training.federated.cnn.fold0")
    assert unit is not None
    groups = [ALL_SITES] if study.privacy.secure_aggregation else sorted(N_CASES)
    sums = load_results([folder / "run"]).merged("federated", "cnn", groups)
    return TrainingState.from_unit(unit).parameters, float(np.sum(sums.losses)) / float(np.sum(sums.n_cases))


@pytest.fixture(scope="module")
def plain(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> tuple[Parameters, float]:
    return learned(tmp_path_factory.mktemp("centred") / "plain", CENTRED, cohort)


def test_under_masks_the_model_is_that_of_the_study_in_the_clear(plain, cohort, tmp_path):
    found, _ = learned(tmp_path / "masked", CENTRED.replace(*MASK), cohort)
    assert np.abs(plain[0][MEANS]).max() > 0.1
    for name, array in plain[0].items():
        np.testing.assert_allclose(found[name], array, atol=2e-5, err_msg=name)


def test_under_noise_and_masks_the_model_is_that_of_the_noise_alone(cohort, tmp_path, monkeypatch):
    """Noise and sampling are drawn from one key in both studies: what is left between them is the masks' grid."""
    real = SystemNoise.__init__
    monkeypatch.setattr(SystemNoise, "__init__", lambda self, key=None: real(self, key or bytes(32)))
    clear, _ = learned(tmp_path / "clear", PRIVATE, cohort)
    masked, _ = learned(tmp_path / "masked", PRIVATE_MASKED, cohort)
    assert np.abs(clear[MEANS]).max() > 0.1
    for name, array in clear.items():
        np.testing.assert_allclose(masked[name], array, atol=5e-5, err_msg=name)
    monkeypatch.undo()
    drawn, _ = learned(tmp_path / "drawn", PRIVATE_MASKED, cohort)
    assert np.abs(drawn[MEANS] - masked[MEANS]).max() > 0.1  # the noise is there


@pytest.mark.parametrize("text", [INT8, INT8.replace(*MASK)], ids=["int8", "int8 under masks"])
def test_in_few_bits_the_means_arrive_and_the_model_is_as_good(text, plain, cohort, tmp_path):
    found, loss = learned(tmp_path / "coarse", text, cohort)
    np.testing.assert_allclose(found[MEANS], plain[0][MEANS], atol=0.02 * np.abs(plain[0][MEANS]).max())
    assert loss == pytest.approx(plain[1], rel=0.02)
