"""The web page in a real Chromium, with a study that runs meanwhile: what people see, what they may do, what leaves.

Skipped where no Chromium is on the PATH (``make browser`` installs Debian's). Set FEDRAD_SCREENSHOTS to a folder to
keep the pictures.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.config.loading import digest, parse
from common.config.study import StudyConfig
from common.errors import AbortedError
from common.journal import JsonLines
from common.messages import Reply, Request, Train
from server.checkpoint import CheckpointStore
from server.control import ControlledFederation, StudyControl
from server.courses import groups_of
from server.dashboard import Dashboard
from server.observing import page_context
from server.opening import JOURNAL_FILE, STUDY_FILE
from server.provisioning import init_authority
from server.queue import StudyQueue
from server.study import run_study
from server.tls_server import TlsServer
from server.users import Users
from server.watch import Watch
from simulations.in_process import InProcessFederation
from tests.server.finished_study import study_text
from tests.server.memory_sites import STUDY, events, members

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium on the PATH: make browser")

TEXT = STUDY.replace("rounds = 3", "rounds = 14").replace("quorum = 2", "quorum = 2, round_deadline_s = 60").replace(
    'title = "Random numbers"', 'title = "Malignancy of lung nodules, four hospitals"'
).replace("local_only = true", "local_only = false")  # fmt: skip
PASSWORD = "correct horse battery"
WAIT_MS = 30_000


@dataclass
class Coordinator:
    """A coordinator in threads: page, queue, and a study whose rounds wait for the test."""

    home: Path
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    away: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        init_authority(self.home, addresses=["127.0.0.1"])
        users = Users(self.home)
        users.add("vera", PASSWORD, "viewer")
        users.add("otto", PASSWORD, "operator")
        self.queue = StudyQueue(self.home, approval=True)
        self.queue.create()
        (self.home / "queue" / "next.toml").write_text(study_text(title="Response of sarcomas to radiotherapy"))
        self.watch = Watch(lambda: tuple(site for site in ("a", "b", "c", "x") if site not in self.away), self.queue)
        context = page_context(self.home / "keys" / "server.pem", self.home / "keys" / "server.key")
        self.server = TlsServer(Dashboard(self.watch, users), address="127.0.0.1:0", context=context)
        self.server.start()
        self.folder = self.home / "run"
        self.thread = threading.Thread(target=self._study)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server.port}/"

    def start(self) -> None:
        self.folder.mkdir()
        (self.folder / STUDY_FILE).write_text(TEXT)
        self.watch.follow(self.folder)
        self.thread.start()

    def stop(self) -> None:
        self.go.release(1000)
        if self.thread.ident is not None:
            self.thread.join(60)
        self.server.stop()

    def _study(self) -> None:
        study, journal = parse(TEXT, StudyConfig, source="study.toml"), JsonLines(self.folder / JOURNAL_FILE)

        def wait_for_test(site: str, request: Request) -> Reply | None:
            if isinstance(request, Train) and site == "a":
                self.go.acquire()
            return None

        control = StudyControl(self.folder)
        store = CheckpointStore(self.folder / "checkpoints", digest(study))
        with InProcessFederation(members(study), disturb=wait_for_test) as inner:
            federation = ControlledFederation(inner, control, journal)
            try:
                run_study(study, federation, groups=groups_of(study), store=store, journal=journal)
            except AbortedError:
                journal.write("aborted", by=control.order().by)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path)
    try:
        yield made
    finally:
        made.stop()


class Visit:
    """A browser window; what it asked for elsewhere and what it complained about is kept."""

    def __init__(self, browser, url: str, *, width: int = 1280, dark: bool = False) -> None:  # type: ignore[no-untyped-def]
        self.url = url
        self.elsewhere: list[str] = []
        self.complaints: list[str] = []
        context = browser.new_context(
            ignore_https_errors=True,
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
        )
        self.page = context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("request", lambda request: self._note(request.url))
        self.page.on("console", lambda line: self._complain(line.type, line.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _note(self, url: str) -> None:
        if not url.startswith(self.url):
            self.elsewhere.append(url)

    def _complain(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def log_in(self, name: str, password: str = PASSWORD) -> None:
        self.page.goto(self.url)
        self.page.fill("#name", name)
        self.page.fill("#password", password)
        self.page.click("button[type=submit]")

    def confirm(self, action: str, name: str) -> None:
        self.page.click(f"#{action}")
        self.page.fill("#confirm-name", name)
        self.page.click("#confirm-do")

    def sees(self, selector: str, text: str) -> None:
        self.page.locator(selector, has_text=text).first.wait_for()

    def picture(self, name: str) -> None:
        if folder := os.environ.get("FEDRAD_SCREENSHOTS"):
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


@pytest.fixture
def visit(coordinator: Coordinator) -> Iterator[Callable[..., Visit]]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        try:
            yield lambda **settings: Visit(browser, coordinator.url, **settings)
        finally:
            browser.close()


def test_an_operator_sees_the_study_advance_pauses_resumes_and_aborts_it(
    coordinator: Coordinator, visit: Callable[..., Visit]
) -> None:
    seen = visit()
    seen.log_in("otto", "a wrong password")
    seen.sees("[role=alert]", "Name or password is wrong.")
    seen.complaints.clear()  # Chromium names every answer 401 in its console
    seen.picture("1-login")
    seen.log_in("otto")
    seen.sees("#title", "No study runs")
    seen.sees("#sites", "online")
    seen.picture("2-no-study")

    coordinator.start()
    coordinator.go.release(5)
    seen.sees("#log", "round 5 of 14 complete")
    seen.sees("#curves", "logistic")
    seen.sees("#facts", "train logistic, round 6")
    seen.sees("#facts dd", "a, b, c")  # a is asked first, and waits
    coordinator.away.add("c")
    seen.sees("#sites", "offline")
    seen.picture("3-running")
    dark = visit(dark=True, width=390)
    dark.log_in("otto")
    dark.sees("#curves", "logistic")
    dark.picture("4-narrow-dark")
    coordinator.go.release(1)
    seen.sees("#log", "round 6 of 14 complete")

    seen.page.click("#pause")
    assert seen.page.is_disabled("#confirm-do")
    seen.page.fill("#confirm-name", "memor")
    assert seen.page.is_disabled("#confirm-do")
    seen.picture("5-confirm")
    seen.page.fill("#confirm-name", "memory")
    seen.page.click("#confirm-do")
    seen.sees("#wish", "asked for a pause")
    coordinator.go.release(1)
    seen.sees("#wish", "Paused by otto")
    n_rounds = len(events(coordinator.folder, "round"))
    coordinator.go.release(2)
    seen.page.wait_for_timeout(1500)
    assert len(events(coordinator.folder, "round")) == n_rounds
    seen.picture("6-paused")
    seen.confirm("resume", "memory")
    seen.sees("#facts", "running")
    seen.sees("#log", "round 9 of 14 complete")

    seen.confirm("abort", "memory")
    coordinator.go.release(1)
    seen.sees("#facts", "aborted")
    seen.picture("7-aborted")
    coordinator.thread.join(30)
    assert not coordinator.thread.is_alive()
    assert [line["by"] for line in events(coordinator.folder, "aborted")] == ["otto"]
    assert seen.page.is_hidden("#actions")

    seen.page.click("#queue button")
    seen.page.fill("#confirm-name", "example")
    seen.page.click("#confirm-do")
    seen.sees("#queue", "approved by otto")
    assert [entry.approved_by for entry in coordinator.queue.due()] == ["otto"]
    for window in (seen, dark):
        assert window.elsewhere == []
        assert window.complaints == []


def test_a_viewer_sees_and_can_do_nothing(coordinator: Coordinator, visit: Callable[..., Visit]) -> None:
    coordinator.start()
    seen = visit(width=390)
    seen.log_in("vera")
    seen.sees("#title", "Malignancy")
    assert seen.page.is_hidden("#actions")
    assert seen.page.locator("#queue button").count() == 0
    answer = seen.page.evaluate(
        """async () => (await fetch("/api/control", {method: "POST",
            headers: {"X-CSRF-Token": document.querySelector("meta[name=csrf]").content},
            body: JSON.stringify({action: "abort", digest: shown.study.digest, confirm: "memory"})})).status"""
    )
    assert answer == 403
    assert StudyControl(coordinator.folder).order().wish == "run"
    blocked = seen.page.evaluate("""async () => { try { await fetch("https://example.org/"); return false }
        catch { return true } }""")
    assert blocked  # by the page's policy
    overflow = seen.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0
    seen.picture("8-viewer-narrow")
    seen.page.click("text=Log out")
    seen.sees("h1", "Log in")
    seen.page.goto(coordinator.url)
    seen.sees("h1", "Log in")


def test_a_coordinator_that_is_gone_is_said(coordinator: Coordinator, visit: Callable[..., Visit]) -> None:
    seen = visit()
    seen.log_in("vera")
    seen.sees("#live", "live")
    coordinator.server.stop()
    seen.sees("#lost", "The coordinator does not answer")
    seen.picture("9-lost")
