"""What left each hospital: the journal's messages, added up by phase and hospital and said in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.error_texts import explain
from server.record import Flow, StudyResults

WHAT_LEFT: Mapping[str, str] = {
    "Welcome": "The site's name and the versions of its software.",
    "Prepared": "Numbers of cases: listed, usable, excluded by code; names of the features and of ComBat's batches.",
    "StatisticSums": "Sums over the training cases that the study's statistics are made of; their number.",
    "LocalUpdate": "The change of the model's parameters, one training loss, the number of cases.",
    "EvaluationSums": "Counts of test cases by class and by bin of the predicted probability, sums of errors.",
    "KeysAdvertised": "Public keys for one masked sum, with the hospital's certificate and signature.",
    "SharesSealed": "Parts of the hospital's secret masks, sealed for the other hospitals.",
    "MaskedValues": "An answer under masks: random numbers until all hospitals' masks cancel in the sum.",
    "Consistent": "A signature of which hospitals are in the sum.",
    "Unmasked": "Parts of masks: the sum can be read, no hospital's share in it.",
    "Done": "An acknowledgement.",
    "Refusal": "An error code, nothing else.",
}
"""By kind of reply; a reply kind of which nothing is said here is a fault that a test finds."""

WHAT_CAME: Mapping[str, str] = {
    "Hello": "the study's digest and the coordinator's versions",
    "Prepare": "the request to check and measure the cases; learned landmarks of images",
    "AskStatistic": "which sums are wanted, the steps and landmarks learned so far",
    "Train": "the model's parameters, the learned table steps and landmarks",
    "Evaluate": "the finished model, the learned table steps and landmarks",
    "AdvertiseKeys": "the request to make keys for a masked sum",
    "ShareKeys": "the public keys of all hospitals",
    "MaskedInput": "a question to be answered under masks",
    "ConsistencyCheck": "the names of the hospitals in a sum",
    "Unmask": "the signatures of the hospitals in a sum",
    "Finish": "the end of the run",
}
"""By kind of request: what reached the hospital."""


@dataclass(frozen=True)
class PhaseFlow:
    """One phase of the study: messages and bytes of all hospitals, and the bytes that left each.

    Parameters
    ----------
    left : mapping of site to bytes
        Sites that took no part in the phase are absent.
    """

    phase: str
    came: str
    what: str
    n_messages: int
    bytes_down: int
    bytes_up: int
    left: Mapping[str, int]


@dataclass(frozen=True)
class SiteFlow:
    """All messages of one hospital."""

    site: str
    n_messages: int
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True)
class RefusalCount:
    """How often a hospital answered a phase with a code, and what the code means."""

    site: str
    phase: str
    code: str
    meaning: str
    n: int


def hospital_flows(results: StudyResults) -> tuple[Flow, ...]:
    """Messages of the study's hospitals; the pooled reference of a simulation is none of them."""
    names = {site.name for site in results.study.sites}
    return tuple(flow for flow in results.flows if flow.site in names)


def by_phase(results: StudyResults) -> tuple[PhaseFlow, ...]:
    """One row a phase, in the order in which a study runs."""
    flows = hospital_flows(results)
    phases = dict.fromkeys(flow.phase for flow in sorted(flows, key=lambda flow: _order(results, flow)))
    return tuple(_phase(phase, [flow for flow in flows if flow.phase == phase]) for phase in phases)


def by_site(results: StudyResults) -> tuple[SiteFlow, ...]:
    """One row a hospital, sorted by name."""
    flows = hospital_flows(results)
    return tuple(
        SiteFlow(
            site,
            sum(flow.n_messages for flow in flows if flow.site == site),
            sum(flow.bytes_down for flow in flows if flow.site == site),
            sum(flow.bytes_up for flow in flows if flow.site == site),
        )
        for site in sorted({flow.site for flow in flows})
    )


def refusals(results: StudyResults) -> tuple[RefusalCount, ...]:
    """Every phase in which a hospital gave a code in place of an answer."""
    return tuple(
        RefusalCount(flow.site, flow.phase, flow.code, explain(flow.code).meaning, flow.n_messages)
        for flow in hospital_flows(results)
        if flow.code
    )


def readable_bytes(n: int) -> str:
    """Bytes in decimal units, as networks count them."""
    size = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            return f"{n} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError("unreachable: GB has no upper end")


def _phase(phase: str, flows: Sequence[Flow]) -> PhaseFlow:
    replies = dict.fromkeys(flow.reply for flow in flows if not flow.code)
    left: dict[str, int] = {}
    for flow in flows:
        left[flow.site] = left.get(flow.site, 0) + flow.bytes_up
    return PhaseFlow(
        phase=phase,
        came="; ".join(dict.fromkeys(WHAT_CAME[flow.request] for flow in flows)),
        what=" ".join(WHAT_LEFT[reply] for reply in replies) or WHAT_LEFT["Refusal"],
        n_messages=sum(flow.n_messages for flow in flows),
        bytes_down=sum(flow.bytes_down for flow in flows),
        bytes_up=sum(flow.bytes_up for flow in flows),
        left=left,
    )


def _order(results: StudyResults, flow: Flow) -> tuple[int, int, str]:
    kinds = list(WHAT_CAME)
    models = [entry.name for entry in results.study.models]
    model = flow.phase.rpartition(" ")[2]
    kind = kinds.index(flow.request)
    # training and testing of a model stand together, in the order of the study's models
    return (min(kind, 3) if kind < 5 else 5, models.index(model) if model in models else -1, f"{kind}{flow.phase}")
