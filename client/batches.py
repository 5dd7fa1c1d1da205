"""ComBat's batches at one site: the hospital, or its scanners, with rare ones taken together under the small-cell rule.

The names of training cases' batches leave the site (`common.messages.Prepared`), so each must stand for enough cases in
every training fold, and among those that a fold holds out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

RARE = "rare"
UNKNOWN = "unknown"

LEAST_CASES = 2
"""Location and scale of a batch need two cases, whatever the minimum."""


def site_batches(
    site: str, scanners: Sequence[str], *, tested_in: Rows, n_folds: int, trains: bool, minimum_cases: int
) -> tuple[str, ...]:
    """The batch of each case, named ``site/scanner``.

    A scanner with too few cases becomes part of ``site/rare``; where these are too few as well, the smallest scanner
    joins them, and so on; where nothing else is left, the batch is the site.

    Parameters
    ----------
    scanners : sequence of str, length n_cases
        Empty where not known: a batch of its own.
    tested_in : ndarray of int64, shape (n_cases,)
        The fold that each case is held out in.
    """
    label = np.array([scanner or UNKNOWN for scanner in scanners], dtype=np.str_)
    names, sizes = np.unique(label, return_counts=True)
    by_size = [str(names[i]) for i in np.argsort(sizes, kind="stable")]

    def is_small(members: npt.NDArray[np.bool_]) -> bool:
        counts = _fold_counts(members, tested_in, n_folds) if trains else iter([(int(members.sum()), 0)])
        least = max(minimum_cases, LEAST_CASES)
        return any(train < least or 0 < held_out < minimum_cases for train, held_out in counts)

    rare = {name for name in by_size if is_small(label == name)}
    while rare and len(rare) < len(by_size) and is_small(np.isin(label, list(rare))):
        rare.add(next(name for name in by_size if name not in rare))
    if len(rare) == len(by_size):
        return (site,) * len(label)
    return tuple(f"{site}/{RARE if name in rare else name}" for name in label.tolist())


def _fold_counts(members: npt.NDArray[np.bool_], tested_in: Rows, n_folds: int) -> Iterator[tuple[int, int]]:
    """Training and held-out members of each fold that the site trains in; one fold alone gives nothing away."""
    for fold in range(n_folds):
        tested = tested_in == fold
        if not tested.all():
            yield int((members & ~tested).sum()), int((members & tested).sum()) if n_folds > 1 else 0
