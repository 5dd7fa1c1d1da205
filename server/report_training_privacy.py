"""The report's section on privacy: what training cost each hospital's cases, and what no noise covers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from common.config.private_networks import private_network_advice
from common.config.study import StudyConfig
from server.privacy_costs import SiteCost, training_costs
from server.record import StudyResults
from server.report_privacy import privacy_notes

FEWEST_FOR_NETWORKS = 500
"""Training cases of a hospital from which on the cost of privacy was measured (``docs/privacy.md``)."""


@dataclass(frozen=True)
class CostRow:
    """One hospital's cost as the report prints it."""

    site: str
    n_updates: int
    n_steps: int
    noise: str
    epsilon_pld: str
    epsilon_rdp: str


@dataclass(frozen=True)
class PrivacySection:
    """``sentences`` say what is protected and what is not; ``rows`` are empty without sample-level privacy."""

    sentences: tuple[str, ...]
    delta: str
    rows: tuple[CostRow, ...]


def privacy_section(results: StudyResults) -> PrivacySection:
    """The section of a study, finished or not."""
    privacy = results.study.privacy.sample_level
    rows = tuple(_row(cost) for cost in training_costs(results))
    sentences = (*_sentences(results.study), *_networks(results), *privacy_notes(results))
    return PrivacySection(sentences, f"{privacy.target_delta:g}" if privacy else "", rows)


def _row(cost: SiteCost) -> CostRow:
    return CostRow(
        site=cost.site,
        n_updates=cost.n_updates,
        n_steps=cost.n_steps,
        noise=", ".join(f"{noise:.3f}" for noise in cost.noise_multipliers) or "none",
        epsilon_pld="—" if cost.epsilon_pld is None else _shown(cost.epsilon_pld),
        epsilon_rdp=_shown(cost.epsilon_rdp),
    )


def _shown(epsilon: float) -> str:
    """Two decimals, rounded up: a privacy loss is never printed smaller than it is."""
    return f"{math.ceil(epsilon * 100) / 100:.2f}" if math.isfinite(epsilon) else "infinite"


def _networks(results: StudyResults) -> Iterator[str]:
    yield from private_network_advice(results.study)
    yield from _few_cases(results)


def _few_cases(results: StudyResults) -> Iterator[str]:
    """What to expect of networks on images where hospitals have few cases: the noise does not shrink with them."""
    if results.study.privacy.sample_level is None:
        return
    networks = {entry.name for entry in results.study.models if entry.solved is None and entry.model.needs_image}
    rounds = [entry for training in results.trainings if training.model in networks for entry in training.history]
    few = sorted({entry.site for entry in rounds if entry.n_cases < FEWEST_FOR_NETWORKS})
    if few:
        yield (
            f"Networks ({', '.join(sorted(networks))}): {', '.join(few)} trained on fewer than {FEWEST_FOR_NETWORKS} "
            "cases. The noise in an update is that of many cases, so the fewer there are the more it outweighs: below "
            "this number a private network is not known to come near its AUC without noise, and a linear model on "
            "radiomics loses far less."
        )


def _sentences(study: StudyConfig) -> Iterator[str]:
    """What training's differential privacy reaches; `server.report_privacy` says the same of statistics and sites."""
    training, rest = study.privacy.sample_level, study.privacy.statistics
    if training is None and rest is None and study.privacy.site_level is None:
        yield (
            "This study promises no differential privacy: what hospitals sent was protected by the small-cell rule "
            "and by what the section on data flow says, and by no noise."
        )
    if training is None:
        return
    yield (
        f"Training: every hospital's updates together are ({training.target_epsilon:g}, {training.target_delta:g}) "
        "differentially private for each of its training cases, by DP-SGD over all models, rounds, folds and "
        "courses. Numbers of cases, and which cases are held out, are taken as known."
    )
    if rest is None:
        yield (
            "The epsilon below covers training only. Table steps (filling in, standardising, harmonising, selecting) "
            "and evaluation rest on exact sums of the cases, which the small-cell rule protects and no noise does."
        )
    else:
        yield "The epsilon of training comes on top of that of statistics: both add up for a case that is in both."
    if study.privacy.secure_aggregation is not None:
        yield "Updates were added up under masks, so the cost of each hospital stands in its own ledger and not here."
    yield (
        "The losses in learning curves under this protection are noised estimates, and may look odd. Its noise is "
        "drawn anew in every run, so a repeated study gives other parameters."
    )
