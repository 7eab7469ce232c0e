"""What nodes see and tell: host orders and reports, reports to the leader, the leader's view."""

from __future__ import annotations

import msgspec

from leitwolf.model.commands import Answer, Command
from leitwolf.model.ids import GroupId, NodeId, ResourceId, ResourceState
from leitwolf.model.state import Node

__all__ = [
    "Acquaint",
    "CloseGroup",
    "Forward",
    "ForwardAnswer",
    "GroupAttested",
    "HostOrder",
    "HostReport",
    "Inventory",
    "LinkHeard",
    "NodeReport",
    "NodeView",
    "Observations",
    "PathReport",
    "PathState",
    "ResourceReport",
    "Seen",
    "StartResource",
    "StopResource",
]


class _Tagged(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag=True,
    tag_field="kind",
):
    pass


# --- daemon to host ------------------------------------------------------------------------------


class StartResource(_Tagged, frozen=True, kw_only=True):
    """Bring a resource online. The host starts it only when the page allows it (L7)."""

    resource: ResourceId
    group: GroupId
    type: str
    parameters: dict[str, str]
    lease: int
    generation: int
    attempt: int
    first: bool = False
    """The operator's first online: an address is probed for duplicates before it is used."""


class StopResource(_Tagged, frozen=True, kw_only=True):
    """Take a resource offline, whatever attempt of this or an earlier generation runs."""

    resource: ResourceId
    group: GroupId
    generation: int


class CloseGroup(_Tagged, frozen=True, kw_only=True):
    """All resources of the group are stopped: never run this generation again, and attest it."""

    group: GroupId
    generation: int


HostOrder = StartResource | StopResource | CloseGroup

# --- host to daemon ------------------------------------------------------------------------------


class ResourceReport(_Tagged, frozen=True, kw_only=True):
    """A resource changed its state on this node."""

    resource: ResourceId
    group: GroupId
    lease: int
    generation: int
    attempt: int
    state: ResourceState
    code: str
    """Stable code of the reason, kebab-case: ``started``, ``exited``, ``stop-timeout`` ..."""
    text: str


class Inventory(_Tagged, frozen=True, kw_only=True):
    """First report of a host: everything that it runs or adopted; the rest is offline."""

    resources: tuple[ResourceReport, ...]
    closed: dict[GroupId, int]
    """Highest generation of each group that was attested here."""


class GroupAttested(_Tagged, frozen=True, kw_only=True):
    """Everything of (group, generation) is stopped and never runs again (I11)."""

    group: GroupId
    generation: int


HostReport = ResourceReport | Inventory | GroupAttested

# --- node to node ---------------------------------------------------------------------


class Seen(_Tagged, frozen=True, kw_only=True):
    """From a node to the leader: what its host reported; repeated until the log shows it."""

    reports: tuple[HostReport, ...]


class Forward(_Tagged, frozen=True, kw_only=True, omit_defaults=True):
    """A command that came in on another node, on its way to the leader."""

    id: int
    command: Command
    by: str
    wall: int
    unchanged_since: int = -1
    """As in the request; not told to nodes that do not know it, unless it is used."""


class ForwardAnswer(_Tagged, frozen=True, kw_only=True):
    """The leader's answer to a :class:`Forward`."""

    id: int
    answer: Answer


class PathState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether a node reaches a disk or witness."""

    storage: str
    """UUID of the disk or witness."""
    fault: str
    """Code and text of what failed last, '': nothing did."""
    since_wall: int
    """Since when, by the node's own wall clock, UTC ns; for display."""
    silence_ms: int = 0
    """The silence T_d that its calls ask for, whatever the profile bears; 0: not measured."""


class LinkHeard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether a node hears another one on an interconnect: one direction of a link."""

    network: str
    node: NodeId
    """Who is heard, or not."""
    heard: bool
    since_wall: int
    """Heard: since when; not heard: when last, 0: never. By the node's own wall clock, UTC ns."""


class PathReport(_Tagged, frozen=True, kw_only=True):
    """From a node to all: its ways to disks and witnesses, and whom it hears on which network."""

    paths: tuple[PathState, ...]
    links: tuple[LinkHeard, ...] = ()
    """By network and node; at most ``LINKS_TOLD_MAX``."""
    asks: bool = False
    """What the other one said is not known here: it is to say it again."""


class Acquaint(_Tagged, frozen=True, kw_only=True):
    """From a member to a node whose log is behind: members that it may not know yet."""

    nodes: tuple[Node, ...]


NodeReport = Seen | Forward | ForwardAnswer | PathReport | Acquaint

# --- what policy looks at ------------------------------------------------------------------------


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """The leader's view of one node at this moment."""

    leased: bool
    """On the roster: holds (or may hold) a run-lease."""
    connected: bool
    """Its daemon's stream is up."""
    away: bool
    """Certainly holds no run-lease (NodeAway): what it owned may be taken."""
    attested: bool = False


class Observations(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan is made from, besides the state."""

    nodes: dict[NodeId, NodeView]
    resources: dict[ResourceId, ResourceReport]
    """Newest report of each resource by its owner, of the current generation."""
    attested: dict[GroupId, int]
    """Highest generation of each group that its owner attested."""
    witnesses: frozenset[int] = frozenset()
    """Disks and witnesses that did what was asked of them last."""
    paths: dict[NodeId, tuple[PathState, ...]] = {}
    """What the other nodes told of their ways to disks and witnesses; perhaps some seconds ago."""
