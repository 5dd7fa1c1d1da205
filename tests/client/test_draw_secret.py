"""The site's secret: made once, kept, readable for its user alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from client.draw_secret import FILE, draw_secret
from common.errors import StateError


def test_a_secret_is_made_once_and_differs_between_sites(tmp_path: Path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    secret = draw_secret(one)
    assert len(secret) == 64
    assert draw_secret(one) == secret
    assert draw_secret(other) != secret
    assert stat.S_IMODE((one / FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "short", "g" * 64])
def test_a_damaged_secret_is_said(tmp_path: Path, content: str):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(StateError, match="is damaged"):
        draw_secret(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path):
    with pytest.raises(StateError, match="cannot write"):
        draw_secret(tmp_path / "absent")
