"""Where all that leaves is private, a crafted request fails the same whatever the cases are: failing costs nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.config.loading import digest
from common.messages import AskStatistic, Evaluate, Prepare, Refusal, Request, TableStep, Train
from common.models import initial_parameters
from common.statistics import encode_query
from common.statistics.bounds import Bounds
from common.statistics.moments import Imputer, MomentQuery, Scaler
from common.statistics.table_steps import Keep, encode_steps
from tests.client.cases import STUDY, study
from tests.client.malicious.hospital import Hospital

AGE = ("age",)
TINY = 30.0 / np.finfo(np.float64).max
"""As a scale it takes a value more than 30 away beyond the finite numbers."""

PROMISE = """minimum_cases = 2, sample_level = { target_epsilon = 1.0, target_delta = 1e-3 }, \
statistics = { target_epsilon = 1.0, target_delta = 1e-3, learn_bounds = true }"""
PRIVATE = study(STUDY, ("minimum_cases = 2", PROMISE), ("seed = 3", "seed = 3\nlocal_only = false"))
KNOWN = Bounds(AGE, np.array([0.0]), np.array([120.0]))
QUERY = MomentQuery(AGE, "all", ("all",), np.array([[1e299]]), 1)

Steps = tuple[TableStep, ...]

FAR = encode_steps([Keep(AGE), Imputer(AGE, np.full(1, 50.0)), Scaler(AGE, np.full(1, 50.0), np.full(1, TINY))])
FAR_IN_BOUNDS = encode_steps([KNOWN, Imputer(AGE, np.full(1, 50.0)), Scaler(AGE, np.full(1, 50.0), np.full(1, TINY))])
HUGE_FILL = encode_steps([KNOWN, Imputer(AGE, np.full(1, 1e308)), Scaler(AGE, np.zeros(1), np.full(1, 1e-3))])


def train(steps: Steps) -> Train:
    """With parameters that do not fit: refused before it is paid, whatever the cases are."""
    wrong = initial_parameters(PRIVATE.study_model("radiomics").trained[0], PRIVATE.model_inputs(2), 0)
    return Train(digest(PRIVATE), 0, "radiomics", 1, wrong, steps)


def evaluate(steps: Steps) -> Evaluate:
    request = train(steps)
    return Evaluate(request.study_digest, 0, "radiomics", "train", request.parameters, steps)


def ask(steps: Steps) -> AskStatistic:
    return AskStatistic(digest(PRIVATE), 0, *encode_query(QUERY), steps)


def outcome(hospital: Hospital, home: Path, age: str, request: Request) -> tuple[str, int]:
    """Code of the refusal and number of reservations, at a hospital whose fourth case is of this age."""
    home.mkdir()
    manifest = home / "cases.csv"
    header, *rows = hospital.config.manifest.read_text().splitlines()
    rows[3] = rows[3].replace(",43,", f",{age},")
    manifest.write_text("\n".join([header, *rows]) + "\n")
    config = hospital.config.model_copy(update={"manifest": manifest, "state": home / "state"})
    (home / "state").mkdir()
    (home / "state" / "cache").symlink_to(hospital.config.state / "cache")
    site = replace(hospital, config=config, studies=(PRIVATE,)).approved(PRIVATE, require_privacy=True)
    site.answer(Prepare(digest(PRIVATE), 600.0))
    reply = site.answer(request)
    assert isinstance(reply, Refusal)
    site.close()
    return reply.code, len(site.gate.budget.reservations())


@pytest.mark.parametrize("make", [train, evaluate, ask])
@pytest.mark.parametrize(
    ("steps", "other"),
    [(FAR, "105"), (FAR_IN_BOUNDS, "105"), (HUGE_FILL, "")],
    ids=["a far value", "a far value in bounds", "a missing value"],
)
def test_a_refusal_is_the_same_whoever_is_among_the_cases(hospital: Hospital, tmp_path: Path, make, steps, other):
    as_it_is = outcome(hospital, tmp_path / "a", "43", make(steps))
    assert as_it_is == outcome(hospital, tmp_path / "b", other, make(steps))
    assert as_it_is == ("privacy", 0)
