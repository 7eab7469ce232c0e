"""The kernel's lease on addresses, armed by a thread of its own.

Rules (L9):
- The time that remains is computed after ``t0`` was read; 0.85 of it is armed; when the call took
  more than a tenth of it the lease is deleted again, and counts as refused.
- A renewal is refused by the kernel when the lease ran out: a guard frozen between computing and
  sending cannot re-open the gate.
- A renewal that went as the arming before it is not told: that would wake the guard at every
  heartbeat for nothing.
- :meth:`Arming.disarm` also takes back what was asked for and not begun; what is under way is
  followed by the disarming.

Theory of operation. Loads of rules by other programs hold an nftables transaction for tens of
milliseconds, and heartbeats must never wait for one; hence the thread. It takes the newest request
only. With every arming, and in between, it looks for foreign hands on the rules, builds them anew
with the addresses that this node has, and arms the lease that is in force, if it is, for what
remains of it.

What this does not guarantee. Between a foreign deletion of the rules and their rebuilding, up to
100 ms, addresses answer without a lease; both are recorded.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Protocol

from leitwolf.core.lease.effects import Armed, ArmGate
from leitwolf.core.lease.profile import ARMED_PERCENT
from leitwolf.system import clock, realtime
from leitwolf.wire.guard import Recorded

__all__ = ["Arming", "GatePort"]

_TOO_LONG_PART = 10
_MILLISECOND = 1_000_000
_LOOK_MS = 100
"""At the latest, rules are looked at again, or repaired again; with every arming as well."""


class GatePort(Protocol):
    """What is needed of :class:`leitwolf.system.gate.Gate`."""

    def arm(self, duration_ms: int, lease: int, *, renewal: bool) -> bool:
        """Begin or prolong the lease with this id; False: refused."""
        ...

    def disarm(self) -> None:
        """Delete the lease."""
        ...

    def install(self, addresses: Iterable[str] = ()) -> None:
        """Build the rules anew, closed."""
        ...

    def intact(self) -> bool:
        """Tell whether the rules are there."""
        ...

    def manage(self, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Put addresses under the gate."""
        ...

    def hold(self, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        """Let addresses answer under a lease."""
        ...

    def managed(self) -> Collection[str]:
        """Return the addresses under the gate."""
        ...

    def touched(self) -> bool:
        """Tell whether others changed rules since the last call."""
        ...


class Arming:
    """The thread. Results are there when ``descriptor`` is readable: see :meth:`results`.

    Args:
        gate: the kernel's gate; from now on nobody else in this process uses it.
        addresses: returns the virtual addresses that this node has.
        current: lease that is armed already, by a predecessor of this process.
    """

    def __init__(
        self, gate: GatePort, addresses: Callable[[], list[str]], current: ArmGate | None = None
    ) -> None:
        self._gate = gate
        self._addresses = addresses
        self._lock = threading.Lock()
        self._wanted: ArmGate | None = None
        self._shut = False
        self._current = current
        self._broken = False
        self._accepted = False
        """What came of the newest arming."""
        self._ended = False
        self._results: deque[Armed | Recorded] = deque()
        self._request = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="arming", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def arm(self, request: ArmGate) -> None:
        """Arm; answered by :class:`Armed` among the results.

        Not answered: what a newer request displaces, and a renewal that went well after an arming
        that did.
        """
        with self._lock:
            displaced = self._wanted
            if displaced is not None and displaced.lease == request.lease:
                # A first arming that was not begun stays one, with the newer end.
                request = replace(request, renewal=request.renewal and displaced.renewal)
            self._wanted = self._current = request
        os.eventfd_write(self._request, 1)

    def disarm(self) -> None:
        """Delete the lease."""
        with self._lock:
            self._wanted = self._current = None
            self._shut = True
        os.eventfd_write(self._request, 1)

    def results(self) -> list[Armed | Recorded]:
        """Return what came since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)
        found = []
        while self._results:
            found.append(self._results.popleft())
        return found

    def stop(self) -> None:
        """End the thread after what it has begun; the rules stay as they are."""
        with self._lock:
            self._ended = True
        os.eventfd_write(self._request, 1)
        self._thread.join()

    # --- in the thread ---------------------------------------------------------------------------

    def _tell(self, result: Armed | Recorded) -> None:
        self._results.append(result)
        os.eventfd_write(self.descriptor, 1)

    def _run(self) -> None:
        realtime.stand_back()
        poll = select.poll()
        poll.register(self._request, select.POLLIN)
        while True:
            if poll.poll(_LOOK_MS):
                os.eventfd_read(self._request)
            with self._lock:
                wanted, shut, ended = self._wanted, self._shut, self._ended
                self._wanted, self._shut = None, False
            if shut:
                self._try(self._gate.disarm)
            if wanted is not None:
                self._arm(wanted)
            if ended:
                return
            self._look()

    def _look(self) -> None:
        try:
            touched = self._gate.touched()
        except OSError:
            touched = True  # the repair finds out and records it
        if touched or self._broken:
            self._broken = not self._try(self._repair)

    def _try(self, action: Callable[[], None]) -> bool:
        """Do something to the gate; a failure is recorded and leads to a repair soon."""
        try:
            action()
        except OSError as error:
            if not self._broken:
                self._tell(Recorded(clock.raw_ns(), "gate-failed", str(error)))
            self._broken = True
            return False
        return True

    def _arm(self, request: ArmGate) -> None:
        begun = clock.raw_ns()
        remaining = request.until - begun
        accepted = False
        done = begun
        try:
            if remaining > 0:
                duration_ms = remaining * ARMED_PERCENT // 100 // _MILLISECOND
                accepted = self._gate.arm(duration_ms, request.lease, renewal=request.renewal)
                done = clock.raw_ns()
                if accepted and (done - begun) * _TOO_LONG_PART > remaining:
                    accepted = False
                    self._gate.disarm()
        except OSError as error:
            # What the kernel has now is not known: shut, so that the next arming begins anew.
            accepted = False
            self._tell(Recorded(done, "gate-failed", str(error)))
            self._broken = True
            self._try(self._gate.disarm)
        if not accepted:
            self._broken = self._broken or not self._gate_there()
        if not (accepted and self._accepted and request.renewal):
            self._tell(Armed(request.lease, request.until, begun, max(begun, done), accepted))
        self._accepted = accepted

    def _gate_there(self) -> bool:
        try:
            return self._gate.intact()
        except OSError:
            return False  # looked at again by the repair, which records what it cannot do

    def _repair(self) -> None:
        """Put back what foreign hands took away.

        Raises:
            OSError: the kernel refused.
        """
        addresses = self._addresses()
        if self._gate.intact():
            missing = set(addresses) - set(self._gate.managed())
            if missing:
                self._gate.manage(missing)
                self._gate.hold(missing)
                self._tell(Recorded(clock.raw_ns(), "gate-rebuilt", " ".join(sorted(missing))))
            return
        self._gate.install(addresses)
        self._tell(Recorded(clock.raw_ns(), "gate-rebuilt", f"{len(addresses)} addresses"))
        with self._lock:
            current = self._current
        if current is not None and current.until > clock.raw_ns():
            self._arm(replace(current, renewal=False))
