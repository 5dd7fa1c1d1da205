"""The coordinator's half of a study that compresses: rounds begin with a difference, and deltas arrive as codes.

The parameters that a round ends in are those that the sites will rebuild from the difference (`common.compression`),
not those that the strategy computed: what the difference leaves out is kept, and enters the next one. The last round
of a model has no next one, and ends in the exact sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from common.arrays import Parameters, moved
from common.compression import Compressor, Single, send
from common.errors import MessageError
from common.messages import Difference, LocalUpdate, Train
from common.rng import generator
from server.checkpoint import Unit


@dataclass(frozen=True, eq=False)
class Broadcast:
    """How the parameters after a round follow from those before it, and what enters the next difference."""

    difference: Difference
    residual: Single

    def to_unit(self) -> Unit:
        arrays = {"broadcast/data": self.difference.data, "broadcast/residual": self.residual}
        return Unit(arrays, {"base": self.difference.base, "result": self.difference.result})

    @classmethod
    def from_unit(cls, unit: Unit) -> Broadcast | None:
        """None where the unit holds none."""
        if "broadcast/data" not in unit.arrays:
            return None
        ends = unit.values["broadcast"]
        difference = Difference(ends["base"], ends["result"], unit.arrays["broadcast/data"])
        return cls(difference, unit.arrays["broadcast/residual"].astype(np.float32, copy=False))


def announce(
    compressor: Compressor,
    before: Parameters,
    after: Parameters,
    former: Broadcast | None,
    *,
    seed: int,
    stream: str,
    round_number: int,
) -> tuple[Parameters, Broadcast]:
    """The parameters of all parties after a round, and the difference that leads there.

    Parameters
    ----------
    after : Parameters
        What the strategy computed.
    former : Broadcast, optional
        Of the round before.
    stream : str
        Names the training, so that its draws are its own.
    """
    change = after.flatten()
    change -= before.flatten()
    residual = former.residual if former else None
    sent = send(compressor, change, residual, generator(seed, "broadcast", stream, round_number))
    reached = moved(before, sent.values)
    return reached, Broadcast(Difference(before.digest(), reached.digest(), sent.data), sent.residual)


def closing(after: Parameters, former: Broadcast | None) -> Parameters:
    """The parameters after the last round: the strategy's, with all that former differences left out."""
    return after if former is None else moved(after, former.residual)


def smaller(request: Train, broadcast: Broadcast | None) -> Train:
    """The request with the difference in place of the parameters, where there is one."""
    if broadcast is None:
        return request
    return replace(request, parameters=Parameters({}), difference=(broadcast.difference,))


def reader(compressor: Compressor | None, model: Parameters) -> Callable[[LocalUpdate], LocalUpdate]:
    """Turns an update as it travelled into one with its delta.

    The returned function raises MessageError for what is no code of a delta of ``model``, or no code at all.
    """

    def plain(update: LocalUpdate) -> LocalUpdate:
        if (compressor is None) != (not update.compressed):
            raise MessageError("an update in another code than the study's")
        if compressor is None:
            return update
        values = compressor.decompress(update.compressed[0], model.size)
        return replace(update, delta=model.unflatten(values), compressed=())

    return plain
