"""A small cohort as files, and a study of it: what the end-to-end tests share."""

from __future__ import annotations

import csv
from pathlib import Path

from client.ingest.nifti import write_volume
from common.config.loading import load
from common.config.study import StudyConfig
from common.rng import generator
from simulations.hospitals import HOSPITALS
from simulations.phantoms import nodule
from simulations.run import Cohort

N_CASES = {"east": 16, "north": 14, "south": 12}

STUDY = """
name = "small"
title = "A small study"
seed = 5
site_column = "site"
local_only = false
sites = [{ name = "east" }, { name = "north" }, { name = "south" }]
outcome = { kind = "classification", column = "malignant", values = ["0", "1"], names = ["benign", "malignant"] }
clinical = [{ column = "age_years", kind = "numeric" }]
radiomics = [{ image = "ct", preset = "fast" }]
patch = { images = ["ct"], spacing_mm = [2.5, 2.5, 2.5], shape = [12, 12, 12], window = [-1000, 400] }
split = { kind = "holdout", test_fraction = 0.4 }
federated = { round_deadline_s = 60, prepare_deadline_s = 120 }
privacy = { minimum_cases = 2 }

[[images]]
name = "ct"
modality = "CT"
image = "{case_id}/ct.nii.gz"
roi = "{case_id}/roi.nii.gz"
steps = [{ kind = "resample", spacing_mm = [1.5, 1.5, 1.5] }]

[[models]]
name = "radiomics"
rounds = 3
model = { kind = "linear" }
training = { optimiser = "sgd", learning_rate = 0.1, batch_size = 8 }

[[models]]
name = "cnn"
rounds = 3
model = { kind = "cnn3d", channels = [8] }
training = { learning_rate = 0.002, batch_size = 4, augment = "flips_and_turns" }
"""

STANDARDISED = (
    STUDY.replace('modality = "CT"', 'modality = "MR"')
    .replace("steps = [", 'steps = [{ kind = "nyul", percentiles = [5, 25, 50, 75, 95], body_above = -900 }, ')
    .replace("window = [-1000, 400]", "window = [0, 100]")
)
"""Landmarks are learned before anything is measured; the images are taken for MR, which alone has them."""

ROBUSTNESS = """
[robustness]
rotations_deg = [-8, 8]
translations = [0.5]
noise_repetitions = 1
volume_changes = [-0.15, 0.15]
minimum_icc = 0.8
decides = "point"
most_cases = 6
"""


def write_study(folder: Path, text: str = STUDY) -> tuple[Path, StudyConfig]:
    """The study file and what it says."""
    path = folder / "small.toml"
    path.write_text(text)
    return path, load(path, StudyConfig)


def write_cohort(folder: Path) -> Cohort:
    """Images and ``cases.csv`` of 42 generated cases at three hospitals."""
    rows = []
    for hospital in HOSPITALS:
        for number in range(N_CASES.get(hospital.name, 0)):
            case_id = f"{hospital.name[0].upper()}{number:03d}"
            rng = generator(0, "small", hospital.name, number)
            case = nodule(rng, malignant=number % 2 == 1, scanner=hospital.scanner)
            (folder / case_id).mkdir(parents=True)
            write_volume(case.image, folder / case_id / "ct.nii.gz")
            write_volume(case.roi, folder / case_id / "roi.nii.gz")
            row = {"case_id": case_id, "site": hospital.name, "malignant": number % 2}
            rows.append(row | {"age_years": case.clinical["age_years"]})
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return Cohort(folder / "cases.csv", folder)
