"""Studies that learn from images before they measure them: Nyul's landmarks, and which features are robust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.dataset import assign_folds
from client.imaging.landmarks import landmark_row, with_all_landmarks
from client.ingest.manifest import read_manifest
from client.preparation import prepare_case, prepare_row, read_image, table_names
from client.side_tables import repeated_cases
from client.site import Site
from common.config.gate import GateConfig
from common.config.loading import digest
from common.config.study import StudyConfig
from common.errors import Code, FederationError, StatisticError
from common.journal import JsonLines
from common.messages import AskStatistic, Evaluate, Landmarks, Prepare, Refusal, Reply, Request, Train
from common.statistics import encode_query
from common.statistics.moments import MomentQuery
from common.statistics.nyul import landmark_names, on_scale
from common.statistics.table_steps import Keep
from server.checkpoint import CheckpointStore
from server.opening import open_run
from server.robustness import RobustFeatures
from server.selection import selected_of_unit
from server.standardisation import LANDMARKS, landmarks_of_unit
from server.table import entries_from_unit, steps_from_unit
from server.training_state import TrainingState
from simulations.run import Cohort, simulate, split_cohort
from tests.small_study import ROBUSTNESS, STANDARDISED, STUDY, write_study

NETWORK = '[[models]]\nname = "cnn"'
NYUL = STANDARDISED[: STANDARDISED.index(NETWORK)]
ROBUST = STUDY[: STUDY.index(NETWORK)] + ROBUSTNESS


def run(
    cohort: Cohort, folder: Path, text: str, *, stop_at: tuple[str, int] | None = None, resume: bool = False, **how: Any
) -> CheckpointStore:
    """A study in process; with ``stop_at`` it is interrupted at the n-th line of an event."""
    study_file, study = write_study(folder, text)
    seen = 0

    def interrupt(line: dict[str, Any]) -> None:
        nonlocal seen
        if stop_at is not None:
            seen += line["event"] == stop_at[0]
            if seen == stop_at[1]:
                raise KeyboardInterrupt

    opened = open_run(study_file, folder / "run", resume=resume, listener=interrupt)
    simulate(opened.study, cohort, out=folder / "run", journal=opened.journal, **how)
    return CheckpointStore(folder / "run" / "checkpoints", digest(study))


def finals(store: CheckpointStore) -> dict[str, str]:
    found = {}
    for name in store.names():
        unit = store.load(name)
        if name.startswith("training.") and unit is not None:
            found[name] = TrainingState.from_unit(unit).parameters.digest()
    return found


@pytest.fixture(scope="module")
def standardised(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study with landmarks to learn, with the pooled course beside the federated one."""
    folder = tmp_path_factory.mktemp("standardised")
    run(cohort, folder, NYUL, baselines=True)
    return folder


def the_study(folder: Path, text: str) -> tuple[StudyConfig, CheckpointStore]:
    study = write_study(folder, text)[1]
    return study, CheckpointStore(folder / "run" / "checkpoints", digest(study))


def learned(folder: Path, text: str) -> Landmarks:
    unit = the_study(folder, text)[1].load(LANDMARKS)
    assert unit is not None
    return landmarks_of_unit(unit)


def sites_of(study: StudyConfig, cohort: Cohort, folder: Path) -> dict[str, Site]:
    store = CheckpointStore(folder / "scratch", digest(study))
    configs = split_cohort(study, cohort, folder / "run", store, 1)
    asked_much = {"gate": GateConfig(runs=50)}  # the tests of this file try many landmarks on one hospital
    return {name: Site(config.model_copy(update=asked_much), [study], secret="") for name, config in configs.items()}


def test_landmarks_are_those_of_all_training_images_in_one_place(cohort: Cohort, standardised: Path):
    study, _ = the_study(standardised, NYUL)
    rows = []
    for name in study.training_sites:
        manifest = read_manifest(
            standardised / "run" / "sites" / name / "cases.csv", study, data=cohort.data, site=name
        )
        labels = [int(row.outcome[0]) for row in manifest.rows]
        tested = assign_folds([row.case_id for row in manifest.rows], labels, study, trains=True, site=name)
        for row, fold in zip(manifest.rows, tested, strict=True):
            if fold != 0:
                case = read_image(row, study.images[0])
                rows.append(on_scale(landmark_row(case, study.images[0].steps, image="ct")))
    assert 20 < len(rows) < 42
    np.testing.assert_allclose(learned(standardised, NYUL)["ct"], np.mean(rows, axis=0), rtol=1e-12)


def test_features_are_measured_on_standardised_images(cohort: Cohort, standardised: Path):
    study, _ = the_study(standardised, NYUL)
    landmarks = learned(standardised, NYUL)
    site = sites_of(study, cohort, standardised)["south"]
    data = site.opened(digest(study), landmarks).data
    manifest = read_manifest(site.config.manifest, study, data=cohort.data, site="south")
    ready = with_all_landmarks(study, landmarks)
    row = next(row for row in manifest.rows if row.case_id == data.features.case_ids[3])
    np.testing.assert_array_equal(prepare_case(row, ready).features, data.features.values[3])
    other = {"ct": tuple(x + 1 for x in landmarks["ct"])}
    assert not np.array_equal(site.opened(digest(study), other).data.features.values, data.features.values)


def test_the_pooled_course_works_with_the_same_landmarks(standardised: Path):
    store = the_study(standardised, NYUL)[1]
    courses = {name.split(".")[1] for name in finals(store)}
    assert courses == {"federated", "pooled"}
    tables = [store.load(f"table.{course}.fold0") for course in sorted(courses)]
    for name, array in tables[0].arrays.items():  # type: ignore[union-attr]
        np.testing.assert_allclose(array, tables[1].arrays[name], rtol=1e-9, atol=1e-12)  # type: ignore[union-attr]


@pytest.mark.parametrize("stop_at", [("preparing", 2), ("note", 1), ("preparing", 5), ("round", 2)])
def test_interrupted_and_resumed_ends_alike(
    cohort: Cohort, standardised: Path, tmp_path: Path, stop_at: tuple[str, int]
):
    with pytest.raises(KeyboardInterrupt):
        run(cohort, tmp_path, NYUL, stop_at=stop_at, baselines=False)
    store = run(cohort, tmp_path, NYUL, resume=True, baselines=False)
    assert learned(tmp_path, NYUL) == learned(standardised, NYUL)
    undisturbed = finals(the_study(standardised, NYUL)[1])
    assert finals(store) == {name: value for name, value in undisturbed.items() if ".federated." in name}


@pytest.fixture(scope="module")
def robust(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study that keeps robust features, with the pooled and local-only courses."""
    folder = tmp_path_factory.mktemp("robust")
    run(cohort, folder, ROBUST.replace("local_only = false", "local_only = true"), baselines=True)
    return folder


def robust_of(folder: Path, course: str) -> RobustFeatures:
    study, store = the_study(folder, ROBUST.replace("local_only = false", "local_only = true"))
    unit = store.load(f"robustness.{course}.fold0")
    assert unit is not None
    assert study.robustness is not None
    return RobustFeatures.from_unit(unit, study.robustness)


def test_reliability_is_that_of_all_repeats_in_one_place(cohort: Cohort, robust: Path):
    """By the definition of the one-way intraclass correlation, on repeats that are measured here."""
    study, _ = the_study(robust, ROBUST)
    config = study.robustness
    assert config is not None
    tables = []
    for name, site in sites_of(study, cohort, robust).items():
        data = site.opened(digest(study)).data
        chosen = repeated_cases(data.features.case_ids, data.tested_in, study)
        assert len(chosen) == config.most_cases
        training = {data.features.case_ids[i] for i in data.rows(0, "train")}
        assert training.issuperset(chosen)
        manifest = read_manifest(site.config.manifest, study, data=cohort.data, site=name)
        rows = [row for row in manifest.rows if row.case_id in set(chosen)]
        tables += [prepare_row(row, study, "repeats.ct").features.reshape(config.n_perturbations, -1) for row in rows]
    values = np.stack(tables)
    n, k, _ = values.shape
    assert (n, k) == (18, 4)
    between = k * values.mean(axis=1).var(axis=0, ddof=1)
    within = values.var(axis=1, ddof=1).mean(axis=0)
    names = table_names(study, "ct")
    found = robust_of(robust, "federated").reliability
    expected = dict(zip(names, (between - within) / (between + (k - 1) * within + 1e-300), strict=True))
    for feature in found.features:
        assert feature.icc == pytest.approx(expected[feature.feature], abs=1e-8)
        assert feature.n_cases == n
    assert len(found.features) + len(found.undefined) == len(names)


def test_features_below_the_limit_leave_the_table_and_are_reported(robust: Path):
    found = robust_of(robust, "federated")
    assert len(found.kept) > 5
    assert len(found.dropped) > 5
    store = the_study(robust, ROBUST.replace("local_only = false", "local_only = true"))[1]
    table = store.load("table.federated.fold0")
    assert table is not None
    first = steps_from_unit(table)[0]
    assert isinstance(first, Keep)
    assert set(first.names) - {"age_years"} <= found.kept
    assert "age_years" in first.names
    selection = store.load("selection.federated.fold0")
    assert selection is not None
    shown = selected_of_unit(selection)[0]
    assert (shown.kind, set(shown.names)) == ("robustness", found.kept)
    assert all(value >= 0.8 for value in shown.values.values())
    notes = [line["text"] for line in JsonLines(robust / "run" / "events.jsonl").read() if line["event"] == "note"]
    assert any(f"federated, fold 0: {len(found.kept)} features are robust" in note for note in notes)


def test_every_course_learns_robustness_from_its_own_trainers(robust: Path):
    federated, pooled, east = (robust_of(robust, name) for name in ("federated", "pooled", "local-east"))
    assert pooled.kept == federated.kept
    for ours, theirs in zip(federated.reliability.features, pooled.reliability.features, strict=True):
        assert ours.icc == pytest.approx(theirs.icc, abs=1e-9)
        assert ours.lower == pytest.approx(theirs.lower, abs=1e-9)
    assert {f.n_cases for f in east.reliability.features} == {6}


@pytest.mark.parametrize("stop_at", [("preparing", 4), ("note", 1), ("round", 2)])
def test_robustness_interrupted_and_resumed_ends_alike(
    cohort: Cohort, robust: Path, tmp_path: Path, stop_at: tuple[str, int]
):
    with pytest.raises(KeyboardInterrupt):
        run(cohort, tmp_path, ROBUST, stop_at=stop_at, baselines=False)
    store = run(cohort, tmp_path, ROBUST, resume=True, baselines=False)
    undisturbed = finals(the_study(robust, ROBUST.replace("local_only = false", "local_only = true"))[1])
    assert finals(store) == {name: value for name, value in undisturbed.items() if ".federated." in name}


def test_threads_and_a_pooled_site_beside_the_hospitals_change_nothing(cohort: Cohort, robust: Path, tmp_path: Path):
    """The pooled site reads the hospitals' cases while these prepare them."""
    store = run(cohort, tmp_path, ROBUST, baselines=True, threads=4)
    undisturbed = finals(the_study(robust, ROBUST.replace("local_only = false", "local_only = true"))[1])
    assert finals(store) == {name: value for name, value in undisturbed.items() if ".local-" not in name}


def test_a_limit_that_nothing_reaches_stops_the_study(cohort: Cohort, tmp_path: Path):
    text = ROBUST.replace("minimum_icc = 0.8", "minimum_icc = 0.99999999")
    with pytest.raises(StatisticError, match=r"course federated: none of .* features has an ICC of at least 1"):
        run(cohort, tmp_path, text, baselines=False)


def code_of(reply: Reply) -> str:
    return reply.code if isinstance(reply, Refusal) else ""


def test_a_site_that_comes_back_needs_nothing_but_the_request(cohort: Cohort, standardised: Path):
    """Landmarks come with every request: a site that was restarted answers as if it had been there all the time."""
    study, store = the_study(standardised, NYUL)
    key, landmarks = digest(study), learned(standardised, NYUL)
    state = store.load("training.federated.radiomics.fold0")
    table = store.load("table.federated.fold0")
    assert state is not None
    assert table is not None
    request = Evaluate(
        key, 0, "radiomics", "test", TrainingState.from_unit(state).parameters, entries_from_unit(table), (), landmarks
    )
    answers = [sites_of(study, cohort, standardised)["east"].answer(request) for _ in range(2)]
    assert [code_of(answer) for answer in answers] == ["", ""]
    without = Evaluate(key, 0, "radiomics", "test", request.parameters, request.table_steps)
    assert code_of(sites_of(study, cohort, standardised)["east"].answer(without)) == Code.MESSAGE


def test_what_a_site_refuses(cohort: Cohort, standardised: Path):
    study, _ = the_study(standardised, NYUL)
    key, landmarks = digest(study), learned(standardised, NYUL)
    site = sites_of(study, cohort, standardised)["south"]
    names = landmark_names("ct", (5, 25, 50, 75, 95))
    query = MomentQuery(names, "all", ("all",), np.zeros((1, 5)), 1)
    kind, values = encode_query(query)
    assert code_of(site.answer(AskStatistic(key, 0, kind, values, table="landmarks.ct"))) == ""
    refused: list[Request] = [
        Prepare(key, 0.0, "landmarks.mr", {}),
        Prepare(key, 0.0, "repeats.ct", landmarks),
        Prepare(key, 0.0, "training", {}),
        Prepare(key, 0.0, "training", landmarks | {"mr": (0.0, 1.0)}),
        Prepare(key, 0.0, "training", {"ct": (0.0, 1.0)}),
        Prepare(key, 0.0, "training", {"ct": (0.0, 1.0, 2.0, 2.0, 4.0)}),
        Prepare(key, 0.0, "training", {"ct": (0.0, 1.0, 2.0, 3.0, float("nan"))}),
        AskStatistic(key, 1, kind, values, table="landmarks.ct"),
        AskStatistic(key, 0, "combat_totals", {}, table="landmarks.ct"),
    ]
    assert [code_of(site.answer(request)) for request in refused] == [Code.MESSAGE] * len(refused)
    by_class = encode_query(MomentQuery(names, "class", ("benign", "other"), np.zeros((2, 5)), 1))
    assert code_of(site.answer(AskStatistic(key, 0, *by_class, table="landmarks.ct"))) != ""


@pytest.mark.parametrize(
    "table", ["", "training ", "landmarks.", "landmarks.A", "repeats.ct.x", "outcome", "training\n"]
)
def test_tables_are_a_closed_choice(table: str):
    with pytest.raises(ValueError, match="expected training, landmarks"):
        Prepare("d", 1.0, table)
    with pytest.raises(ValueError, match="expected training"):
        AskStatistic("d", 0, "moments", {}, table=table)


def test_too_few_cases_for_landmarks_stop_the_study_by_name(cohort: Cohort, tmp_path: Path):
    with pytest.raises(FederationError, match=r"learn landmarks.ct: .*south refused AskStatistic: small_cell") as error:
        run(cohort, tmp_path, NYUL.replace("minimum_cases = 2", "minimum_cases = 9"), baselines=False)
    assert error.value.code == Code.SMALL_CELL
    events = list(JsonLines(tmp_path / "run" / "events.jsonl").read())
    assert not [line for line in events if line["event"] == "answer" and line["request"] == Train.__name__]
