"""How many votes each acceptor has: a pure function of the wish, the members and who is absent.

Rules:

- *Strict*: every node that may vote has one vote, and so has the witness, whoever is there. Four
  nodes need three, eight need five.
- *Dynamic*: an absent node has no vote. The witness has one iff the number of voting nodes is even.
  If it is even and no witness can vote, one node has the *casting vote*: it counts twice, so that
  of two halves the one with that node goes on. It is the preferred node while that votes; else
  whoever has it keeps it while he votes; else the leader has it. So the total is odd, whoever is
  there, and the casting vote does not wander as nodes come and go.
- A node of weight 0 never votes. Where the witness decides alone no node does, and nothing follows
  who is there.
- Somebody always votes: if all that may are absent, nobody's vote is taken; if no member may (a
  distant site went on alone by force), all do.

Why the casting vote is no vote taken away from another node: a node without a vote cannot lead.
With two nodes both forms have the same quorums.

What this does not guarantee: that the result may be put in force now; that is looked at in
:mod:`leitwolf.core.membership.reconfigure`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec.structs import replace

from leitwolf.model.ids import NO_NODE, NodeId
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumWish
from leitwolf.model.state import State

__all__ = ["casting_holder", "configured_weight", "wanted_acceptors", "within_reach"]


def configured_weight(wish: QuorumWish, node: NodeId) -> int:
    """Return the votes of a node (0 or 1) while it is there."""
    return 0 if node in wish.voteless else wish.node_weight


def casting_holder(acceptors: Iterable[Acceptor]) -> NodeId:
    """Return the node that has the casting vote; 0: none has."""
    return next((a.id.node for a in acceptors if a.kind == "node" and a.weight > 1), NO_NODE)


def wanted_acceptors(
    wish: QuorumWish,
    nodes: Iterable[AcceptorId],
    absent: Collection[int] = (),
    holder: NodeId = NO_NODE,
) -> tuple[Acceptor, ...]:
    """Return all acceptors with their votes; nodes in the order given, then the witness.

    Args:
        wish: what the operator wants.
        nodes: members, each with its storage.
        absent: ids of nodes and of the witness that are lost, or about to stop; only a dynamic
            wish looks at it.
        holder: who has the casting vote now, or else leads; if it cannot have it, the voting node
            with the lowest number has.
    """
    nodes = tuple(nodes)
    able = [identity.node for identity in nodes if configured_weight(wish, identity.node)]
    if not able and wish.node_weight:
        able = [identity.node for identity in nodes]
    voting, casting = able, NO_NODE
    witness = wish.witness
    if wish.dynamic and able:
        voting = [node for node in able if node not in absent] or able
        needed = len(voting) % 2 == 0
        if witness is not None:
            witness = replace(witness, weight=int(needed and witness.id.node not in absent))
        if needed and (witness is None or not witness.weight):
            able_to = [node for node in (wish.prefer, holder) if node in voting]
            casting = able_to[0] if able_to else min(voting)
    acceptors = tuple(
        Acceptor(id=identity, weight=(identity.node in voting) + (identity.node == casting))
        for identity in nodes
    )
    return acceptors if witness is None else (*acceptors, witness)


def within_reach(
    state: State, acceptors: Iterable[Acceptor], reached: Collection[int]
) -> set[AcceptorId]:
    """Return which acceptors can confirm, if these nodes and witnesses are within reach.

    A node that came back with another storage is another acceptor: its former self never answers.
    """
    members = {AcceptorId(node.id, node.storage) for node in state.nodes.values()}
    return {
        acceptor.id
        for acceptor in acceptors
        if acceptor.id.node in reached and (acceptor.kind != "node" or acceptor.id in members)
    }
