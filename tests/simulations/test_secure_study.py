"""A whole small study under masks: the same results as without, and nothing of one hospital in the record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from client.approval_text import explain_study
from client.governance import Gate
from client.site import Site
from common.arrays import Parameters
from common.config.loading import digest
from common.config.secure_aggregation import ALL_SITES
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import Code, GateError, StateError
from common.journal import JsonLines
from common.messages import AskStatistic, Evaluate, Hello, Refusal, StatisticSums, Train, Welcome
from common.version import versions
from server.checkpoint import CheckpointStore, Unit
from server.opening import open_run
from server.report import write_report
from server.results import load_results, summary_table, write_tables
from server.training_state import TrainingState
from simulations.credentials import issue_credentials
from simulations.run import Cohort, simulate
from tests.small_study import N_CASES, ROBUSTNESS, STANDARDISED, write_study

LEARNED = f"""{STANDARDISED.replace("rounds = 3", "rounds = 2")}{ROBUSTNESS}
[table]
combat = {{}}
selection = [{{ kind = "univariate", keep = 10 }}]

[[models]]
name = "ridge"
model = {{ kind = "ridge", penalty = 0.1 }}
calibration = "platt"
"""
MASKED = LEARNED.replace(
    "privacy = { minimum_cases = 2 }", "privacy = { minimum_cases = 2, secure_aggregation = { most_cases = 50 } }"
)


def simulated(folder: Path, text: str, cohort: Cohort) -> tuple[Path, StudyConfig]:
    study_file, study = write_study(folder, text)
    opened = open_run(study_file, folder / "run", resume=False)
    simulate(study, cohort, out=folder / "run", journal=opened.journal, baselines=False)
    return folder / "run", study


@pytest.fixture(scope="module")
def plain(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyConfig]:
    return simulated(tmp_path_factory.mktemp("plain"), LEARNED, cohort)


@pytest.fixture(scope="module")
def masked(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyConfig]:
    return simulated(tmp_path_factory.mktemp("masked"), MASKED, cohort)


def test_a_study_in_few_bits_under_masks_learns_as_much_and_sends_less(plain, cohort, tmp_path):
    """int8 and secure aggregation together, in a whole study; its first round is that of the masked study."""
    text = MASKED.replace("federated = {", 'federated = { compression = { kind = "int8" },')
    assert text != MASKED
    run = simulated(tmp_path, text, cohort)
    expected, found = load_results([plain[0]]), load_results([run[0]])
    sums = expected.merged("federated", "radiomics", sorted(N_CASES))
    coarse = found.merged("federated", "radiomics", [ALL_SITES])
    np.testing.assert_allclose(coarse.losses, sums.losses, rtol=0.02)
    name = next(name for name in units(run) if name.startswith("training.") and "radiomics" in name)
    state = TrainingState.from_unit(units(run)[name])
    assert len(state.value_bounds) == len(state.parameters)
    far = state.parameters.flatten() - TrainingState.from_unit(units(plain)[name]).parameters.flatten()
    assert 0 < np.abs(far).max() < 0.01


def units(run: tuple[Path, StudyConfig]) -> dict[str, Unit]:
    store = CheckpointStore(run[0] / "checkpoints", digest(run[1]))
    return {name: unit for name in store.names() if (unit := store.load(name)) is not None}


def assert_close(expected: Any, found: Any, where: str) -> None:
    """Equal texts and whole numbers, floats to 1e-7."""
    if isinstance(expected, Mapping):
        assert expected.keys() == found.keys(), where
        for key in expected:
            assert_close(expected[key], found[key], f"{where}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(expected) == len(found), where
        for a, b in zip(expected, found, strict=True):
            assert_close(a, b, where)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-7, abs=1e-9), where
    else:
        assert expected == found, where


def test_trained_and_solved_models_are_those_of_the_plain_study(plain, masked):
    expected, found = units(plain), units(masked)
    assert expected.keys() == found.keys()
    for name, unit in expected.items():
        if name.startswith("training."):
            a, b = (TrainingState.from_unit(u).parameters.flatten() for u in (unit, found[name]))
            step = 2 * masked[1].privacy.secure_aggregation.plan(3, "n_cases").grid.step
            np.testing.assert_allclose(b, a, atol=step, rtol=1e-5)
        elif name.startswith(("table.", "solution.", "selection.")):
            assert_close(unit.values, found[name].values, name)
            for key, array in unit.arrays.items():
                np.testing.assert_allclose(found[name].arrays[key], array, rtol=1e-7, atol=1e-9, err_msg=key)


def test_evaluations_are_the_merged_ones_of_the_plain_study(plain, masked):
    expected, found = load_results([plain[0]]), load_results([masked[0]])
    for model in ("radiomics", "ridge"):
        sums = expected.merged("federated", model, sorted(N_CASES))
        masked_sums = found.merged("federated", model, [ALL_SITES])
        assert np.array_equal(sums.positives, masked_sums.positives)
        assert np.array_equal(sums.confusion, masked_sums.confusion)
        np.testing.assert_allclose(masked_sums.losses, sums.losses, rtol=1e-3)


def test_nothing_of_one_hospital_is_in_the_record(masked):
    results = load_results([masked[0]])
    assert {site for _, _, site in results.evaluations} == {ALL_SITES}
    history = {entry.site for training in results.trainings for entry in training.history}
    assert history == {ALL_SITES}
    answers = [line for line in JsonLines(masked[0] / "events.jsonl").read() if line["event"] == "answer"]
    bare = {"StatisticSums", "LocalUpdate", "EvaluationSums"}
    assert not bare & {line["reply"] for line in answers}
    assert {"MaskedValues", "Unmasked"} < {line["reply"] for line in answers}
    assert {line["code"] for line in answers if line["reply"] == "Refusal"} == {"small_cell"}  # as without masks


def test_the_journal_says_how_many_hospitals_a_masked_round_had(masked):
    lines = list(JsonLines(masked[0] / "events.jsonl").read())
    rounds = [line for line in lines if line["event"] == "round"]
    assert rounds
    assert {line["sites"] for line in rounds} == {3}
    trained = [line for line in lines if line["event"] == "summed" and line["request"] == "Train"]
    assert [line["sites"] for line in trained] == ["east,north,south"] * len(rounds)


def test_tables_and_report_show_one_row_for_all(masked, tmp_path):
    results = load_results([masked[0]])
    write_tables(results, tmp_path)
    write_report(results, tmp_path / "report.html")
    summary_table(results)
    rows = (tmp_path / "results.csv").read_text().splitlines()
    assert any(f",site,{ALL_SITES}," in row for row in rows)
    assert not any(f",site,{name}," in row for row in rows for name in N_CASES)
    assert (
        "Secure aggregation: updates, statistics and evaluations left the hospitals"
        in (tmp_path / "report.html").read_text()
    )


@pytest.fixture
def east(masked, cohort, tmp_path) -> SiteConfig:
    return SiteConfig(
        site="east",
        manifest=masked[0] / "sites" / "east" / "cases.csv",
        data=cohort.data,
        state=tmp_path / "state",
        minimum_cases=2,
        studies=(masked[0] / "study.toml",),
    )


def test_a_bare_question_is_refused_by_the_hospital(masked, east):
    site = Site(east, [masked[1]], secret="", credentials=issue_credentials(["east"])["east"])
    asked = digest(masked[1])
    bare = [
        Train(asked, 0, "radiomics", 1, Parameters({})),
        AskStatistic(asked, 0, "moments", {}),
        Evaluate(asked, 0, "radiomics", "test", Parameters({})),
    ]
    for request in bare:
        reply = site.answer(request)
        assert isinstance(reply, Refusal)
        assert reply.code == Code.PRIVACY
    reasons = [line["reason"] for line in JsonLines(east.state / "log.jsonl").read() if line["event"] == "refused"]
    assert reasons == [
        f"answers of this study leave under masks; {type(request).__name__} asks for a bare one" for request in bare
    ]
    assert isinstance(site.answer(Hello(asked, versions())), Welcome)


def test_the_sums_that_were_made_are_in_the_audit_log_and_cannot_be_taken_back(masked, cohort, tmp_path):
    """Whoever could take them back could have a round summed once more without one hospital, and subtract."""
    state = tmp_path / "state"
    copytree(masked[0] / "sites" / "east" / "state", state)
    site = SiteConfig(
        site="east",
        manifest=masked[0] / "sites" / "east" / "cases.csv",
        data=cohort.data,
        state=state,
        minimum_cases=2,
        studies=(masked[0] / "study.toml",),
    )
    sums = [line["about"] for line in Gate(site, [masked[1]]).sums.read()]
    expected = [f"round {number} of {name} in fold 0" for name in ("radiomics", "cnn") for number in (1, 2)]
    assert [about for about in sums if about.startswith("round")] == expected
    assert "evaluation of radiomics on test cases of fold 0" in sums
    lines = (state / "audit.jsonl").read_bytes().splitlines(keepends=True)
    (state / "audit.jsonl").write_bytes(b"".join(line for line in lines if b'"event":"summed"' not in line))
    with pytest.raises(StateError, match="fedrad site audit says what"):
        Gate(site, [masked[1]])


def test_a_hospital_without_certificate_says_so_at_once(masked, east):
    site = Site(east, [masked[1]], secret="")
    reply = site.answer(Hello(digest(masked[1]), versions()))
    assert isinstance(reply, Refusal)
    assert reply.code == Code.STATE
    (line,) = JsonLines(east.state / "log.jsonl").read()
    assert "masked sums need the key and certificate that [coordinator] of site.toml names" in line["reason"]


def test_the_gate_asks_for_enough_cases_before_the_masks(masked, east):
    site = Site(east, [masked[1]], secret="")
    asked = digest(masked[1])
    with pytest.raises(GateError, match="answer from 1 cases, the minimum here is 2"):
        site.gate.require_enough_cases(asked, StatisticSums(1, {}))
    site.gate.require_enough_cases(asked, StatisticSums(2, {}))


def test_what_a_hospital_approves_says_that_answers_leave_under_masks(masked, east):
    said = " ".join(sentence for chapter in explain_study(masked[1], east) for sentence in chapter.sentences)
    assert "An answer under masks: random numbers until all hospitals' masks cancel in the sum." in said
    assert "reads sums over at least 3 of 3 training hospitals, and no answer of one" in said
    assert "The change of the model's parameters" not in said
