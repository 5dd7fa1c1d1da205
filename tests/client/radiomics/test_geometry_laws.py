"""A feature does not depend on how a scanner or a converter laid the voxels out: the same patient, the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from client.imaging.geometry import reorient, to_lps
from client.ingest.nifti import read_roi, read_volume, write_volume
from client.radiomics.extractor import extract, feature_names
from client.radiomics.settings import preset
from common.volume import Volume
from tests.client.imaging.cases import case

VOLUME_PRESETS = ("fast", "ibsi-c", "ibsi-e", "pyradiomics-original")
SLICE_PRESETS = ("ibsi-a", "ibsi-b")


def settings_of(name):
    """The preset without the two features that compare all pairs of voxels, which other tests cover."""
    chosen = preset(name)
    return chosen.model_copy(update={"groups": tuple(group for group in chosen.groups if group != "spatial")})


def pair():
    """A lesion with texture, on CT's scale, no value on a bin's edge or half between integers."""
    made = case(air=-900.03, lean=40.07, lesion=90.11)
    return made.images["mr"], made.roi


def values(image, roi, name):
    return np.array([entry.value for entry in extract(image, roi, settings_of(name), case_id="c1")])


def assert_same(found, expected, name):
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-8, err_msg=str(feature_names(settings_of(name))[:3]))


@pytest.fixture(scope="module")
def expected():
    known = {}

    def of(name):
        if name not in known:
            known[name] = values(*pair(), name)
        return known[name]

    return of


@pytest.mark.parametrize("name", [*VOLUME_PRESETS, *SLICE_PRESETS])
@pytest.mark.parametrize(
    "flips", [(True, False, False), (False, True, False), (False, False, True), (True, True, True)]
)
def test_flips(name, flips, expected):
    """Whole-axis flips: left-handed grids among them."""
    found = [reorient(volume, (0, 1, 2), flips) for volume in pair()]
    assert_same(values(*found, name), expected(name), name)


@pytest.mark.parametrize("name", VOLUME_PRESETS)
@pytest.mark.parametrize("axes", [(0, 2, 1), (2, 1, 0), (1, 2, 0)])
def test_order_of_axes(name, axes, expected):
    found = [reorient(volume, axes, (False, False, False)) for volume in pair()]
    # pyradiomics' diameters in slices, rows and columns are of one axis by definition
    kept = [i for i, feature in enumerate(feature_names(settings_of(name))) if "Maximum2DDiameter" not in feature]
    assert_same(values(*found, name)[kept], expected(name)[kept], name)


@pytest.mark.parametrize("name", SLICE_PRESETS)
def test_slices_are_found_again_after_orientation(name, expected):
    """Slice-wise features need the stack's own axis first: orientation to LPS brings a sagittal copy back."""
    found = [to_lps(reorient(volume, (2, 0, 1), (True, False, False))) for volume in pair()]
    assert_same(values(*found, name), expected(name), name)


@pytest.mark.parametrize("name", [*VOLUME_PRESETS, *SLICE_PRESETS])
@pytest.mark.parametrize("left_handed", [False, True])
def test_oblique_and_left_handed_copies(name, left_handed, expected):
    rotation = np.array(sitk.Euler3DTransform((0, 0, 0), 0.3, -0.7, 1.1).GetMatrix()).reshape(3, 3)
    if left_handed:
        rotation = rotation @ np.diag([1.0, 1.0, -1.0])

    def moved(volume):
        affine = np.eye(4)
        affine[:3, :3] = rotation @ volume.affine[:3, :3]
        affine[:3, 3] = [40, -7, 12]
        return Volume(volume.array, affine)

    found = [moved(volume) for volume in pair()]
    assert_same(values(*found, name), expected(name), name)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_an_oblique_left_handed_file(tmp_path, suffix, expected):
    rotation = np.array(sitk.Euler3DTransform((0, 0, 0), 0.3, -0.7, 1.1).GetMatrix()).reshape(3, 3)
    image, roi = pair()
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([1.0, 1.0, -1.0]) @ image.affine[:3, :3]
    write_volume(Volume(image.array, affine), tmp_path / f"image{suffix}")
    write_volume(Volume(roi.array, affine), tmp_path / f"roi{suffix}")
    found = (
        read_volume(tmp_path / f"image{suffix}", case_id="c1"),
        read_roi(tmp_path / f"roi{suffix}", label=1, case_id="c1"),
    )
    assert_same(values(*found, "fast"), expected("fast"), "fast")


@pytest.mark.parametrize(
    "name", [n for n in (*VOLUME_PRESETS, *SLICE_PRESETS) if n not in {"ibsi-b", "ibsi-c", "ibsi-e"}]
)
def test_padding(name, expected):
    """More air around changes nothing where nothing is resampled: the IBSI grid moves with the image's centre."""

    def padded(volume, value):
        width = ((2, 1), (3, 5), (4, 0))
        affine = volume.affine.copy()
        affine[:3, 3] -= volume.affine[:3, :3] @ [2, 3, 4]
        return Volume(np.pad(volume.array, width, constant_values=value), affine)

    image, roi = pair()
    assert_same(values(padded(image, -900.0), padded(roi, False), name), expected(name), name)


@pytest.mark.parametrize("name", ["ibsi-b", "ibsi-c"])
def test_padding_by_whole_new_voxels(name, expected):
    """With linear resampling, padding evenly keeps the grid's centre (a cubic spline feels the border)."""

    def padded(volume, value):
        affine = volume.affine.copy()
        affine[:3, 3] -= volume.affine[:3, :3] @ [2, 4, 4]
        return Volume(np.pad(volume.array, ((2, 2), (4, 4), (4, 4)), constant_values=value), affine)

    image, roi = pair()
    assert_same(values(padded(image, -900.0), padded(roi, False), name), expected(name), name)
