"""The preparation phase: every site checks, harmonises and measures its cases, and all agree on one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from common.config.study import StudyConfig
from common.errors import Code, FederationError, StateError
from common.journal import JsonLines
from common.messages import TRAINING, Prepare, Prepared
from common.statistics.schema import TableSchema, agree
from common.version import versions
from server.checkpoint import CheckpointStore, Unit
from server.conversation import Conversation
from server.courses import Course

PREPARE_BUDGET_S = 2.0
"""Seconds of work that a site is asked for at a time while it prepares: how often progress is seen."""


@dataclass(frozen=True)
class AgreedTable:
    """Columns that every training hospital has, and ComBat's batches of each site."""

    names: tuple[str, ...]
    batches: Mapping[str, tuple[str, ...]]

    def batches_of(self, course: Course, left_out: str | None) -> tuple[str, ...]:
        """Batches of a course's trainers, sorted; a pooled site has those of the hospital left out too."""
        found = {batch for site in course.trainers for batch in self.batches.get(site, ())}
        return tuple(sorted(batch for batch in found if left_out is None or batch.split("/")[0] != left_out))


def measured(
    study: StudyConfig, sites: Sequence[str], conversation: Conversation, *, table: str = TRAINING
) -> dict[str, Prepared]:
    """Have sites prepare a table, a little at a time, until no case is pending; what each says of it.

    Raises
    ------
    FederationError
        Where a site refuses or does not finish in time.
    """
    end = monotonic() + study.federated.prepare_deadline_s
    request = Prepare(conversation.study_digest, PREPARE_BUDGET_S, table)
    phase = "prepare" if table == TRAINING else f"prepare {table}"
    counts: dict[str, Prepared] = {}
    waiting = list(sites)
    while waiting:
        replies = conversation.all_of(
            dict.fromkeys(waiting, request), Prepared, deadline_s=study.federated.round_deadline_s, phase=phase
        )
        counts |= replies
        waiting = [site for site in waiting if counts[site].n_pending]
        for site, count in replies.items():
            done = count.n_listed - count.n_pending
            conversation.journal.write("preparing", phase=phase, site=site, done=done, listed=count.n_listed)
        if waiting and monotonic() > end:
            late = ", ".join(waiting)
            raise FederationError(f"{phase}: not prepared in {study.federated.prepare_deadline_s:g} s: {late}")
    return counts


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
    counts = measured(study, sites, conversation)
    require_one_schema(counts)
    values = {site: _counted(count) for site, count in counts.items()}
    _require_same_cases(values, store.load("preparation"))
    store.save("preparation", Unit({}, {"sites": values, "versions": versions()}))
    return _agreed(study, counts, conversation.journal)


def _agreed(study: StudyConfig, counts: Mapping[str, Prepared], journal: JsonLines) -> AgreedTable:
    names = next(iter(counts.values())).feature_names
    batches = {site: count.batches for site, count in counts.items()}
    if not names:  # a study of images alone
        return AgreedTable((), batches)
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
    return AgreedTable(found.feature_names, batches)


def _require_same_cases(values: Mapping[str, object], former: Unit | None) -> None:
    """A resumed study goes on with the cases that it began with."""
    before = former.values["sites"] if former is not None else {}
    changed = [f"{site} had {before[site]}, has {now}" for site, now in values.items() if before.get(site, now) != now]
    if changed:
        raise StateError(f"the cases changed since this run began: {'; '.join(changed)}")


def _counted(count: Prepared) -> dict[str, object]:
    return {"n_listed": count.n_listed, "n_usable": count.n_usable, "exclusions": dict(count.exclusions)}


def require_one_schema(counts: Mapping[str, Prepared]) -> None:
    """FederationError where sites measured different columns."""
    schemas: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for site, count in counts.items():
        schemas.setdefault((count.feature_schema, count.feature_names), []).append(site)
    if len(schemas) > 1:
        listing = "; ".join(f"{schema[:12]} at {', '.join(sites)}" for (schema, _), sites in schemas.items())
        raise FederationError(f"sites extract different features: {listing}", code=Code.VERSION_MISMATCH)
