"""How long this machine stood still, on whichever of its processors: what to make of a time.

A real-time thread on every processor wants to run all the time; how late the latest of them was
is for how long what must run at once did not run there. Processors of a virtual machine are
stopped one by one, so a look at one of them is not enough.

Program: ``stalls.py``; class: :class:`Stalls`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from lab.child import MeasuringProcess
from lab.realtime import be_punctual

__all__ = ["STALL_MS", "Meter", "Stalls"]

STALL_MS = 150
"""Two heartbeats of the profile default are late by then: a node counts as lost before long."""
_LOOK_S = 0.02


class Meter:
    """Watches all processors that this process may use, with its priority, until that ends."""

    def __init__(self) -> None:
        """Begin, with a thread on every processor."""
        self._late_ns = dict.fromkeys(os.sched_getaffinity(0), 0)
        for processor in self._late_ns:
            threading.Thread(target=self._watch, args=(processor,), daemon=True).start()

    def _watch(self, processor: int) -> None:
        os.sched_setaffinity(0, {processor})  # of this thread
        due = time.monotonic_ns()
        while True:
            now = time.monotonic_ns()
            self._late_ns[processor] = max(self._late_ns[processor], now - due)
            due = time.monotonic_ns() + int(_LOOK_S * 1e9)
            time.sleep(_LOOK_S)

    def take_ns(self) -> int:
        """Return for how long a processor stood still at most since this was called last."""
        longest = max(self._late_ns.values())
        for processor in self._late_ns:
            self._late_ns[processor] = 0
        return longest


def main() -> None:
    """Watch until the standard input ends; answer each line with a report."""
    be_punctual()
    meter = Meter()
    while sys.stdin.readline():
        sys.stdout.write(json.dumps({"stall_ms": meter.take_ns() / 1e6}) + "\n")
        sys.stdout.flush()


class Stalls(MeasuringProcess):
    """Watches the processors of this machine; a context manager."""

    def __init__(self) -> None:
        super().__init__((), Path(__file__), ())

    def stall_ms(self) -> float:
        """Return for how long a processor stood still at most since this was called last."""
        return float(self.report()["stall_ms"])


if __name__ == "__main__":
    main()
