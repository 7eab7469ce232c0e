"""The resource host of a simulated node: the rules of the real one (L7), without its machinery."""

from __future__ import annotations

from collections.abc import Callable

from leitwolf.core.rules import Rules
from leitwolf.model.ids import ResourceId, ResourceState
from leitwolf.model.observations import (
    CloseGroup,
    GroupAttested,
    HostOrder,
    HostReport,
    Inventory,
    ResourceReport,
    StartResource,
    StopResource,
)
from leitwolf.sim.entropy import Entropy
from leitwolf.sim.kernel import Cell, Kernel
from leitwolf.sim.network import MILLISECOND
from leitwolf.wire.page import LeasePage
from leitwolf.wire.permit import may_start

__all__ = ["SimHost"]

Later = Callable[[int, Callable[[], None]], None]


class SimHost:
    """One life of the host process."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        page: Callable[[], LeasePage | None],
        raw: Callable[[], int],
        later: Later,
        tell: Callable[[HostReport], None],
        started: Callable[[Cell], None],
        entropy: Entropy,
        rules: Rules,
    ) -> None:
        """Adopt what runs.

        Args:
            kernel: what runs.
            page: the guard's page.
            raw: clock of this node.
            later: does work of this process after a delay.
            tell: sends a report to the daemon, if one is connected.
            started: says that a cell was started, for the checkers.
            entropy: delays.
            rules: switched off in tests.
        """
        self._kernel = kernel
        self._page = page
        self._raw = raw
        self._later = later
        self._tell = tell
        self._started = started
        self._entropy = entropy
        self._rules = rules
        self._stopping: dict[ResourceId, int] = {}

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
        return may_start(self._page(), self._raw(), order.lease)

    def _report(
        self, order: StartResource, state: ResourceState, code: str
    ) -> ResourceReport:
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
        self._kernel.cells[order.resource] = cell
        self._started(cell)
        self._tell(pending)
        takes = self._entropy.between(MILLISECOND // 2, 20 * MILLISECOND)
        if self._entropy.chance(10):
            takes += 500 * MILLISECOND
        self._later(takes, lambda: self._up(cell))

    def _up(self, cell: Cell) -> None:
        resource = cell.order.resource
        if self._kernel.cells.get(resource) is not cell or resource in self._stopping:
            return
        refusal = self._refused(cell.order)
        if refusal:
            del self._kernel.cells[resource]
            self._tell(self._report(cell.order, ResourceState.FAILED, refusal))
            return
        if self._entropy.chance(5):
            self.fail(resource)
            return
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
        self._stopping[order.resource] = cell.order.generation
        cell.report = self._report(cell.order, ResourceState.OFFLINE_PENDING, "stopping")
        self._tell(cell.report)
        takes = self._entropy.between(MILLISECOND // 2, 30 * MILLISECOND)
        self._later(takes, lambda: self._stopped(cell))

    def _stopped(self, cell: Cell) -> None:
        resource = cell.order.resource
        self._stopping.pop(resource, None)
        if self._kernel.cells.get(resource) is cell:
            del self._kernel.cells[resource]
        self._tell(self._report(cell.order, ResourceState.OFFLINE, "stopped"))

    def _close(self, order: CloseGroup) -> None:
        running = [
            cell for cell in self._kernel.cells.values() if cell.order.group == order.group
        ]
        if running and self._rules.holds("attest-when-empty"):
            return
        known = self._kernel.closed.get(order.group, 0)
        self._kernel.closed[order.group] = max(known, order.generation)
        self._tell(GroupAttested(group=order.group, generation=order.generation))

    def watch(self) -> int:
        """Kill everything when the lease is nearly over and no guard did it.

        Returns:
            The RAW instant at which that is, if nothing prolongs the lease.
        """
        page = self._page()
        over = page.lease_end - page.kill // 2 if page is not None and page.lease else 0
        if self._raw() < over:
            return over
        for resource in list(self._kernel.cells):
            cell = self._kernel.cells.pop(resource)
            self._tell(self._report(cell.order, ResourceState.FAILED, "lease-over"))
        return 0
