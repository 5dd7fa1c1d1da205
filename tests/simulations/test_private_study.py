"""A study with private statistics over files: each hospital's ledger on its own disk, landmarks too."""

from __future__ import annotations

import numpy as np

from client.privacy_budget import PrivacyBudget
from common.config.loading import digest
from common.config.private_statistics import cost_of_a_question, planned_questions
from common.journal import JsonLines
from common.privacy.ledger import epsilon
from server.checkpoint import CheckpointStore
from server.standardisation import LANDMARKS, landmarks_of_unit
from simulations.run import simulate
from tests.small_study import STANDARDISED, write_cohort, write_study

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
