"""Tables of a site's cases that are asked about beside the training table: what Nyul's landmarks and the reliability of
features are learned from.

Both are measured case by case like the training table, through the same cache and work list. Only counts and sums
(`MomentQuery`) may be asked of them, under the same small-cell rule.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from client.dataset import NEVER_TESTED, Rows, assign_folds, global_ids, make_outcome, strata
from client.ingest.manifest import CaseRow
from client.preparation import PreparedCase, table_names
from client.private_release import PrivateRelease
from client.worklist import Worklist
from common.config.study import HoldoutConfig, StudyConfig
from common.errors import Code, GateError, MessageError, StatisticError
from common.messages import AskStatistic, Prepared, StatisticSums
from common.statistics import decode_query
from common.statistics.bounds import Limits
from common.statistics.moments import MomentQuery
from common.statistics.nyul import SCALE, landmark_table
from common.statistics.procedure import Cohort
from common.statistics.reliability import reliability_table
from common.statistics.small_cell import release, widen_missing
from common.tables import FeatureTable

Done = Sequence[tuple[CaseRow, PreparedCase]]


@dataclass(frozen=True, eq=False)
class SideTable:
    """A measured table, and the fold in which each of its rows is tested.

    Parameters
    ----------
    on_scale : bool
        Whether every value lies within `common.statistics.nyul.SCALE`, as those of landmarks do.
    """

    cohort: Cohort
    tested_in: Rows
    n_folds: int
    on_scale: bool = False

    def statistic(
        self, request: AskStatistic, *, minimum_cases: int, private: PrivateRelease | None = None
    ) -> StatisticSums:
        """Sums over the rows that a fold trains on; the small-cell rule as for the training table.

        Raises
        ------
        GateError
            Where too few rows stand behind a number.
        """
        query = decode_query(request.kind, request.values)
        if not isinstance(query, MomentQuery):
            raise MessageError(f"table {request.table} answers numbers of cases and sums of values, not {request.kind}")
        if not 0 <= request.fold < self.n_folds:
            raise MessageError(f"fold {request.fold}, the study has {self.n_folds}")
        tested = self.tested_in == request.fold
        rows, held_out = np.flatnonzero(~tested), np.flatnonzero(tested)
        if len(rows) < minimum_cases:
            reason = f"{len(rows)} cases in table {request.table}, the minimum here is {minimum_cases}"
            raise GateError(reason, code=Code.SMALL_CELL)
        if private is not None:
            sums = private.statistic(query, self.cohort.take(rows), self._limits())
            return StatisticSums(len(rows), sums, (private.cost,))
        # with several folds, answers add up to one about all rows: a difference then stands for the held-out ones
        withheld = self._released(held_out, minimum_cases) if self.n_folds > 1 and len(held_out) else None
        sums = release(query, self._released(rows, minimum_cases), minimum_cases=minimum_cases, withheld=withheld)
        return StatisticSums(len(rows), sums)

    def _limits(self) -> Limits:
        """Percentiles lie on the scale that they are mapped to; nothing else of a side table has a known range."""
        names = self.cohort.table.names if self.on_scale else ()
        low, high = (np.full(len(names), end) for end in SCALE)
        return Limits(names, low, high, complete=True)

    def _released(self, rows: Rows, minimum_cases: int) -> Cohort:
        return widen_missing(self.cohort.take(rows), minimum_cases=minimum_cases)


def require_table(table: str, study: StudyConfig) -> str:
    """The image of a side table that this study has.

    Raises
    ------
    MessageError
        For any other table.
    """
    kind, _, image = table.partition(".")
    if kind == "landmarks":
        known = image in {entry.name for entry in study.images if entry.waiting}
    else:
        known = study.robustness is not None and image in {entry.image for entry in study.radiomics}
    if not known:
        raise MessageError(f"this study has no table {table}")
    return image


def landmark_side_table(done: Done, study: StudyConfig, image: str, *, site: str, secret: str) -> SideTable:
    """Percentiles of an image of the cases that landmarks are learned from.

    Where one split is held out, those are the training cases. With several folds they are all cases of the hospitals
    that train, once: percentiles know no outcome, and features would otherwise have to be measured anew for each fold.

    Raises
    ------
    StatisticError
        If no case is usable.
    """
    waiting = next(entry.waiting for entry in study.images if entry.name == image)
    assert waiting is not None  # `require_table` refuses the table otherwise
    ordered = _ordered(done, site)
    ids = tuple(row.case_id for row, _ in ordered)
    trains = site in study.training_sites
    tested_in = np.full(len(ids), NEVER_TESTED, dtype=np.int64)
    if isinstance(study.split, HoldoutConfig):
        labels = strata(make_outcome(study.outcome, [row.outcome for row, _ in ordered]))
        tested_in = assign_folds(ids, labels, study, trains=trains, site=site)
    found = {case_id: case.features for case_id, (_, case) in zip(ids, ordered, strict=True)}
    table = landmark_table(image, waiting.percentiles, found)
    return SideTable(_cohort(ordered, table, study, site=site, secret=secret), tested_in, study.n_folds, on_scale=True)


def repeat_side_table(
    done: Done, study: StudyConfig, image: str, tested_in: Mapping[str, int], *, site: str, secret: str
) -> SideTable:
    """Features of an image under perturbation, of the cases that were measured so.

    Parameters
    ----------
    tested_in : mapping of case id to fold
        As in the training table.
    """
    assert study.robustness is not None  # `require_table` refuses the table otherwise
    ordered = _ordered(done, site)
    names = table_names(study, image)
    shape = (len(ordered), study.robustness.n_perturbations, len(names))
    values = np.stack([case.features for _, case in ordered]).reshape(shape)
    table = reliability_table(values, names, [row.case_id for row, _ in ordered])
    folds = np.array([tested_in[row.case_id] for row, _ in ordered], dtype=np.int64)
    return SideTable(_cohort(ordered, table, study, site=site, secret=secret), folds, study.n_folds)


def repeated_cases(case_ids: Sequence[str], tested_in: Rows, study: StudyConfig) -> tuple[str, ...]:
    """Which cases are measured under perturbation: at most as many as the study says, drawn by a hash of their ids from
    those that some fold trains on.
    """
    assert study.robustness is not None  # `require_table` refuses the table otherwise
    training = [c for c, fold in zip(case_ids, tested_in.tolist(), strict=True) if study.n_folds > 1 or fold != 0]
    training.sort(key=lambda c: hashlib.sha256(f"{study.seed}\x1frepeats\x1f{c}".encode()).digest())
    return tuple(sorted(training[: study.robustness.most_cases]))


def counted(work: Worklist, names: tuple[str, ...]) -> Prepared:
    """What a hospital says of a table that it prepares: counts, codes and the columns' names."""
    exclusions = Counter(str(fault.code) for fault in work.faults)
    schema = FeatureTable(np.zeros((0, len(names))), names, ()).schema_digest
    return Prepared(work.n_listed, len(work.done), len(work.pending), dict(exclusions), schema, names)


def _ordered(done: Done, site: str) -> list[tuple[CaseRow, PreparedCase]]:
    if not done:
        raise StatisticError(f"site {site} has no usable case")
    return sorted(done, key=lambda pair: pair[0].case_id)


def _cohort(
    ordered: Sequence[tuple[CaseRow, PreparedCase]], table: FeatureTable, study: StudyConfig, *, site: str, secret: str
) -> Cohort:
    ids = global_ids(table.case_ids, site)
    return Cohort(
        table=FeatureTable(table.values, table.names, ids),
        clinical=FeatureTable(np.zeros((len(ids), 0)), (), ids),
        outcome=make_outcome(study.outcome, [row.outcome for row, _ in ordered]),
        batch=(site,) * len(ids),
        seed=study.seed,
        secret=secret,
    )
