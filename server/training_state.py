"""What of a training must survive a kill: a model after its last complete round, and how it came there.

A large model lies in its checkpoint's file and is read from there when it is needed: while updates are summed up,
nobody needs the model that they belong to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from common.arrays import Parameters
from common.errors import StateError
from common.messages import PrivacyEvent
from common.privacy.ledger import event_from_json, event_to_json
from common.strategies import ServerState
from server.broadcast import Broadcast
from server.checkpoint import CheckpointStore, Unit
from server.courses import Course

MAPPED_BYTES = 16 << 20
"""A model of more is kept in its file."""

PARAMETERS = "parameters/"


def unit_name(course: Course, model: str, fold: int) -> str:
    return f"training.{course.name}.{model}.fold{fold}"


@dataclass(frozen=True)
class SiteRound:
    """What one site reported of one round: a point of the learning curve, and what it cost the site's cases."""

    round_number: int
    site: str
    n_cases: int
    train_loss: float
    privacy: tuple[PrivacyEvent, ...] = ()

    def to_json(self) -> list[Any]:
        cost = [event_to_json(event) for event in self.privacy]
        return [self.round_number, self.site, self.n_cases, self.train_loss, cost]

    @classmethod
    def from_json(cls, entry: list[Any]) -> SiteRound:
        number, site, n_cases, loss, cost = entry
        return cls(number, site, n_cases, loss, tuple(event_from_json(event) for event in cost))


@dataclass(frozen=True, eq=False)
class TrainingState:
    """A model after a complete round of a course; round 0 is the start.

    Parameters
    ----------
    history : tuple of SiteRound
    absent : tuple of str
        ``round site code`` of every site that a round went on without.
    broadcast : Broadcast, optional
        How the next round is announced, where the study compresses.
    value_bounds : tuple of float
        Of the next round's masked words, where they are compressed (`common.privacy.shared_grid`).
    """

    round_number: int
    parameters: Parameters
    server: ServerState
    history: tuple[SiteRound, ...] = ()
    absent: tuple[str, ...] = ()
    broadcast: Broadcast | None = None
    value_bounds: tuple[float, ...] = ()

    def to_unit(self) -> Unit:
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        arrays |= {f"{PARAMETERS}{name}": array for name, array in self.parameters.items()}
        arrays |= {f"server/{name}": vector for name, vector in self.server.vectors.items()}
        values = {
            "round_number": self.round_number,
            "order": list(self.parameters),
            "history": [entry.to_json() for entry in self.history],
            "absent": list(self.absent),
            "sha256": self.parameters.digest(),
            "value_bounds": list(self.value_bounds),
        }
        if self.broadcast is not None:
            announced = self.broadcast.to_unit()
            arrays |= announced.arrays
            values["broadcast"] = announced.values
        return Unit(arrays, values)

    @property
    def is_large(self) -> bool:
        return sum(array.nbytes for array in self.parameters.values()) > MAPPED_BYTES

    def saved(self, store: CheckpointStore, name: str) -> TrainingState:
        """The same state after it was saved; a large model is in the file from now on.

        Raises
        ------
        StateError
            If the file cannot be written.
        """
        store.save(name, self.to_unit())
        return self.in_file(store, name)

    def in_file(self, store: CheckpointStore, name: str) -> TrainingState:
        """The same state, which was saved as it is: a large model in its file, not in memory."""
        if not self.is_large:
            return self
        return replace(self, parameters=store.mapped(name, prefix=PARAMETERS, names=tuple(self.parameters)))

    @classmethod
    def from_unit(cls, unit: Unit) -> TrainingState:
        values = unit.values
        parameters = Parameters({name: _floating(unit.arrays[f"{PARAMETERS}{name}"]) for name in values["order"]})
        server = {
            k.removeprefix("server/"): np.asarray(v, dtype=np.float64)
            for k, v in unit.arrays.items()
            if k.startswith("server/")
        }
        history = tuple(SiteRound.from_json(entry) for entry in values["history"])
        absent, broadcast = tuple(values["absent"]), Broadcast.from_unit(unit)
        bounds = tuple(values.get("value_bounds", ()))  # absent in what version 4 of the messages wrote
        return cls(values["round_number"], parameters, ServerState(server), history, absent, broadcast, bounds)


def _floating(array: npt.NDArray[np.generic]) -> npt.NDArray[np.floating]:
    if not np.issubdtype(array.dtype, np.floating):
        raise StateError(f"a checkpoint holds parameters of dtype {array.dtype}")
    return cast("npt.NDArray[np.floating]", array)
