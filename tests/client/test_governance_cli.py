"""The commands by which a hospital approves, stops, and looks at what left: as its people type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from client.audit_log import AuditFiles, AuditLog
from client.site import Site
from client.site_file import load_site
from client.site_key import SiteKey
from common.config.loading import digest
from common.errors import ConfigError, StateError
from common.messages import Finish, Hello, PrivacyEvent, Refusal, Welcome
from common.version import versions
from tests.client.cases import STUDY, row, study, write_case, write_manifest
from tests.commands import Result, fedrad

KEY = digest(study())
SITE = """
site = "north"
manifest = "cases.csv"
data = "images"
state = "state"
minimum_cases = 7
studies = ["study.toml"]

[gate.updates]
clip_norm = 1.0
[coordinator]
address = "localhost:9"
ca = "keys/ca.pem"
node_key = "keys/node.key"
certificate = "keys/node.pem"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A hospital's folder after it joined."""
    for number in range(2):
        write_case(tmp_path / "images", f"P{number}")
    write_manifest(tmp_path / "cases.csv", [row(f"P{number}", malignant=str(number)) for number in range(2)])
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "site.toml").write_text(SITE)
    assert fedrad("site", "init", tmp_path / "keys", "--site", "north").exit_code == 0
    return tmp_path


def said(result: Result) -> str:
    return " ".join(result.output.split())


def site_command(home: Path, *arguments: str | Path, answer: str = "") -> Result:
    return fedrad("site", *arguments, "--site", home / "site.toml", answer=answer)


def approved(home: Path) -> Result:
    done = site_command(home, "approve", home / "study.toml", "--yes")
    assert done.exit_code == 0, done.output
    return done


def asked(home: Path) -> str:
    """What the coordinator gets: an empty text where it is answered, else the code."""
    reply = Site(*load_site(home / "site.toml")).answer(Hello(KEY, versions()))
    return reply.code if isinstance(reply, Refusal) else ""


def test_approving_says_in_plain_words_what_is_asked_and_what_leaves(home: Path):
    text = said(approved(home))
    for part in (
        "Hospitals: north (trains), south (trains), west (tests only). This one is north.",
        f"SHA-256 of exactly this study: {KEY}",
        "Images with their outlines: ct (CT). No image and no outline leaves.",
        "Columns of the case list: age, malignant, sex. No row leaves, and no case's id.",
        "no program code is accepted",
        "Model radiomics: trained here for 2 rounds of 1 pass over the training cases, once.",
        "The change of the model's parameters, one training loss, the number of cases.",
        "Nothing leaves that was computed from fewer than 7 cases.",
        "Model updates carry no noise of this hospital",
        "Statistics and test results are exact sums",
        "the study may be run 3 times with other numbers",
        "Model updates pass this hospital's filters before they leave: clip norm.",
        f"approved: lung {KEY}",
    ):
        assert part in text


def test_promises_of_differential_privacy_are_told_with_their_numbers(home: Path):
    promise = "minimum_cases = 2, sample_level = { target_epsilon = 8, target_delta = 1e-3 }"
    (home / "study.toml").write_text(STUDY.replace("minimum_cases = 2", promise))
    text = said(approved(home))
    assert "noise that is added here: epsilon 8, delta 0.001, over the whole study" in text
    assert "carry no noise" not in text
    assert "Statistics and test results are exact sums" in text


def test_site_level_privacy_is_told_with_whom_it_holds_against(home: Path):
    promise = "minimum_cases = 2, site_level = { clipping_norm = 1, target_epsilon = 8, target_delta = 1e-3 }"
    uniform = 'federated = { strategy = { kind = "fedavg", weighting = "uniform" } }'
    (home / "study.toml").write_text(
        STUDY.replace("privacy = { minimum_cases = 2 }", f"privacy = {{ {promise} }}\n{uniform}")
    )
    text = said(approved(home))
    assert "not from the coordinator itself: epsilon 8, delta 0.001, over all rounds" in text
    assert "carry no noise of this hospital" in text


def test_only_what_was_approved_is_answered(home: Path):
    assert asked(home) == "study_not_approved"
    assert site_command(home, "approve", home / "study.toml", answer="n\n").exit_code != 0
    assert asked(home) == "study_not_approved"
    assert site_command(home, "approve", home / "study.toml", answer="y\n").exit_code == 0
    assert asked(home) == ""
    (home / "study.toml").write_text(STUDY.replace("seed = 3", "seed = 4"))
    assert asked(home) == "study_not_approved"


def test_approvals_are_listed_and_revoked(home: Path):
    assert KEY not in fedrad("site", "approvals", home / "site.toml").output
    approved(home)
    assert KEY in fedrad("site", "approvals", home / "site.toml").output
    unknown = site_command(home, "revoke-approval", "brain", "--reason", "none")
    assert isinstance(unknown.exception, StateError)
    assert "no approved study brain; approved: lung" in str(unknown.exception)
    assert site_command(home, "revoke-approval", KEY[:8], "--reason", "ethics").exit_code == 0
    assert asked(home) == "study_not_approved"
    assert KEY not in fedrad("site", "approvals", home / "site.toml").output
    approved(home)
    assert asked(home) == ""


def test_a_study_of_other_hospitals_cannot_be_approved(home: Path):
    (home / "site.toml").write_text(SITE.replace("north", "mars"))
    done = site_command(home, "approve", home / "study.toml", "--yes")
    assert isinstance(done.exception, ConfigError)
    assert "has no hospital mars" in str(done.exception)


def test_a_study_that_is_not_listed_is_said_to_be_so(home: Path):
    (home / "other.toml").write_text(STUDY.replace("seed = 3", "seed = 4"))
    told = said(site_command(home, "approve", home / "other.toml", "--yes"))
    assert "start the site again: only listed studies are answered" in told


def test_stop_and_resume(home: Path):
    approved(home)
    assert site_command(home, "stop", "--reason", "new ethics vote").exit_code == 0
    assert asked(home) == "site_stopped"
    assert "new ethics vote" in (home / "state" / "log.jsonl").read_text()
    assert "answers again" in site_command(home, "resume").output
    assert asked(home) == ""
    assert "had not stopped" in site_command(home, "resume").output
    events = [json.loads(line)["event"] for line in (home / "state" / "audit.jsonl").read_text().splitlines()]
    assert [event for event in events if event in ("stopped", "resumed")] == ["stopped", "resumed", "resumed"]


def test_a_damaged_log_keeps_nobody_from_stopping(home: Path):
    approved(home)
    site = Site(*load_site(home / "site.toml"))
    (home / "state" / "audit.jsonl").write_text("garbage\n")
    assert isinstance(site_command(home, "stop", "--reason", "look at this").exception, StateError)
    assert (home / "state" / "STOPPED").read_text() == "look at this\n"
    assert isinstance(site.answer(Hello(KEY, versions())), Refusal)


def test_the_ledger_shows_what_left(home: Path):
    approved(home)
    site = Site(*load_site(home / "site.toml"))
    assert isinstance(site.answer(Hello(KEY, versions())), Welcome)
    site.answer(Hello(KEY, {}))
    site.answer(Hello("0" * 64, versions()))
    site.answer(Finish(KEY, "completed"))
    site.gate.reserve(KEY, [PrivacyEvent("gaussian", 2.0, 1.0, 10)])
    text = fedrad("site", "ledger", home / "site.toml").output
    for part in (
        "lung",
        "Welcome",
        "Done",
        "version_",
        f"differential privacy: study {KEY[:12]} epsilon",
        "without a",
    ):
        assert part in text
    assert site.gate.log.head.sha256 in text.replace("\n", "")


def audit(home: Path, *options: str) -> Result:
    return fedrad("site", "audit", home / "site.toml", *options)


def test_a_whole_log_verifies_and_prints_its_head(home: Path):
    approved(home)
    done = audit(home, "--verify")
    assert done.exit_code == 0
    assert "2 entries; whole" in done.output
    head = done.output.rpartition("head to note down: ")[2].strip()
    asked(home)
    assert audit(home, "--noted", head).exit_code == 0
    assert "approved study=" in audit(home, "--list").output


def test_an_edited_log_does_not_verify(home: Path):
    approved(home)
    log = home / "state" / "audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"name":"lung"', b'"name":"lang"'))
    done = audit(home, "--verify")
    assert done.exit_code == 1
    assert "TAMPERED line 2: the signature is not that of the log's key" in done.output
    assert "NOT whole" in done.output
    assert fedrad("site", "ledger", home / "site.toml").exit_code == 1


def test_a_whole_folder_put_back_from_a_backup_is_found_by_a_head_that_was_noted(home: Path):
    approved(home)
    backup = {path: path.read_bytes() for path in (home / "state").glob("audit.*")}
    assert asked(home) == ""
    head = audit(home).output.rpartition("head to note down: ")[2].strip()
    for path, content in backup.items():
        path.write_bytes(content)
    assert audit(home).exit_code == 0  # by itself it is whole
    done = audit(home, "--noted", head)
    assert done.exit_code == 1
    assert "is not the line that was noted down: rolled back or replaced" in said(done)
    assert isinstance(audit(home, "--noted", "seven").exception, StateError)


def test_a_log_of_another_hospitals_key_does_not_verify(home: Path):
    """A forger makes a whole log with a key of their own: the hospital's key does not vouch for it."""
    forged = home / "forged"
    config = load_site(home / "site.toml")[0].model_copy(update={"coordinator": None, "state": forged})
    AuditLog(AuditFiles.of(forged), SiteKey.of(config)).append("left", durable=True)
    (home / "state").mkdir()
    for path in forged.glob("audit.*"):
        path.rename(home / "state" / path.name)
    done = audit(home)
    assert done.exit_code == 1
    assert "the hospital's key does not vouch for the key of this log" in said(done)


def test_a_crash_and_a_wrong_clock_are_named_and_are_no_tampering(home: Path):
    approved(home)
    with (home / "state" / "audit.jsonl").open("ab") as log:
        log.write(b'{"counter":3,"ti')
    done = audit(home)
    assert done.exit_code == 0
    assert "crash line 3: the last line was cut short" in said(done)
    assert asked(home) == ""
    assert "crash line 3: cut short by a crash, as line 4 notes" in said(audit(home))


def test_without_a_log_there_is_nothing_to_audit(home: Path):
    assert "there is no audit log yet" in str(audit(home).exception)


def test_a_log_that_was_tampered_with_is_put_aside_and_the_studies_are_approved_again(home: Path):
    approved(home)
    log = home / "state" / "audit.jsonl"
    log.write_bytes(log.read_bytes()[:-700])
    with pytest.raises(StateError, match="rolled back"):
        Site(*load_site(home / "site.toml"))
    done = audit(home, "--begin-anew", "disk was swapped")
    assert done.exit_code == 0, done.output
    (aside,) = (home / "state").glob("audit-until-*")
    assert {path.name for path in aside.iterdir()} == {"audit.jsonl", "audit.key", "audit.head"}
    assert asked(home) == "study_not_approved"
    approved(home)
    assert asked(home) == ""
    entry = json.loads(log.read_text().splitlines()[1])
    assert (entry["event"], entry["reason"]) == ("begun_anew", "disk was swapped")
    assert '"head": "2:' in entry["former_head"]
