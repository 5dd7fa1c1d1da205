"""What the private network loses on other cohorts and from other first weights: the table of `make bench-privacy`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class CohortLoss:
    """What the network loses on one cohort from one seed of the study.

    Parameters
    ----------
    private : tuple of float
        AUC at the target epsilon, one a draw of the noise.
    plain : float
        AUC of the same network without noise.
    """

    cohort: int
    seed: int
    private: tuple[float, ...]
    plain: float

    @property
    def losses(self) -> tuple[float, ...]:
        return tuple(self.plain - auc for auc in self.private)


def missed_cohorts(found: Sequence[CohortLoss], *, target: float) -> list[int]:
    """Cohorts where the network's mean loss over seeds and draws is beyond ``target``."""
    return [
        cohort
        for cohort in dict.fromkeys(entry.cohort for entry in found)
        if fmean(loss for entry in found if entry.cohort == cohort for loss in entry.losses) > target
    ]


def cohort_table(found: Sequence[CohortLoss]) -> list[str]:
    """Lines of Markdown, a row a cohort and seed."""
    lines = [
        "",
        "The network at epsilon 8 with 500 cases a hospital, on every cohort and from every seed of the study:",
        "",
        "| cohort | seed | AUC of each draw | no noise | mean loss | worst loss |",
        "|---|---|---|---|---|---|",
    ]
    for entry in found:
        draws = ", ".join(f"{auc:.3f}" for auc in entry.private)
        losses = f"{fmean(entry.losses):.3f} | {max(entry.losses):.3f}"
        lines.append(f"| {entry.cohort} | {entry.seed} | {draws} | {entry.plain:.3f} | {losses} |")
    every = [loss for entry in found for loss in entry.losses]
    return [*lines, "", f"Mean loss {fmean(every):.3f}, worst {max(every):.3f}, of {len(every)} runs."]
