from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import mean_absolute_error, roc_auc_score

from common.errors import StateError
from common.evaluation.uncertainty import Estimate
from server.result_tables import event_warnings
from server.results import load_results, summary_table, write_tables
from server.scoring import CaseSet, Undefined, case_sets, score
from tests.server.finished_study import COURSES, POOLED, study_text, write_run

INTERNAL = CaseSet("internal", ("east", "north"))


def pooled_rows(done, course, sites):
    predicted = np.concatenate([p for site in sites for p in done.predicted[course, site]])
    truth = [outcome for site in sites for outcome in done.truth[course, site]]
    return predicted, truth


@pytest.mark.parametrize("folds", [0, 3])
@pytest.mark.parametrize("course", COURSES)
def test_merged_auc_is_that_of_all_single_scores(tmp_path, folds, course):
    done = write_run(tmp_path, study_text(folds=folds))
    found = score(load_results([tmp_path]), course, "radiomics", INTERNAL)
    predicted, truth = pooled_rows(done, course, INTERNAL.sites)
    labels = np.concatenate([outcome.labels for outcome in truth])
    assert found.n_cases == len(labels) == 120 * (folds or 1)
    assert found.n_events == labels.sum()
    exact = roc_auc_score(labels, predicted[:, 1])
    assert abs(found.result.value - exact) <= found.result.bound + 1e-12
    assert found.result.bound < 0.01
    assert found.result.low < found.result.value < found.result.high


def test_the_auc_of_all_cases_is_no_mean_of_the_hospitals_aucs(tmp_path):
    # a scanner's offset orders the hospitals against one another: each hospital's own AUC cannot show it
    done = write_run(tmp_path, study_text(), offsets={"east": 3.0, "north": -3.0}, only_class={})
    results = load_results([tmp_path])
    each = [score(results, "federated", "radiomics", CaseSet(s, (s,))).result.value for s in INTERNAL.sites]
    predicted, truth = pooled_rows(done, "federated", INTERNAL.sites)
    exact = roc_auc_score(np.concatenate([t.labels for t in truth]), predicted[:, 1])
    together = score(results, "federated", "radiomics", INTERNAL).result.value
    assert together == pytest.approx(exact, abs=0.01)
    assert np.mean(each) - together > 0.05


def test_one_hospital_alone_is_exact(tmp_path):
    done = write_run(tmp_path, study_text(folds=2))
    found = score(load_results([tmp_path]), "federated", "radiomics", CaseSet("west", ("west",)))
    predicted, truth = pooled_rows(done, "federated", ("west",))
    # folds are two answers of one hospital, so only pairs of two folds are binned
    exact = roc_auc_score(np.concatenate([t.labels for t in truth]), predicted[:, 1])
    assert abs(found.result.value - exact) <= found.result.bound + 1e-12


def test_mean_absolute_error_is_that_of_all_rows(tmp_path):
    done = write_run(tmp_path, study_text("number"))
    found = score(load_results([tmp_path]), "federated", "radiomics", INTERNAL)
    predicted, truth = pooled_rows(done, "federated", INTERNAL.sites)
    observed = np.concatenate([t.values for t in truth])
    assert found.result.value == pytest.approx(mean_absolute_error(observed, predicted[:, 0]), rel=1e-12)
    assert found.groups == ()
    assert found.fewest == 120


@pytest.mark.parametrize("kind", ["classes", "survival"])
def test_other_outcomes_have_a_headline(tmp_path, kind):
    write_run(tmp_path, study_text(kind))
    found = score(load_results([tmp_path]), "federated", "radiomics", INTERNAL)
    assert isinstance(found.result, Estimate)
    assert 0.6 < found.result.value < 1
    assert sum(n for _, n in found.groups) == 120


def test_one_class_is_a_reason_and_no_number(tmp_path):
    write_run(tmp_path, study_text(), only_class={"west": 0})
    found = score(load_results([tmp_path]), "federated", "radiomics", CaseSet("external", ("west",)))
    assert found.result == Undefined("no case with “malignant” among 60")


def test_a_refusal_is_a_reason_and_the_others_still_count(tmp_path):
    write_run(tmp_path, study_text(), refused={"north": "small_cell"})
    results = load_results([tmp_path])
    north = score(results, "federated", "radiomics", CaseSet("north", ("north",)))
    assert north.result == Undefined("refused: small_cell")
    assert score(results, "federated", "radiomics", INTERNAL).n_cases == 60
    assert results.sites_without_answer("federated", "radiomics") == ("north",)


def test_what_was_not_run_yet_is_said(tmp_path):
    write_run(tmp_path, study_text(), courses={})
    results = load_results([tmp_path])
    assert results.courses == ()
    assert score(results, "federated", "radiomics", INTERNAL).result == Undefined("not evaluated yet")


def test_the_reference_may_lie_in_another_folder(tmp_path):
    write_run(tmp_path / "run", study_text())
    write_run(tmp_path / "reference", study_text(), courses=POOLED)
    results = load_results([tmp_path / "run", tmp_path / "reference"])
    assert results.courses == ("federated", "pooled", "local-east", "local-north")
    alone = load_results([tmp_path / "run"])
    assert results.flows == alone.flows
    assert results.cases == alone.cases
    assert score(results, "pooled", "radiomics", INTERNAL).n_cases == 120


@pytest.mark.parametrize(
    ("second", "match"),
    [({"text": study_text(title="Another")}, "expected"), ({"text": study_text()}, "holds the course")],
)
def test_folders_that_do_not_belong_together(tmp_path, second, match):
    write_run(tmp_path / "a", study_text())
    write_run(tmp_path / "b", **second)
    with pytest.raises(StateError, match=match):
        load_results([tmp_path / "a", tmp_path / "b"])


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(StateError, match=r"holds no study\.toml"):
        load_results([tmp_path])
    with pytest.raises(StateError, match="no folder"):
        load_results([])


def test_counts_of_cases_add_up(tmp_path):
    write_run(tmp_path, study_text(), exclusions={"east": {"roi_empty": 2, "file_missing": 1}}, simulated=True)
    east, north, west, strangers = load_results([tmp_path]).cases
    assert (east.n_listed, east.n_usable, east.n_excluded) == (63, 60, 3)
    assert [site.role for site in (east, north, west, strangers)] == ["training", "training", "external", ""]
    assert all(site.adds_up for site in (east, north, west, strangers))


def test_no_byte_of_the_journal_is_lost(tmp_path):
    write_run(tmp_path, study_text(), refused={"west": "gate"})
    results = load_results([tmp_path])
    answers = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    answers = [line for line in answers if line["event"] == "answer"]
    for name in ("bytes_down", "bytes_up"):
        assert sum(getattr(flow, name) for flow in results.flows) == sum(line[name] for line in answers)
    assert sum(flow.n_messages for flow in results.flows) == len(answers)
    assert [(flow.site, flow.code) for flow in results.flows if flow.code] == [("west", "gate")]


@pytest.mark.parametrize(("warn_below", "expected"), [(100, 2), (5, 0)])
def test_few_cases_are_warned_of_in_words(tmp_path, warn_below, expected):
    write_run(tmp_path, study_text(warn_below=warn_below))
    sentences = event_warnings(load_results([tmp_path]))
    assert len(sentences) == expected
    assert all("proves that the pipeline runs, not that a model works" in sentence for sentence in sentences)


def test_non_events_are_counted_as_events_are(tmp_path):
    write_run(tmp_path, study_text(warn_below=30), only_class={"east": 1, "north": 1})
    assert "0 with “benign”" in event_warnings(load_results([tmp_path]))[0]


def test_the_terminal_table_has_every_course_with_its_interval(tmp_path):
    write_run(tmp_path, study_text(title="Study [red]of[/red] lungs"), courses=COURSES | POOLED)
    results = load_results([tmp_path])
    console = Console(width=170, file=io.StringIO(), record=True)
    console.print(summary_table(results))
    text = console.export_text()
    assert "Study [red]of[/red] lungs" in text
    for cases in case_sets(results.study):
        for course in results.courses:
            estimate = score(results, course, "radiomics", cases).result
            assert f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})" in text
    assert "pipeline runs" in text


def test_csv_and_json_say_the_same(tmp_path):
    write_run(tmp_path, study_text(), only_class={"west": 1}, exclusions={"east": {"roi_empty": 2}})
    results = load_results([tmp_path])
    write_tables(results, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    content = json.loads((tmp_path / "results.json").read_text())
    assert len(rows) == len(content["measures"])
    [row] = [row for row in rows if (row["course"], row["cases"], row["measure"]) == ("federated", "internal", "auc")]
    estimate = score(results, "federated", "radiomics", INTERNAL).result
    assert (float(row["value"]), float(row["low"]), float(row["high"])) == (estimate.value, estimate.low, estimate.high)
    assert {row["undefined"] for row in rows if row["site"] == "west"} == {"no case with “benign” among 60"}
    assert content["cases"][0]["exclusions"] == {"roi_empty": 2}
    assert content["cases"][0]["adds_up"] is True
    assert len(content["trainings"]) == 3
