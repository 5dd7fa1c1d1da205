"""Rigid registration of two images of one patient by mutual information (SimpleITK), for studies that ask for it."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from client.imaging.itk import frame_to_itk, volume_from_itk, volume_to_itk
from common.volume import Volume

SAMPLING_SEED = 20190401
"""Seed of the voxels at which mutual information is sampled: the same case gives the same transform."""

SAMPLED_VOXELS = 20_000
"""Voxels at which mutual information is sampled at each level; six parameters do not need more."""

HISTOGRAM_BINS = 50
PYRAMID = ((4, 2.0), (2, 1.0), (1, 0.0))
"""Shrink factor and smoothing in voxels, coarse to fine."""

Rigid = tuple[float, ...]
"""Three angles in radians, a translation in mm, and the fixed centre of rotation in LPS mm."""

IDENTITY: Rigid = (0.0,) * 9


def rigid_transform(moving: Volume, fixed: Volume) -> Rigid:
    """The transform of ``fixed``'s world into ``moving``'s under which their Mattes mutual information is largest."""
    target, source = (volume_to_itk(v.with_array(v.array.astype(np.float32))) for v in (fixed, moving))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    shares = [min(1.0, SAMPLED_VOXELS * factor**3 / fixed.array.size) for factor, _ in PYRAMID]
    method.SetMetricSamplingPercentagePerLevel(shares, SAMPLING_SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(learningRate=1.0, minStep=1e-4, numberOfIterations=200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([factor for factor, _ in PYRAMID])
    method.SetSmoothingSigmasPerLevel([sigma for _, sigma in PYRAMID])
    method.SetNumberOfThreads(1)
    centre = fixed.affine @ [*((n - 1) / 2 for n in fixed.shape), 1.0]
    start = sitk.Euler3DTransform()
    start.SetCenter(centre[:3].tolist())
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(target, source)
    return (*start.GetParameters(), *start.GetCenter())


def resample_onto(moving: Volume, fixed: Volume, *, transform: Rigid = IDENTITY) -> Volume:
    """``moving`` on the grid of ``fixed``, interpolated linearly; beyond its border its smallest value (False)."""
    euler = sitk.Euler3DTransform()
    euler.SetCenter(transform[6:])
    euler.SetParameters(transform[:6])
    is_roi = moving.array.dtype == np.bool_
    source = volume_to_itk(moving.with_array(moving.array.astype(np.float32)) if is_roi else moving)
    moved = sitk.Resample(source, frame_to_itk(fixed), euler, sitk.sitkLinear, float(moving.array.min()))
    array = volume_from_itk(moved).array
    return Volume(np.greater_equal(array, 0.5) if is_roi else array, fixed.affine)
