"""The procedure of a study: one function a phase. It knows sites only through `Federation`.

hello -> learn the images' landmarks -> prepare -> for every fold and group of courses: learn the table -> train each
model -> evaluate at every hospital -> finish. Every unit of finished work is in the checkpoint store, so the whole
procedure can be run again at any time and goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.config.loading import digest
from common.config.study import StudyConfig
from common.errors import Code, FederationError
from common.federation import Federation
from common.journal import JsonLines
from common.messages import Done, Finish, Hello, Welcome
from common.statistics.table_steps import Step
from common.version import versions
from server.checkpoint import CheckpointStore
from server.conversation import Conversation
from server.courses import Group, baseline_may_fail
from server.evaluation import evaluate, evaluation_name
from server.preparation import AgreedTable, prepare
from server.secure_sum import SecureConversation
from server.solving import solve_model
from server.standardisation import standardise
from server.table import table_of
from server.training import train_group


def run_study(
    study: StudyConfig,
    federation: Federation,
    *,
    groups: Sequence[Group],
    store: CheckpointStore,
    journal: JsonLines,
) -> None:
    """Run, or go on with, all courses of a study; everything that it finds out is in ``store`` and ``journal``.

    Raises
    ------
    FederationError
        If the study cannot go on: too few sites, different versions or feature schemas.
    """
    conversation = conversation_of(study, federation, journal)
    sites = _who_takes_part(study, groups)
    journal.write("study", name=study.name, digest=conversation.study_digest, sites=len(sites))
    say_hello(study, sites, conversation)
    conversation = conversation.working_with(standardise(study, conversation, store))
    agreed = prepare(study, sites, conversation, store)
    for fold in range(study.n_folds):
        for group in groups:
            run_group(study, group, fold, agreed, conversation, store)
    finish = dict.fromkeys(sites, Finish(conversation.study_digest, "completed"))
    for _ in conversation.ask(finish, Done, deadline_s=study.federated.round_deadline_s, phase="finish"):
        pass
    journal.write("finished")


def conversation_of(study: StudyConfig, federation: Federation, journal: JsonLines) -> Conversation:
    """How the study's sites are talked to: one by one, or, about their cases, in masked sums."""
    if study.privacy.secure_aggregation is None:
        return Conversation(federation, journal, digest(study))
    return SecureConversation(federation, journal, digest(study), study)


def _who_takes_part(study: StudyConfig, groups: Sequence[Group]) -> tuple[str, ...]:
    hospitals = {site.name for site in study.sites}
    return tuple(sorted(hospitals | {site for group in groups for course in group for site in course.trainers}))


def say_hello(study: StudyConfig, sites: Sequence[str], conversation: Conversation) -> None:
    """Every site has approved this study and computes with the same versions, or the study does not begin."""
    request = Hello(conversation.study_digest, versions())
    deadline = study.federated.round_deadline_s
    welcomes = conversation.all_of(dict.fromkeys(sites, request), Welcome, deadline_s=deadline, phase="hello")
    strangers = [f"{site} answers as {welcome.site}" for site, welcome in welcomes.items() if welcome.site != site]
    if strangers:
        raise FederationError(f"hello: {'; '.join(strangers)}", code=Code.SITE_UNKNOWN)


def run_group(
    study: StudyConfig,
    group: Group,
    fold: int,
    agreed: AgreedTable,
    conversation: Conversation,
    store: CheckpointStore,
) -> None:
    """Table, training and evaluation of every course of a group in one fold."""
    left_out = study.left_out(fold)
    group = tuple(course for course in (course.without(left_out) for course in group) if course.trainers)
    tables: dict[str, tuple[Step, ...]] = {}
    for course in group:
        with baseline_may_fail(course, conversation.journal):
            batches = agreed.batches_of(course, left_out)
            tables[course.name] = table_of(study, course, fold, agreed.names, conversation, store, batches=batches)
    group = tuple(course for course in group if course.name in tables)
    for entry in study.models:
        if all(store.load(evaluation_name(course, entry.name, fold)) for course in group):
            continue
        if entry.solved is not None:
            for course in group:
                with baseline_may_fail(course, conversation.journal):
                    solution = solve_model(study, entry, course, fold, tables[course.name], conversation, store)
                    evaluate(study, entry, course, fold, tables[course.name], solution, conversation, store)
            continue
        states = train_group(study, entry, group, fold, tables, conversation, store)
        for course in group:
            if course.name in states:
                parameters = states[course.name].parameters
                evaluate(study, entry, course, fold, tables[course.name], parameters, conversation, store)
