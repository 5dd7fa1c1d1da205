"""Small cases as NIfTI files, a manifest of them and a study of it: what the tests of a site share."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from client.ingest.nifti import write_volume
from common.config.loading import parse
from common.config.study import StudyConfig
from common.rng import generator
from common.volume import Volume

STUDY = """
name = "lung"
title = "Small"
seed = 3
sites = [{ name = "north" }, { name = "south" }, { name = "west", role = "external" }]
outcome = { kind = "classification", column = "malignant", values = ["0", "1"], names = ["benign", "malignant"] }
clinical = [
  { column = "age", kind = "numeric", minimum = 18, maximum = 110 },
  { column = "sex", kind = "categorical", values = ["f", "m"] },
]
radiomics = [{ image = "ct", preset = "fast" }]
patch = { images = ["ct"], spacing_mm = [2, 2, 2], shape = [8, 8, 8], window = [-1000, 400] }
split = { kind = "holdout", test_fraction = 0.4 }
privacy = { minimum_cases = 2 }

[[images]]
name = "ct"
modality = "CT"
image = "{case_id}/ct.nii.gz"
roi = "{case_id}/roi.nii.gz"

[[models]]
name = "radiomics"
rounds = 2
model = { kind = "linear" }
training = { optimiser = "sgd", learning_rate = 0.1, batch_size = 4 }
"""

COLUMNS = ("case_id", "malignant", "age", "sex")
SHAPE = (10, 12, 12)


def study(text: str = STUDY, *changes: tuple[str, str]) -> StudyConfig:
    """The study, with each text of ``changes`` put in the other's place."""
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return parse(text, StudyConfig, source="study.toml")


def row(case_id: str, *, malignant: str = "0", age: str = "60", sex: str = "f") -> dict[str, str]:
    return {"case_id": case_id, "malignant": malignant, "age": age, "sex": sex}


def write_manifest(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str] = COLUMNS) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def nodule(case_id: str, *, shape: tuple[int, int, int] = SHAPE) -> tuple[Volume, Volume]:
    """A bright, noisy ball in soft tissue, and its ROI."""
    rng = generator(1, "nodule", case_id)
    grid = np.indices(shape) - (np.array(shape)[:, None, None, None] - 1) / 2
    inside = (grid**2).sum(axis=0) <= rng.uniform(2.5, 3.5) ** 2
    intensities = np.rint(-700 + 600 * inside + rng.normal(0, 40, shape)).astype(np.float32)
    geometry = {"spacing_mm": (2.0, 1.5, 1.5), "origin_mm": (-10.0, 5.0, 100.0)}
    return Volume.from_geometry(intensities, **geometry), Volume.from_geometry(inside, **geometry)


def write_case(data: Path, case_id: str, image: Volume | None = None, roi: Volume | None = None) -> Path:
    """Write a case's two files; the folder they are in."""
    own_image, own_roi = nodule(case_id)
    folder = data / case_id
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(image or own_image, folder / "ct.nii.gz")
    write_volume(roi or own_roi, folder / "roi.nii.gz")
    return folder


def write_array(array: np.ndarray, path: Path) -> None:
    """Write voxels of any number of axes, which a `Volume` could not hold."""
    sitk.WriteImage(sitk.GetImageFromArray(array), path)
