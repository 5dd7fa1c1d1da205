"""Tables beside the training table at one site: whose cases are in them, what may be asked, what a restart keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.imaging.landmarks import with_all_landmarks
from client.prepared_study import PreparedStudy
from client.side_tables import repeated_cases
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import Code, GateError, MessageError
from common.journal import JsonLines
from common.messages import AskStatistic, Prepare
from common.statistics import encode_query
from common.statistics.moments import MomentQuery
from common.statistics.nyul import landmark_names
from common.statistics.quantiles import CountQuery
from common.statistics.reliability import reliability_names
from tests.client.cases import STUDY, row, study, write_case, write_manifest

N_CASES = 12
PERCENTILES = (10.0, 50.0, 90.0)
LEARNED = {"ct": (0.0, 40.0, 100.0)}
NYUL = STUDY.replace('modality = "CT"', 'modality = "MR"\nsteps = [{ kind = "nyul", percentiles = [10, 50, 90] }]')
ROBUST = """
[robustness]
rotations_deg = [-5, 5]
translations = [0.5]
noise_repetitions = 0
volume_changes = [0]
most_cases = 7
"""
FOLDS = ('split = { kind = "holdout", test_fraction = 0.4 }', 'split = { kind = "folds", count = 3 }')
LEAVING = (FOLDS[0], 'split = { kind = "leave_one_site_out" }')


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital")
    ids = [f"p{i:02d}" for i in range(N_CASES)]
    for case_id in ids:
        write_case(folder / "images", case_id)
    write_manifest(folder / "cases.csv", [row(c, malignant=str(i % 2)) for i, c in enumerate(ids)])
    return folder


def prepared(home: Path, of: StudyConfig, site: str = "north") -> PreparedStudy:
    config = SiteConfig(
        site=site,
        manifest=home / "cases.csv",
        data=home / "images",
        state=home / f"state-{site}",
        minimum_cases=2,
        studies=(Path("study.toml"),),
    )
    return PreparedStudy(of, config, JsonLines(config.state / "log.jsonl"))


def ask(table: str, names: tuple[str, ...], fold: int = 0, landmarks: dict[str, tuple[float, ...]] | None = None):
    query = MomentQuery(names, "all", ("all",), np.zeros((1, len(names))), 1)
    return AskStatistic("d", fold, *encode_query(query), (), table, landmarks or {})


def landmark_question(fold: int = 0) -> AskStatistic:
    return ask("landmarks.ct", landmark_names("ct", PERCENTILES), fold)


def test_a_holdout_learns_landmarks_from_its_training_cases(home: Path):
    at_site = prepared(home, study(NYUL))
    answer = at_site.statistic(landmark_question())
    training = at_site.opened(LEARNED).data.rows(0, "train")
    assert answer.n_cases == len(training) == 8
    assert answer.sums["present"].tolist() == [[8, 8, 8]]


@pytest.mark.parametrize("split", [FOLDS, LEAVING], ids=["folds", "leave one site out"])
def test_with_several_folds_all_cases_are_used_and_every_fold_hears_the_same(home: Path, split: tuple[str, str]):
    of = study(NYUL, split)
    answers = [prepared(home, of).statistic(landmark_question(fold)) for fold in range(of.n_folds)]
    assert {answer.n_cases for answer in answers} == {N_CASES}
    assert all(np.array_equal(a.sums["power_1"], answers[0].sums["power_1"]) for a in answers)
    with pytest.raises(MessageError, match="fold"):
        prepared(home, of).statistic(landmark_question(of.n_folds))


def test_a_site_that_does_not_train_gives_nothing_to_learn_from(home: Path):
    external = prepared(home, study(NYUL), site="west")
    with pytest.raises(MessageError, match="asked of sites that train"):
        external.answer_prepare(Prepare("d", 1.0, "landmarks.ct"))
    with pytest.raises(MessageError, match="asked of sites that train"):
        external.statistic(landmark_question())
    assert external.own_landmarks().keys() == {"ct"}  # for its own eyes


def test_own_landmarks_are_those_of_all_own_cases(home: Path):
    at_site = prepared(home, study(NYUL))
    rows = at_site.side_table("landmarks.ct").cohort.table.values
    np.testing.assert_allclose(at_site.own_landmarks()["ct"], rows.mean(axis=0), rtol=1e-12)
    assert len(rows) == N_CASES


def test_other_landmarks_are_other_features_and_both_stay_in_the_cache(home: Path):
    at_site = prepared(home, study(NYUL))
    first = at_site.opened(LEARNED).data.features.values
    other = at_site.opened({"ct": (0.0, 60.0, 100.0)}).data.features.values
    assert not np.array_equal(first, other)
    n_files = len(list((home / "state-north" / "cache").iterdir()))
    again = prepared(home, study(NYUL)).opened(LEARNED).data.features.values
    np.testing.assert_array_equal(again, first)
    assert len(list((home / "state-north" / "cache").iterdir())) == n_files


@pytest.mark.parametrize("landmarks", [{}, LEARNED | {"t1": (0.0, 1.0)}, {"ct": (0.0, 1.0)}, {"ct": (3.0, 2.0, 1.0)}])
def test_landmarks_that_do_not_fit_the_study_are_refused(home: Path, landmarks: dict[str, tuple[float, ...]]):
    with pytest.raises(MessageError):
        prepared(home, study(NYUL)).answer_prepare(Prepare("d", 0.0, landmarks=landmarks))
    with pytest.raises(MessageError):
        with_all_landmarks(study(), LEARNED)


@pytest.mark.parametrize("table", ["landmarks.ct", "repeats.ct", "repeats.mr"])
def test_a_table_that_the_study_does_not_have_is_refused(home: Path, table: str):
    with pytest.raises(MessageError, match=f"this study has no table {table}"):
        prepared(home, study()).answer_prepare(Prepare("d", 0.0, table))


def test_repeats_are_of_some_training_cases_and_each_fold_hears_its_own(home: Path):
    of = study(STUDY + ROBUST, FOLDS)
    at_site = prepared(home, of)
    data = at_site.opened().data
    chosen = repeated_cases(data.features.case_ids, data.tested_in, of)
    assert len(chosen) == len(set(chosen)) == 7
    names = reliability_names(("ct_stat_mean",), 2)
    by_id = dict(zip(data.features.case_ids, data.tested_in.tolist(), strict=True))
    for fold in range(of.n_folds):
        n = sum(by_id[case_id] != fold for case_id in chosen)
        if 7 - n == 1:  # the one case held out would be the difference of two answers
            with pytest.raises(GateError) as error:
                at_site.statistic(ask("repeats.ct", names, fold))
            assert error.value.code == Code.SMALL_CELL
        else:
            assert at_site.statistic(ask("repeats.ct", names, fold)).n_cases == n


def test_a_holdout_repeats_training_cases_only(home: Path):
    of = study(STUDY + ROBUST)
    data = prepared(home, of).opened().data
    chosen = repeated_cases(data.features.case_ids, data.tested_in, of)
    training = {data.features.case_ids[i] for i in data.rows(0, "train")}
    assert training.issuperset(chosen)
    fewer = repeated_cases(
        data.features.case_ids, data.tested_in, study(STUDY + ROBUST, ("most_cases = 7", "most_cases = 3"))
    )
    assert set(fewer) < set(chosen)


def test_a_case_that_cannot_be_measured_again_is_counted(home: Path, tmp_path: Path):
    of = study(
        STUDY + ROBUST, ("rotations_deg = [-5, 5]", "rotations_deg = [5]"), ("changes = [0]", "changes = [-0.89, 0]")
    )
    counts = prepared(home, of).prepare(60.0, "repeats.ct")
    assert counts.n_listed == 7
    assert counts.n_usable + sum(counts.exclusions.values()) == 7
    assert counts.feature_names[0].startswith("ct_")


def test_side_tables_answer_sums_and_nothing_else(home: Path):
    at_site = prepared(home, study(NYUL))
    query = CountQuery(landmark_names("ct", PERCENTILES), "all", ("all",), np.full((3, 1), 50.0))
    with pytest.raises(MessageError, match="answers numbers of cases and sums of values, not counts"):
        at_site.statistic(AskStatistic("d", 0, *encode_query(query), (), "landmarks.ct"))
    with pytest.raises(ValueError, match="takes no steps"):
        AskStatistic("d", 0, "moments", {}, ("step",), "landmarks.ct")  # type: ignore[arg-type]
