"""The resource host of this node: what it reported, what it is ordered, what the leader is told.

Rules:

- The host is ordered by the committed state, its own reports and the lease, and by nothing else;
  whether that state is new enough is the caller's question.
- The same three give the same orders: a host that needed none is not asked about again until one
  of them changes.
- The leader is told what the log does not show yet: at once when something happened that matters,
  and again each 500 ms until the log shows it.
- What the host of an earlier process or the lease before was ordered counts no more.
"""

from __future__ import annotations

from leitwolf.core.effects import OrderHost
from leitwolf.core.lease.profile import MILLISECOND
from leitwolf.core.policy import Runner
from leitwolf.model.ids import GroupId, GroupPhase, NodeId, ResourceId, ResourceState
from leitwolf.model.observations import (
    GroupAttested,
    HostReport,
    Inventory,
    ResourceReport,
    Seen,
)
from leitwolf.model.state import State
from leitwolf.wire.page import LeasePage

__all__ = ["OwnHost"]

_REPEAT_NS = 500 * MILLISECOND
"""Reports that the log does not show yet are told again at this interval."""
_GATHER_NS = 20 * MILLISECOND
"""A state that passes is told after this time, or with what follows it."""


class OwnHost:
    """What is known of the own host. Instants in ns, as those of the node's events."""

    def __init__(self, me: NodeId, now: int) -> None:
        """Nothing is known yet."""
        self._me = me
        self._runner = Runner()
        self._at_rest: tuple[State, int, int] | None = None
        """State, lease and its index by which the host needed no order; None: it reported since."""
        self._inventory: dict[ResourceId, ResourceReport] | None = None
        self._attested: dict[GroupId, int] = {}
        self._told_to = NodeId(0)
        self.tell_at = now
        """When the leader is told at the latest."""

    def reported(self, now: int, report: HostReport, state: State) -> None:
        """Take in what the host says; ``state``: what is committed."""
        self._at_rest = None
        if isinstance(report, Inventory):
            self._inventory = {item.resource: item for item in report.resources}
            self._attested = dict(report.closed)
            self._runner = Runner()
        elif self._inventory is not None and isinstance(report, ResourceReport):
            self._inventory[report.resource] = report
            self._runner.reported(report)
        elif isinstance(report, GroupAttested):
            self._attested[report.group] = report.generation
        self.tell_at = min(self.tell_at, now + _GATHER_NS) if _passes(report, state) else 0

    def lost(self) -> None:
        """The host is gone; its next report is an inventory."""
        self._inventory = None
        self.forget_orders()

    def forget_orders(self) -> None:
        """Another lease begins or ends: all is ordered again."""
        self._runner = Runner()
        self._at_rest = None

    def tell_again(self) -> None:
        """The leader may not have heard what was said: a stream is new."""
        self._told_to = NodeId(0)

    def orders(self, state: State, page: LeasePage) -> list[OrderHost]:
        """Return what the host is to do by the committed state and the lease on the page."""
        if self._inventory is None:
            return []
        lease, index = page.lease if page.gate else 0, page.lease_index
        rest = self._at_rest
        if rest is not None and rest[0] is state and rest[1:] == (lease, index):
            return []
        orders = self._runner.orders(state, self._me, lease, index, self._inventory, self._attested)
        self._at_rest = None if orders else (state, lease, index)
        return [OrderHost(order=order) for order in orders]

    def differences(self, state: State) -> Seen | None:
        """Return what the committed state does not show yet; None: nothing."""
        if self._inventory is None:
            return None
        return self._runner.differences(state, self._me, self._inventory, self._attested)

    def tell(self, now: int, state: State, leader: NodeId) -> Seen | None:
        """Return what another node, which leads and is connected, is to be told now."""
        if self._inventory is None or (now < self.tell_at and self._told_to == leader):
            return None
        self._told_to = leader
        self.tell_at = now + _REPEAT_NS
        return self.differences(state)

    def rest(self, now: int) -> None:
        """All is said for now: wait before it is looked at again."""
        if now >= self.tell_at or self._inventory is None:
            self.tell_at = now + _REPEAT_NS


def _passes(report: HostReport, state: State) -> bool:
    """Return whether something more follows soon that says the same and more.

    An entry for every step would keep the disks busy just when the one that matters comes.
    """
    if not isinstance(report, ResourceReport):
        return False
    if report.state in (ResourceState.ONLINE_PENDING, ResourceState.OFFLINE_PENDING):
        return True
    group = state.groups.get(report.group)
    closing = group is not None and group.phase is GroupPhase.CLOSING
    return closing and report.state is ResourceState.OFFLINE
