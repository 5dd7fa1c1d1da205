"""Private rounds at a hospital with files: the cost is on the disk before the training, also where that fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from client import study_at_site
from client.privacy_budget import PrivacyBudget
from client.site import Site
from common.arrays import Parameters
from common.config.gate import GateConfig
from common.config.loading import digest
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import Code
from common.messages import LocalUpdate, Prepare, Refusal, Reply, Train
from common.models import initial_parameters
from common.privacy.ledger import epsilon
from common.statistics.moments import Imputer
from common.statistics.table_steps import Keep, encode_steps
from tests.client.cases import STUDY, row, study, write_case, write_manifest

CLEAN = ("ct_stat_mean", "ct_stat_var", "age")
STEPS = encode_steps([Keep(CLEAN), Imputer(CLEAN, np.zeros(3))])
TARGET, DELTA = 8.0, 1e-3


def private_study(spare: int = 0) -> StudyConfig:
    sample_level = f"{{ target_epsilon = {TARGET}, target_delta = {DELTA}, spare_rounds = {spare} }}"
    return study(
        STUDY,
        ("privacy = { minimum_cases = 2 }", f"privacy = {{ minimum_cases = 2, sample_level = {sample_level} }}"),
    )


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("hospital")
    rows = []
    for i in range(12):
        write_case(home / "images", f"c{i:02d}")
        rows.append(row(f"c{i:02d}", malignant=str(i % 2), age=str(40 + i), sex="fm"[i % 2]))
    write_manifest(home / "cases.csv", rows)
    return home


@pytest.fixture
def opened(hospital: Path, tmp_path: Path) -> Callable[[StudyConfig], Site]:
    """A site on its files; called again, the same hospital after a restart."""

    def open_(of: StudyConfig) -> Site:
        config = SiteConfig(
            site="north",
            manifest=hospital / "cases.csv",
            data=hospital / "images",
            state=tmp_path / "state",
            minimum_cases=2,
            studies=(hospital / "study.toml",),
            gate=GateConfig(runs=50),
        )
        site = Site(config, [of])
        site.answer(Prepare(digest(of), 600.0))
        return site

    return open_


def start(of: StudyConfig) -> Parameters:
    return initial_parameters(of.study_model("radiomics").trained[0], of.model_inputs(3), 0)


def train(site: Site, of: StudyConfig, round_number: int) -> Reply:
    return site.answer(Train(digest(of), 0, "radiomics", round_number, start(of), STEPS))


def kept(site: Site, of: StudyConfig) -> PrivacyBudget:
    return PrivacyBudget(site.config.state / "privacy" / digest(of)[:16] / "training", TARGET, DELTA)


def test_the_rounds_of_a_study_spend_its_target_and_a_repeat_is_refused(opened: Callable[[StudyConfig], Site]):
    of = private_study()
    site = opened(of)
    for number in (1, 2):
        reply = train(site, of, number)
        assert isinstance(reply, LocalUpdate)
        assert [vars(event) for event in kept(site, of).reservations()[-1].events] == [vars(e) for e in reply.privacy]
    assert 0.99 * TARGET < kept(site, of).epsilon() <= TARGET
    site.close()
    again = opened(of)  # a restart forgets nothing
    reply = train(again, of, 2)
    assert isinstance(reply, Refusal)
    assert reply.code == Code.BUDGET_EXCEEDED
    assert len(kept(again, of).reservations()) == 2
    again.close()


def test_spare_rounds_let_a_round_be_trained_again(opened: Callable[[StudyConfig], Site]):
    of = private_study(spare=1)
    site = opened(of)
    replies = [train(site, of, number) for number in (1, 1, 2, 2)]
    assert [isinstance(reply, LocalUpdate) for reply in replies] == [True, True, True, False]
    updates = [reply for reply in replies if isinstance(reply, LocalUpdate)]
    assert updates[0].delta.digest() != updates[1].delta.digest()
    assert epsilon([event for update in updates for event in update.privacy], DELTA) <= TARGET
    site.close()


def test_a_training_that_fails_has_paid(opened: Callable[[StudyConfig], Site], monkeypatch: pytest.MonkeyPatch):
    of = private_study()
    site = opened(of)

    def fails(*_: object) -> Parameters:
        raise RuntimeError("the power went out")

    monkeypatch.setattr(study_at_site, "difference", fails)
    assert isinstance(train(site, of, 1), Refusal)
    assert len(kept(site, of).reservations()) == 1
    site.close()
