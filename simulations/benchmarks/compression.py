"""What compressed rounds cost in quality and save in bytes, on the demo's generated nodules.

``python -m simulations.benchmarks.compression`` (``make bench-compression``) runs the demo's study in one process, with
every code and several study seeds (splits, initial weights, batches; the cases stay the same). It prints for each model
and code the median AUC on the test cases of all hospitals with its range over the seeds, the median difference from the
same seed without compression with its range, and the bytes of a round a site, both ways, against the model: those of
the first round, which sends the model whole, and the median of the others. Hospitals prepare their cases once.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

from client.credentials import Credentials
from client.site import Site
from common.config.loading import load
from common.config.secure_aggregation import ALL_SITES
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.journal import JsonLines
from server.courses import FEDERATED, groups_of
from server.opening import JOURNAL_FILE, open_run
from server.results import load_results
from server.scoring import headline
from server.study import run_study
from simulations.credentials import issue_credentials
from simulations.hospitals import COHORT_SEED, HOSPITALS, write_hospitals
from simulations.in_process import InProcessFederation

CODES = {
    "none": '{ kind = "none" }',
    "bf16": '{ kind = "bf16" }',
    "int8": '{ kind = "int8" }',
    "topk 5 %": '{ kind = "topk", share = 0.05 }',
    "topk 1 %": '{ kind = "topk", share = 0.01 }',
    "none, masked": '{ kind = "none" }',
    "int8, masked": '{ kind = "int8" }',
}
MASKED = ", masked"
"""Codes of studies with secure aggregation: of the training sites alone, compared with one another."""

MODELS = ("radiomics", "cnn")
BYTES_A_VALUE = 4
PHASE = "train {}"


@dataclass(frozen=True)
class Outcome:
    """One model of one study run.

    Parameters
    ----------
    first, warm : float
        Bytes of the first round, and median of the others, a site, over the bytes of the model.
    """

    code: str
    seed: int
    model: str
    auc: float
    n_values: int
    first: float
    warm: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cnn-rounds", type=int, default=12)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--codes", nargs="+", choices=list(CODES), default=list(CODES))
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_hospitals(home / "hospitals", seed=COHORT_SEED, processes=asked.processes)
        run_one(home, "none", 0, cnn_rounds=1)  # prepares the cases
        jobs = [(code, seed) for seed in range(1, asked.seeds + 1) for code in asked.codes]
        with ProcessPoolExecutor(asked.processes) as pool:
            run = partial(run_one, home, cnn_rounds=asked.cnn_rounds)
            found = [outcome for part in pool.map(run, *zip(*jobs, strict=True)) for outcome in part]
    print_table(found)


def run_one(home: Path, code: str, seed: int, *, cnn_rounds: int) -> list[Outcome]:
    """One study with one code: what became of each model."""
    out = home / f"{re.sub('[^a-z0-9]', '', code)}-{seed}"
    study_file = home / f"{out.name}.toml"
    study_file.write_text(_study(code, seed, cnn_rounds))
    study = load(study_file, StudyConfig)
    opened = open_run(study_file, out, resume=False)
    names = [hospital.name for hospital in HOSPITALS]
    issued = issue_credentials(names) if study.privacy.secure_aggregation else {}
    sites = {name: _site(home, out, name, study, issued.get(name)) for name in names if name in _members(study)}
    with InProcessFederation(sites) as federation:
        run_study(study, federation, groups=groups_of(study), store=opened.store, journal=opened.journal)
    for site in sites.values():
        site.close()
    return [_outcome(out, code, seed, model) for model in MODELS]


def _members(study: StudyConfig) -> set[str]:
    return {site.name for site in study.sites}


def print_table(found: Sequence[Outcome]) -> None:
    """One line a model and code."""
    plain = {(o.code, o.model, o.seed): o.auc for o in found if o.code.startswith("none")}
    print("| model (values) | code | AUC, median (range) | difference, median (range) | first round | warm round |")
    print("|---|---|---|---|---|---|")
    for model in MODELS:
        for code in CODES:
            own = [outcome for outcome in found if (outcome.model, outcome.code) == (model, code)]
            if not own:
                continue
            aucs = [outcome.auc for outcome in own]
            base = "none" + MASKED if code.endswith(MASKED) else "none"
            differences = [outcome.auc - plain.get((base, model, outcome.seed), float("nan")) for outcome in own]
            print(
                f"| {model} ({own[0].n_values:,}) | {code} | {_spread(aucs, '.3f')} | {_spread(differences, '+.3f')} "
                f"| {median(o.first for o in own):.3f} | {median(o.warm for o in own):.3f} |"
            )
    print(
        f"{len({outcome.seed for outcome in found})} seeds; rounds in bytes of all messages a site, up and down, over "
        "the model's"
    )


def _study(code: str, seed: int, cnn_rounds: int) -> str:
    """The demo's study with a code, without the fusion model and the local-only courses."""
    text = (files("configs") / "demo" / "study.toml").read_text()
    text = re.sub(r"^seed = \d+", f"seed = {seed}", text, flags=re.MULTILINE)
    text = text.replace("local_only = true", "local_only = false")
    text = re.sub(r'\[\[models\]\]\nname = "fusion".*?(?=\[evaluation\])', "", text, flags=re.DOTALL)
    text = text.replace("rounds = 24", f"rounds = {cnn_rounds}")
    text += f"\n[federated]\ncompression = {CODES[code]}\n"
    if not code.endswith(MASKED):
        return text
    text = re.sub(r'\[\[sites\]\]\nname = "\w+"\nrole = "external".*?\n', "", text)  # one alone cannot be masked
    return text + "\n[privacy.secure_aggregation]\nmost_cases = 1000\n"


def _site(home: Path, out: Path, name: str, study: StudyConfig, credentials: Credentials | None) -> Site:
    """A hospital with a state of its own; from the first run on its cases are prepared already."""
    folder = home / "hospitals" / name
    prepared, state = home / "none-0" / "sites" / name / "cache", out / "sites" / name
    if prepared.exists():
        shutil.copytree(prepared, state / "cache")
    config = SiteConfig(
        site=name,
        manifest=folder / "cases.csv",
        data=folder,
        state=state,
        processes=1 if prepared.exists() else 2,
        minimum_cases=study.privacy.minimum_cases,
        studies=(out / "study.toml",),
    )
    return Site(config, [study], secret="", credentials=credentials)


def _outcome(out: Path, code: str, seed: int, model: str) -> Outcome:
    results = load_results([out])
    hospitals = [ALL_SITES] if code.endswith(MASKED) else [hospital.name for hospital in HOSPITALS]
    auc = headline(results.merged(FEDERATED, model, hospitals), confidence=0.95).value
    (training,) = [training for training in results.trainings if training.model == model]
    size = BYTES_A_VALUE * training.n_parameters
    by_site: dict[str, list[float]] = {}
    for line in JsonLines(out / JOURNAL_FILE).read():
        if line["event"] == "answer" and line["phase"] == PHASE.format(model):
            rounds = by_site.setdefault(line["site"], [0.0])
            rounds[-1] += _bytes(line) / size
            if line["reply"] in ("LocalUpdate", "Unmasked"):  # the last answer of a round
                rounds.append(0.0)
    first = median(rounds[0] for rounds in by_site.values())
    warm = [share for rounds in by_site.values() for share in rounds[1:-1]]
    return Outcome(code, seed, model, auc, training.n_parameters, first, median(warm or [first]))


def _bytes(line: dict[str, Any]) -> int:
    return int(line["bytes_down"]) + int(line["bytes_up"])


def _spread(values: Sequence[float], form: str) -> str:
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
