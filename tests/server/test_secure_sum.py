"""The study hears sums: exact, whoever drops out within the threshold; and says who is missing where they are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.exchange import Exchange
from common.arrays import Parameters, merge_sums, moved, weighted_mean
from common.compression import StochasticInt8
from common.config.loading import digest
from common.config.secure_aggregation import ALL_EXTERNAL, ALL_SITES
from common.config.study import StudyConfig
from common.errors import Code, FederationError, GateError
from common.journal import JsonLines
from common.masking_messages import MaskedValues, SharesSealed, Unmasked
from common.messages import (
    AskStatistic,
    Difference,
    Evaluate,
    EvaluationSums,
    LocalUpdate,
    MaskedInput,
    Question,
    Refusal,
    Reply,
    Request,
    StatisticSums,
    Train,
)
from common.privacy.clipping import clip_parameters
from common.privacy.contribution import Summable
from common.rng import generator
from server.conversation import ATTEMPTS, Refused
from server.secure_sum import SecureConversation
from simulations.in_process import InProcessFederation
from tests.common.privacy.hospitals import names
from tests.server.masked_members import PARAMETERS, Member, answer_of, masked_study, train_request

TEN = names(10)
STEPS = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")
Disturb = Callable[[str, Request], Reply | None]


class Consortium:
    """Members and the conversation with them."""

    def __init__(
        self,
        folder: Path,
        study: StudyConfig,
        *,
        disturb: Disturb | None = None,
        compute: Callable[[str, Question], Summable] | None = None,
    ) -> None:
        self.study = study
        self.members = {site.name: Member(site.name, study, folder, compute=compute) for site in study.sites}
        self.journal = JsonLines(folder / "events.jsonl")
        federation = InProcessFederation(self.members, disturb=disturb)
        self.conversation = SecureConversation(federation, self.journal, digest(study), study)

    def hear(self, question: Question, expected: type, sites: tuple[str, ...] = TEN) -> dict[str, Reply | Refused]:
        return dict(
            self.conversation.insist(dict.fromkeys(sites, question), expected, deadline_s=9.0, phase="test", course="c")
        )

    def notes(self) -> str:
        return "\n".join(line["text"] for line in self.journal.read() if line["event"] == "note")


def silent(kind: str, sites: tuple[str, ...], *, times: int = 10**6) -> Disturb:
    """Sites that do not answer one kind of request, the first so many times each."""
    left = dict.fromkeys(sites, times)

    def disturb(site: str, request: Request) -> Reply | None:
        if type(request).__name__ != kind or not left.get(site):
            return None
        left[site] -= 1
        return Refusal(Code.SITE_SILENT)

    return disturb


def ask_statistic(study: StudyConfig) -> AskStatistic:
    return AskStatistic(digest(study), 0, "moments", {})


def exact_update(included: tuple[str, ...], question: Train) -> tuple[int, Parameters]:
    sent = [answer_of(name, question) for name in included]
    return sum(u.n_cases for u in sent), weighted_mean([(u.delta, float(u.n_cases)) for u in sent])


def test_an_update_of_all_sites_is_their_weighted_mean(tmp_path):
    made = Consortium(tmp_path, masked_study(10))
    question = train_request(made.study)
    heard = made.hear(question, LocalUpdate)
    assert list(heard) == [ALL_SITES]
    n_cases, mean = exact_update(TEN, question)
    assert heard[ALL_SITES].n_cases == n_cases
    np.testing.assert_allclose(heard[ALL_SITES].delta.flatten(), mean.flatten(), atol=1e-6)


def test_a_statistic_is_the_merged_one(tmp_path):
    made = Consortium(tmp_path, masked_study(10))
    question = ask_statistic(made.study)
    reply = made.hear(question, StatisticSums)[ALL_SITES]
    for name, array in merge_sums([answer_of(site, question).sums for site in TEN]).items():
        np.testing.assert_allclose(reply.sums[name], array, rtol=1e-12)


@pytest.mark.parametrize("step", STEPS)
def test_a_round_survives_three_of_ten_in_any_step(tmp_path, step):
    gone = TEN[1:4]
    made = Consortium(tmp_path, masked_study(10, quorum=7), disturb=silent(step, gone))
    question = train_request(made.study)
    heard = made.hear(question, LocalUpdate)
    left_out = gone if step in STEPS[:3] else ()
    assert set(heard) == {ALL_SITES, *left_out}
    n_cases, mean = exact_update(tuple(name for name in TEN if name not in left_out), question)
    assert heard[ALL_SITES].n_cases == n_cases
    np.testing.assert_allclose(heard[ALL_SITES].delta.flatten(), mean.flatten(), atol=1e-6)
    assert all(heard[name].code == Code.SITE_SILENT for name in left_out)
    (line,) = [line for line in made.journal.read() if line["event"] == "summed"]
    assert (line["sum"], line["request"]) == (ALL_SITES, "Train")
    assert line["sites"].split(",") == [name for name in TEN if name not in left_out]


@pytest.mark.parametrize("step", STEPS)
def test_four_of_ten_are_too_many_and_are_named(tmp_path, step):
    gone = TEN[:4]
    made = Consortium(tmp_path, masked_study(10, quorum=5), disturb=silent(step, gone))
    heard = made.hear(train_request(made.study), LocalUpdate)
    assert all(isinstance(reply, Refused) for reply in heard.values())
    assert "6 sites" in made.notes() or "6 shares" in made.notes() or "the mask of" in made.notes()


def noise_like(array: Any) -> Any:
    return np.random.default_rng(0).integers(0, 256, array.shape).astype(np.uint8)


@pytest.mark.parametrize(
    ("step", "spoil", "noted"),
    [
        ("ShareKeys", lambda r: {"sealed": {k: noise_like(v) for k, v in r.sealed.items()}}, "what site-003 sealed"),
        ("ShareKeys", lambda r: {"sealed": {k: v[:-1] for k, v in r.sealed.items()}}, "site-003 shared its secrets"),
        ("ConsistencyCheck", lambda r: {"signature": np.zeros((2, 2))}, ""),
        ("ConsistencyCheck", lambda r: {"signature": noise_like(r.signature)}, ""),
    ],
    ids=["sealed nonsense", "sealed too little", "a signature of two dimensions", "no signature"],
)
def test_a_site_that_sends_nonsense_does_not_spoil_the_sum_of_the_others(tmp_path, step, spoil, noted):
    """It is left out by name, at once or in the next session; a signature that is none counts as none."""
    bad = TEN[3]
    made = Consortium(tmp_path, masked_study(10, quorum=7))

    def disturb(site: str, request: Request) -> Reply | None:
        if site != bad or type(request).__name__ != step:
            return None
        reply = made.members[site].answer(request)
        return reply if isinstance(reply, Refusal) else replace(reply, **spoil(reply))  # type: ignore[type-var]

    made.conversation.federation = InProcessFederation(made.members, disturb=disturb)
    question = train_request(made.study)
    heard = made.hear(question, LocalUpdate)
    assert set(heard) == ({ALL_SITES, bad} if noted else {ALL_SITES})
    included = tuple(name for name in TEN if not noted or name != bad)
    assert heard[ALL_SITES].n_cases == exact_update(included, question)[0]
    assert noted in made.notes()


def test_a_round_below_its_quorum_is_never_unmasked(tmp_path):
    made = Consortium(tmp_path, masked_study(10), disturb=silent("MaskedInput", TEN[:1]))
    heard = made.hear(train_request(made.study), LocalUpdate)
    assert set(heard) == {TEN[0]}
    assert "9 sites sent masked words, 10 are needed; without site-000" in made.notes()
    asked = [line["request"] for line in made.journal.read() if line["event"] == "answer"]
    assert "Unmask" not in asked
    assert asked.count("MaskedInput") == ATTEMPTS * (9 + ATTEMPTS)


def test_a_statistic_needs_every_site_and_is_asked_again(tmp_path):
    """A site that is silent for a while is waited for; one that stays silent stops the statistic, by name."""
    made = Consortium(tmp_path / "a", masked_study(10), disturb=silent("MaskedInput", TEN[2:3], times=ATTEMPTS))
    assert isinstance(made.hear(ask_statistic(made.study), StatisticSums)[ALL_SITES], StatisticSums)
    assert "sum 1 of all-sites: 9 sites sent masked words, 10 are needed; without site-002" in made.notes()
    gone = Consortium(tmp_path / "b", masked_study(10), disturb=silent("ShareKeys", TEN[2:3]))
    with pytest.raises(FederationError, match="site site-002 refused ShareKeys: site_silent"):
        gone.conversation.all_of(
            dict.fromkeys(TEN, ask_statistic(gone.study)), StatisticSums, deadline_s=9.0, phase="statistics"
        )


def test_a_lost_reply_is_sent_again_and_nothing_is_computed_twice(tmp_path):
    """The site answered, the answer was lost: the same request gets the same octets."""
    lost: set[str] = set()
    made = Consortium(tmp_path, masked_study(3))
    members = made.members

    def lose_first(site: str, request: Request) -> Reply | None:
        step = f"{site} {type(request).__name__}"
        if step in lost:
            return None
        lost.add(step)
        members[site].answer(request)
        return Refusal(Code.SITE_SILENT)

    made.conversation.federation = InProcessFederation(members, disturb=lose_first)
    assert isinstance(made.hear(train_request(made.study), LocalUpdate, names(3))[ALL_SITES], LocalUpdate)
    assert {member.computed for member in members.values()} == {1}
    assert len(lost) == 3 * len(STEPS)


def test_a_site_that_restarts_within_a_session_is_a_dropout(tmp_path):
    made = Consortium(tmp_path, masked_study(10, quorum=7))
    restarted: list[str] = []

    def restart(site: str, request: Request) -> Reply | None:
        if site == TEN[4] and type(request).__name__ == "MaskedInput" and not restarted:
            made.members[site].restart()
            restarted.append(site)
        return None

    made.conversation.federation = InProcessFederation(made.members, disturb=restart)
    heard = made.hear(train_request(made.study), LocalUpdate)
    assert set(heard) == {ALL_SITES, TEN[4]}
    assert heard[TEN[4]].code == Code.PRIVACY
    assert "is not under way here: it is over, or this site was restarted" in made.members[TEN[4]].log[0]


def test_a_small_cell_refusal_is_told_as_such_and_not_asked_again(tmp_path):
    def compute(name: str, question: Question) -> Summable:
        if name == TEN[5]:
            raise GateError("too few", code=Code.SMALL_CELL)
        return answer_of(name, question)

    made = Consortium(tmp_path, masked_study(10), compute=compute)
    heard = made.hear(ask_statistic(made.study), StatisticSums)
    assert {name: reply.code for name, reply in heard.items()} == {TEN[5]: Code.SMALL_CELL}
    assert sum(line["request"] == "MaskedInput" for line in made.journal.read() if line["event"] == "answer") == 10


def test_evaluation_is_summed_over_internal_and_over_external_sites(tmp_path):
    made = Consortium(tmp_path, masked_study(3, external=3))
    question = Evaluate(digest(made.study), 0, "radiomics", "test", PARAMETERS)
    outside = tuple(f"outside-{i}" for i in range(3))
    heard = made.hear(question, EvaluationSums, (*names(3), *outside))
    assert set(heard) == {ALL_SITES, ALL_EXTERNAL}
    for name, sites in ((ALL_SITES, names(3)), (ALL_EXTERNAL, outside)):
        assert heard[name].n_cases == sum(answer_of(site, question).n_cases for site in sites)


def test_a_part_of_a_cohort_or_different_questions_are_not_summed(tmp_path):
    made = Consortium(tmp_path, masked_study(3))
    question = train_request(made.study)
    with pytest.raises(FederationError, match="site-002 would be left out or added"):
        made.hear(question, LocalUpdate, names(2))
    requests = {name: train_request(made.study, value=float(i)) for i, name in enumerate(names(3))}
    with pytest.raises(FederationError, match="different questions, whose answers do not add up"):
        list(made.conversation.insist(requests, LocalUpdate, deadline_s=9.0, phase="test"))


# sites that do not keep to the protocol


def changed(kind: type, site_name: str, change: Callable[[Reply], Reply]) -> Callable[[Mapping[str, Member]], Disturb]:
    """The reply of one site to one step, changed on its way."""

    def disturbing(members: Mapping[str, Member]) -> Disturb:
        def disturb(site: str, request: Request) -> Reply | None:
            if site != site_name:
                return None
            reply = members[site].answer(request)
            return change(reply) if isinstance(reply, kind) else reply

        return disturb

    return disturbing


def cheated(folder: Path, kind: type, change: Callable[[Reply], Reply]) -> Consortium:
    made = Consortium(folder, masked_study(10, quorum=7))
    made.conversation.federation = InProcessFederation(
        made.members, disturb=changed(kind, TEN[3], change)(made.members)
    )
    return made


def test_shares_that_no_owner_gave_are_named_and_the_sum_is_right(tmp_path):
    def swap(reply: Unmasked) -> Unmasked:
        owners = sorted(reply.seed_shares)
        return Unmasked(dict(zip(owners, [reply.seed_shares[o] for o in owners[::-1]], strict=True)), {})

    made = cheated(tmp_path, Unmasked, swap)
    question = train_request(made.study)
    heard = made.hear(question, LocalUpdate)
    _, mean = exact_update(TEN, question)
    np.testing.assert_allclose(heard[ALL_SITES].delta.flatten(), mean.flatten(), atol=1e-6)
    assert "site-003 sent a seed share that site-009 never gave it" in made.notes()


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (SharesSealed, lambda reply: replace(reply, commitments={})),
        (SharesSealed, lambda reply: replace(reply, sealed={**reply.sealed, "site-000": np.zeros(3)})),
        (MaskedValues, lambda reply: replace(reply, narrow=reply.narrow[1:])),
        (MaskedValues, lambda reply: replace(reply, wide=reply.wide.astype(np.float64))),
        (MaskedValues, lambda reply: replace(reply, layout={"delta": "f8 1"})),
        (MaskedValues, lambda reply: replace(reply, layout={"delta": "f8 999999999x999999999"})),
    ],
)
def test_a_site_that_sends_nonsense_is_left_out_and_named(tmp_path, kind, change):
    made = cheated(tmp_path, kind, change)
    question = train_request(made.study)
    heard = made.hear(question, LocalUpdate)
    assert set(heard) == {ALL_SITES, TEN[3]}
    assert TEN[3] in made.notes()
    _, mean = exact_update(tuple(name for name in TEN if name != TEN[3]), question)
    np.testing.assert_allclose(heard[ALL_SITES].delta.flatten(), mean.flatten(), atol=1e-6)


def test_a_delta_beyond_the_bound_stays_at_its_site_alone(tmp_path):
    def compute(name: str, question: Question) -> Summable:
        reply = answer_of(name, question)
        return replace(reply, delta=PARAMETERS.unflatten(np.full(23, 9.0))) if name == TEN[6] else reply

    made = Consortium(tmp_path, masked_study(10, quorum=7), compute=compute)
    heard = made.hear(train_request(made.study), LocalUpdate)
    assert set(heard) == {ALL_SITES, TEN[6]}
    assert "23 of 23 values of the update lie outside value_bound = 4, the largest is 9" in made.members[TEN[6]].log[0]


def test_a_site_whose_sums_have_another_layout_is_named_though_it_answers_first(tmp_path):
    def compute(name: str, question: Question) -> Summable:
        reply = answer_of(name, question)
        return replace(reply, sums={"other": np.zeros(3)}) if name == TEN[0] else reply

    made = Consortium(tmp_path, masked_study(10), compute=compute)
    heard = made.hear(Evaluate(digest(made.study), 0, "radiomics", "test", PARAMETERS), EvaluationSums)
    assert set(heard) == {ALL_SITES, TEN[0]}
    assert "site-000 sent sums of another layout than most sites" in made.notes()


def coarse_study(n: int) -> StudyConfig:
    text = masked_study(n).model_dump(mode="json")
    text["federated"]["compression"] = {"kind": "int8"}
    return StudyConfig.model_validate(text)


class CoarseMember:
    """What a hospital of a compressed study answers before masks: its update through its own exchange."""

    def __init__(self, folder: Path, study: StudyConfig) -> None:
        self.folder, self.study = folder, study
        self.exchanges: dict[str, Exchange] = {}
        self.whole = 0

    def __call__(self, name: str, question: Question) -> Summable:
        assert isinstance(question, Train)
        exchange = self.exchanges.setdefault(name, Exchange(self.study, name, self.folder / name / "res", print))
        self.whole += not question.difference
        opened = exchange.opened(question)
        return exchange.packed(opened, answer_of(name, opened))


def test_a_compressed_sum_is_the_weighted_mean_within_a_step_a_site_and_takes_half_the_words(tmp_path):
    study = coarse_study(10)
    made = Consortium(tmp_path, study, compute=CoarseMember(tmp_path, study))
    question = replace(train_request(study, 2), value_bounds=(25.0, 25.0))
    update = made.hear(question, LocalUpdate)[ALL_SITES]
    n_cases, mean = exact_update(TEN, question)
    assert update.n_cases == n_cases
    step = 25.0 / (32767 // 10)
    assert 0 < np.abs(update.delta.flatten() - mean.flatten()).max() < 10 * step / n_cases


def test_where_one_hospital_lacks_the_model_all_are_sent_the_whole_and_the_round_is_the_same(tmp_path):
    study = coarse_study(10)
    compute = CoarseMember(tmp_path, study)
    made = Consortium(tmp_path, study, compute=compute)
    first = train_request(study, 1)
    made.hear(first, LocalUpdate)
    change = generator(0, "change").normal(0, 0.1, PARAMETERS.size)
    code = StochasticInt8().compress(change, generator(0, "code"))
    after = moved(first.parameters, StochasticInt8().decompress(code, PARAMETERS.size))
    whole = replace(train_request(study, 2), parameters=after, value_bounds=(25.0, 25.0))
    difference = Difference(first.parameters.digest(), after.digest(), code)
    smaller = replace(whole, parameters=Parameters({}), difference=(difference,))

    def heard() -> LocalUpdate:
        compute.whole = 0
        (answer,) = made.conversation.insist(
            dict.fromkeys(TEN, smaller), LocalUpdate, deadline_s=9.0, phase="test", whole=dict.fromkeys(TEN, whole)
        )
        assert isinstance(answer[1], LocalUpdate)
        return answer[1]

    undisturbed = heard()
    assert compute.whole == 0
    del compute.exchanges[TEN[3]]  # a restart: the model was in its memory
    again = heard()
    assert compute.whole == 10
    assert again.delta.digest() == undisturbed.delta.digest()
    assert "does not hold the model" in made.notes()


def test_words_of_another_width_than_the_study_says_are_not_added(tmp_path):
    study = coarse_study(10)
    coarse = CoarseMember(tmp_path, study)

    def compute(name: str, question: Question) -> Summable:
        return answer_of(name, question) if name == TEN[0] else coarse(name, question)

    made = Consortium(tmp_path, study, compute=compute)
    question = replace(train_request(study, 2), value_bounds=(25.0, 25.0))
    heard = made.hear(question, LocalUpdate)
    assert heard[TEN[0]].code == Code.MESSAGE
    assert f"{TEN[0]} masked words of uint32 in place of those that were asked for" in made.notes()


def test_hospitals_that_are_told_of_different_bounds_do_not_answer(tmp_path):
    study = coarse_study(10)
    asked = replace(train_request(study, 2), value_bounds=(25.0, 25.0))

    class Lying(InProcessFederation):
        def ask(self, requests, *, deadline_s):
            told = {
                site: replace(request, request=replace(asked, value_bounds=(1e-6, 25.0)))
                if isinstance(request, MaskedInput) and site == TEN[0]
                else request
                for site, request in requests.items()
            }
            return super().ask(told, deadline_s=deadline_s)

    made = Consortium(tmp_path, study, compute=CoarseMember(tmp_path, study))
    made.conversation.federation = Lying(made.members)
    heard = made.hear(asked, LocalUpdate)
    assert heard[TEN[0]].code == Code.PRIVACY
    assert made.members[TEN[0]].log[-1] == "this is not the question that all sites of the session signed for"
    assert ALL_SITES not in heard  # this study has no quorum below all


def test_a_warm_round_under_masks_takes_at_most_04_of_a_plain_one(tmp_path, monkeypatch):
    """All bytes of all five steps, headers, keys and shares too, for a network of 0.3 million parameters."""
    large = Parameters({"w": np.zeros((600, 500), dtype=np.float32), "b": np.zeros(3, dtype=np.float32)})
    monkeypatch.setattr("tests.server.masked_members.PARAMETERS", large)
    study = coarse_study(4)
    made = Consortium(tmp_path, study, compute=CoarseMember(tmp_path, study))
    first = replace(train_request(study, 1), parameters=large)
    made.hear(first, LocalUpdate, names(4))
    code = StochasticInt8().compress(generator(0, "c").normal(0, 0.1, large.size), generator(0, "code"))
    after = moved(large, StochasticInt8().decompress(code, large.size))
    whole = replace(first, round_number=2, parameters=after, value_bounds=(25.0, 25.0))
    smaller = replace(whole, parameters=Parameters({}), difference=(Difference(large.digest(), after.digest(), code),))
    before = sum(_bytes(line) for line in made.journal.read())
    sites = names(4)
    answers = made.conversation.insist(
        dict.fromkeys(sites, smaller), LocalUpdate, deadline_s=9.0, phase="t", whole=dict.fromkeys(sites, whole)
    )
    assert [site for site, _ in answers] == [ALL_SITES]
    spent = sum(_bytes(line) for line in made.journal.read()) - before
    plain = 2 * 4 * large.size * len(sites)
    assert 0.37 < spent / plain < 0.4


def _bytes(line: dict[str, Any]) -> int:
    return int(line.get("bytes_down", 0)) + int(line.get("bytes_up", 0))


def test_site_level_noise_and_few_bits_meet_in_the_sum(tmp_path):
    """Each hospital's update cut to the norm, rounded, its share of the noise added: the mean is theirs but for it."""
    text = coarse_study(10).model_dump(mode="json")
    text["federated"]["strategy"] = {"kind": "fedavg", "weighting": "uniform"}
    text["privacy"]["site_level"] = {"clipping_norm": 0.25, "noise_multiplier": 1.0, "target_delta": 1e-3}
    study = StudyConfig.model_validate(text)
    made = Consortium(tmp_path, study, compute=CoarseMember(tmp_path, study))
    question = train_request(study, 1)
    update = made.hear(question, LocalUpdate)[ALL_SITES]
    cut = [clip_parameters(answer_of(name, question).delta, clipping_norm=0.25).flatten() for name in TEN]
    noise = update.delta.flatten() - np.mean(cut, axis=0)
    expected = 1.0 * 0.25 * np.sqrt(10 / 7) / 10  # whole with seven, so more with ten
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(expected, rel=0.6)
    assert noise.any()
