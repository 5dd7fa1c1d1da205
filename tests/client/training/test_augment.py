"""Moves of a patch: group laws and the ROI's fidelity."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from client.training.augment import AXES, Move, augmented, draw_move

ALL_MOVES = [Move(o, m) for o in permutations(AXES) for n in range(4) for m in combinations(AXES, n)]


def test_there_are_48_moves_of_a_cube_and_all_differ() -> None:
    patch = torch.arange(27.0).reshape(1, 3, 3, 3)
    assert len({tuple(move.apply(patch).flatten().tolist()) for move in ALL_MOVES}) == 48


@pytest.mark.parametrize("move", ALL_MOVES[::5], ids=str)
def test_a_move_only_reorders_voxels_and_moves_all_channels_alike(move: Move) -> None:
    image = torch.randn(1, 4, 4, 4)
    patch = torch.cat([image, 2 * image])
    moved = move.apply(patch)
    assert torch.equal(moved[1], 2 * moved[0])
    assert torch.equal(moved[0].flatten().sort().values, image.flatten().sort().values)


def test_no_move_returns_the_same_bits() -> None:
    patch = torch.randn(2, 3, 4, 5)
    assert torch.equal(Move().apply(patch), patch)
    images = patch[None]
    assert augmented(images, np.random.default_rng(0), kind="none") is images


def test_flips_keep_the_axes() -> None:
    generator = np.random.default_rng(0)
    drawn = {draw_move(generator, (5, 5, 5), kind="flips") for _ in range(200)}
    assert {move.order for move in drawn} == {AXES}
    assert len(drawn) == 8


def test_turns_exchange_only_axes_of_equal_length() -> None:
    generator = np.random.default_rng(0)
    drawn = {draw_move(generator, (3, 6, 6), kind="flips_and_turns").order for _ in range(100)}
    assert drawn == {(0, 1, 2), (0, 2, 1)}
    images = torch.randn(4, 2, 3, 6, 6)
    assert augmented(images, generator, kind="flips_and_turns").shape == images.shape


def test_draws_of_a_cube_reach_every_move_about_evenly() -> None:
    generator = np.random.default_rng(1)
    drawn = [draw_move(generator, (4, 4, 4), kind="flips_and_turns") for _ in range(48 * 60)]
    counts = [drawn.count(move) for move in ALL_MOVES]
    assert min(counts) > 30
    assert max(counts) < 95
