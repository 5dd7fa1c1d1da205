"""What a site answers: only to studies it approved, only from enough cases, and never a path, an id or a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client import study_at_site
from client.site import Site
from common.arrays import Parameters
from common.codec import encode
from common.config.gate import GateConfig
from common.config.loading import digest
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import CaseError, Code
from common.messages import (
    SCHEMA_VERSION,
    AskStatistic,
    Done,
    Evaluate,
    EvaluationSums,
    Finish,
    Hello,
    LocalUpdate,
    Prepare,
    Prepared,
    Refusal,
    Reply,
    Request,
    StatisticSums,
    TableStep,
    Train,
    Welcome,
)
from common.models import initial_parameters
from common.statistics import encode_query
from common.statistics.moments import Imputer, MomentQuery
from common.statistics.table_steps import Keep, encode_steps
from common.version import versions
from tests.client.cases import STUDY, row, study, write_case, write_manifest

SECRET = "SECRET-anna-smith"
"""Stands in a case id, in the names of folders and in what libraries say: it must never leave."""

N_CASES = 12
CLEAN = ("ct_stat_mean", "ct_stat_var", "age")
STEPS = encode_steps([Keep(CLEAN), Imputer(CLEAN, np.zeros(3))])


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 12 good cases, one whose file is missing, and one whose image cannot be read."""
    home = tmp_path_factory.mktemp(SECRET)
    rows = []
    for i in range(N_CASES):
        case_id = f"{SECRET}-{i:02d}"
        write_case(home / "images", case_id)
        rows.append(row(case_id, malignant=str(i % 2), age=str(40 + i), sex="fm"[i % 2]))
    (write_case(home / "images", f"{SECRET}-unreadable") / "ct.nii.gz").write_bytes(SECRET.encode())
    rows += [row(f"{SECRET}-unreadable"), row(f"{SECRET}-missing"), row(f"{SECRET}-label", malignant=SECRET)]
    write_manifest(home / "cases.csv", rows)
    return home


def config(hospital: Path, state: Path, **changes: object) -> SiteConfig:
    return SiteConfig(
        site="north",
        manifest=hospital / "cases.csv",
        data=hospital / "images",
        state=state,
        minimum_cases=2,
        studies=(hospital / "study.toml",),
        gate=GateConfig(runs=50),  # the tests of this file ask one hospital about many models
    ).model_copy(update=changes)


@pytest.fixture
def site(hospital: Path) -> Iterator[Site]:
    """The site with its state, and so its cache, in the hospital's folder."""
    opened = Site(config(hospital, hospital / "state"), [study()])
    yield opened
    opened.close()


DIGEST = digest(study())


def parameters(of: StudyConfig | None = None, n_columns: int = 3) -> Parameters:
    used = of or study()
    return initial_parameters(used.study_model("radiomics").model, used.model_inputs(n_columns), 0)


def ask(kind: str = "moments", fold: int = 0, **values: object) -> AskStatistic:
    query = MomentQuery(CLEAN, "all", ("all",), np.zeros((1, 3)), 1)
    return AskStatistic(DIGEST, fold, kind, encode_query(query)[1] | values, STEPS)


def train(**changes: object) -> Train:
    values: dict[str, object] = {"model": "radiomics", "round_number": 1, "parameters": parameters()}
    values |= {"fold": 0, "table_steps": STEPS} | changes
    return Train(DIGEST, **values)  # type: ignore[arg-type]  # as each test says


def evaluate(**changes: object) -> Evaluate:
    values: dict[str, object] = {"fold": 0, "model": "radiomics", "split": "test", "parameters": parameters()}
    return Evaluate(DIGEST, **(values | {"table_steps": STEPS} | changes))  # type: ignore[arg-type]


def code_of(reply: Reply) -> str:
    assert isinstance(reply, Refusal), reply
    return reply.code


def test_the_whole_conversation(site: Site):
    welcome = site.answer(Hello(DIGEST, versions()))
    assert isinstance(welcome, Welcome)
    assert (welcome.site, welcome.versions) == ("north", versions())
    prepared = site.answer(Prepare(DIGEST, 600.0))
    assert isinstance(prepared, Prepared)
    assert (prepared.n_listed, prepared.n_usable, prepared.n_pending) == (N_CASES + 3, N_CASES, 0)
    assert prepared.exclusions == {"file_missing": 1, "file_unreadable": 1, "outcome_invalid": 1}
    sums = site.answer(ask())
    assert isinstance(sums, StatisticSums)
    assert sums.n_cases == 8  # 6 of each class, less round(0.4 * 6) = 2 of each
    assert list(sums.sums["cases"]) == [8]
    update = site.answer(train())
    assert isinstance(update, LocalUpdate)
    assert (update.model, update.round_number, update.n_cases) == ("radiomics", 1, 8)
    assert update.delta.norm() > 0
    scored = site.answer(evaluate())
    assert isinstance(scored, EvaluationSums)
    assert scored.n_cases == 4
    assert isinstance(site.answer(Finish(DIGEST, "completed")), Done)


def test_any_request_may_be_repeated_and_come_first_after_a_restart(site: Site, hospital: Path):
    first = site.answer(train())
    again = site.answer(train())
    restarted = Site(config(hospital, hospital / "state"), [study()]).answer(train())
    for other in (again, restarted):
        assert isinstance(first, LocalUpdate)
        assert isinstance(other, LocalUpdate)
        assert other.delta.digest() == first.delta.digest()


def test_a_study_that_was_not_approved_is_refused(site: Site):
    other = digest(study(STUDY, ("seed = 3", "seed = 4")))
    requests: list[Request] = [
        Hello(other, versions()),
        Prepare(other),
        AskStatistic(other, 0, "moments", {}),
        Train(other, 0, "radiomics", 1, parameters()),
        Evaluate(other, 0, "radiomics", "test", parameters()),
        Finish(other, "aborted"),
    ]
    assert {code_of(site.answer(request)) for request in requests} == {Code.STUDY_NOT_APPROVED}


@pytest.mark.parametrize(
    "theirs",
    [
        versions() | {"numpy": "1.0"},
        versions() | {"fedrad": "99.0"},
        {name: number for name, number in versions().items() if name != "torch"},
        versions() | {"another": "1.0"},
        {},
    ],
)
def test_other_versions_are_refused_and_named_in_the_log(site: Site, theirs: dict[str, str]):
    assert code_of(site.answer(Hello(DIGEST, theirs))) == Code.VERSION_MISMATCH
    differing = {name for name in theirs.keys() | versions().keys() if theirs.get(name) != versions().get(name)}
    reason = list(site.log.read())[-1]["reason"]
    assert all(name in reason for name in differing)


def test_another_schema_of_messages_is_refused(site: Site):
    assert code_of(site.answer(Hello(DIGEST, versions(), SCHEMA_VERSION + 1))) == Code.VERSION_MISMATCH


def test_versions_are_compared_before_the_study(site: Site):
    """Another version may write other defaults into the digest: the version is the reason to tell."""
    assert code_of(site.answer(Hello("0" * 64, {}))) == Code.VERSION_MISMATCH


def test_a_site_that_the_study_does_not_know_is_refused(hospital: Path, tmp_path: Path):
    stranger = Site(config(hospital, tmp_path, site="mars"), [study()])
    assert code_of(stranger.answer(Hello(DIGEST, versions()))) == Code.SITE_UNKNOWN


def test_a_manifest_that_is_gone_is_a_fault_of_the_configuration(hospital: Path, tmp_path: Path):
    lost = Site(config(hospital, tmp_path, manifest=tmp_path / SECRET), [study()])
    assert code_of(lost.answer(Prepare(DIGEST))) == Code.CONFIG


@pytest.mark.parametrize("minimum", [5, 9])
def test_small_cells_do_not_leave(hospital: Path, minimum: int):
    """8 cases train and 4 are tested; the larger of the site's and the study's minimum counts."""
    careful = Site(config(hospital, hospital / "state", minimum_cases=minimum), [study()])
    assert code_of(careful.answer(evaluate())) == Code.SMALL_CELL
    expected = Code.SMALL_CELL if minimum == 9 else None
    for request in (ask(), train()):
        reply = careful.answer(request)
        assert (reply.code if isinstance(reply, Refusal) else None) == expected


def test_the_studys_own_minimum_counts_too(hospital: Path):
    strict = study(STUDY, ("minimum_cases = 2", "minimum_cases = 9"))
    careful = Site(config(hospital, hospital / "state"), [strict])
    request = Train(digest(strict), 0, "radiomics", 1, parameters(strict), STEPS)
    assert code_of(careful.answer(request)) == Code.SMALL_CELL


@pytest.mark.parametrize("fold", [-1, 1, 99])
def test_a_fold_that_the_study_does_not_have_opens_no_held_out_case(site: Site, fold: int):
    for request in (ask(fold=fold), train(fold=fold), evaluate(fold=fold), evaluate(fold=fold, split="train")):
        assert code_of(site.answer(request)) == Code.MESSAGE


@pytest.mark.parametrize(
    "request_",
    [
        train(model="nobody"),
        evaluate(model="nobody"),
        train(round_number=3),
        train(parameters=Parameters({"w": np.zeros(3, dtype=np.float32)})),
        evaluate(parameters=Parameters({})),
        ask(kind="rows"),
        ask(order=7),
        ask(centres=np.zeros((2, 2))),
        ask(names="age"),
        train(table_steps=(TableStep("pickle", {"code": "x"}),)),
    ],
)
def test_requests_that_make_no_sense_are_messages_at_fault(site: Site, request_: Request):
    assert code_of(site.answer(request_)) == Code.MESSAGE


def test_a_feature_that_is_not_there_is_a_fault_of_the_statistic(site: Site):
    steps = encode_steps([Keep(("unheard",))])
    assert code_of(site.answer(AskStatistic(DIGEST, 0, "moments", ask().values, steps))) == Code.STATISTIC


def test_training_that_runs_away_stays(site: Site):
    huge = Parameters({name: np.full_like(a, 3e38) for name, a in parameters().items()})
    with np.errstate(all="ignore"):
        assert code_of(site.answer(train(parameters=huge))) == Code.STATISTIC
        assert (
            code_of(site.answer(train(parameters=Parameters({n: a * np.nan for n, a in huge.items()}))))
            == Code.STATISTIC
        )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError(f"/data/{SECRET}.nii"), Code.INTERNAL),
        (KeyError(SECRET), Code.INTERNAL),
        (MemoryError(SECRET), Code.INTERNAL),
        (CaseError(SECRET, "is broken", code=Code.FILE_UNREADABLE), Code.FILE_UNREADABLE),
    ],
)
def test_of_an_error_only_its_code_leaves(site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception, code: Code):
    def broken(*_args: object, **_settings: object) -> object:
        raise error

    monkeypatch.setattr(study_at_site, "train", broken)
    reply = site.answer(train())
    assert code_of(reply) == code
    assert SECRET not in wire(reply)
    assert SECRET in list(site.log.read())[-1]["reason"]


def wire(reply: Reply) -> str:
    """Everything that leaves with a reply, as text."""
    header, arrays = encode(reply)
    return header.decode() + "".join(array.tobytes().decode("latin-1") for array in arrays)


def test_no_reply_holds_a_path_an_id_or_a_sentence(site: Site, hospital: Path):
    requests: list[Request] = [
        Hello(DIGEST, versions()),
        Hello(DIGEST, {}),
        Hello("0" * 64, versions()),
        Prepare(DIGEST, 600.0),
        ask(),
        ask(kind="rows"),
        train(),
        train(model="nobody"),
        evaluate(),
        evaluate(fold=5),
        Finish(DIGEST, "completed"),
    ]
    left = [wire(site.answer(request)) for request in requests]
    for text in left:
        for planted in (SECRET, str(hospital), "images", "nii", "cases.csv", "Error", "Traceback"):
            assert planted not in text
    assert SECRET in (hospital / "state" / "log.jsonl").read_text()


def entries(state: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (state / "audit.jsonl").read_text().splitlines()]


def test_the_audit_log_holds_what_was_asked_and_what_left(hospital: Path, tmp_path: Path):
    site = Site(config(hospital, tmp_path / "state"), [study()])
    site.answer(Hello(DIGEST, versions()))
    site.answer(Hello("0" * 64, versions()))
    _, asked, left, refused = entries(tmp_path / "state")
    assert (asked["event"], asked["request"], asked["study"]) == ("asked", "Hello", DIGEST)
    assert (left["event"], left["request"], left["reply"], left["study"]) == ("left", "Hello", "Welcome", DIGEST)
    assert isinstance(left["bytes"], int)
    assert left["bytes"] > 0
    assert (refused["event"], refused["code"], refused["study"]) == ("refused", "study_not_approved", "0" * 64)
    assert SECRET not in json.dumps([asked, left, refused])


def test_nothing_leaves_that_cannot_be_recorded(hospital: Path, tmp_path: Path):
    state = tmp_path / "state"
    site = Site(config(hospital, state), [study()])
    log = (state / "audit.jsonl").rename(state / "away")
    (state / "audit.jsonl").mkdir()
    assert code_of(site.answer(Hello(DIGEST, versions()))) == Code.STATE
    (state / "audit.jsonl").rmdir()
    log.rename(state / "audit.jsonl")
    assert isinstance(site.answer(Hello(DIGEST, versions())), Welcome)
    (state / "log.jsonl").unlink()
    (state / "log.jsonl").mkdir()
    assert code_of(site.answer(Hello(DIGEST, {}))) == Code.STATE
    assert isinstance(site.answer(Hello(DIGEST, versions())), Welcome)


def test_preparing_goes_on_in_pieces_and_the_counts_add_up(hospital: Path, tmp_path: Path):
    site = Site(config(hospital, tmp_path / "state"), [study()])
    seen = []
    while True:
        prepared = site.answer(Prepare(DIGEST, 0.0))
        assert isinstance(prepared, Prepared)
        seen.append(prepared.n_pending)
        assert prepared.n_listed == N_CASES + 3
        if not prepared.n_pending:
            break
    assert seen == sorted(seen, reverse=True)
    assert len(seen) > 3


def test_an_external_site_is_evaluated_and_never_trains(hospital: Path):
    outside = Site(config(hospital, hospital / "state", site="west"), [study()])
    for request in (ask(), train(), evaluate(split="train")):
        assert code_of(outside.answer(request)) == Code.SMALL_CELL
    scored = outside.answer(evaluate())
    assert isinstance(scored, EvaluationSums)
    assert scored.n_cases == N_CASES
