"""How events of groups and resources change the state."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from leitwolf.model import events
from leitwolf.model.errors import check
from leitwolf.model.events import Cause
from leitwolf.model.ids import NO_NODE, GroupPhase, ResourceState, Wish
from leitwolf.model.state import Group, Resource
from leitwolf.state.draft import Draft
from leitwolf.state.transitions import (
    GROUP_TRANSITIONS,
    NEEDS_OWNER_DOWN,
    RESOURCE_TRANSITIONS,
)

__all__ = [
    "SECOND",
    "apply_group_added",
    "apply_group_changed",
    "apply_group_closing",
    "apply_group_failed",
    "apply_group_placed",
    "apply_group_recovered",
    "apply_group_removed",
    "apply_group_removing",
    "apply_group_stopped",
    "apply_group_wished",
    "apply_resource_added",
    "apply_resource_changed",
    "apply_resource_moved",
    "apply_resource_removed",
    "apply_resource_wished",
    "recent",
]

SECOND = 1_000_000_000
"""Nanoseconds of cluster time."""


def recent(times: tuple[int, ...], period_s: int, now: int) -> tuple[int, ...]:
    """Return those of the cluster times that lie within the last ``period_s`` seconds."""
    return tuple(time for time in times if time > now - period_s * SECOND)


def _put_group(draft: Draft, group: Group, cause: Cause, **fields: Any) -> Group:
    group = replace(group, cause=cause, changed=draft.index, **fields)
    draft.groups.put(group.id, group)
    return group


def _put_resource(draft: Draft, resource: Resource, cause: Cause, **fields: Any) -> None:
    draft.resources.put(resource.id, replace(resource, cause=cause, changed=draft.index, **fields))


def _enter(draft: Draft, group: Group, phase: GroupPhase) -> None:
    """Check that a group may enter a phase now."""
    check(
        phase in GROUP_TRANSITIONS[group.phase],
        f"group {group.id} cannot become {phase} from {group.phase}",
    )
    if (group.phase, phase) in NEEDS_OWNER_DOWN:
        owner = draft.nodes.rows.get(group.owner)
        check(
            owner is None or not owner.up,
            f"group {group.id} is taken from node {group.owner}, which is up and did not close it",
        )


# --- groups --------------------------------------------------------------------------------------


def apply_group_added(draft: Draft, event: events.GroupAdded) -> None:
    """Add an empty group; its generations begin above those of every removed group."""
    check(event.group not in draft.groups, f"group {event.group} is added twice")
    draft.groups.put(
        event.group,
        Group(
            id=event.group,
            preferred=event.preferred,
            restart_threshold=event.restart_threshold,
            restart_period_s=event.restart_period_s,
            failover_threshold=event.failover_threshold,
            failover_period_s=event.failover_period_s,
            retry_period_s=event.retry_period_s,
            generation=draft.generation_floor,
            cause=draft.because,
            changed=draft.index,
        ),
    )


def apply_group_changed(draft: Draft, event: events.GroupChanged) -> None:
    """Change settings of a group; why it is where it is remains."""
    group = draft.groups.need(event.group)
    settings = {
        name: value
        for name in (
            "preferred",
            "restart_threshold",
            "restart_period_s",
            "failover_threshold",
            "failover_period_s",
            "retry_period_s",
        )
        if (value := getattr(event, name)) is not None
    }
    draft.groups.put(group.id, replace(group, **settings))


def apply_group_removing(draft: Draft, event: events.GroupRemoving) -> None:
    """Mark a group as to be removed; nothing of it is wanted any more."""
    group = draft.groups.need(event.group)
    _put_group(draft, group, draft.because, removing=True, wish=Wish.OFFLINE)


def apply_group_removed(draft: Draft, event: events.GroupRemoved) -> None:
    """Remove a stopped, empty group."""
    group = draft.groups.need(event.group)
    check(group.phase is GroupPhase.STOPPED, f"group {group.id} is removed while {group.phase}")
    check(not draft.members(group.id), f"group {group.id} is removed with resources in it")
    draft.generation_floor = max(draft.generation_floor, group.generation)
    draft.groups.drop(group.id)


def apply_group_wished(draft: Draft, event: events.GroupWished) -> None:
    """Store the operator's wish. Going offline ends what was counted until now."""
    group = draft.groups.need(event.group)
    if event.wish is Wish.OFFLINE:
        _put_group(draft, group, draft.because, wish=event.wish, failed_at=-1, visited=())
        for resource in draft.members(group.id):
            draft.resources.put(resource.id, replace(resource, proven=False, restarts=()))
    else:
        _put_group(draft, group, draft.because, wish=event.wish)


def _reset(draft: Draft, group: Group, cause: Cause) -> None:
    """Set all resources of a group to offline: a generation begins or nothing runs."""
    for resource in draft.members(group.id):
        _put_resource(draft, resource, cause, state=ResourceState.OFFLINE, attempt=0, restarts=())


def apply_group_placed(draft: Draft, event: events.GroupPlaced) -> None:
    """Give a group to a node under a new generation."""
    group = draft.groups.need(event.group)
    node = draft.nodes.need(event.node)
    _enter(draft, group, GroupPhase.ACTIVE)
    check(node.up, f"group {group.id} is placed on node {node.name}, which is down")
    check(
        event.generation > group.generation,
        f"group {group.id}: generation {event.generation} is not above {group.generation}",
    )
    failovers = recent(group.failovers, group.failover_period_s, draft.time)
    if event.failover:
        failovers = (*failovers, draft.time)
    _put_group(
        draft,
        group,
        event.cause,
        phase=GroupPhase.ACTIVE,
        owner=node.id,
        generation=event.generation,
        target=NO_NODE,
        failing_over=False,
        failed_at=-1,
        failovers=failovers,
        placed=draft.index,
        attempt_floor=0,
        placed_because=event.cause,
    )
    _reset(draft, group, event.cause)


def apply_group_closing(draft: Draft, event: events.GroupClosing) -> None:
    """Let the owner close its generation; a second one only changes where the group goes."""
    group = draft.groups.need(event.group)
    _enter(draft, group, GroupPhase.CLOSING)
    if event.target != NO_NODE:
        draft.nodes.need(event.target)
    visited = group.visited
    if event.failover and group.owner not in visited:
        visited = (*visited, group.owner)
    _put_group(
        draft,
        group,
        event.cause,
        phase=GroupPhase.CLOSING,
        target=event.target,
        failing_over=event.failover or group.failing_over,
        visited=visited,
    )


def apply_group_stopped(draft: Draft, event: events.GroupStopped) -> None:
    """Take the group from its owner without giving it to another."""
    group = draft.groups.need(event.group)
    _enter(draft, group, GroupPhase.STOPPED)
    _put_group(
        draft,
        group,
        event.cause,
        phase=GroupPhase.STOPPED,
        owner=NO_NODE,
        target=NO_NODE,
        failing_over=False,
        failed_at=-1,
        attempt_floor=0,
    )
    _reset(draft, group, event.cause)


def apply_group_failed(draft: Draft, event: events.GroupFailed) -> None:
    """Give up for now."""
    group = draft.groups.need(event.group)
    check(group.phase is GroupPhase.ACTIVE, f"group {group.id} fails while {group.phase}")
    _put_group(draft, group, event.cause, failed_at=draft.time)


def apply_group_recovered(draft: Draft, event: events.GroupRecovered) -> None:
    """Begin all counters anew."""
    group = draft.groups.need(event.group)
    _put_group(draft, group, event.cause, failed_at=-1, visited=(), failovers=())
    for resource in draft.members(group.id):
        if resource.restarts:
            draft.resources.put(resource.id, replace(resource, restarts=()))


# --- resources -----------------------------------------------------------------------------------


def _check_depends(draft: Draft, resource: Resource) -> None:
    for name in resource.depends:
        provider = draft.resources.need(name)
        check(
            provider.group == resource.group and provider.id != resource.id,
            f"resource {resource.id} cannot depend on {name}",
        )


def apply_resource_added(draft: Draft, event: events.ResourceAdded) -> None:
    """Add a resource to a group, wish online; its attempts begin above those of removed ones."""
    check(event.resource not in draft.resources, f"resource {event.resource} is added twice")
    group = draft.groups.need(event.group)
    resource = Resource(
        id=event.resource,
        group=group.id,
        type=event.type,
        parameters=event.parameters,
        depends=event.depends,
        attempt=group.attempt_floor,
        cause=draft.because,
        changed=draft.index,
    )
    _check_depends(draft, resource)
    draft.resources.put(resource.id, resource)
    draft.regroup()


def apply_resource_changed(draft: Draft, event: events.ResourceChanged) -> None:
    """Change parameters or dependencies; new parameters must prove themselves again."""
    resource = draft.resources.need(event.resource)
    resource = replace(
        resource,
        parameters=resource.parameters if event.parameters is None else event.parameters,
        depends=resource.depends if event.depends is None else event.depends,
        proven=resource.proven and event.parameters is None,
    )
    _check_depends(draft, resource)
    _put_resource(draft, resource, draft.because)


def apply_resource_removed(draft: Draft, event: events.ResourceRemoved) -> None:
    """Remove an offline resource on which nothing depends."""
    resource = draft.resources.need(event.resource)
    check(
        resource.state is ResourceState.OFFLINE,
        f"resource {resource.id} is removed while {resource.state}",
    )
    for other in draft.members(resource.group):
        check(
            resource.id not in other.depends,
            f"resource {resource.id} is removed while {other.id} depends on it",
        )
    group = draft.groups.need(resource.group)
    floor = max(group.attempt_floor, resource.attempt + 1)
    draft.groups.put(group.id, replace(group, attempt_floor=floor))
    draft.resources.drop(resource.id)
    draft.regroup()


def apply_resource_wished(draft: Draft, event: events.ResourceWished) -> None:
    """Store the operator's wish."""
    resource = draft.resources.need(event.resource)
    proven = resource.proven and event.wish is Wish.ONLINE
    _put_resource(draft, resource, draft.because, wish=event.wish, proven=proven)


def apply_resource_moved(draft: Draft, event: events.ResourceMoved) -> None:
    """Note the state that a resource has reached, or order its next attempt."""
    resource = draft.resources.need(event.resource)
    group = draft.groups.need(resource.group)
    check(
        group.phase is not GroupPhase.STOPPED
        and event.node == group.owner
        and event.generation == group.generation,
        f"resource {resource.id} moves on node {event.node} in generation {event.generation}, "
        f"its group is {group.phase} on node {group.owner} in generation {group.generation}",
    )
    restarts = resource.restarts
    if event.attempt == resource.attempt:
        check(
            event.state in RESOURCE_TRANSITIONS[resource.state],
            f"resource {resource.id} cannot become {event.state} from {resource.state}",
        )
    else:
        check(
            event.attempt == resource.attempt + 1
            and event.state is ResourceState.ONLINE_PENDING
            and group.phase is GroupPhase.ACTIVE,
            f"resource {resource.id}: attempt {event.attempt} cannot begin as {event.state} "
            f"after attempt {resource.attempt} while its group is {group.phase}",
        )
        if resource.state is ResourceState.FAILED:
            restarts = (*recent(restarts, group.restart_period_s, draft.time), draft.time)
    _put_resource(
        draft,
        resource,
        event.cause,
        state=event.state,
        attempt=event.attempt,
        restarts=restarts,
        proven=resource.proven or event.state is ResourceState.ONLINE,
    )
    if group.visited and event.state is ResourceState.ONLINE and _whole(draft, group):
        draft.groups.put(group.id, replace(group, visited=(), changed=draft.index))


def _whole(draft: Draft, group: Group) -> bool:
    """Return whether everything of the group that shall be online is online."""
    return all(
        resource.state is ResourceState.ONLINE
        for resource in draft.members(group.id)
        if resource.wish is Wish.ONLINE
    )
