"""The voxels of a NIfTI-1 file, read without ITK (https://nifti.nimh.nih.gov/nifti-1, nifti1.h).

ITK's reader turns NaN and infinite voxels, and those that a cut file lacks, into zeros without a word. A hospital must
hear of both. The place of the image is still ITK's to read: that part of the standard is the intricate one.
"""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

HEADER_BYTES = 348
NO_EXTENSIONS = bytes(4)
PIECE_BYTES = 2**24

DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"
}  # fmt: skip
"""Scalar types of the standard, by their code."""


@dataclass(frozen=True)
class Header:
    """What a NIfTI-1 header says of the voxels: axes (x first), type with byte order, offset in bytes, and scaling."""

    axes: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int
    slope: float
    intercept: float

    @property
    def scaled(self) -> bool:
        return (self.slope, self.intercept) != (1.0, 0.0)


def read_nifti_voxels(path: Path) -> npt.NDArray[np.generic]:
    """Voxels with the axes of the file in reverse order (..., z, y, x), scaled as the header says.

    Returns
    -------
    ndarray
        The file's type in native byte order; where the header scales, float32 for types up to 16 bits, else float64.

    Raises
    ------
    ValueError, EOFError, OSError
        Where the header is not that of a scalar NIfTI-1 file, or the file ends early or is damaged.
    """
    with _opened(path) as stream:
        header = parse_header(stream.read(HEADER_BYTES))
        stream.seek(header.offset)
        raw = np.empty(header.axes[::-1], dtype=header.dtype)
        _fill(stream, raw)
    native = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    return _scale(native, header) if header.scaled else native


def nifti_header(path: Path) -> bytes:
    """The header as a file of its own would have it: without extensions, which say nothing of the place.

    Raises
    ------
    ValueError, EOFError, OSError
        As `read_nifti_voxels`.
    """
    with _opened(path) as stream:
        content = stream.read(HEADER_BYTES)
    parse_header(content)
    return content + NO_EXTENSIONS


def parse_header(content: bytes) -> Header:
    """Read the first 348 bytes of a file; a `ValueError` where they are no header of a scalar image."""
    order = next((sign for sign in "<>" if content[:4] == struct.pack(sign + "i", HEADER_BYTES)), None)
    if order is None or len(content) < HEADER_BYTES:
        raise ValueError("the file has no NIfTI-1 header")
    n_axes, *sizes = struct.unpack_from(order + "8h", content, 40)
    if not 1 <= n_axes <= 7 or min(sizes[:n_axes]) < 1:
        raise ValueError(f"the header has {n_axes} axes of sizes {sizes}")
    (code,) = struct.unpack_from(order + "h", content, 70)
    if code not in DTYPES:
        raise ValueError(f"voxels of type {code} are no plain numbers")
    offset, slope, intercept = struct.unpack_from(order + "3f", content, 108)
    if not HEADER_BYTES <= offset < 2**31:
        raise ValueError(f"the header puts the voxels at byte {offset:g}")
    if slope == 0 or not math.isfinite(slope) or not math.isfinite(intercept):
        slope, intercept = 1.0, 0.0  # "if scl_slope is nonzero, then ...": otherwise there is no scaling
    return Header(tuple(sizes[:n_axes]), np.dtype(order + DTYPES[code]), int(offset), slope, intercept)


def _opened(path: Path) -> BufferedReader | gzip.GzipFile:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _fill(stream: BufferedReader | gzip.GzipFile, array: npt.NDArray[np.generic]) -> None:
    view = array.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        n = stream.readinto(view[done : done + PIECE_BYTES])
        if not n:
            raise EOFError(f"the file ends after {done} of {len(view)} bytes of voxels")
        done += n
    if isinstance(stream, gzip.GzipFile):
        while stream.read(PIECE_BYTES):  # to the end, where gzip keeps its checksum
            pass


def _scale(raw: npt.NDArray[np.generic], header: Header) -> npt.NDArray[np.floating]:
    dtype = np.float32 if raw.dtype.itemsize <= 2 else np.float64
    out = np.empty(raw.shape, dtype=dtype)
    for scaled, plane in zip(out, raw, strict=True):
        scaled[...] = plane.astype(np.float64) * header.slope + header.intercept
    return out
