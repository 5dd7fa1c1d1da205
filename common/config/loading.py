"""TOML -> frozen pydantic model, all faults at once, and the digest that all parties compare."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator

from common.config.faults import Place, not_finite, prune, sentences, without_echoes
from common.errors import Code, ConfigError


@dataclass(frozen=True)
class Check:
    """A rule between fields: ``find`` yields one sentence a fault.

    ``find`` may read only the fields in ``needs``: it also runs on a file in which other fields are wrong, so that all
    faults of the file are listed at once.
    """

    needs: tuple[str, ...]
    find: Callable[[Any], Iterable[str]]


class Frozen(BaseModel):
    """Base of every configuration type: frozen, unknown keys are faults, defaults and numbers are checked too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    checks: ClassVar[tuple[Check, ...]] = ()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        refuse([sentence for check in self.checks for sentence in check.find(self)])
        return self


Model = TypeVar("Model", bound=Frozen)


def load(path: Path, model: type[Model]) -> Model:
    """Read one TOML file into ``model``.

    Raises
    ------
    ConfigError
        With every fault of the file: where, what was got, what was expected.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
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
    infinite = not_finite(content)
    try:
        valid = _validated(model, content)
    except ValidationError as error:
        raise ConfigError(source, dict.fromkeys([*infinite, *_all_faults(model, content, error)])) from error
    if infinite:
        raise ConfigError(source, infinite)
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


def error_code(error: Exception) -> Code:
    """The code under which an exception may leave a site; anything unforeseen is ``internal``."""
    code = getattr(error, "code", None)
    return code if isinstance(code, Code) else Code.INTERNAL


def _validated(model: type[Model], content: dict[str, Any]) -> Model:
    """Strict: ``"5"`` is no number and ``1`` no truth value. TOML's arrays and texts are tuples and paths in JSON."""
    return model.model_validate_json(json.dumps(content, default=str), strict=True)


def _all_faults(model: type[Frozen], content: dict[str, Any], first: ValidationError) -> list[str]:
    """Every fault of a file: what is wrong is noted and taken out, until what stands behind it was checked too."""
    faults: dict[str, None] = {}
    pruned: set[Place] = set()
    lost: set[str] = set()
    error: ValidationError | None = first
    while error is not None:
        found = without_echoes(error.errors())
        found = [item for item in found if not (item["type"] == "missing" and item["loc"] in pruned)]
        # where a whole field was taken out, a rule between fields would judge its default: see _faults_between
        found = [item for item in found if item["loc"] or not lost]
        faults.update(dict.fromkeys(sentence for item in found for sentence in sentences(item, content)))
        taken = prune(content, [item["loc"] for item in found if item["type"] != "missing"])
        if not taken:
            break
        pruned |= taken
        lost = {str(place[0]) for place in pruned if len(place) == 1} & model.model_fields.keys()
        try:
            _validated(model, content)
        except ValidationError as next_error:
            error = next_error
        else:
            error = None
    broken = lost | ({str(item["loc"][0]) for item in error.errors() if item["loc"]} if error else set())
    faults.update(dict.fromkeys(_faults_between(model, content, broken)))
    return list(faults)


def _faults_between(model: type[Frozen], content: dict[str, Any], broken: set[str]) -> list[str]:
    """Faults of the rules that need no ``broken`` field: pydantic itself runs none of them while one is broken."""
    parts: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name in broken:
            continue
        if name in content:
            annotation: Any = Annotated[field.annotation, field]
            parts[name] = TypeAdapter(annotation).validate_json(json.dumps(content[name], default=str), strict=True)
        else:
            parts[name] = field.get_default(call_default_factory=True)
    partial = model.model_construct(_fields_set=None, **parts)
    usable = [check for check in model.checks if not broken & set(check.needs)]
    return [f"file: {sentence}" for check in usable for sentence in check.find(partial)]
