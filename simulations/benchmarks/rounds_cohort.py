"""The study and the hospitals' cases of `simulations.benchmarks.rounds`."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from client.ingest.nifti import write_volume
from common.volume import Volume
from simulations.benchmarks.one_process import CHANNELS, N_TRAIN, ROUNDS, SIDE

SITES = ("east", "north", "south", "west")
N_LISTED = 120

STUDY = """name = "rounds"
title = "Four sites, five rounds"
seed = 1

[outcome]
kind = "classification"
column = "malignant"
values = ["0", "1"]
names = ["benign", "malignant"]

[[images]]
name = "ct"
modality = "CT"
image = "images/{case_id}/ct.nii.gz"
roi = "images/{case_id}/roi.nii.gz"

[patch]
images = ["ct"]
spacing_mm = [1.0, 1.0, 1.0]
shape = [32, 32, 32]
window = [-200, 200]

[split]
kind = "holdout"
test_fraction = 0.2

[[models]]
name = "cnn"
"""


def study_text(compression: str) -> str:
    """The study file; ``compression`` goes into its table, with semicolons for line ends."""
    model = (
        f"rounds = {ROUNDS}\nmodel = {{ kind = 'cnn3d', channels = {list(CHANNELS)} }}\n"
        "training = { learning_rate = 0.001, batch_size = 8, local_epochs = 1 }\n"
    )
    sites = "".join(f'\n[[sites]]\nname = "{name}"\n' for name in SITES)
    extra = "\n[federated.compression]\n" + compression.replace(";", "\n") + "\n" if compression else ""
    return STUDY + model + sites + "\n[privacy]\nminimum_cases = 5\n" + extra


def write_cases(folder: Path, *, seed: int) -> None:
    """Volumes of noise with a bright ball, whose brightness tells the class; a fifth of them is tested on."""
    assert N_LISTED * 4 == N_TRAIN * 5
    rng = np.random.default_rng(seed)
    grid = np.indices((SIDE, SIDE, SIDE)) - (SIDE - 1) / 2
    ball = (grid**2).sum(axis=0) < 10.0**2
    folder.mkdir(parents=True)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "malignant"])
        for number in range(N_LISTED):
            case, label = f"C{number:03d}", number % 2
            home = folder / "images" / case
            home.mkdir(parents=True)
            voxels = rng.normal(-50.0 + ball * (80.0 + 40.0 * label), 60.0, ball.shape).astype(np.float32)
            write_volume(Volume.from_geometry(voxels), home / "ct.nii.gz")
            write_volume(Volume.from_geometry(ball), home / "roi.nii.gz")
            writer.writerow([case, label])
