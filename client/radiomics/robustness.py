"""Do features survive what should not matter? Each case measured again under perturbations, and what agrees is kept.

`measure` is one case's part. A site puts its cases' measurements under `common.statistics.reliability` as a table; the
command ``fedrad radiomics robustness`` (``robustness_command``) does the same for one list of cases.
"""

from __future__ import annotations

import csv
import io
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from client.imaging.geometry import on_grid_of
from client.imaging.perturb import neighbourhood, noise_level, perturb, perturbations
from client.ingest.nifti import read_roi, read_volume
from client.radiomics.cohort import CohortCase, write_text
from client.radiomics.extractor import extract, feature_names
from client.radiomics.settings import RadiomicsSettings
from common.config.robustness import RobustnessConfig
from common.errors import CaseError, Code
from common.statistics.moments import Moments
from common.statistics.reliability import Reliability, reliability_of, reliability_table
from common.volume import Volume

GRADES = (("excellent", 0.90), ("good", 0.75), ("moderate", 0.50), ("poor", -np.inf))
"""Words for an ICC by the lower end of its interval (Koo and Li 2016, doi 10.1016/j.jcm.2016.02.012)."""

COLUMNS = ("feature", "icc", "lower", "upper", "n_cases", "n_repeats", "grade", "kept")


@dataclass(frozen=True)
class RobustnessResult:
    """Reliability of the features over the cases that could be measured, and why others could not."""

    reliability: Reliability
    n_cases: int
    faults: tuple[CaseError, ...]


def measure(
    image: Volume, roi: Volume, settings: RadiomicsSettings, config: RobustnessConfig, *, seed: int, case_id: str
) -> npt.NDArray[np.float64]:
    """Features of one case under every perturbation, shape (n_repeats, n_features).

    Raises
    ------
    CaseError
        Where any one repeat cannot be measured: an ICC needs all of them.
    """
    if not roi.array.any():
        raise CaseError(case_id, "the ROI is empty", code=Code.ROI_EMPTY)
    image, roi = neighbourhood(image, on_grid_of(image, roi, case_id=case_id, name="ROI"), config=config)
    noise_std = noise_level(image) if config.noise_repetitions else 0.0
    repeats = []
    for change in perturbations(config):
        changed = perturb(image, roi, change, noise_std=noise_std, seed=seed, case_id=case_id)
        repeats.append([entry.value for entry in extract(*changed, settings, case_id=case_id)])
    return np.asarray(repeats, dtype=np.float64)


def measure_cohort(
    cases: Sequence[CohortCase],
    settings: RadiomicsSettings,
    config: RobustnessConfig,
    *,
    seed: int,
    processes: int,
    on_case: Callable[[], None],
) -> RobustnessResult:
    """Reliability over a list of cases; one that fails is left out with its reason and the rest goes on."""
    measured: dict[str, npt.NDArray[np.float64]] = {}
    faults: list[CaseError] = []
    with _pool(processes) as pool:
        futures = {pool.submit(_measure_files, case, settings, config, seed): case.case_id for case in cases}
        for future in as_completed(futures):
            case_id, outcome = futures[future], future.result()
            if isinstance(outcome, np.ndarray):
                measured[case_id] = outcome
            else:
                faults.append(CaseError(case_id, outcome[1], code=outcome[0]))
            on_case()
    names = feature_names(settings)
    ids = [case.case_id for case in cases if case.case_id in measured]  # sums in the order of the list
    values = np.stack([measured[i] for i in ids]) if ids else np.zeros((0, config.n_perturbations, len(names)))
    learned = Moments.of(reliability_table(values, names, ids))
    found = reliability_of(
        learned, names, n_repeats=config.n_perturbations, model=config.model, confidence=config.confidence
    )
    return RobustnessResult(found, len(ids), tuple(sorted(faults, key=lambda fault: fault.case_id)))


def write_reliability(result: RobustnessResult, config: RobustnessConfig, out: Path) -> None:
    """One row a feature, in the preset's order; features that did not vary stand last, without numbers."""
    kept = set(result.reliability.keep(minimum=config.minimum_icc, decides=config.decides))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for f in result.reliability.features:
        numbers = (repr(f.icc), repr(f.lower), repr(f.upper), f.n_cases, config.n_perturbations)
        writer.writerow((f.feature, *numbers, grade(f.lower), int(f.feature in kept)))
    for name in result.reliability.undefined:
        writer.writerow((name, "", "", "", result.n_cases, config.n_perturbations, "undefined", 0))
    write_text(out, text.getvalue())


def grade(lower: float) -> str:
    """The word for an ICC whose interval starts at ``lower``."""
    return next(word for word, least in GRADES if lower >= least)


def _measure_files(
    case: CohortCase, settings: RadiomicsSettings, config: RobustnessConfig, seed: int
) -> npt.NDArray[np.float64] | tuple[Code, str]:
    """Measure one case. An error comes back as code and reason: exceptions do not cross processes."""
    try:
        image = read_volume(case.image, case_id=case.case_id)
        roi = read_roi(case.roi, label=case.label, case_id=case.case_id)
        return measure(image, roi, settings, config, seed=seed, case_id=case.case_id)
    except CaseError as error:
        return error.code, error.reason


def _pool(processes: int) -> Executor:
    if processes == 1:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("forkserver"))
