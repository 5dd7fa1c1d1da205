"""Which studies: what nobody approved, or approved otherwise, is refused by name; only a code leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from client.approvals import approve, revoke
from client.identity import make_identity
from client.site_key import SiteKey
from common.config.loading import digest
from common.errors import Code
from common.messages import (
    Hello,
)
from common.version import versions
from tests.client.cases import STUDY, study
from tests.client.malicious.hospital import (
    AGREED,
    DIGEST,
    EVERY,
    Hospital,
    answered,
    refused,
    train,
)


def test_a_study_that_nobody_approved(hospital: Hospital):
    site = hospital.open()
    for request in EVERY:
        refused(site, request, Code.STUDY_NOT_APPROVED, "it has no approval")


def test_an_altered_study(hospital: Hospital):
    """One number of the agreed study changed: its digest is another one, which this hospital does not know."""
    altered = digest(study(STUDY, ("minimum_cases = 2", "minimum_cases = 1")))
    site = hospital.approved()
    for request in EVERY:
        refused(site, replace(request, study_digest=altered), Code.STUDY_NOT_APPROVED, "is not one of this hospital's")


def test_a_study_that_was_slipped_into_the_site_file(hospital: Hospital):
    """Whoever can write site.toml, but has no access to the hospital's key, gets nothing answered."""
    slipped = study(STUDY, ("seed = 3", "seed = 4"))
    hospital.studies = (AGREED, slipped)
    refused(hospital.approved(), Hello(digest(slipped), versions()), Code.STUDY_NOT_APPROVED, "it has no approval")


def test_an_approval_that_another_key_signed(hospital: Hospital, tmp_path: Path):
    make_identity(tmp_path / "stranger", site="north")
    other = hospital.config.model_copy(
        update={
            "coordinator": hospital.config.coordinator.model_copy(update={"node_key": tmp_path / "stranger/node.key"})
        }  # type: ignore[union-attr]  # it has one
    )
    site = hospital.open()
    approve(site.gate.log, AGREED, site="north", key=SiteKey.of(other))
    refused(site, train(), Code.STUDY_NOT_APPROVED, "another key signed its approval")


def test_an_approval_of_another_hospital(hospital: Hospital):
    refused(hospital.approved(site="south"), train(), Code.STUDY_NOT_APPROVED, "another key signed its approval")


def test_an_approval_that_is_revoked_while_the_study_runs(hospital: Hospital):
    site = hospital.approved()
    assert answered(site.answer(train()))
    revoke(hospital.open().gate.log, DIGEST, reason="ethics")  # another process
    for request in EVERY:
        refused(site, request, Code.STUDY_NOT_APPROVED, "its approval was revoked")


def test_a_study_without_differential_privacy_where_the_hospital_demands_it(hospital: Hospital):
    refused(
        hospital.approved(require_privacy=True), train(), Code.GATE, "not all that leaves is differentially private"
    )
