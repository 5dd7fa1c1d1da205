"""A study that costs next to nothing: clinical columns, images of a few voxels, a linear model, any number of rounds.

What is tried with it is everything around the numbers: processes that die, cables that are cut, other carriers.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from client.ingest.nifti import write_volume
from common.config.loading import load
from common.config.study import StudyConfig
from common.rng import generator
from common.volume import Volume
from simulations.consortium import Consortium, free_port
from simulations.parties import Separation
from simulations.run import Cohort

N_CASES = 12
"""Of each hospital."""

STUDY = """
name = "tiny"
title = "A tiny study"
seed = 9
site_column = "site"
sites = [{sites}]
outcome = {{ kind = "classification", column = "malignant", values = ["0", "1"], names = ["benign", "malignant"] }}
clinical = [{{ column = "age_years", kind = "numeric" }}, {{ column = "marker", kind = "numeric" }}]
images = [{{ name = "ct", modality = "CT", image = "{{case_id}}.nii.gz", roi = "{{case_id}}_roi.nii.gz" }}]
split = {{ kind = "holdout", test_fraction = 0.4 }}
federated = {{ round_deadline_s = {deadline_s}, prepare_deadline_s = 120, join_deadline_s = 120 }}
privacy = {{ minimum_cases = 2{privacy} }}

[[models]]
name = "clinical"
rounds = {rounds}
model = {{ kind = "linear" }}
training = {{ optimiser = "sgd", learning_rate = 0.1, batch_size = 4 }}
"""


def write_study(
    folder: Path, sites: tuple[str, ...], *, rounds: int, deadline_s: float = 60.0, masked: bool = False
) -> tuple[Path, StudyConfig]:
    """The study file and what it says; ``masked`` answers are added up under masks."""
    path = folder / "tiny.toml"
    names = ", ".join(f'{{ name = "{site}" }}' for site in sites)
    privacy = ", secure_aggregation = { most_cases = 50 }" if masked else ""
    path.write_text(STUDY.format(sites=names, rounds=rounds, deadline_s=deadline_s, privacy=privacy))
    return path, load(path, StudyConfig)


def write_cases(folder: Path, sites: tuple[str, ...]) -> Cohort:
    """``cases.csv`` and images of all cases of the named hospitals."""
    rows = []
    roi = np.zeros((8, 8, 8), dtype=bool)
    roi[2:6, 2:6, 2:6] = True
    for site in sites:
        for number in range(N_CASES):
            rng = generator(9, "tiny", site, number)
            case_id, malignant = f"{site}-{number:02d}", number % 2
            write_volume(Volume.from_geometry(rng.normal(size=(8, 8, 8)).astype("f4")), folder / f"{case_id}.nii.gz")
            write_volume(Volume.from_geometry(roi), folder / f"{case_id}_roi.nii.gz")
            clinical = {"age_years": int(rng.integers(30, 90)), "marker": round(float(malignant + rng.normal()), 3)}
            rows.append({"case_id": case_id, "site": site, "malignant": malignant, **clinical})
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return Cohort(folder / "cases.csv", folder)


def tiny_consortium(
    folder: Path,
    sites: tuple[str, ...],
    *,
    rounds: int,
    deadline_s: float = 60.0,
    supervised: bool = False,
    masked: bool = False,
) -> Consortium:
    """Hospitals that hold their own cases of the tiny study, and a coordinator; nothing runs yet."""
    study_file, _ = write_study(folder, sites, rounds=rounds, deadline_s=deadline_s, masked=masked)
    made = Consortium(folder, sites, f"127.0.0.1:{free_port()}", Separation("folders"), supervised=supervised)
    made.coordinator.mkdir()
    for site in sites:
        made.hospital(site).mkdir(parents=True)
        write_cases(made.hospital(site), (site,))
    made.provision(study_file, minimum_cases=2)
    return made
