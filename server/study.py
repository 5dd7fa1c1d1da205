"""The procedure of a study: one function a phase. It knows sites only through `Federation`.

hello -> prepare -> for every fold and group of courses: learn the table -> train each model -> evaluate at every
hospital -> finish. Every unit of finished work is in the checkpoint store, so the whole procedure can be run again at
any time and goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from common.config.loading import digest
from common.config.study import StudyConfig
from common.errors import Code, FederationError, StateError
from common.federation import Federation
from common.journal import JsonLines
from common.messages import Done, Finish, Hello, Prepare, Prepared, Welcome
from common.statistics.schema import TableSchema, agree
from common.statistics.table_steps import Step
from common.version import versions
from server.checkpoint import CheckpointStore, Unit
from server.conversation import Conversation
from server.courses import Course, Group, baseline_may_fail
from server.evaluation import evaluate, evaluation_name
from server.solving import solve_model
from server.table import table_of
from server.training import train_group

PREPARE_BUDGET_S = 2.0
"""Seconds of work that a site is asked for at a time while it prepares: how often progress is seen."""


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
    conversation = Conversation(federation, journal, digest(study))
    sites = _who_takes_part(study, groups)
    journal.write("study", name=study.name, digest=conversation.study_digest, sites=len(sites))
    say_hello(study, sites, conversation)
    agreed = prepare(study, sites, conversation, store)
    for fold in range(study.n_folds):
        for group in groups:
            run_group(study, group, fold, agreed, conversation, store)
    finish = dict.fromkeys(sites, Finish(conversation.study_digest, "completed"))
    for _ in conversation.ask(finish, Done, deadline_s=study.federated.round_deadline_s, phase="finish"):
        pass
    journal.write("finished")


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


@dataclass(frozen=True)
class AgreedTable:
    """Columns that every training hospital has, and ComBat's batches of each site."""

    names: tuple[str, ...]
    batches: Mapping[str, tuple[str, ...]]

    def batches_of(self, course: Course, left_out: str | None) -> tuple[str, ...]:
        """Batches of a course's trainers, sorted; a pooled site has those of the hospital left out too."""
        found = {batch for site in course.trainers for batch in self.batches.get(site, ())}
        return tuple(sorted(batch for batch in found if left_out is None or batch.split("/")[0] != left_out))


def prepare(
    study: StudyConfig, sites: Sequence[str], conversation: Conversation, store: CheckpointStore
) -> AgreedTable:
    """Have every site check and measure its cases; the columns that all of them agree on, and their batches.

    Raises
    ------
    FederationError
        Where a site does not finish, or sites extract different features.
    StatisticError
        Where a training hospital lacks a column and the study does not drop it: names both.
    """
    end = monotonic() + study.federated.prepare_deadline_s
    request = Prepare(conversation.study_digest, PREPARE_BUDGET_S)
    counts: dict[str, Prepared] = {}
    waiting = list(sites)
    while waiting:
        replies = conversation.all_of(
            dict.fromkeys(waiting, request), Prepared, deadline_s=study.federated.round_deadline_s, phase="prepare"
        )
        counts |= replies
        waiting = [site for site in waiting if counts[site].n_pending]
        for site, count in replies.items():
            done = count.n_listed - count.n_pending
            conversation.journal.write("preparing", site=site, done=done, listed=count.n_listed)
        if waiting and monotonic() > end:
            raise FederationError(f"not prepared in {study.federated.prepare_deadline_s:g} s: {', '.join(waiting)}")
    _require_one_schema(counts)
    values = {site: _counted(count) for site, count in counts.items()}
    _require_same_cases(values, store.load("preparation"))
    store.save("preparation", Unit({}, {"sites": values, "versions": versions()}))
    return _agreed(study, counts, conversation.journal)


def _agreed(study: StudyConfig, counts: Mapping[str, Prepared], journal: JsonLines) -> AgreedTable:
    names = next(iter(counts.values())).feature_names
    schemas = [
        TableSchema(
            site=site,
            feature_names=tuple(name for name in names if name not in set(counts[site].absent)),
            extractor_version=versions()["fedrad"],  # the handshake has compared it
            settings_digest=counts[site].feature_schema,
            batches=counts[site].batches,
        )
        for site in study.training_sites
    ]
    found = agree(schemas, missing_feature=study.table.missing_feature)
    if found.dropped:
        journal.write("dropped", features=", ".join(found.dropped))
    return AgreedTable(found.feature_names, {site: count.batches for site, count in counts.items()})


def _require_same_cases(values: Mapping[str, object], former: Unit | None) -> None:
    """A resumed study goes on with the cases that it began with."""
    before = former.values["sites"] if former is not None else {}
    changed = [f"{site} had {before[site]}, has {now}" for site, now in values.items() if before.get(site, now) != now]
    if changed:
        raise StateError(f"the cases changed since this run began: {'; '.join(changed)}")


def _counted(count: Prepared) -> dict[str, object]:
    return {"n_listed": count.n_listed, "n_usable": count.n_usable, "exclusions": dict(count.exclusions)}


def _require_one_schema(counts: Mapping[str, Prepared]) -> None:
    schemas: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for site, count in counts.items():
        schemas.setdefault((count.feature_schema, count.feature_names), []).append(site)
    if len(schemas) > 1:
        listing = "; ".join(f"{schema[:12]} at {', '.join(sites)}" for (schema, _), sites in schemas.items())
        raise FederationError(f"sites extract different features: {listing}", code=Code.VERSION_MISMATCH)


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
