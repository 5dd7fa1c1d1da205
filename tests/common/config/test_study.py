"""The study file: every rule has a test, faults are listed at once, and the digest feels every value."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from common.config.loading import digest, load, parse
from common.config.study import StudyConfig
from common.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "configs"

STUDY = """
name = "lung"
title = "Nodules"
purpose = "Test"
seed = 1
site_column = "site"
local_only = false

[[sites]]
name = "north"
role = "training"
[[sites]]
name = "south"
[[sites]]
name = "west"
role = "external"

[outcome]
kind = "classification"
column = "malignant"
values = ["0", "1"]
names = ["benign", "malignant"]

[[images]]
name = "ct"
modality = "CT"
image = "{case_id}/ct.nii.gz"
roi = "{case_id}/roi.nii.gz"
roi_label = 1
[[images.steps]]
kind = "resample"
spacing_mm = [1.0, 1.0, 1.0]

[[clinical]]
column = "age"
kind = "numeric"
minimum = 18
maximum = 110
[[clinical]]
column = "sex"
kind = "categorical"
values = ["f", "m"]
missing = "exclude"

[[radiomics]]
image = "ct"
preset = "ct-lung"

[patch]
images = ["ct"]
spacing_mm = [1.0, 1.0, 2.0]
shape = [16, 16, 8]
window = [-1000, 400]

[split]
kind = "holdout"
test_fraction = 0.3

[table]
impute = "mean"
standardise = true
selection = [{ kind = "correlation", largest = 0.95 }]

[[models]]
name = "logistic"
rounds = 10
model = { kind = "linear" }
training = { optimiser = "sgd", learning_rate = 0.1, momentum = 0.5, batch_size = 8, local_epochs = 2, l2 = 0.1 }
[[models]]
name = "both"
rounds = 3
model = { kind = "fusion", channels = [8], blocks = 1 }
training = { learning_rate = 0.001, schedule = "cosine", warmup = 0.1, augment = "flips", gradient_clip = 1.0 }

[federated]
quorum = 2
round_deadline_s = 60
prepare_deadline_s = 100
strategy = { kind = "fedprox", mu = 0.1 }

[evaluation]
confidence = 0.95
threshold = 0.5
warn_below_events = 100

[privacy]
minimum_cases = 5
"""


def study(text: str = STUDY) -> StudyConfig:
    return parse(text, StudyConfig, source="study.toml")


def test_a_centred_model_and_a_strategy_that_takes_no_mean_do_not_fit():
    text = changed('{ kind = "fedprox", mu = 0.1 }', '{ kind = "fedadam" }')
    text = changed("channels = [8],", "channels = [8], centred = true,", text=text)
    fault = "model both: centred needs a strategy that takes the mean, not fedadam; fits: fedavg, fedprox"
    assert [found for found in faults_of(text) if "centred" in found] == [f"file: {fault}"]


def test_a_centred_model_and_a_code_that_leaves_values_out_do_not_fit():
    text = changed("channels = [8],", "channels = [8], centred = true,")
    text = changed("quorum = 2", 'quorum = 2\ncompression = { kind = "topk" }', text=text)
    fault = "model both: centred, and federated.compression topk would send a part of the means alone"
    assert [found for found in faults_of(text) if "centred" in found] == [f"file: {fault}"]


@pytest.mark.parametrize(("bound", "sample_level", "needed"), [(23, "", 24), (24, "", 0), (47, "sample_level", 48)])
def test_masked_sums_have_room_for_the_means_of_a_centred_model(bound: int, sample_level: str, needed: int):
    text = changed("channels = [8],", 'channels = [8], filters = "scattering", centred = true,')
    private = "sample_level = { target_epsilon = 8.0, target_delta = 1e-5, clipping_norm = 1.0 }\n" * bool(sample_level)
    masks = f"[privacy]\n{private}secure_aggregation = {{ value_bound = {bound} }}\n"
    found = [fault for fault in faults_of(changed("[privacy]\n", masks, text=text)) if "centred" in fault]
    fault = f"secure_aggregation.value_bound = {bound} has no room for the means of its features; at least {needed}"
    assert found == ([f"file: model both: centred, and privacy.{fault}"] if needed else [])


def faults_of(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        study(text)
    return list(caught.value.faults)


def changed(old: str, new: str, *, text: str = STUDY) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("study.toml")), ids=lambda path: path.parent.name)
def test_study_files_of_the_repository_have_no_fault(file: Path):
    load(file, StudyConfig)


def test_five_faults_of_five_kinds_are_listed_at_once():
    text = STUDY
    text = changed("seed = 1", 'seed = "one"', text=text)  # wrong type
    text = changed('title = "Nodules"\n', "", text=text)  # missing key
    text = changed("threshold = 0.5", "threshhold = 0.5", text=text)  # unknown key
    text = changed('[[radiomics]]\nimage = "ct"', '[[radiomics]]\nimage = "mr"', text=text)  # unknown image name
    text = changed("quorum = 2", "quorum = 3", text=text)  # a quorum that can never be met
    assert faults_of(text) == [
        "title: missing",
        "seed: got 'one', expected a whole number",
        "evaluation.threshhold: unknown key",
        "file: radiomics: no [[images]] named mr; there are ct",
        "file: federated.quorum: 3 of 2 training sites can never be met",
    ]


def test_five_faults_between_fields_are_listed_at_once():
    text = STUDY[: STUDY.index("[patch]")] + STUDY[STUDY.index("[split]") :]  # fusion without a patch
    text = changed('column = "age"', 'column = "malignant"', text=text)
    text = changed('preset = "ct-lung"', 'preset = "ct-lunge"', text=text)
    text = changed('name = "south"', 'name = "north"', text=text)
    text = changed('name = "both"', 'name = "logistic"', text=text)
    found = faults_of(text)
    assert len(found) == 5
    for part in (
        "site given twice: north",
        "clinical column is the outcome itself: malignant",
        "no preset ct-lunge; there are",
        "model given twice: logistic",
        "model logistic: kind fusion needs [patch]",
    ):
        assert sum(part in fault for fault in found) == 1, part


RULES = [
    ('name = "ct"\n', 'name = "CT"\n', "images[CT].name: got 'CT', expected text that matches"),
    ('kind = "linear"', 'kind = "tree"', "models[logistic].model.kind: got 'tree', expected one of 'linear',"),
    ('kind = "resample"', 'kind = "shrink"', "images[ct].steps[1].kind: got 'shrink', expected one of 'to_lps',"),
    ("channels = [8]", "channels = [9]", "models[both].model: channels [9] are no multiples of group_size 8"),
    (
        "channels = [8]",
        "channels = [8, 8, 8, 8]",
        "model both: model fusion needs a patch of at least 16 voxels a side",
    ),
    ('role = "training"', 'role = "external"', "quorum: 2 of 1 training sites can never be met"),
    ('names = ["benign", "malignant"]', 'names = ["benign"]', "outcome.names"),
    ('names = ["benign", "malignant"]', 'names = ["x", "x"]', "outcome: names must differ from one another"),
    ('values = ["0", "1"]', 'values = ["0", "1", "2"]', "values and names must pair up, got 3 values, 2 names"),
    ('image = "{case_id}/ct.nii.gz"', 'image = "/{case_id}.nii"', "/{case_id}.nii leaves the data folder"),
    ('image = "{case_id}/ct.nii.gz"', 'image = "../{case_id}.nii"', "../{case_id}.nii leaves the data folder"),
    ('image = "{case_id}/ct.nii.gz"', 'image = "{patient}/{case_id}"', "has braces around something else than case_id"),
    ('image = "{case_id}/ct.nii.gz"', 'image = "ct.nii.gz"', "ct.nii.gz has no {case_id}"),
    ("minimum = 18", "minimum = 118", "clinical[age]: the range 118 to 110 is empty"),
    ('values = ["f", "m"]', 'values = ["f"]', "clinical[sex]: a categorical column needs at least 2 values"),
    ('values = ["f", "m"]', 'values = ["f", "f"]', "clinical[sex]: values must differ"),
    ('values = ["f", "m"]', 'values = ["f", "m"]\nminimum = 1', "clinical[sex]: only numbers have a range"),
    ("minimum = 18", 'values = ["1", "2"]', "clinical[age]: a numeric column has no list of values"),
    ('column = "age"', 'column = "case_id"', "clinical column case_id is the case_column"),
    ('column = "age"', 'column = "site"', "clinical column site is the site_column"),
    ('column = "age"', 'column = "sex"', "clinical column given twice: sex"),
    ('column = "malignant"', 'column = "site"', "outcome column site is the site_column"),
    ('site_column = "site"', 'site_column = "case_id"', "case_column and site_column are both case_id"),
    ("window = [-1000, 400]", "window = [400, 400]", "patch: window must rise, got (400.0, 400.0)"),
    ('[patch]\nimages = ["ct"]', '[patch]\nimages = ["pet"]', "patch.images: no [[images]] named pet; there are ct"),
    (
        'kind = "resample"\nspacing_mm = [1.0, 1.0, 1.0]',
        'kind = "nyul"',
        "images[ct]: step 1 (nyul): is for MR, this image is CT",
    ),
    ('kind = "resample"\nspacing_mm = [1.0, 1.0, 1.0]', 'kind = "resegment"\nlower = 0', "resegment would not reach"),
    (
        'kind = "resample"\nspacing_mm = [1.0, 1.0, 1.0]',
        'kind = "check_registration"\nreference = "ct"',
        "images ct: check_registration names ct, other images are: none",
    ),
    (
        "[patch]\n",
        "[robustness]\nmost_cases = 3\n[patch]\n",
        "robustness.most_cases: 3 is below privacy.minimum_cases",
    ),
    ("[patch]\n", "[robustness]\nminimum_icc = 1\n[patch]\n", "robustness.minimum_icc: got 1"),
    ("largest = 0.95", "largest = 1", "table.selection[1].largest: got 1"),
    ("confidence = 0.95", "confidence = 95", "evaluation.confidence: got 95"),
    (
        "learning_rate = 0.1",
        "learning_rate = inf",
        "models[logistic].training.learning_rate: got inf, expected a finite",
    ),
    (
        "[privacy]\n",
        "[privacy]\nsample_level = { target_epsilon = 8.0, target_delta = 1e-4 }\n",
        "privacy.sample_level: model both: clipping_norm takes the place of gradient_clip",
    ),
    (
        "[privacy]\n",
        "[privacy]\nsample_level = { target_epsilon = 8.0, target_delta = 0.5 }\n",
        "privacy.sample_level.target_delta: got 0.5",
    ),
    (
        "[privacy]\n",
        '[[models]]\nname = "solved"\nmodel = { kind = "ridge" }\n'
        "[privacy]\nsample_level = { target_epsilon = 8.0, target_delta = 1e-4 }\n",
        "privacy.sample_level: model solved of kind ridge is solved from exact sums, which no noise protects",
    ),
    (
        'rounds = 3\nmodel = { kind = "fusion",',
        'rounds = 1\nmodel = { kind = "fusion", centred = true,',
        "model both: centred needs 2 rounds or more",
    ),
    (
        "[privacy]\n",
        '[[models]]\nname = "c"\nrounds = 3\ntraining = {}\n'
        'model = { kind = "cnn3d", channels = [8], centred = true }\n'
        "[privacy]\nsite_level = { clipping_norm = 1.0, noise_multiplier = 1.0, target_delta = 1e-3 }\n",
        "model c: centred, and privacy.site_level would clip the means",
    ),
    ("seed = 1", "seed = -1", "seed: got -1, expected greater than or equal to 0"),
    ("seed = 1", "seed = 1\nschema_version = 2", "schema_version: got 2, expected 1"),
]


@pytest.mark.parametrize(("old", "new", "fault"), RULES, ids=[rule[2][:60] for rule in RULES])
def test_each_rule_has_its_sentence(old: str, new: str, fault: str):
    found = faults_of(changed(old, new))
    assert any(fault in got for got in found), found


def test_a_table_model_needs_a_table():
    text = STUDY[: STUDY.index("[[clinical]]")] + STUDY[STUDY.index("[patch]") :]
    assert faults_of(text) == [
        "file: model logistic: kind linear needs [[radiomics]] or [[clinical]]",
        "file: model both: kind fusion needs [[radiomics]] or [[clinical]]",
    ]


def test_robustness_needs_radiomics():
    text = STUDY[: STUDY.index("[[radiomics]]")] + "[robustness]\n" + STUDY[STUDY.index("[patch]") :]
    assert "file: robustness: there are no [[radiomics]] to measure under perturbation" in faults_of(text)


def test_survival_intervals_rise_and_columns_differ():
    outcome = 'kind = "survival"\nevent_column = "dead"\nevent_values = ["1"]\ncensored_values = ["1"]\n'
    outcome += 'time_column = "dead"\n'
    text = STUDY[: STUDY.index("[outcome]")] + "[outcome]\n" + outcome + "interval_ends_days = [365, 180]\n"
    found = faults_of(text + STUDY[STUDY.index("[[images]]") :])
    assert found == [
        "outcome: interval_ends_days: 365, 180 must rise",
        "outcome: event_column and time_column must differ",
        "outcome: values stand for the event and for its absence: 1",
    ]


@pytest.mark.parametrize("name", ["pooled", "internal", "external", "federated", "unassigned", "all"])
def test_a_hospital_cannot_have_the_name_of_a_group_of_the_report(name: str):
    (fault,) = faults_of(changed('name = "south"', f'name = "{name}"'))
    assert f"site name {name}: the report means" in fault


def test_the_coordinator_learns_which_sites_train():
    assert study().training_sites == ("north", "south")
    assert (study().n_training, study().n_folds) == (2, 1)


def test_model_inputs_turn_x_y_z_to_d_h_w():
    inputs = study().model_inputs(7)
    assert (inputs.n_channels, inputs.patch_shape, inputs.n_features, inputs.n_outputs) == (2, (8, 16, 16), 7, 1)


def _leaves(content: Any, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    if isinstance(content, dict):
        return [leaf for key, value in content.items() for leaf in _leaves(value, (*place, key))]
    if isinstance(content, list):
        return [leaf for i, value in enumerate(content) for leaf in _leaves(value, (*place, i))]
    return [place]


OTHER = {"north": "east", "south": "east", "west": "east", "training": "external", "external": "training"} | {
    "mean": "median", "sgd": "adam", "cosine": "constant", "flips": "none", "exclude": "impute", "ct-lung": "fast",
    "CT": "PET", "malignant": "state", "fedprox": "fedavg", "holdout": "folds",
}  # fmt: skip


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.75
    return OTHER.get(value, f"x{value}")


def test_the_digest_feels_every_value():
    """Each value of the file in turn is replaced by another; where the file stays valid, the digest differs."""
    content = study().model_dump(mode="json")
    reference = digest(study())
    seen = {reference}
    felt = 0
    places = _leaves(tomllib.loads(STUDY))
    for place in places:
        other = study().model_dump(mode="json")
        holder = other
        for part in place[:-1]:
            holder = holder[part]
        holder[place[-1]] = _other(holder[place[-1]])
        try:
            replaced = StudyConfig.model_validate(other)
        except ValueError:
            continue  # a value that another one must agree with, or a kind
        felt += 1
        assert digest(replaced) not in seen, place
        seen.add(digest(replaced))
    assert felt > 0.6 * len(places)
    assert digest(StudyConfig.model_validate(content)) == reference


def test_the_digest_does_not_depend_on_the_order_of_the_file():
    head, *tables = STUDY.split("\n\n")
    single = [table for table in tables if not table.startswith("[[")]
    arrays = [table for table in tables if table.startswith("[[")]
    assert digest(study("\n\n".join([head, *reversed(single), *arrays]))) == digest(study())


def test_comments_and_spaces_are_not_part_of_the_study():
    assert digest(study(STUDY.replace("seed = 1", "seed    =    1   # a comment"))) == digest(study())
