"""Coordinator, three hospitals and a proxy on hosts of their own: firewall, delay, loss, cut cables, the same bits."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import pytest

from common.config.loading import load
from common.config.study import StudyConfig
from common.journal import JsonLines
from server.opening import JOURNAL_FILE, STUDY_FILE
from simulations.cable import NAMESPACES, Quality
from simulations.clocks import Clock, why_no_clocks
from simulations.hosts import NAME, PROXY, Hosts, consortium_of, open_hosts
from simulations.network import HOSTS_FILES, Network, Pass, why_not_here
from simulations.run import Cohort
from tests.over_flower import digests_in_process, final_digests
from tests.small_study import STUDY, write_study

pytestmark = pytest.mark.skipif(bool(why_not_here()), reason=why_not_here() or "never")


@pytest.fixture
def hosts(cohort: Cohort, tmp_path: Path) -> Iterator[Hosts]:
    study_file, _ = write_study(tmp_path)
    with open_hosts(consortium_of(tmp_path / "consortium", cohort, study_file)) as opened:
        yield opened


def test_a_study_over_bad_cables_ends_with_the_same_bits(hosts: Hosts, cohort: Cohort, tmp_path: Path) -> None:
    folder = tmp_path / "in-process"
    folder.mkdir()
    expected = digests_in_process(folder, cohort, STUDY)
    hosts.start()
    for n, host in enumerate(("north", "south", PROXY, "coordinator"), start=1):
        hosts.wait_for_rounds(n)
        hosts.cut(host, 4.0)
    hosts.wait_for_end()
    run = hosts.consortium.run_folder
    assert final_digests(run, load(run / STUDY_FILE, StudyConfig)) == expected
    assert all(cable.lost > 0 for cable in hosts.network.cables.values())
    assert all(cable.carried > 100 for name, cable in hosts.network.cables.items())
    assert list(JsonLines(run / JOURNAL_FILE).read())[-1]["event"] == "finished"


def test_the_firewall_lets_nothing_else_through_and_preflight_sees_what_is_wrong(hosts: Hosts) -> None:
    assert hosts.transgressions() == []
    ways = {name: hosts.way(name) for name in hosts.consortium.hospitals}
    assert ways == {"east": "IPv4", "north": "IPv6", "south": "proxy"}
    code, screen = hosts.preflight("east")
    assert (code, "Connection refused" in screen) == (1, True)  # the way is free, nobody listens yet
    hosts.consortium.start_coordinator(hosts.parties)
    hosts.wait(lambda: hosts.network.can_connect("east", hosts.network.address("coordinator"), 443))
    with ThreadPoolExecutor(2) as pool:
        screens = dict(zip(ways, pool.map(hosts.preflight, ways), strict=True))
    for code, screen in screens.values():
        assert code == 0, screen
        assert NAME in screen
    assert hosts.network.address(PROXY) in screens["south"][1]
    hosts.network.cables["east"].cut = True
    code, screen = hosts.preflight("east")
    assert (code, "no answer in" in screen) == (1, True)


@pytest.mark.skipif(bool(why_no_clocks()), reason=why_no_clocks() or "never")
def test_a_clock_that_jumps_stops_its_hospital_until_it_is_right_again(cohort: Cohort, tmp_path: Path) -> None:
    """Four minutes are accepted, ten are refused and told with what to do; once it is right the same bits come out."""
    folder = tmp_path / "in-process"
    folder.mkdir()
    expected = digests_in_process(folder, cohort, STUDY)
    study_file, _ = write_study(tmp_path)
    clock = Clock(tmp_path / "clock")
    clock.set_ahead(600)
    made = consortium_of(tmp_path / "consortium", cohort, study_file)
    with open_hosts(made, clocks={"east": clock}) as hosts:
        hosts.start()
        hosts.wait(lambda: "clock" in (made.hospital("east") / "output.log").read_text())
        code, screen = hosts.preflight("east")
        assert (code, "clock" in screen) == (1, True), screen
        clock.set_ahead(240)
        hosts.wait_for_rounds(2)
        clock.set_ahead(-7200)
        refused = "clocks differ by 7200 s, at most 300 s are accepted"
        hosts.wait(lambda: refused in (made.coordinator / "output.log").read_text())
        clock.set_ahead(0)
        hosts.wait_for_end()
        run = made.run_folder
        assert final_digests(run, load(run / STUDY_FILE, StudyConfig)) == expected


def test_a_cable_takes_its_time_and_can_be_cut() -> None:
    with Network(["left", "right"], [Pass("left", "right", 443)], Quality(delay_s=0.1)) as network:
        there = network.address("right")
        assert not network.can_connect("left", there, 80)
        before = network.cables["right"].carried
        assert not network.can_connect("left", there, 80)
        assert network.cables["right"].carried == before  # the firewall stands before it
        started = monotonic()
        assert not network.can_connect("left", there, 443)  # let through; refused there
        assert monotonic() - started > 4 * 0.1
        assert network.cables["right"].carried >= before + 2
        network.cables["left"].cut = True
        before = network.cables["right"].carried
        assert not network.can_connect("left", there, 443)
        assert network.cables["right"].carried == before
    assert not list(HOSTS_FILES.glob(f"fedrad-{os.getpid()}-*"))
    assert not list(NAMESPACES.glob(f"fedrad-{os.getpid()}-*"))


def test_what_a_killed_run_left_behind_is_removed() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    name = f"fedrad-{ended.pid}-left"
    subprocess.run(["ip", "netns", "add", name], check=True)
    with Network(["left"], []):
        assert not (NAMESPACES / name).exists()
