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
- Votes go only where those within reach are a quorum: else the leader would end its own office. A
  node is within reach by the storage that it has now; a former one never answers again.
- A leader that is to leave, or lost its vote, hands over to a node within reach that may lead.
- How many votes each has is said by :mod:`leitwolf.core.membership.votes`; every change of a vote,
  be it that a node is lost, goes the same way. One change may take and give several.
- Node ids are never used again, so an evicted node cannot be mistaken for a new one.

Each call looks at the state afresh and names the one next step, so a new leader continues where the
old one stopped.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from leitwolf.core.membership.votes import (
    casting_holder,
    configured_weight,
    wanted_acceptors,
    within_reach,
)
from leitwolf.core.quorum.predicate import contenders, is_quorum
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.ids import NO_NODE, NodeId, NodeStatus
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.model.state import Node, State

__all__ = ["Step", "View", "describe_quorum", "heirs", "next_step", "outstanding", "sought_witness"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The next step of a reconfiguration.

    ``kind``: ``exclude`` (ask the guard), ``learn``, ``joint``, ``final`` or ``forget`` (append).
    """

    kind: str
    node: NodeId = NodeId(0)
    config: QuorumConfig | None = None
    text: str = ""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What the leader sees at this moment."""

    leader: NodeId = NO_NODE
    """This node."""
    caught_up: frozenset[int] = frozenset()
    """Learners whose log reaches the commit index, and witnesses that may vote."""
    away: frozenset[int] = frozenset()
    """Nodes that certainly hold no run-lease."""
    connected: frozenset[int] = frozenset()
    """Nodes whose daemon can be talked to: their groups move away in order."""
    reached: frozenset[int] = frozenset()
    """Nodes that renew and confirm at this moment, this one included, and witnesses that answer."""
    absent: frozenset[int] = frozenset()
    """Acceptors that are lost, or about to stop: dynamic votes do without them."""
    joint_over: bool = False
    """The joint configuration is committed and its waiting time is over."""


def next_step(
    state: State, config: QuorumConfig, view: View, rules: Rules = ALL_RULES
) -> Step | None:
    """Return the next step, or None when nothing is to be done or something must be waited for.

    Args:
        state: the fold of the whole log.
        config: quorum configuration in force.
        view: what the leader sees.
        rules: switched off in tests.
    """
    if config.former is not None:
        if not view.joint_over:
            return None
        final = QuorumConfig(acceptors=config.acceptors, learners=config.learners)
        return Step(kind="final", config=final, text="new configuration alone")
    for node in sorted(state.nodes.values(), key=lambda node: node.id):
        step = _joint(state, config, view, rules, _membership(state, config, view, node))
        if step is not None:
            return step
    return _joint(state, config, view, rules, _wished(state, config, view))


def outstanding(state: State, view: View) -> str:
    """Say what lacks until the votes that are wanted are in force for good, '': nothing.

    Args:
        state: the fold of what is committed.
        view: only ``leader`` and ``absent`` are looked at.
    """
    config, witness = state.quorum, state.wish.witness
    if config is None:
        return ""
    if config.former is not None:
        return "the former votes must agree, too, until every lease by them is over"
    wanted = _wanted(state, config, view)
    if set(wanted) == set(config.acceptors):
        return ""
    if witness is not None and all(acceptor.id != witness.id for acceptor in config.acceptors):
        return f"{witness.location} is brought in"
    if _kind(wanted) != _kind(config.acceptors):
        return f"the quorum is to become {describe_quorum(wanted)}"
    return f"to come: {_describe_votes(state, config.acceptors, wanted, view)}"


def heirs(state: State, config: QuorumConfig, view: View) -> set[AcceptorId]:
    """Return the nodes within reach that may lead instead of this one."""
    able = set(contenders(config)) & within_reach(state, config.acceptors, view.reached)
    return {one for one in able if one.node != view.leader}


def _joint(
    state: State, config: QuorumConfig, view: View, rules: Rules, step: Step | None
) -> Step | None:
    """Return the step, if it can commit now, and the votes that it leads to too; others pass.

    A leader that reaches no quorum is to hand over, by votes that the others have. To commit it
    needs daemons, be their leases over, as that of a node which is put out; to stay in office by
    the votes to come it needs leases as well.
    """
    if step is None or step.kind != "joint" or step.config is None:
        return step
    wanted = step.config
    if rules.holds("votes-within-reach") and not (
        is_quorum(
            config.acceptors, within_reach(state, config.acceptors, view.connected | view.reached)
        )
        and is_quorum(wanted.acceptors, within_reach(state, wanted.acceptors, view.reached))
    ):
        return None
    if not rules.holds("votes-jointly"):
        return replace(step, kind="final")
    return replace(step, config=replace(wanted, former=config.acceptors))


def _membership(state: State, config: QuorumConfig, view: View, node: Node) -> Step | None:
    """Return the step by which a node becomes a voter, or ceases to be a member."""
    identity = AcceptorId(node.id, node.storage)
    if node.status == NodeStatus.LEAVING:
        return _leaving(state, config, view, node)
    voting = any(acceptor.id == identity for acceptor in config.acceptors)
    if voting and not any(a.id.node == node.id and a.id != identity for a in config.acceptors):
        return None
    if identity not in config.learners and not voting:
        learners = (*(one for one in config.learners if one.node != node.id), identity)
        learning = replace(config, learners=learners)
        return Step(kind="learn", node=node.id, config=learning, text=f"{node.name} learns")
    if node.id not in view.caught_up:
        return None
    others = tuple(one for one in _nodes(config) if one.node != node.id)
    votes = configured_weight(state.wish, node.id) and node.id not in view.absent
    text = f"{node.name} gets a vote" if votes else f"{node.name} is in"
    return _to(state, config, view, node, (*others, identity), text)


def _leaving(state: State, config: QuorumConfig, view: View, node: Node) -> Step | None:
    if node.id not in view.away:
        owns = any(group.owner == node.id for group in state.groups.values())
        if owns and node.id in view.connected:
            return None  # the plan drains it first
        if node.id == view.leader and not heirs(state, config, view):
            return None  # nobody could be handed the office
        return Step(kind="exclude", node=node.id, text=f"{node.name} leaves")
    rest = tuple(one for one in _nodes(config) if one.node != node.id)
    if len(rest) < len(_nodes(config)):
        return _to(state, config, view, node, rest, f"{node.name} loses its vote")
    learners = tuple(a for a in config.learners if a.node != node.id)
    known = len(learners) < len(config.learners)
    return Step(
        kind="forget",
        node=node.id,
        config=replace(config, learners=learners) if known else None,
        text=f"{node.name} is no member any more",
    )


def _nodes(config: QuorumConfig) -> tuple[AcceptorId, ...]:
    return tuple(acceptor.id for acceptor in config.acceptors if acceptor.kind == "node")


def _holder(config: QuorumConfig, view: View) -> NodeId:
    return casting_holder(config.acceptors) or view.leader


def _wanted(state: State, config: QuorumConfig, view: View) -> tuple[Acceptor, ...]:
    return wanted_acceptors(state.wish, _nodes(config), view.absent, _holder(config, view))


def _to(
    state: State,
    config: QuorumConfig,
    view: View,
    node: Node,
    nodes: tuple[AcceptorId, ...],
    text: str,
) -> Step:
    """Return the joint step to other nodes; beside a witness their votes are settled afterwards."""
    known = {acceptor.id: acceptor for acceptor in config.acceptors}
    passive = tuple(acceptor for acceptor in config.acceptors if acceptor.kind != "node")
    if state.wish.witness is None and not passive:
        acceptors = wanted_acceptors(state.wish, nodes, view.absent, _holder(config, view))
    else:
        weight = configured_weight(state.wish, node.id)
        acceptors = tuple(known.get(one) or Acceptor(id=one, weight=weight) for one in nodes)
    return Step(kind="joint", node=node.id, config=_with(config, (*acceptors, *passive)), text=text)


def _with(config: QuorumConfig, acceptors: tuple[Acceptor, ...]) -> QuorumConfig:
    voting = {acceptor.id for acceptor in acceptors}
    learners = tuple(learner for learner in config.learners if learner not in voting)
    return QuorumConfig(acceptors=acceptors, learners=learners)


def sought_witness(state: State, config: QuorumConfig, view: View) -> int:
    """Return the id of the witness for which a change of the quorum waits until it is armed; 0."""
    witness = state.wish.witness
    if witness is None or not _needed(state, witness, config, view):
        return 0
    return witness.id.node


def _needed(state: State, witness: Acceptor, config: QuorumConfig, view: View) -> bool:
    """Return whether a witness must be ready for a change: it gets a vote, or nodes need it."""
    wanted = _wanted(state, config, view)
    votes = {acceptor.id: acceptor.weight for acceptor in wanted}
    if set(wanted) == set(config.acceptors) or not votes[witness.id]:
        return False
    known = {acceptor.id: acceptor.weight for acceptor in config.acceptors}
    nodes = within_reach(state, wanted, view.reached) - {witness.id}
    return not known.get(witness.id) or not is_quorum(wanted, nodes)


def _wished(state: State, config: QuorumConfig, view: View) -> Step | None:
    """Return the step to the votes that are wanted, None: they are in force.

    A disk or witness is brought in without a vote first: its first renewal must count before the
    leader's lease needs it.
    """
    witness = state.wish.witness
    wanted = _wanted(state, config, view)
    if set(wanted) == set(config.acceptors):
        return None
    if witness is not None and all(acceptor.id != witness.id for acceptor in config.acceptors):
        voting = tuple(a for a in config.acceptors if a.kind == "node" or a.weight)
        learning = replace(config, acceptors=(*voting, replace(witness, weight=0)))
        return Step(kind="learn", config=learning, text=f"{witness.location} is brought in")
    if (
        witness is not None
        and _needed(state, witness, config, view)
        and witness.id.node not in view.caught_up
    ):
        return None
    if _kind(wanted) == _kind(config.acceptors):
        text = _describe_votes(state, config.acceptors, wanted, view)
    else:
        who = witness.location if witness is not None else "nodes alone"
        text = f"the quorum becomes {describe_quorum(wanted)}: {who}"
    return Step(kind="joint", config=_with(config, wanted), text=text)


def _kind(acceptors: tuple[Acceptor, ...]) -> tuple[frozenset[AcceptorId], bool]:
    """Return what makes a kind of quorum: who votes beside nodes, and whether nodes do."""
    passive = frozenset(acceptor.id for acceptor in acceptors if acceptor.kind != "node")
    return passive, any(acceptor.kind == "node" and acceptor.weight for acceptor in acceptors)


def _describe_votes(
    state: State, former: tuple[Acceptor, ...], wanted: tuple[Acceptor, ...], view: View
) -> str:
    """Say of everyone whose votes change why they do."""
    before = {acceptor.id: acceptor.weight for acceptor in former}
    said = []
    for acceptor in wanted:
        identity, votes = acceptor.id, before[acceptor.id]
        if acceptor.weight == votes:
            continue
        if acceptor.kind != "node":
            lost = identity.node in view.absent
            why = "it is lost" if lost else "the nodes that vote are an odd number"
            even = "it votes, as the nodes that vote are an even number"
            said.append(f"{acceptor.location}: {even if acceptor.weight else f'no vote, {why}'}")
            continue
        node = state.nodes[identity.node]
        if acceptor.weight == 2:  # its own and the casting vote
            said.append(f"{node.name} has the casting vote")
        elif acceptor.weight:
            said.append(f"{node.name} {'needs no casting vote' if votes > 1 else 'votes'}")
        elif node.stopping:
            said.append(f"{node.name} is about to stop: its vote is taken")
        elif identity.node in view.absent:
            said.append(f"{node.name} was lost: its vote is taken")
        else:
            said.append(f"{node.name} has no vote by choice")
    return "; ".join(said) or "parameters change"


def describe_quorum(acceptors: Iterable[Acceptor]) -> str:
    """Return the kind of a quorum in words."""
    acceptors = tuple(acceptors)
    nodes = any(acceptor.kind == "node" and acceptor.weight > 0 for acceptor in acceptors)
    kinds = {acceptor.kind for acceptor in acceptors if acceptor.kind != "node"}
    if not kinds:
        return "majority of nodes"
    what = "disk" if "disk" in kinds else "witness"
    return f"nodes and a {what}" if nodes else f"shared {what} alone"
