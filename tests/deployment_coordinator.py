"""A coordinator process to be killed: ``python -m tests.deployment_coordinator HOME PORT ROUNDS``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from common.arrays import Parameters
from common.messages import LocalUpdate, Train
from server.coordinator import CoordinatorSettings, FlowerFederation
from tests.deployment import SITES


def main(home: str, port: str, rounds: str) -> None:
    with FlowerFederation(CoordinatorSettings(Path(home), f"127.0.0.1:{port}")) as federation:
        assert federation.wait_for(SITES, deadline_s=30) == ()
        for number in range(1, int(rounds) + 1):
            request = Train("study", 0, "model", number, Parameters({"w": np.full(1000, number, np.float32)}))
            for answer in federation.ask(dict.fromkeys(SITES, request), deadline_s=60):
                assert isinstance(answer.reply, LocalUpdate), answer
            with (Path(home) / "rounds.txt").open("a") as log:
                log.write(f"{number}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
