"""Wall clocks of single hosts that can be set while their processes run: Linux has no namespace for them.

libfaketime stands between a process and the system's clock. It reads the offset again from a file, so that a clock can
jump; the monotonic clock stays the machine's, as where an administrator sets the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LIBRARIES = tuple(
    folder / "faketime" / "libfaketimeMT.so.1"
    for folder in (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib/aarch64-linux-gnu"), Path("/usr/lib64"))
)


def why_no_clocks() -> str:
    """Why clocks cannot be set here; empty where they can."""
    return "" if any(path.exists() for path in LIBRARIES) else "libfaketime is not installed: make clocks"


@dataclass(frozen=True)
class Clock:
    """The wall clock of one host."""

    file: Path

    def set_ahead(self, seconds: float) -> None:
        """Put the clock ahead of the machine's, or behind it; running processes see it within a second."""
        self.file.write_text(f"{seconds:+.3f}\n")

    def environment(self) -> dict[str, str]:
        """Variables under which a process has this clock."""
        library = next(path for path in LIBRARIES if path.exists())
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
