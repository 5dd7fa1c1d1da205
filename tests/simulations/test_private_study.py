"""A study with private statistics over files: each hospital's ledger on its own disk, landmarks too."""

from __future__ import annotations

import numpy as np

from client.privacy_budget import PrivacyBudget
from common.config.loading import digest
from common.config.private_statistics import cost_of_a_question, planned_questions
from common.config.secure_aggregation import ALL_SITES
from common.journal import JsonLines
from common.privacy.ledger import epsilon
from server.checkpoint import CheckpointStore
from server.opening import open_run
from server.report import page
from server.results import load_results
from server.standardisation import LANDMARKS, landmarks_of_unit
from server.training_state import TrainingState
from simulations.run import simulate
from tests.small_study import STANDARDISED, STUDY, write_cohort, write_study

EPSILON = 20_000
PRIVATE = (
    STANDARDISED.replace("minimum_cases = 2", f"minimum_cases = 2, statistics = {{ target_epsilon = {EPSILON}, "
    "target_delta = 1e-4, learn_bounds = true }").replace("rounds = 3", "rounds = 1")
)  # fmt: skip


def test_a_whole_study_spends_what_was_planned_on_each_hospitals_disk(tmp_path):
    cohort = write_cohort(tmp_path)
    _, study = write_study(tmp_path, PRIVATE)
    out = tmp_path / "run"
    simulate(study, cohort, out=out, journal=JsonLines(tmp_path / "events.jsonl"))
    planned = planned_questions(study)
    assert planned == 1 + 2 + 1 + 2  # landmarks, ranges, moments, two evaluations
    for site in study.training_sites:
        folder = out / "sites" / site / "state" / "privacy" / digest(study)[:16]
        budget = PrivacyBudget(folder, EPSILON, 1e-4)
        assert len(budget.reservations()) == planned
        assert budget.epsilon() == epsilon([cost_of_a_question(study)] * planned, 1e-4) <= EPSILON
    store = CheckpointStore(out / "checkpoints", digest(study))
    unit = store.load(LANDMARKS)
    assert unit is not None
    landmarks = landmarks_of_unit(unit)["ct"]
    assert (landmarks[0], landmarks[-1]) == (0.0, 100.0)
    assert (np.diff(landmarks) > 0).all()
    assert not any(name.startswith(("evaluation.pooled", "table.pooled")) for name in store.names())


def test_site_level_noise_in_shares_under_masks(tmp_path):
    """The sum alone is heard, with noise that no coordinator drew; the report says whom it holds against."""
    text = (
        STUDY.replace("minimum_cases = 2", "minimum_cases = 2, secure_aggregation = { value_bound = 8 }, "
        "site_level = { clipping_norm = 0.5, noise_multiplier = 1.0, target_delta = 1e-3 }")
        .replace("federated = { ", 'federated = { strategy = { kind = "fedavg", weighting = "uniform" }, ')
        .split('[[models]]\nname = "cnn"')[0]
    )  # fmt: skip
    cohort = write_cohort(tmp_path)
    study_file, study = write_study(tmp_path, text)
    found = []
    for name in ("one", "other"):
        opened = open_run(study_file, tmp_path / name, resume=False)
        simulate(study, cohort, out=tmp_path / name, journal=opened.journal, baselines=False)
        unit = CheckpointStore(tmp_path / name / "checkpoints", digest(study)).load(
            "training.federated.radiomics.fold0"
        )
        assert unit is not None
        found.append(TrainingState.from_unit(unit))
    one, other = found
    assert [(entry.site, entry.n_cases, entry.train_loss) for entry in one.history] == [(ALL_SITES, 3, 0.0)] * 3
    size = one.parameters.size
    # two runs differ by the noise alone in the first round, and by what followed from it
    apart = np.linalg.norm(one.parameters.flatten() - other.parameters.flatten())
    expected = np.sqrt(2 * 3 * size) * 1.0 * 0.5 / 3
    assert 0.5 * expected < apart < 2 * expected
    report = page(load_results([tmp_path / "one"]))
    assert "its share of the noise under the masks" in report.replace("\n", " ")
    assert "the longest that the mean itself can be" in report
