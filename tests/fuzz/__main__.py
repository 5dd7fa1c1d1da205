"""Try every target with seed after seed for ``FEDRAD_FUZZ_SECONDS``; a seed that fails is printed with its error."""

from __future__ import annotations

import logging
import os
import random
import sys
import traceback
from itertools import count
from time import monotonic

from tests.fuzz.targets import TARGETS


def main() -> int:
    """The number of targets that failed."""
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    seconds = float(os.environ.get("FEDRAD_FUZZ_SECONDS", "600")) / len(TARGETS)
    start = int(os.environ.get("FEDRAD_FUZZ_SEED", random.SystemRandom().getrandbits(48)))
    failed = 0
    for name, target in TARGETS.items():
        end = monotonic() + seconds
        for number in count():
            try:
                target(random.Random(start + number))
            except Exception:
                traceback.print_exc()
                print(f"{name}: FAILED with FEDRAD_FUZZ_SEED={start + number}", flush=True)
                failed += 1
                break
            if monotonic() > end:
                print(f"{name}: {number + 1} inputs from seed {start}, none failed", flush=True)
                break
    return failed


if __name__ == "__main__":
    sys.exit(main())
