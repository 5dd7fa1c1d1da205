"""What a coordinator may not do with masked sums, as one hospital sees it; each refusal names its reason."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.codec import message_digest
from common.config.loading import digest
from common.config.secure_aggregation import ALL_SITES
from common.config.study import StudyConfig
from common.errors import Code, GateError
from common.masking_messages import AdvertiseKeys, ConsistencyCheck, KeysAdvertised, ShareKeys, Unmask
from common.messages import (
    AskStatistic,
    Evaluate,
    EvaluationSums,
    LocalUpdate,
    MaskedInput,
    Question,
    Refusal,
    Reply,
    Request,
    Train,
)
from simulations.in_process import InProcessFederation
from tests.common.privacy.hospitals import names
from tests.server.masked_members import PARAMETERS, Member, masked_study, train_request
from tests.server.test_secure_sum import Consortium, silent

THREE = names(3)


class Coordinator:
    """One session by hand, so that each step can be falsified."""

    def __init__(self, folder: Path, study: StudyConfig, question: Question) -> None:
        self.digest = digest(study)
        self.question = question
        self.members = {site.name: Member(site.name, study, folder) for site in study.sites}
        self.session = secrets.token_hex(16)
        self.begin = AdvertiseKeys(self.digest, self.session, message_digest(question), THREE)

    def keys(self) -> Coordinator:
        replies = [self.members[name].answer(self.begin) for name in THREE]
        self.roster = tuple(reply for reply in replies if isinstance(reply, KeysAdvertised))
        return self

    def shares(self) -> Coordinator:
        request = ShareKeys(self.digest, self.session, self.roster)
        self.shared = {name: self.members[name].answer(request) for name in THREE}
        return self

    def words(self) -> Coordinator:
        request = MaskedInput(self.digest, self.session, self.question, THREE)
        self.masked = {name: self.members[name].answer(request) for name in THREE}
        return self

    def check(self, name: str, included: tuple[str, ...] = THREE) -> Reply:
        sealed = {owner: self.shared[owner].sealed[name] for owner in THREE if owner != name}
        return self.members[name].answer(ConsistencyCheck(self.digest, self.session, included, sealed))


def coordinator(folder: Path, question: Question | None = None) -> Coordinator:
    study = masked_study(3)
    return Coordinator(folder, study, question or train_request(study))


def refused(member: Member, request: Request) -> str:
    """Why: the last sentence of the hospital's log."""
    reply = member.answer(request)
    assert isinstance(reply, Refusal)
    assert reply.code in (Code.PRIVACY, Code.GATE)
    return member.log[-1]


@pytest.mark.parametrize("cohort", [THREE[:2], (*THREE, "site-009"), THREE[::-1], ("outside-0",), ()])
def test_a_cohort_that_the_study_does_not_name_is_refused(tmp_path, cohort):
    """Who is summed with whom is the study's choice: no site is dropped, added or singled out."""
    made = coordinator(tmp_path)
    reason = refused(made.members[THREE[0]], replace(made.begin, cohort=cohort))
    assert reason.endswith("is none that the study names")


def test_keys_are_given_once_a_session_and_the_same_when_asked_again(tmp_path):
    made = coordinator(tmp_path)
    member = made.members[THREE[0]]
    first = member.answer(made.begin)
    assert member.answer(made.begin) is first
    assert "AdvertiseKeys was asked twice in one session" in refused(member, replace(made.begin, asked="other"))
    assert refused(member, made.begin) == f"session {made.session[:8]} is over, and begins once"


def test_a_question_other_than_the_signed_one_is_refused_and_not_computed(tmp_path):
    """The coordinator lies about the round: what the sites signed was round 1."""
    made = coordinator(tmp_path).keys().shares()
    member = made.members[THREE[0]]
    other = replace(made.question, round_number=2)
    reason = refused(member, MaskedInput(made.digest, made.session, other, THREE))
    assert reason == "this is not the question that all sites of the session signed for"
    assert member.computed == 0


def test_one_site_told_of_another_question_ends_the_session_of_all(tmp_path):
    made = coordinator(tmp_path)
    crafted = train_request(made.members[THREE[0]].study, value=1.0)
    told = [replace(made.begin, asked=message_digest(crafted)), made.begin, made.begin]
    made.roster = tuple(made.members[name].answer(request) for name, request in zip(THREE, told, strict=True))
    for name, other in ((THREE[0], THREE[1]), (THREE[1], THREE[0])):
        reason = refused(made.members[name], ShareKeys(made.digest, made.session, made.roster))
        assert reason == f"the keys of {other} are not signed by it for this session and question"


def test_asking_for_words_twice_with_another_content_ends_the_session(tmp_path):
    made = coordinator(tmp_path).keys().shares().words()
    member = made.members[THREE[0]]
    assert "MaskedInput was asked twice" in refused(
        member, MaskedInput(made.digest, made.session, made.question, THREE[:2])
    )
    assert "is not under way here" in refused(member, Unmask(made.digest, made.session, {}))


def test_a_second_set_in_one_session_is_refused(tmp_path):
    made = coordinator(tmp_path).keys().shares().words()
    made.check(THREE[0])
    assert isinstance(made.check(THREE[0], THREE[:2]), Refusal)
    assert "ConsistencyCheck was asked twice in one session" in made.members[THREE[0]].log[-1]


def test_shares_without_everybodys_signature_are_refused(tmp_path):
    made = coordinator(tmp_path).keys().shares().words()
    signed = {name: made.check(name).signature for name in THREE[:2]}
    reason = refused(made.members[THREE[0]], Unmask(made.digest, made.session, signed))
    assert reason.startswith("2 sites signed that the sum is over the same 3 sites, 3 are needed")


def test_steps_of_an_unknown_session_or_of_another_study_are_refused(tmp_path):
    made = coordinator(tmp_path).keys()
    member = made.members[THREE[0]]
    assert "is not under way here" in refused(member, ShareKeys(made.digest, "f" * 32, made.roster))
    assert "the session is of another study" in refused(member, ShareKeys("another", made.session, made.roster))


def test_a_question_of_another_study_within_a_session_is_refused(tmp_path):
    study = masked_study(3)
    made = Coordinator(tmp_path, study, replace(train_request(study), study_digest="another")).keys().shares()
    reason = refused(made.members[THREE[0]], MaskedInput(made.digest, made.session, made.question, THREE))
    assert reason == "this is not the question that all sites of the session signed for"


def test_external_sites_are_not_asked_to_train(tmp_path):
    study = masked_study(3, external=3)
    outside = tuple(f"outside-{i}" for i in range(3))
    made = Coordinator(tmp_path, study, train_request(study))
    made.begin = replace(made.begin, cohort=outside)
    roster = tuple(made.members[name].answer(made.begin) for name in outside)
    member = made.members[outside[0]]
    member.answer(ShareKeys(made.digest, made.session, roster))
    reason = refused(member, MaskedInput(made.digest, made.session, made.question, outside))
    assert reason == "Train is a question to the sites that train"


def test_a_statistic_without_one_site_is_not_unmasked(tmp_path):
    """With and without one site: the difference would be that site's own statistic."""
    study = masked_study(10)
    asked = AskStatistic(digest(study), 0, "moments", {})
    by_hand = Coordinator(tmp_path / "b", study, asked)
    by_hand.begin = replace(by_hand.begin, cohort=names(10))
    ten = names(10)
    roster = tuple(by_hand.members[name].answer(by_hand.begin) for name in ten)
    share = ShareKeys(by_hand.digest, by_hand.session, roster)
    shared = {name: by_hand.members[name].answer(share) for name in ten}
    words = MaskedInput(by_hand.digest, by_hand.session, asked, ten)
    assert not any(isinstance(by_hand.members[name].answer(words), Refusal) for name in ten)
    sealed = {owner: shared[owner].sealed[ten[0]] for owner in ten[1:]}
    check = ConsistencyCheck(by_hand.digest, by_hand.session, ten[:9], sealed)
    assert refused(by_hand.members[ten[0]], check) == "a statistic is summed over all sites or none; it lacks site-009"


def rerun(made: Consortium, question: Question, expected: type, gone: tuple[str, ...] = ()) -> dict[str, Reply]:
    disturb = silent("MaskedInput", gone) if gone else None
    made.conversation.federation = InProcessFederation(made.members, disturb=disturb)
    return made.hear(question, expected)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_round_is_not_summed_again_over_other_sites(tmp_path, restarted):
    """All, then all but one: refused also after a restart, because it is on the disk."""
    made = Consortium(tmp_path, masked_study(10, quorum=7))
    question = train_request(made.study)
    assert ALL_SITES in rerun(made, question, LocalUpdate)
    if restarted:
        for member in made.members.values():
            member.restart()
    heard = rerun(made, question, LocalUpdate, gone=names(10)[4:5])
    assert not any(isinstance(reply, LocalUpdate) for reply in heard.values())
    assert "round 1 of radiomics in fold 0 was summed before over site-000," in made.members["site-000"].log[-1]
    assert isinstance(rerun(made, question, LocalUpdate)[ALL_SITES], LocalUpdate)  # the same sum again tells nothing


def test_a_round_is_not_summed_again_with_other_parameters(tmp_path):
    made = Consortium(tmp_path, masked_study(10, quorum=7))
    assert ALL_SITES in rerun(made, train_request(made.study), LocalUpdate)
    crafted = train_request(made.study, value=1e-6)
    assert not any(isinstance(reply, LocalUpdate) for reply in rerun(made, crafted, LocalUpdate).values())
    assert "was asked before with other parameters; a round is summed once" in made.members["site-000"].log[-1]
    assert made.members["site-000"].computed == 1
    assert isinstance(rerun(made, train_request(made.study, 2), LocalUpdate)[ALL_SITES], LocalUpdate)


def test_a_model_is_not_evaluated_over_two_sets_of_sites(tmp_path):
    made = Consortium(tmp_path, masked_study(10))
    question = Evaluate(digest(made.study), 0, "radiomics", "test", PARAMETERS)
    assert isinstance(rerun(made, question, EvaluationSums)[ALL_SITES], EvaluationSums)
    crafted = replace(question, parameters=PARAMETERS.unflatten(np.full(PARAMETERS.size, 1e-6)))
    heard = rerun(made, crafted, EvaluationSums, gone=names(10)[2:3])
    assert not any(isinstance(reply, EvaluationSums) for reply in heard.values())
    assert "evaluation of radiomics on test cases of fold 0 was summed before" in made.members["site-000"].log[-1]


def test_a_hospital_may_demand_more_sites_than_the_study(tmp_path):
    study = masked_study(10)
    strict = Member(names(10)[0], study, tmp_path, minimum_sites=8)
    with pytest.raises(GateError, match="the study adds up 7 of 10 sites, this hospital demands 8"):
        strict.sums.require_possible(study)
    begin = AdvertiseKeys(digest(study), "a" * 32, "q", names(10))
    assert "this hospital demands 8" in refused(strict, begin)
    Member(names(10)[0], study, tmp_path, minimum_sites=7).sums.require_possible(study)


def test_a_study_without_masks_has_no_sessions(tmp_path):
    study = masked_study(3)
    bare = study.model_copy(update={"privacy": study.privacy.model_copy(update={"secure_aggregation": None})})
    member = Member(THREE[0], bare, tmp_path)
    begin = AdvertiseKeys(digest(bare), "a" * 32, "q", THREE)
    assert refused(member, begin) == "this study does not add up its answers under masks"


def test_closing_gives_up_the_session(tmp_path):
    made = coordinator(tmp_path).keys()
    member = made.members[THREE[0]]
    site = member.sums._session.site
    member.sums.close()
    assert not any(site._seed)
    assert "is not under way here" in refused(member, ShareKeys(made.digest, made.session, made.roster))


def test_a_failure_while_computing_gives_up_the_session(tmp_path):
    made = coordinator(tmp_path).keys().shares()
    member = made.members[THREE[0]]

    def fail(name: str, question: Train) -> LocalUpdate:
        raise GateError("too few cases", code=Code.SMALL_CELL)

    member.compute = fail
    reply = member.answer(MaskedInput(made.digest, made.session, made.question, THREE))
    assert isinstance(reply, Refusal)
    assert reply.code == Code.SMALL_CELL
    assert member.sums._session is None
