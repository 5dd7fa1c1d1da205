"""N4 bias field correction for MR (Tustison et al. 2010, doi 10.1109/TMI.2010.2046908), by SimpleITK."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from client.imaging.intensity import Mask
from client.imaging.itk import volume_to_itk
from common.volume import FloatArray, Volume

SMALLEST_AXIS = 8
"""An axis is not shrunk below this many voxels: the field needs some to be fitted on."""


def bias_field(image: Volume, body: Mask, *, shrink_factor: int, iterations: Sequence[int]) -> FloatArray:
    """The multiplicative field (D, H, W), float32, found in ``body`` on a smaller copy; one thread, so repeatable."""
    full = volume_to_itk(image.with_array(image.array.astype(np.float32)))
    mask = volume_to_itk(image.with_array(body))
    factors = [max(1, min(shrink_factor, n // SMALLEST_AXIS)) for n in full.GetSize()]
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations(list(iterations))
    corrector.SetNumberOfThreads(1)
    corrector.Execute(sitk.Shrink(full, factors), sitk.Shrink(mask, factors))
    field: FloatArray = np.exp(sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(full)))
    return field


def divide_by(image: Volume, field: FloatArray) -> Volume:
    """The image without the field, in its own dtype."""
    return image.with_array(np.divide(image.array, field).astype(image.array.dtype))
