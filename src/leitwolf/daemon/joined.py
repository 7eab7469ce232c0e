"""What a node that has just joined still lacks, for who let it join."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from leitwolf.core.membership.votes import configured_weight
from leitwolf.model.ids import NodeId
from leitwolf.model.state import State

if TYPE_CHECKING:
    from leitwolf.peers.join import Unanswered

__all__ = ["shortcomings"]

_NAMED_MAX = 4
"""Addresses that are named; of more their number."""


def shortcomings(
    state: State, me: NodeId, unanswered: Iterable[Unanswered], heard: Collection[int]
) -> list[str]:
    """Return what is wrong with a node that joined, a line each; nothing when all is well.

    Args:
        state: as the node knows it now.
        me: the node.
        unanswered: guards that it could not reach by UDP when it joined.
        heard: nodes that its guard hears now, on any link.
    """
    lines = [one.text for one in unanswered if one.fault and not heard]
    # Of one that is down that is told already; one that was heard since is well.
    silent = [
        one
        for one in unanswered
        if one.node
        and one.node not in heard
        and ((node := state.nodes.get(NodeId(one.node))) is None or node.up)
    ]
    if silent:
        names = {one.node: _name(state, one.node) for one in silent}
        whom = f"does not hear {', '.join(names.values())}" if heard else "hears nobody"
        own = ", ".join(dict.fromkeys(one.own for one in silent))
        others = [one.address for one in silent[:_NAMED_MAX]]
        more = [f"{len(silent) - _NAMED_MAX} more"] if len(silent) > _NAMED_MAX else []
        lines.append(
            f"this node is a member, but {whom}: UDP port {silent[0].port} is blocked between "
            f"{own} and {', '.join([*others, *more])}; open it in the firewalls of both sides"
        )
    config = state.quorum
    votes = {one.id.node: one.weight for one in config.acceptors} if config is not None else {}
    if configured_weight(state.wish, me) > 0 and not votes.get(me):
        lines.append("this node has no vote yet: leitwolf status says when it has")
    return lines


def _name(state: State, node: int) -> str:
    known = state.nodes.get(NodeId(node))
    return known.name if known is not None else f"node {node}"
