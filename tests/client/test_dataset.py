"""Arrays of a site, and which cases a fold trains and tests on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.dataset import NEVER_TESTED, assign_folds, build_dataset, make_outcome, strata
from client.ingest.manifest import CaseRow
from client.preparation import PreparedCase, study_feature_names
from common.config.study import StudyConfig
from common.errors import StatisticError
from common.outcomes import ClassOutcome, ScalarOutcome, SurvivalOutcome
from tests.client.cases import STUDY, study

HOLDOUT = 'split = { kind = "holdout", test_fraction = 0.4 }'
FOLDS = 'split = { kind = "folds", count = 4 }'
N_FEATURES = len(study_feature_names(study()))


def folds_study() -> StudyConfig:
    return study(STUDY, (HOLDOUT, FOLDS))


COHORTS = st.lists(st.integers(0, 2), min_size=1, max_size=60).map(
    lambda labels: ([f"p{i:03d}" for i in range(len(labels))], labels)
)


@settings(max_examples=50)
@given(COHORTS, st.randoms(use_true_random=False))
def test_cross_validation_tests_each_case_once_and_keeps_proportions(cohort, random):
    ids, labels = cohort
    tested = assign_folds(ids, labels, folds_study(), trains=True)
    assert set(tested) <= set(range(4))
    sizes = np.bincount(tested, minlength=4)
    assert sizes.max() - sizes.min() <= 1
    for label in set(labels):
        counts = np.bincount(tested[np.array(labels) == label], minlength=4)
        assert counts.max() - counts.min() <= 1
    order = list(range(len(ids)))
    random.shuffle(order)
    shuffled = assign_folds([ids[i] for i in order], [labels[i] for i in order], folds_study(), trains=True)
    assert {ids[i]: fold for i, fold in zip(order, shuffled, strict=True)} == dict(zip(ids, tested, strict=True))


@settings(max_examples=50)
@given(COHORTS, st.randoms(use_true_random=False))
def test_a_holdout_takes_its_fraction_of_each_class(cohort, random):
    ids, labels = cohort
    tested = assign_folds(ids, labels, study(), trains=True)
    assert set(tested) <= {0, NEVER_TESTED}
    for label, n in Counter(labels).items():
        n_tested = int((tested[np.array(labels) == label] == 0).sum())
        assert abs(n_tested - 0.4 * n) <= 0.5
    order = list(range(len(ids)))
    random.shuffle(order)
    shuffled = assign_folds([ids[i] for i in order], [labels[i] for i in order], study(), trains=True)
    assert {ids[i]: fold for i, fold in zip(order, shuffled, strict=True)} == dict(zip(ids, tested, strict=True))


def test_the_seed_decides_who_is_tested():
    ids, labels = [f"p{i}" for i in range(40)], [0] * 40
    other = study(STUDY, ("seed = 3", "seed = 4"))
    a, b = (assign_folds(ids, labels, of, trains=True) for of in (study(), other))
    assert (a != b).any()


@pytest.mark.parametrize("of", [study(), folds_study()], ids=["holdout", "folds"])
def test_an_external_site_never_trains(of: StudyConfig):
    data = build_dataset(cases(30), of, site="west")
    assert not data.trains
    tested = np.concatenate([data.rows(fold, "test") for fold in range(of.n_folds)])
    assert sorted(tested) == list(range(30))
    assert not any(data.rows(fold, "train").size for fold in range(of.n_folds))


def cases(n: int, *, clinical: float = 60.0, patch: bool = True) -> list[tuple[CaseRow, PreparedCase]]:
    return [
        (
            CaseRow(f"p{i:03d}", "north", {}, {"age": clinical + i, "sex=m": float(i % 2)}, (float(i % 3 == 0),)),
            PreparedCase(
                f"p{i:03d}",
                np.full(N_FEATURES, float(i)),
                np.full((2, 8, 8, 8), i, dtype=np.float32) if patch else None,
                (),
            ),
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("of", [study(), folds_study()], ids=["holdout", "folds"])
def test_train_and_test_of_a_fold_are_disjoint_and_all(of: StudyConfig):
    data = build_dataset(cases(30), of, site="north")
    for fold in range(of.n_folds):
        train, test = data.rows(fold, "train"), data.rows(fold, "test")
        assert not set(train) & set(test)
        assert len(train) + len(test) == 30
        labels = np.array(strata(data.outcome))
        assert labels[test].mean() == pytest.approx(labels.mean(), abs=0.15)


def test_rows_of_all_arrays_are_sorted_by_case_and_belong_together():
    shuffled = [cases(10)[i] for i in (3, 9, 0, 1, 8, 2, 7, 4, 6, 5)]
    data = build_dataset(shuffled, study(), site="north")
    assert data.features.case_ids == data.clinical.case_ids == tuple(f"p{i:03d}" for i in range(10))
    np.testing.assert_array_equal(data.features.values[:, 0], np.arange(10))
    np.testing.assert_array_equal(data.clinical.values, [[60.0 + i, i % 2] for i in range(10)])
    assert data.clinical.names == ("age", "sex=m")
    assert data.patches is not None
    np.testing.assert_array_equal(data.patches[:, 0, 0, 0, 0], np.arange(10))
    assert isinstance(data.outcome, ClassOutcome)
    np.testing.assert_array_equal(data.outcome.labels, [i % 3 == 0 for i in range(10)])
    assert data.batch == ("north",) * 10
    assert data.trains


def test_the_dataset_does_not_depend_on_the_order_of_the_manifest():
    one, other = (build_dataset(order, study(), site="north") for order in (cases(20), cases(20)[::-1]))
    np.testing.assert_array_equal(one.tested_in, other.tested_in)
    np.testing.assert_array_equal(one.features.values, other.features.values)


def test_parts_that_a_study_lacks_are_empty():
    bare = study(
        STUDY,
        ('radiomics = [{ image = "ct", preset = "fast" }]', ""),
        ('patch = { images = ["ct"], spacing_mm = [2, 2, 2], shape = [8, 8, 8], window = [-1000, 400] }', ""),
    )
    listed = [(r, PreparedCase(p.case_id, np.zeros(0), None, ())) for r, p in cases(3)]
    data = build_dataset(listed, bare, site="north")
    assert data.features.values.shape == (3, 0)
    assert data.patches is None


def test_a_site_without_a_case_says_so():
    with pytest.raises(StatisticError, match="site north has no usable case"):
        build_dataset([], study(), site="north")


def outcome_of(kind: str, values: Sequence[tuple[float, ...]]):
    configs = {
        "regression": 'kind = "regression", column = "x", unit = "ml"',
        "survival": 'kind = "survival", event_column = "e", event_values = ["1"], censored_values = ["0"],'
        ' time_column = "t", interval_ends_days = [365]',
    }
    start, end = STUDY.index("outcome ="), STUDY.index("clinical =")
    return make_outcome(study(STUDY[:start] + f"outcome = {{ {configs[kind]} }}\n" + STUDY[end:]).outcome, values)


def test_outcomes_of_every_kind_and_what_a_split_keeps_in_proportion():
    number = outcome_of("regression", [(1.5,), (2.5,)])
    assert isinstance(number, ScalarOutcome)
    assert (number.unit, strata(number)) == ("ml", [0, 0])
    survival = outcome_of("survival", [(1.0, 10.0), (0.0, 5.0)])
    assert isinstance(survival, SurvivalOutcome)
    assert strata(survival) == [1, 0]
    np.testing.assert_array_equal(survival.time_days, [10, 5])
