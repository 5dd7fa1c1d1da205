"""What a study's updates cost each hospital's cases, from the events that they carried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from common.errors import PrivacyError
from common.messages import PrivacyEvent
from common.privacy.ledger import epsilon, event_to_json, merged
from server.record import StudyResults


@dataclass(frozen=True)
class SiteCost:
    """The cost of all of a hospital's updates that the study used, over models, rounds, folds and courses.

    Parameters
    ----------
    n_updates : int
    n_steps : int
        Noised gradients.
    noise_multipliers : tuple of float
        Sorted; one, unless hospitals of one name trained differently.
    delta : float
    epsilon_rdp : float
        By Renyi's accountant, which decided what was allowed; infinite where an update had no noise.
    epsilon_pld : float or None
        By numerical composition, tighter; None where that failed.
    events : tuple of list
        Mechanism, noise multiplier, sampling rate and steps.
    """

    site: str
    n_updates: int
    n_steps: int
    noise_multipliers: tuple[float, ...]
    delta: float
    epsilon_rdp: float
    epsilon_pld: float | None
    events: tuple[list[Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values; an infinite epsilon, which JSON lacks, as text."""
        content = asdict(self)
        return content | {"epsilon_rdp": self.epsilon_rdp if self.epsilon_rdp < float("inf") else "infinite"}


def training_costs(results: StudyResults) -> tuple[SiteCost, ...]:
    """By hospital; empty where the study has no sample-level privacy. The pooled reference is no hospital."""
    privacy = results.study.privacy.sample_level
    if privacy is None:
        return ()
    rounds = [entry for training in results.trainings for entry in training.history]
    found = []
    for site in results.study.training_sites:
        own = [entry for entry in rounds if entry.site == site]
        if own:
            events = merged(event for entry in own for event in entry.privacy)
            found.append(_cost(site, len(own), events, privacy.target_delta))
    return tuple(found)


def _cost(site: str, n_updates: int, events: Sequence[PrivacyEvent], delta: float) -> SiteCost:
    listed = tuple(event_to_json(event) for event in events)
    by_rdp, by_pld = _epsilons(tuple(tuple(event) for event in listed), delta)
    return SiteCost(
        site=site,
        n_updates=n_updates,
        n_steps=sum(event.steps for event in events),
        noise_multipliers=tuple(sorted({event.noise_multiplier for event in events})),
        delta=delta,
        epsilon_rdp=by_rdp,
        epsilon_pld=by_pld,
        events=listed,
    )


@lru_cache(maxsize=256)
def _epsilons(listed: tuple[tuple[Any, ...], ...], delta: float) -> tuple[float, float | None]:
    """By both accountants; kept, because the composition takes seconds and hospitals often cost the same."""
    events = [PrivacyEvent(*entry) for entry in listed]
    by_rdp = epsilon(events, delta)
    try:
        return by_rdp, epsilon(events, delta, accountant="pld")
    except PrivacyError:
        return by_rdp, None  # the page shows a dash in its place, and the figure that decided beside it
