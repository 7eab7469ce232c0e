"""Waiting for children, and for the orphans that a subreaper inherits; remembers how they ended."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass

from leitwolf.system.pidfd import start_time

__all__ = ["Ended", "Reaper"]

_REMEMBERED_MAX = 4_096
"""A host asks within a second; this is hours of ordinary deaths."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: ``code`` or ``signal``, the other one is -1 or 0."""

    process: int
    started: int
    code: int
    signal: int


class Reaper:
    """All children of this process."""

    def __init__(self) -> None:
        self._ended: OrderedDict[int, Ended] = OrderedDict()

    def reap(self) -> list[Ended]:
        """Wait for every child that has ended; never blocks."""
        found: list[Ended] = []
        while True:
            try:
                # Looked at first: a zombie still tells when it started.
                seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return found
            if seen is None:
                return found
            try:
                started = start_time(seen.si_pid)
            except OSError:
                started = 0
            os.waitid(os.P_PID, seen.si_pid, os.WEXITED | os.WNOHANG)
            exited = seen.si_code == os.CLD_EXITED
            one = Ended(
                process=seen.si_pid,
                started=started,
                code=seen.si_status if exited else -1,
                signal=0 if exited else seen.si_status,
            )
            self._ended.pop(one.process, None)
            self._ended[one.process] = one
            while len(self._ended) > _REMEMBERED_MAX:
                self._ended.popitem(last=False)
            found.append(one)

    def status(self, process: int, started: int = 0) -> Ended | None:
        """Return how a process ended, None when it is not known.

        Args:
            process: its id.
            started: its start in clock ticks, 0: whichever had this id last.
        """
        found = self._ended.get(process)
        if found is None or (started and found.started and found.started != started):
            return None
        return found
