"""How processes grow over the rounds of a study: resident memory and file descriptors, by least squares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

WARM_UP = 0.25
"""Share of a process's rounds that is left out of slopes: libraries load, caches fill, allocators settle. The
last round is left out too: the report is written in it."""

SLOPE_LIMIT_MB = 2.0
"""Growth in 100 rounds that counts as a leak. The history of rounds, which a coordinator holds, is far below."""

DESCRIPTOR_LIMIT = 3.0
"""In 100 rounds, as above; a connection more or less in the pool is no leak."""

LEAST_ROUNDS = 60
"""Fewer tell nothing about growth."""

Sample = tuple[int, float, int]
"""Rounds done, resident MB, file descriptors."""


@dataclass
class Life:
    """One process over its life."""

    samples: list[Sample] = field(default_factory=list)

    def settled(self) -> list[Sample]:
        """Samples without the warm-up and without the last round (the report is made in it)."""
        first, last = self.samples[0][0], self.samples[-1][0]
        start = first + WARM_UP * (last - first)
        return [sample for sample in self.samples if start <= sample[0] < last]

    def n_rounds(self) -> int:
        """Rounds over which it settled."""
        return len({sample[0] for sample in self.settled()})

    def growth(self) -> tuple[float, float]:
        """Resident MB and file descriptors in 100 rounds, by least squares; zeros where there is too little to tell."""
        if self.n_rounds() < LEAST_ROUNDS:
            return 0.0, 0.0
        columns = zip(*self.settled(), strict=True)
        rounds, megabytes, descriptors = (np.array(column, dtype=float) for column in columns)
        return float(100 * np.polyfit(rounds, megabytes, 1)[0]), float(100 * np.polyfit(rounds, descriptors, 1)[0])


def grown(parties: Mapping[str, Mapping[int, Life]], tell: Callable[[str], None]) -> list[str]:
    """Print how every party grew in the life of it that settled for the most rounds; the faults among them."""
    faults = []
    for party, lives in parties.items():
        life = max(lives.values(), key=Life.n_rounds)
        if life.n_rounds() < LEAST_ROUNDS:
            tell(f"{party}: {len(lives)} lives; none settled for {LEAST_ROUNDS} rounds, too few to tell growth")
            continue
        settled, (megabytes, descriptors) = life.settled(), life.growth()
        last = settled[-1]
        tell(
            f"{party}: {len(lives)} lives; rounds {settled[0][0]}-{last[0]} of one, "
            f"{last[1]:.0f} MB ({megabytes:+.2f} MB / 100 rounds), "
            f"{last[2]} descriptors ({descriptors:+.2f} / 100 rounds)"
        )
        if megabytes > SLOPE_LIMIT_MB or descriptors > DESCRIPTOR_LIMIT:
            faults.append(f"{party} grows")
    return faults
