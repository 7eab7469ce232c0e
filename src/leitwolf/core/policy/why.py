"""Why a group is where it is, in at most ten lines, found by walking the causes in the log.

Rules:
    Nothing is guessed: each line comes from the state or from an entry. Where the history of the
    log does not reach, the causes that the state keeps are told instead.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from leitwolf.core.policy.placement import unusable
from leitwolf.core.policy.recovery import is_wanted, retry_at
from leitwolf.core.policy.status import members, status_of
from leitwolf.model.events import (
    Cause,
    Change,
    GroupClosing,
    GroupPlaced,
    GroupStopped,
    NotChosen,
    ResourceMoved,
)
from leitwolf.model.ids import (
    NO_NODE,
    GroupId,
    GroupPhase,
    GroupStatus,
    NodeId,
    ResourceState,
    Wish,
)
from leitwolf.model.observations import Observations
from leitwolf.model.state import Group, Resource, State
from leitwolf.state import SECOND

__all__ = ["Explanation", "Reason", "why"]

LINES_MAX = 10
"""A screen in the middle of a fault is small."""
CAUSES_MAX = 5
"""Causes walked back: a failover has three (failure, closing, placing)."""
REASONS_MAX = 3
"""Nodes that were not chosen with one line each."""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One link of the chain of causes; ``index`` is the entry, 0: not known any more."""

    index: int
    code: str
    text: str
    wall: int = 0
    """UTC, ns, 0: not known."""
    by: str = ""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a group is and why; ``lines`` for people, the rest for programs."""

    group: GroupId
    status: GroupStatus
    phase: GroupPhase
    owner: NodeId
    summary: str
    lines: tuple[str, ...]
    """The summary first; at most ten."""
    reasons: tuple[Reason, ...]
    """Newest first."""
    not_chosen: tuple[NotChosen, ...]
    waits_for: str
    """What must happen before something changes, '' when nothing is waited for."""


def _utc(wall: int) -> str:
    """Return a wall time for people, to the millisecond."""
    moment = datetime.fromtimestamp(wall // SECOND, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{wall // 1_000_000 % 1_000:03d} UTC"


def why(
    state: State,
    lookup: Callable[[int], Change | None],
    group: GroupId,
    seen: Observations | None = None,
    clock: Callable[[int], str] = _utc,
) -> Explanation | None:
    """Explain where a group is, None when there is no such group.

    Args:
        state: the fold of what is committed.
        lookup: returns the change of an entry, None when it is not kept any more.
        group: name of the group.
        seen: observations, where there are some: at the leader.
        clock: writes a wall time (UTC, ns) for people.
    """
    found = state.groups.get(group)
    if found is None:
        return None
    status = status_of(resource.state for resource in members(state, group))
    reasons, not_chosen = _walk(found, lookup)
    summary = _summary(state, found, status, reasons, clock)
    waits_for = _waits_for(state, found, seen)
    lines = [summary]
    lines.extend(_reason_line(number, reason) for number, reason in enumerate(reasons))
    lines.extend(_resource_lines(state, group))
    lines.extend(f"not {_name(state, each.node)}: {each.text}" for each in not_chosen[:REASONS_MAX])
    if waits_for:
        lines = [*lines[: LINES_MAX - 1], f"waits for: {waits_for}"]
    return Explanation(
        group=group,
        status=status,
        phase=found.phase,
        owner=found.owner,
        summary=summary,
        lines=tuple(lines[:LINES_MAX]),
        reasons=reasons,
        not_chosen=not_chosen,
        waits_for=waits_for,
    )


def _name(state: State, node: NodeId) -> str:
    found = state.nodes.get(node)
    return found.name if found else f"node {node}"


# --- the chain of causes -------------------------------------------------------------------------


def _walk(
    group: Group, lookup: Callable[[int], Change | None]
) -> tuple[tuple[Reason, ...], tuple[NotChosen, ...]]:
    """Return the causes from the last change of owner back, and who was not chosen then."""
    stopped = group.phase is GroupPhase.STOPPED
    index = group.changed if stopped or group.phase is GroupPhase.CLOSING else group.placed
    cause = group.cause if index == group.changed else group.placed_because or group.cause
    not_chosen: tuple[NotChosen, ...] = ()
    reasons: list[Reason] = []
    visited: set[int] = set()
    while len(reasons) < CAUSES_MAX:
        change = lookup(index) if index else None
        reason = _reason(index, cause, change)
        if reason.text not in {each.text for each in reasons}:
            reasons.append(reason)
        if change is None or index in visited:
            break
        visited.add(index)
        if len(reasons) == 1:
            not_chosen = _not_chosen(group.id, change)
        if cause.index and cause.index != index:
            following = cause.index
        else:
            because = _reason(index, change.because, change)
            if because.text != reason.text and len(reasons) < CAUSES_MAX:
                reasons.append(because)
            following = change.because.index
        if not following:
            break
        index = following
        earlier = lookup(index)
        if earlier is None:
            break
        cause = _cause_in(group.id, earlier)
    return tuple(reasons), not_chosen


def _reason(index: int, cause: Cause, change: Change | None) -> Reason:
    return Reason(
        index=index,
        code=cause.code,
        text=cause.text,
        wall=change.wall if change else 0,
        by=change.by if change else "",
    )


def _cause_in(group: GroupId, change: Change) -> Cause:
    """Return the cause of what a change did to a group, else of the whole change."""
    for event in change.events:
        if isinstance(event, GroupPlaced | GroupClosing | GroupStopped) and event.group == group:
            return event.cause
    moved = [event for event in change.events if isinstance(event, ResourceMoved)]
    for event in moved:
        if event.state is ResourceState.FAILED:
            return event.cause
    return change.because


def _not_chosen(group: GroupId, change: Change) -> tuple[NotChosen, ...]:
    for event in change.events:
        if isinstance(event, GroupPlaced | GroupStopped) and event.group == group:
            return event.not_chosen
    return ()


# --- texts ---------------------------------------------------------------------------------------


def _summary(
    state: State,
    group: Group,
    status: GroupStatus,
    reasons: tuple[Reason, ...],
    clock: Callable[[int], str],
) -> str:
    if group.phase is GroupPhase.STOPPED:
        return f"{group.id} is {status}: no node owns it, it shall be {group.wish}"
    if group.wish is Wish.OFFLINE and status is GroupStatus.OFFLINE and not group.removing:
        owner = _name(state, group.owner)
        return f"{group.id} is offline, as it shall be; {owner} owns it (entry {group.placed})"
    since = f" since {clock(reasons[0].wall)}" if reasons and reasons[0].wall else ""
    where = _name(state, group.owner)
    entry = f" (entry {group.placed})"
    if group.phase is GroupPhase.CLOSING:
        target = _name(state, group.target) if group.target else "the best other node"
        onward = "its end" if group.removing else target
        return f"{group.id} is {status}: leaving {where} for {onward}{since}"
    return f"{group.id} is {status} on {where}{since}{entry}"


def _reason_line(number: int, reason: Reason) -> str:
    lead = "because" if number == 0 else "  because"
    place = f" (entry {reason.index})" if reason.index else ""
    by = f", asked for by {reason.by}" if reason.code == "command" and reason.by else ""
    return f"{lead} {reason.text}{by}{place}"


def _resource_lines(state: State, group: GroupId) -> list[str]:
    """Return a line for each resource that is not as it shall be, failed ones first."""
    odd = [
        resource
        for resource in members(state, group)
        if resource.state is not ResourceState.ONLINE and is_wanted(state, resource)
    ]
    odd.sort(key=lambda resource: resource.state is not ResourceState.FAILED)
    lines = [f"{resource.id} is {resource.state}: {resource.cause.text}" for resource in odd[:2]]
    asked = [
        resource.id
        for resource in members(state, group)
        if resource.wish is Wish.OFFLINE and resource.state is ResourceState.OFFLINE
    ]
    if asked:
        shall = "as it shall be" if len(asked) == 1 else "as they shall be"
        be = "is" if len(asked) == 1 else "are"
        lines.append(f"{', '.join(asked[:3])} {be} offline, {shall}, with what depends on it")
    return lines


def _waits_for(state: State, group: Group, seen: Observations | None) -> str:
    """Return what must happen before something about the group changes."""
    if group.phase is GroupPhase.CLOSING:
        return (
            f"{_name(state, group.owner)} to confirm that everything of {group.id} is stopped "
            "(or for the end of its lease)"
        )
    if group.phase is GroupPhase.STOPPED:
        if group.wish is Wish.OFFLINE:
            return ""
        return "a node that can take it: " + _unusable(state, NO_NODE, seen)
    if group.failed_at >= 0:
        at = retry_at(group)
        again = f"its next try in {max(0, at - state.time) // SECOND} s, " if at else ""
        return f"{again}another node that can take it, or: leitwolf group recover {group.id}"
    owner = state.nodes.get(group.owner)
    if owner is not None and (owner.draining or owner.stopping):
        doing = "draining" if owner.draining else "about to stop"
        return f"another node, as {owner.name} is {doing}: " + _unusable(state, owner.id, seen)
    pending = [
        resource
        for resource in members(state, group.id)
        if is_wanted(state, resource) and resource.state is not ResourceState.ONLINE
    ]
    if pending:
        return f"{', '.join(_coming(resource) for resource in pending[:3])} to come online"
    return ""


_CHECKS = ("check_command", "check_tcp", "check_http")


def _coming(resource: Resource) -> str:
    """Return a resource, with the check that has to succeed before it counts as online."""
    check = next((name for name in _CHECKS if resource.parameters.get(name)), "")
    if not check or resource.state is not ResourceState.ONLINE_PENDING:
        return resource.id
    return f"{resource.id} (its {check} {resource.parameters[check]})"


def _unusable(state: State, owner: NodeId, seen: Observations | None) -> str:
    """Return in words why no other node can take a group now."""
    found = []
    for node in sorted(state.nodes.values(), key=lambda node: node.id):
        if node.id == owner:
            continue
        view = seen.nodes.get(node.id) if seen else None
        if seen is None and node.up:
            if node.paused:
                found.append(f"{node.name} is paused")
            elif node.stopping:
                found.append(f"{node.name} is about to stop")
            continue
        reason = unusable(node, view)
        if reason is not None:
            found.append(reason[1])
    return "; ".join(found) or "there is no other node"
