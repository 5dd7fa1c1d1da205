"""Who masks with whom: all pairs among few sites, the k-regular graph of SecAgg+ among many.

Bell, Bonawitz, Gascon, Lepoint and Raykova 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead",
section 3: sites stand in a ring in random order, each masks with the k / 2 next ones on either side, and its secrets
are shared among these neighbours and itself. The order follows from a digest of every site's signed fresh keys, so
that all parties draw the same ring and none draws it alone. `Ring.choose` takes the smallest k that keeps three
promises, computed from the hypergeometric distribution in whole numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

COMPLETE_UP_TO = 32
"""Sites up to which every pair masks."""

CORRUPT = Fraction(1, 5)
"""Share of sites that may be in league with the coordinator without that a secret of an honest site is learned."""

SECRECY, SUCCESS = Fraction(1, 2**40), Fraction(1, 2**20)
"""Probability that any secret, or the separation of any group, comes about; and that any site's shares are too few."""


@dataclass(frozen=True)
class Ring:
    """Degree of the graph and number of shares that give a secret back."""

    degree: int
    threshold: int

    @classmethod
    def choose(cls, *, n_sites: int, least: int) -> Ring:
        """The sparsest graph for ``n_sites`` of which ``least`` stay to the end.

        Raises
        ------
        ValueError
            If ``least`` is not more than half of the sites.
        """
        if not n_sites // 2 < least <= n_sites:
            raise ValueError(f"at least {least} of {n_sites} sites: expected more than half of them")
        if n_sites <= COMPLETE_UP_TO:
            return cls(n_sites - 1, least)
        return _sparsest(n_sites, least) or cls(n_sites - 1, least)


@lru_cache
def _sparsest(n_sites: int, least: int) -> Ring | None:
    others = n_sites - 1
    corrupt = int(CORRUPT * n_sites)
    gone = n_sites - least
    for degree in range(2, others, 2):
        ways = math.comb(others, degree)
        cut = Fraction(n_sites**2 * math.comb(max(others - degree, 0), max(corrupt + gone - degree, 0)), 2)
        if corrupt + gone >= degree and cut > SECRECY * math.comb(others, min(corrupt + gone, others)):
            continue
        for threshold in range(2, degree + 1):
            learned = sum(_ways(others, corrupt, degree, x) for x in range(threshold, degree + 1))
            if learned * n_sites > SECRECY * ways:
                continue
            lost = sum(_ways(others, others - gone, degree, x) for x in range(threshold))
            if lost * n_sites <= SUCCESS * ways:
                return Ring(degree, threshold)
            break  # more shares to give it back make a loss more likely
    return None


def _ways(population: int, marked: int, drawn: int, found: int) -> int:
    if found > marked or drawn - found > population - marked:
        return 0
    return math.comb(marked, found) * math.comb(population - marked, drawn - found)


@dataclass(frozen=True)
class MaskGraph:
    """The graph of one session.

    Parameters
    ----------
    sites : tuple of str
        Sorted; a site's point for Shamir's shares is its position, from 1.
    ring : tuple of str
        The same in the order of the ring.
    """

    sites: tuple[str, ...]
    ring: tuple[str, ...]
    degree: int
    threshold: int

    @classmethod
    def of(cls, sites: Sequence[str], *, least: int, seed: bytes) -> MaskGraph:
        """The graph of these sites; ``seed`` decides the order of the ring."""
        chosen = Ring.choose(n_sites=len(sites), least=least)
        ordered = sorted(sites)
        ring = sorted(ordered, key=lambda site: hashlib.sha256(seed + site.encode()).digest())
        return cls(tuple(ordered), tuple(ring), chosen.degree, chosen.threshold)

    def point(self, site: str) -> int:
        return self.sites.index(site) + 1

    def neighbours(self, site: str) -> tuple[str, ...]:
        """Sites that mask with ``site``, sorted."""
        if self.degree == len(self.sites) - 1:
            return tuple(other for other in self.sites if other != site)
        at, n = self.ring.index(site), len(self.ring)
        steps = range(1, self.degree // 2 + 1)
        return tuple(sorted({self.ring[(at + sign * step) % n] for step in steps for sign in (1, -1)}))

    def holders(self, site: str) -> tuple[str, ...]:
        """Sites that hold a share of its secrets, itself included, sorted."""
        return tuple(sorted((*self.neighbours(site), site)))

    def is_connected(self, among: Collection[str]) -> bool:
        """Whether the masks between these sites tie all of them together: else the sum would be of a part of them."""
        left = set(among)
        waiting = [left.pop()] if left else []
        while waiting:
            reached = left.intersection(self.neighbours(waiting.pop()))
            left -= reached
            waiting.extend(reached)
        return not left
