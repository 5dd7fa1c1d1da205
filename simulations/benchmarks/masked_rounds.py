"""What a coordinator spends on plain and on masked rounds over real processes and mutual TLS on loopback.

`simulations.benchmarks.secure_aggregation` leaves the network out, so that its ratio is that of the sums alone. Here
all that the coordinator's process does counts: TLS, HTTP, Flower's objects, decoding, adding up, unmasking, journal. A
round is FedAvg over sites whose updates are drawn, not trained. ``make bench-secure-aggregation`` runs both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, process_time

import numpy as np

from client.credentials import Credentials, read_certificate
from client.identity import load_key, make_identity
from client.masked_sums import MaskedSums
from client.node import NodeConnection, serve
from common.arrays import Parameters
from common.config.loading import digest, parse
from common.config.site import SiteConfig
from common.config.study import StudyConfig
from common.errors import Code, FederationError
from common.federation import Answer, Federation
from common.files import write_atomic
from common.journal import JsonLines
from common.messages import LocalUpdate, MaskedInput, Refusal, Request, Train
from common.privacy.signing import Authorities, Signer
from common.strategies import FedAvgConfig, ServerState
from server.conversation import Conversation, Refused, same_request
from server.coordinator import CoordinatorSettings, FlowerFederation
from server.provisioning import init_authority
from server.secure_sum import SecureConversation
from simulations.benchmarks.secure_aggregation import MOST_CPU, REPEATS, STUDY, BenchSite

STUDY_FILE = "study.toml"
DEADLINE_S = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 where a masked round costs the coordinator more than the target allows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--as-site", nargs=2, metavar=("ADDRESS", "FOLDER"), help="used by the benchmark itself")
    options = parser.parse_args(arguments)
    if options.as_site:
        be_site(options.as_site[0], Path(options.as_site[1]))
        return 0
    with TemporaryDirectory(prefix="fedrad-bench-") as folder:
        return int(measure(Path(folder), options.sites, options.parameters, options.repeats) > MOST_CPU)


def measure(home: Path, n_sites: int, n_parameters: int, repeats: int) -> float:
    """Print CPU and wall seconds of rounds; the masked round's CPU at the coordinator over the plain one's."""
    names = [f"site-{i:03d}" for i in range(n_sites)]
    lost = names[: 3 * n_sites // 10]
    text = STUDY.format(sites=", ".join(f'{{ name = "{n}" }}' for n in names), quorum=n_sites - len(lost))
    study = parse(text, StudyConfig, source=STUDY_FILE)
    parameters = Parameters({"w": np.zeros(n_parameters, dtype=np.float32)})
    with _federation(home, names, text) as federation:
        kinds: dict[str, tuple[type[Conversation], Collection[str]]] = {
            "plain": (Conversation, ()),
            "masked": (SecureConversation, ()),
            f"masked, {len(lost)} lost before their words": (SecureConversation, lost),
        }
        print(f"{n_sites} sites over TLS, {n_parameters:,} parameters, medians of {repeats}")
        print(f"{'round':<34}{'coordinator CPU s':>18}{'wall s':>9}")
        medians: dict[str, float] = {}
        number = 0
        for kind, (conversation, gone) in kinds.items():
            costs = []
            for _ in range(repeats + 1):  # the first is warm-up
                number += 1
                costs.append(_round(conversation, _Losing(federation, gone), home, study, parameters, number))
            medians[kind], wall = (median(values) for values in zip(*costs[1:], strict=True))
            print(f"{kind:<34}{medians[kind]:>18.3f}{wall:>9.2f}", flush=True)
    masked, lossy = (medians[kind] / medians["plain"] for kind in kinds if kind != "plain")
    print(f"ratios of the coordinator's CPU: {masked:.2f} (at most {MOST_CPU}), with losses {lossy:.2f}")
    return masked


def be_site(address: str, home: Path) -> None:
    """A site that draws its updates; in masked words where it is asked for these."""
    study = parse((home.parent / STUDY_FILE).read_text(), StudyConfig, source=STUDY_FILE)
    config = SiteConfig(
        site=home.name,
        manifest=home / "cases.csv",
        data=home.parent / "images",
        state=home,
        studies=(home.parent / STUDY_FILE,),
    )
    signer = Signer(load_key(home / "node.key"), read_certificate(home / "node.pem"))
    credentials = Credentials(signer, Authorities((read_certificate(home / "ca.pem"),)))
    sums = MaskedSums(config, JsonLines(home / "sums.jsonl"), lambda: credentials)
    connection = NodeConnection(address, home / "ca.pem", home / "node.key", home / "node.pem")
    site = BenchSite(home.name, study, sums)
    serve(connection, site.answer, stop=threading.Event(), on_event=lambda _: None)


class _Losing:
    """The federation, of which some sites' masked words never arrive."""

    def __init__(self, federation: Federation, gone: Collection[str]) -> None:
        self._federation = federation
        self._gone = gone

    def sites(self) -> tuple[str, ...]:
        return self._federation.sites()

    def ask(self, requests: Mapping[str, Request], *, deadline_s: float) -> Iterator[Answer]:
        silent = [site for site in sorted(requests) if site in self._gone and isinstance(requests[site], MaskedInput)]
        for site in silent:
            yield Answer(site, Refusal(Code.SITE_SILENT), 0, 0, 0.0)
        heard = {site: request for site, request in requests.items() if site not in silent}
        if heard:
            yield from self._federation.ask(heard, deadline_s=deadline_s)


@contextmanager
def _federation(home: Path, names: Sequence[str], study: str) -> Iterator[FlowerFederation]:
    """A coordinator in this process and a process for each site, all connected."""
    authority = init_authority(home, addresses=["127.0.0.1"])
    (home / STUDY_FILE).write_text(study)
    for name in names:
        write_atomic(home / name / "node.pem", authority.sign(make_identity(home / name, site=name), site=name))
        write_atomic(home / name / "ca.pem", authority.ca_certificate)
    with FlowerFederation(CoordinatorSettings(home, "127.0.0.1:0")) as federation, ExitStack() as running:
        for name in names:
            address = f"127.0.0.1:{federation.port}"
            command = [
                sys.executable,
                "-m",
                "simulations.benchmarks.masked_rounds",
                "--as-site",
                address,
                str(home / name),
            ]
            process = running.enter_context(subprocess.Popen(command))
            running.callback(process.terminate)
        if missing := federation.wait_for(names, deadline_s=DEADLINE_S):
            raise FederationError(f"{', '.join(missing)} did not connect")
        yield federation


def _round(
    kind: type[Conversation],
    federation: Federation,
    home: Path,
    study: StudyConfig,
    parameters: Parameters,
    number: int,
) -> tuple[float, float]:
    """CPU and wall seconds of one round."""
    journal, of_study = JsonLines(home / "events.jsonl"), digest(study)
    if kind is SecureConversation:
        conversation: Conversation = SecureConversation(federation, journal, of_study, study)
    else:
        conversation = Conversation(federation, journal, of_study)
    question = Train(of_study, 0, "model", number, parameters)
    cpu, wall = process_time(), perf_counter()
    asked = conversation.insist(
        same_request(question, federation.sites()), LocalUpdate, deadline_s=DEADLINE_S, phase="train"
    )
    updates = (reply for _, reply in asked if not isinstance(reply, Refused))
    FedAvgConfig().build().aggregate(parameters, updates, ServerState())
    return process_time() - cpu, perf_counter() - wall


if __name__ == "__main__":
    sys.exit(main())
