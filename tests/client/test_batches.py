"""ComBat's batches of a site: no name leaves that stands for few cases, in any fold."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from client.batches import site_batches
from client.dataset import NEVER_TESTED


@given(
    scanners=st.lists(st.sampled_from(["A", "B", "C", ""]), min_size=1, max_size=60),
    n_folds=st.integers(1, 4),
    minimum=st.integers(1, 6),
    random=st.randoms(use_true_random=False),
)
def test_every_batch_is_large_enough_in_every_fold_or_is_the_site(scanners, n_folds, minimum, random):
    tested = np.array([random.choice([NEVER_TESTED, *range(n_folds)]) for _ in scanners])
    batches = np.array(
        site_batches("east", scanners, tested_in=tested, n_folds=n_folds, trains=True, minimum_cases=minimum)
    )
    assert len(batches) == len(scanners)
    for name in np.unique(batches):
        if name == "east":
            assert (batches == "east").all()
            continue
        assert name.startswith("east/")
        for fold in range(n_folds):
            if (tested == fold).all():
                continue
            members = batches == name
            assert (members & (tested != fold)).sum() >= max(minimum, 2)
            held_out = (members & (tested == fold)).sum()
            assert n_folds == 1 or held_out == 0 or held_out >= minimum


def batches(scanners: str, *, minimum: int, trains: bool = True) -> tuple[str, ...]:
    tested = np.full(len(scanners), NEVER_TESTED)
    labels = [letter.strip() for letter in scanners]
    return site_batches("east", labels, tested_in=tested, n_folds=1, trains=trains, minimum_cases=minimum)


def test_rare_scanners_are_taken_together():
    assert batches("AAAABBBBCD", minimum=2) == ("east/A",) * 4 + ("east/B",) * 4 + ("east/rare",) * 2
    # alone a rare one would be few: the smallest of the others joins it
    assert batches("AAAAAABBBBC", minimum=3) == ("east/A",) * 6 + ("east/rare",) * 5
    assert batches("AAAB", minimum=3) == ("east",) * 4
    assert batches("AA  ", minimum=2) == ("east/A", "east/A", "east/unknown", "east/unknown")


def test_a_site_that_does_not_train_needs_two_cases_a_batch():
    assert batches("AAABBC", minimum=2, trains=False) == ("east/A",) * 3 + ("east/rare",) * 3
