"""Which of a study's masked updates travel in 16 bits, and on which grid: the same at all sites and the coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from common.compression import Int8Config, NoCompressionConfig
from common.config.secure_aggregation import ALL_SITES, cohorts
from common.config.site_level import shares_of, site_level_of
from common.errors import MessageError, PrivacyError
from common.messages import Train
from common.privacy.shared_grid import MOST_SITES, PrivateGrid, SharedGrid, private_grid

if TYPE_CHECKING:
    from common.config.study import StudyConfig

FEDERATED = "federated"


def is_coarse(study: StudyConfig, course: str = FEDERATED) -> bool:
    """Whether updates of a course are added up under masks in few bits."""
    masked = study.privacy.secure_aggregation is not None and course == FEDERATED
    return masked and isinstance(study.federated.compression, Int8Config)


def private_grid_of(study: StudyConfig, *, size: int) -> PrivateGrid | None:
    """The grid and noise of updates under site-level privacy; None without it.

    Raises
    ------
    PrivacyError
        Where 16 bits have no room for update and noise.
    """
    config, level = study.privacy.site_level, site_level_of(study)
    if config is None or level is None or not is_coarse(study):
        return None
    return private_grid(
        n_sites=study.n_training,
        size=size,
        clipping_norm=config.clipping_norm,
        noise_multiplier=level.noise_multiplier,
        shares=shares_of(study, cohorts(study)[ALL_SITES]),
    )


def shared_grid_of(study: StudyConfig, question: Train) -> SharedGrid | None:
    """The grid of the answers to a question whose parameters are whole; None where they have words of their own.

    The first round of a model has none yet, because no sum was seen: it travels as in a study without compression.

    Raises
    ------
    MessageError
        Where the question's bounds do not fit its parameters.
    """
    if not is_coarse(study, question.course):
        if question.value_bounds:
            raise MessageError("bounds of a masked update in a study that has none")
        return None
    private = private_grid_of(study, size=question.parameters.size)
    if private is not None:
        return private.grid
    if not question.value_bounds:
        return None
    sizes = tuple(int(array.size) for array in question.parameters.values())
    try:
        return SharedGrid(study.n_training, sizes, question.value_bounds)
    except PrivacyError as error:
        raise MessageError(str(error)) from error


def shared_grid_faults(study: StudyConfig) -> Iterator[str]:
    """What cannot be compressed under masks, with its reason."""
    compression = study.federated.compression
    if study.privacy.secure_aggregation is None or isinstance(compression, NoCompressionConfig):
        return
    if not isinstance(compression, Int8Config):
        yield (
            f"federated.compression: {compression.kind} under secure aggregation: only whole numbers add up under "
            "masks; use int8"
        )
    if study.n_training > MOST_SITES:
        yield f"federated.compression: {study.n_training} training sites, 16 bits have room for {MOST_SITES}"
