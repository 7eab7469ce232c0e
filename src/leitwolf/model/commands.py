"""What users ask for, and what they are answered."""

from __future__ import annotations

import msgspec

from leitwolf.model.ids import GroupId, NetworkRole, NodeId, ResourceId, Wish

__all__ = [
    "AddGroup",
    "AddNode",
    "AddResource",
    "Answer",
    "ChangeCluster",
    "ChangeGroup",
    "ChangeResource",
    "Command",
    "EvictNode",
    "ForceQuorum",
    "IssueToken",
    "MakeBackup",
    "MoveGroup",
    "NewResource",
    "PauseNode",
    "RecoverGroup",
    "Refusal",
    "Rekey",
    "RelocateWitness",
    "RemoveGroup",
    "RemoveResource",
    "ReplaceStorage",
    "SetNetwork",
    "SetQuorum",
    "SetVotes",
    "StopNode",
    "TellAbility",
    "TellRecord",
    "TransferLeader",
    "WishGroup",
    "WishResource",
]


class _Command(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag=True,
    tag_field="kind",
):
    pass


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class NewResource(_Data, frozen=True, kw_only=True):
    """A resource to be added with its group."""

    resource: ResourceId
    type: str
    parameters: dict[str, str]
    depends: tuple[ResourceId, ...] = ()


class AddGroup(_Command, frozen=True, kw_only=True):
    """A new group, with its first resources, all or nothing."""

    group: GroupId
    preferred: tuple[NodeId, ...] = ()
    resources: tuple[NewResource, ...] = ()
    wish: Wish = Wish.ONLINE
    restart_threshold: int = 1
    restart_period_s: int = 900
    failover_threshold: int = -1
    failover_period_s: int = 21_600
    retry_period_s: int = 3_600


class ChangeGroup(_Command, frozen=True, kw_only=True):
    """Change settings of a group; None: unchanged."""

    group: GroupId
    preferred: tuple[NodeId, ...] | None = None
    restart_threshold: int | None = None
    restart_period_s: int | None = None
    failover_threshold: int | None = None
    failover_period_s: int | None = None
    retry_period_s: int | None = None


class RemoveGroup(_Command, frozen=True, kw_only=True):
    """Remove a group; ``force``: take it offline and remove its resources first."""

    group: GroupId
    force: bool = False


class WishGroup(_Command, frozen=True, kw_only=True):
    """Bring a group online or take it offline."""

    group: GroupId
    wish: Wish


class MoveGroup(_Command, frozen=True, kw_only=True):
    """Move a group to ``node`` (0: the best other node)."""

    group: GroupId
    node: NodeId


class RecoverGroup(_Command, frozen=True, kw_only=True):
    """Forget the failures of a group and try again."""

    group: GroupId


class AddResource(_Command, frozen=True, kw_only=True):
    """Add a resource to a group."""

    group: GroupId
    resource: ResourceId
    type: str
    parameters: dict[str, str]
    depends: tuple[ResourceId, ...] = ()


class ChangeResource(_Command, frozen=True, kw_only=True):
    """Change parameters (merged; an empty value removes one) or dependencies of a resource."""

    resource: ResourceId
    parameters: dict[str, str] | None = None
    depends: tuple[ResourceId, ...] | None = None


class RemoveResource(_Command, frozen=True, kw_only=True):
    """Remove a resource."""

    resource: ResourceId


class WishResource(_Command, frozen=True, kw_only=True):
    """Bring a resource online or take it offline."""

    resource: ResourceId
    wish: Wish


class PauseNode(_Command, frozen=True, kw_only=True):
    """Pause (with or without draining) or resume a node."""

    node: NodeId
    paused: bool
    drain: bool = True


class StopNode(_Command, frozen=True, kw_only=True):
    """From a node that is about to stop in order, or that goes on after all."""

    node: NodeId
    stopping: bool = True


class TellRecord(_Command, frozen=True, kw_only=True):
    """From a node that is back: what it did while it had no quorum."""

    node: NodeId
    lines: tuple[str, ...]


class TellAbility(_Command, frozen=True, kw_only=True):
    """From a node: what its guard got from the machine, and new addresses of the machine."""

    node: NodeId
    realtime: bool
    """Real-time scheduling, without which short timing profiles cannot be held."""
    addresses: dict[str, str] = {}
    """Of its machine on networks on which the log knows none: the network came later."""


class AddNode(_Command, frozen=True, kw_only=True):
    """Join: from the node that answered a join request; it becomes a learner, then a member."""

    name: str
    uuid: str
    storage: str
    addresses: dict[str, str]
    fingerprint: str
    token: str
    """Digest of the join token that pays for it."""
    realtime: bool | None = None
    """Its guard has real-time scheduling; None: it did not say, and is believed to."""
    stall_ms: int = 0
    """The worst stall that its guard measured lately."""


class EvictNode(_Command, frozen=True, kw_only=True):
    """Remove a node from the cluster."""

    node: NodeId
    leaving: bool = False
    """It asked for it itself."""
    replaced: bool = False
    """Another one of its name is to get its place among preferred owners and votes."""


class IssueToken(_Command, frozen=True, kw_only=True):
    """Make a join token known (by digest)."""

    digest: str
    lifetime_s: int


class SetNetwork(_Command, frozen=True, kw_only=True):
    """Add or change a network."""

    name: str
    subnets: tuple[str, ...]
    role: NetworkRole


class ChangeCluster(_Command, frozen=True, kw_only=True):
    """Change cluster-wide settings; None: unchanged."""

    name: str | None = None
    profile: str | None = None


class SetQuorum(_Command, frozen=True, kw_only=True):
    """Change the kind of quorum: who votes beside (or instead of) the nodes."""

    witness: str = ""
    """``disk`` or ``object``; '': nodes alone vote."""
    storage: str = ""
    """UUID of what was formatted there."""
    location: str = ""
    """The same for every node."""
    full: bool = True
    """An object holds snapshot and entries."""
    alone: bool = False
    """Nodes have no vote: who has the disk (or engine) leads."""
    silence_ms: int = 0
    """T_d beyond P: how long the armed stamp must stand still at least."""
    slots: int = 0
    """Highest number of a node that has a place on the disk; 0: no limit, or not known."""


class RelocateWitness(_Command, frozen=True, kw_only=True):
    """Reach a disk or witness elsewhere: the same one, at another portal or path."""

    storage: str
    """UUID of what was found there."""
    location: str
    node: NodeId = NodeId(0)
    """Only from this node; 0: from all that have no way of their own."""


class MakeBackup(_Command, frozen=True, kw_only=True):
    """Say in the log that a backup is made on ``node``: what is applied there then is newest."""

    node: NodeId


class SetVotes(_Command, frozen=True, kw_only=True):
    """Change how votes are given; None: this stays as it is."""

    dynamic: bool | None = None
    """Votes follow who is there; False: everyone keeps his vote (strict)."""
    prefer: NodeId | None = None
    """Who has the casting vote while he votes; 0: whoever has it keeps it."""
    weights: dict[NodeId, int] = {}
    """0: the node never votes; 1: it does."""


class ForceQuorum(_Command, frozen=True, kw_only=True):
    """Go on without a quorum, with ``nodes`` alone; done by the node that is asked.

    Without ``others_down`` nothing is done: the answer tells what would be, as ``plan`` (JSON of
    :class:`leitwolf.model.views.ForceView`).
    """

    nodes: tuple[NodeId, ...] = ()
    """(): this node and all that it reaches."""
    others_down: bool = False
    """The operator confirms that no other node runs, nor comes back by itself unnoticed."""


class ReplaceStorage(_Command, frozen=True, kw_only=True):
    """From a node that set its log aside for a later history: it goes on with an empty one."""

    node: NodeId
    former: str
    storage: str


class Rekey(_Command, frozen=True, kw_only=True):
    """Replace the heartbeat key of all guards; 32 bytes each."""

    former: bytes
    """The key that seals now."""
    key: bytes
    """The new one, random."""


class TransferLeader(_Command, frozen=True, kw_only=True):
    """Hand leadership to ``node`` (0: the most up-to-date other one that reaches what it needs)."""

    node: NodeId = NodeId(0)


Command = (
    AddGroup
    | ChangeGroup
    | RemoveGroup
    | WishGroup
    | MoveGroup
    | RecoverGroup
    | AddResource
    | ChangeResource
    | RemoveResource
    | WishResource
    | PauseNode
    | StopNode
    | TellAbility
    | TellRecord
    | AddNode
    | EvictNode
    | ForceQuorum
    | ReplaceStorage
    | IssueToken
    | SetNetwork
    | ChangeCluster
    | MakeBackup
    | Rekey
    | RelocateWitness
    | SetQuorum
    | SetVotes
    | TransferLeader
)


class Refusal(_Data, frozen=True, kw_only=True):
    """Why a request was not done: a stable code, what is wrong, and what to do."""

    code: str
    text: str
    hint: str = ""
    field: str = ""
    retryable: bool = False


class Answer(_Data, frozen=True, kw_only=True):
    """Outcome of a request: the index of the committed entry, or a refusal. Nothing half done."""

    index: int = 0
    refusal: Refusal | None = None
    data: dict[str, str] = {}
    """Extra values of some commands, for example the id of a new node."""
