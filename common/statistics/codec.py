"""Frozen values (queries, table steps) as plain fields for the wire, and back with every check.

A class says all by its annotations: names, types, dtypes. What arrives is never trusted: an unknown or absent field,
another type, a number that is not finite, or a shape that the class refuses is a `MessageError`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from common.errors import MessageError, StatisticError

Value = TypeVar("Value")
FieldValue = str | int | float | bool | tuple[Any, ...] | npt.NDArray[np.generic]

MAX_TEXT = 4_096
"""Characters of a text: feature names of nested filters reach 150, a model's note names tens of batches."""

MAX_ITEMS = 100_000
"""Entries of a tuple: feature names of the largest catalogue, tenfold."""

MAX_VALUES = 16_000_000
"""Numbers of an array (128 MB): coefficients of 100 solutions on 100,000 features, with room."""


def encode_fields(value: object) -> dict[str, FieldValue]:
    """Field name -> value of a frozen dataclass of scalars, tuples and arrays."""
    return {name: getattr(value, name) for name in _annotations(type(value))}


def decode_fields(value_class: type[Value], values: Mapping[str, object]) -> Value:
    """A ``value_class`` from untrusted field values.

    Raises
    ------
    MessageError
        Where a field is unknown, absent, of another type or dtype, too large, not finite, or refused by the class.
    """
    annotations = _annotations(value_class)
    where = value_class.__name__
    unknown, absent = sorted(values.keys() - annotations.keys()), sorted(annotations.keys() - values.keys())
    if unknown or absent:
        raise MessageError(f"{where}: unknown fields {unknown}, absent fields {absent}")
    checked = {name: _checked(values[name], annotations[name], f"{where}, field {name}") for name in annotations}
    try:
        return value_class(**checked)
    except (ValueError, StatisticError) as refused:
        raise MessageError(f"{where}: {refused}") from refused


def _annotations(value_class: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(value_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(value_class)}


def _checked(value: object, annotation: Any, where: str) -> FieldValue:
    origin = get_origin(annotation)
    if origin is tuple:
        return _checked_tuple(value, get_args(annotation)[0], where)
    if origin is np.ndarray:
        return _checked_array(value, get_args(get_args(annotation)[1])[0], where)
    return _checked_scalar(value, annotation, where)


def _checked_scalar(value: object, annotation: Any, where: str) -> str | int | float | bool:
    if annotation not in (str, int, float, bool) or type(value) is not annotation:
        expected = getattr(annotation, "__name__", annotation)
        raise MessageError(f"{where}: got {type(value).__name__}, expected {expected}")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise MessageError(f"{where}: text of {len(value)} characters, at most {MAX_TEXT}")
    if isinstance(value, float) and not np.isfinite(value):
        raise MessageError(f"{where}: {value} is not finite")
    assert isinstance(value, (str, int, float, bool))
    return value


def _checked_tuple(value: object, item: Any, where: str) -> tuple[str | int | float | bool, ...]:
    if not isinstance(value, (tuple, list)):
        raise MessageError(f"{where}: got {type(value).__name__}, expected a tuple")
    if len(value) > MAX_ITEMS:
        raise MessageError(f"{where}: {len(value)} entries, at most {MAX_ITEMS}")
    return tuple(_checked_scalar(entry, item, where) for entry in value)


def _checked_array(value: object, scalar_type: Any, where: str) -> npt.NDArray[np.generic]:
    if not isinstance(value, np.ndarray) or value.dtype != np.dtype(scalar_type):
        got = f"array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise MessageError(f"{where}: got {got}, expected array of {np.dtype(scalar_type)}")
    if value.size > MAX_VALUES:
        raise MessageError(f"{where}: {value.size} numbers, at most {MAX_VALUES}")
    if not np.isfinite(value).all():
        raise MessageError(f"{where}: holds numbers that are not finite")
    return value
