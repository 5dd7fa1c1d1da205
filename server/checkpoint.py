"""What must survive a kill: one file a unit of work, written atomically, read back exactly.

A unit is a step of the study that ends in arrays: the learned table of a fold, the state of one model's training after
its last complete round, the evaluation sums of one model. The procedure (`server.study`) asks for each unit before it
does the work; a resumed study therefore repeats nothing but the round that was cut off, and from the same numbers.

The format is safetensors: arrays and a JSON text, no code. A checksum over both shows damage that leaves the format
whole.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from common.arrays import Parameters, bytes_of
from common.errors import StateError
from common.files import PARTIAL, Buffer
from common.files import write_atomic as write_atomic

TENSOR_DTYPES = {"|b1": "BOOL", "|u1": "U8", "|i1": "I8"} | {
    f"<{kind}{size}": f"{name}{8 * size}"
    for kind, name, sizes in (("i", "I", (2, 4, 8)), ("u", "U", (2, 4, 8)), ("f", "F", (2, 4, 8)))
    for size in sizes
}
"""What safetensors calls numpy's types."""

Arrays = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class Unit:
    """Arrays and JSON values of one unit of work."""

    arrays: Arrays
    values: Mapping[str, Any]


class MappedParameters(Parameters):
    """Parameters in a file; of it is in memory what was read since the last `release`.

    The system reads the file when an array is looked at: it must stay as it is. A checkpoint that is saved anew is
    another file.
    """

    def __init__(self, pages: mmap.mmap, arrays: Mapping[str, npt.NDArray[np.floating]]) -> None:
        super().__init__(arrays)
        self._pages = pages

    def release(self) -> None:
        self._pages.madvise(mmap.MADV_DONTNEED)


class CheckpointStore:
    """The units of one study run.

    Parameters
    ----------
    folder : Path
    study_digest : str
        Written into every file; a file of another study is refused.
    """

    def __init__(self, folder: Path, study_digest: str) -> None:
        self.folder = folder
        self.study_digest = study_digest
        self._tidied = False
        folder.mkdir(parents=True, exist_ok=True)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(path.stem for path in self.folder.glob("*.safetensors")))

    def save(self, name: str, unit: Unit) -> None:
        """Replace the unit's file in one step; a crash leaves the former one.

        Raises
        ------
        StateError
            If the file cannot be written; the former one is left as it was.
        """
        self._tidy()
        # asarray, because ascontiguousarray gives an array without axes one
        arrays = {key: np.asarray(array, order="C") for key, array in unit.arrays.items()}
        values = json.dumps(unit.values, allow_nan=False)
        metadata = {
            "study_digest": self.study_digest,
            "values": values,
            "order": json.dumps(list(arrays)),
            "sha256": _checksum(arrays, values),
        }
        write_atomic(self._path(name), _safetensors(arrays, metadata))

    def load(self, name: str) -> Unit | None:
        """The unit, or None where it was not saved yet.

        Raises
        ------
        StateError
            If the file is damaged or belongs to another study.
        """
        path = self._path(name)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                arrays = {key: file.get_tensor(key) for key in json.loads(metadata["order"])}
            values = json.loads(metadata["values"])
            if metadata["sha256"] != _checksum(arrays, metadata["values"]):
                raise ValueError("its checksum does not fit its content")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise StateError(f"checkpoint {path} is damaged: {error}") from error
        if metadata.get("study_digest") != self.study_digest:
            got = str(metadata.get("study_digest"))[:12]
            raise StateError(f"checkpoint {path} is of study {got}, expected {self.study_digest[:12]}")
        return Unit(arrays, values)

    def mapped(self, name: str, *, prefix: str, names: Sequence[str]) -> MappedParameters:
        """Arrays of a unit as parameters that lie in its file, also after the unit is saved anew.

        Parameters
        ----------
        prefix : str
            Before each name in the file.
        names : sequence of str
            In the order that the parameters shall have.

        Raises
        ------
        StateError
            If the file cannot be read.
        """
        path = self._path(name)
        try:
            with path.open("rb") as file:
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise StateError(f"cannot read checkpoint {path}: {error}") from error
        body = 8 + int.from_bytes(pages[:8], "little")
        head = json.loads(pages[8:body])
        return MappedParameters(pages, {key: _array_in(pages, body, head[prefix + key]) for key in names})

    def _tidy(self) -> None:
        """Remove what a killed run left half written: before the first save, so that a mere reader removes nothing."""
        if not self._tidied:
            for partial in self.folder.glob(f"{PARTIAL}*"):
                partial.unlink(missing_ok=True)
            self._tidied = True

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _safetensors(arrays: Arrays, metadata: Mapping[str, str]) -> Iterator[Buffer]:
    """The file in pieces: length of the head, the head in JSON, and each array's own bytes, so no model is copied.

    Raises
    ------
    StateError
        If an array has a dtype that the format does not know.
    """
    head: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for key, array in arrays.items():
        if array.dtype.str not in TENSOR_DTYPES:
            raise StateError(f"a checkpoint cannot hold {key} of dtype {array.dtype}")
        end = start + array.nbytes
        dtype = TENSOR_DTYPES[array.dtype.str]
        head[key] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    yield from (bytes_of(array) for array in arrays.values())


def _array_in(pages: mmap.mmap, body: int, entry: Mapping[str, Any]) -> npt.NDArray[np.floating]:
    """A view of one array of a safetensors file, as its head describes it."""
    dtype = np.dtype(next(known for known, name in TENSOR_DTYPES.items() if name == entry["dtype"]))
    first, end = entry["data_offsets"]
    array: npt.NDArray[np.floating] = np.frombuffer(pages, dtype, (end - first) // dtype.itemsize, body + first)
    return array.reshape(entry["shape"])


def _checksum(arrays: Arrays, values: str) -> str:
    sha = hashlib.sha256(values.encode())
    for key, array in arrays.items():
        sha.update(f"{key} {array.dtype.str} {array.shape}".encode())
        sha.update(bytes_of(array))
    return sha.hexdigest()
