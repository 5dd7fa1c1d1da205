"""What the coordinator may ask and what a site may answer: frozen values with their invariants.

The vocabulary is closed: `Request` and `Reply` list every message, and `common.codec` refuses anything else. It grows
by adding a dataclass here and its line in the union; a field is added only together with a new `SCHEMA_VERSION`,
because `Hello` is refused between versions. No request names code, a path or a case.

A site keeps no state between requests that a later request needs: each carries the parameters and the learned table
steps that it works with, and the digest of the study that the site must have approved. So a site may crash and come
back between any two requests, and any request may be repeated. (A `Difference` saves bytes where the site still holds
the former parameters; where it does not, it says so and is sent the whole.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from common.arrays import Parameters
from common.masking_messages import (
    AdvertiseKeys,
    ConsistencyCheck,
    Consistent,
    KeysAdvertised,
    MaskedValues,
    ShareKeys,
    SharesSealed,
    Unmask,
    Unmasked,
)

SCHEMA_VERSION = 6

Scalar = int | float | str | bool
Value = Scalar | tuple[Scalar, ...] | npt.NDArray[np.generic]
Values = Mapping[str, Value]
Sums = Mapping[str, npt.NDArray[np.generic]]
Split = Literal["train", "test"]
Landmarks = Mapping[str, tuple[float, ...]]
"""Nyul's landmarks that the study learned, by image. Every request carries them: a site could not harmonise without."""

TRAINING = "training"
_TABLE = re.compile(r"(training|(landmarks|repeats)\.[a-z][a-z0-9_-]{0,31})")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,39}")
LARGEST_LOSS = 1e30
"""Mean training loss of a round; one that ran away further is no number to draw or to average."""

_COURSE = re.compile(r"federated|pooled|local-[a-z][a-z0-9_-]{0,31}")


def landmark_table_name(image: str) -> str:
    """The table with the percentiles of an image, a case a row (`common.statistics.nyul`)."""
    return f"landmarks.{image}"


def repeat_table_name(image: str) -> str:
    """The table with an image's features under perturbation, a case a row (`common.statistics.reliability`)."""
    return f"repeats.{image}"


def _require_table(table: str) -> None:
    if not _TABLE.fullmatch(table):
        raise ValueError(f"table {table[:50]!r}, expected {TRAINING}, landmarks.IMAGE or repeats.IMAGE")


@dataclass(frozen=True, eq=False)
class TableStep:
    """One learned step from features to the training table: its kind and its values (`common.statistics`)."""

    kind: str
    values: Values


@dataclass(frozen=True, eq=False)
class Hello:
    """First question of a run: who are you, and do we compute with the same versions?"""

    study_digest: str
    versions: Mapping[str, str]
    schema_version: int = SCHEMA_VERSION


@dataclass(frozen=True, eq=False)
class Welcome:
    """The site has approved the study and computes with the versions that it names."""

    site: str
    versions: Mapping[str, str]


LONGEST_BUDGET_S = 600.0
"""A hospital that prepares answers nothing else meanwhile, not even that the study is over."""


@dataclass(frozen=True, eq=False)
class Prepare:
    """Read the manifest, check every case, harmonise images, extract features, for at most about ``budget_s`` seconds.

    Asked again until nothing is pending: no wait is long, the coordinator can show progress, and a site that was
    killed goes on where it was, because every finished case is cached.

    Parameters
    ----------
    table : str
        What is to be ready: ``training``, ``landmarks.IMAGE`` or ``repeats.IMAGE``.
    landmarks : mapping of image to landmarks
        Empty while they are learned.
    """

    study_digest: str
    budget_s: float = 5.0
    table: str = TRAINING
    landmarks: Landmarks = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_table(self.table)
        if not 0 <= self.budget_s <= LONGEST_BUDGET_S:  # NaN too
            raise ValueError(f"budget of {self.budget_s:g} s, expected 0 to {LONGEST_BUDGET_S:g}")


@dataclass(frozen=True, eq=False)
class Prepared:
    """Counts of what the site takes part with; ``n_listed == n_usable + n_pending + sum(exclusions.values())``.

    Parameters
    ----------
    exclusions : mapping of error code to number of cases
        Reasons by `common.errors.Code`; the sentences stay in the site's own log.
    feature_schema : str
        SHA-256 of the ordered feature names; sites that differ are refused by the coordinator.
    batches : tuple of str
        ComBat's batches of the training cases; empty where the study does not harmonise, or the site does not train.
    absent : tuple of str
        Columns of which no usable case has a value.
    """

    n_listed: int
    n_usable: int
    n_pending: int
    exclusions: Mapping[str, int]
    feature_schema: str
    feature_names: tuple[str, ...]
    batches: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.n_listed != self.n_usable + self.n_pending + sum(self.exclusions.values()):
            raise ValueError(
                f"{self.n_listed} cases listed, {self.n_usable} usable, exclusions {dict(self.exclusions)}"
            )


@dataclass(frozen=True, eq=False)
class AskStatistic:
    """One query (`common.statistics`) over the training cases of a fold, after the table steps learned so far.

    Parameters
    ----------
    table : str
        The table that the query is put to, as in `Prepare`; steps belong to the training table alone.
    """

    study_digest: str
    fold: int
    kind: str
    values: Values
    table_steps: tuple[TableStep, ...] = ()
    table: str = TRAINING
    landmarks: Landmarks = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_table(self.table)
        if self.table != TRAINING and self.table_steps:
            raise ValueError(f"table {self.table} takes no steps")


@dataclass(frozen=True, eq=False)
class StatisticSums:
    """Arrays whose sum over the sites is the answer to the query; ``privacy`` is what a noisy answer cost."""

    n_cases: int
    sums: Sums
    privacy: tuple[PrivacyEvent, ...] = ()


@dataclass(frozen=True, eq=False)
class Difference:
    """How parameters follow from others that the receiver may hold (`common.compression`).

    Parameters
    ----------
    base, result : str
        Digests of the parameters that the difference starts from and leads to.
    data : array of uint8, shape (n_bytes,)
    """

    base: str
    result: str
    data: npt.NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Train:
    """Train one model from ``parameters`` on the training cases of a fold and return the delta.

    Parameters
    ----------
    course : str
        Whose round it is: ``federated``, ``pooled`` or ``local-SITE``.
    difference : tuple of Difference
        One, where the study compresses and the site may hold the parameters of the round before; ``parameters`` is
        empty then. A site that does not hold them refuses with ``base_absent``.
    clipping_norm : float
        Of this round's update, where the study's site-level privacy adapts it; else 0, and the study file counts.
    value_bounds : tuple of float
        Largest size of a value of one site's weighted delta, for each array of the model, where masked sums are
        compressed (`common.privacy.shared_grid`); empty in a model's first round.
    """

    study_digest: str
    fold: int
    model: str
    round_number: int
    parameters: Parameters
    table_steps: tuple[TableStep, ...] = ()
    landmarks: Landmarks = field(default_factory=dict)
    course: str = "federated"
    difference: tuple[Difference, ...] = ()
    clipping_norm: float = 0.0
    value_bounds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.round_number < 1:
            raise ValueError(f"rounds are numbered from 1, got {self.round_number}")
        if not _COURSE.fullmatch(self.course):
            raise ValueError(f"course {self.course[:50]!r}, expected federated, pooled or local-SITE")
        if len(self.difference) > 1 or (self.difference and self.parameters):
            raise ValueError("a model comes whole or as one difference")
        if not 0 <= self.clipping_norm < math.inf:
            raise ValueError(f"a clipping norm is finite and not negative, got {self.clipping_norm}")
        if not all(0 <= bound < math.inf for bound in self.value_bounds):
            raise ValueError("bounds of values are finite and not negative")


@dataclass(frozen=True, eq=False)
class PrivacyEvent:
    """What one release cost, as the accountant needs it (Gaussian mechanism on a Poisson sample)."""

    mechanism: str
    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        if not (0 <= self.noise_multiplier < math.inf and 0 <= self.sampling_rate <= 1 and self.steps >= 0):
            raise ValueError(
                f"noise multiplier {self.noise_multiplier}, sampling rate {self.sampling_rate}, {self.steps} steps"
            )


@dataclass(frozen=True, eq=False)
class LocalUpdate:
    """A *delta*, never parameters, so that clipping and masking have one meaning.

    Parameters
    ----------
    compressed : tuple of array of uint8
        One, where the study compresses: the code of the delta (`common.compression`); ``delta`` is empty then.
    """

    model: str
    round_number: int
    n_cases: int
    delta: Parameters
    train_loss: float
    privacy: tuple[PrivacyEvent, ...] = field(default=())
    compressed: tuple[npt.NDArray[np.generic], ...] = ()

    def __post_init__(self) -> None:
        if len(self.compressed) > 1 or (self.compressed and self.delta):
            raise ValueError("a delta comes whole or as one code")
        if self.n_cases < 1:
            raise ValueError(f"an update comes from at least one case, got {self.n_cases}")
        if not abs(self.train_loss) <= LARGEST_LOSS:  # NaN too
            raise ValueError(f"train_loss is {self.train_loss:g}, expected a number up to {LARGEST_LOSS:g}")


@dataclass(frozen=True, eq=False)
class Evaluate:
    """Score one model on a split of a fold and return mergeable metric sums.

    Parameters
    ----------
    parameters : Parameters
        Of a trained model; none for a solved one.
    solution : tuple of TableStep
        Of a solved model: the fitted model, and the map that calibrates it, where there is one.
    """

    study_digest: str
    fold: int
    model: str
    split: Split
    parameters: Parameters
    table_steps: tuple[TableStep, ...] = ()
    solution: tuple[TableStep, ...] = ()
    landmarks: Landmarks = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class EvaluationSums:
    """Sums that merge to the metrics (`common.evaluation`); never a score of a case.

    Sums of a subgroup have its column and level before their name: ``sex/m/positives``. ``privacy`` is what noisy sums
    cost.
    """

    model: str
    n_cases: int
    sums: Sums
    privacy: tuple[PrivacyEvent, ...] = ()


@dataclass(frozen=True, eq=False)
class MaskedInput:
    """Answer ``request`` in masked words.

    Parameters
    ----------
    sharers : tuple of str
        All sites that shared their secrets, sorted. The same for every site, so that a large question is sent as one
        object; what they sealed for each comes with `common.masking_messages.ConsistencyCheck`.
    """

    study_digest: str
    session: str
    request: AskStatistic | Train | Evaluate
    sharers: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Finish:
    """The run is over; the site may release memory and close its log entry."""

    study_digest: str
    outcome: Literal["completed", "aborted"]


@dataclass(frozen=True, eq=False)
class Done:
    """Nothing further to say."""


@dataclass(frozen=True, eq=False)
class Refusal:
    """The site did not answer: only the error's code leaves (`common.errors.Code`)."""

    code: str

    def __post_init__(self) -> None:
        if not _CODE.fullmatch(self.code):
            raise ValueError(f"{self.code[:50]!r} is no code")

    FATAL: ClassVar[frozenset[str]] = frozenset(
        {"study_not_approved", "version_mismatch", "gate", "gate_limit", "budget_exceeded", "site_unknown"}
    )


Question = AskStatistic | Train | Evaluate
"""Requests about cases whose answers add up over sites."""

MaskingRequest = AdvertiseKeys | ShareKeys | MaskedInput | ConsistencyCheck | Unmask
"""Steps of a masked sum, in order."""

Request = Hello | Prepare | AskStatistic | Train | Evaluate | MaskingRequest | Finish
MaskingReply = KeysAdvertised | SharesSealed | MaskedValues | Consistent | Unmasked
Reply = Welcome | Prepared | StatisticSums | LocalUpdate | EvaluationSums | MaskingReply | Done | Refusal
Message = Request | Reply

ANSWER_OF: Mapping[type, type] = {
    Hello: Welcome,
    Prepare: Prepared,
    AskStatistic: StatisticSums,
    Train: LocalUpdate,
    Evaluate: EvaluationSums,
    AdvertiseKeys: KeysAdvertised,
    ShareKeys: SharesSealed,
    MaskedInput: MaskedValues,
    ConsistencyCheck: Consistent,
    Unmask: Unmasked,
    Finish: Done,
}
"""Which reply a request expects; `Refusal` is always possible, everything else is refused."""

REQUESTS: tuple[type, ...] = tuple(ANSWER_OF)
REPLIES: tuple[type, ...] = (*ANSWER_OF.values(), Refusal)
