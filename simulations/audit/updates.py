"""What a hospital's single update gives away where the study format protects it least: reconstructions of patches, and
the exact rows of tables.

The worst case that a study may ask for, and the one attacked here: plain gradient descent (one step a round, no
momentum, no clipping of gradients), as many training cases at the hospital as one batch holds, and `minimum_cases` no
greater. Its delta is the gradient, times a learning rate that everyone knows. Adam's first step keeps the signs alone,
and many cases or steps mix: what an attack gets then is less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from client.dataset import Rows
from common.arrays import Parameters, weighted_mean
from common.config.loading import digest
from common.config.study import StudyConfig, StudyModel
from common.messages import LocalUpdate, Train
from common.models.weights import set_parameters
from common.rng import generator
from common.statistics.table_steps import columns_after, encode_steps
from simulations.audit.exact_inversion import first_layer, row_from_gradient
from simulations.audit.inversion import Prior, invert, learn_prior
from simulations.audit.retraining import initial, redrawn
from simulations.audit.similarity import Patch, Similarity, compare, correlation, paired, rank_of
from simulations.audit.subject import FOLD, Subject

LEARNING_RATE = 0.1
DECOY_DRAWS = 10


@dataclass(frozen=True, eq=False)
class Victims:
    """Cases of one hospital that an update is computed from."""

    site: str
    rows: Rows


@dataclass(frozen=True, eq=False)
class Recovered:
    """Reconstructed patches of one update.

    Parameters
    ----------
    similarities : tuple of Similarity
        A case each, after the best pairing of reconstructions and cases.
    ranks : tuple of int
        Place of the true case among all of its hospital, by likeness to the reconstruction; 1 is found.
    n_candidates : int
    truth, found : ndarray of float32, shape (B, C, D, H, W)
    mean : ndarray of float32, shape (C, D, H, W)
        What the attacker knew before.
    decoys : tuple of Similarity
        The same reconstructions against other patients of the hospital, paired as well as they can be: chance.
    """

    similarities: tuple[Similarity, ...]
    ranks: tuple[int, ...]
    n_candidates: int
    truth: Patch
    found: Patch
    mean: Patch
    decoys: tuple[Similarity, ...]

    @property
    def baseline(self) -> tuple[Similarity, ...]:
        """What the mean image alone shows of each case."""
        return tuple(compare(self.mean, case, self.mean) for case in self.truth)


def worst_case(study: StudyConfig, entry: StudyModel, n_cases: int) -> StudyConfig:
    """The study with this model alone, in the settings under which an update says most."""
    training = entry.trained[1].model_copy(
        update={
            "optimiser": "sgd",
            "learning_rate": LEARNING_RATE,
            "schedule": "constant",
            "warmup": 0.0,
            "momentum": 0.0,
            "batch_size": max(n_cases, 1),
            "local_epochs": 1,
            "l2": 0.0,
            "gradient_clip": None,
            "augment": "none",
        }
    )
    models = (entry.model_copy(update={"training": training}),)
    least = min(n_cases, study.privacy.minimum_cases)
    return study.model_copy(
        update={"models": models, "privacy": study.privacy.model_copy(update={"minimum_cases": least})}
    )


def draw_victims(subject: Subject, *, batch: int, number: int) -> Victims:
    """``batch`` training cases of one hospital, drawn anew for each ``number``; hospitals take turns."""
    site = subject.course.trainers[number % len(subject.course.trainers)]
    rng = generator(subject.study.seed, "audit", "victims", batch, number)
    trained = np.flatnonzero(subject.trained_on(site))
    return Victims(site, np.sort(rng.permutation(trained)[:batch]))


def update_of(subject: Subject, study: StudyConfig, entry: StudyModel, victims: Victims) -> LocalUpdate:
    """The update that a hospital would send in round 1, had it these training cases and no other."""
    data = redrawn(subject.datasets[victims.site], victims.rows)
    return subject.site(victims.site, study=study, data=data).train(_request(subject, study, entry))


def summed_update(subject: Subject, study: StudyConfig, entry: StudyModel, victims: Victims) -> Parameters:
    """What secure aggregation lets the coordinator see: the mean over hospitals, the others with their own cases."""
    parts = [update_of(subject, study, entry, victims)]
    for site in subject.course.trainers:
        if site != victims.site:
            rows = np.flatnonzero(subject.trained_on(site))
            theirs = worst_case(study, entry, len(rows))
            parts.append(update_of(subject, theirs, theirs.study_model(entry.name), Victims(site, rows)))
    return weighted_mean((part.delta, float(part.n_cases)) for part in parts)


def attacker_prior(subject: Subject, victim_site: str) -> Prior:
    """Principal components of the held-out patches of the other hospitals: images that the study never trained on."""
    held_out = [
        data.patches[~subject.trained_on(site)]
        for site, data in sorted(subject.datasets.items())
        if site != victim_site and data.patches is not None
    ]
    return learn_prior(np.concatenate(held_out))


def reconstruct(
    subject: Subject,
    entry: StudyModel,
    victims: Victims,
    delta: Parameters,
    prior: Prior,
    *,
    steps: int,
    starts: int,
) -> Recovered:
    """Attack one update; the outcomes and, where the model reads one, the table are taken as known."""
    patches = subject.datasets[victims.site].patches
    if patches is None:
        raise ValueError(f"model {entry.name} reads images, and {victims.site} has none")
    task = subject.study.outcome.task()
    targets = task.targets(subject.datasets[victims.site].outcome.take(victims.rows))
    module = _module(subject, entry)
    table = _table(subject, victims) if entry.model.needs_table else None
    taken = {name: np.asarray(-delta[name] / LEARNING_RATE, dtype=np.float32) for name in delta}
    observed = [torch.from_numpy(taken[name]) for name, _ in module.named_parameters()]
    result = invert(module, task, observed, targets, prior, table=table, steps=steps, starts=starts)
    truth, mean = patches[victims.rows], prior.mean.numpy()
    found = result.patches[paired(result.patches, truth, mean)]
    return Recovered(
        similarities=tuple(compare(a, b, mean) for a, b in zip(found, truth, strict=True)),
        ranks=tuple(rank_of(a, int(row), patches, mean) for a, row in zip(found, victims.rows.tolist(), strict=True)),
        n_candidates=len(patches),
        truth=truth,
        found=found,
        mean=mean,
        decoys=_decoys(result.patches, patches, victims.rows, mean),
    )


def _decoys(found: Patch, patches: Patch, rows: Rows, mean: Patch) -> tuple[Similarity, ...]:
    """What the reconstructions show of patients that the update was not computed from."""
    others = np.setdiff1d(np.arange(len(patches)), rows)
    rng = np.random.default_rng(0)
    compared: list[Similarity] = []
    for _ in range(DECOY_DRAWS):
        truth = patches[rng.choice(others, min(len(rows), len(others)), replace=False)]
        pairs = zip(found[paired(found, truth, mean)], truth, strict=True)
        compared += [compare(a, b, mean) for a, b in pairs]
    return tuple(compared)


def recovered_row(subject: Subject, entry: StudyModel, victims: Victims, delta: Parameters) -> float | None:
    """Largest correlation of the row that the first layer's gradient gives with the row of a true case.

    1 where every feature of a patient is known; None where the model has no layer that reads the table.
    """
    if not entry.model.needs_table:
        return None
    truth = subject.table(victims.site).values[victims.rows]
    layer = first_layer(delta, truth.shape[1])
    if layer is None:
        return None
    found = row_from_gradient(delta[f"{layer}.weight"], delta[f"{layer}.bias"])
    return max(abs(correlation(found, row)) for row in truth)


def _request(subject: Subject, study: StudyConfig, entry: StudyModel) -> Train:
    steps = encode_steps(subject.steps) if entry.model.needs_table else ()
    level = study.privacy.site_level
    return Train(
        study_digest=digest(study),
        fold=FOLD,
        model=entry.name,
        round_number=1,
        parameters=initial(subject, entry),
        table_steps=steps,
        clipping_norm=level.clipping_norm if level is not None and level.adaptive is not None else 0.0,
    )


def _module(subject: Subject, entry: StudyModel) -> nn.Module:
    """The model with the parameters that the hospitals were sent in round 1."""
    parameters = initial(subject, entry)
    n_columns = len(columns_after(subject.steps, ())) if entry.model.needs_table else 0
    module = entry.trained[0].build(subject.study.model_inputs(n_columns))
    set_parameters(module, parameters)
    return module


def _table(subject: Subject, victims: Victims) -> Tensor:
    return torch.from_numpy(subject.table(victims.site).values[victims.rows].astype(np.float32))
