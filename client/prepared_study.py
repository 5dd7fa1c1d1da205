"""The way from a site's manifest to the tables and the study that requests are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from client.case_cache import CaseCache
from client.dataset import build_dataset
from client.exchange import Exchange, residuals_of
from client.imaging.landmarks import with_all_landmarks
from client.ingest.manifest import Manifest, read_manifest
from client.preparation import study_feature_names, table_names
from client.privacy_budget import PrivacyBudget
from client.private_release import PrivateRelease, Reserve
from client.side_tables import SideTable, counted, landmark_side_table, repeat_side_table, repeated_cases, require_table
from client.study_at_site import StudyAtSite, Trainer, declared
from client.worklist import Worklist
from common.config.loading import digest
from common.config.private_statistics import cost_of_a_question
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import CaseError, Code, GateError, MessageError
from common.journal import JsonLines
from common.messages import (
    TRAINING,
    AskStatistic,
    Landmarks,
    LocalUpdate,
    Prepare,
    Prepared,
    PrivacyEvent,
    StatisticSums,
    Train,
)
from common.statistics.nyul import landmark_names, learn_landmarks
from common.statistics.procedure import ask_cohorts, run

NONE_LEARNED: Landmarks = {}


Spend = Callable[[Sequence[PrivacyEvent], PrivacyBudget], None]
"""Takes a cost from a study's own target, a ledger, and from what the hospital has for all studies; or raises."""


@dataclass
class _Preparation:
    """A table on its way, and what it ends in."""

    work: Worklist
    names: tuple[str, ...]
    side: SideTable | None = None
    study: StudyAtSite | None = None


class PreparedStudy:
    """One approved study at one site: prepares its tables case after case, then answers about them.

    Every request says which landmarks it works with. The tables of others are given up; the cache still holds them.

    Attributes
    ----------
    landmarks : mapping of image to landmarks
        Those of the latest request.

    Parameters
    ----------
    spend : callable, optional
        Pays for an answer (`client.governance`). Where nobody outside asks, the study's own target alone pays.
    """

    def __init__(
        self,
        study: StudyConfig,
        config: SiteConfig,
        log: JsonLines,
        *,
        secret: str = "",
        spend: Spend | None = None,
    ) -> None:
        if config.site not in [entry.name for entry in study.sites]:
            raise GateError(f"study {study.name} has no site {config.site}", code=Code.SITE_UNKNOWN)
        self.study = study
        self.config = config
        self._log = log
        self._secret = secret
        self._minimum = max(config.minimum_cases, study.privacy.minimum_cases)
        self._manifest = read_manifest(config.manifest, study, data=config.data, site=config.site)
        for fault in self._manifest.faults:
            self._write(TRAINING, fault)
        self._spend = spend
        self._private = _private_release(study, config, spend)
        self._exchange = Exchange(study, config.site, residuals_of(config.state, digest(study)), self._lost_residual)
        self.landmarks: Landmarks = NONE_LEARNED
        self._tables: dict[str, _Preparation] = {}

    @property
    def case_list(self) -> str:
        """SHA-256 of the manifest as it was read: what the answers are about."""
        return self._manifest.sha256

    @property
    def faults(self) -> tuple[CaseError, ...]:
        """Why cases are left out of the training table, in sentences for this hospital."""
        return tuple(self._tables[TRAINING].work.faults) if TRAINING in self._tables else self._manifest.faults

    def prepare(self, budget_s: float, table: str = TRAINING, landmarks: Landmarks = NONE_LEARNED) -> Prepared:
        """Go on with the pending cases of a table and count."""
        preparation = self._preparation(table, landmarks)
        work = preparation.work
        work.advance(budget_s)
        counts = counted(work, preparation.names)
        if table == TRAINING and work.done and not work.pending:
            return declared(counts, self.study, self.opened(landmarks).data)
        return counts

    def answer_prepare(self, request: Prepare) -> Prepared:
        """As `prepare`, for the coordinator."""
        self._require_training(request.table)
        return self.prepare(request.budget_s, request.table, request.landmarks)

    def statistic(self, request: AskStatistic) -> StatisticSums:
        """Sums over the table that the request names."""
        if request.table == TRAINING:
            return self.opened(request.landmarks).statistic(request)
        self._require_training(request.table)
        side = self.side_table(request.table, request.landmarks)
        return side.statistic(request, minimum_cases=self._minimum, private=self._private)

    def train(self, request: Train) -> LocalUpdate:
        """One round; model and delta travel as the study says."""
        whole = self._exchange.opened(request)
        return self._exchange.packed(whole, self.opened(whole.landmarks).train(whole))

    def close(self) -> None:
        """End the processes that prepare cases."""
        for preparation in self._tables.values():
            preparation.work.close()

    def opened(self, landmarks: Landmarks = NONE_LEARNED) -> StudyAtSite:
        """The study on all usable cases; after a restart this reads them from the cache first."""
        preparation = self._preparation(TRAINING, landmarks)
        if preparation.study is None:
            preparation.work.advance(float("inf"))
            trainer = self._trainer()
            cases = list(preparation.work.done.values())
            data = build_dataset(cases, self.study, site=self.config.site, minimum_cases=self._minimum)
            preparation.study = StudyAtSite(self.study, trainer, data, private=self._private)
        return preparation.study

    def _trainer(self) -> Trainer:
        own = self.config
        return Trainer(
            own.site,
            own.device,
            self._minimum,
            self._secret,
            reserve=_training_ledger(self.study, own, self._spend),
            updates=own.gate.updates,
        )

    def side_table(self, table: str, landmarks: Landmarks = NONE_LEARNED) -> SideTable:
        """A table beside the training table; after a restart its rows are read from the cache first."""
        preparation = self._preparation(table, landmarks)
        if preparation.side is None:
            preparation.work.advance(float("inf"))
            done = list(preparation.work.done.values())
            kind, _, image = table.partition(".")
            site, secret = self.config.site, self._secret
            if kind == "landmarks":
                preparation.side = landmark_side_table(done, self.study, image, site=site, secret=secret)
            else:
                tested_in = self._tested_in(landmarks)
                preparation.side = repeat_side_table(done, self.study, image, tested_in, site=site, secret=secret)
        return preparation.side

    def own_landmarks(self) -> Landmarks:
        """Landmarks of this hospital's cases alone, to look at its images before a study; they stay here."""
        found = {}
        for image in self.study.images:
            if image.waiting:
                cohort = self.side_table(f"landmarks.{image.name}").cohort
                found[image.name] = run(learn_landmarks(image.name, image.waiting.percentiles), ask_cohorts([cohort]))
        return found

    def _preparation(self, table: str, landmarks: Landmarks) -> _Preparation:
        image = "" if table == TRAINING else require_table(table, self.study)
        if not table.startswith("landmarks."):
            self._work_with(landmarks)
        if table not in self._tables:
            self._tables[table] = self._begun(table, image, landmarks)
        return self._tables[table]

    def _begun(self, table: str, image: str, landmarks: Landmarks) -> _Preparation:
        if table == TRAINING:
            names = study_feature_names(self.study) + self.study.clinical_names
            return _Preparation(self._worklist(self._manifest, table, landmarks), names)
        if table.startswith("landmarks."):
            waiting = next(entry.waiting for entry in self.study.images if entry.name == image)
            names = landmark_names(image, waiting.percentiles if waiting else ())
            return _Preparation(self._worklist(self._manifest, table, NONE_LEARNED), names)
        data = self.opened(landmarks).data
        chosen = set(repeated_cases(data.features.case_ids, data.tested_in, self.study))
        rows = tuple(row for row in self._manifest.rows if row.case_id in chosen)
        return _Preparation(self._worklist(Manifest(rows, ()), table, landmarks), table_names(self.study, image))

    def _require_training(self, table: str) -> None:
        """Tables beside the training table are learned from; a site that does not train gives nothing to learn from."""
        if table != TRAINING and self.config.site not in self.study.training_sites:
            raise MessageError(f"table {table} is asked of sites that train")

    def _work_with(self, landmarks: Landmarks) -> None:
        """Give up tables that were prepared with other landmarks."""
        if dict(landmarks) != dict(self.landmarks):
            for table in [name for name in self._tables if not name.startswith("landmarks.")]:
                self._tables.pop(table).work.close()
        self.landmarks = landmarks

    def _worklist(self, manifest: Manifest, table: str, landmarks: Landmarks) -> Worklist:
        study = self.study if table.startswith("landmarks.") else with_all_landmarks(self.study, landmarks)
        return Worklist(
            manifest,
            CaseCache(self.config.state / "cache", study, table),
            processes=self.config.processes,
            note=lambda fault: self._note(table, fault),
        )

    def _tested_in(self, landmarks: Landmarks) -> Mapping[str, int]:
        data = self.opened(landmarks).data
        return dict(zip(data.features.case_ids, data.tested_in.tolist(), strict=True))

    def _note(self, table: str, fault: CaseError) -> None:
        if not any(fault is known for known in self._manifest.faults):  # written once, when the manifest was read
            self._write(table, fault)

    def _lost_residual(self, reason: str) -> None:
        self._log.write("residual", reason=reason)

    def _write(self, table: str, fault: CaseError) -> None:
        self._log.write("excluded", table=table, case=fault.case_id, code=fault.code, reason=fault.reason)


def _private_release(study: StudyConfig, config: SiteConfig, spend: Spend | None) -> PrivateRelease | None:
    """Noise and ledger of a study with private statistics: its own target, kept on this hospital's disk."""
    private = study.privacy.statistics
    if private is None:
        return None
    key = digest(study)
    own = PrivacyBudget(config.state / "privacy" / key[:16], private.target_epsilon, private.target_delta)
    return PrivateRelease(cost_of_a_question(study), _paid_from(own, key, spend))


def _training_ledger(study: StudyConfig, config: SiteConfig, spend: Spend | None) -> Reserve | None:
    """Where the cost of each private round of training is written down: the study's own target at this hospital."""
    private = study.privacy.sample_level
    if private is None:
        return None
    key = digest(study)
    folder = config.state / "privacy" / key[:16] / "training"
    return _paid_from(PrivacyBudget(folder, private.target_epsilon, private.target_delta), key, spend)


def _paid_from(own: PrivacyBudget, key: str, spend: Spend | None) -> Reserve:
    def reserve(events: Sequence[PrivacyEvent]) -> None:
        if spend is None:
            own.reserve(key, events)
        else:
            spend(events, own)

    return reserve
