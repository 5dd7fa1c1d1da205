"""How the body of a request is collected."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.tls_server import BLOCK_BYTES, _Body


@given(st.lists(st.sampled_from([1, 3, 1000, BLOCK_BYTES // 3, BLOCK_BYTES]), max_size=30))
def test_a_body_is_its_pieces_whatever_their_sizes(sizes: list[int]) -> None:
    pieces = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    body = _Body()
    for piece in pieces:
        body += piece
    assert bytes(body) == b"".join(pieces)
    assert len(body) == sum(sizes)


def test_tiny_pieces_take_no_more_room_than_large_ones() -> None:
    body = _Body()
    for _ in range(2 * BLOCK_BYTES + 1):
        body += b"x"
    assert len(body._blocks) == 3
