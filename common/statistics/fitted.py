"""The closed union of fitted classical models, and their way to the sites that predict with them.

A fitted model is a frozen value of names, numbers and arrays, like a query: it travels as plain fields and everything
is checked on arrival. ``predict(table)`` gives what a task's link gives: `common.evaluation.evaluation_sums` takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from common.errors import MessageError
from common.statistics.boosting import Boosted
from common.statistics.codec import FieldValue, decode_fields, encode_fields
from common.statistics.columns import Matrix
from common.statistics.cox import CoxModel
from common.statistics.discrete_survival import HazardModel
from common.statistics.forest import Forest
from common.statistics.margins import MarginModel
from common.tables import FeatureTable


class FittedModel(Protocol):
    """A model that was fitted from sums; nothing in it stands for a case."""

    def predict(self, table: FeatureTable) -> Matrix:
        """Class probabilities (n_cases, n_classes), values (n_cases, 1) or survival (n_cases, n_times)."""
        ...


FITTED: Mapping[str, type[FittedModel]] = {
    "margins": MarginModel,
    "cox": CoxModel,
    "hazards": HazardModel,
    "forest": Forest,
    "boosted": Boosted,
}
_KIND_OF = {model_class: kind for kind, model_class in FITTED.items()}


def encode_model(model: FittedModel) -> tuple[str, dict[str, FieldValue]]:
    """Kind and plain field values of a fitted model."""
    if type(model) not in _KIND_OF:
        raise MessageError(f"{type(model).__name__} is not a fitted model of the union")
    return _KIND_OF[type(model)], encode_fields(model)


def decode_model(kind: str, values: Mapping[str, object]) -> FittedModel:
    """The model that arrived; MessageError where anything is not as agreed."""
    if kind not in FITTED:
        raise MessageError(f"no fitted model of kind {kind!r}; there are {', '.join(FITTED)}")
    return decode_fields(FITTED[kind], values)
