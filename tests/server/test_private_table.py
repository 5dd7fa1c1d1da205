"""A whole study on private statistics: what it costs, that it is useful with 2,000 cases, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.dataset import Dataset
from common.config.loading import digest, parse
from common.config.private_statistics import cost_of_a_question, planned_questions
from common.config.study import StudyConfig
from common.errors import Code, GateError, StatisticError
from common.evaluation import ScoreSums
from common.evaluation.metrics import auc
from common.journal import JsonLines
from common.messages import AskStatistic, Evaluate, Reply, Request
from common.outcomes import ClassOutcome
from common.privacy.ledger import epsilon, event_to_json, merged
from common.statistics.bounds import Bounds
from common.statistics.combat_model import CombatModel
from common.statistics.moments import Imputer, Scaler
from common.statistics.table_steps import Keep, Step
from server.checkpoint import CheckpointStore
from server.courses import groups_of
from server.study import run_study
from server.table import steps_from_unit
from simulations.in_process import Answers, InProcessFederation
from tests.server.table_study import OUTCOMES, STUDY, TableSite, dataset

CASES = {"a": 800, "b": 700, "c": 500, "x": 300}
SMALL = {"a": 60, "b": 50, "c": 40, "x": 40}
MODELS = """
[[models]]
name = "linear"
rounds = 4
model = { kind = "linear" }
training = { optimiser = "sgd", learning_rate = 0.2, batch_size = 32 }
"""
TABLE = """[table]
combat = { unseen_sites = "leave" }
selection = [
  { kind = "variance", minimum = 0.01 },
  { kind = "correlation", largest = 0.9 },
  { kind = "univariate", test = "TEST", keep = 4 },
]"""
DECLARED = 'bounds = [{ columns = "f06", minimum = -6, maximum = 6 }, { columns = "f*", minimum = -5, maximum = 5 }]'


def private_study(
    *, settings: str = DECLARED, table: str = TABLE, test: str = "welch", epsilon: float = 8
) -> StudyConfig:
    text = STUDY.format(outcome=OUTCOMES["classes"], models=MODELS, table=table.replace("TEST", test), minimum=3)
    private = f"statistics = {{ target_epsilon = {epsilon}, target_delta = 1e-5, {settings} }}"
    text = text.replace("minimum_cases = 3", f"minimum_cases = 3, {private}")
    text = text.replace('kind = "numeric",', 'kind = "numeric", minimum = 30, maximum = 90,')
    return parse(text, StudyConfig, source="study.toml")


def public_study() -> StudyConfig:
    text = STUDY.format(outcome=OUTCOMES["classes"], models=MODELS, table=TABLE.replace("TEST", "welch"), minimum=3)
    return parse(text, StudyConfig, source="study.toml")


def members(of: StudyConfig, cases: dict[str, int]) -> dict[str, TableSite]:
    return {site: TableSite(of, site, with_missing(dataset(of, "classes", site, n))) for site, n in cases.items()}


def with_missing(data: Dataset) -> Dataset:
    """Some values of one column are not known."""
    data.features.values[::7, 8] = np.nan
    return data


def run(of: StudyConfig, folder: Path, sites: dict[str, TableSite]) -> CheckpointStore:
    store = CheckpointStore(folder / "checkpoints", digest(of))
    asked: dict[str, Answers] = dict(sites)
    with InProcessFederation(asked) as federation:
        run_study(of, federation, groups=groups_of(of), store=store, journal=JsonLines(folder / "events.jsonl"))
    return store


def table_of(store: CheckpointStore) -> tuple[Step, ...]:
    unit = store.load("table.federated.fold0")
    assert unit is not None
    return steps_from_unit(unit)


def merged_auc(store: CheckpointStore) -> float:
    unit = store.load("evaluation.federated.linear.fold0")
    assert unit is not None
    assert not unit.values["refused"]
    names = ScoreSums.empty(2).to_arrays()
    parts = [
        ScoreSums.from_arrays({name: unit.arrays[f"{site}/{name}"] for name in names})
        for site in unit.values["n_cases"]
    ]
    return auc(ScoreSums.merge(parts), curve=0).value


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, CheckpointStore, dict[str, TableSite]]:
    of = private_study()
    sites = members(of, CASES)
    return of, run(of, tmp_path_factory.mktemp("private"), sites), sites


def test_every_answer_is_paid_and_no_more_than_planned(finished):
    of, _, sites = finished
    for site in of.training_sites:
        asked = [request for request in sites[site].asked if isinstance(request, AskStatistic | Evaluate)]
        assert len(asked) == len(sites[site].spent) == planned_questions(of) == 5
        assert merged(sites[site].spent)[0].steps == 5  # of equal noise, so they are one entry
    assert len(sites["x"].spent) == 1
    spent = epsilon(sites["a"].spent, 1e-5)
    assert 0.99 * 8 < spent <= 8


def test_the_cost_is_that_of_dp_accounting(finished):
    rdp = pytest.importorskip("dp_accounting.rdp")
    dp_event = pytest.importorskip("dp_accounting").dp_event
    _, _, sites = finished
    accountant = rdp.RdpAccountant()
    for event in sites["b"].spent:
        assert (event.mechanism, event.sampling_rate, event.steps) == ("gaussian", 1.0, 1)
        accountant.compose(dp_event.GaussianDpEvent(event.noise_multiplier))
    assert epsilon(sites["b"].spent, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)


def test_with_2000_cases_the_table_is_close_to_the_one_without_noise(finished, tmp_path: Path):
    _, store, _ = finished
    of = public_study()
    exact_store = run(of, tmp_path, members(of, CASES))
    steps, exact = table_of(store), table_of(exact_store)
    assert [type(step) for step in steps[:4]] == [Bounds, Keep, Imputer, CombatModel]
    scaler, exact_scaler = steps[-1], exact[-1]
    assert isinstance(scaler, Scaler)
    assert isinstance(exact_scaler, Scaler)
    common = [name for name in scaler.names if name in exact_scaler.names]
    informative = {"f00", "f01", "f02", "f03", "f04", "f06"}
    assert len(informative & set(scaler.names)) >= 3
    for name in common:
        j, k = scaler.names.index(name), exact_scaler.names.index(name)
        assert abs(scaler.location[j] - exact_scaler.location[k]) < 0.25 * exact_scaler.scale[k]
        assert scaler.scale[j] == pytest.approx(exact_scaler.scale[k], rel=0.25)
    assert merged_auc(store) > merged_auc(exact_store) - 0.04


@pytest.mark.parametrize("test", ["anova", "mann_whitney"])
def test_other_tests_find_the_signal_too(test: str, tmp_path: Path):
    of = private_study(test=test)
    steps = table_of(run(of, tmp_path, members(of, CASES)))
    kept = next(step for step in reversed(steps) if isinstance(step, Keep))
    assert len({"f00", "f01", "f02", "f03", "f04", "f06"} & set(kept.names)) >= 3


def test_ranges_are_learned_where_the_study_asks_for_it(tmp_path: Path):
    of = private_study(settings="learn_bounds = true", table="")
    sites = members(of, CASES)
    bounds = table_of(run(of, tmp_path, sites))[0]
    assert len(sites["a"].spent) == planned_questions(of) == 4
    assert isinstance(bounds, Bounds)
    values = np.vstack([site._opened.data.features.values for name, site in sites.items() if name != "x"])
    inside = (values >= bounds.low[:12]) & (values <= bounds.high[:12])
    assert ((inside | np.isnan(values)).mean(axis=0) > 0.9).all()
    assert ((bounds.high - bounds.low)[:12] < 30).all()
    place = {name: j for j, name in enumerate(bounds.names)}
    assert (bounds.low[place["age"]], bounds.high[place["sex=m"]]) == (30, 1)  # declared


def test_a_column_without_a_range_stops_the_study_by_name(tmp_path: Path):
    of = private_study(settings='bounds = [{ columns = "f0*", minimum = -5, maximum = 5 }]', table="")
    with pytest.raises(StatisticError, match="no range is declared of f10, f11: add bounds, or learn_bounds"):
        run(of, tmp_path, members(of, SMALL))


def test_a_question_put_again_is_paid_again_and_answered_with_other_noise(finished):
    of, store, _ = finished
    site = members(of, SMALL)["a"]
    unit = store.load("table.federated.fold0")
    assert unit is not None
    request = next(r for r in finished[2]["a"].asked if isinstance(r, AskStatistic))
    first, second = site.answer(request), site.answer(request)
    assert len(site.spent) == 2
    expected = event_to_json(cost_of_a_question(of))
    assert [event_to_json(event) for reply in (first, second) for event in reply.privacy] == [expected, expected]
    assert first.n_cases == second.n_cases
    assert not np.array_equal(first.sums["power_1"], second.sums["power_1"])


def test_what_the_budget_does_not_allow_is_not_answered(tmp_path: Path):
    of = private_study(table="")

    class Poor(TableSite):
        def _answer(self, request: Request) -> Reply:
            if isinstance(request, Evaluate) and self.spent:
                raise GateError("no budget", code=Code.BUDGET_EXCEEDED)
            return super()._answer(request)

    sites = members(of, SMALL)
    sites["b"] = Poor(of, "b", dataset(of, "classes", "b", 50))
    unit = run(of, tmp_path, sites).load("evaluation.federated.linear.fold0")
    assert unit is not None
    assert unit.values["refused"] == {"b": "budget_exceeded"}


def test_one_outcome_label_at_a_hospital_is_noticed(tmp_path: Path):
    of = private_study(epsilon=100)
    sites = members(of, SMALL)
    data = dataset(of, "classes", "b", 50)
    sites["b"] = TableSite(of, "b", replace(data, outcome=ClassOutcome(np.zeros(50, dtype=np.int64), ("no", "yes"))))
    with pytest.raises(StatisticError, match=r"one outcome label only \(b\)"):
        run(of, tmp_path, sites)
