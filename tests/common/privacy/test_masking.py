"""Sums under masks are exact whoever drops out, and each attack of the threat model is refused by name."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from common.errors import FederationError, PrivacyError
from common.masking_messages import Unmasked
from common.privacy.mask_keys import MaskWords
from common.privacy.mask_statements import as_bytes, octets
from tests.common.privacy.hospitals import PHASES, Session, names, plain_sum, random_words, site_of, terms


def session(n: int = 4, threshold: int = 3, gone=None, **words) -> Session:
    return Session(terms(n, threshold), {name: random_words(i, **words) for i, name in enumerate(names(n))}, gone or {})


def assert_exact(made: Session) -> None:
    total = made.server.total()
    wide, narrow = plain_sum(made.words, made.server.included)
    assert np.array_equal(total.wide, wide)
    assert np.array_equal(total.narrow, narrow)


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 7), st.data())
def test_the_sum_is_exact_or_refused_whoever_drops_out_when(n, data):
    threshold = data.draw(st.integers(n // 2 + 1, n))
    lost = {name: data.draw(st.sampled_from([None, *PHASES])) for name in names(n)}
    gone = {phase: [name for name, when in lost.items() if when == phase] for phase in PHASES}
    made = session(n, threshold, gone)
    if sum(when is None for when in lost.values()) >= threshold:
        made.keys().shares().add().sign().unmask()
        assert set(made.server.included) == {name for name, when in lost.items() if when not in PHASES[:3]}
        assert_exact(made)
    else:
        with pytest.raises((FederationError, PrivacyError), match=r"need|too few"):
            made.run()


@pytest.mark.parametrize("phase", PHASES)
def test_three_of_ten_may_be_lost_in_any_phase(phase):
    made = session(10, 7, {phase: names(10)[2:5]})
    made.keys().shares().add().sign().unmask()
    assert_exact(made)


@pytest.mark.parametrize("phase", PHASES)
def test_four_of_ten_may_not(phase):
    with pytest.raises((FederationError, PrivacyError), match=r"6 (sites|shares)|too few"):
        session(10, 7, {phase: names(10)[2:6]}).run()


@pytest.mark.parametrize("phase", ["shares", "words", "unmasking"])
def test_forty_sites_in_a_sparse_graph(phase):
    made = session(40, 27, {phase: names(40)[::4]})
    made.keys()
    assert made.server.graph.degree < 39
    made.shares().add().sign().unmask()
    assert_exact(made)


def test_one_masked_update_looks_uniform_to_the_coordinator():
    """Chi-square on the octets of constant words; all that the coordinator sees of one site is in ``masked``."""
    flat = {name: MaskWords(np.zeros(64, np.uint64), np.full(50_000, 7, np.uint32)) for name in names(3)}
    made = Session(terms(3, 2), flat).keys().shares().add()
    for masked in made.masked.values():
        for array in (masked.wide, masked.narrow):
            counts = np.bincount(np.frombuffer(array.tobytes(), np.uint8), minlength=256)
            assert chisquare(counts).pvalue > 1e-6
        top = np.bincount(masked.narrow >> 24, minlength=256)
        assert chisquare(top).pvalue > 1e-6
    pair = np.concatenate([masked.narrow for masked in made.masked.values()])
    assert np.unique(pair).size > 0.99 * pair.size
    assert chisquare(np.bincount(flat["site-000"].narrow & 0xFF, minlength=256)).pvalue < 1e-6  # the test can fail


def test_two_sessions_of_one_question_share_no_mask():
    words = {name: random_words(1) for name in names(3)}
    first, second = (Session(terms(3, 2), words).keys().shares().add() for _ in range(2))
    for name in names(3):
        assert not np.isin(first.masked[name].narrow, second.masked[name].narrow).any()


def test_no_owner_loses_both_of_its_secrets():
    made = session(5, 3, {"words": names(5)[4:]}).keys().shares().add().sign()
    kinds: dict[str, set[str]] = {}
    for name in made.server.included:
        shares = made.sites[name].unmask(made.signatures)
        for owner in shares.seed_shares:
            kinds.setdefault(owner, set()).add("seed")
        for owner in shares.key_shares:
            kinds.setdefault(owner, set()).add("key")
    assert kinds == {name: {"seed"} for name in names(5)[:4]} | {"site-004": {"key"}}


# a site that does not keep to the protocol


def test_a_site_that_sends_shares_of_others_is_named_and_the_sum_is_right():
    made = session().keys().shares().add().sign()
    replies = {name: made.sites[name].unmask(made.signatures) for name in made.signatures}
    foreign = replies["site-001"].seed_shares  # site-000 sends what site-001 holds
    made.server.collect("site-000", Unmasked(foreign, {}))
    for name in names(4)[1:]:
        made.server.collect(name, replies[name])
    assert made.server.faults == {"site-000": "site-000 sent a seed share that site-003 never gave it"}
    assert_exact(made)


def test_a_site_that_shares_another_secret_than_it_masks_with_is_named():
    made = session().keys().shares()
    made.sites["site-002"]._seed[0] ^= 1  # it masks with this seed, and shared the former one
    made.add().sign().unmask()
    total = made.server.total()
    assert not np.array_equal(total.wide, plain_sum(made.words, made.server.included)[0])  # only the site itself knows
    committed = session().keys()
    shared = {name: committed.sites[name].share(committed.roster) for name in names(4)}
    shared["site-002"] = replace(shared["site-002"], seed_commitment=octets(bytes(32)))
    committed.sharers = committed.server.route(shared)
    with pytest.raises(FederationError, match="site-002 shared another seed than it committed to"):
        committed.add().sign().unmask().server.total()


def test_a_site_that_shares_with_others_than_its_neighbours_is_left_out():
    made = session(5, 3).keys()
    shared = {name: made.sites[name].share(made.roster) for name in names(5)}
    shared["site-000"] = replace(shared["site-000"], sealed={"site-001": octets(b"x")})
    assert "site-000" not in made.server.route(shared)
    assert made.server.faults == {"site-000": "site-000 shared its secrets with others than its neighbours"}


@pytest.mark.parametrize("odd", ["site-000", "site-002"])
def test_a_site_with_words_of_another_length_is_left_out_wherever_it_stands(odd):
    made = session(5, 3).keys().shares()
    made.words = {**made.words, odd: random_words(2, narrow=4)}
    made.add().sign().unmask()
    assert made.server.included == tuple(name for name in names(5) if name != odd)
    assert made.server.faults == {odd: f"{odd} sent sums of another layout than most sites"}
    assert_exact(made)


def test_keys_of_a_site_that_answers_as_another_are_left_out():
    made = session(5, 3)
    advertised = {name: made.sites[name].advertise() for name in names(5)}
    advertised["site-000"] = advertised["site-001"]
    assert [entry.site for entry in made.server.open(advertised)] == list(names(5)[1:])
    assert made.server.faults == {"site-000": "site-000 answers as site-001"}


# a coordinator that does not keep to the protocol


def test_a_coordinator_that_tells_sites_of_different_sums_gets_no_shares():
    """It drops site-003 selectively: half are told that it is in the sum, half that it is not."""
    made = session(4, 3).keys().shares().add()
    told = {"site-000": names(4), "site-001": names(4), "site-002": names(3), "site-003": names(4)}
    signatures = {name: made.signed(name, told[name]) for name in names(4)}
    with pytest.raises(PrivacyError, match="1 sites signed that the sum is over the same 3 sites, 3 are needed"):
        made.sites["site-002"].unmask(signatures)


def test_a_coordinator_that_asks_twice_with_another_set_is_refused():
    made = session().keys().shares().add()
    site = made.sites["site-000"]
    made.signed("site-000", names(4))
    with pytest.raises(PrivacyError, match="sign was asked out of order, expected unmask"):
        made.signed("site-000", names(3))
    with pytest.raises(PrivacyError, match="expected nothing more"):
        site.unmask({})


def test_a_coordinator_that_asks_for_shares_twice_is_refused():
    made = session().keys().shares().add().sign()
    site = made.sites["site-000"]
    site.unmask(made.signatures)
    with pytest.raises(PrivacyError, match="unmask was asked out of order, expected nothing more"):
        site.unmask(made.signatures)


@pytest.mark.parametrize(
    ("included", "reason"),
    [
        (names(2), "2 sites are in the sum, at least 3 are needed"),
        (names(4)[1:], "site-000 is not among the sites that are in the sum"),
        ((*names(3), "site-009"), "sites that are in the sum are not sorted sites of the roster"),
        (names(4)[::-1], "sites that are in the sum are not sorted sites of the roster"),
        (names(4), "the sum holds site-003, who shared nothing: the cohort was changed"),
    ],
)
def test_a_cohort_changed_between_phases_is_refused(included, reason):
    made = session(gone={"shares": ["site-003"]}).keys().shares().add()
    with pytest.raises(PrivacyError, match=reason):
        made.signed("site-000", included)


def test_a_part_that_no_mask_ties_to_the_rest_is_refused():
    """On a ring of pairs two lost sites cut it into two arcs; the graphs that are chosen never get so sparse."""
    made = session(12, 7).keys().shares().add()
    site = made.sites["site-000"]
    site._graph = replace(site._graph, degree=2, threshold=2)
    at = site._graph.ring.index("site-000")
    ring = site._graph.ring[at:] + site._graph.ring[:at]
    with pytest.raises(PrivacyError, match="fall into parts"):
        made.signed("site-000", sorted({*ring} - {ring[3], ring[9]}))


def test_a_roster_below_the_threshold_or_beyond_the_cohort_is_refused():
    made = session(4, 3).keys()
    with pytest.raises(PrivacyError, match="keys of 2 sites, at least 3 are needed"):
        made.sites["site-000"].share(made.roster[:2])
    stranger = site_of(replace(made.terms, cohort=(*names(4), "zz")), "zz").advertise()
    with pytest.raises(PrivacyError, match="not a sorted part of the cohort"):
        made.sites["site-001"].share((*made.roster, stranger))


def test_two_rosters_in_one_session_open_no_shares():
    """site-003 is hidden from half of the sites; what they seal is bound to another roster."""
    made = session(4, 3).keys()
    rosters = [made.roster, made.roster[:3]]
    shared = {name: made.sites[name].share(rosters[i % 2]) for i, name in enumerate(names(3))}
    sealed = {owner: shared[owner].sealed["site-000"] for owner in ("site-001", "site-002")}
    made.sites["site-000"].mask(made.words["site-000"], names(3))
    with pytest.raises(PrivacyError, match="shares that came for site-001 were changed, or are not of site-001"):
        made.sites["site-000"].sign(names(3), sealed)


def test_a_coordinator_that_lies_about_the_round_is_refused():
    """Sites sign the digest of the question: who was told of another round has signed something else."""
    honest = terms(3, 2, asked="round 4")
    other = replace(honest, asked="round 3")
    roster = tuple(site_of(honest if name != "site-002" else other, name).advertise() for name in names(3))
    site = site_of(honest, "site-000")
    own = site.advertise()
    with pytest.raises(PrivacyError, match="keys of site-002 are not signed by it for this session and question"):
        site.share((own, *roster[1:]))


def test_replayed_keys_of_a_former_session_are_refused():
    former, now = session(3, 2).keys(), session(3, 2)
    own = now.sites["site-000"].advertise()
    with pytest.raises(PrivacyError, match="keys of site-001 are not signed by it for this session"):
        now.sites["site-000"].share((own, *former.roster[1:]))


def test_replayed_signatures_of_a_former_session_are_refused():
    former, now = session(3, 2).keys().shares().add().sign(), session(3, 2).keys().shares().add().sign()
    with pytest.raises(PrivacyError, match="0 sites signed"):
        now.sites["site-000"].unmask(former.signatures)


def test_own_keys_exchanged_by_the_coordinator_are_noticed():
    made = session(3, 2).keys()
    forged = site_of(made.terms, "site-000").advertise()
    with pytest.raises(PrivacyError, match="other keys for site-000 than it advertised"):
        made.sites["site-000"].share((forged, *made.roster[1:]))


def test_one_key_for_two_sites_is_refused():
    made = session(3, 2).keys()
    twin = replace(made.roster[2], mask_key=made.roster[1].mask_key)
    with pytest.raises(PrivacyError, match="two sites of the roster have the same key"):
        made.sites["site-000"].share((*made.roster[:2], twin))


def test_sealed_shares_of_another_owner_or_with_a_flipped_bit_are_named_and_not_held():
    made = session(4, 3).keys().shares().add()
    sealed = made.server.sealed_for("site-000")
    reply = made.sites["site-000"].sign(names(4), {**sealed, "site-001": sealed["site-002"]})
    assert reply.unopened == ("site-001",)
    assert "not of site-001 for us" in made.sites["site-000"].faults["site-001"]
    assert "site-001" not in made.sites["site-000"]._held
    sealed = dict(made.server.sealed_for("site-002"))
    flipped = bytearray(as_bytes(sealed["site-001"]))
    flipped[5] ^= 4
    reply = made.sites["site-002"].sign(names(4), {**sealed, "site-001": octets(bytes(flipped))})
    assert reply.unopened == ("site-001",)
    assert "shares that came for site-001 were changed" in made.sites["site-002"].faults["site-001"]
    assert made.server.unopenable({"site-000": ("site-001",), "site-002": ("site-001",)}) == ("site-001",)
    assert made.server.unopenable(dict.fromkeys(names(4), ())) == ()


def test_where_the_shares_of_most_cannot_be_opened_the_session_is_over():
    made = session(4, 3).keys().shares().add()
    sealed = made.server.sealed_for("site-000")
    crossed = {"site-001": sealed["site-002"], "site-002": sealed["site-001"], "site-003": sealed["site-003"]}
    with pytest.raises(PrivacyError, match="not of site-001 for us"):
        made.sites["site-000"].sign(names(4), crossed)
    with pytest.raises(PrivacyError, match="out of order"):
        made.sites["site-000"].unmask({})


def test_shares_of_a_stranger_or_held_back_are_refused():
    made = session(4, 3).keys().shares().add()
    sealed = made.server.sealed_for("site-000")
    with pytest.raises(PrivacyError, match="other sites than those that shared: site-009"):
        made.sites["site-000"].sign(names(4), {**sealed, "site-009": octets(b"x")})
    held_back = {owner: made.server.sealed_for("site-001")[owner] for owner in ("site-000", "site-002")}
    with pytest.raises(PrivacyError, match="other sites than those that shared: site-003"):
        made.sites["site-001"].sign(names(4), held_back)


def test_too_few_sharers_are_refused():
    made = session(4, 3).keys().shares()
    with pytest.raises(PrivacyError, match="2 sites share their secrets, at least 3 are needed"):
        made.sites["site-000"].mask(made.words["site-000"], names(2))


@pytest.mark.parametrize("step", ["share", "mask", "sign", "unmask"])
def test_steps_out_of_order_end_the_session(step):
    site = site_of(terms(3, 2), "site-000")
    arguments = {"share": [()], "mask": [random_words(0), ()], "sign": [(), {}], "unmask": [{}]}[step]
    with pytest.raises(PrivacyError, match=f"{step} was asked out of order, expected advertise"):
        getattr(site, step)(*arguments)
    with pytest.raises(PrivacyError, match="expected nothing more"):
        site.advertise()


def test_a_session_that_is_over_holds_no_secret():
    made = session(3, 2).keys().shares().add().sign()
    before = {name: bytes(site._seed) for name, site in made.sites.items()}
    made.unmask()
    assert Counter(len(seed) for seed in before.values()) == {32: 3}
    assert len(set(before.values())) == 3
    assert all(not any(site._seed) and not site._held for site in made.sites.values())


def test_a_site_outside_the_cohort_does_not_begin():
    with pytest.raises(PrivacyError, match="zz is not in the cohort"):
        site_of(terms(3, 2), "zz")


def test_words_without_shares_or_twice_are_refused_by_the_server():
    made = session(5, 3, {"shares": ["site-004"]}).keys().shares().add()
    for name in ("site-004", "site-000"):
        with pytest.raises(PrivacyError, match=f"{name} sent masked words out of order"):
            made.server.add(name, made.words[name])
