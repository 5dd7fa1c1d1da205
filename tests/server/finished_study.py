"""A finished study as it lies on disk, made by the code that a real one uses: sums of seeded scores in checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.arrays import Parameters
from common.config.loading import digest, parse
from common.config.study import StudyConfig
from common.errors import GateError
from common.evaluation import evaluation_sums
from common.journal import JsonLines
from common.outcomes import ClassOutcome, Outcome, ScalarOutcome, SurvivalOutcome
from common.strategies import ServerState
from server.checkpoint import CheckpointStore, Unit
from server.opening import JOURNAL_FILE, STUDY_FILE
from server.training_state import SiteRound, TrainingState

OUTCOMES = {
    "binary": 'kind = "classification"\ncolumn = "y"\nvalues = ["0", "1"]\nnames = ["benign", "malignant"]',
    "classes": 'kind = "classification"\ncolumn = "y"\nvalues = ["a", "b", "c"]\nnames = ["low", "middle", "high"]',
    "number": 'kind = "regression"\ncolumn = "y"\nunit = "points"\ncentre = 20.0\nscale = 5.0',
    "survival": 'kind = "survival"\nevent_column = "dead"\nevent_values = ["1"]\ncensored_values = ["0"]\n'
    'time_column = "days"\ninterval_ends_days = [365.0, 730.0]',
}

STUDY = """
name = "example"
title = "{title}"
purpose = "An example."
seed = 7
local_only = true

[[sites]]
name = "east"
[[sites]]
name = "north"
[[sites]]
name = "west"
role = "external"

[outcome]
{outcome}

[[images]]
name = "ct"
modality = "CT"
image = "{{case_id}}/ct.nii.gz"
roi = "{{case_id}}/roi.nii.gz"

[[radiomics]]
image = "ct"
preset = "fast"

{split}

[[models]]
name = "radiomics"
rounds = 3
model = {{ kind = "linear" }}
training = {{ learning_rate = 0.1, batch_size = 16, local_epochs = 1 }}

[evaluation]
warn_below_events = {warn_below}

[privacy]
minimum_cases = {minimum}
"""

COURSES = {"federated": ("east", "north"), "local-east": ("east",), "local-north": ("north",)}
POOLED = {"pooled": ("pooled",)}


@dataclass
class Finished:
    """Where the run lies, and every single prediction that no real study could collect in one place."""

    folder: Path
    study: StudyConfig
    predicted: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=dict)
    truth: dict[tuple[str, str], list[Outcome]] = field(default_factory=dict)


def study_text(
    kind: str = "binary", *, folds: int = 0, warn_below: int = 100, minimum: int = 1, title: str = "An example"
) -> str:
    split = f'[split]\nkind = "folds"\ncount = {folds}' if folds else ""
    return STUDY.format(outcome=OUTCOMES[kind], split=split, warn_below=warn_below, minimum=minimum, title=title)


def write_run(
    folder: Path,
    text: str,
    *,
    courses: dict[str, tuple[str, ...]] = COURSES,
    sizes: dict[str, int] | None = None,
    offsets: dict[str, float] | None = None,
    only_class: dict[str, int] | None = None,
    refused: dict[str, str] | None = None,
    exclusions: dict[str, dict[str, int]] | None = None,
    finished: bool = True,
    simulated: bool = False,
) -> Finished:
    """Write ``study.toml``, checkpoints and journal of a run.

    ``offsets`` move the scores of a site; a site in ``only_class`` has cases of one class; one in ``refused`` gives its
    code in place of every evaluation.
    """
    study = parse(text, StudyConfig, source="example")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STUDY_FILE).write_text(text)
    store = CheckpointStore(folder / "checkpoints", digest(study))
    done = Finished(folder, study)
    sizes = {site.name: 60 for site in study.sites} | (sizes or {})
    excluded = exclusions or {}
    counts = {
        site: {
            "n_listed": n * study.n_folds + sum(excluded.get(site, {}).values()),
            "n_usable": n * study.n_folds,
            "exclusions": excluded.get(site, {}),
        }
        for site, n in sizes.items()
    }
    store.save("preparation", Unit({}, {"sites": counts, "versions": {"fedrad": "0.1.0", "numpy": "2.4.1"}}))
    if simulated:
        store.save("unassigned", Unit({}, {"n_listed": 2, "exclusions": {"site_unknown": 2}}))
    for fold in range(study.n_folds):
        for course, trainers in courses.items():
            _save_training(store, study, course, trainers, fold)
            _save_evaluation(store, done, course, fold, sizes, offsets or {}, only_class or {}, refused or {})
    _write_journal(JsonLines(folder / JOURNAL_FILE), study, sizes, refused or {}, finished=finished)
    return done


def _save_training(store, study, course, trainers, fold):
    rng = np.random.default_rng([fold, len(course)])
    parameters = Parameters({"weight": rng.normal(size=(1, 4)), "bias": rng.normal(size=1)})
    history = tuple(SiteRound(r, site, 90, 0.7 / r + 0.01 * len(site)) for r in (1, 2, 3) for site in trainers)
    absent = ("2 north site_silent",) if course == "federated" else ()
    state = TrainingState(3, parameters, ServerState(), history, absent)
    store.save(f"training.{course}.radiomics.fold{fold}", state.to_unit())


def _save_evaluation(store, done, course, fold, sizes, offsets, only_class, refused):
    arrays, n_cases, codes = {}, {}, dict(refused)
    for site in sorted(sizes):
        if site in refused:
            continue
        rng = np.random.default_rng([fold, len(course), *site.encode()])
        predicted, outcome = _drawn(done.study, sizes[site], offsets.get(site, 0.0), only_class.get(site), rng)
        try:
            minimum = done.study.privacy.minimum_cases
            sums = evaluation_sums(predicted, outcome, minimum_cases=minimum)
        except GateError as error:
            codes[site] = str(error.code)
            continue
        arrays |= {f"{site}/{name}": array for name, array in sums.items()}
        n_cases[site] = len(outcome)
        done.predicted.setdefault((course, site), []).append(predicted)
        done.truth.setdefault((course, site), []).append(outcome)
    store.save(f"evaluation.{course}.radiomics.fold{fold}", Unit(arrays, {"n_cases": n_cases, "refused": codes}))


def _drawn(study, n, offset, only, rng):
    kind = study.outcome.kind
    if kind == "classification":
        n_classes = len(study.outcome.names)
        labels = rng.integers(0, n_classes, n) if only is None else np.full(n, only)
        logits = rng.normal(size=(n, n_classes))
        logits[np.arange(n), labels] += 1.2
        logits[:, -1] += offset
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return p, ClassOutcome(labels.astype(np.int64), study.outcome.names)
    if kind == "regression":
        y = rng.normal(20, 5, n)
        return (y + rng.normal(0, 2, n) + offset)[:, None], ScalarOutcome(y, study.outcome.unit)
    time = rng.exponential(500, n) + 1
    risk = np.clip(1 - time / 3000 + rng.normal(0, 0.1, n), 0.01, 0.99)
    return np.column_stack([1 - risk / 2, 1 - risk]), SurvivalOutcome(rng.random(n) < 0.7, time)


def _write_journal(journal, study, sizes, refused, *, finished):
    journal.write("study", name=study.name, digest=digest(study), sites=len(sizes))
    exchanges = [("hello", "Hello", "Welcome", 300, 244), ("prepare", "Prepare", "Prepared", 100, 2700)]
    exchanges += [("statistics", "AskStatistic", "StatisticSums", 900, 4000)]
    exchanges += [("train radiomics", "Train", "LocalUpdate", 1500, 1200)] * 3
    exchanges += [
        ("evaluate radiomics", "Evaluate", "EvaluationSums", 1600, 9000),
        ("finish", "Finish", "Done", 99, 16),
    ]
    for phase, request, reply, down, up in exchanges:
        for site in sorted(sizes):
            if site == "west" and request in ("AskStatistic", "Train"):
                continue
            code = refused.get(site, "") if request == "Evaluate" else ""
            journal.write(
                "answer", phase=phase, site=site, request=request, reply="Refusal" if code else reply, code=code,
                bytes_down=down, bytes_up=30 if code else up, seconds=0.5,
            )  # fmt: skip
    journal.write("awaited", site="north", phase="train radiomics", attempt=1)
    journal.write(
        "round", course="federated", model="radiomics", fold=0, round_number=3, rounds=3, train_loss=0.2, sites=2
    )
    if finished:
        journal.write("finished")
