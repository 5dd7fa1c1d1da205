"""Site-level privacy in the rounds of training: one noisy mean in the place of all updates, and the norm's way.

A crash between the noise and the checkpoint releases nothing: no site has seen the round's outcome yet.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from common.arrays import Parameters
from common.config.site_level import site_level_of
from common.config.study import StudyConfig
from common.messages import LocalUpdate
from common.privacy.central import noisy_mean
from common.rng import SystemNoise
from common.strategies import ServerState, Strategy
from server.courses import FEDERATED, Course

NORM = "site_level_norm"
"""Where the current clipping norm stands among the strategy's vectors in a checkpoint."""


def is_protected(study: StudyConfig, course: Course) -> bool:
    """Whether a course's rounds are noisy: the federated one; a simulation's pooled reference is not."""
    return study.privacy.site_level is not None and course.name == FEDERATED


def asked_norm(study: StudyConfig, course: Course, server: ServerState) -> float:
    """The clipping norm that a round's request carries: 0 unless it follows the updates."""
    config = study.privacy.site_level
    return _norm(study, server) if is_protected(study, course) and config and config.adaptive else 0.0


def aggregate(
    study: StudyConfig,
    course: Course,
    strategy: Strategy,
    parameters: Parameters,
    updates: Iterable[LocalUpdate],
    server: ServerState,
) -> tuple[Parameters, ServerState]:
    """The strategy's ``aggregate``; where the course is protected, on the noisy mean of its trainers' updates.

    Raises
    ------
    FederationError
        Where an update is missing; all that the strategy raises.
    """
    level = site_level_of(study)
    if level is None or not is_protected(study, course) or study.privacy.secure_aggregation is not None:
        # a masked sum has its noise from the sites
        return strategy.aggregate(parameters, updates, server)
    found = noisy_mean(
        updates,
        parameters,
        level=level,
        clipping_norm=_norm(study, server),
        n_sites=len(course.trainers),
        source=SystemNoise(),
    )
    own = ServerState({name: vector for name, vector in server.vectors.items() if name != NORM})
    after, state = strategy.aggregate(parameters, iter([found.update]), own)
    if level.adaptive is None:
        return after, state
    return after, ServerState({**state.vectors, NORM: np.array([found.next_norm])})


def _norm(study: StudyConfig, server: ServerState) -> float:
    if NORM in server.vectors:
        return float(server.vectors[NORM][0])
    assert study.privacy.site_level is not None  # asked of protected courses only
    return study.privacy.site_level.clipping_norm
