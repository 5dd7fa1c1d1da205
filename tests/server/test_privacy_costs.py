"""What the report and ``results.json`` say of privacy, and what they must not say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import FederationError
from common.messages import LocalUpdate, PrivacyEvent, Refusal, Train
from common.privacy.ledger import epsilon, event_from_json
from server.checkpoint import write_atomic
from server.opening import STUDY_FILE
from server.privacy_costs import training_costs
from server.record import StudyResults
from server.report import page
from server.report_training_privacy import _shown, privacy_section
from server.result_tables import write_tables
from server.results import load_results
from tests.server.finished_study import study_text, write_run
from tests.server.memory_sites import STUDY, members, run, study
from tests.server.test_private_study import DELTA, PRIVATE, TARGET


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    folder = tmp_path_factory.mktemp("private")
    text = STUDY.replace(*PRIVATE)
    run(study(PRIVATE), folder)
    write_atomic(folder / STUDY_FILE, text.encode())
    return load_results([folder])


def test_each_hospital_has_its_cost_by_both_accountants(private: StudyResults):
    costs = training_costs(private)
    assert [cost.site for cost in costs] == ["a", "b", "c"]
    for cost in costs:
        events = [event_from_json(event) for event in cost.events]
        assert cost.epsilon_rdp == epsilon(events, DELTA)
        assert 0.99 * TARGET < cost.epsilon_rdp <= TARGET
        assert cost.epsilon_pld is not None
        assert 0.5 * cost.epsilon_rdp < cost.epsilon_pld <= cost.epsilon_rdp
        assert cost.n_updates == 2 * (3 + 2)  # two models, together and alone
        assert cost.delta == DELTA


def test_the_page_says_what_the_epsilon_covers_and_what_not(private: StudyResults):
    text = page(private)
    assert "covers training only" in text
    assert "no noise does" in text
    assert "bit-identical" not in text
    assert all(f'<th scope="row">{site}</th>' in text for site in "abc")


def test_the_page_says_what_few_cases_mean_for_a_network(private: StudyResults):
    sentence = next(text for text in privacy_section(private).sentences if text.startswith("Networks (cnn)"))
    assert "a, b, c trained on fewer than 500 cases" in sentence
    many = tuple(
        replace(training, history=tuple(replace(entry, n_cases=500) for entry in training.history))
        for training in private.trainings
    )
    assert not [s for s in privacy_section(replace(private, trainings=many)).sentences if "Networks" in s]


def test_results_json_has_the_events(private: StudyResults, tmp_path: Path):
    write_tables(private, tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())["privacy"]
    assert [entry["site"] for entry in found] == ["a", "b", "c"]
    assert found[0]["epsilon_rdp"] <= TARGET
    assert found[0]["events"][0][0] == "sampled_gaussian"


def test_a_study_without_noise_promises_none(tmp_path: Path):
    write_run(tmp_path, study_text())
    results = load_results([tmp_path])
    assert training_costs(results) == ()
    section = privacy_section(results)
    assert section.rows == ()
    assert "promises no differential privacy" in section.sentences[0]
    assert "bit-identical" in page(results)


def test_an_update_without_noise_shows_as_infinite(private: StudyResults):
    first = private.trainings[0]
    bare = replace(first.history[0], privacy=(PrivacyEvent("gaussian", 0.0, 1.0, 1),))
    spoilt = replace(private, trainings=(replace(first, history=(bare, *first.history[1:])), *private.trainings[1:]))
    rows = {row.site: row for row in privacy_section(spoilt).rows}
    assert rows[bare.site].epsilon_rdp == "infinite"
    assert training_costs(spoilt)[0].to_json()["epsilon_rdp"] == "infinite"


def test_a_loss_is_rounded_up():
    assert (_shown(7.991), _shown(8.0), _shown(float("inf"))) == ("8.00", "8.00", "infinite")


@pytest.mark.parametrize("events", [(), (PrivacyEvent("free", 1.0, 1.0, 1),)], ids=["none", "unknown"])
def test_an_update_that_does_not_say_its_cost_is_not_used(tmp_path: Path, events: tuple[PrivacyEvent, ...]):
    sites = members(study(PRIVATE))

    def silent_about_cost(site: str, request: object) -> LocalUpdate | Refusal | None:
        if site == "b" and isinstance(request, Train):
            update = sites[site].answer(request)
            return replace(update, privacy=events) if isinstance(update, LocalUpdate) else None
        return None

    of = study(PRIVATE, ("quorum = 2", "quorum = 3"), ("local_only = true", "local_only = false"))
    with pytest.raises(FederationError, match="1 b privacy"):
        run(of, tmp_path, sites=members(of), disturb=silent_about_cost)
