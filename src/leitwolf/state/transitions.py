"""Which states may follow which, as data; the fold refuses everything else.

Rules:
    A resource moves along ``RESOURCE_TRANSITIONS`` within one attempt. A higher attempt enters
    ``online-pending`` from any state. A group moves along ``GROUP_TRANSITIONS``; from active it
    reaches a state marked in ``NEEDS_OWNER_DOWN`` only when the log says that its owner is down.

Observations are coalesced: a node tells only the newest state of a resource. :func:`resource_path`
fills in what must have happened between.
"""

from __future__ import annotations

from leitwolf.model.ids import GroupPhase, NodeStatus, ResourceState

__all__ = [
    "GROUP_TRANSITIONS",
    "NEEDS_OWNER_DOWN",
    "NODE_TRANSITIONS",
    "RESOURCE_TRANSITIONS",
    "resource_path",
]

RESOURCE_TRANSITIONS: dict[ResourceState, frozenset[ResourceState]] = {
    ResourceState.OFFLINE: frozenset(
        {ResourceState.ONLINE_PENDING, ResourceState.ONLINE, ResourceState.FAILED}
    ),
    ResourceState.ONLINE_PENDING: frozenset(
        {
            ResourceState.ONLINE,
            ResourceState.OFFLINE_PENDING,
            ResourceState.OFFLINE,
            ResourceState.FAILED,
        }
    ),
    ResourceState.ONLINE: frozenset(
        {ResourceState.OFFLINE_PENDING, ResourceState.OFFLINE, ResourceState.FAILED}
    ),
    ResourceState.OFFLINE_PENDING: frozenset({ResourceState.OFFLINE, ResourceState.FAILED}),
    ResourceState.FAILED: frozenset({ResourceState.OFFLINE_PENDING, ResourceState.OFFLINE}),
}

GROUP_TRANSITIONS: dict[GroupPhase, frozenset[GroupPhase]] = {
    GroupPhase.STOPPED: frozenset({GroupPhase.ACTIVE}),
    GroupPhase.ACTIVE: frozenset({GroupPhase.CLOSING, GroupPhase.ACTIVE, GroupPhase.STOPPED}),
    GroupPhase.CLOSING: frozenset({GroupPhase.CLOSING, GroupPhase.ACTIVE, GroupPhase.STOPPED}),
}

NEEDS_OWNER_DOWN = frozenset(
    {(GroupPhase.ACTIVE, GroupPhase.ACTIVE), (GroupPhase.ACTIVE, GroupPhase.STOPPED)}
)
"""A group leaves a living owner only through closing, which ends with the owner's attest."""

NODE_TRANSITIONS: dict[NodeStatus, frozenset[NodeStatus]] = {
    NodeStatus.LEARNER: frozenset({NodeStatus.MEMBER, NodeStatus.LEAVING}),
    NodeStatus.MEMBER: frozenset({NodeStatus.LEAVING}),
    NodeStatus.LEAVING: frozenset(),
}


def _paths() -> dict[tuple[ResourceState, ResourceState], tuple[ResourceState, ...]]:
    """Return the shortest legal path between any two states; ties in the order of the enum."""
    found: dict[tuple[ResourceState, ResourceState], tuple[ResourceState, ...]] = {}
    for start in ResourceState:
        frontier: list[tuple[ResourceState, tuple[ResourceState, ...]]] = [(start, ())]
        seen = {start}
        while frontier:
            state, path = frontier.pop(0)
            for following in ResourceState:
                if following in seen or following not in RESOURCE_TRANSITIONS[state]:
                    continue
                seen.add(following)
                found[start, following] = (*path, following)
                frontier.append((following, (*path, following)))
    return found


_PATHS = _paths()


def resource_path(old: ResourceState, new: ResourceState) -> tuple[ResourceState, ...]:
    """Return the states to pass from ``old`` to ``new`` within one attempt, ``new`` included."""
    return _PATHS.get((old, new), ())
