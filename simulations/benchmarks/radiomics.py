"""Speed and memory of feature extraction, beside pyradiomics and, where it is installed, MIRP.

``make bench-radiomics`` prints CPU seconds a case and their ratios (images in memory, one thread, kernels loaded) on a
synthetic chest CT of 512 x 512 x 60 and on the tumour-cropped images of ``../shared/data/sts`` where they are; the
memory of a 512 x 512 x 400 CT; what starting and compiling cost; and the time of a cohort over processes and again
from its cache.

The peers run in processes of their own: ``--pyradiomics-python`` and ``--mirp-python`` name their interpreters.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.ingest.nifti import write_volume
from client.radiomics.cohort import THREAD_VARIABLES, CohortCase, extract_cohort, read_cases
from client.radiomics.extractor import feature_names
from client.radiomics.settings import RadiomicsSettings, preset
from common.rng import generator
from common.volume import Volume

STS = Path("../shared/data/sts/nifti")
LEAST_RATIO_CHEST, LEAST_RATIO_TUMOURS = 15.0, 3.0
MOST_MEMORY_MB = 1000.0

PYRADIOMICS_PROGRAM = """
import json, logging, sys, time
import SimpleITK, radiomics
from radiomics.featureextractor import RadiomicsFeatureExtractor
radiomics.setVerbosity(60); logging.getLogger("radiomics").setLevel(logging.CRITICAL)
SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
for line in sys.stdin:
    image, roi, filters = json.loads(line)
    extractor = RadiomicsFeatureExtractor()
    extractor.enableAllFeatures(); extractor.enableFeatureClassByName("shape2D", False)
    if filters:
        extractor.enableImageTypes(Wavelet={}, LoG={"sigma": [1.0, 3.0, 5.0]})
    image, roi = SimpleITK.ReadImage(image), SimpleITK.ReadImage(roi)
    start = time.process_time()
    extractor.execute(image, roi)
    print(json.dumps(time.process_time() - start), flush=True)
"""

FEDRAD_PROGRAM = """
import json, sys, time
from pathlib import Path
from client.ingest.nifti import read_roi
from client.radiomics.extractor import extract
from client.radiomics.loading import read_stored
from client.radiomics.settings import RadiomicsSettings
settings = RadiomicsSettings.model_validate_json(sys.argv[1])
first = True
for line in sys.stdin:
    image, roi, _ = json.loads(line)
    image, roi = read_stored(Path(image), case_id="case"), read_roi(Path(roi), label=1, case_id="case")
    if first:
        extract(image, roi, settings, case_id="case")  # loads the kernels
    first = False
    start = time.process_time()
    extract(image, roi, settings, case_id="case")
    print(json.dumps(time.process_time() - start), flush=True)
"""

MEMORY_PROGRAM = """
import sys
from client.radiomics.cli import app
app(sys.argv[1:], standalone_mode=False)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
"""The last line is the peak in KiB of this program alone; getrusage would count what the starting process held."""

MIRP_PROGRAM = """
import json, logging, sys, time, warnings
warnings.simplefilter("ignore"); logging.disable(logging.CRITICAL)
from mirp import extract_features
out = sys.stdout; sys.stdout = sys.stderr
for line in sys.stdin:
    image, roi, _ = json.loads(line)
    start = time.process_time()
    extract_features(image=image, mask=roi, image_modality="ct", base_feature_families="all", by_slice=False,
                     base_discretisation_method="fixed_bin_number", base_discretisation_n_bins=32)
    print(json.dumps(time.process_time() - start), file=out, flush=True)
"""


@dataclass(frozen=True)
class Timing:
    """CPU seconds of one case."""

    case_id: str
    fedrad_s: float
    peer_s: float

    @property
    def ratio(self) -> float:
        return self.peer_s / self.fedrad_s


def chest(n_slices: int) -> tuple[Volume, Volume]:
    """A synthetic chest CT, 512 x 512 at 0.7 mm, slices of 2.5 mm: body, lungs, noise and a nodule of 35 mm as ROI."""
    draw = generator(1, "chest", n_slices)
    d, h, w = np.ogrid[:n_slices, :512, :512]
    array = np.full((n_slices, 512, 512), -1000, dtype=np.int16)
    array[:, (((h - 256) / 180) ** 2 + ((w - 256) / 230) ** 2 < 1)[0]] = 40
    for centre in (160, 350):
        array[
            ((h - 250) / 120) ** 2 + ((w - centre) / 75) ** 2 + ((d - n_slices / 2) / (0.6 * n_slices)) ** 2 < 1
        ] = -850
    roi = ((h - 230) ** 2 + (w - 150) ** 2) * 0.7**2 + ((d - n_slices // 2) * 2.5) ** 2 < 17.5**2
    array[roi] = 30
    for plane in array:
        plane += draw.normal(0, 25, plane.shape).astype(np.int16)
    image = Volume.from_geometry(array, spacing_mm=(2.5, 0.7, 0.7))
    return image, image.with_array(roi)


def compare(cases: Sequence[CohortCase], settings: RadiomicsSettings, python: str, program: str) -> list[Timing]:
    """CPU seconds of each case in a process of fedrad and in one of a peer; reading the files is not counted."""
    lines = "".join(json.dumps([str(c.image), str(c.roi), bool(settings.filters)]) + "\n" for c in cases)
    peers = _run([python, "-c", program], lines)
    own = _run([sys.executable, "-c", FEDRAD_PROGRAM, settings.model_dump_json()], lines)
    return [
        Timing(case.case_id, float(ours), float(theirs))
        for case, ours, theirs in zip(cases, own.splitlines(), peers.splitlines(), strict=True)
    ]


def _run(command: Sequence[str], lines: str = "", **variables: str) -> str:
    """What a program prints; one thread each in BLAS, OpenMP and ITK."""
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, "1") | variables
    run = subprocess.run(  # programs of this file, interpreters named on its command line
        command, input=lines, text=True, capture_output=True, check=True, env=environment
    )
    return run.stdout


def report(title: str, timings: Sequence[Timing], *, least: float | None = None) -> bool:
    """Print a table; True where the summed ratio reaches ``least``."""
    print(f"\n{title}\n{'case':28}{'fedrad s':>10}{'peer s':>10}{'ratio':>8}")
    for timing in timings:
        print(f"{timing.case_id[:27]:28}{timing.fedrad_s:10.3f}{timing.peer_s:10.3f}{timing.ratio:8.1f}")
    ours, theirs = sum(t.fedrad_s for t in timings), sum(t.peer_s for t in timings)
    reached = least is None or theirs / ours >= least
    target = "" if least is None else f"   target {least:g}: {'reached' if reached else 'MISSED'}"
    print(f"{'sum':28}{ours:10.3f}{theirs:10.3f}{theirs / ours:8.1f}{target}")
    print(f"smallest ratio of a case {min(timing.ratio for timing in timings):.1f}")
    return reached


def memory_mb(case: CohortCase, name: str, out: Path) -> float:
    """Peak memory of the command line on one case, in MB of 10^6 bytes."""
    arguments = [str(case.image), str(case.roi), "--preset", name, "--out", str(out)]
    return float(_run([sys.executable, "-c", MEMORY_PROGRAM, *arguments]).splitlines()[-1]) * 1024 / 1e6


def start_seconds(case: CohortCase, folder: Path) -> tuple[float, float]:
    """CPU seconds of the command line on one case: kernels compiled anew, and loaded from disk."""
    arguments = [str(case.image), str(case.roi), "--preset", "pyradiomics", "--out", str(folder / "start.csv")]
    spent = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _run([sys.executable, "-c", MEMORY_PROGRAM, *arguments], NUMBA_CACHE_DIR=str(folder / "kernels"))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return spent[0], spent[1]


def cohort_seconds(cases: Sequence[CohortCase], folder: Path) -> None:
    """Print wall seconds of a cohort with 1 process, with all cores, and again from the cache."""
    settings = preset("pyradiomics")
    n_cores = os.cpu_count() or 1
    seconds = {}
    for n_processes in (1, n_cores):
        start = time.perf_counter()
        list(extract_cohort(cases, settings, cache=folder / str(n_processes), n_processes=n_processes))
        seconds[n_processes] = time.perf_counter() - start
    start = time.perf_counter()
    results = list(extract_cohort(cases, settings, cache=folder / "1", n_processes=1))
    again = time.perf_counter() - start
    assert all(result.from_cache for result in results)
    print(
        f"\ncohort of {len(cases)} cases: {seconds[1]:.1f} s in 1 process, {seconds[n_cores]:.1f} s in {n_cores}; ",
        end="",
    )
    print(f"again from the cache {again:.3f} s = {100 * again / seconds[1]:.2f} % of the first time (target 1 %)")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sts", type=Path, default=STS, help="folder with STS_xxx/{CT,PET,MR_T1}_{image,mask}.nii.gz")
    parser.add_argument("--cases", type=int, default=0, help="only the first N tumour images; 0: all")
    parser.add_argument("--pyradiomics-python", default=sys.executable)
    parser.add_argument("--mirp-python", default="", help="interpreter of an environment with mirp")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        return _measure(chosen, Path(name))


def _measure(chosen: argparse.Namespace, folder: Path) -> int:
    ct = _write("chest_60", chest(60), folder)
    everything, original = preset("pyradiomics"), preset("pyradiomics-original")
    print(f"{len(feature_names(original))} features; {len(feature_names(everything))} with wavelet and LoG")
    cold, warm = start_seconds(ct, folder)
    print(f"process with one chest CT: {cold:.1f} CPU s when kernels are compiled, {warm:.1f} s after that")
    reached = True
    for settings in (original, everything):
        timings = compare([ct], settings, chosen.pyradiomics_python, PYRADIOMICS_PROGRAM)
        title = f"chest CT 512 x 512 x 60 against pyradiomics, preset {settings.name}"
        reached &= report(title, timings, least=LEAST_RATIO_CHEST)
    tumours = list(read_cases(chosen.sts)) if chosen.sts.is_dir() else []
    tumours = tumours[: chosen.cases or None]
    if tumours:
        timings = compare(tumours, everything, chosen.pyradiomics_python, PYRADIOMICS_PROGRAM)
        reached &= report("tumour-cropped images against pyradiomics", timings, least=LEAST_RATIO_TUMOURS)
        reached &= all(timing.ratio >= 1 for timing in timings)
        cohort_seconds(tumours, folder)
    if chosen.mirp_python:
        ibsi = preset("ibsi-d").model_copy(
            update={"resampling": None, "resegmentation": None, "round_intensities": False}
        )
        few = [ct, *[case for case in tumours if case.case_id.endswith("CT")][:3]]
        report("against MIRP, features of the original image", compare(few, ibsi, chosen.mirp_python, MIRP_PROGRAM))
    long = _write("chest_400", chest(400), folder)
    peak = memory_mb(long, "pyradiomics", folder / "out.csv")
    print(f"\nmemory on 512 x 512 x 400: {peak:.0f} MB (target {MOST_MEMORY_MB:.0f} MB)")
    return 0 if reached and peak < MOST_MEMORY_MB else 1


def _write(name: str, pair: tuple[Volume, Volume], folder: Path) -> CohortCase:
    case = CohortCase(name, folder / f"{name}_image.nii.gz", folder / f"{name}_mask.nii.gz")
    write_volume(pair[0], case.image)
    write_volume(pair[1], case.roi)
    return case


if __name__ == "__main__":
    sys.exit(main())
