"""What an audit is asked to do: one frozen value with every option of the command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

from common.errors import ConfigError
from simulations.audit.protections import PRIVATE, SECURE_SUM, Protection
from simulations.audit.statistics_attack import Attribute

Attack = Literal["membership", "inversion", "statistics", "canaries"]
ATTACKS: tuple[Attack, ...] = get_args(Attack)
WHAT_IF: Mapping[str, Protection] = {"differential-privacy": PRIVATE, "secure-aggregation": SECURE_SUM}
"""Protections by their name on the command line."""

Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True)
class AuditPlan:
    """Options of an audit.

    Parameters
    ----------
    attacks : tuple of Attack
    models : tuple of str
        Names of trained models; all of them where empty.
    what_if : tuple of Protection
        Measured although the study does not use them.
    shadows : int
        Shadow models for each model and protection.
    victims : int
        Updates that are inverted for each batch size.
    batches : tuple of int
        Cases of an inverted update.
    steps : int
        Optimisation steps of one inversion.
    canary_trials : int
        Trainings with and without the canary together.
    attribute : Attribute, optional
        Whose share at a hospital is inferred from statistics.
    processes : int
    """

    attacks: tuple[Attack, ...] = ATTACKS
    models: tuple[str, ...] = ()
    what_if: tuple[Protection, ...] = ()
    shadows: int = 32
    victims: int = 6
    batches: tuple[int, ...] = (1, 4, 8)
    steps: int = 400
    canary_trials: int = 1000
    attribute: Attribute | None = None
    processes: int = 1

    def __post_init__(self) -> None:
        faults = []
        if self.shadows < 8:
            faults.append(f"{self.shadows} shadows, expected at least 8")
        if self.canary_trials < 100:
            faults.append(f"{self.canary_trials} canary trials, expected at least 100")
        if self.victims < 1 or self.steps < 1 or self.processes < 1:
            faults.append("victims, steps and processes are at least 1")
        if not self.batches or min(self.batches) < 1:
            faults.append("batches are at least 1")
        if faults:
            raise ConfigError("fedrad audit", faults)


def read_plan(
    *,
    attacks: str,
    models: str,
    what_if: str,
    shadows: int,
    victims: int,
    batches: str,
    steps: int,
    canary_trials: int,
    attribute: str,
    processes: int,
) -> AuditPlan:
    """The plan of the command's options.

    Raises
    ------
    ConfigError
        With every fault: an unknown attack or protection, a batch that is no number, an attribute without a value.
    """
    faults: list[str] = []
    chosen = _known(attacks, {name: name for name in ATTACKS}, "attack", faults)
    protections = _known(what_if, WHAT_IF, "protection", faults)
    sizes = _parts(batches)
    if not all(size.isdigit() and int(size) > 0 for size in sizes) or not sizes:
        faults.append(f"batches are whole numbers from 1 with commas between, got {batches!r}")
    column, equals, value = attribute.partition("=")
    if attribute and not (column and equals and value):
        faults.append(f"an attribute is COLUMN=VALUE, got {attribute!r}")
    if faults:
        raise ConfigError("fedrad audit", faults)
    return AuditPlan(
        attacks=chosen,
        models=_parts(models),
        what_if=protections,
        shadows=shadows,
        victims=victims,
        batches=tuple(int(size) for size in sizes),
        steps=steps,
        canary_trials=canary_trials,
        attribute=Attribute(column, value) if attribute else None,
        processes=processes,
    )


def _known(text: str, named: Mapping[str, Choice], kind: str, faults: list[str]) -> tuple[Choice, ...]:
    strangers = [part for part in _parts(text) if part not in named]
    if strangers:
        faults.append(f"no {kind} {', '.join(strangers)}; there are {', '.join(named)}")
    return tuple(named[part] for part in _parts(text) if part in named)


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
