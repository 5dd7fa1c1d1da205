"""The learned steps that turn a site's features into its training table, and their way over the wire.

A step is a frozen value learned from merged sums (`moments`, `combat`, ...) with ``apply(table) -> table``. The closed union
`TABLE_STEPS` is all that a site will apply; a new kind is one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.errors import MessageError, StatisticError
from common.messages import TableStep
from common.statistics.codec import decode_fields, encode_fields
from common.statistics.moments import Imputer, Scaler
from common.tables import FeatureTable


class Step(Protocol):
    """A learned, row-wise change of a table; it never looks at other rows of the site."""

    def apply(self, table: FeatureTable) -> FeatureTable: ...


@dataclass(frozen=True)
class Keep:
    """Only the named columns, in this order: what a selection decided."""

    names: tuple[str, ...]

    def apply(self, table: FeatureTable) -> FeatureTable:
        try:
            return table.select(self.names)
        except KeyError as absent:
            raise StatisticError(str(absent.args[0])) from absent


TABLE_STEPS: Mapping[str, type[Step]] = {"keep": Keep, "imputer": Imputer, "scaler": Scaler}
_KIND_OF = {step_class: kind for kind, step_class in TABLE_STEPS.items()}


def encode_steps(steps: Sequence[Step]) -> tuple[TableStep, ...]:
    """Steps as plain values for a request."""
    return tuple(TableStep(_KIND_OF[type(step)], encode_fields(step)) for step in steps)


def decode_steps(steps: Sequence[TableStep]) -> tuple[Step, ...]:
    """Steps from a request; MessageError where a kind or a field is not as agreed."""
    decoded: list[Step] = []
    for step in steps:
        if step.kind not in TABLE_STEPS:
            raise MessageError(f"no table step of kind {step.kind!r}; there are {', '.join(TABLE_STEPS)}")
        decoded.append(decode_fields(TABLE_STEPS[step.kind], step.values))
    return tuple(decoded)


def apply_steps(table: FeatureTable, steps: Sequence[Step]) -> FeatureTable:
    """The table after all steps, in order."""
    for step in steps:
        table = step.apply(table)
    return table
