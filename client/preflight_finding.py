"""`Finding`: what one check of `fedrad site preflight` says, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "attention", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One line of the screen.

    Parameters
    ----------
    state : str
        ``ok``; ``attention`` where something should be done soon; ``failed`` where nothing works before it is done;
        ``skipped`` where there was nothing to check.
    advice : str
        What hospital IT does; empty where there is nothing to do. Like ``detail`` it never holds a secret.
    """

    check: str
    state: State
    detail: str
    advice: str = ""


def ok(check: str, detail: str) -> Finding:
    return Finding(check, "ok", detail)


def attention(check: str, detail: str, advice: str) -> Finding:
    return Finding(check, "attention", detail, advice)


def failed(check: str, detail: str, advice: str) -> Finding:
    return Finding(check, "failed", detail, advice)


def skipped(check: str, detail: str) -> Finding:
    return Finding(check, "skipped", detail)
