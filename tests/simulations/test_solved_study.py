"""ComBat, selection and solved models in a whole study: equal to neuroCombat and scikit-learn on the pooled rows."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from neuroCombat import neuroCombat
from sklearn.feature_selection import f_classif
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from client.site import Site
from common.config.loading import digest
from common.config.study import StudyConfig
from common.errors import Code, FederationError, StatisticError
from common.evaluation.metrics import auc
from common.statistics.combat_model import CombatModel, adapt
from common.statistics.margins import MarginModel
from common.statistics.solution import decode_solution
from common.statistics.table_steps import Keep
from server.checkpoint import CheckpointStore
from server.opening import open_run
from server.report import page
from server.results import load_results, write_tables
from server.table import entries_from_unit, steps_from_unit
from simulations.pooled import pool
from simulations.run import Cohort, simulate, split_cohort
from tests.small_study import STUDY, write_cohort, write_study

MODELS = """
[table]
combat = { covariates = ["age_years"] }
selection = [
  { kind = "variance" },
  { kind = "correlation", largest = 0.95 },
  { kind = "univariate", test = "anova", keep = 6 },
]

[[models]]
name = "ridge"
model = { kind = "ridge", penalty = 0.1 }

[[models]]
name = "svm"
calibration = "platt"
model = { kind = "svm", penalty = 0.1, softness = 0.0 }

[[models]]
name = "net"
model = { kind = "elastic_net", penalty = 0.02 }

[[models]]
name = "forest"
model = { kind = "forest", n_trees = 5, max_depth = 2, least_cases = 3, n_bins = 8 }
"""

SOLVED = (
    STUDY[: STUDY.index("[[models]]")]
    .replace('kind = "numeric" }', 'kind = "numeric", missing = "exclude" }')
    .replace("minimum_cases = 2", "minimum_cases = 1")
    + MODELS
)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Ages in whole years: neuroCombat keeps covariates in single precision."""
    whole = write_cohort(tmp_path_factory.mktemp("cohort"))
    header, *lines = whole.cases.read_text().splitlines()
    rows = [line.rpartition(",") for line in lines]
    assert header.endswith(",age_years")
    whole.cases.write_text("\n".join([header, *(f"{row[0]},{float(row[2]):.0f}" for row in rows)]) + "\n")
    return whole


def run(cohort: Cohort, folder: Path, text: str = SOLVED, *, resume: bool = False, **settings) -> CheckpointStore:
    folder.mkdir(exist_ok=True)
    study_file, study = write_study(folder, text)
    opened = open_run(study_file, folder / "run", resume=resume, listener=settings.pop("listener", None))
    simulate(study, cohort, out=folder / "run", journal=opened.journal, **{"baselines": False, **settings})
    return CheckpointStore(folder / "run" / "checkpoints", digest(study))


def units(store: CheckpointStore) -> dict[str, tuple[dict[str, bytes], object]]:
    found = {name: store.load(name) for name in store.names()}
    return {n: ({k: a.tobytes() for k, a in u.arrays.items()}, u.values) for n, u in found.items() if u is not None}


def pooled_rows(cohort: Cohort, folder: Path, study: StudyConfig):
    """All training hospitals' rows, as the pooled reference of the simulation has them."""
    folder.mkdir()
    configs = split_cohort(study, cohort, folder, CheckpointStore(folder / "c", digest(study)), 1)
    opened = {name: Site(configs[name], [study], secret="").opened(digest(study)) for name in study.training_sites}
    return pool([(name, site.data) for name, site in opened.items()])


@pytest.fixture(scope="module")
def finished(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("solved")
    store = run(cohort, folder, baselines=True)
    _, study = write_study(folder, SOLVED)
    return folder, store, study, pooled_rows(cohort, folder / "rows", study)


def solution(store: CheckpointStore, model: str, course: str = "federated", fold: int = 0):
    unit = store.load(f"solution.{course}.{model}.fold{fold}")
    assert unit is not None
    return decode_solution(entries_from_unit(unit))


def reference_table(data, study: StudyConfig):
    """Imputer, neuroCombat, selection and scaler on the pooled training rows, and the names that they leave."""
    rows = data.rows(0, "train")
    names = np.array(data.features.names)
    values = data.features.values[rows]
    varies = np.nanstd(values, axis=0) > 1e-12 * np.abs(np.nanmean(values, axis=0))
    names, values = names[varies], SimpleImputer().fit_transform(values[:, varies])
    batch = np.array([data.batch[i] for i in rows])
    frame = pd.DataFrame({"batch": batch, "age": data.clinical.values[rows, 0]})
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = neuroCombat(values.T.copy(), frame, "batch", continuous_cols=["age"])
    harmonised = oracle["data"].T
    labels = data.outcome.labels[rows]
    correlation = np.abs(np.corrcoef(harmonised.T))
    kept: list[int] = []
    for j in range(len(names)):
        if all(correlation[j, k] <= 0.95 for k in kept):
            kept.append(j)
    f = f_classif(harmonised[:, kept], labels)[0]
    best = sorted(np.array(kept)[np.argsort(-f, kind="stable")[:6]])
    table = np.column_stack([harmonised[:, best], data.clinical.values[rows, 0]])
    return oracle, names, [*names[best], "age_years"], StandardScaler().fit_transform(table), labels


def test_the_study_equals_pooled_neurocombat_and_scikit_learn(finished):
    _, store, study, data = finished
    oracle, before, names, table, labels = reference_table(data, study)
    unit = store.load("table.federated.fold0")
    assert unit is not None
    steps = steps_from_unit(unit)
    combat = next(step for step in steps if isinstance(step, CombatModel))
    assert combat.names == tuple(before)
    estimates = oracle["estimates"]
    np.testing.assert_allclose(combat.gamma_star, estimates["gamma.star"], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(combat.delta_star, estimates["delta.star"], rtol=1e-6)
    assert [step for step in steps if isinstance(step, Keep)][-1].names == tuple(names)
    n = len(labels)
    ridge = LogisticRegression(C=1 / (0.1 * n), tol=1e-10, max_iter=10_000).fit(table, labels)
    found = solution(store, "ridge").model
    assert isinstance(found, MarginModel)
    np.testing.assert_allclose(found.coefficients, ridge.coef_[0], atol=1e-5)
    svm = LinearSVC(C=1 / (0.1 * n), intercept_scaling=1e4, tol=1e-10, max_iter=1_000_000).fit(table, labels)
    np.testing.assert_allclose(solution(store, "svm").model.coefficients, svm.coef_[0], atol=1e-4)
    assert solution(store, "svm").calibration is not None
    net = LogisticRegression(C=1 / (0.02 * n), l1_ratio=0.5, solver="saga", tol=1e-12, max_iter=1_000_000).fit(
        table, labels
    )
    sparse = dict.fromkeys(names, 0.0) | dict(
        zip(solution(store, "net").model.names, solution(store, "net").model.coefficients, strict=True)
    )
    np.testing.assert_allclose([sparse[name] for name in names], net.coef_[0], atol=1e-5)


def test_federated_and_pooled_course_end_in_the_same_models(finished):
    _, store, _, _ = finished
    for model in ("ridge", "svm", "net"):
        federated, pooled = solution(store, model), solution(store, model, "pooled")
        assert federated.model.names == pooled.model.names
        np.testing.assert_allclose(federated.model.coefficients, pooled.model.coefficients, rtol=1e-6, atol=1e-9)
    # drawn cases do not depend on the split into hospitals
    federated, pooled = solution(store, "forest").model, solution(store, "forest", "pooled").model
    np.testing.assert_array_equal(federated.feature, pooled.feature)
    np.testing.assert_allclose(federated.outputs, pooled.outputs)


def test_the_report_shows_harmonisation_selection_and_solved_models(finished):
    folder, *_ = finished
    results = load_results([folder / "run"])
    assert {t.model for t in results.trainings} == {"ridge", "svm", "net", "forest"}
    assert {flow.phase for flow in results.flows} >= {"statistics", "solve ridge", "evaluate ridge"}
    assert all(flow.bytes_up > 0 for flow in results.flows if flow.phase == "statistics")
    record = next(r for r in results.harmonisations if r.course == "federated")
    assert record.before is not None
    assert record.after is not None
    assert np.median(record.after.between_share) < 0.5 * np.median(record.before.between_share)
    html = page(results)
    assert '<section id="table">' in html
    assert "batches explain" in html
    assert "batch-effect" in html
    last = next(r for r in results.selections if r.course == "federated").steps[-1]
    assert all(name in html for name in last.names)
    assert re.search(r"kind ridge, sees the feature table.*solved from merged sums", html)
    write_tables(results, folder / "run")


def test_interrupted_and_resumed_ends_in_the_same_bits(cohort: Cohort, tmp_path: Path, finished):
    def interrupt(line):
        if line["event"] == "solved" and line["model"] == "svm":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cohort, tmp_path, listener=interrupt)
    resumed = units(run(cohort, tmp_path, resume=True))
    _, store, _, _ = finished
    whole = units(store)
    assert {name: resumed[name] for name in resumed if name != "preparation"} == {
        name: whole[name] for name in whole if name != "preparation" and ".pooled." not in name
    }


LEFT_OUT = SOLVED.replace(
    'split = { kind = "holdout", test_fraction = 0.4 }', 'split = { kind = "leave_one_site_out" }'
).replace('combat = { covariates = ["age_years"] }', 'combat = { unseen_sites = "adapt" }')


def test_each_hospital_is_left_out_once_and_adapts_on_its_own(cohort: Cohort, tmp_path: Path):
    text = LEFT_OUT[: LEFT_OUT.index('[[models]]\nname = "svm"')]
    store = run(cohort, tmp_path, text, baselines=True)
    _, study = write_study(tmp_path, text)
    for fold, left_out in enumerate(("east", "north", "south")):
        unit = store.load(f"table.federated.fold{fold}")
        assert unit is not None
        combat = next(step for step in steps_from_unit(unit) if isinstance(step, CombatModel))
        assert set(combat.batches) == {"east", "north", "south"} - {left_out}
        evaluated = store.load(f"evaluation.federated.ridge.fold{fold}")
        assert evaluated is not None
        assert list(evaluated.values["n_cases"]) == [left_out]
        assert evaluated.values["refused"] == {}
        np.testing.assert_allclose(
            solution(store, "ridge", fold=fold).model.coefficients,
            solution(store, "ridge", "pooled", fold).model.coefficients,
            rtol=1e-6,
        )
    results = load_results([tmp_path / "run"])
    merged = results.merged("federated", "ridge", study.training_sites)
    assert merged.n_cases == 42
    assert "Leave one site out" in page(results)


def test_a_site_outside_of_the_fit_is_scored_as_by_hand(cohort: Cohort, tmp_path: Path):
    text = SOLVED.replace('{ name = "south" }', '{ name = "south", role = "external" }')
    text = text.replace('combat = { covariates = ["age_years"] }', 'combat = { unseen_sites = "UNSEEN" }')
    text = text[: text.index('[[models]]\nname = "svm"')]
    areas = {}
    for unseen in ("adapt", "leave"):
        store = run(cohort, tmp_path / unseen, text.replace("UNSEEN", unseen))
        results = load_results([tmp_path / unseen / "run"])
        merged = results.merged("federated", "ridge", ("south",))
        _, study = write_study(tmp_path / unseen, text.replace("UNSEEN", unseen))
        configs = split_cohort(study, cohort, tmp_path / unseen / "run", store, 1)
        data = Site(configs["south"], [study], secret="").opened(digest(study)).data
        steps = steps_from_unit(store.load("table.federated.fold0"))
        table = data.features.beside(data.clinical)
        for step in steps:
            if isinstance(step, CombatModel):
                assert step.batches == ("east", "north")
                if unseen == "adapt":
                    table = adapt(step, table, batch="south").apply(table)
            else:
                table = step.apply(table)
        scores = solution(store, "ridge").predict(table)[:, 1]
        areas[unseen] = roc_auc_score(data.outcome.labels, scores)
        assert auc(merged).value == pytest.approx(areas[unseen], abs=1e-9)
    assert areas["adapt"] != areas["leave"]


def confounded(cohort: Cohort, folder: Path) -> Cohort:
    """South's cases are all benign."""
    text = cohort.cases.read_text().splitlines()
    header = text[0].split(",")
    rows = [dict(zip(header, line.split(","), strict=True)) for line in text[1:]]
    kept = [r for r in rows if r["site"] != "south" or r["malignant"] == "0"]
    path = folder / "cases.csv"
    path.write_text("\n".join([text[0], *(",".join(r.values()) for r in kept)]) + "\n")
    return replace(cohort, cases=path)


def test_a_confounded_batch_is_refused_with_the_numbers(cohort: Cohort, tmp_path: Path):
    apart = confounded(cohort, tmp_path)
    with pytest.raises(StatisticError, match=r"one outcome label only \(south\).*south: 4 benign, 0 malignant"):
        run(apart, tmp_path / "refused", SOLVED)
    text = SOLVED.replace('covariates = ["age_years"]', 'covariates = ["age_years"], confounded = "without_outcome"')
    text = text[: text.index('[[models]]\nname = "svm"')]
    store = run(apart, tmp_path / "without", text)
    notes = store.load("harmonisation.federated.fold0").values["notes"]
    assert any("south: 4 benign, 0 malignant" in note for note in notes)


def without_ages(cohort: Cohort, folder: Path) -> Cohort:
    lines = cohort.cases.read_text().splitlines()
    column = lines[0].split(",").index("age_years")
    cells = [line.split(",") for line in lines]
    for row in cells[1:]:
        if "north" in row:
            row[column] = ""
    path = folder / "cases.csv"
    path.write_text("\n".join(map(",".join, cells)) + "\n")
    return replace(cohort, cases=path)


def test_a_column_that_a_hospital_lacks_is_refused_by_name_or_dropped(cohort: Cohort, tmp_path: Path):
    lacking = without_ages(cohort, tmp_path)
    text = SOLVED.replace(', missing = "exclude"', "").replace("combat = {", "# combat = {")
    text = text[: text.index('[[models]]\nname = "svm"')]
    with pytest.raises(StatisticError, match="feature age_years is missing at north"):
        run(lacking, tmp_path / "refused", text)
    store = run(lacking, tmp_path / "dropped", text.replace("[table]\n", '[table]\nmissing_feature = "drop"\n'))
    assert "age_years" not in solution(store, "ridge").model.names


def test_few_cases_are_refused_and_the_study_says_where(cohort: Cohort, tmp_path: Path):
    text = SOLVED.replace("minimum_cases = 1", "minimum_cases = 6")
    with pytest.raises(FederationError, match="site south refused AskStatistic: small_cell") as caught:
        run(cohort, tmp_path, text)
    assert caught.value.code is Code.SMALL_CELL
