"""`[privacy.statistics]`: every rule has a test; questions are counted, and the noise follows from their number."""

from __future__ import annotations

import pytest

from common.config.loading import parse
from common.config.private_statistics import cost_of_a_question, declared_ranges, planned_questions
from common.config.study import StudyConfig
from common.errors import ConfigError
from common.privacy.ledger import epsilon
from tests.server.table_study import OUTCOMES, STUDY

LINEAR = """
[[models]]
name = "linear"
rounds = 4
model = { kind = "linear" }
training = {}
"""
AGE = 'column = "age", kind = "numeric",'


def study(table: str = "", *, settings: str = "", kind: str = "classes", models: str = LINEAR, **changes: str):
    text = STUDY.format(outcome=OUTCOMES[kind], models=models, table=table, minimum=3)
    private = f"statistics = {{ target_epsilon = 4, target_delta = 1e-5{settings and f', {settings}'} }}"
    text = text.replace("minimum_cases = 3", f"minimum_cases = 3, {private}")
    text = text.replace(AGE, f"{AGE} minimum = 30, maximum = 90,")
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    return parse(text, StudyConfig, source="study.toml")


def refused(match: str, *args, **settings) -> None:
    with pytest.raises(ConfigError, match=match):
        study(*args, **settings)


def test_questions_are_counted():
    assert planned_questions(study()) == 1 + 1
    assert planned_questions(study(settings="learn_bounds = true, spare_questions = 3")) == 3 + 1 + 3
    table = """[table]
combat = { unseen_sites = "leave" }
selection = [{ kind = "variance" }, { kind = "correlation", largest = 0.9 }, { kind = "univariate", keep = 3 }]"""
    assert planned_questions(study(table)) == 1 + 1 + 2 + 1
    folds = ('split = { kind = "holdout", test_fraction = 0.3 }', 'split = { kind = "folds", count = 3 }')
    assert planned_questions(study(table, folds=folds)) == 3 * (1 + 1 + 2 + 1)
    nyul = (
        'modality = "CT", image = "{case_id}.nii", roi = "{case_id}_roi.nii"',
        'modality = "MR", image = "{case_id}.nii", roi = "{case_id}_roi.nii", steps = [{ kind = "nyul", '
        "percentiles = [5, 50, 95], body_above = 0 }]",
    )
    assert planned_questions(study(nyul=nyul)) == 1 + 1 + 1
    public = parse(
        STUDY.format(outcome=OUTCOMES["classes"], models=LINEAR, table="", minimum=3), StudyConfig, source=""
    )
    assert planned_questions(public) == 0


def test_the_noise_uses_the_target_up_and_no_more():
    of = study(settings="spare_questions = 10")
    event = cost_of_a_question(of)
    assert 3.99 < epsilon([event] * 12, 1e-5) <= 4
    assert epsilon([event] * 13, 1e-5) > 4


def test_ranges_come_from_the_clinical_columns_and_the_first_pattern_that_fits():
    ranges = 'bounds = [{ columns = "f01", minimum = 0, maximum = 1 }, { columns = "f*", minimum = -5, maximum = 5 }]'
    found = declared_ranges(study(settings=ranges), ("f01", "f02", "g", "age", "sex=m"))
    assert found == {"f01": (0, 1), "f02": (-5, 5), "age": (30, 90), "sex=m": (0, 1)}


def test_an_empty_range_is_refused():
    refused("the range 1 to 1 is empty", settings='bounds = [{ columns = "f", minimum = 1, maximum = 1 }]')


def test_solved_models_are_refused():
    solved = '[[models]]\nname = "ridge"\nmodel = { kind = "ridge", penalty = 0.1 }'
    refused("model ridge: kind ridge has no private version, because its questions", models=solved)


def test_a_median_is_refused():
    refused("a private median needs many counts", '[table]\nimpute = "median"')
    assert study('[table]\nimpute = "mode"').table.impute == "mode"


def test_scanners_as_batches_are_refused():
    refused(
        "which scanner a case was on is not public", '[table]\ncombat = { batch = "scanner", unseen_sites = "leave" }'
    )


@pytest.mark.parametrize("setting", ['covariates = ["age"]', 'outcome_kept_because = "a test"'])
def test_covariates_of_combat_are_refused(setting: str):
    refused("covariates have no private version", f'[table]\ncombat = {{ {setting}, unseen_sites = "leave" }}')


def test_adapting_to_unseen_sites_is_refused():
    refused("adapt lets each case change the scores of all others", '[table]\ncombat = { unseen_sites = "adapt" }')


@pytest.mark.parametrize(
    "step",
    [
        '{ kind = "mutual_information", keep = 3 }',
        '{ kind = "mrmr", keep = 3 }',
        '{ kind = "lasso" }',
        '{ kind = "stability", keep = 3 }',
    ],
)
def test_selections_without_private_version_are_refused(step: str):
    refused(r"table.selection\[1\]: .* has no private version: ", f"[table]\nselection = [{step}]")


def test_components_are_refused():
    refused("table.pca has no private version", "[table]\npca = { n_components = 2 }")


def test_robustness_is_refused():
    robustness = '[robustness]\nrotations_deg = [-8, 8]\nminimum_icc = 0.8\ndecides = "point"\nmost_cases = 6\n'
    refused("robustness has no private version", models=robustness + LINEAR)


@pytest.mark.parametrize("kind", ["three", "number", "survival"])
def test_outcomes_other_than_two_classes_are_refused(kind: str):
    refused("only two classes have", kind=kind)


def test_subgroups_are_refused():
    groups = '[[evaluation.subgroups]]\ncolumn = "sex"\nvalues = ["f", "m"]\n'
    refused("each would be paid once more", models=LINEAR + groups)


def test_baselines_of_single_hospitals_are_refused():
    refused("local_only: each hospital's own models", models="local_only = true\n" + LINEAR)


def test_a_clinical_number_needs_a_range_or_learned_bounds():
    unknown = (f"{AGE} minimum = 30, maximum = 90,", AGE)
    refused("clinical column age: private statistics need", unknown=unknown)
    assert study(settings="learn_bounds = true", unknown=unknown)
