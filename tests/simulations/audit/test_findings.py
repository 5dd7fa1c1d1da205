"""The release gate of a study, on findings that are written down by hand; and its limits in the study file."""

from __future__ import annotations

import pytest

from common.config.release_gate import ReleaseGateConfig
from common.errors import ConfigError
from simulations.audit.findings import AuditResult, Cell, Finding, breaches
from simulations.audit.plan import AuditPlan, read_plan
from simulations.audit.protections import NONE, NOT_USED, PRIVATE, SECURE_SUM
from tests.simulations.audit.subjects import study

OPTIONS = {
    "attacks": "membership",
    "models": "",
    "what_if": "",
    "shadows": 8,
    "victims": 1,
    "batches": "1,4",
    "steps": 10,
    "canary_trials": 100,
    "attribute": "",
    "processes": 1,
}


def finding(*, used: tuple = (), private: float | None = None, summed: float | None = None) -> Finding:
    cells = {
        NONE: Cell(0.4, 0.3, 0.5),
        PRIVATE: Cell(private, note="" if private is not None else NOT_USED),
        SECURE_SUM: Cell(summed, note="" if summed is not None else NOT_USED),
    }
    return Finding("membership: loss threshold", "radiomics", "tpr_at_1_fpr", cells, "0.010", used)


def result(*findings: Finding) -> AuditResult:
    return AuditResult("audited", "d" * 64, (), findings)


def test_a_figure_above_the_limit_closes_the_gate_with_a_sentence():
    found = breaches(ReleaseGateConfig(max_tpr_at_1_fpr=0.1), result(finding()))
    assert found == (
        "membership: loss threshold on radiomics: training cases found at 1 % false accusations is 0.400, the study "
        "allows 0.1",
    )


def test_a_figure_at_the_limit_is_within_it():
    assert breaches(ReleaseGateConfig(max_tpr_at_1_fpr=0.4), result(finding())) == ()


def test_what_a_used_protection_leaves_is_judged_not_what_it_would_be_without():
    protected = finding(used=(PRIVATE,), private=0.02, summed=0.3)
    assert breaches(ReleaseGateConfig(max_tpr_at_1_fpr=0.1), result(protected)) == ()
    assert protected.as_run().value == 0.02


def test_what_an_unused_protection_would_do_opens_no_gate():
    what_if = finding(private=0.02, summed=0.01)
    assert len(breaches(ReleaseGateConfig(max_tpr_at_1_fpr=0.1), result(what_if))) == 1


def test_a_limit_on_what_was_not_measured_closes_the_gate():
    gate = ReleaseGateConfig(max_epsilon_lower_bound=3.0)
    assert breaches(gate, result(finding())) == (
        "max_epsilon_lower_bound is 3, and this audit measured no such figure",
    )


def test_a_gate_without_limits_is_refused():
    with pytest.raises(ConfigError, match="at least one limit"):
        study(("privacy = { minimum_cases = 1 }", "privacy = { minimum_cases = 1, release_gate = {} }"))


def test_a_gate_is_read_from_the_study_file():
    text = "privacy = { minimum_cases = 1, release_gate = { max_inversion_ssim = 0.7 } }"
    gate = study(("privacy = { minimum_cases = 1 }", text)).privacy.release_gate
    assert gate is not None
    assert gate.limits == {"inversion_ssim": 0.7}


def test_options_become_a_plan():
    plan = read_plan(**(OPTIONS | {"attribute": "sex=female", "what_if": "secure-aggregation", "models": "a, b"}))
    assert plan.batches == (1, 4)
    assert plan.what_if == (SECURE_SUM,)
    assert plan.models == ("a", "b")
    assert str(plan.attribute) == "sex = female"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("attacks", "member", "no attack member; there are membership, inversion, statistics, canaries"),
        ("what_if", "magic", "no protection magic"),
        ("batches", "0", "whole numbers from 1"),
        ("batches", "", "whole numbers from 1"),
        ("attribute", "sex", "an attribute is COLUMN=VALUE"),
    ],
)
def test_options_that_make_no_plan_are_refused_in_words(option: str, value: str, told: str):
    with pytest.raises(ConfigError, match=told):
        read_plan(**(OPTIONS | {option: value}))


def test_a_plan_that_could_show_nothing_is_refused_with_every_fault():
    with pytest.raises(ConfigError, match=r"(?s)3 shadows.*10 canary trials.*batches"):
        AuditPlan(shadows=3, canary_trials=10, batches=())
