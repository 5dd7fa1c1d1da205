"""The evaluation phase: every hospital scores a finished model on its test cases and sends sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from common.arrays import Parameters
from common.config.outcome import ClassOutcomeConfig, ScalarOutcomeConfig
from common.config.study import StudyConfig, StudyModel
from common.errors import Code, MessageError
from common.evaluation import ErrorSums, RiskSums, ScoreSums, read_sums
from common.evaluation.fairness import read_subgroups
from common.messages import Evaluate, EvaluationSums, Split
from common.statistics.solution import Solution, encode_solution
from common.statistics.table_steps import Step, encode_steps
from server.checkpoint import CheckpointStore, Unit
from server.conversation import Conversation, Refused
from server.courses import Course

LARGEST = 1e100
"""Of a sum: honest ones are far below."""

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
        code = reply.code if isinstance(reply, Refused) else _fault(reply, study, entry)
        if isinstance(reply, Refused) or code:
            refused[site] = code
            continue
        n_cases[site] = reply.n_cases
        arrays |= {f"{site}/{key}": array for key, array in reply.sums.items()}
    store.save(name, Unit(arrays, {"n_cases": n_cases, "refused": refused}))
    conversation.journal.write("evaluated", course=course.name, model=entry.name, fold=fold)


def _fault(reply: EvaluationSums, study: StudyConfig, entry: StudyModel) -> str:
    """Why sums cannot be used, in a word; empty where they can. What is saved here is merged when all are there."""
    try:
        if reply.model != entry.name or any(not _is_modest(array) for array in reply.sums.values()):
            return str(Code.MESSAGE)
        sums = read_sums({name: array for name, array in reply.sums.items() if "/" not in name})
        by_level = read_subgroups({name: array for name, array in reply.sums.items() if "/" in name})
    except MessageError as error:
        return str(error.code)
    agreed = {config.column for config in study.evaluation.subgroups}
    parts = [sums, *(level for levels in by_level.values() for level in levels.values())]
    outcome = study.outcome
    if isinstance(outcome, ClassOutcomeConfig):
        fits = all(isinstance(part, ScoreSums) and part.n_classes == len(outcome.names) for part in parts)
    else:
        fits = type(sums) is (ErrorSums if isinstance(outcome, ScalarOutcomeConfig) else RiskSums)
    return "" if fits and by_level.keys() <= agreed else str(Code.MESSAGE)


def _is_modest(array: npt.NDArray[np.generic]) -> bool:
    """Numbers that are added up without leaving their type."""
    largest = 2.0**53 if array.dtype.kind in "iu" else LARGEST
    return array.dtype.kind in "iuf" and bool((np.abs(array.astype(np.float64)) <= largest).all())


def _tested(study: StudyConfig, fold: int) -> list[str]:
    """Hospitals that have test cases in a fold."""
    left_out = study.left_out(fold)
    return sorted(
        site.name for site in study.sites if left_out is None or site.role == "external" or site.name == left_out
    )
