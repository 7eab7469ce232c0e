"""What the resource host of this node is told to do: a pure function of state and inventory.

Rules:
    A resource is started only under an open run-lease, after the state reached the index of that
    lease (L5), in the group's current generation, and only while everything that it needs is
    online. A generation that was attested never starts again (I11). What runs here without
    belonging here is stopped. Resources that need another one stop before it. A group is closed
    when nothing of it runs any more, or all that runs was told to stop: the host attests behind
    the last stop, without asking back.

Theory of operation:
    :func:`orders` is evaluated after each report and each commit. It compares what should run with
    what the host last reported, taking an order that the host has not answered yet as done
    halfway: a resource told to start may run already. So no order is repeated, and nothing counts
    as stopped while a start is on its way. :class:`Runner` remembers the orders of one connection
    to the host under one lease.

    What the host reports of a higher generation or attempt than the state has is left alone: the
    state is behind (a daemon that came back reads an old commit mark first).

What is expected of the caller:
    After a start of the daemon, orders are asked for only when the state has reached the commit
    index that a leader named since: an older state does not know what it ordered before.

What is expected of the host:
    It executes orders in their sequence. It answers each StartResource with a report of that
    generation and attempt in another state than offline (a start that it must not do: failed),
    unless the lease is over, and each StopResource with offline or failed, also when nothing ran.
    Before the start of a resource that failed it removes what is left of the earlier attempt. It
    reports offline only after it was told to stop, or when the lease ended. It attests a
    generation only when nothing of it is left; when a stop fails it forgets that it was to attest,
    and reports failed.
"""

from __future__ import annotations

from collections.abc import Mapping

from leitwolf.core.policy.dependencies import dependents, graph, order
from leitwolf.model.ids import GroupId, GroupPhase, NodeId, ResourceId, ResourceState, Wish
from leitwolf.model.observations import (
    CloseGroup,
    GroupAttested,
    HostOrder,
    ResourceReport,
    Seen,
    StartResource,
    StopResource,
)
from leitwolf.model.state import Group, Resource, State

__all__ = ["Runner", "differences", "orders"]

Inventory = Mapping[ResourceId, ResourceReport]
Ordered = Mapping[str, HostOrder]
"""Orders not answered yet, by :func:`order_key`."""

_RUNNING = frozenset(
    {ResourceState.ONLINE_PENDING, ResourceState.ONLINE, ResourceState.OFFLINE_PENDING}
)
_STOPPING = frozenset({ResourceState.OFFLINE_PENDING, ResourceState.OFFLINE})


def order_key(name: str, *, group: bool = False) -> str:
    """Return the key of orders about a resource or a group, which may have the same name."""
    return f"group:{name}" if group else name


def orders(
    state: State,
    me: NodeId,
    lease: int,
    lease_index: int,
    inventory: Inventory,
    attested: Mapping[GroupId, int],
    ordered: Ordered,
) -> list[HostOrder]:
    """Return what the host of this node is to be told now.

    Args:
        state: the fold of what is committed.
        me: this node.
        lease: id of the open run-lease, 0: none (then nothing is started).
        lease_index: index that must be applied before anything starts under it (F).
        inventory: newest report of each resource; one that is missing is offline.
        attested: highest generation of each group that was attested here.
        ordered: orders that the host has not answered yet.
    """
    found = _strays(state, me, inventory, ordered)
    mine = {
        name: group
        for name, group in state.groups.items()
        if group.owner == me and group.phase is not GroupPhase.STOPPED
    }
    belonging: dict[str, list[Resource]] = {name: [] for name in mine}
    for resource in state.resources.values():
        if resource.group in mine:
            belonging[resource.group].append(resource)
    may_start = lease != 0 and state.index >= lease_index
    noisy: dict[GroupId, set[ResourceId]] = {}
    for report in inventory.values():
        if report.state is not ResourceState.OFFLINE:
            noisy.setdefault(report.group, set()).add(report.resource)
    for name in sorted(mine):
        group = mine[name]
        scene = _Scene(group, belonging[name], inventory, ordered)
        if group.phase is GroupPhase.CLOSING:
            found.extend(scene.close(attested.get(group.id, 0), noisy.get(group.id, set())))
        else:
            fresh = attested.get(group.id, 0) < group.generation
            found.extend(scene.run(lease if may_start and fresh else 0))
    return found


def _strays(state: State, me: NodeId, inventory: Inventory, ordered: Ordered) -> list[HostOrder]:
    """Return orders to stop what runs here without belonging here."""
    found: list[HostOrder] = []
    for name in sorted(inventory):
        report = inventory[name]
        if report.state is ResourceState.OFFLINE or _stop_failed(report):
            continue
        group = state.groups.get(report.group)
        resource = state.resources.get(name)
        if group is not None and report.generation > group.generation:
            continue  # the host has seen a newer log than this state
        belongs = (
            group is not None
            and resource is not None
            and resource.group == report.group
            and group.owner == me
            and group.phase is not GroupPhase.STOPPED
            and group.generation == report.generation
        )
        if belongs:
            continue
        order_now = StopResource(resource=name, group=report.group, generation=report.generation)
        if report.state is not ResourceState.OFFLINE_PENDING and ordered.get(name) != order_now:
            found.append(order_now)
    return found


def _stop_failed(report: ResourceReport) -> bool:
    """Return whether a stop was tried in vain: a second order would not help."""
    return report.state is ResourceState.FAILED and report.code.startswith("stop-")


class _Scene:
    """One group that this node owns."""

    def __init__(
        self, group: Group, resources: list[Resource], inventory: Inventory, ordered: Ordered
    ) -> None:
        self._group = group
        self._resources = {resource.id: resource for resource in resources}
        self._providers = graph(resources)
        self._dependents = dependents(self._providers)
        self._order = order(self._providers)
        self._ordered = ordered
        self._reports: dict[ResourceId, ResourceReport] = {}
        self._strays: set[ResourceId] = set()
        for name in self._order:
            report = inventory.get(name)
            if report is None:
                continue
            if report.generation == group.generation and report.group == group.id:
                self._reports[name] = report
            elif report.state is not ResourceState.OFFLINE:
                self._strays.add(name)

    def run(self, lease: int) -> list[HostOrder]:
        """Return the orders of an active group; ``lease`` 0: nothing may start."""
        wanted: set[ResourceId] = set()
        good: set[ResourceId] = set()
        found: list[HostOrder] = []
        for name in self._order:  # providers first
            resource = self._resources[name]
            if (
                self._group.wish is Wish.ONLINE
                and resource.wish is Wish.ONLINE
                and all(provider in wanted for provider in resource.depends)
            ):
                wanted.add(name)
            if (
                name in wanted
                and self._state(name) is ResourceState.ONLINE
                and self._attempt(name) == resource.attempt
                and all(provider in good for provider in resource.depends)
            ):
                good.add(name)
        for name in reversed(self._order):  # dependents first
            if self._must_stop(name, wanted, good):
                found.extend(self._stop(name))
        for name in self._order:
            if lease and name in wanted and self._may_start(name, good):
                found.extend(self._start(name, lease))
        return found

    def close(self, attested: int, noisy: set[ResourceId]) -> list[HostOrder]:
        """Return the orders of a closing group; ``noisy``: of what the host says it is not off."""
        found: list[HostOrder] = []
        for name in reversed(self._order):
            if self._state(name) is not ResourceState.OFFLINE:
                found.extend(self._stop(name))
        told = {order.resource for order in found if isinstance(order, StopResource)}
        ending = all(self._ends(name, told) for name in self._order)
        closing = CloseGroup(group=self._group.id, generation=self._group.generation)
        if (
            ending
            and noisy <= self._reports.keys()
            and attested < self._group.generation
            and self._ordered.get(order_key(self._group.id, group=True)) != closing
        ):
            found.append(closing)
        return found

    def _ends(self, name: ResourceId, told: set[ResourceId]) -> bool:
        """Return whether it is off, or told to stop and nothing speaks against it."""
        state, report = self._state(name), self._reports.get(name)
        if report is not None and report.state is ResourceState.FAILED:
            return False
        return state in _STOPPING or name in told

    # --- what is, orders under way included ------------------------------------------------------

    def _state(self, name: ResourceId) -> ResourceState:
        report = self._reports.get(name)
        state = report.state if report else ResourceState.OFFLINE
        under_way = self._ordered.get(name)
        if isinstance(under_way, StartResource) and state not in _RUNNING:
            return ResourceState.ONLINE_PENDING
        if isinstance(under_way, StopResource) and state not in _STOPPING:
            newer = report is not None and report.generation > under_way.generation
            return state if newer else ResourceState.OFFLINE_PENDING
        return state

    def _attempt(self, name: ResourceId) -> int:
        under_way = self._ordered.get(name)
        if isinstance(under_way, StartResource):
            return under_way.attempt
        report = self._reports.get(name)
        return report.attempt if report else -1

    def _users_run(self, name: ResourceId) -> bool:
        """Return whether something that needs it runs; one that cannot be stopped is past help."""
        return any(self._runs(user) for user in self._dependents[name])

    def _runs(self, name: ResourceId) -> bool:
        report = self._reports.get(name)
        failed = report is not None and report.state is ResourceState.FAILED
        if failed and not isinstance(self._ordered.get(name), StartResource):
            return False
        return self._state(name) in _RUNNING

    # --- what is to be done ----------------------------------------------------------------------

    def _must_stop(self, name: ResourceId, wanted: set[ResourceId], good: set[ResourceId]) -> bool:
        state, resource = self._state(name), self._resources[name]
        if state is ResourceState.FAILED:
            return name not in wanted  # what is wanted waits for the policy
        return state in _RUNNING and (
            name not in wanted
            or self._attempt(name) < resource.attempt
            or not all(provider in good for provider in resource.depends)
        )

    def _stop(self, name: ResourceId) -> list[HostOrder]:
        report = self._reports.get(name)
        if self._state(name) is ResourceState.OFFLINE_PENDING or self._users_run(name):
            return []
        if report is not None and _stop_failed(report) and name not in self._ordered:
            return []
        stop = StopResource(resource=name, group=self._group.id, generation=self._group.generation)
        return [stop]

    def _may_start(self, name: ResourceId, good: set[ResourceId]) -> bool:
        state, resource = self._state(name), self._resources[name]
        if name in self._strays or self._users_run(name):
            return False
        if not all(provider in good for provider in resource.depends):
            return False
        report = self._reports.get(name)
        under_way = self._ordered.get(name)
        if report is not None and report.state is ResourceState.FAILED:
            begun = isinstance(under_way, StartResource)
            return not begun and report.attempt < resource.attempt
        return (
            state is ResourceState.OFFLINE
            and self._attempt(name) <= resource.attempt
            and not isinstance(under_way, StopResource)
        )

    def _start(self, name: ResourceId, lease: int) -> list[HostOrder]:
        resource = self._resources[name]
        start = StartResource(
            resource=name,
            group=self._group.id,
            type=resource.type,
            parameters=resource.parameters,
            lease=lease,
            generation=self._group.generation,
            attempt=resource.attempt,
            first=not resource.proven,
        )
        return [start]


def differences(
    state: State, me: NodeId, inventory: Inventory, attested: Mapping[GroupId, int]
) -> Seen | None:
    """Return what the host reported and the log does not show yet, None when it shows all.

    Args:
        state: the fold of what is committed.
        me: this node.
        inventory: newest report of each resource; one that is missing is offline.
        attested: highest generation of each group that was attested here.
    """
    reports: list[ResourceReport | GroupAttested] = []
    for resource in state.resources.values():
        group = state.groups[resource.group]
        if group.owner != me or group.phase is GroupPhase.STOPPED:
            continue
        report = inventory.get(resource.id)
        unknown = report is None or report.generation != group.generation
        if report is not None and report.attempt < resource.attempt:
            # a host that answers for what it never ran; an attempt may be logged but not begun
            begun = resource.state is not ResourceState.ONLINE_PENDING
            unknown = unknown or (begun and report.state is ResourceState.OFFLINE)
        if report is None or unknown:
            if resource.state is not ResourceState.OFFLINE:
                reports.append(_absent(group, resource))
        elif report.attempt == resource.attempt and report.state is not resource.state:
            reports.append(report)
    for group in state.groups.values():
        closed = attested.get(group.id, 0)
        if group.owner == me and group.phase is GroupPhase.CLOSING and closed >= group.generation:
            reports.append(GroupAttested(group=group.id, generation=closed))
    return Seen(reports=tuple(reports)) if reports else None


def _absent(group: Group, resource: Resource) -> ResourceReport:
    """Return the report of a resource of which the host knows nothing: it does not run."""
    return ResourceReport(
        resource=resource.id,
        group=group.id,
        lease=0,
        generation=group.generation,
        attempt=resource.attempt,
        state=ResourceState.OFFLINE,
        code="not-running",
        text="nothing of it runs here",
    )


class Runner:
    """Remembers what the host was told on one connection, under one lease."""

    def __init__(self) -> None:
        self._ordered: dict[str, HostOrder] = {}

    @property
    def waiting(self) -> Ordered:
        """Orders that the host has not answered yet."""
        return self._ordered

    def orders(
        self,
        state: State,
        me: NodeId,
        lease: int,
        lease_index: int,
        inventory: Inventory,
        attested: Mapping[GroupId, int],
    ) -> list[HostOrder]:
        """Return what the host is to be told now, and remember it; see :func:`orders`."""
        for name, waiting in list(self._ordered.items()):
            if isinstance(waiting, CloseGroup) and (
                waiting.group not in state.groups
                or attested.get(waiting.group, 0) >= waiting.generation
            ):
                del self._ordered[name]
        found = orders(state, me, lease, lease_index, inventory, attested, self._ordered)
        for each in found:
            if isinstance(each, CloseGroup):
                self._ordered[order_key(each.group, group=True)] = each
            else:
                self._ordered[order_key(each.resource)] = each
        return found

    def reported(self, report: ResourceReport) -> None:
        """Take in a report: an order that it answers is not waited for any more.

        A stop that failed stays ordered, so it is not ordered over and over: the host reports
        offline when nothing is left after all.
        """
        if report.state is ResourceState.FAILED:
            self._ordered.pop(order_key(report.group, group=True), None)
        waiting = self._ordered.get(report.resource)
        answered = (
            isinstance(waiting, StartResource)
            and report.state is not ResourceState.OFFLINE
            and report.generation == waiting.generation
            and report.attempt == waiting.attempt
        ) or (isinstance(waiting, StopResource) and report.state is ResourceState.OFFLINE)
        if answered:
            del self._ordered[report.resource]

    def differences(
        self,
        state: State,
        me: NodeId,
        inventory: Inventory,
        attested: Mapping[GroupId, int],
    ) -> Seen | None:
        """Return what the log does not show yet; see :func:`differences`."""
        return differences(state, me, inventory, attested)
