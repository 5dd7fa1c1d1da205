"""What left each hospital: the journal's messages, added up by phase and hospital and said in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.data_flow_words import WHAT_CAME, WHAT_LEFT
from common.error_texts import explain
from server.record import Flow, StudyResults


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
