"""The web page over real TLS: nothing without a login, nothing changed without role, token, origin and name."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from common.errors import FederationError, StateError
from common.journal import JsonLines
from server.dashboard import COOKIE, Dashboard
from server.observing import page_context
from server.opening import JOURNAL_FILE
from server.provisioning import init_authority
from server.queue import StudyQueue
from server.sessions import ATTEMPTS
from server.tls_server import TlsServer
from server.users import Users
from server.watch import Watch
from tests.server.finished_study import study_text, write_run

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    init_authority(home, addresses=["127.0.0.1"])
    users = Users(home)
    users.add("vera", PASSWORD, "viewer")
    users.add("otto", PASSWORD, "operator")
    StudyQueue(home).create()
    (home / "queue" / "next.toml").write_text(study_text(folds=3))
    (home / "queue" / "bad.toml").write_text("title = 3\n")
    return home


@pytest.fixture
def watch(home: Path, tmp_path: Path) -> Watch:
    excluded = {"east": {"roi_empty": 2}, "west": {"file_missing": 1}}
    write_run(tmp_path / "run", study_text(), exclusions=excluded, refused={"north": "small_cell"}, finished=False)
    watch = Watch(lambda: ("east", "west"), StudyQueue(home, approval=True))
    watch.follow(tmp_path / "run")
    return watch


@pytest.fixture
def url(home: Path, watch: Watch) -> Iterator[str]:
    context = page_context(home / "keys" / "server.pem", home / "keys" / "server.key")
    server = TlsServer(Dashboard(watch, Users(home)), address="127.0.0.1:0", context=context)
    server.start()
    try:
        yield f"https://127.0.0.1:{server.port}"
    finally:
        server.stop()


@pytest.fixture
def client(home: Path, url: str) -> Iterator[httpx.Client]:
    trusted = ssl.create_default_context(cafile=str(home / "authority" / "ca.pem"))
    with httpx.Client(base_url=url, verify=trusted, headers={"origin": url}) as client:
        yield client


def log_in(client: httpx.Client, name: str, password: str = PASSWORD) -> httpx.Response:
    return client.post("/login", data={"name": name, "password": password})


def token(client: httpx.Client) -> str:
    page = client.get("/").text
    return page.split('name="csrf" content="')[1].split('"')[0]


def order(watch: Watch, action: str = "pause", confirm: str = "example") -> dict[str, str]:
    assert watch.run is not None
    return {"action": action, "digest": watch.run.digest, "confirm": confirm}


def wish(watch: Watch) -> str:
    assert watch.run is not None
    return watch.run.order().wish


def test_nothing_is_shown_without_a_login(client: httpx.Client) -> None:
    assert client.get("/").headers["location"] == "/login"
    assert client.get("/api/state").status_code == 401
    assert client.post("/api/control", json={}).status_code == 401
    assert client.get("/static/../users.json").status_code == 404
    assert client.get("/static/report.css").status_code == 404


def test_every_answer_binds_the_browser(client: httpx.Client) -> None:
    for path in ("/login", "/static/dashboard.js", "/nothing", "/api/state"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_the_cookie_cannot_be_read_or_sent_elsewhere(client: httpx.Client) -> None:
    cookie = log_in(client, "vera").headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}


def test_a_login_from_another_page_is_refused(client: httpx.Client) -> None:
    answer = client.post(
        "/login", data={"name": "vera", "password": PASSWORD}, headers={"origin": "https://example.org"}
    )
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)


def test_guessing_is_slowed_down_and_an_unknown_name_looks_like_a_wrong_password(client: httpx.Client) -> None:
    answers = {log_in(client, name, "a wrong password").text for name in ("vera", "nobody")}
    assert len(answers) == 1
    for _ in range(ATTEMPTS - 2):
        assert log_in(client, "vera", "a wrong password").status_code == 401
    refused = log_in(client, "vera")
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= 60


def test_the_state_is_all_that_the_journal_and_the_checkpoints_say(client: httpx.Client) -> None:
    log_in(client, "vera")
    state = client.get("/api/state").json()
    assert state["study"]["name"] == "example"
    assert (state["study"]["state"], state["study"]["phase"]) == ("running", "finish")
    sites = {site["name"]: site for site in state["sites"]}
    assert [sites[name]["online"] for name in ("east", "north", "west")] == [True, False, True]
    assert sites["north"]["refusals"] == {"small_cell": 1}
    assert sites["north"]["silent"] == "train radiomics"
    assert sites["east"]["bytes_down"] == 300 + 100 + 900 + 3 * 1500 + 1600 + 99
    assert {(e["site"], e["code"], e["n"]) for e in state["exclusions"]} == {
        ("east", "roi_empty", 2),
        ("west", "file_missing", 1),
    }
    assert state["curves"] == [
        {"model": "radiomics", "course": "federated", "fold": 0, "rounds": 3, "points": [[3, 0.2]]}
    ]
    assert [(entry["name"], entry["fault"] != "") for entry in state["queue"]] == [("bad", True), ("example", False)]


def test_a_viewer_changes_nothing(client: httpx.Client, watch: Watch) -> None:
    log_in(client, "vera")
    headers = {"x-csrf-token": token(client)}
    for path in ("/api/control", "/api/approve"):
        assert client.post(path, json=order(watch), headers=headers).status_code == 403
    assert wish(watch) == "run"


def test_an_operator_needs_token_origin_study_and_its_name(client: httpx.Client, watch: Watch) -> None:
    log_in(client, "otto")
    good = {"x-csrf-token": token(client)}
    assert client.post("/api/control", json=order(watch)).status_code == 403
    elsewhere = good | {"origin": "https://example.org"}
    assert client.post("/api/control", json=order(watch), headers=elsewhere).status_code == 403
    assert client.post("/api/control", json=order(watch, confirm="exampl"), headers=good).status_code == 400
    assert client.post("/api/control", json=order(watch) | {"digest": "0" * 64}, headers=good).status_code == 409
    assert client.post("/api/control", json=order(watch, "sing"), headers=good).status_code == 409
    assert client.post("/api/control", content=b"x" * 10_000, headers=good).status_code == 400
    assert wish(watch) == "run"
    assert client.post("/api/control", json=order(watch), headers=good).status_code == 200
    assert wish(watch) == "pause"
    assert client.post("/api/control", json=order(watch, "abort"), headers=good).status_code == 200
    assert client.post("/api/control", json=order(watch, "resume"), headers=good).status_code == 409
    assert watch.run is not None
    noted = [line for line in JsonLines(watch.run.folder / JOURNAL_FILE).read() if line["event"] == "control"]
    assert [(line["wish"], line["by"]) for line in noted] == [("pause", "otto"), ("abort", "otto")]


def test_an_operator_approves_what_is_in_the_queue(client: httpx.Client, home: Path) -> None:
    log_in(client, "otto")
    headers = {"x-csrf-token": token(client)}
    queue = StudyQueue(home, approval=True)
    (entry,) = [entry for entry in queue.entries() if not entry.fault]
    wrong = {"digest": entry.digest, "confirm": "another"}
    assert client.post("/api/approve", json=wrong, headers=headers).status_code == 400
    assert client.post("/api/approve", json=wrong | {"digest": ""}, headers=headers).status_code == 409
    assert client.post("/api/approve", json=wrong | {"confirm": "example"}, headers=headers).status_code == 200
    assert entry.digest in {due.digest for due in queue.due() if due.approved_by == "otto"}


def test_a_removed_user_is_out_at_the_next_request(client: httpx.Client, home: Path) -> None:
    Users(home).add("guest", PASSWORD, "viewer")
    log_in(client, "guest")
    assert client.get("/api/state").status_code == 200
    Users(home).remove("guest")
    assert client.get("/api/state").status_code == 401


def test_logging_out_ends_the_session(client: httpx.Client) -> None:
    log_in(client, "vera")
    cookie = client.cookies[COOKIE]
    client.post("/logout")
    assert client.get("/api/state", headers={"cookie": f"{COOKIE}={cookie}"}).status_code == 401


def test_a_certificate_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot be used"):
        page_context(tmp_path / "none.pem", tmp_path / "none.key")


def test_the_hospitals_port_is_not_the_pages(home: Path, watch: Watch) -> None:
    context = page_context(home / "keys" / "server.pem", home / "keys" / "server.key")
    first = TlsServer(Dashboard(watch, Users(home)), address="127.0.0.1:0", context=context)
    first.start()
    second = TlsServer(Dashboard(watch, Users(home)), address=f"127.0.0.1:{first.port}", context=context)
    try:
        with pytest.raises(FederationError, match="cannot listen"):
            second.start()
    finally:
        first.stop()
