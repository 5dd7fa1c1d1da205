"""How often: rounds, crafted models and floods of questions are counted, and no restart or backup resets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.errors import Code, StateError
from common.messages import (
    AskStatistic,
    Finish,
    Hello,
    MaskedInput,
    Prepare,
    Request,
    StatisticSums,
)
from common.statistics import encode_query
from common.statistics.boosting import BoostingQuery
from common.statistics.moments import Imputer
from common.statistics.table_steps import Keep, encode_steps
from common.statistics.trees import Trees
from common.version import versions
from tests.client.malicious.hospital import (
    CLEAN,
    DIGEST,
    Hospital,
    answered,
    ask,
    evaluate,
    refused,
    train,
)

AGE = ("age",)


def test_more_rounds_than_the_hospital_allows(hospital: Hospital):
    refused(hospital.approved(max_rounds=1), train(), Code.GATE, "has 2 rounds, allowed are 1 (gate.max_rounds)")


def test_a_round_beyond_the_studys_last(hospital: Hospital):
    refused(hospital.approved(), train(round_number=3), Code.MESSAGE, "round 3 of radiomics, which has 2")


def test_the_same_round_from_many_crafted_models(hospital: Hospital):
    """Differences between updates from models that differ in one weight would tell of single cases."""
    site = hospital.approved(runs=3)
    assert all(answered(site.answer(train(shift))) for shift in (0.0, 0.1, 0.2))
    refused(site, train(0.3), Code.GATE_LIMIT, "train radiomics 0 1: 3 different questions were asked, allowed are 3")
    assert answered(site.answer(train(0.1)))  # a replay: the same answer again, which tells nothing new
    assert answered(site.answer(train(0.0, round_number=2)))


def test_a_flood_of_evaluations_of_crafted_models(hospital: Hospital):
    site = hospital.approved(runs=1)
    assert all(answered(site.answer(evaluate(shift))) for shift in (0.0, 0.1, 0.2, 0.3))  # 2 hospitals train
    refused(site, evaluate(0.4), Code.GATE_LIMIT, "evaluate radiomics 0 test: 4 different questions")
    assert answered(site.answer(evaluate(0.4, split="train")))


def test_evaluations_are_counted_whatever_part_of_them_is_crafted(hospital: Hospital):
    site = hospital.approved(runs=1)
    crafted = [encode_steps([Keep(CLEAN), Imputer(CLEAN, np.full(3, value))]) for value in (0.1, 0.2, 0.3, 0.4)]
    assert all(answered(site.answer(evaluate(table_steps=steps))) for steps in crafted)
    refused(site, evaluate(), Code.GATE_LIMIT, "evaluate radiomics 0 test: 4 different questions")


def test_a_flood_of_statistics(hospital: Hospital):
    site = hospital.approved(max_statistics=5)
    assert all(answered(site.answer(ask(centre))) for centre in range(5))
    refused(site, ask(5.0), Code.GATE_LIMIT, "statistic training 0: 5 different questions were asked, allowed are 5")


@pytest.mark.parametrize(
    ("request_", "allowed"),
    [(Hello(DIGEST, versions()), 2), (Finish(DIGEST, "aborted"), 2), (train(), 2), (Prepare(DIGEST), 200)],
)
def test_a_flood_of_one_request(hospital: Hospital, request_: Request, allowed: int):
    """How far the preparation is may be asked a hundred times more often than anything else."""
    site = hospital.approved(max_repeats=2)
    assert all(answered(site.answer(request_)) for _ in range(allowed))
    refused(site, request_, Code.GATE_LIMIT, f"asked {allowed} times already, allowed are {allowed}")


def test_a_question_under_masks_is_counted_as_the_question_that_it_is(hospital: Hospital):
    site = hospital.approved(runs=1)
    assert answered(site.answer(train()))
    masked = MaskedInput(DIGEST, "0" * 32, train(0.1), {})
    refused(site, masked, Code.GATE_LIMIT, "train radiomics 0 1: 1 different questions")


def test_a_question_of_one_study_in_the_envelope_of_another(hospital: Hospital):
    masked = MaskedInput(DIGEST, "0" * 32, train(study_digest="0" * 64), {})
    refused(hospital.approved(), masked, Code.MESSAGE, "a question of one study comes under the name of another")


def test_the_same_question_about_one_case_less(hospital: Hospital, tmp_path: Path):
    """The difference of both answers would be that case."""
    everybody = hospital.config.manifest.read_text()
    own = tmp_path / "cases.csv"
    own.write_text(everybody)
    hospital.config = hospital.config.model_copy(update={"manifest": own})
    assert answered(hospital.approved().answer(ask()))
    own.write_text("\n".join(everybody.splitlines()[:-1]) + "\n")
    refused(hospital.open(), ask(), Code.GATE, "cases.csv changed since answers of study")
    assert answered(hospital.approved().answer(ask()))  # the hospital decided that it may go on
    own.write_text(everybody)
    refused(hospital.open(), train(), Code.GATE, "cases.csv changed since answers of study")


def test_a_case_that_is_withdrawn_while_the_study_is_open(hospital: Hospital, tmp_path: Path):
    """What left is about the list that was read, whatever the file says when it leaves."""
    everybody = hospital.config.manifest.read_text()
    own = tmp_path / "cases.csv"
    own.write_text(everybody)
    hospital.config = hospital.config.model_copy(update={"manifest": own})
    site = hospital.approved()
    assert answered(site.answer(Prepare(DIGEST, 60.0)))
    own.write_text("\n".join(everybody.splitlines()[:-1]) + "\n")
    assert answered(site.answer(ask()))
    refused(hospital.open(), ask(1.0), Code.GATE, "cases.csv changed since answers of study")
    own.write_text(everybody)
    assert answered(site.answer(ask(1.0)))


def test_groups_of_a_tree_are_never_smaller_than_this_hospitals_minimum(hospital: Hospital):
    """With groups of one, a cut that is moved step by step shows one case after the other, with its label."""
    tree, leaf = Trees.stumps(1), np.zeros(1, dtype=np.int64)
    steps = encode_steps([Keep(AGE), Imputer(AGE, np.full(1, 50.0))])
    site = hospital.approved(max_statistics=100)
    for edge in np.arange(39.5, 52.5, 0.5):
        nodes = tree.roots, tree.feature, tree.cut, tree.left
        found = []
        for group_size in (1, 2):
            query = BoostingQuery(AGE, np.array([[edge]]), "logistic", 0.0, *nodes, np.zeros(1), leaf, group_size)
            reply = site.answer(AskStatistic(DIGEST, 0, *encode_query(query), steps))
            found.append(reply.sums["sums"].tolist() if isinstance(reply, StatisticSums) else reply.code)
        assert found[0] == found[1]


def test_a_restart_resets_no_count(hospital: Hospital):
    site = hospital.approved(runs=1)
    assert answered(site.answer(train()))
    refused(hospital.open(runs=1), train(0.1), Code.GATE_LIMIT, "train radiomics 0 1")


ASK_AND_WAIT = """
import sys, time
from pathlib import Path
import client.study_at_site as at_site
from tests.client.malicious.hospital import Hospital, train
from common.config.site import SiteConfig
def wait(*_args, **_settings):
    print("working", flush=True)
    time.sleep(60)
at_site.train = wait
config = SiteConfig.model_validate_json(sys.argv[1])
Hospital(config).open(runs=1).answer(train())
"""


def test_kill_9_in_the_middle_of_an_answer_resets_no_count(hospital: Hospital):
    hospital.approved(runs=1)
    command = [sys.executable, "-c", ASK_AND_WAIT, hospital.config.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"working\n"
        process.send_signal(signal.SIGKILL)
    site = hospital.open(runs=1)
    refused(site, train(0.1), Code.GATE_LIMIT, "train radiomics 0 1: 1 different questions")
    assert answered(site.answer(train()))  # the one that was cut off may be asked again


def test_counts_put_back_from_a_backup(hospital: Hospital):
    """Somebody restores the log of yesterday to reset what was counted: the hospital answers nothing any more."""
    site = hospital.approved(runs=1)
    log = hospital.config.state / "audit.jsonl"
    before = log.read_bytes()
    assert answered(site.answer(train()))
    log.write_bytes(before)
    refused(site, train(0.1), Code.STATE, "was changed or rolled back while fedrad ran")
    with pytest.raises(StateError, match="rolled back"):
        hospital.open()


def test_a_log_that_was_deleted_takes_the_approvals_with_it(hospital: Hospital):
    hospital.approved()
    for name in ("audit.jsonl", "audit.head", "audit.key"):
        (hospital.config.state / name).unlink()
    refused(hospital.open(), train(), Code.STUDY_NOT_APPROVED, "it has no approval")
