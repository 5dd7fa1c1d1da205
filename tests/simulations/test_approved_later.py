"""A hospital that starts with no approved study waits; its approval is noticed while it runs."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from simulations.consortium import COORDINATOR, last_lines
from simulations.parties import Parties
from simulations.tiny_study import tiny_consortium
from tests.commands import fedrad
from tests.over_flower import END_S, wait_for_end

SITES = ("east", "north")


def test_a_site_that_starts_without_approvals_takes_part_once_it_approved(parties: Parties, tmp_path: Path) -> None:
    made = tiny_consortium(tmp_path, SITES, rounds=2)
    north = made.hospital("north")
    shutil.rmtree(north / "state")  # with the audit log, which holds the approval
    made.start_hospital(parties, "east")
    parties.start("north", 2, ["site", "start", "site.toml", "--log-format", "json"], folder=north)
    made.start_coordinator(parties)
    end = time.monotonic() + END_S
    while COORDINATOR not in parties.ended():
        assert time.monotonic() < end, last_lines(made.coordinator / "output.log", 20)
        time.sleep(0.05)
    assert parties.running.pop(COORDINATOR).returncode != 0
    assert "north refused Hello: study_not_approved" in " ".join((made.coordinator / "output.log").read_text().split())
    process = parties.running["north"].pid
    assert fedrad("site", "approve", north / "study.toml", "--yes", "--site", north / "site.toml").exit_code == 0
    made.start_coordinator(parties, resume=True)
    assert wait_for_end(made, parties) != {}
    assert parties.running["north"].pid == process
    assert parties.running["north"].poll() is None
    told = [json.loads(line).get("text", "") for line in (north / "output.log").read_text().splitlines()]
    waiting = "waiting for an approval: it counts from the next request on, without a restart"
    assert told.index(waiting) < told.index("tiny is approved now: it is answered")
