"""What is asked and what leaves: kinds, sizes, small cohorts, foreign answers and filters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.config.loading import digest
from common.errors import Code
from common.messages import (
    LocalUpdate,
    Prepare,
    Request,
    TableStep,
)
from common.statistics.bounds import Bounds
from common.statistics.table_steps import encode_steps
from tests.client.cases import STUDY, study
from tests.client.malicious.hospital import (
    CLEAN,
    DIGEST,
    STEPS,
    Hospital,
    answered,
    ask,
    evaluate,
    refused,
    train,
)


def test_a_kind_of_request_that_the_hospital_does_not_answer(hospital: Hospital):
    site = hospital.approved(requests=("Hello", "Prepare", "AskStatistic", "Finish"))
    refused(site, train(), Code.GATE, "requests of kind Train are not answered here (gate.requests)")
    assert answered(site.answer(ask()))


def test_a_kind_of_statistic_that_the_hospital_does_not_answer(hospital: Hospital):
    site = hospital.approved(statistics=("combat_totals",))
    refused(site, ask(), Code.GATE, "statistics of kind moments are not answered here (gate.statistics)")


def test_a_message_larger_than_allowed(hospital: Hospital):
    big = train(table_steps=(*STEPS, TableStep("keep", {"names": tuple("x" * 50 for _ in range(300))})))
    refused(hospital.approved(max_request_mb=0.01), big, Code.GATE, "bytes, allowed are 0.01 MB (gate.max_request_mb)")


def test_a_reply_larger_than_allowed(hospital: Hospital):
    refused(hospital.approved(max_reply_mb=0.0001), train(), Code.GATE, "allowed are 0.0001 MB (gate.max_reply_mb)")


@pytest.mark.parametrize(
    ("request_", "because"),
    [
        (train(fold=1), "fold 1, the study has 1"),
        (evaluate(fold=-1), "fold -1, the study has 1"),
        (ask(fold=7), "fold 7, the study has 1"),
        (train(model="all-cases"), "the study has no model 'all-cases'"),
        (evaluate(model="../x"), "the study has no model '../x'"),
        (ask(table="repeats.ct", table_steps=()), "this study has no table repeats.ct"),
        (Prepare(DIGEST, table="landmarks.mr"), "this study has no table landmarks.mr"),
        (evaluate(split="everything"), "split 'everything'"),
    ],
)
def test_what_the_study_does_not_contain_costs_no_work(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, request_: Request, because: str
):
    site = hospital.approved()
    monkeypatch.setattr(site, "_answer", lambda _: pytest.fail("work was done"))
    refused(site, request_, Code.MESSAGE, because)


def test_a_cohort_smaller_than_the_minimum(hospital: Hospital):
    """Eight cases train and four are tested here."""
    hospital.config = hospital.config.model_copy(update={"minimum_cases": 9})
    site = hospital.approved()
    for request in (ask(), train(), evaluate()):
        refused(site, request, Code.SMALL_CELL, "the minimum here is 9")


def test_an_answer_from_too_few_cases_is_held_back_at_the_door_too(hospital: Hospital, monkeypatch: pytest.MonkeyPatch):
    """Were the check of the rows to fail, the gate would still see how few cases stand behind an answer."""
    site = hospital.approved()
    update = site.answer(train())
    monkeypatch.setattr(site, "_answer", lambda _: replace(update, n_cases=1))
    refused(site, train(), Code.SMALL_CELL, "answer from 1 cases, the minimum here is 2")


def test_an_update_that_tells_no_number_of_cases_leaves_only_if_they_are_enough(hospital: Hospital):
    """Under site-level privacy the number of cases stays here; it was compared with the minimum before training."""
    promise = "minimum_cases = 2, site_level = { clipping_norm = 0.01, noise_multiplier = 1.0, target_delta = 1e-3 }"
    uniform = 'federated = { strategy = { kind = "fedavg", weighting = "uniform" } }'
    private = study(STUDY, ("minimum_cases = 2", promise), ("seed = 3", f"seed = 3\n{uniform}"))
    hospital.studies = (private,)
    request = train(study_digest=digest(private))
    update = hospital.approved(private).answer(request)
    assert isinstance(update, LocalUpdate)
    assert (update.n_cases, update.train_loss) == (1, 0.0)
    hospital.config = hospital.config.model_copy(update={"minimum_cases": 9})
    refused(hospital.open(), request, Code.SMALL_CELL, "8 train cases in fold 0, the minimum here is 9")


def test_an_answer_of_another_kind_than_was_asked_is_held_back(hospital: Hospital, monkeypatch: pytest.MonkeyPatch):
    site = hospital.approved()
    update = site.answer(train())
    monkeypatch.setattr(site, "_answer", lambda _: update)
    refused(site, ask(), Code.GATE, "a LocalUpdate is no answer to a AskStatistic")


def test_updates_leave_filtered(hospital: Hospital):
    site = hospital.approved(updates={"clip_norm": 1e-3, "drop": ["radiomics/*bias"]})
    update = site.answer(train())
    assert update.delta.norm() <= 1e-3 * (1 + 1e-6)  # type: ignore[union-attr]  # it was answered
    (bias,) = [name for name in update.delta if name.endswith("bias")]  # type: ignore[union-attr]
    assert not update.delta[bias].any()  # type: ignore[union-attr]


@pytest.mark.parametrize("make", [ask, train, evaluate])
def test_ranges_that_the_study_never_learns(hospital: Hospital, make):
    """A range of no width about a value would make of a column whether a case lies above it."""
    steps = encode_steps([Bounds(CLEAN, np.array([0.0, 0.0, 50.0]), np.array([1.0, 1.0, 50.001]))])
    refused(hospital.approved(), make(table_steps=steps), Code.MESSAGE, "for studies with private statistics")
