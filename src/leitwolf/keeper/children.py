"""One supervised process: running, ended, to be started again, or hanging."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import NamedTuple

from leitwolf.system.pidfd import ProcessHandle
from leitwolf.system.progress import Flag, Progress, Role

__all__ = ["Child", "Limits"]

_MILLISECOND = 1_000_000
_SECOND = 1_000_000_000
_BACK_OFF_FIRST = 50 * _MILLISECOND
_BACK_OFF_LAST = 2 * _SECOND
_STEADY = 10 * _SECOND
"""A process that lived this long has shown that it can: the next restart is at once again."""
_SLOW = 10 * _SECOND
_DOUBLINGS_MAX = 4
_LOOK_MAX = 200 * _MILLISECOND
"""Longest time that counts between two looks: when the keeper itself was frozen, the others were
too, and nobody hung."""


class Limits(NamedTuple):
    """When a process counts as hanging, and how often it is restarted at once."""

    progress: int
    """Time without progress, ns."""
    start: int
    """Time until its first progress, ns; doubled when that was too short, up to 16 times as much:
    on a starved machine who is killed while it loads begins anew, and would do so for ever."""
    patience: int
    """Deaths in a row that are followed by a restart at once; then the back-off begins."""


class Child:
    """A process in a role. Instants are RAW ns.

    Args:
        role: whose slot it has.
        progress: the shared page.
        spawn: starts it and returns its id.
        limits: of its patience.
    """

    def __init__(
        self,
        role: Role,
        progress: Progress,
        spawn: Callable[[], int],
        limits: Limits,
    ) -> None:
        self.role = role
        self.wanted = True
        self.killed_at = 0
        self.handle: ProcessHandle | None = None
        self._progress = progress
        self._spawn = spawn
        self._limits = limits
        self._failures = 0
        self._restart_at = 0
        self._began = 0
        self._counter = -1
        self._stale = 0
        self._looked = 0
        self._doublings = 0

    @property
    def name(self) -> str:
        """Role in words."""
        return self.role.name.lower()

    @property
    def ready(self) -> bool:
        """It runs and has made its first pass."""
        if self.handle is None:
            return False
        slot = self._progress.slot(self.role)
        return slot.process == self.handle.process and slot.counter > 0

    @property
    def hopeless(self) -> int:
        """Instant at which it was killed for hanging and since which it has not ended, 0: none."""
        return self.killed_at if self.handle is not None else 0

    def loads(self, now: int) -> bool:
        """Tell whether it runs for long, and has yet to make its first pass: not one that dies."""
        return self.handle is not None and not self.ready and now - self._began > _SLOW

    def drains(self) -> bool:
        """Tell whether it says that it waits for groups before it ends."""
        slot = self._progress.slot(self.role)
        mine = self.handle is not None and slot.process == self.handle.process
        return mine and bool(slot.flags & Flag.DRAINS)

    def adopt(self, now: int) -> bool:
        """Take over the process that a former keeper started, if it lives."""
        slot = self._progress.slot(self.role)
        self.handle = ProcessHandle.adopt(slot.process, slot.started)
        self._begin(now)
        return self.handle is not None

    def _begin(self, now: int) -> None:
        self._began = self._looked = now
        self._counter, self._stale, self.killed_at = -1, 0, 0

    def start_due(self, now: int) -> bool:
        """Tell whether it is to be started now."""
        return self.wanted and self.handle is None and now >= self._restart_at

    def deadline(self) -> int:
        """Return when it is to be started, 0: it runs or is not wanted."""
        return self._restart_at if self.wanted and self.handle is None else 0

    def start(self, now: int) -> int:
        """Start it; return its id.

        Raises:
            OSError: no process can be made.
        """
        self.handle = ProcessHandle(self._spawn())
        self._begin(now)
        return self.handle.process

    def postpone(self, now: int) -> None:
        """A start failed: try again after a while."""
        self._failures += 1
        self._restart_at = now + self._back_off()

    def ended(self, now: int) -> int:
        """Note the end if it has ended; return the id it had, 0: it runs."""
        if self.handle is None or not self.handle.ended():
            return 0
        process = self.handle.process
        self.handle.close()
        self.handle = None
        self._failures = 0 if now - self._began >= _STEADY else self._failures + 1
        self._restart_at = now + self._back_off()
        return process

    def _back_off(self) -> int:
        beyond = self._failures - self._limits.patience
        if beyond <= 0:
            return 0
        return int(min(_BACK_OFF_LAST, _BACK_OFF_FIRST << min(beyond - 1, 10)))

    def forgive(self) -> None:
        """The end was asked for: start again at once."""
        self._failures, self._restart_at = 0, 0

    def hangs(self, now: int) -> bool:
        """Tell whether it made no progress for its limit while this process ran."""
        elapsed = min(now - self._looked, _LOOK_MAX)
        self._looked = now
        if self.handle is None or self.killed_at:
            return False
        slot = self._progress.slot(self.role)
        mine = slot.process == self.handle.process
        counter = slot.counter if mine else 0
        if counter != self._counter:
            self._counter, self._stale = counter, 0
            self._doublings = 0 if counter else self._doublings
            return False
        self._stale += elapsed
        if counter:
            return self._stale >= self._limits.progress
        if self._stale < self._limits.start << self._doublings:
            return False
        self._doublings = min(self._doublings + 1, _DOUBLINGS_MAX)
        return True

    def kill(self, now: int) -> None:
        """Kill it."""
        if self.handle is not None:
            self.handle.send(signal.SIGKILL)
            self.killed_at = self.killed_at or now
