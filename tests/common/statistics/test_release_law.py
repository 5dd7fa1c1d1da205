"""The law of the small-cell rule, query by query, against an oracle that knows nothing of ``case_counts``.

An answer that changes when labels (classes, batches, sexes) are dealt anew among the cases depends on who has which.
Then a label that two cases have must keep the answer at the site, unless what changes is a rounded count.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.errors import GateError
from common.outcomes import SurvivalOutcome
from common.statistics.small_cell import release
from tests.common.statistics.cohorts import cohort
from tests.common.statistics.examples import EXAMPLES
from tests.common.statistics.model_examples import whole_of
from tests.common.statistics.survival_cohorts import survival_cohort

MINIMUM = 5
N = 120


def of_size(query, n):
    survival = isinstance(whole_of(query).outcome, SurvivalOutcome)
    return survival_cohort(n, 4, seed=9) if survival else cohort(n, 4, seed=9)


def with_two_of_class(whole, order):
    if isinstance(whole.outcome, SurvivalOutcome):
        return replace(whole, outcome=replace(whole.outcome, event=np.isin(np.arange(N), order[:2])))
    labels = np.zeros(N, dtype=np.int64)
    labels[order[:2]] = 1
    return replace(whole, outcome=replace(whole.outcome, labels=labels))


def with_two_of_batch(whole, order):
    names = np.array(["scanner-0", "scanner-1"])[np.arange(N) % 2]
    names[order[:2]] = "scanner-2"
    return replace(whole, batch=tuple(str(name) for name in names))


def with_two_of_sex(whole, order):
    values = whole.clinical.values.copy()
    values[:, 1] = 0.0
    values[order[:2], 1] = 1.0
    return replace(whole, clinical=whole.clinical.with_values(values))


def with_two_present(whole, order):
    values = whole.table.values.copy()
    values[order[2:], 0] = np.nan
    return replace(whole, table=whole.table.with_values(values))


def answer(query, site):
    try:
        return query.summarise(site)
    except Exception:  # a query that is undefined on these data lets nothing out
        return None


@pytest.mark.parametrize("small", [with_two_of_class, with_two_of_batch, with_two_of_sex, with_two_present])
@pytest.mark.parametrize("query", EXAMPLES, ids=lambda query: query.kind)
def test_an_answer_that_depends_on_two_cases_stays(query, small):
    whole = of_size(query, N)
    first, second = (small(whole, np.random.default_rng(seed).permutation(N)) for seed in (0, 1))
    one, other = answer(query, first), answer(query, second)
    if one is None or other is None:
        return
    depends = {name for name in one if not np.allclose(one[name], other[name])} - set(query.cumulative)
    if depends:
        with pytest.raises(GateError):
            release(query, first, minimum_cases=MINIMUM)


@pytest.mark.parametrize("query", EXAMPLES, ids=lambda query: query.kind)
def test_a_large_site_answers(query):
    assert release(query, of_size(query, 2000), minimum_cases=MINIMUM)
