"""What a coordinator does with one study before the first question."""

from __future__ import annotations

import pytest

from common.errors import FederationError
from server.opening import open_run
from server.provisioning import init_authority
from server.service import open_federation, run_once
from tests.small_study import STUDY

SHORT = STUDY.replace("federated = {", "federated = { join_deadline_s = 0.2,")
PRIVATE = SHORT.replace(
    "minimum_cases = 2", "minimum_cases = 2, sample_level = { target_epsilon = 8, target_delta = 1e-3 }"
)


@pytest.mark.parametrize(("text", "advised"), [(SHORT, []), (PRIVATE, ["cnn"])])
def test_the_journal_advises_on_networks_that_noise_would_spoil_whoever_starts_the_study(tmp_path, text, advised):
    """The terminal and the web page read the journal, of a study from the queue as of one that was named."""
    home = tmp_path / "home"
    home.mkdir()
    init_authority(home, addresses=["127.0.0.1"])
    (tmp_path / "study.toml").write_text(text)
    opened = open_run(tmp_path / "study.toml", tmp_path / "run", resume=False)
    with (
        open_federation(home, "127.0.0.1:0", tell=lambda _: None) as federation,
        pytest.raises(FederationError, match=r"not connected after 0\.2 s: east, north, south"),
    ):
        run_once(opened, federation)
    notes = [line["text"] for line in opened.journal.read() if line["event"] == "note"]
    assert [note.split()[1] for note in notes if "trained under noise" in note] == advised
