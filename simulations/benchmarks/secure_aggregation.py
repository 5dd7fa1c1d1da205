"""Cost of a masked round against a plain one, and 100 sites of which 30 % drop out in each step.

``make bench-secure-aggregation`` runs it with the figures of the targets: 1 M parameters, 10 sites, at most 1.5 times
the bytes and twice the coordinator's CPU. The coordinator's CPU is what this process spends outside the sites: encoding
questions, decoding answers, the procedure of the round, the journal. TLS and HTTP, which cost the same for the same
bytes, are left out of both, so the ratio of a real round is smaller. ``--small`` takes seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np

from client.masked_sums import MaskedSums
from common.arrays import Parameters
from common.config.loading import digest, parse
from common.config.secure_aggregation import sum_plan
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import Code, FedradError
from common.federation import Answer
from common.journal import JsonLines
from common.messages import LocalUpdate, MaskingRequest, Refusal, Reply, Request, Train
from common.privacy.contribution import from_words, to_words
from common.privacy.mask_graph import Ring
from common.rng import generator
from common.strategies import FedAvgConfig, ServerState
from common.wire import Limits, decode_message, encode_message
from server.conversation import Conversation, Refused
from server.secure_sum import SecureConversation
from simulations.credentials import issue_credentials

STEPS = ("AdvertiseKeys", "ShareKeys", "MaskedInput", "ConsistencyCheck", "Unmask")
MOST_BYTES, MOST_CPU = 1.5, 2.0
REPEATS = 3

STUDY = """
name = "bench"
title = "Benchmark of masked sums"
seed = 1
outcome = {{ kind = "classification", column = "y", values = ["0", "1"], names = ["no", "yes"] }}
clinical = [{{ column = "age", kind = "numeric" }}]
sites = [{sites}]
federated = {{ quorum = {quorum} }}
privacy = {{ secure_aggregation = {{ most_cases = 1000 }} }}
[[images]]
name = "ct"
modality = "CT"
image = "{{case_id}}/ct.nii.gz"
roi = "{{case_id}}/roi.nii.gz"
[[models]]
name = "model"
rounds = 100
model = {{ kind = "linear" }}
training = {{ learning_rate = 0.1 }}
"""


class BenchSite:
    """A site whose update is drawn, not trained: all that it spends is what masks cost."""

    def __init__(self, name: str, study: StudyConfig, sums: MaskedSums) -> None:
        self.name = name
        self.study = study
        self.sums = sums

    def answer(self, request: Request) -> Reply:
        try:
            if isinstance(request, MaskingRequest):
                return self.sums.answer(request, self.study, lambda question: self.update(cast(Train, question)))
            return self.update(cast(Train, request))
        except FedradError as error:
            return Refusal(error.code)

    def update(self, request: Train) -> LocalUpdate:
        rng = generator(1, self.name, request.round_number)
        n_cases = int(rng.integers(50, 500))
        drawn = rng.normal(0, 0.01, request.parameters.size).astype(np.float32)
        return LocalUpdate(
            request.model, request.round_number, n_cases, request.parameters.unflatten(drawn), float(rng.uniform(0, 1))
        )


@dataclass
class MeteredFederation:
    """A federation of objects that tells the sites' CPU from the coordinator's; ``gone`` do not answer one step."""

    members: Mapping[str, BenchSite]
    gone: Collection[str] = ()
    in_step: str = ""
    site_s: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0
    spent: dict[str, float] = field(default_factory=dict)

    def sites(self) -> tuple[str, ...]:
        return tuple(sorted(self.members))

    def ask(self, requests: Mapping[str, Request], *, deadline_s: float) -> Iterator[Answer]:
        limits = Limits()
        wires = {id(request): encode_message(request) for request in requests.values()}  # each object once, as Flower
        for site in sorted(requests):
            wire = wires[id(requests[site])]
            if site in self.gone and type(requests[site]).__name__ == self.in_step:
                yield Answer(site, Refusal(Code.SITE_SILENT), 0, 0, 0.0)
                continue
            start = time.process_time()
            request = cast(Request, decode_message(wire.record, limits))
            sent = encode_message(self.members[site].answer(request))
            spent = time.process_time() - start
            self.site_s += spent
            self.spent[site] = self.spent.get(site, 0.0) + spent
            reply = cast(Reply, decode_message(sent.record, limits))
            self.bytes_down += wire.size
            self.bytes_up += sent.size
            yield Answer(site, reply, wire.size, sent.size, 0.0)


@dataclass(frozen=True)
class Cost:
    """What one round took."""

    server_s: float
    site_s: float
    n_bytes: int
    update: LocalUpdate
    refused: tuple[str, ...]


class Bench:
    """A study of ``n_sites`` and its sites."""

    def __init__(self, folder: Path, n_sites: int, n_parameters: int, *, quorum: int) -> None:
        names = [f"site-{i:03d}" for i in range(n_sites)]
        listed = ", ".join(f'{{ name = "{name}" }}' for name in names)
        self.study = parse(STUDY.format(sites=listed, quorum=quorum), StudyConfig, source="bench.toml")
        self.parameters = Parameters({"w": np.zeros(n_parameters, dtype=np.float32)})
        self.journal = JsonLines(folder / "events.jsonl")
        issued = issue_credentials(names)
        self.members = {}
        for name in names:
            config = SiteConfig(
                site=name,
                manifest=folder / "cases.csv",
                data=folder / "images",
                state=folder / name,
                studies=(folder / "s.toml",),
            )
            sums = MaskedSums(config, JsonLines(folder / name / "sums.jsonl"), partial(issued.__getitem__, name))
            self.members[name] = BenchSite(name, self.study, sums)

    def round(self, number: int, *, masked: bool, gone: Collection[str] = (), in_step: str = "") -> Cost:
        """One round of FedAvg; every site's update in memory at most once, as in a study."""
        federation = MeteredFederation(self.members, gone, in_step)
        of_study = digest(self.study)
        conversation: Conversation = (
            SecureConversation(federation, self.journal, of_study, self.study)
            if masked
            else Conversation(federation, self.journal, of_study)
        )
        question = Train(of_study, 0, "model", number, self.parameters)
        refused: list[str] = []
        heard: list[LocalUpdate] = []

        def updates() -> Iterator[LocalUpdate]:
            asked = dict.fromkeys(self.members, question)
            for site, reply in conversation.insist(asked, LocalUpdate, deadline_s=60.0, phase="train"):
                if isinstance(reply, Refused):
                    refused.append(site)
                else:
                    heard[:] = [reply]
                    yield reply

        start = time.process_time()
        FedAvgConfig().build().aggregate(self.parameters, updates(), ServerState())
        total = time.process_time() - start
        n_bytes = federation.bytes_down + federation.bytes_up
        return Cost(
            total - federation.site_s, statistics.median(federation.spent.values()), n_bytes, heard[-1], tuple(refused)
        )

    def is_exact(self, cost: Cost, number: int) -> bool:
        """Whether the update is that of the plain sum of the included sites' words, to the last bit."""
        question = Train(digest(self.study), 0, "model", number, self.parameters)
        plan = sum_plan(self.study, self.study.training_sites)
        included = [site for name, site in self.members.items() if name not in cost.refused]
        layout, total = to_words(included[0].update(question), plan)
        for site in included[1:]:
            total.add(to_words(site.update(question), plan)[1])
        plain = cast(LocalUpdate, from_words(question, layout, total, plan, n_included=len(included)))
        return plain.delta.digest() == cost.update.delta.digest() and plain.n_cases == cost.update.n_cases


def against_plain(folder: Path, n_sites: int, n_parameters: int) -> bool:
    """Print both rounds and their ratios, medians of `REPEATS`; whether the targets are met."""
    bench = Bench(folder, n_sites, n_parameters, quorum=n_sites)
    for masked in (False, True):  # buffers, imports and certificates are warm
        bench.round(1, masked=masked)
    plain = [bench.round(2 + i, masked=False) for i in range(REPEATS)]
    masked_rounds = [bench.round(2 + i, masked=True) for i in range(REPEATS)]
    lost = tuple(bench.members)[: 3 * n_sites // 10]
    with_loss = Bench(folder / "loss", n_sites, n_parameters, quorum=n_sites - len(lost))
    with_loss.round(1, masked=True)
    lossy = [with_loss.round(2 + i, masked=True, gone=lost, in_step="MaskedInput") for i in range(REPEATS)]
    exact = bench.is_exact(masked_rounds[0], 2) and with_loss.is_exact(lossy[0], 2)
    print(f"{n_sites} sites, {n_parameters:,} parameters, medians of {REPEATS}")
    print(f"{'round':<34}{'MB':>8}{'server CPU s':>14}{'CPU s of a site':>17}")
    rows = [("plain", plain), ("masked", masked_rounds), (f"masked, {len(lost)} lost before their words", lossy)]
    for name, costs in rows:
        server, site = (statistics.median(getattr(c, key) for c in costs) for key in ("server_s", "site_s"))
        print(f"{name:<34}{costs[0].n_bytes / 1e6:>8.1f}{server:>14.3f}{site:>17.3f}")
    by_bytes = masked_rounds[0].n_bytes / plain[0].n_bytes
    base = statistics.median(cost.server_s for cost in plain)
    by_cpu, by_cpu_lossy = (statistics.median(c.server_s for c in costs) / base for costs in (masked_rounds, lossy))
    print(
        f"ratios: bytes {by_bytes:.3f} (at most {MOST_BYTES}), server CPU {by_cpu:.2f} (at most {MOST_CPU}), "
        f"with losses {by_cpu_lossy:.2f}; sums exact: {'yes' if exact else 'NO'}"
    )
    return exact and by_bytes <= MOST_BYTES and by_cpu <= MOST_CPU


def with_losses(folder: Path, n_sites: int, n_parameters: int) -> bool:
    """Print a round of many sites for each step in which 30 % drop out; whether all sums are exact."""
    lost = 3 * n_sites // 10
    bench = Bench(folder, n_sites, n_parameters, quorum=n_sites - lost)
    settings = bench.study.privacy.secure_aggregation
    assert settings is not None
    ring = Ring.choose(n_sites=n_sites, least=settings.least(n_sites))
    print(
        f"{n_sites} sites, {n_parameters:,} parameters; each masks with {ring.degree}, {ring.threshold} shares of "
        f"{ring.degree + 1} give a secret back"
    )
    print(f"{lost} lost in{'':<17}{'in the sum':>12}{'MB':>8}{'server CPU s':>14}{'CPU s of a site':>17}{'exact':>7}")
    fine = True
    for number, step in enumerate(("", *STEPS), start=1):
        gone = [name for i, name in enumerate(bench.members) if i % 10 in (1, 4, 8)][:lost]
        cost = bench.round(number, masked=True, gone=gone if step else (), in_step=step)
        exact = bench.is_exact(cost, number)
        fine = fine and exact
        print(
            f"{step or '(none)':<24}{n_sites - len(cost.refused):>12}{cost.n_bytes / 1e6:>8.1f}{cost.server_s:>14.2f}"
            f"{cost.site_s:>17.3f}{'yes' if exact else 'NO':>7}",
            flush=True,
        )
    return fine


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 1 where a target is missed or a sum is not exact."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes; the targets are not judged")
    small = parser.parse_args(arguments).small
    with TemporaryDirectory(prefix="fedrad-bench-") as folder:
        met = against_plain(Path(folder) / "ten", 10, 20_000 if small else 1_000_000)
        exact = with_losses(Path(folder) / "many", 34 if small else 100, 1_000 if small else 100_000)
    return 0 if exact and (met or small) else 1


if __name__ == "__main__":
    sys.exit(main())
