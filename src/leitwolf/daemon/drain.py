"""An orderly stop: groups move away, the rest stops in order, vote and leadership are handed over.

Rules:

- The leader decides: it closes every group of a node that is about to stop, be it that another node
  can take it or that nobody can. Its owner stops it in order, as for any move.
- It takes as long as the stop timeouts of what still stops, and no longer: what does not end then
  is killed by the guard, and so is all when the lease ends before.
- A node that is done waits for others that stop as well, if without it they would be no quorum:
  their leases would end, and what they stop in order would be killed. They may be told to stop
  a moment after it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection

from leitwolf.core.lease.profile import MILLISECOND
from leitwolf.core.membership import longest
from leitwolf.core.membership.votes import wanted_acceptors
from leitwolf.core.node import Node
from leitwolf.core.policy.dependencies import graph, levels
from leitwolf.core.quorum.predicate import agreed
from leitwolf.core.rules import ALL_RULES
from leitwolf.daemon.cluster import Cluster
from leitwolf.model.commands import StopNode, TransferLeader
from leitwolf.model.ids import GroupId, GroupPhase, ResourceState
from leitwolf.model.quorum import AcceptorId
from leitwolf.model.state import Group, Resource, State
from leitwolf.model.types import TYPES, value_of
from leitwolf.system.clock import raw_ns
from leitwolf.system.diary import log

__all__ = ["drain", "hand_over", "stop_ms"]

_SECOND_NS = 1_000 * MILLISECOND
_BASE_NS = 30 * _SECOND_NS
"""For what needs no stop timeout: the leader's decisions, an election before them, or a group whose
stop has failed already and may end after all."""
_TOGETHER_NS = 5 * _SECOND_NS
"""Between the first and the last node of a cluster that is shut down as a whole."""
_VOTE_NS = 1_000 * MILLISECOND
"""A change of votes takes R and two commits; this is for the commits, and one change before it."""
_HAND_OVER_S = 5.0
_AGAIN_S = 0.2
_KILL_MS = 5_000
"""What outlives its stop timeout is killed; the host gives that so long."""


async def drain(cluster: Cluster) -> None:
    """Let this node run nothing any more, and nobody need it, before an orderly stop.

    Bounded: what is left is stopped by the guard, and starts elsewhere after that.
    """
    node, until = cluster.node, raw_ns() + _BASE_NS
    while not node.leader or not await cluster.tell(StopNode(node=node.me)):
        if raw_ns() >= until or not _leased(cluster):
            return
        await asyncio.sleep(_AGAIN_S)
    await _emptied(cluster, until)
    if any(other in node.state.nodes for other in node.connected):
        await _give_vote_away(cluster)
        await hand_over(cluster, _HAND_OVER_S)


async def hand_over(cluster: Cluster, timeout_s: float) -> None:
    """Hand leadership to another node if this one has it and there is one; bounded."""
    node = cluster.node
    deadline = time.monotonic() + timeout_s
    if node.leader != node.me or not node.connected:
        return
    if await cluster.tell(TransferLeader(), timeout_s):
        while time.monotonic() < deadline and node.leader == node.me:
            await asyncio.sleep(0.005)


# --- groups --------------------------------------------------------------------------------------


async def _emptied(cluster: Cluster, until: int) -> None:
    """Wait until nothing of this node, and of those that need it, is left to move or to stop."""
    node, told, together = cluster.node, "", raw_ns() + _TOGETHER_NS
    stopped_by: dict[tuple[GroupId, int], int] = {}
    while True:
        state, now, ends = node.state, raw_ns(), until
        left = _awaited(node, others_may_stop=now < together)
        for group in left:
            members = [one for one in state.resources.values() if one.group == group.id]
            if group.phase is GroupPhase.CLOSING and not all(map(_past_help, members)):
                key = (group.id, group.generation)
                by = stopped_by.setdefault(key, now + stop_ms(members) * MILLISECOND)
                ends = max(ends, by)
        if not left or not _leased(cluster):
            return
        if now >= ends:
            log.warning("not stopped in time: killed", groups=_names(left, state))
            return
        if _names(left, state) != told:
            told = _names(left, state)
            log.info("stopping: waits", groups=told, at_most_s=-(-(ends - now) // _SECOND_NS))
        await cluster.timeline.wait_beyond(state.index, _AGAIN_S)


def _leased(cluster: Cluster) -> bool:
    """Return whether anything may run here still."""
    page = cluster.page()
    return page is not None and page.gate


def _names(groups: list[Group], state: State) -> str:
    """Return where groups are and what they do, for people."""
    nodes = state.nodes
    return ", ".join(f"{group.id} on {nodes[group.owner].name}: {group.phase}" for group in groups)


def _awaited(node: Node, *, others_may_stop: bool) -> list[Group]:
    """Return what has to be gone before this node may be."""
    owners = {node.me}
    if not agreed(node.quorum.config, _without(node)):
        known = (node.state.nodes.get(other) for other in node.connected)
        owners |= {one.id for one in known if one is not None and (one.stopping or others_may_stop)}
    return [group for group in node.state.groups.values() if group.owner in owners]


def _without(node: Node) -> set[AcceptorId]:
    """Return who can confirm when this node is gone."""
    config = node.quorum.config
    acceptors = (*config.acceptors, *(config.former or ()))
    return {a.id for a in acceptors if a.kind != "node" or a.id.node in node.connected}


def stop_ms(resources: Collection[Resource]) -> int:
    """Return how long resources of one group need at most to stop in order, in milliseconds.

    Those on which nothing depends stop together, then what they needed, and so on.
    """
    needed = {one.id: _one_stop_ms(one) for one in resources}
    return sum(max(needed[name] for name in level) for level in levels(graph(resources)))


def _one_stop_ms(resource: Resource) -> int:
    if resource.state is ResourceState.OFFLINE:
        return 0
    known = resource.type in TYPES
    timeout = value_of(resource.type, resource.parameters, "stop_timeout_ms") if known else ""
    return int(timeout or 0) + _KILL_MS


def _past_help(resource: Resource) -> bool:
    """Return whether to wait for a resource does not help: it is off, or its stop failed."""
    failed = resource.state is ResourceState.FAILED and resource.cause.code.startswith("stop-")
    return failed or resource.state is ResourceState.OFFLINE


# --- votes ---------------------------------------------------------------------------------------


async def _give_vote_away(cluster: Cluster) -> None:
    """Wait until the others need no vote of this node any more, where votes are dynamic; bounded.

    Before leadership is handed over: two changes of the votes would take twice as long.
    """
    node = cluster.node
    deadline = raw_ns() + 2 * longest(node.state, ALL_RULES).run + _VOTE_NS
    nodes = [a.id for a in node.quorum.config.acceptors if a.kind == "node"]
    absent = {node.me, *(one.id for one in node.state.nodes.values() if one.stopping)}
    without = wanted_acceptors(node.state.wish, nodes, absent)
    if not node.state.wish.dynamic or any(a.id.node == node.me and a.weight for a in without):
        return
    while raw_ns() < deadline:
        config = node.quorum.config
        acceptors = (*config.acceptors, *(config.former or ()))
        if not any(a.id.node == node.me and a.weight for a in acceptors):
            return
        await asyncio.sleep(0.01)
