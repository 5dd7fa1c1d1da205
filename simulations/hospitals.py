"""The demo's hospitals: one scanner, size and prevalence each, and their cases as files a hospital would have."""

from __future__ import annotations

import csv
import io
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from client.ingest.nifti import write_volume
from common.rng import generator
from server.checkpoint import write_atomic
from simulations.phantoms import nodule
from simulations.scanners import Scanner

COHORT_SEED = 2026
"""Of the generated cases; the study's own seed draws splits, initial weights and batches."""

COLUMNS = ("case_id", "malignant", "age_years", "pack_years", "sex")


@dataclass(frozen=True)
class Hospital:
    """A generated hospital.

    Parameters
    ----------
    n_cases : int
    prevalence : float
        Share of malignant nodules.
    mean_diameter_mm : float
        Screening finds smaller nodules than a referral centre sees.
    """

    name: str
    scanner: Scanner
    n_cases: int
    prevalence: float
    mean_diameter_mm: float


HOSPITALS = (
    Hospital("east", Scanner((1.0, 0.8, 0.8), (0.9, 0.55, 0.55), 22.0, 0.45), 190, 0.50, 13.0),
    Hospital("north", Scanner((1.25, 0.7, 0.7), (1.1, 0.8, 0.8), 45.0, 0.6, 20.0, 1.03), 165, 0.35, 12.0),
    Hospital("south", Scanner((1.5, 0.9, 0.9), (1.2, 1.0, 1.0), 32.0, 0.9, -25.0, 0.97), 150, 0.60, 14.0),
    Hospital("west", Scanner((1.0, 0.75, 0.75), (1.0, 0.7, 0.7), 55.0, 0.5, -12.0, 1.02), 160, 0.45, 13.0),
)
"""Three hospitals that train, and *west*, which never does."""


def write_hospital(hospital: Hospital, folder: Path, *, seed: int) -> None:
    """Write ``cases.csv`` and ``images/CASE/{ct,roi}.nii.gz`` of a hospital into ``folder``."""
    rng = generator(seed, "hospital", hospital.name)
    n_malignant = round(hospital.n_cases * hospital.prevalence)
    malignant = rng.permutation([True] * n_malignant + [False] * (hospital.n_cases - n_malignant))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, is_malignant in enumerate(malignant, start=1):
        case_id = f"{hospital.name[0].upper()}{number:03d}"
        case = nodule(
            generator(seed, "case", hospital.name, number),
            malignant=bool(is_malignant),
            scanner=hospital.scanner,
            mean_diameter_mm=hospital.mean_diameter_mm,
        )
        case_folder = folder / "images" / case_id
        case_folder.mkdir(parents=True, exist_ok=True)
        write_volume(case.image, case_folder / "ct.nii.gz")
        write_volume(case.roi, case_folder / "roi.nii.gz")
        clinical = case.clinical
        sex = "female" if clinical["female"] else "male"
        writer.writerow([case_id, int(is_malignant), clinical["age_years"], clinical["pack_years"], sex])
    write_atomic(folder / "cases.csv", text.getvalue().encode())


def write_hospitals(folder: Path, *, seed: int, processes: int = 2) -> None:
    """Write every hospital into its own folder below ``folder``."""
    with ProcessPoolExecutor(processes) as pool:
        for future in [pool.submit(write_hospital, h, folder / h.name, seed=seed) for h in HOSPITALS]:
            future.result()
