"""The resource host: takes orders, keeps a supervisor per resource, attests closed groups.

Rules

- A generation is attested only when the kernel says that nothing of it is left, and only after it
  is on file that it never runs again (I11).
- While a group is being attested nothing of that generation starts.
- A daemon that connects gets an inventory first, then reports: it needs no memory of its own.

Theory of operation

``CloseGroup`` waits while supervisors of the group still work, cleans once more what could not be
stopped, and is then answered: by ``GroupAttested``, or by the reports of the resources that stand
in the way (code ``not-stopped``, or that of a stop that failed).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from leitwolf.host.permission import Permission
from leitwolf.host.records import NAME, Ledger, Records
from leitwolf.host.supervisor import Supervisor
from leitwolf.model.errors import ResourceError, check
from leitwolf.model.ids import GroupId, ResourceId, ResourceState
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
from leitwolf.model.types import address_of
from leitwolf.resources import Machine
from leitwolf.resources.process import CHECK_CELL_SUFFIX, end_cell
from leitwolf.system.rtnetlink import marked_addresses, remove_address

__all__ = ["Host"]


@dataclass(slots=True)
class _Closing:
    generation: int
    cleaned: bool = False
    """What could not be stopped was tried once more."""
    verifying: bool = False


class Host:
    """All resources of this node.

    Args:
        machine: containment, gate and what else resources need.
        permission: the guard's page.
        records: what a host before this one left.
        ledger: attested generations.
        report: takes reports to the daemon.
    """

    def __init__(
        self,
        machine: Machine,
        permission: Permission,
        records: Records,
        ledger: Ledger,
        report: Callable[[HostReport], None],
    ) -> None:
        self.machine = machine
        self.permission = permission
        self.records = records
        self.ledger = ledger
        self.report = report
        self._supervisors: dict[ResourceId, Supervisor] = {}
        self._closing: dict[GroupId, _Closing] = {}

    @property
    def supervisors(self) -> list[Supervisor]:
        """All resources that are not offline."""
        return list(self._supervisors.values())

    def inventory(self) -> Inventory:
        """Return everything that is not offline, and what was attested."""
        return Inventory(
            resources=tuple(one.current_report() for one in self._supervisors.values()),
            closed=self.ledger.all(),
        )

    # --- a host before this one ------------------------------------------------------------------

    async def adopt(self) -> None:
        """Take over what runs; end what no record knows.

        Raises:
            InvariantError: a record cannot be read.
            ResourceError: a stray cell outlives SIGKILL: nothing can be attested here.
            OSError: the kernel refused.
        """
        for record in self.records.load():
            supervisor = Supervisor(record.order, self)
            self._supervisors[record.order.resource] = supervisor
            await supervisor.adopt(record)
        await self._end_strays()
        for supervisor in self.supervisors:
            self._run(supervisor)

    async def _end_strays(self) -> None:
        """End cells and addresses that no record knows: nobody would ever stop them."""
        containment, gate = self.machine.containment, self.machine.gate
        known = {str(resource) for resource in self._supervisors}
        for cell in containment.cells():
            if cell.removesuffix(CHECK_CELL_SUFFIX) not in known:
                await end_cell(containment, cell)
        addresses = {
            str(address.ip)
            for supervisor in self._supervisors.values()
            if (address := address_of(supervisor.order.parameters)) is not None
        }
        for one in marked_addresses():
            if one.address not in addresses:
                with contextlib.suppress(FileNotFoundError):  # no gate: nothing to let go
                    gate.hold(remove=[one.address])
                remove_address(*one)

    # --- orders ----------------------------------------------------------------------------------

    def accept(self, order: HostOrder) -> None:
        """Take an order of the daemon; what comes of it is reported."""
        match order:
            case StartResource():
                self._accept_start(order)
            case StopResource():
                self._accept_stop(order)
            case CloseGroup():
                self._accept_close(order)

    def _accept_start(self, order: StartResource) -> None:
        check(NAME.match(order.resource), f"{order.resource!r} is no name of a resource")
        supervisor = self._supervisors.get(order.resource)
        if supervisor is None:
            supervisor = self._supervisors[order.resource] = Supervisor(order, self)
            supervisor.accept(order)
            self._run(supervisor)
        else:
            supervisor.accept(order)

    def _accept_stop(self, order: StopResource) -> None:
        supervisor = self._supervisors.get(order.resource)
        if supervisor is not None:
            supervisor.accept(order)
            return
        self.report(
            ResourceReport(
                resource=order.resource,
                group=order.group,
                lease=0,
                generation=order.generation,
                attempt=0,
                state=ResourceState.OFFLINE,
                code="stopped",
                text="",
            )
        )

    def _run(self, supervisor: Supervisor) -> None:
        self.machine.tasks.start(self._supervise(supervisor), f"supervise {supervisor.resource}")

    async def _supervise(self, supervisor: Supervisor) -> None:
        await supervisor.run()
        # nothing was awaited since it found no order: none is lost
        if self._supervisors.get(supervisor.resource) is supervisor:
            del self._supervisors[supervisor.resource]

    # --- closing groups --------------------------------------------------------------------------

    def closing(self, group: GroupId) -> int:
        """Highest generation that was attested or is about to be."""
        pending = self._closing.get(group)
        return max(self.ledger.closed(group), pending.generation if pending else 0)

    def settled(self, supervisor: Supervisor) -> None:
        """A supervisor has nothing to do: an attest of its group may go on."""
        group = supervisor.order.group
        if group in self._closing:
            self._try_close(group)

    def _accept_close(self, order: CloseGroup) -> None:
        if order.generation <= self.ledger.closed(order.group):
            self.report(GroupAttested(group=order.group, generation=order.generation))
            return
        pending = self._closing.get(order.group)
        if pending is not None and pending.generation >= order.generation:
            return
        self._closing[order.group] = _Closing(order.generation)
        self._try_close(order.group)

    def _members(self, group: GroupId, generation: int) -> list[Supervisor]:
        return [
            one
            for one in self._supervisors.values()
            if one.order.group == group and one.order.generation <= generation
        ]

    def _try_close(self, group: GroupId) -> None:
        pending = self._closing[group]
        members = self._members(group, pending.generation)
        if pending.verifying or any(one.busy for one in members):
            return
        if any(one.active for one in members):
            self._refuse(group, members)
            return
        dirty = [one for one in members if one.dirty]
        if dirty and not pending.cleaned:
            pending.cleaned = True
            for one in dirty:
                one.clean()
            return
        pending.verifying = True
        self.machine.tasks.start(self._verify(group, pending), f"close {group}")

    async def _verify(self, group: GroupId, pending: _Closing) -> None:
        """Ask the kernel about every resource of the group, then attest or refuse."""
        left = [
            one
            for one in self._members(group, pending.generation)
            if not await self._is_stopped(one)
        ]
        pending.verifying = False
        # others may have changed it while this waited: a member may run a newer generation now
        members = self._members(group, pending.generation)
        if any(one.busy for one in members):
            return  # settled() comes back to it
        standing = [one for one in members if one.active or one in left]
        if standing:
            self._refuse(group, standing)
            return
        self.ledger.close(group, pending.generation)
        if self._closing.get(group) is pending:
            del self._closing[group]
        for one in members:
            one.forget()
        self.report(GroupAttested(group=group, generation=pending.generation))

    @staticmethod
    async def _is_stopped(supervisor: Supervisor) -> bool:
        try:
            return await supervisor.stopped()
        except (ResourceError, OSError):
            return False  # not known is not stopped

    def _refuse(self, group: GroupId, standing: list[Supervisor]) -> None:
        """Tell what stands in the way; the daemon asks again after it has stopped that."""
        del self._closing[group]
        for one in standing:
            current = one.current_report()
            text = f"the group cannot be attested ({current.code}: {current.text})"
            if not current.code.startswith("stop-"):  # the policy gives up by that code
                current = msgspec.structs.replace(current, code="not-stopped")
            self.report(msgspec.structs.replace(current, text=text))
