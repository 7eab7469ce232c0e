"""What the node in office knows of the others, and the state that its log will add up to.

Rules:

- A :class:`Leader` lives as long as one ballot of office. Nothing in it survives a change of
  leader: a new one carries on from the log and from what nodes report to it.
- ``ahead`` is the fold of the whole log, uncommitted entries included. All decisions are made on
  it: either every entry in it commits, or this leader is deposed and decides nothing any more.
- A node may be taken from only when its guard's lease is certainly over (``away``), which the own
  guard alone says (L6).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from leitwolf.core.membership.presence import Presence
from leitwolf.model.commands import Answer, Command
from leitwolf.model.ids import GroupId, NodeId, ResourceId
from leitwolf.model.observations import (
    GroupAttested,
    HostReport,
    Inventory,
    NodeView,
    Observations,
    PathState,
    ResourceReport,
)
from leitwolf.model.state import State
from leitwolf.wire.ballot import Ballot
from leitwolf.wire.guard import NodeAway, NodeBack

__all__ = ["Leader", "Pending", "Standing"]


@dataclass(slots=True)
class Standing:
    """What the leader knows of one node."""

    leased: bool = False
    lease: int = 0
    away: bool = False
    attested: bool = False
    waiting: bool = False
    """It acknowledges heartbeats but holds no lease: it needs an OPEN."""
    decided: int = 0
    """Last entry when it was decided to open a lease for it (F), 0: not decided."""
    asked: int = 0
    """Index at which its lease was opened last; a second OPEN waits for an answer."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that waits for its entry to commit."""

    request: int
    origin: NodeId
    """Node on which it came in; the own id: answered here."""
    command: Command
    answer: Answer
    """To be given then."""


@dataclass(slots=True)
class Leader:
    """The ballot of office and everything that is known under it."""

    ballot: Ballot
    me: NodeId
    barred: tuple[NodeId, ...]
    ahead: State
    time_base: int
    """Cluster time minus the own clock, so that cluster time never goes back."""
    told: Mapping[NodeId, tuple[PathState, ...]] = field(default_factory=dict)
    """What other nodes say of their ways to disks and witnesses, followed as they say it."""
    in_charge: bool = False
    """The own first entry is applied: reads and policy are allowed."""
    standings: dict[NodeId, Standing] = field(default_factory=dict)
    reports: dict[ResourceId, tuple[NodeId, ResourceReport]] = field(default_factory=dict)
    attested: dict[GroupId, tuple[NodeId, int]] = field(default_factory=dict)
    pending: dict[int, list[Pending]] = field(default_factory=dict)
    handing: list[Pending] = field(default_factory=list)
    """Requests to hand over leadership, answered when that is done or failed."""
    serial: int = 0
    presence: Presence = field(default_factory=Presence)
    """Who is lost and who is back: what dynamic votes follow."""
    excluded: set[NodeId] = field(default_factory=set)
    """Nodes that leave: never opened again."""
    joint_since: int = -1
    """Instant at which the joint configuration was appended (L10), -1: none."""
    profile_since: int = -1
    """Instant at which a change of the profile was committed, -1: none is under way."""
    plan_at: int = -1
    """Instant of the next planned decision, -1: none."""

    def plan_by(self, instant: int) -> None:
        """Look again at ``instant`` at the latest."""
        self.plan_at = instant if self.plan_at < 0 else min(self.plan_at, instant)

    def standing(self, node: NodeId) -> Standing:
        """Return what is known of a node, created on first sight."""
        return self.standings.setdefault(node, Standing())

    def cluster_time(self, now: int) -> int:
        """Return cluster time at the instant ``now``; never below that of the last entry."""
        return max(self.ahead.time, now + self.time_base)

    def node_away(self, report: NodeAway) -> None:
        """The own guard struck a node off its roster for certain."""
        standing = self.standing(NodeId(report.node))
        standing.leased, standing.lease = False, 0
        standing.decided = standing.asked = 0
        standing.away, standing.attested = True, report.attested

    def node_back(self, report: NodeBack) -> None:
        """A node acknowledges: with its lease (continued or opened), or in need of one."""
        standing = self.standing(NodeId(report.node))
        if report.lease:
            standing.leased, standing.lease = True, report.lease
            standing.away, standing.attested, standing.waiting = False, False, False
        else:
            standing.waiting = True
            standing.decided = standing.asked = 0

    def observe(self, node: NodeId, reports: Iterable[HostReport]) -> None:
        """Take in what the host of ``node`` reported."""
        for report in reports:
            match report:
                case ResourceReport():
                    self.reports[report.resource] = (node, report)
                case GroupAttested():
                    self.attested[report.group] = (node, report.generation)
                case Inventory():
                    self.observe(node, report.resources)
                    for group, generation in report.closed.items():
                        self.attested[group] = (node, generation)

    def observations(
        self, connected: set[NodeId], witnesses: frozenset[int] = frozenset()
    ) -> Observations:
        """Return the view from which a plan is made; reports count only from a group's owner."""
        groups, resources = self.ahead.groups, self.ahead.resources
        views: dict[NodeId, NodeView] = {}
        for node in self.ahead.nodes.values():
            standing = self.standings.get(node.id)
            known = standing is not None
            views[node.id] = NodeView(
                leased=standing.leased if standing else node.up,
                connected=node.id == self.me or node.id in connected,
                away=standing.away if standing else False,
                attested=known and bool(standing and standing.attested),
            )
        seen: dict[ResourceId, ResourceReport] = {}
        for resource_id, (node_id, report) in self.reports.items():
            resource = resources.get(resource_id)
            group = groups.get(resource.group) if resource else None
            if group and group.owner == node_id and group.generation == report.generation:
                seen[resource_id] = report
        attested: dict[GroupId, int] = {}
        for group_id, (node_id, generation) in self.attested.items():
            owned = groups.get(group_id)
            if owned and owned.owner == node_id:
                attested[group_id] = generation
        return Observations(
            nodes=views,
            resources=seen,
            attested=attested,
            witnesses=witnesses,
            paths=dict(self.told),
        )
