"""What a request may ask at all: nothing that the approved study does not contain, and with the same versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from client.side_tables import require_table
from common.config.gate import STATISTIC_KINDS
from common.config.study import StudyConfig
from common.errors import Code, GateError, MessageError
from common.messages import SCHEMA_VERSION, TRAINING, AskStatistic, Evaluate, Hello, Prepare, Request, Split, Train
from common.version import versions


def promises_privacy(study: StudyConfig) -> bool:
    """Whether everything that leaves this hospital about cases is differentially private when it leaves."""
    trains = any(entry.solved is None for entry in study.models)
    return study.privacy.statistics is not None and (study.privacy.sample_level is not None or not trains)


def require_same_versions(request: Hello) -> None:
    """Refuse a coordinator that computes with other versions: the same study file may have another digest there.

    Raises
    ------
    GateError
        Code ``version_mismatch``; names every version that differs.
    """
    own = versions() | {"message schema": str(SCHEMA_VERSION)}
    theirs: Mapping[str, str] = {**request.versions, "message schema": str(request.schema_version)}
    differing = [
        f"{name} {own.get(name, 'absent')} here, {theirs.get(name, 'absent')} at the coordinator"
        for name in sorted(own.keys() | theirs.keys())
        if own.get(name) != theirs.get(name)
    ]
    if differing:
        raise GateError("; ".join(differing), code=Code.VERSION_MISMATCH)


def require_within(request: Request, study: StudyConfig, statistics: Sequence[str]) -> None:
    """Refuse what the study does not contain, before any case is touched.

    Raises
    ------
    MessageError
        For a fold, model, round, split or table that the study does not have.
    GateError
        For a statistic that is not among ``statistics``.
    """
    if isinstance(request, AskStatistic | Train | Evaluate) and not 0 <= request.fold < study.n_folds:
        raise MessageError(f"fold {request.fold}, the study has {study.n_folds}")
    if isinstance(request, Train | Evaluate):
        try:
            entry = study.study_model(request.model)
        except KeyError as error:
            raise MessageError(f"the study has no model {request.model[:64]!r}") from error
        if isinstance(request, Train) and request.round_number > entry.rounds:
            raise MessageError(f"round {request.round_number} of {entry.name}, which has {entry.rounds}")
    if isinstance(request, Evaluate) and request.split not in get_args(Split):
        raise MessageError(f"split {request.split[:64]!r}")
    if isinstance(request, Prepare | AskStatistic) and request.table != TRAINING:
        require_table(request.table, study)
    if isinstance(request, AskStatistic) and request.kind in set(STATISTIC_KINDS) - set(statistics):
        raise GateError(f"statistics of kind {request.kind} are not answered here (gate.statistics)")
