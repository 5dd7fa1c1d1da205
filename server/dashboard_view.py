"""What the web page shows, as JSON: the study's status, its sites, curves, privacy, exclusions, log and the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from common.config.study import StudyConfig
from common.error_texts import explain
from common.messages import PrivacyEvent
from server.status import StudyStatus
from server.watch import FollowedRun, Watch

LOG_LINES = 80


def view(watch: Watch) -> dict[str, Any]:
    """All of the page at this moment."""
    with watch.lock:
        run = watch.run
        connected = watch.connected()
        return {
            "now": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "connected": list(connected),
            "study": _study(run) if run is not None else None,
            "sites": _sites(run, connected),
            "curves": _curves(run.status()) if run is not None else [],
            "phases": _phases(run.status()) if run is not None else [],
            "privacy": _targets(run.study) if run is not None else [],
            "exclusions": _exclusions(run) if run is not None else [],
            "log": _log(run.status()) if run is not None else [],
            "queue": _queue(watch),
            "has_queue": watch.has_queue,
            "approval": watch.approval,
        }


def _study(run: FollowedRun) -> dict[str, Any]:
    status, order = run.status(), run.order()
    return {
        "name": run.study.name,
        "title": run.study.title,
        "digest": run.digest,
        "state": status.state,
        "phase": status.phase,
        "round": status.round_number,
        "began": status.began,
        "since": status.since,
        "last": status.last,
        "by": status.by,
        "wish": order.wish,
        "wished_by": order.by,
        "awaited": list(status.asked),
        "quorum": run.study.federated.quorum or run.study.n_training,
    }


def _sites(run: FollowedRun | None, connected: Sequence[str]) -> list[dict[str, Any]]:
    if run is None:
        return [_site(name, "", None, True, {}, {}) for name in connected]
    status, cases = run.status(), run.cases()
    targets = {target["of"]: target["delta"] for target in _targets(run.study)}
    return [
        _site(site.name, site.role, status, site.name in connected, cases.get(site.name, {}), targets)
        for site in sorted(run.study.sites, key=lambda entry: (entry.role != "training", entry.name))
    ]


def _site(
    name: str,
    role: str,
    status: StudyStatus | None,
    online: bool,
    cases: Mapping[str, Any],
    deltas: Mapping[str, float],
) -> dict[str, Any]:
    found = status.sites.get(name) if status is not None else None
    return {
        "name": name,
        "role": role,
        "online": online,
        "awaited": status is not None and name in status.asked,
        "silent": found.awaited if found else "",
        "last_answer": found.last_answer if found else "",
        "bytes_down": found.bytes_down if found else 0,
        "bytes_up": found.bytes_up if found else 0,
        "refusals": dict(sorted(found.codes.items())) if found else {},
        "prepared": list(found.prepared) if found and found.prepared else None,
        "listed": cases.get("n_listed"),
        "usable": cases.get("n_usable"),
        "spent": {of: _epsilon(found.privacy.get(of, []), delta) for of, delta in deltas.items()} if found else {},
    }


def _targets(study: StudyConfig) -> list[dict[str, Any]]:
    """What the study promises, for each kind of release with a promise."""
    found = []
    for of, promise in (("training", study.privacy.sample_level), ("statistics", study.privacy.statistics)):
        if promise is not None:
            found.append({"of": of, "epsilon": promise.target_epsilon, "delta": float(promise.target_delta)})
    return found


def _epsilon(events: Sequence[PrivacyEvent], delta: float) -> float:
    from common.privacy.ledger import epsilon  # loads scipy's special functions

    return epsilon(events, delta)


def _curves(status: StudyStatus) -> list[dict[str, Any]]:
    return [
        {
            "model": model,
            "course": course,
            "fold": fold,
            "rounds": status.rounds[model, course, fold][1],
            "points": [[number, loss] for number, loss in sorted(points.items())],
        }
        for (model, course, fold), points in sorted(status.curves.items())
    ]


def _phases(status: StudyStatus) -> list[dict[str, Any]]:
    return [{"phase": phase, "seconds": round(seconds, 1)} for phase, seconds in status.phase_seconds.items()]


def _exclusions(run: FollowedRun) -> list[dict[str, Any]]:
    return [
        {"site": site, "code": code, "n": n, "meaning": explain(code).meaning}
        for site, counts in sorted(run.cases().items())
        for code, n in sorted(dict(counts["exclusions"]).items())  # type: ignore[call-overload]
    ]


def _log(status: StudyStatus) -> list[dict[str, str]]:
    recent = list(status.recent)[-LOG_LINES:]
    return [{"time": line.time, "level": line.level, "text": line.text} for line in reversed(recent)]


def _queue(watch: Watch) -> list[dict[str, str]]:
    return [
        {
            "name": entry.name,
            "title": entry.title,
            "digest": entry.digest,
            "approved_by": entry.approved_by,
            "fault": "the file has faults and is set aside" if entry.fault else "",
        }
        for entry in watch.queued()
    ]
