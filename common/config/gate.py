"""`[gate]` of a site file: what this hospital lets happen, whatever a study asks. Every limit has a safe default."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, PositiveFloat, PositiveInt

from common.config.loading import Check, Frozen
from common.messages import REQUESTS
from common.statistics import QUERIES

REQUEST_KINDS = tuple(cls.__name__ for cls in REQUESTS)
STATISTIC_KINDS = tuple(cls.kind for cls in QUERIES)


class OutboundConfig(Frozen):
    """What is taken off every model update before it leaves; before noise and masks, if the study has them.

    Parameters
    ----------
    drop : tuple of str
        Arrays whose change stays here (it leaves as zeros): ``MODEL/ARRAY``, with ``*`` for any text.
    clip_norm : float, optional
        An update with a larger L2 norm is scaled down to it. This alone is *not* differential privacy.
    keep_share : float, optional
        Share of the values that leave, the largest in size; the others leave as zeros.
    decimals : int, optional
        Values are rounded to so many decimals.
    bfloat16 : bool
        Values are rounded to 8 significant bits.
    """

    drop: tuple[Annotated[str, Field(pattern=r"^[a-z*][a-z0-9_*-]{0,31}/[A-Za-z0-9_.*-]{1,200}$")], ...] = ()
    clip_norm: PositiveFloat | None = None
    keep_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    decimals: Annotated[int, Field(ge=0, le=10)] | None = None
    bfloat16: bool = False


class BudgetConfig(Frozen):
    """Most privacy loss of all studies together, (epsilon, delta); never reset, it lives on this hospital's disk."""

    epsilon: PositiveFloat
    delta: Annotated[float, Field(gt=0, lt=1)]


def _known_kinds(gate: GateConfig) -> Iterator[str]:
    for name, given, known in (
        ("requests", gate.requests, REQUEST_KINDS),
        ("statistics", gate.statistics, STATISTIC_KINDS),
    ):
        unknown = sorted(set(given) - set(known))
        if unknown:
            yield f"{name}: no kind {', '.join(unknown)}; there are {', '.join(sorted(known))}"


class GateConfig(Frozen):
    """The hospital's own rules.

    Parameters
    ----------
    requests, statistics : tuple of str
        Kinds that are answered at all.
    runs : int
        How often the whole study may be run with other numbers. Each round may be trained from, and each model
        evaluated with, so many times what one run needs; the same question asked again counts once, because its answer
        is the same. This bounds what differences between answers to crafted models can tell of single cases.
    max_rounds : int
        Studies with more rounds in any model are refused.
    max_statistics : int
        Different statistics of one table and fold.
    max_repeats : int
        How often the same question may be asked.
    max_request_mb, max_reply_mb : float
        Size of one message, in 10^6 bytes.
    require_privacy : bool
        Refuse studies without differential privacy.
    head : Path, optional
        Where the head of the audit log is kept; on another disk it survives what is put back from a backup.
    """

    checks: ClassVar[tuple[Check, ...]] = (Check(("requests", "statistics"), _known_kinds),)

    requests: tuple[str, ...] = REQUEST_KINDS
    statistics: tuple[str, ...] = STATISTIC_KINDS
    runs: PositiveInt = 3
    max_rounds: PositiveInt = 1000
    max_statistics: PositiveInt = 20_000
    max_repeats: PositiveInt = 1000
    max_request_mb: PositiveFloat = 1000.0
    max_reply_mb: PositiveFloat = 1000.0
    require_privacy: bool = False
    updates: OutboundConfig = OutboundConfig()
    budget: BudgetConfig | None = None
    head: Path | None = None
