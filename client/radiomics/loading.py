"""Files to features: the one path of the command line and of a cohort's processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from client.ingest.nifti import read_roi, read_volume
from client.radiomics.extractor import FeatureValue, extract
from client.radiomics.settings import RadiomicsSettings
from common.volume import Volume


def extract_files(
    image: Path, roi: Path, settings: RadiomicsSettings, *, label: int, case_id: str
) -> tuple[FeatureValue, ...]:
    """Read a pair of files and extract; raises what `read_volume`, `read_roi` and `extract` raise."""
    # the image first: while it is turned into integers, nothing else is held
    stored = read_stored(image, case_id=case_id)
    return extract(stored, read_roi(roi, label=label, case_id=case_id), settings, case_id=case_id)


def read_stored(path: Path, *, case_id: str) -> Volume:
    """Read an image, with integers where the file stores integers; raises as `read_volume`.

    pyradiomics filters integer images in double and single-precision images in single precision; which of them a file
    holds is seen in its header only. `read_volume` gives floats that hold these integers exactly.
    """
    volume = read_volume(path, case_id=case_id)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if reader.GetPixelID() in (sitk.sitkFloat32, sitk.sitkFloat64):
        return volume
    low, high = float(volume.array.min()), float(volume.array.max())
    small = np.iinfo(np.int16)
    integers = np.empty(volume.shape, dtype=np.int16 if small.min <= low and high <= small.max else np.int64)
    for plane, source in zip(integers, volume.array, strict=True):
        plane[...] = source
        if not np.array_equal(plane, source):  # a scaled file: its header names the type before scaling
            return volume
    return volume.with_array(integers)
