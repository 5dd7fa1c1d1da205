"""What differential privacy of each case costs: AUC over epsilon, and the time of a step.

``make bench-privacy`` generates 800 nodules at each of the demo's three training hospitals (kept in ``--folder``, so a
second run begins at once), trains the linear model on radiomics and the 3D network federated, through the same
messages as over a network, at epsilon 1, 2, 4, 8 and without noise, and tests all on the same held-out cases. Then the
same with a fifth of the training cases. With ``--write`` the tables go into ``docs/privacy.md``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch

from client.site import Site
from client.training.dp_sgd import Mechanism, train_private
from client.training.loop import Position, TrainingData, train
from common.config.loading import digest, parse
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.evaluation.uncertainty import Estimate
from common.journal import JsonLines
from common.messages import Prepare
from common.models import CnnConfig, ModelInputs
from common.rng import SystemNoise, generator
from common.tasks import ClassificationTask, TrainingConfig
from server.checkpoint import CheckpointStore, write_atomic
from server.courses import FEDERATED, groups_of
from server.opening import JOURNAL_FILE, STUDY_FILE
from server.results import load_results
from server.scoring import case_sets, score
from server.study import run_study
from simulations.hospitals import COHORT_SEED, HOSPITALS, Hospital, write_hospital
from simulations.in_process import InProcessFederation

N_CASES = 800
TEST_FRACTION, SMALL_TEST_FRACTION = 0.375, 0.875
"""Of 800: 500 and 100 cases to train on at each hospital."""
EPSILONS = (1.0, 2.0, 4.0, 8.0)
TARGET_EPSILON = 8.0
DELTA, SMALL_DELTA = 2e-4, 1e-3
"""1 / (10 n) for 500 and for 100 cases."""
TARGETS = {"linear": 0.02, "cnn": 0.05}
MOST_STEP_RATIO = 3.0
TRAINING_HOSPITALS = tuple(replace(h, n_cases=N_CASES) for h in HOSPITALS[:3])
BEGIN, END = "<!-- bench-privacy: begin -->", "<!-- bench-privacy: end -->"

LINEAR = (
    'model = { kind = "linear" }\ntraining = { optimiser = "sgd", learning_rate = 1.0, schedule = "constant", '
    "batch_size = 125, l2 = 0.02 }"
)
LINEAR_PLAIN = LINEAR.replace("learning_rate = 1.0", "learning_rate = 0.1").replace("125", "64")
NETWORK = (
    'model = { kind = "cnn3d", channels = [8], blocks = 0, filters = "scattering", centred = true }\ntraining = { '
)
CNN = NETWORK + (
    'optimiser = "sgd", learning_rate = 30.0, schedule = "constant", momentum = 0.9, batch_size = 500, '
    "local_epochs = 8 }"
)
CNN_PLAIN = NETWORK + (
    'optimiser = "sgd", learning_rate = 0.3, momentum = 0.9, batch_size = 32, local_epochs = 2, '
    'augment = "flips_and_turns" }'
)
DRAWS, DRAWS_AT_TARGET = 3, 5
"""Runs of one study, whose noise is drawn anew in each; more at the epsilon that has a target."""


@dataclass(frozen=True)
class Model:
    """How a model is trained with noise, and how without: each in the way that suits it."""

    name: str
    private: str
    private_rounds: int
    plain: str
    plain_rounds: int


MODELS = (Model("linear", LINEAR, 30, LINEAR_PLAIN, 60), Model("cnn", CNN, 4, CNN_PLAIN, 13))


@dataclass(frozen=True)
class Curve:
    """AUC of a model by epsilon, one a draw of the noise; infinity is the model without noise."""

    model: str
    n_training: int
    delta: float
    aucs: dict[float, tuple[float, ...]]

    def loss(self, epsilon: float) -> float:
        """Of the mean over draws."""
        return fmean(self.aucs[float("inf")]) - fmean(self.aucs[epsilon])

    def shown(self, epsilon: float) -> str:
        """Mean and standard deviation over draws, where there are several."""
        found = self.aucs.get(epsilon, ())
        if not found:
            return "—"
        return f"{fmean(found):.3f}" + (f" ± {stdev(found):.3f}" if len(found) > 1 else "")


def study_text(model: Model, epsilon: float, test_fraction: float, delta: float) -> str:
    """The demo's study with one model; its hospital for external tests is left out."""
    text = (files("configs") / "demo" / "study.toml").read_text()
    text = text[: text.index("[[models]]")]
    for old, new in (
        ('[[sites]]\nname = "west"\nrole = "external"            # evaluated, never trained on\n', ""),
        ("test_fraction = 0.6", f"test_fraction = {test_fraction}"),
        ("shape = [20, 20, 20]", "shape = [16, 16, 16]"),
        ("local_only = true", "local_only = false"),
    ):
        if old not in text:
            raise ValueError(f"the demo's study file has no {old!r} any more")
        text = text.replace(old, new)
    is_private = epsilon < float("inf")
    settings, rounds = (model.private, model.private_rounds) if is_private else (model.plain, model.plain_rounds)
    text += f'[[models]]\nname = "{model.name}"\nrounds = {rounds}\n{settings}\n[privacy]\nminimum_cases = 1\n'
    if is_private:
        text += f"sample_level = {{ target_epsilon = {epsilon}, target_delta = {delta} }}\n"
    return text


def read(text: str) -> StudyConfig:
    return parse(text, StudyConfig, source="bench-privacy")


def site_config(hospital: Hospital, folder: Path) -> SiteConfig:
    home = folder / hospital.name
    return SiteConfig(
        site=hospital.name,
        manifest=home / "cases.csv",
        data=home,
        state=home / "state",
        processes=2,
        minimum_cases=1,
        studies=(folder / STUDY_FILE,),
    )


def prepare(folder: Path) -> None:
    """Generate and measure the cases that are not there yet; two processes."""
    with ProcessPoolExecutor(2) as pool:
        missing = [h for h in TRAINING_HOSPITALS if not (folder / h.name / "cases.csv").exists()]
        for done in [pool.submit(write_hospital, h, folder / h.name, seed=COHORT_SEED) for h in missing]:
            done.result()
    study = read(study_text(MODELS[0], float("inf"), TEST_FRACTION, DELTA))
    for hospital in TRAINING_HOSPITALS:
        site = Site(site_config(hospital, folder), [study], secret="")
        site.answer(Prepare(digest(study), float("inf")))
        site.close()


def auc_of(text: str, folder: Path) -> float:
    """Test AUC of the federated course, run from its beginning."""
    study = read(text)
    out = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
    try:
        write_atomic(out / STUDY_FILE, text.encode())
        sites = {}
        for hospital in TRAINING_HOSPITALS:
            config = site_config(hospital, folder)
            state = out / hospital.name  # a ledger of its own: every run of the benchmark is a study anew
            state.mkdir()
            (state / "cache").symlink_to((config.state / "cache").resolve())
            sites[hospital.name] = Site(config.model_copy(update={"state": state}), [study], secret="")
        store = CheckpointStore(out / "checkpoints", digest(study))
        with InProcessFederation(sites, threads=2) as federation:
            run_study(
                study, federation, groups=groups_of(study)[:1], store=store, journal=JsonLines(out / JOURNAL_FILE)
            )
        results = load_results([out])
        found = score(results, FEDERATED, study.models[0].name, case_sets(study)[0]).result
    finally:
        shutil.rmtree(out)
    if not isinstance(found, Estimate):
        raise TypeError(f"no AUC: {found.reason}")
    return found.value


def curve(model: Model, folder: Path, *, epsilons: Sequence[float], test_fraction: float, delta: float) -> Curve:
    n_training = N_CASES - round(N_CASES * test_fraction)
    aucs = {}
    for epsilon in (*epsilons, float("inf")):
        n_draws = {TARGET_EPSILON: DRAWS_AT_TARGET, float("inf"): 1}.get(epsilon, DRAWS)
        started = time.perf_counter()
        text = study_text(model, epsilon, test_fraction, delta)
        aucs[epsilon] = tuple(auc_of(text, folder) for _ in range(n_draws))
        result = f"AUC {', '.join(f'{auc:.3f}' for auc in aucs[epsilon])} ({time.perf_counter() - started:.0f} s)"
        print(f"{model.name}, {n_training} cases a hospital, epsilon {epsilon:g}: {result}", flush=True)
    return Curve(model.name, n_training, delta, aucs)


def step_times() -> tuple[float, float]:
    """CPU seconds of a plain and a private step of the 3D network of the demo on 32 cases of 16 x 16 x 16 voxels."""
    n = 32
    draws = generator(0, "bench-privacy")
    images = draws.normal(size=(n, 2, 16, 16, 16)).astype(np.float32)
    images[:, 1] = images[:, 1] > 0
    data = TrainingData(torch.from_numpy(images), None, torch.arange(n) % 2)
    module = CnnConfig(channels=(16, 32)).build(ModelInputs(2, (16, 16, 16), 0, 1))
    task = ClassificationTask(classes=("no", "yes"))
    settings = TrainingConfig(batch_size=n, local_epochs=10)
    mechanism = Mechanism(1.0, clipping_norm=1.0, sampling_rate=1.0, steps_per_epoch=1, local_epochs=10)
    position, plain, private = Position(1, 1), [], []
    for _ in range(4):
        started = time.process_time()
        train(module, data, task=task, settings=settings, position=position, generator=draws)
        between = time.process_time()
        train_private(
            module, data, task=task, settings=settings, position=position, mechanism=mechanism, source=SystemNoise()
        )
        plain.append((between - started) / 10)
        private.append((time.process_time() - between) / 10)
    return min(plain), min(private)


def markdown(curves: Sequence[Curve], times: tuple[float, float]) -> str:
    """The tables of ``docs/privacy.md``."""
    lines = [BEGIN, "", "| model | cases a hospital | delta | " + " | ".join(f"epsilon {e:g}" for e in EPSILONS)]
    lines[-1] += " | no noise | loss at 8 |"
    lines.append("|---|---|---|" + "---|" * (len(EPSILONS) + 2))
    for found in curves:
        cells = [found.shown(e) for e in (*EPSILONS, float("inf"))]
        start = f"| {found.model} | {found.n_training} | {found.delta:g} | "
        lines.append(start + " | ".join(cells) + f" | {found.loss(TARGET_EPSILON):.3f} |")
    plain, private = times
    lines += [
        "",
        f"A step of DP-SGD of the demo's network (49,873 values, 32 patches of 16 x 16 x 16) takes {1000 * private:.0f}"
        f" ms of one core, a plain one {1000 * plain:.0f} ms: {private / plain:.1f} times as long.",
        "",
        END,
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench-privacy-out"), help="where the cases are kept")
    parser.add_argument("--write", type=Path, help="a Markdown file whose tables are replaced")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    times = step_times()
    prepare(chosen.folder)
    curves = [
        curve(model, chosen.folder, epsilons=EPSILONS, test_fraction=TEST_FRACTION, delta=DELTA) for model in MODELS
    ]
    missed = [c.model for c in curves if c.loss(TARGET_EPSILON) > TARGETS[c.model]]
    curves += [
        curve(m, chosen.folder, epsilons=(TARGET_EPSILON,), test_fraction=SMALL_TEST_FRACTION, delta=SMALL_DELTA)
        for m in MODELS
    ]
    text = markdown(curves, times)
    print(text)
    if chosen.write:
        page = chosen.write.read_text()
        before, after = page[: page.index(BEGIN)], page[page.index(END) + len(END) :]
        write_atomic(chosen.write, (before + text + after).encode())
    too_slow = times[1] > MOST_STEP_RATIO * times[0]
    for model in missed:
        print(f"{model}: loses more than {TARGETS[model]} of AUC at epsilon 8")
    return 1 if missed or too_slow else 0


if __name__ == "__main__":
    sys.exit(main())
