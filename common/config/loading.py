"""TOML -> frozen pydantic model, all faults at once, and the digest that all parties compare."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import Code, ConfigError


class Frozen(BaseModel):
    """Base of every configuration type: frozen, unknown keys are faults, defaults are checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


Model = TypeVar("Model", bound=Frozen)


def load(path: Path, model: type[Model]) -> Model:
    """Read one TOML file into ``model``.

    Raises
    ------
    ConfigError
        With every fault of the file: where, what was got, what was expected.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror or error}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), ["is not UTF-8 text"]) from error
    return parse(text, model, source=str(path))


def parse(text: str, model: type[Model], *, source: str) -> Model:
    """As `load`, from text; ``source`` names it in the faults."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, [f"is not TOML: {error}"]) from error
    faults: dict[str, None] = {}
    while True:
        try:
            valid = model.model_validate(content)
        except ValidationError as error:
            found = error.errors()
            faults.update(dict.fromkeys(fault for item in found for fault in _faults(item)))
            if not _prune(content, [item["loc"] for item in found]):
                raise ConfigError(source, faults) from error
        else:
            break
    if faults:
        raise ConfigError(source, faults)
    return valid


def digest(model: Frozen) -> str:
    """SHA-256 of the canonical JSON (sorted keys, every default written out): equal digests mean the same study."""
    canonical = json.dumps(model.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def require(condition: bool, message: str, faults: list[str]) -> None:
    """Note a fault of a cross-field check; the caller raises all of them together."""
    if not condition:
        faults.append(message)


def refuse(faults: list[str]) -> None:
    """Raise the collected faults of one validator as one `ValueError`, a line each."""
    if faults:
        raise ValueError("\n".join(faults))


def _faults(item: Any) -> list[str]:
    """One or more faults of a pydantic error; a cross-field validator reports several, a line each."""
    place = ".".join(str(part) for part in item["loc"]) or "file"
    if item["type"] == "extra_forbidden":
        return [f"{place}: unknown key"]
    if item["type"] == "missing":
        return [f"{place}: missing"]
    sentences = str(item["msg"]).removeprefix("Value error, ").splitlines()
    got = item.get("input")
    shown = "" if isinstance(got, dict | list | BaseModel) else f", got {got!r}"
    return [f"{place}: {sentence}{shown}" for sentence in sentences]


def _prune(content: Any, places: list[tuple[int | str, ...]]) -> bool:
    """Take faulty values out of ``content``, so that checks which stand behind them run too; False where none was."""
    pruned = False
    for place in places:
        holder = content
        for part in place[:-1]:
            # pydantic names the member of a union in the place; the file has no such level
            if isinstance(holder, dict) and part not in holder:
                continue
            if isinstance(holder, list) and not (isinstance(part, int) and part < len(holder)):
                break
            holder = holder[part]
        if place and isinstance(holder, dict) and place[-1] in holder:
            del holder[place[-1]]
            pruned = True
    return pruned


def error_code(error: Exception) -> Code:
    """The code under which an exception may leave a site; anything unforeseen is ``internal``."""
    code = getattr(error, "code", None)
    return code if isinstance(code, Code) else Code.INTERNAL
