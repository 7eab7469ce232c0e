"""Progress of the four processes of a node: one shared page, a slot each.

Mere liveness says little: a process that hangs is alive. Each process writes only its own slot, in
stores of 8 bytes; everybody reads all of them. Instants are CLOCK_MONOTONIC_RAW in ns. The page
outlives its writers; a slot of an earlier boot is empty. Standard library only.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from pathlib import Path

from leitwolf.system import clock
from leitwolf.system.page import map_page
from leitwolf.system.pidfd import start_time

__all__ = ["Flag", "Progress", "Role", "Slot"]

_SLOT_WORDS = 32
_PROCESS, _STARTED, _COUNTER, _INSTANT, _EXTRA, _PEAK, _FLAGS, _BOOT = range(8)


class Role(enum.IntEnum):
    """The processes of a node, by the number of their slot."""

    KEEPER = 0
    GUARD = 1
    DAEMON = 2
    HOST = 3


class Flag(enum.IntFlag):
    """What a process got from the machine, and what it is at."""

    REALTIME = 1
    LOCKED = 2
    """Its memory is locked."""
    WATCHDOG = 4
    """It feeds a watchdog."""
    GATE = 8
    """The kernel gate on addresses works."""
    CGROUPS = 16
    """It runs resources in cgroups."""
    DRAINS = 32
    """Before its end it waits for groups to move away or to stop, as long as these may take."""


_NO_FLAGS = Flag(0)


@dataclass(frozen=True, slots=True)
class Slot:
    """What one process says of itself."""

    process: int = 0
    """Its id; 0: none was here in this boot."""
    started: int = 0
    """Its start in clock ticks after boot (see :func:`leitwolf.system.pidfd.start_time`)."""
    counter: int = 0
    """Passes made; 0: not ready yet."""
    instant: int = 0
    """Of the last pass."""
    extra: int = 0
    """Guard: worst stall of the last minute, ns. Daemon: instant at which its oldest unsynced
    write began, 0: none."""
    peak: int = 0
    """Guard: worst stall since its start, ns."""
    flags: Flag = _NO_FLAGS

    @property
    def effective(self) -> int:
        """Instant of the last progress, an unsynced write included (L12)."""
        return min(self.instant, self.extra) if self.extra else self.instant


class Progress:
    """The page as one process sees it.

    Args:
        path: the file, on a tmpfs; made if it is not there.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        page = map_page(path, writable=True)
        if page is None:
            raise FileNotFoundError(path)
        self._map = page
        self._words = memoryview(page).cast("q")
        # 63 bits of the boot id: enough to tell one boot from another.
        self._boot = int.from_bytes(clock.boot_id()[:8], "big") >> 1
        self._own: Role | None = None

    def begin(self, role: Role) -> None:
        """Take the slot of ``role`` for this process; its counter is 0 until the first advance."""
        words, at = self._words, role * _SLOT_WORDS
        words[at + _PROCESS] = 0
        for word in (_COUNTER, _EXTRA, _PEAK, _FLAGS):
            words[at + word] = 0
        words[at + _INSTANT] = clock.raw_ns()
        words[at + _STARTED] = start_time(os.getpid())
        words[at + _BOOT] = self._boot
        words[at + _PROCESS] = os.getpid()
        self._own = role

    def resume(self, role: Role) -> None:
        """Go on with the slot that this process had before it replaced its program (exec)."""
        self._own = role

    def advance(self, instant: int, extra: int = 0, peak: int = 0) -> None:
        """Say that this process made a pass at ``instant``; the meaning of the rest: :class:`Slot`.

        Raises:
            ValueError: :meth:`begin` was not called.
        """
        if self._own is None:
            raise ValueError("no slot was taken")
        words, at = self._words, self._own * _SLOT_WORDS
        words[at + _EXTRA] = extra
        words[at + _PEAK] = peak
        words[at + _INSTANT] = instant
        words[at + _COUNTER] += 1

    def mark(self, flags: Flag) -> None:
        """Say what this process got from the machine, or is at; all else is not so.

        Raises:
            ValueError: :meth:`begin` was not called.
        """
        if self._own is None:
            raise ValueError("no slot was taken")
        self._words[self._own * _SLOT_WORDS + _FLAGS] = int(flags)

    def slot(self, role: Role) -> Slot:
        """Return what the process in ``role`` said last; an empty slot when none did."""
        words, at = self._words, role * _SLOT_WORDS
        process = words[at + _PROCESS]
        if process == 0 or words[at + _BOOT] != self._boot:
            return Slot()
        started, counter, instant, extra, peak, flags = words[at + _STARTED : at + _BOOT].tolist()
        if words[at + _PROCESS] != process:  # taken by another one in this moment
            return Slot()
        return Slot(process, started, counter, instant, extra, peak, Flag(flags))

    def effective(self, role: Role) -> int:
        """Return :attr:`Slot.effective` of the process in ``role`` without the rest; 0: none."""
        words, at = self._words, role * _SLOT_WORDS
        if words[at + _PROCESS] == 0 or words[at + _BOOT] != self._boot:
            return 0
        instant, extra = words[at + _INSTANT], words[at + _EXTRA]
        return min(instant, extra) if extra else instant

    def close(self) -> None:
        """Unmap; the page stays."""
        self._words.release()
        self._map.close()
