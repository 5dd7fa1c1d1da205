from __future__ import annotations

import gzip
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from client.imaging.itk import volume_from_itk, volume_to_itk
from client.ingest.nifti import SMALL_BYTES, read_roi, read_volume, write_volume
from common.errors import CaseError, Code
from common.volume import Volume, grid_difference

RNG = np.random.default_rng(0)


def oblique(*, left_handed: bool = False) -> np.ndarray:
    """Columns D, H, W: turned by 25 degrees about x and 15 about z; mirrored where left-handed."""
    a, b = np.deg2rad([25.0, 15.0])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    columns = (about_x @ about_z)[:, ::-1].copy()
    if left_handed:
        columns[:, 0] *= -1
    return columns


def placed(array, *, direction=None):
    return Volume.from_geometry(
        array, spacing_mm=(3.0, 0.9, 0.7), origin_mm=(-120.5, 33.25, 801.0), direction=direction
    )


def refused(call) -> CaseError:
    with pytest.raises(CaseError) as caught:
        call()
    assert caught.value.case_id == "c1"
    return caught.value


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("direction", [None, oblique(), oblique(left_handed=True)], ids=["axial", "oblique", "left"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_was_written_is_read(tmp_path, suffix, direction, dtype):
    volume = placed(RNG.normal(size=(4, 5, 6)).astype(dtype), direction=direction)
    write_volume(volume, tmp_path / f"image{suffix}")
    found = read_volume(tmp_path / f"image{suffix}", case_id="c1")
    assert found.array.dtype == dtype
    np.testing.assert_array_equal(found.array, volume.array)
    assert grid_difference(volume, found) == ""
    assert [path.name for path in tmp_path.iterdir()] == [f"image{suffix}"]


@settings(max_examples=30, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    flips=st.tuples(*[st.booleans()] * 3),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
)
def test_affine_survives_simpleitk(angles, flips, spacing):
    rotation = np.array(sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix()).reshape(3, 3)
    direction = rotation * np.where(flips, -1.0, 1.0)
    volume = Volume.from_geometry(np.zeros((2, 3, 4)), spacing_mm=spacing, origin_mm=(1, 2, 3), direction=direction)
    image = volume_to_itk(volume)
    np.testing.assert_allclose(volume_from_itk(image).affine, volume.affine, atol=1e-12)
    world = volume.affine @ [1, 2, 3, 1]
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((3, 2, 1)), world[:3], atol=1e-9)


def test_nifti_is_turned_to_lps(tmp_path):
    # NIfTI's world is RAS: an sform with origin (10, 20, 30) is (-10, -20, 30) in LPS
    import nibabel

    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    ras = np.array([[2.0, 0, 0, 10], [0, 3.0, 0, 20], [0, 0, 4.0, 30], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(array, ras), tmp_path / "ras.nii.gz")
    found = read_volume(tmp_path / "ras.nii.gz", case_id="c1")
    assert found.spacing_mm == pytest.approx((4, 3, 2))
    np.testing.assert_allclose(found.affine @ [0, 0, 0, 1], [-10, -20, 30, 1])
    np.testing.assert_allclose(found.affine @ [0, 0, 1, 1], [-12, -20, 30, 1])
    np.testing.assert_array_equal(found.array, array.T)


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.int16, np.float32), (np.uint16, np.float32), (np.int32, np.float32)]
)
def test_integers_become_float32(tmp_path, dtype, expected):
    array = np.array([[[-1000, 3071], [0, 7]]] * 2).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(array), tmp_path / "a.nrrd")
    found = read_volume(tmp_path / "a.nrrd", case_id="c1").array
    assert found.dtype == expected
    np.testing.assert_array_equal(found, array)


def test_large_integers_keep_every_digit(tmp_path):
    array = np.full((2, 2, 2), 2**24 + 1, dtype=np.int32)
    sitk.WriteImage(sitk.GetImageFromArray(array), tmp_path / "a.nrrd")
    found = read_volume(tmp_path / "a.nrrd", case_id="c1").array
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, array)


def test_voxels_outlive_the_reader(tmp_path):
    volume = placed(RNG.normal(size=(20, 30, 40)).astype(np.float32))
    write_volume(volume, tmp_path / "a.nrrd")
    found = [read_volume(tmp_path / "a.nrrd", case_id="c1") for _ in range(20)]
    assert all(np.array_equal(v.array, volume.array) for v in found)


def test_missing_file(tmp_path):
    assert refused(lambda: read_volume(tmp_path / "no.nii", case_id="c1")).code is Code.FILE_MISSING


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_half_a_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_volume(placed(RNG.normal(size=(8, 30, 30)).astype(np.float32)), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert refused(lambda: read_volume(path, case_id="c1")).code is Code.FILE_UNREADABLE


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.txt"])
@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x5c\x01\x00\x00" + bytes(300)])
def test_no_image(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert refused(lambda: read_volume(tmp_path / name, case_id="c1")).code is Code.FILE_UNREADABLE


def test_gzip_of_several_members_is_read(tmp_path):
    import gzip

    volume = placed(RNG.normal(size=(4, 5, 6)).astype(np.float32))
    write_volume(volume, tmp_path / "a.nii")
    raw = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]))
    np.testing.assert_array_equal(read_volume(tmp_path / "b.nii.gz", case_id="c1").array, volume.array)


def test_nifti_2_is_refused_by_name(tmp_path):
    import nibabel

    nibabel.save(nibabel.Nifti2Image(np.zeros((3, 4, 5), np.float32), np.eye(4)), tmp_path / "two.nii.gz")
    assert refused(lambda: read_volume(tmp_path / "two.nii.gz", case_id="c1")).code is Code.FILE_UNREADABLE


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", "u4", ">f4", "f4", "f8"])
@pytest.mark.parametrize("slope", [None, (2.5, -1024.0)])
def test_every_type_of_nifti_voxels(tmp_path, dtype, slope):
    import nibabel

    array = RNG.integers(0, 100, size=(3, 4, 5)).astype(dtype)
    image = nibabel.Nifti1Image(
        array, np.eye(4), header=nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    )
    image.header.set_data_dtype(dtype)
    if slope:
        image.header.set_slope_inter(*slope)
    nibabel.save(image, tmp_path / "a.nii.gz")
    found = read_volume(tmp_path / "a.nii.gz", case_id="c1").array
    oracle = nibabel.load(tmp_path / "a.nii.gz").get_fdata().T
    np.testing.assert_allclose(found, oracle, rtol=1e-6)
    np.testing.assert_allclose(found, sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "a.nii.gz")), rtol=1e-6)


def test_a_damaged_byte_is_noticed(tmp_path):
    write_volume(placed(RNG.normal(size=(8, 30, 30)).astype(np.float32)), tmp_path / "a.nii.gz")
    content = bytearray((tmp_path / "a.nii.gz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.nii.gz").write_bytes(content)
    assert refused(lambda: read_volume(tmp_path / "a.nii.gz", case_id="c1")).code is Code.FILE_UNREADABLE


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (sitk.Image((4, 4), sitk.sitkInt16), Code.NOT_3D),
        (sitk.JoinSeries([sitk.Image((4, 4, 4), sitk.sitkInt16)] * 3), Code.NOT_3D),
        (sitk.Image((4, 4, 4), sitk.sitkVectorUInt8, 3), Code.NOT_3D),
        (sitk.Image((4, 4, 1), sitk.sitkInt16), Code.ONE_SLICE),
        (sitk.Image((1, 4, 4), sitk.sitkInt16), Code.ONE_SLICE),
    ],
    ids=["2d", "4d", "rgb", "one_slice", "one_column"],
)
def test_what_is_no_volume(tmp_path, image, code):
    sitk.WriteImage(image, tmp_path / "a.nrrd")
    assert refused(lambda: read_volume(tmp_path / "a.nrrd", case_id="c1")).code is code
    assert refused(lambda: read_roi(tmp_path / "a.nrrd", label=1, case_id="c1")).code is code


def test_a_series_of_one_time_point_is_a_volume(tmp_path):
    image = sitk.JoinSeries([sitk.GetImageFromArray(np.arange(24.0).reshape(2, 3, 4))])
    sitk.WriteImage(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(
        read_volume(tmp_path / "a.nii.gz", case_id="c1").array, np.arange(24.0).reshape(2, 3, 4)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_voxels_not_finite(tmp_path, value, name):
    array = np.zeros((3, 3, 3), np.float32)
    array[1, 2, 0] = value
    write_volume(placed(array), tmp_path / name)
    for call in (read_volume, partial(read_roi, label=1)):
        error = refused(partial(call, tmp_path / name, case_id="c1"))
        assert error.code is Code.VOXELS_NOT_FINITE
        assert "1 voxels" in str(error)


def test_roi_of_a_label(tmp_path):
    labels = np.zeros((3, 4, 5), np.float32)
    labels[1, 1, 1], labels[2, 2, 2] = 1, 2.0004
    write_volume(placed(labels), tmp_path / "a.nii")
    found = read_roi(tmp_path / "a.nii", label=2, case_id="c1")
    assert found.array.dtype == np.bool_
    assert np.argwhere(found.array).tolist() == [[2, 2, 2]]
    error = refused(lambda: read_roi(tmp_path / "a.nii", label=3, case_id="c1"))
    assert error.code is Code.ROI_LABEL_ABSENT
    assert "1, 2" in str(error)


def test_roi_file_is_empty(tmp_path):
    write_volume(placed(np.zeros((3, 4, 5), np.bool_)), tmp_path / "a.nii")
    assert refused(lambda: read_roi(tmp_path / "a.nii", label=1, case_id="c1")).code is Code.ROI_EMPTY


def test_an_image_is_no_roi(tmp_path):
    write_volume(placed(RNG.normal(size=(3, 4, 5))), tmp_path / "a.nii")
    assert refused(lambda: read_roi(tmp_path / "a.nii", label=1, case_id="c1")).code is Code.CASE_INVALID


def test_a_failed_write_leaves_the_former_file(tmp_path, monkeypatch):
    write_volume(placed(np.ones((3, 3, 3))), tmp_path / "a.nii")

    def fail(image, path, **options):
        path.write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr("client.ingest.nifti.sitk.WriteImage", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_volume(placed(np.zeros((3, 3, 3))), tmp_path / "a.nii")
    monkeypatch.undo()
    assert read_volume(tmp_path / "a.nii", case_id="c1").array.all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


def test_unknown_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.nii\.gz"):
        write_volume(placed(np.zeros((2, 2, 2))), tmp_path / "a.png")


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("extension", [b"", b"\x10\0\0\0\x04\0\0\0comment "])
def test_a_zipped_file_lies_where_its_unzipped_copy_lies(tmp_path, left_handed, extension):
    """Of a zipped file ITK is shown the header alone, which then has no extension."""
    zipped, plain = tmp_path / "image.nii.gz", tmp_path / "image.nii"
    write_volume(placed(RNG.normal(size=(24, 25, 40)).astype("f4"), direction=oblique(left_handed=left_handed)), plain)
    content = bytearray(plain.read_bytes())
    if extension:
        content[108:112] = np.float32(352 + len(extension)).tobytes()
        content[348:352] = b"\x01\0\0\0" + extension
    plain.write_bytes(content)
    zipped.write_bytes(gzip.compress(content))
    assert zipped.stat().st_size > SMALL_BYTES
    first, second = read_volume(plain, case_id="a"), read_volume(zipped, case_id="a")
    np.testing.assert_array_equal(first.affine, second.affine)
    np.testing.assert_array_equal(first.array, second.array)
