"""What a hospital is about to approve, in plain words: what will be asked, what leaves, and what protects it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from client.outbound import centring_faults
from common.config.loading import digest
from common.config.private_networks import private_network_advice
from common.config.site import SiteConfig
from common.config.site_level import SiteLevelConfig, site_level_cost
from common.config.study import StudyConfig
from common.data_flow_words import WHAT_LEFT
from common.privacy.ledger import epsilon


@dataclass(frozen=True)
class Chapter:
    """A heading and its sentences."""

    heading: str
    sentences: tuple[str, ...]


def explain_study(study: StudyConfig, config: SiteConfig) -> tuple[Chapter, ...]:
    """The study as one hospital will meet it."""
    return (
        Chapter("The study", tuple(_study(study, config))),
        Chapter("What is read here, and stays", tuple(_read(study))),
        Chapter("What the coordinator will ask", tuple(_asked(study))),
        Chapter("What leaves this hospital", tuple(_leaves(study))),
        Chapter("What protects it", tuple(_protection(study, config))),
    )


def _study(study: StudyConfig, config: SiteConfig) -> Iterator[str]:
    yield f"{study.title.rstrip('.')}."
    if study.purpose:
        yield f"{study.purpose.rstrip('.')}."
    roles = ", ".join(f"{site.name} ({'trains' if site.role == 'training' else 'tests only'})" for site in study.sites)
    yield f"Hospitals: {roles}. This one is {config.site}."
    yield f"SHA-256 of exactly this study: {digest(study)}."


def _read(study: StudyConfig) -> Iterator[str]:
    images = ", ".join(f"{image.name} ({image.modality})" for image in study.images)
    yield f"Images with their outlines: {images}. No image and no outline leaves."
    columns = sorted({entry.column for entry in study.clinical} | study.outcome_columns | set(study.label_columns))
    yield f"Columns of the case list: {', '.join(columns)}. No row leaves, and no case's id."


def _asked(study: StudyConfig) -> Iterator[str]:
    yield "To check and measure every case here, with the program that is installed here; no program code is accepted."
    if any(entry.model.needs_table for entry in study.models):
        yield f"For statistics of the measured table: {', '.join(_statistics(study))}."
    courses = "twice, once together with the other hospitals and once alone" if study.local_only else "once"
    for entry in study.models:
        if entry.solved is not None and not entry.solved.sends_sums:
            yield (
                f"Model {entry.name}: trees that are grown on this hospital's training cases alone and leave it whole, "
                f"{courses}."
            )
        elif entry.solved is not None:
            yield f"Model {entry.name}: solved from sums over the training cases, {courses}."
        else:
            settings = entry.trained[1]
            yield (
                f"Model {entry.name}: trained here for {entry.rounds} rounds of {settings.local_epochs} "
                f"pass{'es' * (settings.local_epochs != 1)} over the training cases, {courses}."
            )
    folds = f", in each of {study.n_folds} folds" if study.n_folds > 1 else ""
    yield f"To test every hospital's and the common models on the test cases here{folds}."


def _statistics(study: StudyConfig) -> Iterator[str]:
    yield "numbers, means and variances"
    if study.table.impute == "median":
        yield "rounded counts up to values, for medians"
    if study.table.combat is not None:
        yield "sums for the harmonisation of scanners (ComBat)"
    if study.table.selection:
        yield f"sums for the selection of features ({', '.join(step.kind for step in study.table.selection)})"
    if study.table.pca is not None:
        yield "sums of products, for principal components"
    if study.robustness is not None:
        yield "variances under repeated measurement"


def _leaves(study: StudyConfig) -> Iterator[str]:
    kinds = ["Prepared", "StatisticSums", "LocalUpdate", "EvaluationSums"]
    if all(entry.solved is not None for entry in study.models):
        kinds.remove("LocalUpdate")
    if study.privacy.secure_aggregation is not None:
        kinds = ["Prepared", "KeysAdvertised", "SharesSealed", "MaskedValues", "Consistent", "Unmasked"]
    yield from (WHAT_LEFT[kind] for kind in kinds)
    if study.evaluation.subgroups:
        columns = ", ".join(entry.column for entry in study.evaluation.subgroups)
        yield f"The same counts by groups of {columns}."
    yield "Of an error: its code. The sentence stays here."


def _protection(study: StudyConfig, config: SiteConfig) -> Iterator[str]:
    rules, minimum = config.gate, max(config.minimum_cases, study.privacy.minimum_cases)
    yield f"Nothing leaves that was computed from fewer than {minimum} cases."
    yield from _promises(study)
    yield (
        f"This hospital's own rules: the study may be run {rules.runs} times with other numbers, at most "
        f"{rules.max_statistics} different statistics a fold, {rules.max_rounds} rounds a model."
    )
    if rules.budget is not None:
        yield (
            f"All studies together may cost this hospital's cases epsilon {rules.budget.epsilon:g} at delta "
            f"{rules.budget.delta:g}; fedrad site ledger shows what is spent."
        )
    filters = [name.replace("_", " ") for name, value in rules.updates.model_dump().items() if value]
    if filters:
        yield f"Model updates pass this hospital's filters before they leave: {', '.join(filters)}."
    for fault in centring_faults(study, rules.updates):
        yield f"With them this hospital refuses every request of the study: {fault}."
    yield "fedrad site stop ends it at once; everything that leaves is in the audit log (fedrad site ledger)."


def _promises(study: StudyConfig) -> Iterator[str]:
    """What the study promises beyond small cells; each setting that has no sentence of its own is named as it is."""
    privacy = study.privacy
    if privacy.sample_level is not None:
        own = privacy.sample_level
        yield (
            f"Training is differentially private for each case, by noise that is added here: epsilon "
            f"{own.target_epsilon:g}, delta {own.target_delta:g}, over the whole study."
        )
        yield from private_network_advice(study)
    if privacy.statistics is not None:
        sums = privacy.statistics
        yield (
            f"Statistics and test results are differentially private, by noise that is added here: epsilon "
            f"{sums.target_epsilon:g}, delta {sums.target_delta:g}, over the whole study."
        )
    if privacy.secure_aggregation is not None:
        least = privacy.secure_aggregation.least(study.n_training)
        yield (
            f"Answers about cases leave under masks: the coordinator reads sums over at least {least} of "
            f"{study.n_training} training hospitals, and no answer of one, unless "
            f"{privacy.secure_aggregation.in_league(study.n_training)} of them help it against the others."
        )
    if privacy.site_level is not None:
        yield _site_level(study, privacy.site_level)
    said = {"minimum_cases", "sample_level", "statistics", "secure_aggregation", "site_level"}
    further = {name: value for name, value in privacy.model_dump(mode="json").items() if name not in said and value}
    yield from (f"The study sets {name.replace('_', ' ')}: {_said(value)}." for name, value in further.items())
    bare = privacy.sample_level is None and privacy.secure_aggregation is None
    if bare and any(entry.solved is None for entry in study.models):
        yield "Model updates carry no noise of this hospital: an expert who sees one may infer something about cases."
    if privacy.statistics is None:
        yield "Statistics and test results are exact sums: many of them together may tell something about cases."


def _site_level(study: StudyConfig, config: SiteLevelConfig) -> str:
    spent = epsilon(site_level_cost(study), config.target_delta)
    cost = f"epsilon {spent:.3g}, delta {config.target_delta:g}, over all rounds"
    if study.privacy.secure_aggregation is not None:
        return f"Every hospital adds its share of noise that hides a whole hospital's part in a model: {cost}."
    return (
        "The coordinator adds noise that hides a whole hospital's part in a model from all who see the model, not from "
        f"the coordinator itself: {cost}."
    )


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_said(part)}" for name, part in value.items() if part is not None)
    return f"{value:g}" if isinstance(value, float) else str(value)
