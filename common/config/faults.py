"""The faults of a configuration file in the words of the file: where, what was got, what was expected.

pydantic reports places and sentences of its own types; here they become those of the TOML file, which knows tables,
arrays of tables and keys, and no member of a union.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Place = tuple[int | str, ...]

MAX_SHOWN = 80
"""Characters of a wrong value that are repeated in a fault."""

_EXPECTED = "Input should be "
_WORDS = {
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid tuple": "an array",
    "a valid array": "an array",
    "an object": "a table",
    "a file path": "a path",
}
"""What pydantic calls a type, and what TOML calls it."""


def sentences(item: Mapping[str, Any], content: Mapping[str, Any]) -> list[str]:
    """One or more faults of one pydantic error; a rule between fields reports several, a line each."""
    kind, place = item["type"], in_words(item["loc"], content, absent_last=item["type"] == "missing")
    if kind == "extra_forbidden":
        return [f"{place}: unknown key"]
    if kind == "missing":
        return [f"{place}: missing"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return [_wrong_kind(place, item)]
    message = str(item["msg"])
    if message.startswith(_EXPECTED):
        expected = message.removeprefix(_EXPECTED).split(", unable to")[0]
        return [f"{place}: got {_shown(item['input'])}, expected {_WORDS.get(expected, expected)}"]
    if kind == "string_pattern_mismatch":
        return [f"{place}: got {_shown(item['input'])}, expected text that matches {item['ctx']['pattern']}"]
    lines = message.removeprefix("Value error, ").splitlines()
    got = "" if isinstance(item.get("input"), dict | list) else f", got {_shown(item['input'])}"
    return [f"{place}: {line}{got}" for line in lines]


def in_words(place: Sequence[int | str], content: Any, *, absent_last: bool = False) -> str:
    """``images[ct].steps[2].margin_mm``: entries of an array by name, or by number from 1; ``file`` for the whole.

    Parameters
    ----------
    absent_last : bool
        The last part is a key that the file lacks; other parts that it lacks are names of union members.
    """
    words = ""
    for position, (holder, part) in enumerate(_walk(place, content)):
        if isinstance(part, int):
            entry = holder[part] if isinstance(holder, list) and part < len(holder) else None
            words += f"[{_name_of(entry) or part + 1}]"
        elif not isinstance(holder, dict) or part in holder or (absent_last and position == len(place) - 1):
            words += f".{part}"
    return words.removeprefix(".") or "file"


def prune(content: Any, places: Sequence[Place]) -> set[Place]:
    """Take faulty values out of the tables of ``content``; the places of the keys that were taken out.

    Of an array the whole key goes, so that the numbers of its other entries keep their meaning.
    """
    targets: dict[Place, tuple[dict[int | str, Any], int | str]] = {}
    for place in places:
        steps = enumerate(_walk(place, content), start=1)
        present = [(n, (holder, part)) for n, (holder, part) in steps if isinstance(holder, dict) and part in holder]
        if present:
            depth, (holder, part) = present[-1]
            targets[place[:depth]] = holder, part
    for holder, part in targets.values():
        holder.pop(part, None)
    return set(targets)


def not_finite(content: Any) -> list[str]:
    """Faults of numbers that are infinite or NaN: TOML allows them, no setting does."""
    numbers = [(place, value) for place, value in _leaves(content) if isinstance(value, float)]
    odd = [(place, value) for place, value in numbers if not math.isfinite(value)]
    return [f"{in_words(place, content)}: got {value}, expected a finite number" for place, value in odd]


def without_echoes(items: Sequence[Any]) -> list[Any]:
    """The errors without those that only follow from others: an array counts as empty where its entries are wrong."""
    places = [item["loc"] for item in items]
    return [item for item in items if item["type"] != "too_short" or not _below(item["loc"], places)]


def _below(place: Place, places: Sequence[Place]) -> bool:
    return any(len(other) > len(place) and other[: len(place)] == place for other in places)


def _name_of(entry: object) -> str:
    """What a table in an array is called in the file."""
    if isinstance(entry, dict):
        for key in ("name", "column"):
            if isinstance(entry.get(key), str):
                return str(entry[key])
    return ""


def _leaves(content: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _leaves(value, (*place, key))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _leaves(value, (*place, number))
    else:
        yield place, content


def _walk(place: Sequence[int | str], content: Any) -> Iterator[tuple[Any, int | str]]:
    """Each part of a place with what holds it; the name of a union member has no level of its own."""
    holder = content
    for part in place:
        yield holder, part
        in_table = isinstance(holder, dict) and part in holder
        in_array = isinstance(holder, list) and isinstance(part, int) and part < len(holder)
        if in_table or in_array:
            holder = holder[part]


def _wrong_kind(place: str, item: Mapping[str, Any]) -> str:
    key = item["ctx"]["discriminator"].strip("'")
    if item["type"] == "union_tag_not_found":
        return f"{place}.{key}: missing"
    return f"{place}.{key}: got {item['ctx']['tag']!r}, expected one of {item['ctx']['expected_tags']}"


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "an array"
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
