"""What must hold between the parts of a study file: one rule, one function, one sentence a fault."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING

from common.config.loading import Check
from common.config.private_statistics import PRIVATE_STATISTICS_RULES
from common.config.secure_aggregation import secure_aggregation_faults
from common.config.shared_grids import shared_grid_faults
from common.config.site_level import SITE_LEVEL_RULES
from common.models.cnn3d import TrunkConfig

if TYPE_CHECKING:
    from common.config.study import ImageConfig, StudyConfig, StudyModel


RESERVED_NAMES = frozenset({"pooled", "internal", "external", "federated", "unassigned", "all"})
"""What the results call a course or a group of cases: no hospital may have such a name."""


def preset_names() -> tuple[str, ...]:
    """The presets of ``configs/radiomics``, sorted."""
    folder = files("configs") / "radiomics"
    return tuple(sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")))


def pattern_faults(image: ImageConfig) -> Iterator[str]:
    """A pattern stays below the data folder and names the case, and nothing else, in braces."""
    for part, pattern in (("image", image.image), ("roi", image.roi)):
        if pattern.startswith("/") or ".." in pattern.split("/"):
            yield f"{part}: {pattern} leaves the data folder"
        braces = re.sub(r"\{case_id\}", "", pattern)
        if "{" in braces or "}" in braces:
            yield f"{part}: {pattern} has braces around something else than case_id"
        if "{case_id}" not in pattern:
            yield f"{part}: {pattern} has no {{case_id}}, so every case would have the same file"


def _names_differ(kind: str, names: Sequence[str]) -> Iterator[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        yield f"{kind} given twice: {', '.join(twice)}"


def _sites(study: StudyConfig) -> Iterator[str]:
    yield from _names_differ("site", [site.name for site in study.sites])
    taken = sorted({site.name for site in study.sites} & RESERVED_NAMES)
    if taken:
        yield f"site name {', '.join(taken)}: the report means its own groups of cases and courses by these words"
    if not study.n_training:
        yield "sites: at least one has the role training"


def _columns(study: StudyConfig) -> Iterator[str]:
    clinical = [entry.column for entry in study.clinical]
    yield from _names_differ("clinical column", clinical)
    leaked = sorted(study.outcome_columns & set(clinical))
    if leaked:
        yield f"clinical column is the outcome itself: {', '.join(leaked)}"
    for role, column in (("case_column", study.case_column), ("site_column", study.site_column)):
        if column in clinical:
            yield f"clinical column {column} is the {role}, which no model may see"
        if column in study.outcome_columns:
            yield f"outcome column {column} is the {role}"
    if study.case_column == study.site_column:
        yield f"case_column and site_column are both {study.case_column}"


def _images(study: StudyConfig) -> Iterator[str]:
    yield from _names_differ("image", [image.name for image in study.images])


def _steps(study: StudyConfig) -> Iterator[str]:
    known = {image.name for image in study.images}
    for image in study.images:
        for step in image.steps:
            if step.kind == "check_registration" and step.reference not in known - {image.name}:
                others = ", ".join(sorted(known - {image.name})) or "none"
                yield f"images {image.name}: check_registration names {step.reference}, other images are: {others}"


def _resegmented(study: StudyConfig) -> Iterator[str]:
    measured = {entry.image for entry in study.radiomics}
    for image in study.images:
        if image.name in measured and any(step.kind == "resegment" for step in image.steps):
            yield f"images {image.name}: resegment would not reach the radiomics; their preset resegments"


def _radiomics(study: StudyConfig) -> Iterator[str]:
    names = [entry.image for entry in study.radiomics]
    yield from _names_differ("radiomics image", names)
    yield from _known_images("radiomics", names, study)


def _presets(study: StudyConfig) -> Iterator[str]:
    known = preset_names()
    for name in sorted({entry.preset for entry in study.radiomics} - set(known)):
        yield f"radiomics: no preset {name}; there are {', '.join(known)}"


def _robustness(study: StudyConfig) -> Iterator[str]:
    if study.robustness is None:
        return
    if not study.radiomics:
        yield "robustness: there are no [[radiomics]] to measure under perturbation"
    if study.robustness.most_cases < study.privacy.minimum_cases:
        most, minimum = study.robustness.most_cases, study.privacy.minimum_cases
        yield f"robustness.most_cases: {most} is below privacy.minimum_cases = {minimum}, so nothing could leave"


def _patch(study: StudyConfig) -> Iterator[str]:
    if study.patch is not None:
        yield from _names_differ("patch image", study.patch.images)
        yield from _known_images("patch.images", study.patch.images, study)


def _known_images(place: str, names: Sequence[str], study: StudyConfig) -> Iterator[str]:
    known = {image.name for image in study.images}
    unknown = sorted(set(names) - known)
    if unknown:
        yield f"{place}: no [[images]] named {', '.join(unknown)}; there are {', '.join(sorted(known))}"


def _model_names(study: StudyConfig) -> Iterator[str]:
    yield from _names_differ("model", [entry.name for entry in study.models])


def _image_models(study: StudyConfig) -> Iterator[str]:
    for entry in study.models:
        if entry.model.needs_image and study.patch is None:
            yield f"model {entry.name}: kind {entry.model.kind} needs [patch]"


def _table_models(study: StudyConfig) -> Iterator[str]:
    if not study.radiomics and not study.clinical:
        for entry in study.models:
            if entry.model.needs_table:
                yield f"model {entry.name}: kind {entry.model.kind} needs [[radiomics]] or [[clinical]]"


def _buildable(study: StudyConfig) -> Iterator[str]:
    """Each model can be built for the patch."""
    for entry in study.models:
        if entry.model.needs_image and study.patch is not None and entry.solved is None:
            try:
                entry.trained[0].initial(study.model_inputs(1))
            except ValueError as error:
                yield f"model {entry.name}: {error}"


def _centred_models(study: StudyConfig) -> Iterator[str]:
    """The first round of a centred model sends means: they have to arrive as they are, and rounds have to follow."""
    strategy = study.federated.strategy.kind
    for entry in study.models:
        if entry.solved is not None or not entry.trained[0].centred:
            continue
        if entry.rounds < 2:
            yield f"model {entry.name}: centred needs 2 rounds or more, the first of which trains no weights"
        if strategy not in AVERAGING_STRATEGIES:
            fits = ", ".join(AVERAGING_STRATEGIES)
            yield f"model {entry.name}: centred needs a strategy that takes the mean, not {strategy}; fits: {fits}"
        if study.privacy.site_level is not None:
            yield f"model {entry.name}: centred, and privacy.site_level would clip the means of the first round"
        if study.federated.compression.kind == "topk":
            yield f"model {entry.name}: centred, and federated.compression topk would send a part of the means alone"
        yield from _room_for_means(study, entry)


def _room_for_means(study: StudyConfig, entry: StudyModel) -> Iterator[str]:
    """In masked sums: a site whose means have none sends nothing. Sample-level noise needs as much again."""
    masks, trunk = study.privacy.secure_aggregation, entry.trained[0]
    if masks is None or not isinstance(trunk, TrunkConfig):
        return
    needed = math.ceil(trunk.largest_feature * (1 if study.privacy.sample_level is None else 2))
    if masks.value_bound < needed:
        yield (
            f"model {entry.name}: centred, and privacy.secure_aggregation.value_bound = {masks.value_bound:g} has no "
            f"room for the means of its features; at least {needed}"
        )


def _quorum(study: StudyConfig) -> Iterator[str]:
    quorum = study.federated.quorum
    if quorum is not None and quorum > study.n_training:
        yield f"federated.quorum: {quorum} of {study.n_training} training sites can never be met"


def _solved_models(study: StudyConfig) -> Iterator[str]:
    for entry in study.models:
        solved = entry.solved
        if solved is not None and study.outcome_kind not in solved.outcomes:
            fits = " or ".join(solved.outcomes)
            yield f"model {entry.name}: kind {solved.kind} needs {fits} as outcome, this study has {study.outcome_kind}"
        if entry.calibration != "none" and study.outcome_kind != "two classes":
            yield f"model {entry.name}: calibration needs two classes as outcome"


def _left_out_sites(study: StudyConfig) -> Iterator[str]:
    if study.split.kind == "leave_one_site_out" and study.n_training < 2:
        yield "split: leave_one_site_out needs at least 2 training sites"


def _combat(study: StudyConfig) -> Iterator[str]:
    combat = study.table.combat
    if combat is None:
        return
    leaving = study.split.kind == "leave_one_site_out"
    fewest = study.n_training - leaving
    if not study.radiomics:
        yield "table.combat: there are no [[radiomics]] to harmonise"
    if combat.batch_column is None and fewest < 2:
        yield f"table.combat: {fewest} training site is one batch, and ComBat needs two"
    if combat.unseen_sites is None and (leaving or study.n_training < len(study.sites)):
        yield "table.combat: sites that are not in the fit need unseen_sites, adapt or leave"
    if combat.reference and combat.batch_column is None and combat.reference not in study.training_sites:
        yield f"table.combat.reference: {combat.reference} is no training site"
    if combat.reference and leaving:
        yield "table.combat.reference: with leave_one_site_out the reference would be left out too"
    if combat.outcome_kept_because and study.outcome_kind not in ("two classes", "several classes"):
        yield "table.combat.outcome_kept_because: only classes can be kept as a covariate"


def _combat_columns(study: StudyConfig) -> Iterator[str]:
    combat = study.table.combat
    if combat is None:
        return
    yield from _names_differ("table.combat covariate", combat.covariates)
    known = {entry.column: entry for entry in study.clinical}
    for name in combat.covariates:
        if name not in known:
            yield f"table.combat: covariate {name} is no [[clinical]] column"
        elif known[name].missing != "exclude":
            yield f'table.combat: covariate {name} must be known of every case: missing = "exclude"'
    if combat.batch_column in study.outcome_columns | {study.case_column}:
        yield f"table.combat.batch: {combat.batch_column} is the outcome or the case"


def _selection(study: StudyConfig) -> Iterator[str]:
    needs = {"univariate": "classes", "mutual_information": "classes", "mrmr": "classes", "stability": "two classes"}
    kind = study.outcome_kind
    for number, step in enumerate(study.table.selection, start=1):
        wanted = needs.get(step.kind, "")
        if step.kind == "univariate" and step.test != "anova":
            wanted = "two classes"
        if step.kind == "lasso" or (step.kind == "stability" and step.by == "lasso"):
            wanted = "two classes or a number"
        fits = {
            "": True,
            "classes": kind in ("two classes", "several classes"),
            "two classes": kind == "two classes",
            "two classes or a number": kind in ("two classes", "number"),
        }
        if not fits[wanted]:
            yield f"table.selection[{number}]: {step.kind} needs {wanted} as outcome, this study has {kind}"


def _subgroups(study: StudyConfig) -> Iterator[str]:
    columns = [entry.column for entry in study.evaluation.subgroups]
    yield from _names_differ("evaluation.subgroups column", columns)
    if columns and study.outcome_kind not in ("two classes", "several classes"):
        yield "evaluation.subgroups: only for classes as outcome"
    for name in sorted(set(columns) & study.outcome_columns):
        yield f"evaluation.subgroups: {name} is the outcome"


def _sample_level(study: StudyConfig) -> Iterator[str]:
    if study.privacy.sample_level is None:
        return
    strategy = study.federated.strategy.kind
    if strategy not in ONE_DELTA_STRATEGIES:
        fits = ", ".join(ONE_DELTA_STRATEGIES)
        yield f"privacy.sample_level: strategy {strategy} uses more of the cases than their updates; fits: {fits}"
    for entry in study.models:
        if entry.solved is not None:
            yield (
                f"privacy.sample_level: model {entry.name} of kind {entry.solved.kind} is solved from exact sums, "
                "which no noise protects; train a model instead, or leave it out"
            )
        elif entry.training is not None and entry.training.gradient_clip is not None:
            yield f"privacy.sample_level: model {entry.name}: clipping_norm takes the place of gradient_clip"


def rising(name: str, values: Sequence[float]) -> Iterator[str]:
    """A fault where ``values`` do not rise."""
    if any(a >= b for a, b in pairwise(values)):
        yield f"{name}: {', '.join(f'{value:g}' for value in values)} must rise"


ONE_DELTA_STRATEGIES = ("fedavg", "fedprox", "fedadam", "fedyogi")
"""Strategies of which a site sends nothing but what training under DP-SGD gave."""

AVERAGING_STRATEGIES = ("fedavg", "fedprox")
"""Strategies whose next parameters are the mean of the sites' parameters."""

STUDY_RULES = (
    Check(("sites",), _sites),
    Check(("outcome", "clinical", "case_column", "site_column"), _columns),
    Check(("images",), _images),
    Check(("images",), _steps),
    Check(("radiomics", "images"), _radiomics),
    Check(("radiomics", "images"), _resegmented),
    Check(("radiomics",), _presets),
    Check(("robustness", "radiomics", "privacy"), _robustness),
    Check(("patch", "images"), _patch),
    Check(("models",), _model_names),
    Check(("models", "patch"), _image_models),
    Check(("models", "radiomics", "clinical"), _table_models),
    Check(("models", "patch", "outcome"), _buildable),
    Check(("models", "federated", "privacy"), _centred_models),
    Check(("federated", "sites"), _quorum),
    Check(("models", "outcome"), _solved_models),
    Check(("split", "sites"), _left_out_sites),
    Check(("table", "split", "sites", "radiomics", "outcome"), _combat),
    Check(("table", "clinical", "outcome", "case_column"), _combat_columns),
    Check(("table", "outcome"), _selection),
    Check(("evaluation", "outcome"), _subgroups),
    *PRIVATE_STATISTICS_RULES,
    Check(("privacy", "models", "federated"), _sample_level),
    Check(("privacy", "sites", "split", "federated", "evaluation"), secure_aggregation_faults),
    Check(("privacy", "sites", "federated"), shared_grid_faults),
    *SITE_LEVEL_RULES,
)
