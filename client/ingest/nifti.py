"""Image files with a header (NIfTI, NRRD, MetaImage): file <-> `Volume`. DICOM series are read in ``dicom``.

SimpleITK reads them and turns NIfTI's RAS into LPS; the voxels of NIfTI are read in ``nifti_voxels``. What a `Volume`
cannot hold is refused with a `CaseError` whose code may leave the site; the sentence, which may hold a path, stays.
"""

from __future__ import annotations

import os
import tempfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from client.imaging.itk import affine_from_itk, volume_from_itk, volume_to_itk
from client.ingest.nifti_voxels import nifti_header, read_nifti_voxels
from common.errors import CaseError, Code
from common.volume import Volume

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
"""Endings of the files that are read here; only the one-file kinds among them are written."""

WRITABLE_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")

SMALL_BYTES = 2**16
"""A zipped file below this is unzipped sooner than its header is put into a file of its own."""

NIFTI = "NiftiImageIO"
"""ITK's name for the format."""

EXACT_IN_FLOAT32 = 2**24
"""Integers up to here are exact in float32; files with larger ones are read as float64."""

LABEL_TOLERANCE = 1e-3
"""A label stored as a floating number lies within this of an integer, or the file is not an ROI."""


def read_volume(path: Path, *, case_id: str) -> Volume:
    """Read an image.

    Returns
    -------
    Volume
        float32 where that holds the file's values exactly (and for float32 files), else float64; LPS.

    Raises
    ------
    CaseError
        ``FILE_MISSING``, ``FILE_UNREADABLE``, ``NOT_3D`` (2D, more than one time point, colour or vector voxels),
        ``ONE_SLICE`` (one voxel along an axis), ``VOXELS_NOT_FINITE``.
    """
    volume = _read(path, case_id=case_id)
    if volume.array.dtype.kind == "f":
        _require_finite(volume.array, case_id=case_id, name=path.name)
    return volume.with_array(volume.array.astype(_float_type(volume.array), copy=False))


def read_roi(path: Path, *, label: int, case_id: str) -> Volume:
    """Read the voxels of one label of an ROI file.

    Parameters
    ----------
    label : int
        The voxel value that marks the ROI, 1 or more.

    Returns
    -------
    Volume
        bool; LPS.

    Raises
    ------
    CaseError
        As `read_volume`; further ``ROI_EMPTY`` (no label at all) and ``ROI_LABEL_ABSENT`` (others, but not this one).
    """
    if label < 1:
        raise ValueError(f"an ROI label is 1 or more, got {label}")
    volume = _read(path, case_id=case_id)
    array = volume.array
    if array.dtype.kind == "f":
        _require_finite(array, case_id=case_id, name=path.name)
        rounded = np.rint(array)
        if np.abs(array - rounded).max() > LABEL_TOLERANCE:
            raise CaseError(case_id, f"{path.name} holds values that are no labels, for example {_odd_value(array)}")
        array = rounded
    roi = array == label
    if not roi.any():
        found = np.unique(array)
        if not found.any():
            raise CaseError(case_id, f"ROI file {path.name} is empty", code=Code.ROI_EMPTY)
        listing = ", ".join(f"{value:.0f}" for value in found[found != 0][:10])
        raise CaseError(
            case_id, f"{path.name} has no voxel of label {label}, but of {listing}", code=Code.ROI_LABEL_ABSENT
        )
    return volume.with_array(roi)


def write_volume(volume: Volume, path: Path) -> None:
    """Write to ``path`` (its ending names the format), compressed; a reader sees the whole file or the former one.

    bool is written as uint8.
    """
    suffix = next((ending for ending in WRITABLE_SUFFIXES if path.name.lower().endswith(ending)), None)
    if suffix is None:
        raise ValueError(f"{path.name}: expected an ending of {', '.join(WRITABLE_SUFFIXES)}")
    handle, name = tempfile.mkstemp(prefix=".partial-", suffix=suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        sitk.WriteImage(volume_to_itk(volume), partial, useCompression=suffix != ".nii")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path, *, case_id: str) -> Volume:
    """The voxels in the file's own dtype, after the checks on its header."""
    if not path.is_file():
        raise CaseError(case_id, f"no file {path}", code=Code.FILE_MISSING)
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        reason = f"{path} ends in none of {', '.join(SUFFIXES)}"
        raise CaseError(case_id, reason, code=Code.FILE_UNREADABLE)
    is_nifti = name.endswith((".nii", ".nii.gz"))
    try:
        reader = _nifti_header(path) if is_nifti else _header(path)
        _require_scalar_3d(reader, case_id=case_id, name=path.name)
        if not is_nifti:
            return volume_from_itk(reader.Execute())
        array = read_nifti_voxels(path)
        return Volume(array.reshape(array.shape[-3:]), affine_from_itk(reader))
    except (RuntimeError, ValueError, EOFError, OSError, zlib.error) as error:
        # RuntimeError: how SimpleITK reports every fault of a file; the others come from the voxels of NIfTI
        reason = str(error).strip().splitlines()[-1].strip()
        raise CaseError(case_id, f"cannot read {path}: {reason}", code=Code.FILE_UNREADABLE) from error


def _header(path: Path, format_name: str = "") -> sitk.ImageFileReader:
    """A reader that has read the header; of any format where none is named."""
    reader = sitk.ImageFileReader()
    if format_name:
        reader.SetImageIO(format_name)
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def _nifti_header(path: Path) -> sitk.ImageFileReader:
    """The header alone, unpacked: of a zipped file ITK would unzip all voxels to read it."""
    if path.name.lower().endswith(".nii") or path.stat().st_size < SMALL_BYTES:
        return _header(path, NIFTI)
    with tempfile.NamedTemporaryFile(suffix=".nii") as alone:
        alone.write(nifti_header(path))
        alone.flush()
        return _header(Path(alone.name), NIFTI)


def _require_scalar_3d(reader: sitk.ImageFileReader, *, case_id: str, name: str) -> None:
    size, n_components = tuple(reader.GetSize()), reader.GetNumberOfComponents()
    shown = " x ".join(map(str, size))
    if n_components != 1:
        raise CaseError(case_id, f"{name} has {n_components} values a voxel, expected 1", code=Code.NOT_3D)
    if len(size) < 3 or any(n != 1 for n in size[3:]):
        raise CaseError(case_id, f"{name} has shape {shown}, expected three axes", code=Code.NOT_3D)
    if min(size[:3]) < 2:
        raise CaseError(case_id, f"{name} has shape {shown}, expected at least 2 slices", code=Code.ONE_SLICE)


def _require_finite(array: npt.NDArray[np.generic], *, case_id: str, name: str) -> None:
    n_bad = sum(int((~np.isfinite(plane)).sum()) for plane in array)
    if n_bad:
        raise CaseError(case_id, f"{name} has {n_bad} voxels that are NaN or infinite", code=Code.VOXELS_NOT_FINITE)


def _float_type(array: npt.NDArray[np.generic]) -> type[np.floating]:
    if array.dtype.kind == "f":
        return np.float64 if array.dtype.itemsize > 4 else np.float32
    if array.dtype.itemsize <= 2:
        return np.float32
    largest = max(abs(int(array.min())), abs(int(array.max())))
    return np.float32 if largest <= EXACT_IN_FLOAT32 else np.float64


def _odd_value(array: npt.NDArray[np.generic]) -> str:
    values = array[np.abs(array - np.rint(array)) > LABEL_TOLERANCE]
    return f"{values.flat[0]:.4g}"
