"""The run-lease of this node: while it is valid, resources may run here (L5, L7, L1).

Rules:
    Only an OPEN with an id above every one closed here opens it, only a grant to exactly this
    guard for exactly this id, before the end, prolongs it. At K before the end the gate is closed
    in the page, then everything is killed. The id is given up only when the stop is confirmed;
    what cannot be confirmed by the end reboots the node.

Theory of operation:
    ========  ==========  =====  ===========================================================
    state     page.lease  gate   leaves by
    ========  ==========  =====  ===========================================================
    none      0           False  an OPEN
    open      id          True   K before the end, a slept machine, StopEverything
    closing   id          False  Stopped (then ``lease_closed`` = id), or Reboot
    ========  ==========  =====  ===========================================================

    So "no lease" in the page means: nothing runs here and nothing can be started. Acks carry the
    page's id, which is why a leader may believe an ack without a lease (see ``office``).

    A lease in the page survives its guard: the next one finds it, but accepts only grants that
    echo what it sent itself.

What this does not guarantee:
    That a frozen node stops its processes; its addresses are shut by the kernel's lease.
"""

from __future__ import annotations

from leitwolf.core.lease.effects import Armed, ArmGate, Disarm, Reboot, StopAll
from leitwolf.core.lease.ledger import NEVER, PROMISE_NS_MAX, Ledger
from leitwolf.core.lease.profile import MILLISECOND, SLEPT_NS
from leitwolf.wire.ballot import NO_BALLOT, Ballot
from leitwolf.wire.guard import Attest, LeaseClosed, LeaseOpened
from leitwolf.wire.heartbeat import Heartbeat

__all__ = ["RunLease"]

STARTUP_STOP_NS = 2_000_000_000
"""A guard without memory knows no end of a lease; stopping everything takes no longer (L9)."""

REFUSALS_TOLD_EVERY_NS = 60_000 * MILLISECOND
"""Rule loads by others make armings late again and again: one line a minute tells how many."""


class RunLease:
    """Node side of the run-lease. Instants are RAW ns of this node."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._kills_early = ledger.rules.holds("kill-before-end")
        self._stopping = False
        self._deadline = NEVER
        self._second_try = False
        self._refusals = 0
        """Armings refused since the last line about one."""
        self._told_at = -REFUSALS_TOLD_EVERY_NS
        self._rearm = False
        self._attested = 0
        self._attested_to = NO_BALLOT

    # --- reading ---------------------------------------------------------------------------------

    @property
    def valid(self) -> bool:
        """Whether the lease is open and its stop need not begin yet."""
        page = self._ledger.page
        return page.gate and self._ledger.raw < self._stop_at()

    def attested(self, ballot: Ballot) -> int:
        """Return the lease id that acks of ``ballot`` attest, 0: none."""
        return self._attested if ballot == self._attested_to else 0

    def deadline(self) -> int:
        """Return the instant at which :meth:`overdue` must be called at the latest."""
        if self._stopping:
            return self._deadline
        return self._stop_at() if self._ledger.page.gate else NEVER

    def _stop_at(self) -> int:
        page = self._ledger.page
        return page.lease_end - page.kill if self._kills_early else page.lease_end

    # --- passing of time -------------------------------------------------------------------------

    def start(self, *, remembers: bool) -> None:
        """Do what a new guard must do about the lease of its predecessor (L3, L9)."""
        page = self._ledger.page
        if self._stopping:
            return
        if not remembers:
            self._stop(self._ledger.raw + STARTUP_STOP_NS, "no-memory")
        elif page.lease and not page.gate:
            self._stop(self._confirm_by(), "guard-restarted")
        else:
            self.overdue()

    def slept(self) -> bool:
        """Return whether the machine slept since the last renewal (L1)."""
        ledger = self._ledger
        moved = abs(ledger.drift - ledger.page.drift)
        return moved > SLEPT_NS and ledger.rules.holds("slept")

    def overdue(self) -> None:
        """Begin the stop when it is time, reboot when the stop is not confirmed in time."""
        if self._ledger.page.gate and not self.valid:
            self.close("lease-over")
        elif self._stopping and self._ledger.raw >= self._deadline:
            self._fail()

    def _fail(self) -> None:
        ledger = self._ledger
        kill = ledger.page.kill
        if ledger.raw > self._deadline + kill and not self._second_try:
            # This guard itself was frozen meanwhile: whoever stops was most likely frozen too.
            self._stop(ledger.raw + kill, "thawed")
            self._second_try = True
            return
        self._deadline = NEVER
        ledger.emit(Reboot("stop-not-confirmed"))

    # --- opening and prolonging ------------------------------------------------------------------

    def grant(self, message: Heartbeat) -> None:
        """Take what a heartbeat at or above the floor says about this node's lease (L5)."""
        ledger = self._ledger
        page = ledger.page
        own = message.echo_incarnation == ledger.incarnation
        if not own and ledger.rules.holds("own-incarnation"):
            return
        if not message.grant or not 0 < message.echo <= ledger.raw:
            return
        if not 0 < message.run <= PROMISE_NS_MAX:
            return
        end = message.echo + ledger.held(message.run)
        if page.lease:
            if page.lease == message.grant:
                self.prolong(end)
            return
        offered = message.opened > 0 and message.grant > page.lease_closed
        if offered or not ledger.rules.holds("lease-ended-stays-closed"):
            self.open(message.grant, message.opened, end)

    def open(self, lease: int, index: int, end: int) -> bool:
        """Open ``lease`` until ``end`` unless another is open, or closing, or it is too late."""
        ledger = self._ledger
        if ledger.page.lease or self._stopping or ledger.raw >= end - ledger.page.kill:
            return False
        ledger.change(lease=lease, lease_end=end, lease_index=index, gate=True, drift=ledger.drift)
        self.follow_kill()
        self._rearm = False
        ledger.tell(LeaseOpened(lease, index))
        ledger.emit(ArmGate(lease, end, renewal=False))
        return True

    def prolong(self, end: int) -> None:
        """Move the end of a valid lease to ``end``; never back."""
        ledger = self._ledger
        if not self.valid or end <= ledger.page.lease_end:
            return
        ledger.change(lease_end=end, drift=ledger.drift)
        self.follow_kill()
        ledger.emit(ArmGate(ledger.page.lease, end, renewal=not self._rearm))
        self._rearm = False

    def follow_kill(self) -> None:
        """Take K of the configuration; a longer one only with a lease that is long enough for it.

        Else a change to a longer profile would end the leases of the shorter one at once.
        """
        ledger = self._ledger
        if ledger.configuration is None:
            return
        kill, page = ledger.configuration.kill, ledger.page
        if kill <= page.kill or not page.gate or page.lease_end - ledger.raw >= 2 * kill:
            ledger.change(kill=kill)

    def cut(self, end: int) -> None:
        """Shorten a valid lease to ``end``: a leader's lease must not outlast its promises (L5)."""
        ledger = self._ledger
        if not self.valid or end >= ledger.page.lease_end:
            return
        if ledger.rules.holds("own-lease-cut"):
            ledger.change(lease_end=end)
            ledger.emit(ArmGate(ledger.page.lease, end, renewal=not self._rearm))
            self._rearm = False

    def armed(self, event: Armed) -> None:
        """See how arming the kernel's lease went; open the gate again if it ran out meanwhile.

        A bare add is safe only for a lease that was prolonged after the failed arming began, by
        a fresh grant; otherwise it waits for the next one.
        """
        ledger = self._ledger
        page = ledger.page
        if event.accepted or event.lease != page.lease or not self.valid:
            return
        self._rearm = True
        self._refusals += 1
        if ledger.raw - self._told_at >= REFUSALS_TOLD_EVERY_NS:
            self._tell_refusals(event)
        if page.lease_end > event.until:
            self._rearm = False
            ledger.emit(ArmGate(page.lease, page.lease_end, renewal=False))

    def _tell_refusals(self, event: Armed) -> None:
        """Tell one, and how many were not told; each heartbeat arms, and would fill the log."""
        ledger = self._ledger
        took_ms = (event.done - event.begun) / MILLISECOND
        untold = self._refusals - 1
        since = f"; {untold} more since the last such line" if untold else ""
        ledger.record(
            "gate-lost", f"lease {event.lease}: arming refused after {took_ms:.1f} ms{since}"
        )
        self._refusals = 0
        self._told_at = ledger.raw

    # --- closing ---------------------------------------------------------------------------------

    def close(self, reason: str) -> None:
        """Begin to stop everything, if a lease is open; it never opens again (L7, I11)."""
        ledger = self._ledger
        page = ledger.page
        if not page.gate:
            return
        self._stop(self._confirm_by(), reason)
        ledger.tell(LeaseClosed(page.lease, reason))
        if not ledger.rules.holds("attest-after-stopped"):
            self.stopped(page.lease)

    def stopped(self, lease: int) -> bool:
        """Everything under ``lease`` is confirmed stopped: give it up, attest it.

        Returns:
            Whether a lease ended with it.
        """
        ledger = self._ledger
        if not self._stopping or lease != ledger.page.lease:
            return False
        self._stopping = False
        self._deadline = NEVER
        if not lease:
            return False
        self._attested = lease
        self._attested_to = ledger.page.floor
        ledger.change(lease=0, lease_closed=max(lease, ledger.page.lease_closed))
        ledger.tell(Attest(lease))
        return True

    def _confirm_by(self) -> int:
        """Return the end of the lease, or K from now when that is past or means nothing (L1)."""
        page = self._ledger.page
        in_a_while = self._ledger.raw + page.kill
        if self.slept() or self._ledger.raw >= page.lease_end:
            return in_a_while
        return page.lease_end

    def _stop(self, deadline: int, reason: str) -> None:
        """Gate shut in the page first, then in the kernel, then kill."""
        ledger = self._ledger
        self._stopping = True
        self._second_try = False
        self._deadline = deadline
        ledger.change(gate=False)
        ledger.emit(Disarm())
        ledger.emit(StopAll(ledger.page.lease, reason, deadline))
