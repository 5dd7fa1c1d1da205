"""The training phase: rounds of one model for a group of courses, a checkpoint after each round of each course."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from common.arrays import Parameters
from common.compression import Compressor
from common.config.secure_aggregation import sum_plan
from common.config.shared_grids import is_coarse
from common.config.study import StudyConfig, StudyModel
from common.errors import Code, FederationError, MessageError, PrivacyError
from common.messages import LocalUpdate, PrivacyEvent, TableStep, Train
from common.models import initial_parameters
from common.privacy.ledger import require_known
from common.privacy.shared_grid import next_bounds
from common.rng import derived_seed
from common.statistics.table_steps import Step, columns_after, encode_steps
from common.strategies import ServerState, Strategy
from server.broadcast import Broadcast, announce, closing, reader, smaller
from server.checkpoint import CheckpointStore
from server.conversation import Conversation, Refused
from server.courses import Course, Group, baseline_may_fail
from server.site_level import aggregate, asked_norm
from server.training_state import SiteRound, TrainingState, unit_name


def train_group(
    study: StudyConfig,
    entry: StudyModel,
    group: Group,
    fold: int,
    tables: Mapping[str, Sequence[Step]],
    conversation: Conversation,
    store: CheckpointStore,
) -> dict[str, TrainingState]:
    """All rounds of one model for every course of a group, from the last complete round of each.

    Parameters
    ----------
    tables : mapping of course name to its learned table steps

    Returns
    -------
    dict of course name to TrainingState
        After the last round; without the local-only courses whose site failed.
    """
    strategy = study.federated.strategy.build()
    steps = {course.name: encode_steps(tables[course.name]) if entry.model.needs_table else () for course in group}
    states = {course.name: _start(study, entry, course, fold, tables[course.name], store) for course in group}
    for round_number in range(1, entry.rounds + 1):
        due = [course for course in group if course.name in states and states[course.name].round_number < round_number]
        for course, own in _round(study, entry, due, fold, round_number, states, steps, conversation):
            before = states.pop(course.name)
            with baseline_may_fail(course, conversation.journal):
                quorum = _quorum(study, course, conversation)
                after = _aggregated(study, entry, course, fold, round_number, before, own, strategy, quorum)
                states[course.name] = after.saved(store, unit_name(course, entry.name, fold))
                _tell(conversation, course, entry, fold, after)
                del before, after  # a large model is in its file from here on
    return states


def _start(
    study: StudyConfig, entry: StudyModel, course: Course, fold: int, table: Sequence[Step], store: CheckpointStore
) -> TrainingState:
    name = unit_name(course, entry.name, fold)
    saved = store.load(name)
    if saved is not None:
        return TrainingState.from_unit(saved).in_file(store, name)
    n_columns = len(columns_after(table, ())) if entry.model.needs_table else 0
    seed = derived_seed(study.seed, "initial", entry.name)
    parameters = initial_parameters(entry.trained[0], study.model_inputs(n_columns), seed)
    state = TrainingState(0, parameters, ServerState())
    return state.saved(store, name) if state.is_large else state


def _round(
    study: StudyConfig,
    entry: StudyModel,
    due: Sequence[Course],
    fold: int,
    round_number: int,
    states: Mapping[str, TrainingState],
    steps: Mapping[str, tuple[TableStep, ...]],
    conversation: Conversation,
) -> Iterator[tuple[Course, Iterator[tuple[str, LocalUpdate | Refused]]]]:
    """Ask for one round of every course that is due; each course with its answers, which come in order of sites."""
    course_of = {site: course for course in due for site in course.trainers}
    of_course = {
        course.name: Train(
            study_digest=conversation.study_digest,
            fold=fold,
            model=entry.name,
            round_number=round_number,
            parameters=states[course.name].parameters,
            table_steps=steps[course.name],
            course=course.name,
            clipping_norm=asked_norm(study, course, states[course.name].server),
            value_bounds=states[course.name].value_bounds,
        )
        for course in due
    }
    # one object for all who get the same: it is encoded once
    announced = {name: smaller(request, states[name].broadcast) for name, request in of_course.items()}
    sums = conversation.hears_sums  # one question for all: where one of them lacks the model, all are sent the whole
    whole = {site: of_course[course.name] for site, course in course_of.items()}
    requests = {
        site: announced[course.name] if sums or _took_part(site, states[course.name]) else whole[site]
        for site, course in course_of.items()
    }
    answers = conversation.insist(
        requests,
        LocalUpdate,
        deadline_s=study.federated.round_deadline_s,
        phase=f"train {entry.name}",
        course={site: course.name for site, course in course_of.items()},
        whole=whole,
    )
    if len(due) == 1 or conversation.hears_sums:  # of sums there is one course: single sites do not answer
        yield from ((course, answers) for course in due)
        return
    # a group is one course, or courses of one trainer each: the answers of a course come one after the other
    yield from groupby(answers, key=lambda answer: course_of[answer[0]])


def _took_part(site: str, state: TrainingState) -> bool:
    """True where a site answered the latest round, so should hold the model that it began with."""
    return any(h.site == site and h.round_number == state.round_number for h in state.history)


def _quorum(study: StudyConfig, course: Course, conversation: Conversation) -> int:
    """Updates that make a round; a sum stands for as many sites as it needs (`server.secure_sum`)."""
    return 1 if conversation.hears_sums else min(study.federated.quorum or study.n_training, len(course.trainers))


def _aggregated(
    study: StudyConfig,
    entry: StudyModel,
    course: Course,
    fold: int,
    round_number: int,
    before: TrainingState,
    answers: Iterator[tuple[str, LocalUpdate | Refused]],
    strategy: Strategy,
    quorum: int,
) -> TrainingState:
    """The state after a round; updates are aggregated as they are handed out, one at a time."""
    compressor = study.federated.compression.build()
    is_summed = is_coarse(study, course.name)
    # a sum under masks says nothing of each hospital's cost, which the hospital's own ledger holds
    is_private = study.privacy.sample_level is not None and study.privacy.secure_aggregation is None
    code = None if is_summed else compressor  # a sum under masks was decoded when it was unmasked
    collected = _Collected(
        entry.name, round_number, before.parameters, code, is_private=is_private, is_summed=is_summed
    )
    try:
        updates = collected.updates(answers)
        parameters, server = aggregate(study, course, strategy, before.parameters, updates, before.server)
    except FederationError:
        _require_quorum(collected, quorum)  # who is absent says more than "no update"
        raise
    _require_quorum(collected, quorum)
    broadcast: Broadcast | None = None
    if compressor is not None and round_number < entry.rounds:
        stream = f"{course.name}/{entry.name}/fold{fold}"
        former, now = before.broadcast, before.parameters
        parameters, broadcast = announce(
            compressor, now, parameters, former, seed=study.seed, stream=stream, round_number=round_number
        )
    elif compressor is not None:
        parameters = closing(parameters, before.broadcast)
    history, absent = (*before.history, *collected.history), (*before.absent, *collected.absent)
    bounds: tuple[float, ...] = ()
    if is_summed and study.privacy.site_level is None:
        bounds = collected.next_bounds(study, before.value_bounds)
    return TrainingState(round_number, parameters, server, history, absent, broadcast, bounds)


class _Collected:
    """Passes updates on to the strategy one at a time and remembers who sent what, and who sent nothing of use."""

    def __init__(
        self,
        model: str,
        round_number: int,
        parameters: Parameters,
        compressor: Compressor | None = None,
        *,
        is_private: bool = False,
        is_summed: bool = False,
    ) -> None:
        self.model = model
        self.round_number = round_number
        self._plain = reader(compressor, parameters)
        self._parameters = parameters
        self._is_private = is_private
        self._is_summed = is_summed
        self.history: list[SiteRound] = []
        self.absent: list[str] = []
        self._largest: list[float] = []

    def next_bounds(self, study: StudyConfig, former: tuple[float, ...]) -> tuple[float, ...]:
        """Of the masked words of the round after this one, from its sum."""
        by_cases = sum_plan(study, study.training_sites).weighting == "n_cases"
        weight = self.history[-1].n_cases if by_cases else study.n_training
        return next_bounds(self._largest, former, weight=weight, n_sites=study.n_training)

    def updates(self, answers: Iterator[tuple[str, LocalUpdate | Refused]]) -> Iterator[LocalUpdate]:
        for site, answer in answers:
            self._parameters.release()  # all sites have the model; the sum needs the memory
            reply = answer if isinstance(answer, Refused) else self._read(site, answer)
            reason = reply.code if isinstance(reply, Refused) else self._fault(reply)
            if reason:
                self.absent.append(f"{self.round_number} {site} {reason}")
            elif isinstance(reply, LocalUpdate):
                if self._is_summed:
                    self._largest = [float(np.abs(array).max(initial=0.0)) for array in reply.delta.values()]
                self.history.append(SiteRound(self.round_number, site, reply.n_cases, reply.train_loss, reply.privacy))
                del answer  # one update is in memory at a time
                yield reply
            del reply

    def _read(self, site: str, update: LocalUpdate) -> LocalUpdate | Refused:
        """The update with its delta; a code of no use counts as no valid message."""
        try:
            return self._plain(update)
        except MessageError as error:
            return Refused(site, error.code, Train.__name__)

    def _fault(self, update: LocalUpdate) -> str:
        """Why an update cannot be used, in a word; empty where it can."""
        if update.round_number != self.round_number:
            return "late"
        if not _is_known(update.privacy) or (self._is_private and not update.privacy):
            return str(Code.PRIVACY)
        fits = update.model == self.model and update.delta.layout == self._parameters.layout
        return "" if fits and update.delta.all_finite() else str(Code.MESSAGE)


def _is_known(events: Sequence[PrivacyEvent]) -> bool:
    """True where the ledger knows every event that an update says it cost."""
    try:
        for event in events:
            require_known(event)
    except PrivacyError:
        return False
    return True


def _require_quorum(collected: _Collected, quorum: int) -> None:
    n_sites = len(collected.history)
    if n_sites < quorum:
        missing = "; ".join(collected.absent) or "none"
        raise FederationError(
            f"round {collected.round_number} of {collected.model}: {n_sites} sites sent an update, expected {quorum}; "
            f"absent (round, site, reason): {missing}"
        )


def _tell(conversation: Conversation, course: Course, entry: StudyModel, fold: int, state: TrainingState) -> None:
    latest = [h for h in state.history if h.round_number == state.round_number]
    absences = [absence.split(maxsplit=2) for absence in state.absent]
    absent = {site for number, site, _ in absences if int(number) == state.round_number}
    n_cases = sum(h.n_cases for h in latest)
    conversation.journal.write(
        "round",
        course=course.name,
        model=entry.name,
        fold=fold,
        round_number=state.round_number,
        rounds=entry.rounds,
        train_loss=sum(h.n_cases * h.train_loss for h in latest) / max(n_cases, 1),
        sites=len(course.trainers) - len(absent),  # a sum under masks is one entry of all who are in it
    )
