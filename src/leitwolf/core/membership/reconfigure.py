"""The steps by which nodes become voters and cease to be members: joint consensus only.

A change of the voters goes through two entries: *joint* (old and new must both agree), then
*final*.

Rules:

- One change at a time, after the leader's own first entry committed.
- A learner is promoted when its log reaches the leader's commit index.
- A node that leaves is drained while it can be talked to, then excluded at the guard; only when it
  is certainly away it loses its vote.
- Final is appended only when every lease granted before joint was appended is over (L10): the
  waiting time is ``awaited(R)`` from the appending of joint.
- Node ids are never used again, so an evicted node cannot be mistaken for a new one.

Each call looks at the state afresh and names the one next step, so a new leader continues where the
old one stopped.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from leitwolf.model.ids import NodeId, NodeStatus
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.model.state import State

__all__ = ["Step", "describe_quorum", "next_step", "sought_witness"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The next step of a reconfiguration.

    ``kind``: ``exclude`` (ask the guard), ``learn``, ``joint``, ``final`` or ``forget`` (append).
    """

    kind: str
    node: NodeId = NodeId(0)
    config: QuorumConfig | None = None
    text: str = ""


def _changed(config: QuorumConfig, acceptors: tuple[Acceptor, ...]) -> QuorumConfig:
    voting = {acceptor.id for acceptor in acceptors}
    return QuorumConfig(
        acceptors=acceptors,
        learners=tuple(learner for learner in config.learners if learner not in voting),
        former=config.acceptors,
    )


def next_step(
    state: State,
    config: QuorumConfig,
    *,
    caught_up: frozenset[NodeId],
    away: frozenset[NodeId],
    connected: frozenset[NodeId],
    joint_over: bool,
) -> Step | None:
    """Return the next step, or None when nothing is to be done or something must be waited for.

    Args:
        state: the fold of the whole log.
        config: quorum configuration in force.
        caught_up: learners whose log reaches the commit index, and witnesses that may vote.
        away: nodes that certainly hold no run-lease.
        connected: nodes whose daemon can be talked to: their groups move away in order.
        joint_over: the joint configuration is committed and its waiting time is over.
    """
    if config.former is not None:
        if not joint_over:
            return None
        final = QuorumConfig(acceptors=config.acceptors, learners=config.learners)
        return Step(kind="final", config=final, text="new configuration alone")
    for node in sorted(state.nodes.values(), key=lambda node: node.id):
        identity = AcceptorId(node.id, node.storage)
        voting = any(acceptor.id == identity for acceptor in config.acceptors)
        stale = tuple(a for a in config.acceptors if a.id.node == node.id and a.id != identity)
        if node.status == NodeStatus.LEAVING:
            if node.id not in away:
                owns = any(group.owner == node.id for group in state.groups.values())
                if owns and node.id in connected:
                    continue  # the plan drains it first
                return Step(kind="exclude", node=node.id, text=f"{node.name} leaves")
            rest = tuple(a for a in config.acceptors if a.id.node != node.id)
            if len(rest) < len(config.acceptors):
                return Step(
                    kind="joint",
                    node=node.id,
                    config=_changed(config, rest),
                    text=f"{node.name} loses its vote",
                )
            learners = tuple(a for a in config.learners if a.node != node.id)
            known = len(learners) < len(config.learners)
            return Step(
                kind="forget",
                node=node.id,
                config=msgspec.structs.replace(config, learners=learners) if known else None,
                text=f"{node.name} is no member any more",
            )
        if voting and not stale:
            continue
        if identity not in config.learners and not voting:
            learners = (*(one for one in config.learners if one.node != node.id), identity)
            learning = msgspec.structs.replace(config, learners=learners)
            return Step(kind="learn", node=node.id, config=learning, text=f"{node.name} learns")
        if node.id in caught_up:
            acceptors = (
                *(a for a in config.acceptors if a.id.node != node.id),
                Acceptor(id=identity, weight=state.wish.node_weight),
            )
            return Step(
                kind="joint",
                node=node.id,
                config=_changed(config, acceptors),
                text=f"{node.name} gets a vote" if state.wish.node_weight else f"{node.name} is in",
            )
    return _wished(state, config, caught_up)


def sought_witness(state: State, config: QuorumConfig) -> int:
    """Return the id of the witness for which a change of the quorum waits until it is armed; 0."""
    wish = state.wish
    if wish.witness is None:
        return 0
    weights = {a.weight for a in config.acceptors if a.kind == "node"}
    settled = wish.witness in config.acceptors and weights <= {wish.node_weight}
    return 0 if settled else wish.witness.id.node


def _wished(state: State, config: QuorumConfig, ready: frozenset[NodeId]) -> Step | None:
    """Return the step to the kind of quorum that is wanted, None: it is in force.

    A disk or witness is brought in without a vote first: its first renewal must count before the
    leader's lease needs it.
    """
    wish = state.wish
    acceptors = tuple(
        msgspec.structs.replace(acceptor, weight=wish.node_weight)
        for acceptor in config.acceptors
        if acceptor.kind == "node"
    )
    if wish.witness is not None:
        acceptors = (*acceptors, wish.witness)
    if set(acceptors) == set(config.acceptors):
        return None
    present = {acceptor.id for acceptor in config.acceptors}
    if wish.witness is not None and wish.witness.id not in present:
        voting = tuple(a for a in config.acceptors if a.kind == "node" or a.weight)
        entering = msgspec.structs.replace(wish.witness, weight=0)
        learning = msgspec.structs.replace(config, acceptors=(*voting, entering))
        return Step(kind="learn", config=learning, text=f"{wish.witness.location} is brought in")
    if wish.witness is not None and wish.witness.id.node not in ready:
        return None
    who = wish.witness.location if wish.witness is not None else "nodes alone"
    return Step(
        kind="joint",
        config=_changed(config, acceptors),
        text=f"the quorum becomes {describe_quorum(acceptors)}: {who}",
    )


def describe_quorum(acceptors: Iterable[Acceptor]) -> str:
    """Return the kind of a quorum in words."""
    acceptors = tuple(acceptors)
    nodes = any(acceptor.kind == "node" and acceptor.weight > 0 for acceptor in acceptors)
    kinds = {acceptor.kind for acceptor in acceptors if acceptor.kind != "node"}
    if not kinds:
        return "majority of nodes"
    what = "disk" if "disk" in kinds else "witness"
    return f"nodes and a {what}" if nodes else f"shared {what} alone"
