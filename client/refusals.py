"""How often each refusal is written down: a flood of refused requests must not fill the hospital's disk."""

from __future__ import annotations

from collections import Counter

EACH = 100
"""So many refusals of one kind are written one by one; after them the 128th, the 256th, and so on."""


class Refusals:
    """Counts refusals by kind of request and code."""

    def __init__(self) -> None:
        self._times: Counter[tuple[str, str]] = Counter()

    def count(self, request: str, code: str) -> int:
        """How often this refusal has happened, this one included."""
        self._times[request, code] += 1
        return self._times[request, code]


def is_told(times: int) -> bool:
    """Whether the so many-th refusal is written down."""
    return times <= EACH or times & (times - 1) == 0
