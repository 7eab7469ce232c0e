"""The resource host of a simulated node: the rules of the real one (L7), without its machinery.

It may die before it changes what runs or what is on file here, and before it tells the daemon. The
next one adopts what stands, as the real one does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from leitwolf.core.effects import FromHost, HostLost
from leitwolf.core.rules import Rules
from leitwolf.model.ids import GroupId, ResourceId, ResourceState
from leitwolf.model.observations import (
    CloseGroup,
    GroupAttested,
    HostOrder,
    Inventory,
    ResourceReport,
    StartResource,
    StopResource,
)
from leitwolf.sim.entropy import Entropy
from leitwolf.sim.kernel import Cell, Kernel
from leitwolf.sim.network import MICROSECOND, MILLISECOND
from leitwolf.sim.process import Process
from leitwolf.wire.ballot import Now
from leitwolf.wire.page import LeasePage
from leitwolf.wire.permit import may_start, slept

if TYPE_CHECKING:
    from leitwolf.sim.node import SimNode

__all__ = ["HostProcess", "SimHost"]

_BACK_NS = 200 * MILLISECOND
_WATCH_NS = 100 * MILLISECOND

Later = Callable[[int, Callable[[], None]], None]
_Report = ResourceReport | GroupAttested


class SimHost:
    """One life of the host process."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        page: Callable[[], LeasePage | None],
        clocks: Callable[[], Now],
        later: Later,
        tell: Callable[[_Report], None],
        started: Callable[[Cell], None],
        about_to: Callable[[str], None],
        entropy: Entropy,
        rules: Rules,
    ) -> None:
        """Adopt what runs.

        Args:
            kernel: what runs.
            page: the guard's page.
            clocks: of this node.
            later: does work of this process after a delay.
            tell: sends a report to the daemon, if one is connected.
            started: says that a cell was started, for the checkers.
            about_to: called before every effect but ``tell``; raises when the process dies there.
            entropy: delays.
            rules: switched off in tests.
        """
        self._kernel = kernel
        self._page = page
        self._clocks = clocks
        self._later = later
        self._tell = tell
        self._started = started
        self._about_to = about_to
        self._entropy = entropy
        self._rules = rules
        self._stopping: dict[ResourceId, int] = {}
        self._closing: dict[GroupId, CloseGroup] = {}
        for cell in kernel.cells.values():
            self._resume(cell)

    def _resume(self, cell: Cell) -> None:
        """Go on with what an earlier host began: what started to start, what was stopping to stop.

        As in the real host nothing under way is forgotten with the process that began it.
        """
        if cell.report.state is ResourceState.ONLINE_PENDING:
            self._later(self._takes_to_start(), lambda: self._up(cell))
        elif cell.report.state is ResourceState.OFFLINE_PENDING:
            self._end(cell)

    def inventory(self) -> Inventory:
        """Return what runs here, for a daemon that connected."""
        return Inventory(
            resources=tuple(cell.report for cell in self._kernel.cells.values()),
            closed=dict(self._kernel.closed),
        )

    def order(self, order: HostOrder) -> None:
        """Take an order of the daemon."""
        match order:
            case StartResource():
                self._later(self._entropy.between(0, MILLISECOND), lambda: self._start(order))
            case StopResource():
                self._stop(order)
            case CloseGroup():
                self._close(order)

    def _refused(self, order: StartResource) -> str:
        closed = self._kernel.closed.get(order.group, 0)
        if order.generation <= closed and self._rules.holds("attested-generation"):
            return "generation-closed"
        if not self._rules.holds("host-permit"):
            return ""
        page, instant = self._page(), self._clocks()
        refusal = may_start(page, instant.raw, order.lease)
        return refusal or ("slept" if self._slept(page, instant) else "")

    def _slept(self, page: LeasePage | None, instant: Now) -> bool:
        return page is not None and slept(page, instant) and self._rules.holds("slept")

    def _report(self, order: StartResource, state: ResourceState, code: str) -> ResourceReport:
        return ResourceReport(
            resource=order.resource,
            group=order.group,
            lease=order.lease,
            generation=order.generation,
            attempt=order.attempt,
            state=state,
            code=code,
            text=code,
        )

    def _start(self, order: StartResource) -> None:
        running = self._kernel.cells.get(order.resource)
        if running is not None and running.order.attempt >= order.attempt:
            self._tell(running.report)
            return
        refusal = self._refused(order)
        if refusal:
            self._tell(self._report(order, ResourceState.FAILED, refusal))
            return
        pending = self._report(order, ResourceState.ONLINE_PENDING, "starting")
        cell = Cell(order=order, address=order.type == "ip_address", report=pending)
        self._about_to("start")
        self._kernel.cells[order.resource] = cell
        self._started(cell)
        self._tell(pending)
        self._later(self._takes_to_start(), lambda: self._up(cell))

    def _takes_to_start(self) -> int:
        takes = self._entropy.between(MILLISECOND // 2, 20 * MILLISECOND)
        return takes + 500 * MILLISECOND if self._entropy.chance(10) else takes

    def _up(self, cell: Cell) -> None:
        resource = cell.order.resource
        if self._kernel.cells.get(resource) is not cell or resource in self._stopping:
            return
        refusal = self._refused(cell.order)
        if refusal:
            self._about_to("undo a start")
            del self._kernel.cells[resource]
            self._tell(self._report(cell.order, ResourceState.FAILED, refusal))
            return
        if self._entropy.chance(5):
            self.fail(resource)
            return
        self._about_to("note a start")
        cell.report = self._report(cell.order, ResourceState.ONLINE, "started")
        self._tell(cell.report)

    def fail(self, resource: ResourceId) -> None:
        """A resource dies by itself."""
        cell = self._kernel.cells.pop(resource, None)
        if cell is not None:
            self._tell(self._report(cell.order, ResourceState.FAILED, "exited"))

    def _stop(self, order: StopResource) -> None:
        cell = self._kernel.cells.get(order.resource)
        if cell is None or order.resource in self._stopping:
            if cell is None:
                self._tell(
                    ResourceReport(
                        resource=order.resource,
                        group=order.group,
                        lease=0,
                        generation=order.generation,
                        attempt=0,
                        state=ResourceState.OFFLINE,
                        code="stopped",
                        text="stopped",
                    )
                )
            return
        self._about_to("note a stop")
        cell.report = self._report(cell.order, ResourceState.OFFLINE_PENDING, "stopping")
        self._tell(cell.report)
        self._end(cell)

    def _end(self, cell: Cell) -> None:
        self._stopping[cell.order.resource] = cell.order.generation
        takes = self._entropy.between(MILLISECOND // 2, 30 * MILLISECOND)
        self._later(takes, lambda: self._stopped(cell))

    def _stopped(self, cell: Cell) -> None:
        resource = cell.order.resource
        self._stopping.pop(resource, None)
        if self._kernel.cells.get(resource) is cell:
            self._about_to("stop")
            del self._kernel.cells[resource]
        self._tell(self._report(cell.order, ResourceState.OFFLINE, "stopped"))
        waiting = self._closing.pop(cell.order.group, None)
        if waiting is not None:
            self._close(waiting)

    def _close(self, order: CloseGroup) -> None:
        running = [cell for cell in self._kernel.cells.values() if cell.order.group == order.group]
        if running and self._rules.holds("attest-when-empty"):
            if all(cell.order.resource in self._stopping for cell in running):
                self._closing[order.group] = order
            return
        known = self._kernel.closed.get(order.group, 0)
        self._about_to("close")
        self._kernel.closed[order.group] = max(known, order.generation)
        self._tell(GroupAttested(group=order.group, generation=order.generation))

    def watch(self) -> int:
        """Kill everything when the machine slept, or the lease is nearly over, and no guard did it.

        Returns:
            The RAW instant at which that is, if nothing prolongs the lease.
        """
        page = self._kernel.page
        over = page.lease_end - page.kill // 2 if page is not None and page.lease else 0
        instant = self._clocks()
        if instant.raw < over and not self._slept(page, instant):
            return over
        for resource in list(self._kernel.cells):
            self._about_to("kill")
            cell = self._kernel.cells.pop(resource)
            self._tell(self._report(cell.order, ResourceState.FAILED, "lease-over"))
        return 0


class HostProcess(Process):
    """The host process of one machine: its lives, and its connection to the daemon."""

    back_ns = _BACK_NS

    def __init__(self, node: SimNode) -> None:
        super().__init__("host", lambda: node.world.now, node.world.crash_now)
        self._node = node
        self._world = node.world
        self.work: SimHost | None = None

    def begin(self) -> None:
        """Start a host, which adopts what runs."""
        node, world = self._node, self._world
        if self.alive or not node.can_start(self.begin):
            return
        self.start()
        life = self.life

        def later(delay: int, work: Callable[[], None]) -> None:
            world.later(delay, self.deliver, life, work)

        self.work = SimHost(
            kernel=node.kernel,
            page=node.page_now,
            clocks=node.clocks,
            later=later,
            tell=self._tell,
            started=lambda cell: world.checker.started(node.id, cell),
            about_to=self.about_to,
            entropy=node.entropy,
            rules=world.rules,
        )
        self.greet()
        later(_WATCH_NS, lambda: self._watch(life))

    def forget(self) -> None:
        """The process is gone with all that it knew."""
        self.work = None

    def greet(self) -> None:
        """Tell the daemon what runs here, when both live."""
        if self.work is not None:
            self.do(self._show, self.work.inventory())

    def _show(self, report: Inventory) -> None:
        if self.running:
            self.about_to("tell what runs")
        self._node.daemon.take_later(MILLISECOND, FromHost(report=report))

    def perish(self, why: str = "killed") -> None:
        """Die; what it runs goes on, and the keeper starts another."""
        if not self.alive:
            return
        self._world.note(self._node.id, "host", why)
        self.kill()
        self.forget()
        self._node.daemon.take_later(100 * MICROSECOND, HostLost())
        self._node.keeper.ended(self)

    def _watch(self, life: int) -> None:
        if self.work is None or self.life != life:
            return
        if not self._node.keeper.alive:
            self._node.keeper.missed(self.runs_since)
        over = self._node.true_time(self.work.watch()) + MICROSECOND
        soon = self._world.now + _WATCH_NS
        at = over if self._world.now < over < soon else soon
        self._world.at(at, self.deliver, life, self._watch, life)

    def _tell(self, report: _Report) -> None:
        if isinstance(report, GroupAttested):  # on file by now: the next host says so as well
            self._world.checker.attested(self._node.id, report.group, report.generation)
        self.about_to(f"tell {'attested' if isinstance(report, GroupAttested) else report.code}")
        delay = self._node.entropy.between(20, 200) * MICROSECOND
        self._node.daemon.take_later(delay, FromHost(report=report))

    def order_later(self, order: HostOrder) -> None:
        """The daemon orders something."""
        life, work = self.life, self.work
        if work is None:
            return
        delay = self._node.entropy.between(20, 200) * MICROSECOND
        at = self._node.in_order("to-host", delay)
        self._world.at(at, self.deliver, life, work.order, order)
