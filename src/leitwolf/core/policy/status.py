"""The status of a group, computed from its resources."""

from __future__ import annotations

from collections.abc import Iterable

from leitwolf.model.ids import GroupId, GroupStatus, ResourceState
from leitwolf.model.state import Resource, State

__all__ = ["group_status", "members", "status_of"]


def members(state: State, group: GroupId) -> list[Resource]:
    """Return the resources of a group, in the order of their names."""
    return sorted(
        (resource for resource in state.resources.values() if resource.group == group),
        key=lambda resource: resource.id,
    )


def status_of(states: Iterable[ResourceState]) -> GroupStatus:
    """Return the status of a group whose resources are in these states."""
    found = frozenset(states)
    if ResourceState.FAILED in found:
        return GroupStatus.FAILED
    if found & {ResourceState.ONLINE_PENDING, ResourceState.OFFLINE_PENDING}:
        return GroupStatus.PENDING
    if found == {ResourceState.ONLINE}:
        return GroupStatus.ONLINE
    if ResourceState.ONLINE in found:
        return GroupStatus.PARTIAL
    return GroupStatus.OFFLINE


def group_status(state: State, group: GroupId) -> GroupStatus:
    """Return the status of a group; an empty one is offline."""
    return status_of(resource.state for resource in members(state, group))
