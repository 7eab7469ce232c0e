"""What is to be done now: entries to propose, each with its reasons.

Rules:
    ``plan`` is pure: the same state, observations and time give the same plan on every node. It is
    complete: applying all its changes and planning again finds nothing (so it may be called after
    every commit and every observation). Any prefix of its changes may be applied, and the next
    plan makes up for what is missing. A node that is lost and the groups that it owned are one
    change. All other groups are one change each: none waits for another. A group is placed only
    on nodes that are up, leased, connected, not paused, full members.

Theory of operation:
    First the nodes: who came up, who is away. Then the groups that need attention, found in one
    pass over groups, resources and reports; :mod:`leitwolf.core.policy.recovery` decides about
    each of them. ``state`` must be the fold of everything that was appended, committed or not,
    else a plan is proposed twice.

What this does not guarantee:
    That ``away`` and ``attested`` are true; the guards (L6, L7) answer for that.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from leitwolf.core.policy.placement import Placement
from leitwolf.core.policy.recovery import Scene, restart_at, retry_at, settle
from leitwolf.model.events import Cause, Event, NodeDown, NodeUp, TokenUsed
from leitwolf.model.ids import GroupPhase, NodeId, NodeStatus, ResourceState, Wish
from leitwolf.model.observations import NodeView, Observations
from leitwolf.model.state import Node, Resource, State
from leitwolf.state import SECOND

__all__ = ["Plan", "Planned", "plan"]


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One change to propose, and what caused it."""

    events: tuple[Event, ...]
    because: Cause


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Changes to propose in this order, and when to plan again if nothing happens before."""

    changes: tuple[Planned, ...]
    next_at: int | None = None
    """Cluster time, ns."""


def plan(state: State, seen: Observations, now: int) -> Plan:
    """Return what is to be done.

    Args:
        state: the fold of the whole log, what is not committed yet included.
        seen: what the leader sees at this moment.
        now: cluster time, ns; not below ``state.time``.
    """
    if not state.nodes:
        return Plan(changes=())
    changes: list[Planned] = []
    nodes = state.nodes
    lost: list[NodeId] = []
    for key in sorted(state.nodes):
        node = state.nodes[key]
        view = seen.nodes.get(node.id)
        up = _standing(node, view)
        if up is not node.up:
            if nodes is state.nodes:
                nodes = dict(nodes)
            stopping = node.stopping and not up
            nodes[key] = replace(node, up=up, stopping=stopping, changed=state.index + 1)
            if up:
                changes.append(_came_up(node))
            else:
                lost.append(node.id)
    scene = Scene(nodes, Placement(nodes, state, seen), seen, now, state.index)
    decided = _decide(scene, state)
    changes.extend([_went_down(scene, state, node_id, decided) for node_id in lost])
    changes.extend(decided[name] for name in sorted(decided))
    changes.extend(_expired(state, now))
    return Plan(changes=tuple(changes), next_at=_next_at(state, decided, now))


# --- nodes ---------------------------------------------------------------------------------------


def _standing(node: Node, view: NodeView | None) -> bool:
    """Return whether a node is up: leased and connected; up until it is certainly away."""
    if view is None:
        return node.up
    if node.up:
        return not view.away
    leaving = node.status is NodeStatus.LEAVING
    return view.leased and view.connected and not view.away and not leaving


def _came_up(node: Node) -> Planned:
    text = f"{node.name} holds a run-lease and its daemon is connected"
    cause = Cause(code="node-up", text=text)
    return Planned(events=(NodeUp(node=node.id),), because=cause)


def _went_down(scene: Scene, state: State, node_id: NodeId, decided: dict[str, Planned]) -> Planned:
    """Return the end of a node together with what becomes of its groups."""
    node = state.nodes[node_id]
    attested = scene.seen.nodes[node_id].attested
    if attested:
        code, text = "node-stopped", f"{node.name} confirmed that everything on it is stopped"
    else:
        code, text = "node-lost", f"{node.name} is lost: its lease is over"
    events: list[Event] = [NodeDown(node=node_id, attested=attested)]
    for name in sorted(decided):
        if state.groups[name].owner == node_id:
            events.extend(decided.pop(name).events)
    cause = Cause(code=code, text=text)
    return Planned(events=tuple(events), because=cause)


# --- groups --------------------------------------------------------------------------------------


def _decide(scene: Scene, state: State) -> dict[str, Planned]:
    """Return the change of each group that needs one, those of lost owners first in placing."""
    attention = _attention(scene, state)
    belonging: dict[str, dict[str, Resource]] = {name: {} for name in attention}
    if attention:
        for resource in state.resources.values():
            if resource.group in attention:
                belonging[resource.group][resource.id] = resource
    decided: dict[str, Planned] = {}
    for name in sorted(
        attention, key=lambda name: (not scene.away(state.groups[name].owner), name)
    ):
        events, because = settle(scene, state.groups[name], belonging[name])
        if because is not None:
            decided[name] = Planned(events=events, because=because)
    return decided


def _attention(scene: Scene, state: State) -> set[str]:
    """Return the groups about which something may have to be decided; most never are."""
    found: set[str] = set()
    placeable = bool(scene.placement.usable)
    attested = scene.seen.attested
    for name, group in state.groups.items():
        if group.phase is GroupPhase.STOPPED:
            if group.removing or (placeable and group.wish is Wish.ONLINE):
                found.add(name)
            continue
        owner = scene.nodes.get(group.owner)
        if (
            owner is None
            or not owner.up
            or owner.draining
            or owner.stopping
            or owner.status is NodeStatus.LEAVING
            or group.failed_at >= 0
            or (group.phase is GroupPhase.CLOSING and attested.get(group.id, 0) >= group.generation)
        ):
            found.add(name)
    for resource in state.resources.values():
        if resource.state is ResourceState.FAILED:
            found.add(resource.group)
    for resource_id, report in scene.seen.resources.items():
        known = state.resources.get(resource_id)
        if (
            known is not None
            and report.state is not known.state
            and report.attempt == known.attempt
        ):
            found.add(known.group)
    return found


# --- times ---------------------------------------------------------------------------------------


def _token_end(issued_at: int, lifetime_s: int) -> int:
    return issued_at + lifetime_s * SECOND


def _expired(state: State, now: int) -> list[Planned]:
    """Return the withdrawal of join tokens whose life is over."""
    found = []
    for digest, token in sorted(state.tokens.items()):
        if now >= _token_end(token.issued_at, token.lifetime_s):
            text = f"a join token lived for its {token.lifetime_s} s without being used"
            cause = Cause(code="token-expired", text=text, index=token.issued)
            found.append(Planned(events=(TokenUsed(digest=digest),), because=cause))
    return found


def _next_at(state: State, decided: dict[str, Planned], now: int) -> int | None:
    """Return when time alone will ask for a decision; groups that change now are planned anew."""
    times = [
        _token_end(token.issued_at, token.lifetime_s)
        for token in state.tokens.values()
        if now < _token_end(token.issued_at, token.lifetime_s)
    ]
    for group in state.groups.values():
        if group.failed_at >= 0 and group.id not in decided:
            at = retry_at(group)
            if at is not None and at > now:
                times.append(at)
    for resource in state.resources.values():
        if resource.state is ResourceState.FAILED and resource.group not in decided:
            group = state.groups[resource.group]
            at = restart_at(group, resource, now)
            if group.failed_at < 0 and at > now:
                times.append(at)
    return min(times, default=None)
