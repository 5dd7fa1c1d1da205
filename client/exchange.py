"""What a site remembers between the rounds of a study that compresses: the latest model, and what its codes left out.

Both only save bytes or error. A site that lost the model (it is in memory) refuses with ``base_absent`` and is sent the
whole; one that lost the residuals (they lie in its state folder) sends a little less of its last deltas, once.

A round that is asked again starts from the residual that it started from the first time, so a coordinator or a site
that is killed and comes back gives the bits of the undisturbed study. Only residuals of the current and the next round
are kept: a coordinator that goes back further than one round (an old backup) finds none, and goes on without.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.arrays import Parameters, Vector
from common.compression import Compressor, Single, rebuild, send
from common.config.secure_aggregation import sum_plan
from common.config.shared_grids import is_coarse, private_grid_of, shared_grid_of
from common.config.study import StudyConfig
from common.errors import Code, MessageError, StateError
from common.files import write_atomic
from common.messages import LocalUpdate, Train
from common.rng import generator

SUFFIX = ".residual"

Note = Callable[[str], None]


def residuals_of(state: Path, study_digest: str) -> Path:
    """The folder of a study's residuals below a site's state; it can go when the study is over."""
    return state / "residuals" / study_digest[:32]


class Exchange:
    """The compressed way of one study's rounds, at one site.

    Parameters
    ----------
    study : StudyConfig
    site : str
    folder : Path
        Of this study's residuals.
    note : callable
        Told in one sentence when a residual cannot be used.
    """

    def __init__(self, study: StudyConfig, site: str, folder: Path, note: Note) -> None:
        self._study = study
        self._site = site
        self._compressor: Compressor | None = study.federated.compression.build()
        self._residuals = Residuals(folder, note)
        self._model: tuple[str, Parameters] | None = None

    def opened(self, request: Train) -> Train:
        """The request with its parameters whole.

        Raises
        ------
        MessageError
            With the code ``base_absent`` where the request builds on a model that is not here.
        """
        if request.course.startswith("local-") and request.course != f"local-{self._site}":
            raise MessageError(f"course {request.course} is asked of {self._site}")
        if self._compressor is None:
            if request.difference:
                raise MessageError("a compressed model in a study that does not compress")
            return request
        if request.difference:
            request = replace(request, parameters=self._rebuilt(request), difference=())
        self._model = _stream(request), request.parameters
        return request

    def packed(self, request: Train, update: LocalUpdate) -> LocalUpdate:
        """The update as it travels. The residual is on disk before this returns.

        Raises
        ------
        StateError
            If it cannot be written.
        """
        if self._compressor is None:
            return update
        stream, number = _stream(request), request.round_number
        draws = generator(self._study.seed, "compress", self._site, stream, number)
        delta = update.delta.flatten()
        if is_coarse(self._study, request.course):
            return self._on_the_grid(request, update, delta, draws)
        sent = send(self._compressor, delta, self._residuals.entering(stream, number, delta.size), draws)
        self._residuals.keep(stream, number + 1, sent.residual)
        return replace(update, delta=Parameters({}), compressed=(sent.data,))

    def _on_the_grid(
        self, request: Train, update: LocalUpdate, delta: Vector, draws: np.random.Generator
    ) -> LocalUpdate:
        """The update rounded for its masks; as it is where the round has no grid yet.

        Under site-level privacy nothing is left for later rounds: the update is clipped as a whole, and its noise is
        far above what rounding leaves out.
        """
        private = private_grid_of(self._study, size=delta.size)
        if private is not None:
            return replace(update, delta=Parameters({}), compressed=(private.send(delta, draws),))
        grid = shared_grid_of(self._study, request)
        if grid is None:
            return update
        stream, number = _stream(request), request.round_number
        delta *= sum_plan(self._study, self._study.training_sites).weight(update.n_cases)
        data, residual = grid.send(delta, self._residuals.entering(stream, number, delta.size), draws)
        self._residuals.keep(stream, number + 1, residual)
        return replace(update, delta=Parameters({}), compressed=(data,))

    def _rebuilt(self, request: Train) -> Parameters:
        if self._compressor is None or self._model is None or self._model[0] != _stream(request):
            raise MessageError("no model is held that this round could build on", code=Code.BASE_ABSENT)
        return rebuild(self._compressor, self._model[1], request.difference[0])


class Residuals:
    """Vectors by stream (one training of one model) and the round that they enter, a file each."""

    def __init__(self, folder: Path, note: Note) -> None:
        self._folder = folder
        self._note = note

    def entering(self, stream: str, round_number: int, size: int) -> Single | None:
        """What former rounds left out, for round ``round_number``; None where that is nothing, or unknown.

        A site that missed rounds goes on with the latest before them. The first round has none: what lies here then is
        of an earlier run.
        """
        known = [number for number in self._rounds(stream) if number <= round_number]
        if round_number == 1 or not known:
            return None
        path = self._path(stream, max(known))
        try:
            tensors = load(path.read_bytes())
            residual = tensors["residual"]
            fits = residual.dtype == np.float32 and residual.shape == (size,)
            if not fits or not np.array_equal(tensors["sha256"], _sha256(residual)):
                raise ValueError("its content is not what was written")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            self._note(f"residual {path.name} is left out: {error}")
            return None
        return residual.copy()

    def keep(self, stream: str, round_number: int, residual: Single) -> None:
        """Write what enters a round; of others only the latest before it stays, because its round may be repeated."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            others = self._rounds(stream)
            stays = max((number for number in others if number < round_number), default=0)
            for number in set(others) - {stays, round_number}:
                self._path(stream, number).unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"cannot write {self._folder}: {error.strerror or error}") from error
        content = save({"residual": residual, "sha256": _sha256(residual)})
        write_atomic(self._path(stream, round_number), content)

    def _rounds(self, stream: str) -> list[int]:
        paths = self._folder.glob(f"{_name(stream)}.*{SUFFIX}")
        return [int(path.name.split(".")[1]) for path in paths]

    def _path(self, stream: str, round_number: int) -> Path:
        return self._folder / f"{_name(stream)}.{round_number}{SUFFIX}"


def _stream(request: Train) -> str:
    return f"{request.course}/{request.model}/fold{request.fold}"


def _name(stream: str) -> str:
    """A file name that nothing in a request can reach out of."""
    return hashlib.sha256(stream.encode()).hexdigest()[:32]


def _sha256(residual: Single) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(hashlib.sha256(residual.tobytes()).digest(), np.uint8)
