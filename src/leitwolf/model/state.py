"""The cluster state: what the log adds up to. Data only; the fold is :mod:`leitwolf.state`."""

from __future__ import annotations

import msgspec

from leitwolf.model.events import Cause
from leitwolf.model.ids import (
    NO_NODE,
    GroupId,
    GroupPhase,
    NetworkRole,
    NodeId,
    NodeStatus,
    ResourceId,
    ResourceState,
    Wish,
)
from leitwolf.model.quorum import Acceptor, QuorumConfig, QuorumWish, Relocation
from leitwolf.wire.lineage import Lineage

__all__ = ["Group", "Network", "Node", "Resource", "State", "Token", "Vacancy"]


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Node(_Data, frozen=True, kw_only=True):
    """A node of the cluster. ``changed``: index of the entry that changed it last."""

    id: NodeId
    name: str
    uuid: str
    storage: str
    addresses: dict[str, str]
    fingerprint: str
    status: NodeStatus
    up: bool = False
    paused: bool = False
    draining: bool = False
    """While paused: its groups move away."""
    evicted: bool = False
    """While leaving: an operator wants it gone."""
    replaced: bool = False
    """While leaving: its place is kept for another node of its name."""
    stopping: bool = False
    """It is about to stop in order: its groups move away or stop; over when it is up anew."""
    realtime: bool | None = None
    """Its guard has real-time scheduling; None: it did not tell yet."""
    token: str = ""
    """While learner: digest of the join token that paid for it, to grant the same again."""
    changed: int = 0


class Vacancy(_Data, frozen=True, kw_only=True):
    """The place of a node that was replaced, until another one of its name is in."""

    node: NodeId
    """The former one."""
    preferred: dict[str, tuple[NodeId, ...]] = {}
    """Preferred owners of the groups that preferred it, as they were with it."""
    prefers: bool = False
    """It was preferred for the casting vote."""
    voteless: bool = False
    relocations: tuple[Relocation, ...] = ()
    """Its own ways to disks and witnesses."""


class Network(_Data, frozen=True, kw_only=True):
    """A network that some nodes share."""

    name: str
    subnets: tuple[str, ...]
    role: NetworkRole
    link: int = -1
    """As of the event that set it."""
    changed: int = 0


class Token(_Data, frozen=True, kw_only=True):
    """An open join token."""

    digest: str
    lifetime_s: int
    issued: int
    """Index of the entry that issued it."""
    issued_at: int = 0
    """Cluster time of that entry, ns."""


class Resource(_Data, frozen=True, kw_only=True):
    """A resource and its state under its group's current generation."""

    id: ResourceId
    group: GroupId
    type: str
    parameters: dict[str, str]
    depends: tuple[ResourceId, ...] = ()
    wish: Wish = Wish.ONLINE
    state: ResourceState = ResourceState.OFFLINE
    attempt: int = 0
    restarts: tuple[int, ...] = ()
    """Cluster times of the restarts in place within the period, on this owner."""
    proven: bool = False
    """Was online since the operator asked for it: an address needs no duplicate probe."""
    cause: Cause
    changed: int = 0


class Group(_Data, frozen=True, kw_only=True):
    """A group: unit of ownership and failover."""

    id: GroupId
    preferred: tuple[NodeId, ...]
    restart_threshold: int
    restart_period_s: int
    failover_threshold: int
    failover_period_s: int
    retry_period_s: int
    wish: Wish = Wish.OFFLINE
    phase: GroupPhase = GroupPhase.STOPPED
    owner: NodeId = NO_NODE
    generation: int = 0
    target: NodeId = NO_NODE
    """While closing: where it goes next, 0: policy chooses."""
    failing_over: bool = False
    """While closing: forced, not asked for."""
    failed_at: int = -1
    """Cluster time at which its thresholds were used up, -1: they are not."""
    failovers: tuple[int, ...] = ()
    """Cluster times of the failovers within the period."""
    visited: tuple[NodeId, ...] = ()
    """Nodes on which it failed since it was last online as a whole."""
    cause: Cause
    placed: int = 0
    """Index of the entry that placed it last."""
    attempt_floor: int = 0
    """First attempt of a resource that is added under this generation."""
    placed_because: Cause | None = None
    """Why it was placed there; outlives the history of the log."""
    removing: bool = False
    """Is removed as soon as it is stopped for certain."""
    changed: int = 0


class State(_Data, frozen=True, kw_only=True):
    """Everything that the log says. Dictionaries are never mutated: the fold copies them."""

    uuid: str = ""
    name: str = ""
    profile: str = "default"
    profile_former: str = ""
    """Leases granted under it may be in force; '': none of another profile than ``profile``."""
    profile_set: int = 0
    """Index of the entry that changed it, 0: the cluster was formed with it."""
    port: int = 0
    authority: bytes = b""
    index: int = 0
    """Index of the last entry folded in."""
    configured: int = 0
    """Index of the last entry that changed the configuration or a wish."""
    time: int = 0
    """Cluster time of that entry, ns."""
    node_serial: int = 0
    """Highest node id ever given."""
    generation_floor: int = 0
    """Highest generation of any removed group: a new one of the same name begins above it (I11)."""
    keys: tuple[bytes, ...] = ()
    """Heartbeat keys, the sealing one first; none: those that forming wrote, never changed."""
    keys_stage: str = ""
    keys_set: int = 0
    """Index of the entry that set them."""
    keys_time: int = 0
    """Cluster time of that entry."""
    leader: NodeId = NO_NODE
    """Node whose election the log recorded last."""
    quorum: QuorumConfig | None = None
    wish: QuorumWish = QuorumWish()
    lineage: Lineage = ()
    """Of this history: nonces of all forces; the epoch is their number."""
    forced: int = 0
    """Index of the entry that began it, 0: nobody ever forced anything."""
    given_up: tuple[Acceptor, ...] = ()
    """Disks and witnesses that a force left behind; another half may have them, too: never again
    those, only what was formatted anew."""
    witness_serial: int = 0
    """How many witnesses there ever were: their ids are never used again."""
    relocations: tuple[Relocation, ...] = ()
    """Other ways to disks and witnesses than those of the configuration."""
    nodes: dict[int, Node] = {}
    vacancies: dict[str, Vacancy] = {}
    """By name of the node."""
    networks: dict[str, Network] = {}
    tokens: dict[str, Token] = {}
    groups: dict[str, Group] = {}
    resources: dict[str, Resource] = {}
