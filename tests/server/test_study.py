"""The procedure of a study on sites in memory: undisturbed, disturbed, interrupted anywhere and resumed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from common.config.loading import digest
from common.config.study import StudyConfig
from common.errors import Code, FederationError, StateError
from common.messages import Evaluate, Finish, Hello, Prepare, Prepared, Refusal, Reply, Request, Train, Welcome
from common.version import versions
from server.checkpoint import CheckpointStore, Unit
from tests.server.memory_sites import MemorySite, dataset, events, final_digests, members, run, study


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run(study(), folder)
    return folder


def store_of(folder: Path, of: StudyConfig | None = None) -> CheckpointStore:
    return CheckpointStore(folder / "checkpoints", digest(of or study()))


def contents(store: CheckpointStore) -> dict[str, tuple[object, ...]]:
    """All of a store, bit by bit."""
    units = {name: store.load(name) for name in store.names()}
    return {
        name: (unit.values, [(key, array.dtype, array.shape, array.tobytes()) for key, array in unit.arrays.items()])
        for name, unit in units.items()
        if unit is not None
    }


def test_every_course_model_and_site_is_there_in_the_end(undisturbed: Path):
    store = store_of(undisturbed)
    courses, models = ("federated", "local-a", "local-b", "local-c"), ("logistic", "cnn")
    expected = {f"{kind}.{c}.{m}.fold0" for kind in ("training", "evaluation") for c in courses for m in models}
    assert set(store.names()) == expected | {f"table.{c}.fold0" for c in courses} | {"preparation"}
    scored = store.load("evaluation.federated.cnn.fold0")
    assert scored is not None
    assert scored.values["n_cases"] == {"a": 7, "b": 5, "c": 4, "x": 9}
    assert {name.split("/")[0] for name in scored.arrays} == {"a", "b", "c", "x"}
    assert [line["event"] for line in events(undisturbed, "finished")] == ["finished"]


def test_the_external_site_is_evaluated_and_never_trains(tmp_path: Path):
    sites = members(study())
    run(study(), tmp_path, sites=sites)
    assert {type(request).__name__ for request in sites["x"].asked} == {"Hello", "Prepare", "Evaluate", "Finish"}
    assert {type(request).__name__ for request in sites["a"].asked} == {
        "Hello", "Prepare", "AskStatistic", "Train", "Evaluate", "Finish",
    }  # fmt: skip


def test_each_fold_of_a_cross_validation_is_a_run_of_its_own(tmp_path: Path):
    of = study(
        ('split = { kind = "holdout", test_fraction = 0.4 }', 'split = { kind = "folds", count = 3 }'),
        ("local_only = true", "local_only = false"),
    )
    store = run(of, tmp_path)
    tested = dict.fromkeys("abcx", 0)
    for fold in range(3):
        unit = store.load(f"evaluation.federated.cnn.fold{fold}")
        assert unit is not None
        for site, n in unit.values["n_cases"].items():
            tested[site] += n
    assert tested == {"a": 18, "b": 14, "c": 10, "x": 9}
    assert len(set(final_digests(store).values())) == 6


@pytest.mark.parametrize("threads", [3])
def test_threads_do_not_change_a_bit(undisturbed: Path, tmp_path: Path, threads: int):
    run(study(), tmp_path, threads=threads)
    assert contents(store_of(tmp_path)) == contents(store_of(undisturbed))


def test_running_again_asks_for_no_work(undisturbed: Path):
    before = contents(store_of(undisturbed))
    sites = members(study())
    run(study(), undisturbed, sites=sites)
    assert contents(store_of(undisturbed)) == before
    assert {type(request) for member in sites.values() for request in member.asked} == {Hello, Prepare, Finish}


N_REQUESTS = 4 + 4 + 6 * 6 + (3 + 2) * 6 + 4 * 4 * 2
"""Hello, prepare, six statistics a trainer and kind of course, the rounds, the evaluations."""


@pytest.mark.parametrize("at", [5, 9, 30, 46, 63, 80, N_REQUESTS - 1])
def test_interrupted_at_any_request_and_resumed_ends_bit_by_bit_alike(undisturbed: Path, tmp_path: Path, at: int):
    """The coordinator dies while it waits for an answer: in any phase, within or between rounds."""
    asked = 0

    def die(site: str, request: Request) -> Reply | None:
        nonlocal asked
        asked += 1
        if asked == at + 1:
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        run(study(), tmp_path, disturb=die)
    run(study(), tmp_path)
    assert contents(store_of(tmp_path)) == contents(store_of(undisturbed))


N_SAVES = 1 + 4 + 5 * 4 + 2 * 4


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(1, N_SAVES + 1, 7))
def test_killed_around_any_save_and_resumed_ends_bit_by_bit_alike(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, when: str
):
    saves = 0
    save = CheckpointStore.save

    def dying(self: CheckpointStore, name: str, unit: Unit) -> None:
        nonlocal saves
        saves += 1
        if saves == number and when == "before":
            raise KeyboardInterrupt
        save(self, name, unit)
        if saves == number:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            run(study(), tmp_path)
    run(study(), tmp_path)
    assert contents(store_of(tmp_path)) == contents(store_of(undisturbed))


def test_interrupted_again_and_again_it_still_ends_alike(undisturbed: Path, tmp_path: Path):
    """Each run gets a few requests further than the last complete unit."""

    def lasting(n_requests: int):
        left = n_requests

        def die(site: str, request: Request) -> Reply | None:
            nonlocal left
            left -= not isinstance(request, Hello | Prepare)
            if left < 0:
                raise KeyboardInterrupt
            return None

        return die

    runs = 0
    while not (tmp_path / "events.jsonl").exists() or not events(tmp_path, "finished"):
        runs += 1
        with suppress(KeyboardInterrupt):
            run(study(), tmp_path, disturb=lasting(19))
    assert 4 < runs < 40
    assert contents(store_of(tmp_path)) == contents(store_of(undisturbed))


def test_a_site_that_is_away_now_and_then_changes_no_bit(undisturbed: Path, tmp_path: Path):
    """Every site misses its first asking of each kind of request; asked again, it answers."""
    seen: set[tuple[str, type]] = set()

    def away(site: str, request: Request) -> Reply | None:
        first = (site, type(request)) not in seen
        seen.add((site, type(request)))
        return Refusal(Code.SITE_SILENT) if first else None

    run(study(), tmp_path, disturb=away)
    assert contents(store_of(tmp_path)) == contents(store_of(undisturbed))
    assert {line["site"] for line in events(tmp_path, "awaited")} == {"a", "b", "c", "x"}


def test_a_site_that_drops_out_of_one_model_is_named_and_the_study_goes_on(tmp_path: Path):
    of = study(("local_only = true", "local_only = false"))

    def drop(site: str, request: Request) -> Reply | None:
        gone = site == "c" and isinstance(request, Train | Evaluate) and request.model == "cnn"
        return Refusal(Code.SITE_SILENT) if gone else None

    store = run(of, tmp_path, disturb=drop)
    trained, scored = store.load("training.federated.cnn.fold0"), store.load("evaluation.federated.cnn.fold0")
    assert trained is not None
    assert scored is not None
    assert trained.values["absent"] == ["1 c site_silent", "2 c site_silent"]
    assert scored.values["refused"] == {"c": "site_silent"}
    assert sorted(scored.values["n_cases"]) == ["a", "b", "x"]
    refusals = {(line["site"], line["code"]) for line in events(tmp_path, "answer") if line["code"]}
    assert refusals == {("c", "site_silent")}


@pytest.mark.parametrize("kind", ["AskStatistic", "Train"])
def test_a_local_course_whose_site_fails_is_left_out_and_tried_again_on_resume(
    undisturbed: Path, tmp_path: Path, kind: str
):
    """Once the federated course is evaluated, sites b and c are gone; the federated result stands, and site a's."""
    evaluated: set[str] = set()

    def gone(site: str, request: Request) -> Reply | None:
        if isinstance(request, Evaluate):
            evaluated.add(request.model)
        late = len(evaluated) == 2 and site in "bc" and type(request).__name__ == kind
        return Refusal(Code.SITE_SILENT) if late else None

    store = run(study(), tmp_path, disturb=gone)
    whole, partial = contents(store_of(undisturbed)), contents(store)
    assert all(partial[name] == whole[name] for name in partial)
    missing = {name.split(".")[1] for name in whole.keys() - partial.keys()}
    assert missing == {"local-b", "local-c"}
    left_out = [line["text"] for line in events(tmp_path, "note")]
    assert any(str(text).startswith("local-b is left out: ") and "site_silent" in str(text) for text in left_out)
    run(study(), tmp_path)
    assert contents(store_of(tmp_path)) == whole


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (Code.STUDY_NOT_APPROVED, "hello: site b refused Hello: study_not_approved"),
        (Code.VERSION_MISMATCH, "hello: site b refused Hello: version_mismatch"),
        (Code.SITE_SILENT, "hello: site b refused Hello: site_silent"),
    ],
)
def test_a_study_does_not_begin_without_a_site(tmp_path: Path, code: Code, sentence: str):
    def refuse(site: str, request: Request) -> Reply | None:
        return Refusal(code) if site == "b" else None

    with pytest.raises(FederationError, match=sentence):
        run(study(), tmp_path, disturb=refuse)
    assert store_of(tmp_path).names() == ()


def test_a_site_under_another_name_is_refused(tmp_path: Path):
    def swapped(site: str, request: Request) -> Reply | None:
        return Welcome("c", versions()) if site == "b" and isinstance(request, Hello) else None

    with pytest.raises(FederationError, match="hello: b answers as c") as caught:
        run(study(), tmp_path, disturb=swapped)
    assert caught.value.code == Code.SITE_UNKNOWN


@pytest.mark.parametrize("what", ["schema", "names"])
def test_sites_that_extract_other_features_are_refused_by_name(tmp_path: Path, what: str):
    honest = members(study())["b"]

    def other(site: str, request: Request) -> Reply | None:
        if site != "b" or not isinstance(request, Prepare):
            return None
        reply = honest.answer(request)
        assert isinstance(reply, Prepared)
        if what == "schema":
            return replace(reply, feature_schema="0" * 64)
        return replace(reply, feature_names=(*reply.feature_names[:-1], "weight"))

    with pytest.raises(FederationError, match=r"sites extract different features: .* at a, c, x; .* at b") as caught:
        run(study(), tmp_path, disturb=other)
    assert caught.value.code == Code.VERSION_MISMATCH


def pending(counts: Sequence[int]):
    """Site b counts down its pending cases."""
    left = list(counts)

    def disturb(site: str, request: Request) -> Reply | None:
        if site == "b" and isinstance(request, Prepare) and left:
            n = left.pop(0)
            honest = members(study())["b"].answer(request)
            assert isinstance(honest, Prepared)
            return replace(honest, n_pending=n, n_usable=honest.n_usable - n)
        return None

    return disturb


def test_preparing_is_asked_again_until_nothing_is_pending_and_shows_its_progress(tmp_path: Path):
    of = study(("local_only = true", "local_only = false"))
    run(of, tmp_path, disturb=pending([9, 4]))
    shown = [(line["site"], line["done"], line["listed"]) for line in events(tmp_path, "preparing")]
    assert shown == [("a", 18, 18), ("b", 5, 14), ("c", 10, 10), ("x", 9, 9), ("b", 10, 14), ("b", 14, 14)]


def test_preparing_that_takes_too_long_names_the_site(tmp_path: Path):
    of = study(("federated = { quorum = 2 }", "federated = { quorum = 2, prepare_deadline_s = 1e-9 }"))
    with pytest.raises(FederationError, match="not prepared in 1e-09 s: b"):
        run(of, tmp_path, disturb=pending([9, 9]))


def test_a_resumed_study_goes_on_with_the_cases_that_it_began_with(tmp_path: Path):
    def die(site: str, request: Request) -> Reply | None:
        if isinstance(request, Train):
            raise KeyboardInterrupt
        return None

    with pytest.raises(KeyboardInterrupt):
        run(study(), tmp_path, disturb=die)
    changed = members(study()) | {"b": MemorySite(study(), "b", dataset(study(), "b", 13))}
    with pytest.raises(StateError, match=r"the cases changed since this run began: b had .*14.*has .*13"):
        run(study(), tmp_path, sites=changed)


def test_a_damaged_checkpoint_stops_the_study_and_names_the_file(undisturbed: Path, tmp_path: Path):
    run(study(), tmp_path)
    path = tmp_path / "checkpoints" / "training.federated.cnn.fold0.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    (tmp_path / "checkpoints" / "evaluation.federated.cnn.fold0.safetensors").unlink()
    with pytest.raises(StateError, match=r"training\.federated\.cnn\.fold0\.safetensors is damaged"):
        run(study(), tmp_path)
    path.unlink()
    run(study(), tmp_path)
    assert contents(store_of(tmp_path)) == contents(store_of(undisturbed))
