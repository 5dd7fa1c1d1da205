"""Replies of the right kind whose content is nonsense: that hospital is left out by name, and the study goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from common.errors import FedradError
from common.messages import Evaluate, LocalUpdate, PrivacyEvent, Refusal, Reply, Request, Train
from server import service
from server.opening import STUDY_FILE
from server.queue import FAILED, StudyQueue
from server.report import write_report
from server.results import load_results, write_tables
from server.service import serve_queue
from tests.server.memory_sites import STUDY, members, run, study

Sums = dict[str, npt.NDArray[np.generic]]

SPOILT: dict[str, Callable[[Sums], Sums]] = {
    "another shape": lambda sums: sums | {"positives": np.zeros((1, 3), np.int64)},
    "another dtype": lambda sums: sums | {"losses": sums["losses"].astype(np.float32)},
    "truth values": lambda sums: sums | {"confusion": sums["confusion"].astype(np.bool_)},
    "a missing field": lambda sums: {name: array for name, array in sums.items() if name != "pairs"},
    "a further field": lambda sums: sums | {"further": np.zeros(3)},
    "a subgroup that was not agreed": lambda sums: sums | {f"sex/m/{name}": array for name, array in sums.items()},
    "no number": lambda sums: sums | {"losses": sums["losses"] * np.nan},
    "negative counts": lambda sums: sums | {"confusion": -sums["confusion"]},
    "counts that overflow": lambda sums: sums | {"slack": np.array([2**62])},
    "sums that overflow": lambda sums: sums | {"pairs": np.full_like(sums["pairs"], 1e308)},
    "nothing": lambda sums: {},
}


@pytest.mark.parametrize("site", ["c", "x"])
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_evaluations_that_cannot_be_merged_are_left_out_when_they_come(
    tmp_path: Path, site: str, spoil: Callable[[Sums], Sums]
):
    """Saved as they came they would stop the report, each time it is made."""
    of = study(("local_only = true", "local_only = false"))
    sites = members(of)

    def disturb(asked: str, request: Request) -> Reply | None:
        if asked != site or not isinstance(request, Evaluate):
            return None
        reply = sites[asked].answer(request)
        return replace(reply, sums=spoil(dict(reply.sums)))  # type: ignore[type-var]  # it is EvaluationSums

    store = run(of, tmp_path, sites=sites, disturb=disturb)
    (tmp_path / STUDY_FILE).write_text(STUDY.replace("local_only = true", "local_only = false"))
    for entry in of.models:
        saved = store.load(f"evaluation.federated.{entry.name}.fold0")
        assert saved is not None
        assert saved.values["refused"] == {site: "message"}
    results = load_results([tmp_path])
    write_tables(results, tmp_path)
    write_report(results, tmp_path / "report.html")


def test_an_update_whose_cost_no_ledger_knows_counts_as_absent(tmp_path: Path):
    """Saved, it could not be read again."""
    of = study(("local_only = true", "local_only = false"))
    sites = members(of)

    def disturb(asked: str, request: Request) -> Reply | None:
        if asked != "c" or not isinstance(request, Train):
            return None
        reply = sites[asked].answer(request)
        assert isinstance(reply, LocalUpdate)
        return replace(reply, privacy=(PrivacyEvent("unheard of", 1.0, 1.0, 1),))

    run(of, tmp_path, sites=sites, disturb=disturb)
    (tmp_path / STUDY_FILE).write_text(STUDY.replace("local_only = true", "local_only = false"))
    for training in load_results([tmp_path]).trainings:
        assert {absence.split()[1:][0] for absence in training.absent} == {"c"}
        assert {entry.site for entry in training.history} == {"a", "b"}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Refusal("two words"), "is no code"),
        (lambda: Refusal("a\nb"), "is no code"),
        (lambda: PrivacyEvent("gaussian", float("nan"), 1.0, 1), "noise multiplier nan"),
        (lambda: PrivacyEvent("gaussian", 1.0, 1.5, 1), "sampling rate 1.5"),
        (lambda: PrivacyEvent("gaussian", 1.0, 1.0, -1), "-1 steps"),
    ],
)
def test_messages_that_nothing_could_be_made_of_do_not_exist(make: Callable[[], object], match: str):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_fault_in_one_study_sets_it_aside_and_the_queue_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    queue, stop = StudyQueue(tmp_path), threading.Event()
    queue.create()
    told: list[tuple[str, str]] = []

    def fault(home: Path, entry: object, *others: object) -> None:
        raise ValueError("sums with other fields")

    def failed(name: str, error: FedradError) -> None:
        told.append((name, str(error)))
        if len(told) == 2:
            stop.set()

    monkeypatch.setattr(service, "_run_queued", fault)
    monkeypatch.setattr(service, "POLL_S", 0.01)
    for name in ("first", "second"):
        (tmp_path / "queue" / f"{name}.toml").write_text(STUDY)
    serve_queue(queue, None, stop=stop, tell=lambda text: None, failed=failed)  # type: ignore[arg-type]  # not asked
    assert [name for name, _ in told] == ["first.toml", "second.toml"]
    assert all("a fault of fedrad's own (ValueError)" in text for _, text in told)
    assert sorted(path.name for path in (tmp_path / FAILED).iterdir()) == ["first.toml", "second.toml"]
