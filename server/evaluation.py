"""The evaluation phase: every hospital scores a finished model on its test cases and sends sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.arrays import Parameters
from common.config.study import StudyConfig, StudyModel
from common.errors import Code
from common.messages import Evaluate, EvaluationSums, Split
from common.statistics.solution import Solution, encode_solution
from common.statistics.table_steps import Step, encode_steps
from server.checkpoint import CheckpointStore, Unit
from server.conversation import Conversation, Refused
from server.courses import Course

Model = Parameters | Solution
"""What rounds of training, or the questions of a solver, ended in."""


def evaluation_name(course: Course, model: str, fold: int) -> str:
    return f"evaluation.{course.name}.{model}.fold{fold}"


def evaluation_request(
    entry: StudyModel, fold: int, split: Split, table: Sequence[Step], model: Model, study_digest: str
) -> Evaluate:
    """The question for a model's scores on a split."""
    return Evaluate(
        study_digest=study_digest,
        fold=fold,
        model=entry.name,
        split=split,
        parameters=model if isinstance(model, Parameters) else Parameters({}),
        table_steps=encode_steps(table) if entry.model.needs_table else (),
        solution=encode_solution(model) if isinstance(model, Solution) else (),
    )


def evaluate(
    study: StudyConfig,
    entry: StudyModel,
    course: Course,
    fold: int,
    table: Sequence[Step],
    model: Model,
    conversation: Conversation,
    store: CheckpointStore,
) -> None:
    """Score the model on the test cases of every hospital, external ones too; save the sums by site."""
    name = evaluation_name(course, entry.name, fold)
    if store.load(name) is not None:
        return
    request = evaluation_request(entry, fold, "test", table, model, conversation.study_digest)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    n_cases: dict[str, int] = {}
    refused: dict[str, str] = {}
    asked = dict.fromkeys(_tested(study, fold), request)
    deadline = study.federated.round_deadline_s
    phase = f"evaluate {entry.name}"
    for site, reply in conversation.insist(asked, EvaluationSums, deadline_s=deadline, phase=phase, course=course.name):
        if isinstance(reply, Refused) or reply.model != entry.name:
            refused[site] = reply.code if isinstance(reply, Refused) else str(Code.MESSAGE)
            continue
        n_cases[site] = reply.n_cases
        arrays |= {f"{site}/{key}": array for key, array in reply.sums.items()}
    store.save(name, Unit(arrays, {"n_cases": n_cases, "refused": refused}))
    conversation.journal.write("evaluated", course=course.name, model=entry.name, fold=fold)


def _tested(study: StudyConfig, fold: int) -> list[str]:
    """Hospitals that have test cases in a fold."""
    left_out = study.left_out(fold)
    return sorted(
        site.name for site in study.sites if left_out is None or site.role == "external" or site.name == left_out
    )
