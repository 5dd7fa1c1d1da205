import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from common.privacy.mask_graph import COMPLETE_UP_TO, CORRUPT, SECRECY, SUCCESS, MaskGraph, Ring


def graph(n: int, least: int, seed: bytes = b"seed") -> MaskGraph:
    return MaskGraph.of([f"site-{i}" for i in range(n)], least=least, seed=seed)


@settings(max_examples=25)
@given(st.integers(3, 60), st.integers(0, 20))
def test_neighbours_are_mutual_and_as_many_as_the_degree(n, spare):
    made = graph(n, min(n, n // 2 + 1 + spare))
    for site in made.sites:
        assert len(made.neighbours(site)) == made.degree
        assert all(site in made.neighbours(other) for other in made.neighbours(site))
        assert site in made.holders(site)
        assert len(made.holders(site)) == made.degree + 1
    assert made.is_connected(made.sites)


def test_few_sites_mask_in_all_pairs_and_share_among_all():
    made = graph(COMPLETE_UP_TO, 22)
    assert (made.degree, made.threshold) == (COMPLETE_UP_TO - 1, 22)


@pytest.mark.parametrize(("n", "least"), [(33, 22), (100, 67), (150, 100)])
def test_the_promises_hold_by_another_library(n, least):
    chosen = Ring.choose(n_sites=n, least=least)
    assert chosen.degree < n - 1
    corrupt, gone = int(CORRUPT * n), n - least
    learned = hypergeom.sf(chosen.threshold - 1, n - 1, corrupt, chosen.degree)
    lost = hypergeom.cdf(chosen.threshold - 1, n - 1, n - 1 - gone, chosen.degree)
    cut = n**2 / 2 * hypergeom.sf(chosen.degree - 1, n - 1, min(corrupt + gone, n - 1), chosen.degree)
    assert n * learned <= float(SECRECY) * (1 + 1e-6)
    assert n * lost <= float(SUCCESS) * (1 + 1e-6)
    assert cut <= float(SECRECY) * (1 + 1e-6)


def test_the_degree_grows_slower_than_the_number_of_sites():
    degrees = [Ring.choose(n_sites=n, least=2 * n // 3 + 1).degree for n in (50, 100, 200, 400)]
    shares = [Fraction(degree, n) for degree, n in zip(degrees, (50, 100, 200, 400), strict=True)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < shares[0] * 3 / 4


def test_the_ring_follows_from_the_seed_alone():
    assert graph(40, 27).ring == graph(40, 27).ring
    assert graph(40, 27).ring != graph(40, 27, b"other").ring


def test_a_third_of_the_sites_lost_leaves_all_tied_together():
    made = graph(100, 67)
    rng = random.Random(1)
    for _ in range(50):
        left = rng.sample(made.sites, 67)
        assert made.is_connected(left)
        assert all(len(set(made.neighbours(site)) & set(left)) + 1 >= made.threshold for site in left)


def test_a_ring_cut_in_two_places_is_not_connected():
    made = graph(100, 67)
    half = made.degree // 2
    gone = {*made.ring[:half], *made.ring[50 : 50 + half]}
    assert not made.is_connected(set(made.sites) - gone)
    assert made.is_connected(set(made.sites) - set(made.ring[:half]))


@pytest.mark.parametrize("least", [5, 11])
def test_half_of_the_sites_is_not_enough(least):
    with pytest.raises(ValueError, match="more than half"):
        Ring.choose(n_sites=10, least=least)
