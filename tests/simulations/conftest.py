"""The generated cohort and the processes that tests of whole studies share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from simulations.parties import Parties, Separation
from simulations.run import Cohort
from tests.small_study import write_cohort


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def parties() -> Iterator[Parties]:
    with Parties(Separation("folders")) as running:
        yield running
