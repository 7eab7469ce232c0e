"""The beat of the daemon: shows progress, and wakes the core in time, by one timer if possible."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from leitwolf.system.clock import next_multiple, raw_ns

__all__ = ["Pulse"]

_BEAT_NS = 100_000_000
"""Without progress for 2 P, 300 ms at least, a daemon loses its office (L12): two beats may be
missed. Each costs 0.3 ms, most of it for waking up."""
_SOON_NS = 2_000_000
"""What is wanted so soon after a beat is done with it: a core may be woken early."""
_PAUSE_NS = 500_000
"""A core that wants to be woken at once, again and again, leaves time for everything else."""
_SECOND = 1e9


class Pulse:
    """Calls ``show`` at every beat, and ``wake`` at the instant that was wanted last (RAW ns)."""

    def __init__(self, *, show: Callable[[int], None], wake: Callable[[], None]) -> None:
        """Prepare; :meth:`start` begins."""
        self._show = show
        self._wake = wake
        self._wanted = 0
        self._beat_at = 0
        self._beat: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0

    def start(self) -> None:
        """Begin to beat, in the running event loop."""
        self._on_beat()

    def stop(self) -> None:
        """End."""
        for timer in (self._beat, self._timer):
            if timer is not None:
                timer.cancel()

    def want(self, at: int) -> None:
        """Wake the core at ``at`` instead of whatever was wanted before."""
        self._wanted = at
        if at < self._beat_at:
            self._arm(at)

    def _arm(self, at: int) -> None:
        """Set the timer; one that is early stays, and looks again."""
        now = raw_ns()
        at = max(at, now + _PAUSE_NS)
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer_at = at
        later = asyncio.get_running_loop().call_later
        self._timer = later((at - now) / _SECOND, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._look(raw_ns())

    def _on_beat(self) -> None:
        now, loop = raw_ns(), asyncio.get_running_loop()
        at = next_multiple(loop.time(), _BEAT_NS / _SECOND)
        self._beat_at = now + int((at - loop.time()) * _SECOND)
        self._beat = loop.call_at(at, self._on_beat)
        self._show(now)
        self._look(now + _SOON_NS)

    def _look(self, until: int) -> None:
        if self._wanted <= until:
            self._wake()
        elif self._wanted < self._beat_at:
            self._arm(self._wanted)
