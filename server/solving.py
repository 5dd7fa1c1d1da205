"""Models that are solved by questions: the procedure of a course's trainers in place of rounds, and its calibration."""

from __future__ import annotations

from collections.abc import Sequence

from common.config.study import StudyConfig, StudyModel
from common.errors import FederationError, MetricError, StatisticError
from common.evaluation import ScoreSums, read_sums
from common.messages import EvaluationSums
from common.statistics.calibration import isotonic, platt
from common.statistics.solution import CalibrationMap, Solution, decode_solution, encode_solution
from common.statistics.table_steps import Step, columns_after
from server.checkpoint import CheckpointStore
from server.conversation import Conversation
from server.courses import Course
from server.evaluation import evaluation_request
from server.learning import Learner
from server.table import entries_from_unit, entries_to_unit


def solution_name(course: Course, model: str, fold: int) -> str:
    return f"solution.{course.name}.{model}.fold{fold}"


def solve_model(
    study: StudyConfig,
    entry: StudyModel,
    course: Course,
    fold: int,
    table: Sequence[Step],
    conversation: Conversation,
    store: CheckpointStore,
) -> Solution:
    """The fitted model of a course: from the checkpoint, or from the sites' answers.

    Raises
    ------
    StatisticError
        Where the model is undefined on these cases.
    FederationError
        Where a trainer refuses, for example because its cases are too few for a fold of the cross-validation.
    """
    name = solution_name(course, entry.name, fold)
    saved = store.load(name)
    if saved is None:
        solution = _solve(study, entry, course, fold, table, conversation)
        saved = entries_to_unit(encode_solution(solution))
        store.save(name, saved)
        conversation.journal.write("solved", course=course.name, model=entry.name, fold=fold)
    return decode_solution(entries_from_unit(saved))


def _solve(
    study: StudyConfig,
    entry: StudyModel,
    course: Course,
    fold: int,
    table: Sequence[Step],
    conversation: Conversation,
) -> Solution:
    config = entry.solved
    assert config is not None  # trained models do not come here
    learner = Learner(study, course, fold, conversation, phase=f"solve {entry.name}")
    model = learner.learn(config.solve(columns_after(table, ()), study.target), table)
    if entry.calibration == "none":
        return Solution(model)
    return Solution(model, _calibrated(study, entry, course, fold, table, Solution(model), conversation))


def _calibrated(
    study: StudyConfig,
    entry: StudyModel,
    course: Course,
    fold: int,
    table: Sequence[Step],
    solution: Solution,
    conversation: Conversation,
) -> CalibrationMap:
    """Platt's line or isotonic steps from the merged score counts of the training cases.

    Subgroups of training cases are not asked for twice: what comes with the answer beyond the score counts is left.

    Raises
    ------
    StatisticError
        Where no map exists: the model separates the training cases, or a class is absent.
    """
    request = evaluation_request(entry, fold, "train", table, solution, conversation.study_digest)
    replies = conversation.all_of(
        dict.fromkeys(course.trainers, request),
        EvaluationSums,
        deadline_s=study.federated.round_deadline_s,
        phase=f"solve {entry.name}",
        course=course.name,
    )
    parts = [read_sums({k: v for k, v in reply.sums.items() if "/" not in k}) for reply in replies.values()]
    scores = [part for part in parts if isinstance(part, ScoreSums)]
    if len(scores) < len(parts):
        raise FederationError(f"calibrate {entry.name}: a site sent sums of another kind of outcome")
    merged = ScoreSums.merge(scores)
    try:
        return platt(merged) if entry.calibration == "platt" else isotonic(merged)
    except MetricError as error:
        raise StatisticError(f"course {course.name}: {entry.name} cannot be calibrated: {error}") from error
