"""The guard of a simulated node: the real lease machine, with the driver's part modelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from leitwolf.core.effects import FromGuard, FromHost, GuardLost
from leitwolf.core.lease import (
    Armed,
    ArmGate,
    Commanded,
    DaemonGone,
    DaemonSeen,
    Disarm,
    LeaseEffect,
    LeaseEvent,
    LeaseMachine,
    Reboot,
    SendPeer,
    StopAll,
    Stopped,
    Tell,
    WritePage,
)
from leitwolf.core.lease import Tick as GuardTick
from leitwolf.core.lease.profile import ARMED_PERCENT
from leitwolf.model.ids import ResourceState
from leitwolf.sim.network import MICROSECOND, MILLISECOND
from leitwolf.sim.process import Process
from leitwolf.wire.guard import Configure, GuardHello, LeaseClosed, LeaseOpened
from leitwolf.wire.heartbeat import Ack
from leitwolf.wire.page import LeasePage

if TYPE_CHECKING:
    from leitwolf.sim.node import SimNode

__all__ = ["SimGuard"]

_BACK_NS = 6 * MILLISECOND
_TICK_LATE_NS = 400 * MICROSECOND


class SimGuard(Process):
    """The guard process of one machine."""

    back_ns = _BACK_NS

    def __init__(self, node: SimNode) -> None:
        super().__init__("guard", lambda: node.world.now, node.world.crash_now)
        self._node = node
        self._world = node.world
        self._entropy = node.entropy
        self.machine: LeaseMachine | None = None
        self.promise_ns = 0
        """Longest P that this guard was told of last: what it waits for without its page."""
        self.dies_after: Callable[[LeaseEffect], bool] | None = None
        """The first effect of which this holds is the last of this life; then it is forgotten."""
        self._passed_at = 0
        self._armed_well = False
        """What came of the newest arming."""
        self._alarm = -1
        """True time for which a tick is scheduled already, -1: none."""
        self._alarm_for = 0
        """Deadline for which it is scheduled, by the clock of this machine."""

    def begin(self) -> None:
        """Start a guard; it finds the page of its predecessor, if that is there."""
        node = self._node
        if self.alive or not node.can_start(self.begin):
            return
        self.start()
        self._alarm = -1
        self._armed_well = False
        self.machine = LeaseMachine(
            boot_id=node.kernel.boot_id,
            incarnation=self._entropy.bits() >> 2,
            page=node.kernel.page,
            now=node.clocks(),
            rules=self._world.rules,
        )
        self._world.note(node.id, "guard", "started" if node.kernel.page else "started, no memory")
        self.do(self._execute, self.machine.start(node.clocks()))
        self.greet()

    def forget(self) -> None:
        """The process is gone with all that it knew."""
        self.machine = None

    def perish(self, why: str = "killed", *, page: bool = False) -> None:
        """Die (``page``: and lose the page); the keeper starts another."""
        node = self._node
        if not self.alive:
            return
        self._world.note(node.id, "guard", why + (" with its page" if page else ""))
        self.kill()
        self.machine = None
        if page and node.kernel.page is not None:
            self._world.checker.lease_closed(node.id, node.boots, node.kernel.page.lease)
            node.kernel.page = None
        node.daemon.take_later(100 * MICROSECOND, GuardLost())
        node.keeper.ended(self)

    def greet(self) -> None:
        """Connect guard and daemon, when both live."""
        node = self._node
        if self.machine is None or node.daemon.core is None:
            return
        hello = GuardHello(self.machine.page.incarnation, node.kernel.page is not None)
        self.take(DaemonSeen())
        node.daemon.take_later(50 * MICROSECOND, FromGuard(report=hello))

    def daemon_gone(self) -> None:
        """The connection to the daemon ended."""
        self.take(DaemonGone())

    # --- events ----------------------------------------------------------------------------------

    def take(self, event: LeaseEvent) -> None:
        """Take an event now (or when this process runs again)."""
        if self.alive and not self.holds:
            self.do(self._step, event)
        else:
            self.deliver(self.life, self._step, event)

    def _step(self, event: LeaseEvent) -> None:
        if self.machine is None:
            return
        if isinstance(event, Commanded) and isinstance(event.command, Configure):
            self.promise_ns = event.command.promise_longest
        now = self._node.clocks()
        self._passed_at = now.raw
        self._execute(self.machine.step(now, event))

    def with_progress(self, page: LeasePage) -> LeasePage:
        """Return the page with the instant of the last pass: this one passes all the time."""
        fresh = self._node.raw() if self.running else self._passed_at
        return page._replace(progress=fresh)

    def _schedule(self) -> None:
        """Wake up when the machine wants to; a tick that is due before does it, too."""
        node, world = self._node, self._world
        if self.machine is None:
            return
        deadline = self.machine.deadline()
        if world.now <= self._alarm and self._alarm_for <= deadline:
            return
        at = max(node.true_time(deadline), world.now + 20 * MICROSECOND)
        if world.now <= self._alarm <= at + _TICK_LATE_NS:
            return
        at += self._entropy.between(5 * MICROSECOND, _TICK_LATE_NS)
        self._alarm, self._alarm_for = at, deadline
        life = self.life
        world.at(at, self.deliver, life, self._ring, at)

    def _ring(self, at: int) -> None:
        if at != self._alarm or self.machine is None:
            return
        self._alarm = -1
        if self._node.raw() < self.machine.deadline():
            self._schedule()
        else:
            self._step(GuardTick(self._node.daemon.progress()))

    # --- effects ---------------------------------------------------------------------------------

    def _execute(self, effects: list[LeaseEffect]) -> None:
        life = self.life
        for effect in effects:
            if not self.alive or self.life != life:
                return
            self.about_to(type(effect).__name__)
            self._effect(effect)
            if self.dies_after is not None and self.dies_after(effect):
                self.dies_after = None
                self.perish(page=False)
                return
        self._node.noticed()
        self._schedule()

    def _effect(self, effect: LeaseEffect) -> None:
        node, world = self._node, self._world
        match effect:
            case SendPeer():
                if isinstance(effect.message, Ack):
                    world.checker.acknowledged(node, effect.message.ballot)
                world.send_guard(node.id, effect.node, effect.message, effect.link)
            case WritePage():
                self._write(effect.page)
            case Tell():
                self._tell(effect)
            case ArmGate():
                self._arm(effect)
            case Disarm():
                node.kernel.gate_present = False
            case StopAll():
                self._stop_all(effect)
            case Reboot():
                world.later(0, node.reboot, effect.reason)

    def _write(self, page: LeasePage) -> None:
        node = self._node
        former, node.kernel.page = node.kernel.page, page
        if page.lease and (former is None or page.lease_end != former.lease_end):
            node.run_end = max(node.run_end, node.true_time(page.lease_end))
        if former is None or page.leader_end != former.leader_end or page.office != former.office:
            self._world.checker.leases(node)

    def _tell(self, effect: Tell) -> None:
        node, world = self._node, self._world
        report = effect.report
        if isinstance(report, LeaseOpened):
            world.checker.lease_opened(node.id, node.boots, report.lease)
            world.note(node.id, "guard", f"lease {report.lease:x} open")
        elif isinstance(report, LeaseClosed):
            world.checker.lease_closed(node.id, node.boots, report.lease)
            world.note(node.id, "guard", f"lease {report.lease:x} closed: {report.reason}")
        delay = self._entropy.between(20, 150) * MICROSECOND
        node.daemon.take_later(delay, FromGuard(report=report))

    def _arm(self, effect: ArmGate) -> None:
        """The helper thread computes, then the kernel acts; it may stand still in between.

        As in the real guard a renewal that went as the arming before it is not told.
        """
        node, world = self._node, self._world
        begun = node.raw()
        remaining = effect.until - begun
        duration = remaining * ARMED_PERCENT // 100
        life = self.life
        takes = self._entropy.between(40, 250) * MICROSECOND
        if self._entropy.chance(world.slow_arm_per_thousand):
            takes = self._entropy.between(10, 300) * MILLISECOND

        def act() -> None:
            kernel, now = node.kernel, world.now
            alive = kernel.gate_present and kernel.gate_until > now
            accepted = duration > 0 and (alive if effect.renewal else not alive)
            if accepted:
                kernel.gate_present = True
                kernel.gate_until = now + duration
            done = node.raw()
            late = done - begun > remaining // 10 and world.rules.holds("arm-in-time")
            if accepted and late:
                kernel.gate_present = False
                accepted = False
            world.checker.active()
            news = not (accepted and self._armed_well and effect.renewal)
            self._armed_well = accepted
            if news:
                self.take(Armed(effect.lease, effect.until, begun, done, accepted))

        world.later(takes, self.deliver, life, act)

    def _stop_all(self, effect: StopAll) -> None:
        node, world = self._node, self._world
        life = self.life
        takes = self._entropy.between(MILLISECOND // 2, world.kill_ns_max)
        if self._entropy.chance(world.slow_kill_per_thousand):
            takes += 10_000 * MILLISECOND

        def act() -> None:
            for resource in list(node.kernel.cells):
                cell = node.kernel.cells.pop(resource)
                report = msgspec.structs.replace(
                    cell.report, state=ResourceState.FAILED, code="killed", text="killed"
                )
                node.daemon.take_later(MILLISECOND, FromHost(report=report))
            self.take(Stopped(effect.lease))

        world.later(takes, self.deliver, life, act)
