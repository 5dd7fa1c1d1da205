"""A *course* is one way through the study: who trains. All courses are evaluated at all hospitals by the same code.

The federated course trains at all training sites together; a local-only course at one of them; the pooled course (only
where a simulation puts all cases in one place) at a site that holds them all. Model, scaling, regularisation and number
of rounds are the study's in each: what differs between their results is the data that they saw.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from common.config.study import StudyConfig
from common.errors import FederationError, StatisticError
from common.journal import JsonLines

FEDERATED = "federated"
POOLED = "pooled"
LOCAL = "local-"


@dataclass(frozen=True)
class Course:
    """A name and the sites that train."""

    name: str
    trainers: tuple[str, ...]

    def without(self, left_out: str | None) -> Course:
        """The course in a fold in which a hospital does not train; it may have no trainer then."""
        return Course(self.name, tuple(site for site in self.trainers if site != left_out))


Group = tuple[Course, ...]
"""Courses that run in lockstep: one course, or several of one trainer each, so that no site waits for another."""


@contextmanager
def baseline_may_fail(course: Course, journal: JsonLines) -> Iterator[None]:
    """Leave a local-only course out, with a note of the reason, where its site fails; any other course stops the study.

    A resumed study tries it again.
    """
    try:
        yield
    except (FederationError, StatisticError) as error:
        if not course.name.startswith(LOCAL):
            raise
        journal.write("note", text=f"{course.name} is left out: {error}", course=course.name)


def groups_of(study: StudyConfig) -> tuple[Group, ...]:
    """The courses that a federation can run: the federated one and, where the study asks, each site on its own."""
    federated: Group = (Course(FEDERATED, study.training_sites),)
    if not study.local_only or study.n_training == 1:
        return (federated,)
    return federated, tuple(Course(LOCAL + site, (site,)) for site in study.training_sites)


def pooled_group() -> Group:
    """The reference in which one site, named as the course, holds all training cases."""
    return (Course(POOLED, (POOLED,)),)
