"""`[table]`, solved models, leave-one-site-out and subgroups: every rule has its sentence, every kind can be said."""

from __future__ import annotations

import pytest

from common.config.loading import digest
from common.config.study import StudyConfig
from common.statistics.solved import RidgeConfig
from tests.common.config.test_study import STUDY, changed, faults_of, study

TABLE = """
[table]
impute = "mode"
missing_feature = "drop"
pca = { n_components = 3 }
selection = [
  { kind = "variance", minimum = 0.01 },
  { kind = "correlation", largest = 0.95 },
  { kind = "univariate", test = "welch", keep = 20 },
  { kind = "mutual_information", keep = 15 },
  { kind = "mrmr", keep = 10 },
  { kind = "lasso" },
  { kind = "stability", keep = 5 },
]

[table.combat]
batch = "scanner"
covariates = ["sex"]
unseen_sites = "adapt"

"""
MODELS = """
[[models]]
name = "ridge"
model = { kind = "ridge" }
[[models]]
name = "svm"
calibration = "platt"
model = { kind = "svm" }
"""
OLD = STUDY[STUDY.index("[table]") : STUDY.index("[[models]]")]
FULL = changed("threshold = 0.5", 'threshold = 0.5\nsubgroups = [{ column = "sex", values = ["f", "m"] }]').replace(
    OLD, TABLE + MODELS
)
OUTCOME = STUDY[STUDY.index("[outcome]") : STUDY.index("[[images]]")]
NUMBER = '[outcome]\nkind = "regression"\ncolumn = "malignant"\nunit = "ml"\n'


def test_all_of_it_can_be_said():
    of = study(FULL)
    assert of.label_columns == ("scanner", "sex")
    assert of.clinical_names == ("age", "sex=m")
    assert of.target.classes == ("benign", "malignant")
    ridge, svm, logistic, _ = of.models
    assert isinstance(ridge.solved, RidgeConfig)
    assert (svm.calibration, svm.rounds, logistic.solved) == ("platt", 0, None)
    with pytest.raises(ValueError, match="ridge of kind ridge is solved"):
        _ = ridge.trained
    assert digest(of) != digest(study(FULL.replace('"adapt"', '"leave"')))


def test_one_site_is_left_out_in_each_fold():
    of = study(FULL.replace('kind = "holdout"\ntest_fraction = 0.3', 'kind = "leave_one_site_out"'))
    assert [of.left_out(fold) for fold in range(of.n_folds)] == ["north", "south"]
    assert study(FULL).left_out(0) is None


LEAVE = ('kind = "holdout"\ntest_fraction = 0.3', 'kind = "leave_one_site_out"')
RULES = [
    ('unseen_sites = "adapt"', "", "sites that are not in the fit need unseen_sites, adapt or leave"),
    ('covariates = ["sex"]', 'covariates = ["size"]', "covariate size is no [[clinical]] column"),
    ('covariates = ["sex"]', 'covariates = ["age"]', 'covariate age must be known of every case: missing = "exclude"'),
    ('covariates = ["sex"]', 'covariates = ["sex", "sex"]', "table.combat covariate given twice: sex"),
    ('batch = "scanner"', 'batch = "malignant"', "table.combat.batch: malignant is the outcome or the case"),
    ('batch = "scanner"', 'reference = "west"', "table.combat.reference: west is no training site"),
    ('kind = "ridge"', 'kind = "cox"', "kind cox needs survival as outcome, this study has two classes"),
    ('name = "ridge"', 'name = "ridge"\nrounds = 3', "kind ridge is solved, not trained: no rounds"),
    ('name = "logistic"\nrounds = 10', 'name = "logistic"', "models[logistic]: rounds: missing"),
    ('name = "logistic"', 'name = "logistic"\ncalibration = "platt"', "calibration: for solved models only"),
    ('test = "welch", keep = 20', 'test = "welch"', "give either keep or false_discovery_rate"),
    ('values = ["f", "m"] }]', 'values = ["f"], edges = [1] }]', "give either values or edges"),
    ('column = "sex", values = ["f", "m"] }]', 'column = "malignant", edges = [1] }]', "malignant is the outcome"),
    ('column = "sex", values = ["f", "m"] }]', 'column = "sex", edges = [2, 1] }]', "edges: 2, 1 must rise"),
    (OUTCOME, NUMBER, "table.selection[3]: univariate needs two classes as outcome, this study has number"),
    (OUTCOME, NUMBER, "table.selection[7]: stability needs two classes as outcome"),
    (OUTCOME, NUMBER, "model svm: kind svm needs two classes as outcome, this study has number"),
    (OUTCOME, NUMBER, "model svm: calibration needs two classes as outcome"),
    (OUTCOME, NUMBER, "evaluation.subgroups: only for classes as outcome"),
]


@pytest.mark.parametrize(("old", "new", "fault"), RULES, ids=[rule[2][:50] for rule in RULES])
def test_each_rule_has_its_sentence(old: str, new: str, fault: str):
    found = faults_of(changed(old, new, text=FULL))
    assert any(fault in got for got in found), found


def test_a_left_out_site_leaves_two_batches_and_no_reference():
    by_site = changed(*LEAVE, text=FULL.replace('batch = "scanner"', 'reference = "north"'))
    found = faults_of(by_site)
    assert any("1 training site is one batch, and ComBat needs two" in fault for fault in found)
    assert any("with leave_one_site_out the reference would be left out too" in fault for fault in found)


def test_the_outcome_is_kept_as_a_covariate_with_a_reason_and_classes_only():
    kept = changed('covariates = ["sex"]', 'outcome_kept_because = "a reason"', text=FULL)
    assert isinstance(study(kept), StudyConfig)
    found = faults_of(kept.replace(OUTCOME, NUMBER))
    assert any("only classes can be kept as a covariate" in fault for fault in found)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("elastic_net", "l1_ratio = 0"),
        ("forest", "n_trees = 0"),
        ("rbf_svm", "n_random = 5000"),
        ("boosting", "learning_rate = 2"),
        ("xgboost", "max_depth = 9"),
    ],
)
def test_a_setting_out_of_range_is_refused(kind: str, settings: str):
    found = faults_of(changed('kind = "ridge"', f'kind = "{kind}", {settings}', text=FULL))
    assert any(f"models[ridge].model.{settings.split(' =')[0]}" in fault for fault in found), found
