"""What was asked for and is in force only in part, as one node knows it: votes, profile, keys."""

from __future__ import annotations

from leitwolf.core.membership import View, outstanding
from leitwolf.core.node import Node
from leitwolf.daemon.storage_views import blind

__all__ = ["under_way"]

_KEYS = {
    "spread": "all nodes are being told the new heartbeat key",
    "seal": "all nodes are turning to the new heartbeat key",
}


def under_way(node: Node) -> dict[str, str]:
    """Return in words what lacks of each change that takes its time: ``votes, profile, keys``."""
    state, found = node.state, {}
    votes = outstanding(state, View(leader=node.leader, absent=_absent(node)))
    if votes:
        found["votes"] = votes
    if state.profile_former:
        found["profile"] = f"leases of the profile {state.profile_former} may still be in force"
    if len(state.keys) > 1:
        found["keys"] = _KEYS[state.keys_stage]
    return found


def _absent(node: Node) -> frozenset[int]:
    """Return the nodes and witnesses that dynamic votes do without, as far as it is known here.

    The leader knows it; others, who holds no lease and which witness the leader told not to reach.
    """
    state = node.state
    if not state.wish.dynamic:
        return frozenset()
    lost = {one.id for one in state.nodes.values() if not one.up or one.stopping}
    if node.governor is not None:
        return node.governor.absent | lost
    return frozenset(lost) | blind(node).get(node.leader, frozenset())
