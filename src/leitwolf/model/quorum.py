"""Who votes, with which weight: the quorum configuration as data."""

from __future__ import annotations

import msgspec

from leitwolf.model.ids import NO_NODE, NodeId

__all__ = [
    "Acceptor",
    "AcceptorId",
    "QuorumConfig",
    "QuorumWish",
    "Relocation",
    "location_of",
]


class AcceptorId(msgspec.Struct, frozen=True, forbid_unknown_fields=True, order=True):
    """An acceptor is a node (or witness) together with its storage.

    A wiped disk is another acceptor: it forgot its promises and must be added again.
    """

    node: NodeId
    storage: str
    """UUID of the storage that holds its log."""


class Acceptor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An acceptor and its vote."""

    id: AcceptorId
    weight: int = 1
    kind: str = "node"
    """``node``, ``disk`` (one block per node) or ``object`` (compare-and-swap)."""
    location: str = ""
    """Where a disk or object is; a :class:`Relocation` says otherwise."""
    silence_ms: int = 0
    """T_d of a disk or object beyond P: how long its armed stamp must stand still at least."""
    full: bool = True
    """An object holds snapshot and entries, not only the key of the newest one."""
    slots: int = 0
    """Highest number of a node that has a block on a disk; 0: no limit, or not known."""


class Relocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another way to a disk or object: it is the same one, and votes as before."""

    storage: str
    node: NodeId
    """For which node; 0: for all that have none of their own."""
    location: str


def location_of(acceptor: Acceptor, relocations: tuple[Relocation, ...], node: int) -> str:
    """Return where a node reaches a disk or object; 0: where all do that have no own way."""
    known = {one.node: one.location for one in relocations if one.storage == acceptor.id.storage}
    return known.get(NodeId(node)) or known.get(NO_NODE) or acceptor.location


class QuorumWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which kind of quorum the operator wants; reconfiguration leads there.

    Who has how many votes at a time follows from it: :mod:`leitwolf.core.membership.votes`.
    """

    witness: Acceptor | None = None
    """The disk or object that votes, None: nodes alone do."""
    node_weight: int = 1
    """Votes of each node: 1, or 0 where ``witness`` alone decides."""
    dynamic: bool = False
    """Votes follow who is there: the lost have none. False: everyone keeps his vote (strict)."""
    prefer: NodeId = NO_NODE
    """Dynamic: the node that has the casting vote while it votes; 0: whoever has it keeps it."""
    voteless: tuple[NodeId, ...] = ()
    """Nodes of weight 0, ascending: members that never vote, as those of a distant site."""


class QuorumConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Acceptors and learners; ``former`` is set during a change: both must agree (joint).

    A set S of acceptors is a quorum of one configuration when 2 * weight(S) > total weight.
    """

    acceptors: tuple[Acceptor, ...]
    learners: tuple[AcceptorId, ...] = ()
    former: tuple[Acceptor, ...] | None = None
