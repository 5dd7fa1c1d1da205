"""`study.toml`: what all parties agree to. Its digest travels with the run; a site refuses one it has not approved."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from common.compression import CompressionConfig, NoCompressionConfig
from common.config.fields import ColumnName, Fraction, Name
from common.config.inputs import ClinicalConfig, ImageConfig, PatchConfig, RadiomicsConfig
from common.config.loading import Check, Frozen, refuse, require
from common.config.outcome import ClassOutcomeConfig, OutcomeConfig, ScalarOutcomeConfig, SurvivalOutcomeConfig
from common.config.privacy import PrivacyConfig
from common.config.robustness import StudyRobustnessConfig
from common.config.study_rules import STUDY_RULES, rising
from common.config.table import TableConfig
from common.models import ModelConfig, ModelInputs
from common.statistics.solved import AnySolved, OutcomeKind, SolvedModelConfig, Target
from common.strategies import FedAvgConfig, StrategyConfig
from common.tasks import TrainingConfig

__all__ = [
    "ClassOutcomeConfig",
    "ClinicalConfig",
    "EvaluationConfig",
    "FederatedConfig",
    "FoldsConfig",
    "HoldoutConfig",
    "ImageConfig",
    "LeaveOneSiteOutConfig",
    "OutcomeConfig",
    "PatchConfig",
    "PrivacyConfig",
    "RadiomicsConfig",
    "ScalarOutcomeConfig",
    "StudyConfig",
    "StudyModel",
    "StudySite",
    "SubgroupConfig",
    "SurvivalOutcomeConfig",
]


class StudySite(Frozen):
    """A hospital of the study; an ``external`` one is evaluated and never trained on."""

    name: Name
    role: Literal["training", "external"] = "training"


class HoldoutConfig(Frozen):
    """One split a site: ``test_fraction`` of its cases, stratified by class, is never trained on."""

    kind: Literal["holdout"] = "holdout"
    test_fraction: Fraction = 0.3


class FoldsConfig(Frozen):
    """Cross-validation: each case is tested once, in ``count`` runs of the whole procedure."""

    kind: Literal["folds"]
    count: Annotated[int, Field(ge=2, le=20)]


class LeaveOneSiteOutConfig(Frozen):
    """Each training hospital in turn trains not and is tested on, all its cases; as many runs as hospitals train."""

    kind: Literal["leave_one_site_out"]


SplitConfig = Annotated[HoldoutConfig | FoldsConfig | LeaveOneSiteOutConfig, Field(discriminator="kind")]


class StudyModel(Frozen):
    """One model of the study: trained by rounds, or solved by questions.

    Parameters
    ----------
    model : config of a model
        The trained ones of `common.models`, the solved ones of `common.statistics.solved`.
    training : TrainingConfig
        Of a trained model; a solved one has none.
    rounds : int
        Of a trained model; 0 for a solved one.
    calibration : {"none", "platt", "isotonic"}
        Of a solved model of two classes: a map of its probabilities that is learned from merged counts of its scores on
        the training cases.
    """

    name: Name
    model: ModelConfig | SolvedModelConfig = Field(discriminator="kind")
    training: TrainingConfig | None = None
    rounds: Annotated[int, Field(ge=0)] = 0
    calibration: Literal["none", "platt", "isotonic"] = "none"

    @model_validator(mode="after")
    def _trained_or_solved(self) -> StudyModel:
        faults: list[str] = []
        if isinstance(self.model, AnySolved):
            given = [name for name, is_there in (("training", self.training), ("rounds", self.rounds)) if is_there]
            require(not given, f"kind {self.model.kind} is solved, not trained: no {' and '.join(given)}", faults)
        else:
            require(self.training is not None, "training: missing", faults)
            require(self.rounds > 0, "rounds: missing, expected a whole number greater than 0", faults)
            require(self.calibration == "none", "calibration: for solved models only", faults)
        refuse(faults)
        return self

    @property
    def solved(self) -> AnySolved | None:
        """Settings of a solved model; None for a trained one."""
        return self.model if isinstance(self.model, AnySolved) else None

    @property
    def trained(self) -> tuple[ModelConfig, TrainingConfig]:
        """Settings of a trained model.

        Raises
        ------
        ValueError
            For a solved one.
        """
        if isinstance(self.model, AnySolved) or self.training is None:
            raise ValueError(f"model {self.name} of kind {self.model.kind} is solved, not trained")
        return self.model, self.training


class FederatedConfig(Frozen):
    """How rounds are run.

    Parameters
    ----------
    compression : config of a code
        In which deltas and broadcasts travel (`common.compression`).
    quorum : int, optional
        Least number of training sites whose updates make a round; all of them where it is not given.
    join_deadline_s : float
        How long the start waits for the hospitals to connect.
    round_deadline_s, prepare_deadline_s : float
        How long one request may take; a site that is late is skipped, named and asked again in the next round.
    """

    strategy: StrategyConfig = FedAvgConfig()
    compression: CompressionConfig = NoCompressionConfig()
    quorum: PositiveInt | None = None
    round_deadline_s: PositiveFloat = 600.0
    prepare_deadline_s: PositiveFloat = 3600.0
    join_deadline_s: PositiveFloat = 3600.0


class SubgroupConfig(Frozen):
    """A manifest column by whose levels test cases are also scored: a list of values, or bands of a number.

    Parameters
    ----------
    values : tuple of str
        Cells of the column; every other cell is one level more, "other or not known".
    edges : tuple of float
        Rising; bands below the first, between two, and from the last; cells that are no number are a level more.
    """

    column: ColumnName
    values: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> SubgroupConfig:
        faults = list(rising("edges", self.edges))
        require(bool(self.values) != bool(self.edges), "give either values or edges", faults)
        require(len(set(self.values)) == len(self.values), "values must differ from one another", faults)
        refuse(faults)
        return self


class EvaluationConfig(Frozen):
    """``confidence`` of all intervals; below ``warn_below_events`` the report warns in words.

    ``subgroups``: columns by which the report compares groups of patients (classes as outcome only).
    """

    confidence: Fraction = 0.95
    threshold: Fraction = 0.5
    warn_below_events: PositiveInt = 100
    subgroups: tuple[SubgroupConfig, ...] = ()


class StudyConfig(Frozen):
    """The whole study."""

    checks: ClassVar[tuple[Check, ...]] = STUDY_RULES

    schema_version: Literal[1] = 1
    name: Name
    title: str
    purpose: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    sites: Annotated[tuple[StudySite, ...], Field(min_length=1)]
    case_column: ColumnName = "case_id"
    site_column: ColumnName | None = None
    outcome: OutcomeConfig
    images: Annotated[tuple[ImageConfig, ...], Field(min_length=1)]
    clinical: tuple[ClinicalConfig, ...] = ()
    radiomics: tuple[RadiomicsConfig, ...] = ()
    patch: PatchConfig | None = None
    split: SplitConfig = HoldoutConfig()
    robustness: StudyRobustnessConfig | None = None
    table: TableConfig = TableConfig()
    models: Annotated[tuple[StudyModel, ...], Field(min_length=1)]
    federated: FederatedConfig = FederatedConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    local_only: bool = False

    @property
    def outcome_columns(self) -> frozenset[str]:
        if isinstance(self.outcome, SurvivalOutcomeConfig):
            return frozenset({self.outcome.event_column, self.outcome.time_column})
        return frozenset({self.outcome.column})

    @property
    def training_sites(self) -> tuple[str, ...]:
        return tuple(sorted(site.name for site in self.sites if site.role == "training"))

    @property
    def n_training(self) -> int:
        return len(self.training_sites)

    @property
    def n_folds(self) -> int:
        if isinstance(self.split, LeaveOneSiteOutConfig):
            return self.n_training
        return self.split.count if isinstance(self.split, FoldsConfig) else 1

    def left_out(self, fold: int) -> str | None:
        """The training hospital that does not train in a fold; None where the split is within hospitals."""
        return self.training_sites[fold] if isinstance(self.split, LeaveOneSiteOutConfig) else None

    @property
    def clinical_names(self) -> tuple[str, ...]:
        """Coded clinical columns of the table, in order."""
        return tuple(name for column in self.clinical for name in column.coded_names)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Columns of the manifest that are read as text: the scanner, and those of subgroups."""
        combat = self.table.combat
        batch = [combat.batch_column] if combat and combat.batch_column else []
        return tuple(dict.fromkeys([*batch, *(entry.column for entry in self.evaluation.subgroups)]))

    @property
    def target(self) -> Target:
        """The outcome as solved models need it."""
        return Target(
            kind=self.outcome_kind,
            classes=self.outcome.names if isinstance(self.outcome, ClassOutcomeConfig) else (),
            interval_ends_days=self.outcome.interval_ends_days
            if isinstance(self.outcome, SurvivalOutcomeConfig)
            else (),
            minimum_cases=self.privacy.minimum_cases,
            seed=self.seed,
        )

    @property
    def outcome_kind(self) -> OutcomeKind:
        if isinstance(self.outcome, ClassOutcomeConfig):
            return "two classes" if len(self.outcome.names) == 2 else "several classes"
        return "number" if isinstance(self.outcome, ScalarOutcomeConfig) else "survival"

    def model_inputs(self, n_columns: int) -> ModelInputs:
        """Shapes that a model of this study is built for, with ``n_columns`` columns in the training table."""
        patch = self.patch
        n_channels = len(patch.images) + 1 if patch else 0
        width, height, depth = patch.shape if patch else (0, 0, 0)
        return ModelInputs(n_channels, (depth, height, width), n_columns, self.outcome.task().n_outputs)

    def study_model(self, name: str) -> StudyModel:
        for entry in self.models:
            if entry.name == name:
                return entry
        raise KeyError(name)
