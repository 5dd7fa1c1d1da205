"""The learned training table equals scikit-learn's on the pooled rows, for any split of the cases into sites."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from client.dataset import NEVER_TESTED, Dataset
from common.errors import Code, FederationError, StatisticError
from common.messages import AskStatistic, Refusal, Reply, Request, StatisticSums
from common.outcomes import ClassOutcome
from common.statistics.moments import Imputer, Scaler
from common.statistics.procedure import Cohort
from common.statistics.quantiles import RESOLUTION
from common.statistics.table_steps import Keep, Step, apply_steps
from common.tables import FeatureTable
from server.checkpoint import CheckpointStore
from server.courses import FEDERATED, LOCAL, Course
from server.learning import agreeing
from server.table import learn_table, steps_from_unit, steps_to_unit, table_of
from tests.server.memory_sites import MemorySite, conversation, dataset, members, study

SITES = ("a", "b", "c")
COURSE = Course(FEDERATED, SITES)
NAMES = ("f0", "f1", "f2", "f3", "f4", "age")


def all_train(of, site: str, values: np.ndarray, first: int = 0) -> Dataset:
    """A site whose cases are all trained on."""
    ids = tuple(f"p{first + i:03d}" for i in range(len(values)))
    template = dataset(of, site, len(ids))
    return replace(
        template,
        features=FeatureTable(values, tuple(f"f{j}" for j in range(values.shape[1])), ids),
        clinical=FeatureTable(np.zeros((len(ids), 0)), (), ids),
        outcome=ClassOutcome(np.arange(len(ids)) % 2, ("no", "yes")),
        tested_in=np.full(len(ids), NEVER_TESTED),
    )


def applied(table: FeatureTable, steps: tuple[Step, ...]) -> FeatureTable:
    outcome = ClassOutcome(np.zeros(table.n_cases, dtype=np.int64), ("no", "yes"))
    cohort = Cohort(table, table.select(()), outcome, ("a",) * table.n_cases)
    return apply_steps(cohort, steps, fold=0).table


def learn(of, parts: dict[str, np.ndarray], folder: Path) -> tuple[Step, ...]:
    first, sites = 0, {}
    for site, values in parts.items():
        sites[site] = MemorySite(of, site, all_train(of, site, values, first))
        first += len(values)
    names = tuple(f"f{j}" for j in range(next(iter(parts.values())).shape[1]))
    return learn_table(of, names, Course(FEDERATED, tuple(parts)), 0, conversation(of, dict(sites), folder)).steps


def cohort(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.lognormal(size=(n, 6)) * np.logspace(-6, 6, 6) + np.array([0, 1, -1e3, 1e6, 0, 5])
    values[rng.random(values.shape) < 0.15] = np.nan
    values[:2] = np.abs(rng.normal(size=(2, 6)))  # no feature is constant or absent
    return values


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(6, 40), cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)), seed=st.integers(0, 99))
def test_the_table_is_scikit_learns_on_pooled_rows(tmp_path: Path, n: int, cuts, seed: int):
    values = cohort(n, seed)
    low, high = sorted(1 + int(cut * (n - 3)) for cut in cuts)
    parts = {"a": values[:low], "b": values[low : high + 1], "c": values[high + 1 :]}
    steps = learn(study(), parts, tmp_path)
    assert [type(step) for step in steps] == [Keep, Imputer, Scaler]
    expected = StandardScaler().fit_transform(SimpleImputer().fit_transform(values))
    for site, part in parts.items():
        table = FeatureTable(part, tuple(f"f{j}" for j in range(6)), tuple(f"{site}{i}" for i in range(len(part))))
        start = {"a": 0, "b": low, "c": high + 1}[site]
        np.testing.assert_allclose(applied(table, steps).values, expected[start : start + len(part)], atol=1e-8)


def test_a_median_is_scikit_learns_and_a_correlated_feature_is_left_out(tmp_path: Path):
    values = cohort(30)[:, [0, 1, 2, 1]] * [1, 1, 1, 3] + [0, 0, 0, 2]
    table = 'table = { impute = "median", selection = [{ kind = "correlation", largest = 0.99 }] }'
    of = study(("privacy = { minimum_cases = 1 }", f"privacy = {{ minimum_cases = 1 }}\n{table}"))
    steps = learn(of, {"a": values[:10], "b": values[10:21], "c": values[21:]}, tmp_path)
    assert [type(step) for step in steps] == [Keep, Imputer, Keep, Scaler]
    imputer, last = steps[1], steps[2]
    assert isinstance(imputer, Imputer)
    error = np.abs(imputer.fill - SimpleImputer(strategy="median").fit(values).statistics_)
    assert (error <= RESOLUTION * np.nanstd(values, axis=0)).all()
    assert isinstance(last, Keep)
    assert last.names == ("f0", "f1", "f2")


def test_without_standardising_there_is_no_scaler(tmp_path: Path):
    of = study(("privacy = { minimum_cases = 1 }", "privacy = { minimum_cases = 1 }\ntable = { standardise = false }"))
    steps = learn(of, {"a": cohort(9), "b": cohort(9, 1)}, tmp_path)
    assert [type(step) for step in steps] == [Keep, Imputer]


def test_constant_and_absent_features_are_left_out(tmp_path: Path):
    of = study()
    steps = learn_table(of, NAMES, COURSE, 0, conversation(of, dict(members(of)), tmp_path)).steps
    assert isinstance(steps[0], Keep)
    assert steps[0].names == ("f0", "f1", "f2", "age")


def test_with_no_feature_left_the_study_stops(tmp_path: Path):
    with pytest.raises(StatisticError, match="course federated: every feature is missing or constant"):
        learn(study(), {"a": np.ones((4, 2)), "b": np.full((4, 2), np.nan)}, tmp_path)


def test_only_training_cases_and_trainers_are_asked(tmp_path: Path):
    of = study()
    sites = members(of)
    learn_table(of, NAMES, Course(LOCAL + "b", ("b",)), 0, conversation(of, dict(sites), tmp_path))
    assert [site for site, member in sites.items() if member.asked] == ["b"]
    assert all(isinstance(request, AskStatistic) for request in sites["b"].asked)


def test_the_table_is_learned_once_and_kept(tmp_path: Path):
    of = study()
    sites = members(of)
    store = CheckpointStore(tmp_path / "checkpoints", "d" * 64)
    talk = conversation(of, dict(sites), tmp_path)
    first = table_of(of, COURSE, 0, NAMES, talk, store)
    n_asked = len(sites["a"].asked)
    second = table_of(of, COURSE, 0, NAMES, talk, store)
    assert len(sites["a"].asked) == n_asked
    table = sites["a"]._opened.data.features.beside(sites["a"]._opened.data.clinical)
    assert applied(table, first).values.tobytes() == applied(table, second).values.tobytes()
    without_tables = study(('model = { kind = "linear" }', 'model = { kind = "cnn3d", channels = [8] }'))
    assert table_of(without_tables, COURSE, 1, NAMES, talk, store) == ()


def test_steps_survive_a_checkpoint_bit_by_bit(tmp_path: Path):
    steps = learn(study(), {"a": cohort(9), "b": cohort(9, 1)}, tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints", "d" * 64)
    store.save("table", steps_to_unit(steps))
    unit = store.load("table")
    assert unit is not None
    table = FeatureTable(cohort(5, 2), tuple(f"f{j}" for j in range(6)), tuple("abcde"))
    assert applied(table, steps_from_unit(unit)).values.tobytes() == applied(table, steps).values.tobytes()


def test_a_site_that_refuses_stops_the_table_and_is_named(tmp_path: Path):
    of = study()

    def disturb(site: str, request: Request) -> Reply | None:
        return Refusal(Code.SMALL_CELL) if site == "b" else None

    with pytest.raises(FederationError, match="statistics: site b refused AskStatistic: small_cell"):
        learn_table(of, NAMES, COURSE, 0, conversation(of, dict(members(of)), tmp_path, disturb=disturb))


@pytest.mark.parametrize(
    "odd", [{"other": np.ones(2)}, {}, {"n": np.ones(3)}, {"n": np.ones(2, dtype=np.float32)}, {"n": np.ones((2, 1))}]
)
def test_sums_that_do_not_fit_name_their_site(odd: dict[str, np.ndarray]):
    fits = {"n": np.ones(2)}
    assert agreeing({"a": fits, "b": fits}) == [fits, fits]
    with pytest.raises(FederationError, match="statistics of b have other fields or shapes than those of a"):
        agreeing({"a": fits, "b": odd, "c": fits})


def test_a_site_that_sends_odd_sums_stops_the_table(tmp_path: Path):
    of = study()

    def disturb(site: str, request: Request) -> Reply | None:
        return StatisticSums(3, {"cases": np.zeros(1)}) if site == "c" else None

    with pytest.raises(FederationError, match="statistics of c have other fields"):
        learn_table(of, NAMES, COURSE, 0, conversation(of, dict(members(of)), tmp_path, disturb=disturb))
