"""What excludes masked sums has a sentence each, and the threshold never falls to half of the sites."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config.loading import digest, parse
from common.config.secure_aggregation import ALL_EXTERNAL, ALL_SITES, SecureAggregationConfig, cohorts, sum_plan
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import ConfigError
from tests.common.config.test_site import SITE
from tests.small_study import STUDY

PLAIN = "privacy = { minimum_cases = 2 }"
MASKED = STUDY.replace(PLAIN, "privacy = { minimum_cases = 2, secure_aggregation = { most_cases = 50 } }")
SITES = 'sites = [{ name = "east" }, { name = "north" }, { name = "south" }]'


def study(text: str = MASKED) -> StudyConfig:
    return parse(text, StudyConfig, source="study.toml")


def test_cohorts_are_the_training_and_the_external_sites():
    names = ["a", "b", "c"]
    external = "".join(f', {{ name = "{name}", role = "external" }}' for name in names)
    found = cohorts(study(MASKED.replace('{ name = "south" }]', f'{{ name = "south" }}{external}]')))
    assert found == {ALL_SITES: ("east", "north", "south"), ALL_EXTERNAL: ("a", "b", "c")}
    assert cohorts(study()) == {ALL_SITES: ("east", "north", "south")}


def test_a_masked_study_is_another_study():
    assert digest(study()) != digest(study(STUDY))
    assert study(STUDY).privacy.secure_aggregation is None


@given(st.integers(3, 2000), st.floats(0.5, 1, exclude_min=True), st.integers(3, 10))
def test_the_threshold_is_more_than_half_and_at_least_the_minimum(n, threshold, minimum):
    least = SecureAggregationConfig(threshold=threshold, minimum_sites=minimum).least(n)
    assert n // 2 < least <= n
    assert least >= min(n, minimum)
    assert least >= threshold * n - 1e-6 * n


@pytest.mark.parametrize(("n", "least"), [(3, 3), (10, 7), (100, 67), (9, 6)])
def test_two_thirds_by_default(n, least):
    assert SecureAggregationConfig().least(n) == least


@pytest.mark.parametrize(("threshold", "holds"), [(0.55, False), (0.6, False), (0.61, True), (2 / 3, True)])
def test_in_a_sparse_graph_one_site_in_five_in_league_is_not_enough(threshold, holds):
    """Two sets of `least` of 40 sites share at least 2 least - 40, who would have to sign twice."""
    config = SecureAggregationConfig(threshold=threshold)
    many = ", ".join(f'{{ name = "s{i:02d}" }}' for i in range(40))
    text = MASKED.replace(SITES, f"sites = [{many}]").replace(
        "most_cases = 50", f"most_cases = 50, threshold = {threshold}"
    )
    assert (config.in_league(40) > 8) == holds
    if holds:
        assert study(text).n_training == 40
        return
    with pytest.raises(ConfigError, match=r"in league with the coordinator could read .* above 0\.6"):
        study(text)


RULES = [
    (
        SITES,
        'sites = [{ name = "east" }, { name = "north" }]',
        "2 training sites, a sum over fewer than 3 hides nobody",
    ),
    (
        '{ name = "south" }]',
        '{ name = "south" }, { name = "w", role = "external" }]',
        "1 external sites, a sum over fewer",
    ),
    ('name = "south"', 'name = "all-sites"', "a site cannot be named all-sites"),
    ("local_only = false", "local_only = true", "local_only asks single sites, whose answers no mask covers"),
    (
        'split = { kind = "holdout", test_fraction = 0.4 }',
        'split = { kind = "leave_one_site_out" }',
        "leave_one_site_out tests at one site",
    ),
    (
        "federated = {",
        'evaluation = { subgroups = [{ column = "sex", values = ["f"] }] }\nfederated = {',
        "evaluation.subgroups: which levels a site withholds differs",
    ),
    (
        "federated = {",
        'federated = { compression = { kind = "bf16" },',
        "bf16 under secure aggregation: only whole numbers add up under masks; use int8",
    ),
    (
        "[[models]]\n",
        '[[models]]\nname = "trees"\nmodel = { kind = "xgboost" }\n\n[[models]]\n',
        "model trees: kind xgboost sends trees, which are no sums; use boosting",
    ),
    ("most_cases = 50", "most_cases = 1000000000", "32 bits leave steps of"),
    ("most_cases = 50", "threshold = 0.5", "privacy.secure_aggregation.threshold: got 0.5"),
    ("most_cases = 50", "minimum_sites = 2", "privacy.secure_aggregation.minimum_sites: got 2"),
    ("most_cases = 50", "bits = 16", "privacy.secure_aggregation.bits: got 16"),
    ("most_cases = 50", "value_bound = 0", "privacy.secure_aggregation.value_bound: got 0"),
]


@pytest.mark.parametrize(("old", "new", "fault"), RULES, ids=[rule[2][:50] for rule in RULES])
def test_each_rule_has_its_sentence(old: str, new: str, fault: str):
    assert old in MASKED
    with pytest.raises(ConfigError) as caught:
        study(MASKED.replace(old, new))
    assert any(fault in got for got in caught.value.faults), caught.value.faults


def test_a_strategy_that_must_see_single_updates_is_refused(monkeypatch):
    """Whatever strategy is added: only those that are known to need the mean alone are taken."""
    monkeypatch.setattr("common.config.secure_aggregation.SUMMED_STRATEGIES", ("fedprox",))
    with pytest.raises(ConfigError, match="strategy fedavg must see single updates; use one of fedprox"):
        study()


def test_uniform_weights_need_no_room_for_cases():
    uniform = study(
        MASKED.replace("federated = {", 'federated = { strategy = { kind = "fedavg", weighting = "uniform" },')
    )
    cohort = uniform.training_sites
    assert sum_plan(uniform, cohort).grid.step < sum_plan(study(), cohort).grid.step
    assert sum_plan(uniform, cohort).weight(40) == 1
    with pytest.raises(ValueError, match="does not use secure aggregation"):
        sum_plan(study(STUDY), cohort)


def test_a_hospital_names_further_authorities_and_pins(tmp_path):
    pins = f'[secure_aggregation.peers]\nsouth = "{"ab" * 32}"\n'
    text = SITE + '[secure_aggregation]\nminimum_sites = 5\nauthorities = ["keys/other.pem"]\n' + pins
    site = parse(text, SiteConfig, source="site.toml").relative_to(tmp_path)
    assert site.secure_aggregation.authorities == (tmp_path / "keys/other.pem",)
    assert site.secure_aggregation.peers == {"south": "ab" * 32}
    with pytest.raises(ConfigError, match="minimum_sites"):
        parse(text.replace("= 5", "= 2"), SiteConfig, source="site.toml")


def test_whole_numbers_of_eight_bits_add_up_under_masks_for_so_many_sites():
    in_int8 = MASKED.replace("federated = {", 'federated = { compression = { kind = "int8" },')
    assert study(in_int8).federated.compression.kind == "int8"

    def of(n: int) -> StudyConfig:
        listed = ", ".join(f'{{ name = "s{i}" }}' for i in range(n))
        return study(in_int8.replace(SITES, f"sites = [{listed}]").replace("most_cases = 50", "bits = 64"))

    assert of(258).n_training == 258
    with pytest.raises(ConfigError) as caught:
        of(259)
    assert any("259 training sites, 16 bits have room for 258" in fault for fault in caught.value.faults)
