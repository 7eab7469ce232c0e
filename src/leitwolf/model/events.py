"""What a log entry says: events, grouped into one atomic change with its cause.

Every entry carries a :class:`Change`. The fold (:mod:`leitwolf.state`) applies its events in
order. ``because`` names the entry or the observation that caused it, so that the chain of causes
can be walked (``leitwolf why``).
"""

from __future__ import annotations

import msgspec

from leitwolf.model.ids import (
    GroupId,
    NetworkRole,
    NodeId,
    ResourceId,
    ResourceState,
    Wish,
)
from leitwolf.model.quorum import QuorumWish
from leitwolf.wire.lineage import Lineage

__all__ = [
    "SETTINGS",
    "BackupMade",
    "Cause",
    "Change",
    "ClusterChanged",
    "ClusterFormed",
    "Event",
    "GroupAdded",
    "GroupChanged",
    "GroupClosing",
    "GroupFailed",
    "GroupPlaced",
    "GroupRecovered",
    "GroupRemoved",
    "GroupRemoving",
    "GroupStopped",
    "GroupWished",
    "KeysSet",
    "LeaderElected",
    "LocalRecord",
    "NetworkSet",
    "NodeAdded",
    "NodeChanged",
    "NodeDown",
    "NodeLeaving",
    "NodePaused",
    "NodePromoted",
    "NodeRemoved",
    "NodeStopping",
    "NodeUp",
    "NotChosen",
    "ProfileSettled",
    "QuorumChanged",
    "QuorumForced",
    "QuorumWished",
    "ResourceAdded",
    "ResourceChanged",
    "ResourceMoved",
    "ResourceRemoved",
    "ResourceWished",
    "TokenIssued",
    "TokenUsed",
    "WitnessRelocated",
]


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Event(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag=True,
    tag_field="kind",
):
    pass


class Cause(_Data, frozen=True, kw_only=True):
    """Why: a coded, short, true sentence; ``index`` is the entry that led to this one, or 0."""

    code: str
    """Stable code, kebab-case, for example ``node-lost``; documented in the reference."""
    text: str
    index: int = 0


class NotChosen(_Data, frozen=True, kw_only=True):
    """Why another node was not chosen as owner."""

    node: NodeId
    code: str
    text: str


# --- cluster and nodes ---------------------------------------------------------------------------


class ClusterFormed(_Event, frozen=True, kw_only=True):
    """The first event of every log."""

    uuid: str
    name: str
    profile: str
    port: int
    """One port, TCP and UDP."""
    authority: bytes
    """Certificate of the cluster's own authority, DER."""
    generation_floor: int = 0
    """Generations of groups begin above it: those of the cluster whose backup this one is."""


class ClusterChanged(_Event, frozen=True, kw_only=True):
    """Cluster-wide settings; None: unchanged."""

    name: str | None = None
    profile: str | None = None


class ProfileSettled(_Event, frozen=True, kw_only=True):
    """Nothing that was granted under the former timing profile is in force any more."""


class NodeAdded(_Event, frozen=True, kw_only=True):
    """A node joined as learner (the first one: as member)."""

    node: NodeId
    name: str
    uuid: str
    storage: str
    addresses: dict[str, str]
    """Its address on each network, by network name."""
    fingerprint: str
    """SHA-256 of its certificate, hexadecimal."""
    token: str = ""
    """Digest of the join token that paid for it."""


class NodePromoted(_Event, frozen=True, kw_only=True):
    """The learner caught up and votes from now on."""

    node: NodeId


class NodeChanged(_Event, frozen=True, kw_only=True):
    """Addresses, storage, certificate or scheduling of a node changed; None: unchanged."""

    node: NodeId
    addresses: dict[str, str] | None = None
    storage: str | None = None
    fingerprint: str | None = None
    realtime: bool | None = None
    """Its guard has real-time scheduling."""


class NodePaused(_Event, frozen=True, kw_only=True):
    """No group is placed on a paused node; ``drain``: the groups on it move away."""

    node: NodeId
    paused: bool
    drain: bool = False


class NodeStopping(_Event, frozen=True, kw_only=True):
    """The node is about to stop in order: its groups move away or stop. Over when it is up anew."""

    node: NodeId
    stopping: bool = True
    """False: it goes on after all."""


class NodeLeaving(_Event, frozen=True, kw_only=True):
    """The node is to go: its groups move away, then its lease and its vote are taken."""

    node: NodeId
    evicted: bool
    """An operator wants it gone; else it asked for it itself."""
    replaced: bool = False
    """Its place is kept for another node of its name."""


class NodeRemoved(_Event, frozen=True, kw_only=True):
    """The node left or was evicted. It is down, owns nothing and has no vote."""

    node: NodeId
    evicted: bool


class NodeUp(_Event, frozen=True, kw_only=True):
    """The node holds a run-lease and is connected: it can own groups."""

    node: NodeId


class NodeDown(_Event, frozen=True, kw_only=True):
    """The node holds no run-lease any more."""

    node: NodeId
    attested: bool
    """It confirmed that everything is stopped (else the time of its lease passed)."""


class LeaderElected(_Event, frozen=True, kw_only=True):
    """First event of a leader's first entry."""

    node: NodeId


class QuorumChanged(_Event, frozen=True, kw_only=True):
    """Goes with an entry that has ``config``."""

    stage: str
    """``joint`` or ``final``."""
    text: str


class NetworkSet(_Event, frozen=True, kw_only=True):
    """A network was found or changed."""

    name: str
    subnets: tuple[str, ...]
    role: NetworkRole
    link: int = -1
    """Number of its link, for good; -1: it comes of its name, see ``link_numbers``."""


class TokenIssued(_Event, frozen=True, kw_only=True):
    """A join token, known by its hash; its life runs on the monotonic clock of each node."""

    digest: str
    lifetime_s: int


class TokenUsed(_Event, frozen=True, kw_only=True):
    """A join token was used up or withdrawn."""

    digest: str


class QuorumWished(_Event, frozen=True, kw_only=True):
    """The operator wants another kind of quorum; the id of a witness was never used before."""

    wish: QuorumWish


class WitnessRelocated(_Event, frozen=True, kw_only=True):
    """A disk or witness is reached elsewhere, by one node or (0) by all that have no own way."""

    storage: str
    node: NodeId = NodeId(0)
    location: str = ""
    """'': as before."""


class QuorumForced(_Event, frozen=True, kw_only=True):
    """A part of the cluster goes on without the rest, by order of the operator: a new history.

    Disks and witnesses are set aside; addresses are probed for duplicates before they are used.
    """

    lineage: Lineage
    """Of the new history; its last nonce is new."""
    nodes: tuple[NodeId, ...]
    """Who goes on; the operator confirmed that no other node runs."""
    loss: str
    """What may be lost, as far as it was known."""


class KeysSet(_Event, frozen=True, kw_only=True):
    """The heartbeat keys of all guards, the sealing one first; a rekey takes three steps.

    ``stage``: ``spread`` (the new key opens, the old one seals), ``seal`` (the new one seals),
    ``final`` (the old one is gone).
    """

    keys: tuple[bytes, ...]
    stage: str


class LocalRecord(_Event, frozen=True, kw_only=True):
    """What a node did while it had no quorum, told when it was back."""

    node: NodeId
    lines: tuple[str, ...]


class BackupMade(_Event, frozen=True, kw_only=True):
    """Somebody copied the state of the cluster, parameters of resources included, on a node."""

    node: NodeId


# --- groups --------------------------------------------------------------------------------------


class GroupAdded(_Event, frozen=True, kw_only=True):
    """A new group, empty and offline."""

    group: GroupId
    preferred: tuple[NodeId, ...] = ()
    restart_threshold: int = 1
    restart_period_s: int = 900
    failover_threshold: int = -1
    """-1: number of nodes minus one."""
    failover_period_s: int = 21_600
    retry_period_s: int = 3_600


class GroupChanged(_Event, frozen=True, kw_only=True):
    """Settings of a group; None: unchanged."""

    group: GroupId
    preferred: tuple[NodeId, ...] | None = None
    restart_threshold: int | None = None
    restart_period_s: int | None = None
    failover_threshold: int | None = None
    failover_period_s: int | None = None
    retry_period_s: int | None = None


class GroupRemoved(_Event, frozen=True, kw_only=True):
    """The group is gone; it was stopped and empty."""

    group: GroupId


class GroupWished(_Event, frozen=True, kw_only=True):
    """The operator wants the group online or offline."""

    group: GroupId
    wish: Wish


class GroupPlaced(_Event, frozen=True, kw_only=True):
    """``node`` owns the group from now on, under a new generation; it may start at once."""

    group: GroupId
    node: NodeId
    generation: int
    cause: Cause
    failover: bool
    """Counts against the failover threshold: the group failed where it was (not: its node)."""
    not_chosen: tuple[NotChosen, ...] = ()


class GroupClosing(_Event, frozen=True, kw_only=True):
    """The owner must stop the group and attest; then it goes to ``target`` (0: policy chooses)."""

    group: GroupId
    target: NodeId
    cause: Cause
    failover: bool


class GroupStopped(_Event, frozen=True, kw_only=True):
    """Nobody owns the group: closed and no node to place it on, or its owner is gone."""

    group: GroupId
    cause: Cause
    not_chosen: tuple[NotChosen, ...] = ()


class GroupFailed(_Event, frozen=True, kw_only=True):
    """Thresholds are used up: the group stays where it is until ``recover`` or its retry period."""

    group: GroupId
    cause: Cause


class GroupRecovered(_Event, frozen=True, kw_only=True):
    """The failures of the group are forgotten: all its counters begin anew."""

    group: GroupId
    cause: Cause


class GroupRemoving(_Event, frozen=True, kw_only=True):
    """The group is to be removed with its resources as soon as it is stopped for certain."""

    group: GroupId


# --- resources -----------------------------------------------------------------------------------


class ResourceAdded(_Event, frozen=True, kw_only=True):
    """A new resource, wish online."""

    resource: ResourceId
    group: GroupId
    type: str
    parameters: dict[str, str]
    depends: tuple[ResourceId, ...] = ()


class ResourceChanged(_Event, frozen=True, kw_only=True):
    """Parameters or dependencies of a resource; None: unchanged."""

    resource: ResourceId
    parameters: dict[str, str] | None = None
    depends: tuple[ResourceId, ...] | None = None


class ResourceRemoved(_Event, frozen=True, kw_only=True):
    """The resource is gone; it was offline."""

    resource: ResourceId


class ResourceWished(_Event, frozen=True, kw_only=True):
    """The operator wants the resource online or offline."""

    resource: ResourceId
    wish: Wish


class ResourceMoved(_Event, frozen=True, kw_only=True):
    """The state of a resource changed, on ``node`` under ``generation``.

    ``attempt`` grows by one with each restart in place; entering online-pending with a higher
    attempt asks the owner to start it anew. A restart of a failed resource counts against the
    restart threshold, one because of new parameters does not.
    """

    resource: ResourceId
    node: NodeId
    generation: int
    attempt: int
    state: ResourceState
    cause: Cause


Event = (
    ClusterFormed
    | ClusterChanged
    | NodeAdded
    | NodePromoted
    | NodeChanged
    | NodePaused
    | NodeStopping
    | NodeLeaving
    | NodeRemoved
    | NodeUp
    | NodeDown
    | LeaderElected
    | QuorumChanged
    | NetworkSet
    | TokenIssued
    | TokenUsed
    | KeysSet
    | ProfileSettled
    | QuorumForced
    | QuorumWished
    | WitnessRelocated
    | LocalRecord
    | BackupMade
    | GroupAdded
    | GroupChanged
    | GroupRemoved
    | GroupWished
    | GroupPlaced
    | GroupClosing
    | GroupStopped
    | GroupFailed
    | GroupRecovered
    | GroupRemoving
    | ResourceAdded
    | ResourceChanged
    | ResourceRemoved
    | ResourceWished
    | ResourceMoved
)


SETTINGS = frozenset({GroupChanged, LocalRecord})
"""Nobody but the leader acts on these, so other nodes may apply them some milliseconds later."""


class Change(_Data, frozen=True, kw_only=True):
    """What one entry does, as a whole or not at all.

    ``time`` is cluster time: nanoseconds that never go back, advanced by the leader's monotonic
    clock and continued by the next leader; periods and thresholds count in it. ``wall`` is UTC in
    nanoseconds, for people only: it decides nothing.
    """

    events: tuple[Event, ...]
    because: Cause
    by: str
    time: int
    wall: int
