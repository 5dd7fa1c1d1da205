"""`Volume` <-> `SimpleITK.Image`: the one place where index orders are turned.

SimpleITK counts x, y, z; `Volume` counts D, H, W. Both worlds are LPS in mm, so only columns change places.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from common.volume import Volume


def volume_to_itk(volume: Volume) -> sitk.Image:
    """A SimpleITK image with the same voxels and place; bool becomes uint8. The voxels are copied."""
    array = volume.array.astype(np.uint8) if volume.array.dtype == np.bool_ else volume.array
    return _placed(sitk.GetImageFromArray(np.ascontiguousarray(array)), volume)


def frame_to_itk(volume: Volume) -> sitk.Image:
    """An image of zeros on the volume's grid, for filters that ask only for a place."""
    return _placed(sitk.Image(volume.shape[::-1], sitk.sitkUInt8), volume)


def volume_from_itk(image: sitk.Image) -> Volume:
    """A volume with the voxels and place of a SimpleITK image, which must not be changed afterwards.

    The voxels are shared, read-only. Axes beyond the third must have length one and are dropped.
    """
    array = np.asarray(_Voxels(image))
    return Volume(array.reshape(array.shape[-3:]), affine_from_itk(image))


def _placed(image: sitk.Image, volume: Volume) -> sitk.Image:
    image.SetOrigin(volume.origin_mm)
    image.SetSpacing(volume.spacing_mm[::-1])
    image.SetDirection(volume.direction[:, ::-1].ravel().tolist())
    return image


class _Voxels:
    """Keeps an image alive for as long as an array looks at its voxels (numpy's array interface)."""

    def __init__(self, image: sitk.Image) -> None:
        self._image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def affine_from_itk(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The (4, 4) affine in `Volume`'s column order of an image, or of a reader that has read its header.

    Of an image with more than three axes, the first three give the place.
    """
    n = image.GetDimension()
    direction = np.asarray(image.GetDirection(), dtype=np.float64).reshape(n, n)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = (direction * np.asarray(image.GetSpacing()[:3]))[:, ::-1]
    affine[:3, 3] = image.GetOrigin()[:3]
    return affine
