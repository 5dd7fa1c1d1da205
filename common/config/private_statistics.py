"""`[privacy.statistics]` of a study: tables and scores from sums with noise, and what that leaves no room for.

The noise is one number for the whole study: it follows from the target and from how many questions the study will put
to each hospital (`planned_questions`), which the file alone decides. Everything that has no private version is refused
here, each with its reason, before any hospital is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator

from common.config.fields import Fraction
from common.config.loading import Check, Frozen
from common.messages import PrivacyEvent
from common.privacy.ledger import gaussian, solve_noise_multiplier
from common.statistics.bounded_sums import REFUSED

if TYPE_CHECKING:
    from common.config.study import StudyConfig

LEARNED_BY = 2
"""Questions that learn the ranges of columns (`common.statistics.bounds`)."""


class ColumnBounds(Frozen):
    """A range that values of some columns are moved into, known without looking at any case.

    Parameters
    ----------
    columns : str
        A name, or a pattern with ``*``; of several that fit a column the first counts.
    """

    columns: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.*=-]+$", max_length=200)]
    minimum: float
    maximum: float

    @model_validator(mode="after")
    def _has_width(self) -> ColumnBounds:
        if not self.minimum < self.maximum:
            raise ValueError(f"{self.columns}: the range {self.minimum:g} to {self.maximum:g} is empty")
        return self


class PrivateStatisticsConfig(Frozen):
    """Differential privacy of what is asked about tables and scores; the unit is one case of one hospital.

    Parameters
    ----------
    target_epsilon, target_delta : float
        Of all statistics and evaluations of the study together, at each hospital. The training of models has its own.
    bounds : tuple of ColumnBounds
        Ranges of columns; clinical numbers have theirs already, and categories are 0 or 1.
    learn_bounds : bool
        Whether columns without a range get one from two private histograms, which are part of the target; otherwise
        such a column stops the study.
    spare_questions : int
        Questions that may be asked once more, after a crash or a lost answer, without leaving the target. Each makes
        the noise of all a little larger.
    """

    target_epsilon: PositiveFloat
    target_delta: Fraction
    bounds: tuple[ColumnBounds, ...] = ()
    learn_bounds: bool = False
    spare_questions: NonNegativeInt = 0


def planned_questions(study: StudyConfig) -> int:
    """How many private answers the study takes from one hospital at most."""
    private = study.privacy.statistics
    if private is None:
        return 0
    table = 0
    if any(entry.model.needs_table for entry in study.models):
        table = 1 + LEARNED_BY * private.learn_bounds + (study.table.combat is not None)
        table += sum(step.kind != "variance" for step in study.table.selection)
    landmarks = sum(image.waiting is not None for image in study.images)
    return study.n_folds * (table + len(study.models)) + landmarks + private.spare_questions


def cost_of_a_question(study: StudyConfig) -> PrivacyEvent:
    """What each private answer costs: the noise with which all that are planned stay within the target.

    Raises
    ------
    ValueError
        For a study without private statistics.
    PrivacyError
        Where no noise is enough.
    """
    private = study.privacy.statistics
    if private is None:
        raise ValueError(f"study {study.name} has no private statistics")
    return gaussian(_noise(private.target_epsilon, private.target_delta, planned_questions(study)))


@lru_cache(maxsize=64)
def _noise(target_epsilon: float, delta: float, steps: int) -> float:
    return solve_noise_multiplier(target_epsilon=target_epsilon, delta=delta, sampling_rate=1.0, steps=steps)


def declared_ranges(study: StudyConfig, names: Sequence[str]) -> Mapping[str, tuple[float, float]]:
    """Lower and upper end of each of the columns whose range the study file tells."""
    private = study.privacy.statistics
    found: dict[str, tuple[float, float]] = {}
    for column in study.clinical:
        if column.kind == "categorical":
            found |= dict.fromkeys(column.coded_names, (0.0, 1.0))
        elif column.minimum is not None and column.maximum is not None:
            found[column.column] = (column.minimum, column.maximum)
    for name in names:
        fitting = [b for b in (private.bounds if private else ()) if fnmatchcase(name, b.columns)]
        if fitting:
            found[name] = (fitting[0].minimum, fitting[0].maximum)
    return {name: found[name] for name in names if name in found}


def _solved(study: StudyConfig) -> Iterator[str]:
    for entry in study.models:
        if study.privacy.statistics and entry.solved is not None:
            yield (
                f"model {entry.name}: kind {entry.solved.kind} has no private version, because its questions about "
                "cases are repeated until they settle, and settle on nothing under noise; train a model by rounds"
            )


def _imputation(study: StudyConfig) -> Iterator[str]:
    if study.privacy.statistics and study.table.impute == "median":
        yield "table.impute: a private median needs many counts up to an edge, each with noise; take mean or mode"


def _combat(study: StudyConfig) -> Iterator[str]:
    combat = study.table.combat
    if combat is None or not study.privacy.statistics:
        return
    if combat.batch_column is not None:
        yield "table.combat.batch: which scanner a case was on is not public; private ComBat takes hospitals as batches"
    if combat.covariates or combat.outcome_kept_because:
        yield f"table.combat: covariates have no private version: {REFUSED['combat_cross']}"
    if combat.unseen_sites == "adapt":
        yield "table.combat.unseen_sites: adapt lets each case change the scores of all others; take leave"


def _selection(study: StudyConfig) -> Iterator[str]:
    reasons = {
        "mutual_information": "its bins of equal counts take several histograms",
        "mrmr": "each feature that it adds is a question",
        "lasso": REFUSED["linear_sums"],
        "stability": REFUSED["drawn_class_sums"],
    }
    for number, step in enumerate(study.table.selection, start=1):
        if study.privacy.statistics and step.kind in reasons:
            yield f"table.selection[{number}]: {step.kind} has no private version: {reasons[step.kind]}"


def _components(study: StudyConfig) -> Iterator[str]:
    if study.privacy.statistics and study.table.pca is not None:
        yield f"table.pca has no private version: {REFUSED['covariance']}"


def _robustness(study: StudyConfig) -> Iterator[str]:
    if study.privacy.statistics and study.robustness is not None:
        yield "robustness has no private version: how far repeats of a feature differ has no range known beforehand"


def _outcome(study: StudyConfig) -> Iterator[str]:
    if study.privacy.statistics and study.outcome_kind != "two classes":
        yield (
            f"privacy.statistics: scores of {study.outcome_kind} as outcome have no private version, because one case "
            "can change their sums without bound, or in many bins; only two classes have"
        )


def _subgroups(study: StudyConfig) -> Iterator[str]:
    if study.privacy.statistics and study.evaluation.subgroups:
        yield "evaluation.subgroups: each would be paid once more, for groups that are smaller than the noise"


def _baselines(study: StudyConfig) -> Iterator[str]:
    if study.privacy.statistics and study.local_only:
        yield "local_only: each hospital's own models would be paid at every hospital; set it to false"


def _clinical_ranges(study: StudyConfig) -> Iterator[str]:
    private = study.privacy.statistics
    if private is None or private.learn_bounds:
        return
    numbers = [entry.column for entry in study.clinical if entry.kind == "numeric"]
    ranges = declared_ranges(study, numbers)
    for name in numbers:
        if name not in ranges:
            yield f"clinical column {name}: private statistics need its minimum and maximum, or learn_bounds"


PRIVATE_STATISTICS_RULES = (
    Check(("privacy", "models"), _solved),
    Check(("privacy", "table"), _imputation),
    Check(("privacy", "table"), _combat),
    Check(("privacy", "table"), _selection),
    Check(("privacy", "table"), _components),
    Check(("privacy", "robustness"), _robustness),
    Check(("privacy", "outcome"), _outcome),
    Check(("privacy", "evaluation"), _subgroups),
    Check(("privacy", "local_only"), _baselines),
    Check(("privacy", "clinical"), _clinical_ranges),
)
