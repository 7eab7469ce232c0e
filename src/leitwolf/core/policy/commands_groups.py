"""What commands about groups and resources mean."""

from __future__ import annotations

from msgspec.structs import replace

from leitwolf.core.policy.checks import (
    Judged,
    Refused,
    check_depends,
    check_name,
    check_parameters,
    check_range,
    check_usable,
    find_group,
    find_node,
    find_resource,
    judged,
)
from leitwolf.core.policy.dependencies import graph
from leitwolf.core.policy.placement import Placement
from leitwolf.core.policy.recovery import is_wanted, restart_events
from leitwolf.core.policy.status import members
from leitwolf.model import commands, events
from leitwolf.model.events import Cause, Event
from leitwolf.model.ids import (
    NO_NODE,
    GroupId,
    GroupPhase,
    NodeId,
    ResourceId,
    ResourceState,
    Wish,
)
from leitwolf.model.limits import GROUPS_MAX, RESOURCES_MAX
from leitwolf.model.observations import Observations
from leitwolf.model.state import Group, Resource, State

__all__ = [
    "add_group",
    "add_resource",
    "change_group",
    "change_resource",
    "move_group",
    "recover_group",
    "remove_group",
    "remove_resource",
    "wish_group",
    "wish_resource",
]

YEAR_S = 366 * 86_400
RANGES: dict[str, tuple[int, int, str]] = {
    "restart_threshold": (0, 1_000, "0: a failed resource moves its group at once"),
    "restart_period_s": (1, YEAR_S, "900 (15 minutes) is usual"),
    "failover_threshold": (-1, 1_000, "-1: number of nodes minus one; 0: never"),
    "failover_period_s": (1, YEAR_S, "21600 (6 hours) is usual"),
    "retry_period_s": (-1, YEAR_S, "-1: a failed group stays so until it is recovered"),
}
"""Settings of a group: lowest and highest value, and what to know."""


# --- groups --------------------------------------------------------------------------------------


def _check_settings(
    state: State, command: commands.AddGroup | commands.ChangeGroup
) -> dict[str, int]:
    """Check the settings that a command gives; return the numbers."""
    numbers: dict[str, int] = {}
    for field, (low, high, hint) in RANGES.items():
        value = getattr(command, field)
        if value is not None:
            check_range(value, field, low, high, hint)
            numbers[field] = value
    preferred = command.preferred or ()
    for node in preferred:
        find_node(state, node, "preferred")
    if len(set(preferred)) < len(preferred):
        raise Refused(
            "duplicate-node",
            "preferred names a node twice",
            hint="name each node once, the most preferred one first",
            field="preferred",
        )
    return numbers


def _check_room(state: State, groups: int, resources: int) -> None:
    for what, present, more, limit in (
        ("groups", len(state.groups), groups, GROUPS_MAX),
        ("resources", len(state.resources), resources, RESOURCES_MAX),
    ):
        if more and present + more > limit:
            raise Refused("too-many", f"the cluster has {present} {what}", hint=f"at most {limit}")


def add_group(state: State, command: commands.AddGroup, _seen: Observations) -> Judged:
    """Add a group with its resources, all or nothing."""
    check_name(command.group, "group")
    if command.group in state.groups:
        raise Refused(
            "group-exists",
            f"there is a group {command.group} already",
            hint="choose another name",
            field="group",
        )
    numbers = _check_settings(state, command)
    _check_room(state, 1, len(command.resources))
    found: list[Event] = [
        events.GroupAdded(group=command.group, preferred=command.preferred, **numbers)
    ]
    names = [resource.resource for resource in command.resources]
    providers = {resource.resource: resource.depends for resource in command.resources}
    working = state
    for resource in command.resources:
        _check_new(working, resource.resource)
        if names.count(resource.resource) > 1:
            raise Refused(
                "resource-exists",
                f"resource {resource.resource} is given twice",
                hint="give each its own name",
                field="resource",
            )
        check_parameters(working, resource.resource, resource.type, resource.parameters)
        others = {name: needs for name, needs in providers.items() if name != resource.resource}
        check_depends(command.group, resource.resource, resource.depends, others)
        working = _with_address(working, command.group, resource)
    found.extend(_added(command.group, resource) for resource in _sorted(command.resources))
    if command.wish is Wish.ONLINE:
        found.append(events.GroupWished(group=command.group, wish=Wish.ONLINE))
    return judged(found, f"add group {command.group}")


def _with_address(state: State, group: GroupId, resource: commands.NewResource) -> State:
    """Return the state with a resource, so that the next one's address is compared with it."""
    added = Resource(
        id=resource.resource,
        group=group,
        type=resource.type,
        parameters=resource.parameters,
        cause=Cause(code="command", text=""),
    )
    return replace(state, resources={**state.resources, resource.resource: added})


def _sorted(resources: tuple[commands.NewResource, ...]) -> list[commands.NewResource]:
    """Return the resources so that each comes behind what it depends on."""
    placed: set[ResourceId] = set()
    found: list[commands.NewResource] = []
    left = list(resources)
    while left:
        ready = [each for each in left if placed.issuperset(each.depends)]
        found.extend(ready)
        placed.update(each.resource for each in ready)
        left = [each for each in left if each.resource not in placed]
    return found


def _added(group: GroupId, resource: commands.NewResource) -> events.ResourceAdded:
    return events.ResourceAdded(
        resource=resource.resource,
        group=group,
        type=resource.type,
        parameters=_given(resource.parameters),
        depends=tuple(dict.fromkeys(resource.depends)),
    )


def _given(parameters: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if value}


def change_group(state: State, command: commands.ChangeGroup, _seen: Observations) -> Judged:
    """Change settings of a group."""
    group = find_group(state, command.group)
    numbers = _check_settings(state, command)
    changed = {field: value for field, value in numbers.items() if getattr(group, field) != value}
    preferred = command.preferred
    if preferred is not None and preferred == group.preferred:
        preferred = None
    found: list[Event] = []
    if changed or preferred is not None:
        found.append(events.GroupChanged(group=group.id, preferred=preferred, **changed))
    return judged(found, f"change group {group.id}")


def remove_group(state: State, command: commands.RemoveGroup, _seen: Observations) -> Judged:
    """Remove a group; it goes as soon as its owner attests that nothing of it runs."""
    group = find_group(state, command.group)
    online = [
        resource.id
        for resource in members(state, group.id)
        if resource.state is not ResourceState.OFFLINE
    ]
    if (online or group.wish is Wish.ONLINE) and not command.force:
        what = f": {', '.join(online)}" if online else ""
        raise Refused(
            "group-online",
            f"group {group.id} is or shall be online{what}",
            hint=f"leitwolf group offline {group.id}, or remove it with --force",
            field="group",
        )
    text = f"remove group {group.id}"
    found: list[Event] = [events.GroupRemoving(group=group.id)]
    if group.phase is GroupPhase.ACTIVE:
        cause = Cause(code="removing", text=f"{group.id} is being removed")
        found.append(
            events.GroupClosing(group=group.id, target=NO_NODE, cause=cause, failover=False)
        )
    return judged(found, text)


def wish_group(state: State, command: commands.WishGroup, _seen: Observations) -> Judged:
    """Bring a group online or take it offline; asked online again, its failed parts are retried."""
    group = find_group(state, command.group)
    text = f"bring group {group.id} {command.wish}"
    if group.wish is not command.wish:
        return judged([events.GroupWished(group=group.id, wish=command.wish)], text)
    if command.wish is Wish.ONLINE:
        return judged(_recovery(state, group, text), text)
    return judged([], text)


def recover_group(state: State, command: commands.RecoverGroup, _seen: Observations) -> Judged:
    """Forget the failures of a group and try again."""
    group = find_group(state, command.group)
    text = f"recover group {group.id}"
    return judged(_recovery(state, group, text), text)


def _recovery(state: State, group: Group, text: str) -> list[Event]:
    resources = members(state, group.id)
    failed = [resource for resource in resources if resource.state is ResourceState.FAILED]
    counted = group.failed_at >= 0 or group.visited or group.failovers
    if not failed and not counted and not any(resource.restarts for resource in resources):
        return []
    cause = Cause(code="command", text=text)
    found: list[Event] = []
    if group.phase is GroupPhase.ACTIVE:
        wanted = [resource for resource in failed if is_wanted(state, resource)]
        found.extend(restart_events(group, wanted, cause))
    found.append(events.GroupRecovered(group=group.id, cause=cause))
    return found


def move_group(state: State, command: commands.MoveGroup, seen: Observations) -> Judged:
    """Move a group to a node, or to the best other one."""
    group = find_group(state, command.group)
    target = command.node
    if target != NO_NODE:
        node = find_node(state, target)
        text = f"move group {group.id} to {node.name}"
        if group.phase is GroupPhase.ACTIVE and group.owner == target:
            return judged([], text)
        check_usable(node, seen)
    else:
        text = f"move group {group.id} to another node"
    found = Placement(state.nodes, state, seen).choose(group, leaving=group.owner, target=target)
    if target == NO_NODE:
        target = found.first
    if target == NO_NODE:
        reasons = "; ".join(reason.text for reason in found.not_chosen())
        raise Refused(
            "no-candidate",
            f"no other node can take group {group.id}: {reasons}",
            hint="start or resume a node first",
            field="group",
            retryable=True,
        )
    if group.phase is GroupPhase.CLOSING and group.target == target:
        return judged([], text)
    if group.phase is not GroupPhase.STOPPED:
        _check_owner_listens(state, group, seen)
    cause = Cause(code="command", text=text)
    if group.phase is not GroupPhase.STOPPED:
        closing = events.GroupClosing(group=group.id, target=target, cause=cause, failover=False)
        return judged([closing], text)
    placed = events.GroupPlaced(
        group=group.id,
        node=target,
        generation=group.generation + 1,
        cause=cause,
        failover=False,
        not_chosen=found.not_chosen(target),
    )
    return judged([placed], text)


def _check_owner_listens(state: State, group: Group, seen: Observations) -> None:
    """Check that the owner's daemon can take the order to close the group."""
    view = seen.nodes.get(group.owner)
    if view is None or not (view.connected or view.away):
        name = _node_name(state, group.owner)
        raise Refused(
            "owner-not-connected",
            f"the daemon of {name} does not answer; group {group.id} runs on there",
            hint=f"wait until {name} is back, or until its lease is over",
            field="group",
            retryable=True,
        )


def _node_name(state: State, node: NodeId) -> str:
    found = state.nodes.get(node)
    return found.name if found else f"node {node}"


# --- resources -----------------------------------------------------------------------------------


def _check_new(state: State, name: ResourceId) -> None:
    check_name(name, "resource")
    if name in state.resources:
        other = state.resources[name]
        raise Refused(
            "resource-exists",
            f"there is a resource {name} already, in group {other.group}",
            hint="names of resources are unique in the cluster",
            field="resource",
        )


def add_resource(state: State, command: commands.AddResource, _seen: Observations) -> Judged:
    """Add a resource to a group; an active one starts it."""
    group = find_group(state, command.group)
    _check_new(state, command.resource)
    _check_room(state, 0, 1)
    check_parameters(state, command.resource, command.type, command.parameters)
    others = graph(members(state, group.id))
    check_depends(group.id, command.resource, command.depends, others)
    added = events.ResourceAdded(
        resource=command.resource,
        group=group.id,
        type=command.type,
        parameters=_given(command.parameters),
        depends=tuple(dict.fromkeys(command.depends)),
    )
    return judged([added], f"add resource {command.resource} to group {group.id}")


def change_resource(state: State, command: commands.ChangeResource, _seen: Observations) -> Judged:
    """Change a resource; with new parameters it restarts where it runs."""
    resource = find_resource(state, command.resource)
    group = state.groups[resource.group]
    text = f"change resource {resource.id}"
    parameters: dict[str, str] | None = None
    if command.parameters is not None:
        removed = [name for name, value in command.parameters.items() if not value]
        for name in sorted(removed):
            if name not in resource.parameters:
                raise Refused(
                    "unknown-parameter",
                    f"resource {resource.id} has no parameter {name} to remove",
                    hint=f"it has: {', '.join(sorted(resource.parameters))}",
                    field=name,
                )
        merged = _given({**resource.parameters, **command.parameters})
        check_parameters(state, resource.id, resource.type, merged)
        parameters = merged if merged != resource.parameters else None
    depends: tuple[ResourceId, ...] | None = None
    if command.depends is not None:
        depends = tuple(dict.fromkeys(command.depends))
        depends = depends if depends != resource.depends else None
    if depends is not None:
        _check_new_depends(state, group, resource, depends)
    if parameters is None and depends is None:
        return judged([], text)
    found: list[Event] = [
        events.ResourceChanged(resource=resource.id, parameters=parameters, depends=depends)
    ]
    running = resource.state not in (ResourceState.OFFLINE, ResourceState.OFFLINE_PENDING)
    if (
        parameters is not None
        and running
        and group.phase is GroupPhase.ACTIVE
        and is_wanted(state, resource)
    ):
        why = f"{resource.id} restarts with its new parameters"
        cause = Cause(code="parameters-changed", text=why)
        found.extend(restart_events(group, [resource], cause))
    return judged(found, text)


def _check_new_depends(
    state: State, group: Group, resource: Resource, depends: tuple[ResourceId, ...]
) -> None:
    others = {
        name: needs
        for name, needs in graph(members(state, group.id)).items()
        if name != resource.id
    }
    check_depends(group.id, resource.id, depends, others)
    if resource.state is not ResourceState.ONLINE:
        return
    for name in depends:
        provider = state.resources[name]
        if provider.state is not ResourceState.ONLINE:
            raise Refused(
                "provider-offline",
                f"{resource.id} is online and cannot begin to depend on {name}, "
                f"which is {provider.state}",
                hint=f"bring {name} online first, or take {resource.id} offline",
                field="depends",
            )


def remove_resource(state: State, command: commands.RemoveResource, _seen: Observations) -> Judged:
    """Remove a resource that is offline and that no other needs."""
    resource = find_resource(state, command.resource)
    group = state.groups[resource.group]
    users = [each.id for each in members(state, group.id) if resource.id in each.depends]
    if users:
        raise Refused(
            "needed-by",
            f"{', '.join(users)} {'depends' if len(users) == 1 else 'depend'} on {resource.id}",
            hint=f"remove them first, or change what they depend on (not on {resource.id})",
            field="resource",
        )
    wanted = is_wanted(state, resource) and group.phase is not GroupPhase.STOPPED
    if resource.state is not ResourceState.OFFLINE or wanted:
        raise Refused(
            "resource-online",
            f"resource {resource.id} is {resource.state}"
            + (" and shall be online" if wanted else ""),
            hint=f"leitwolf resource offline {resource.id}",
            field="resource",
        )
    return judged([events.ResourceRemoved(resource=resource.id)], f"remove {resource.id}")


def wish_resource(state: State, command: commands.WishResource, _seen: Observations) -> Judged:
    """Bring a resource online or take it offline; asked online again, a failed one is retried."""
    resource = find_resource(state, command.resource)
    group = state.groups[resource.group]
    text = f"bring resource {resource.id} {command.wish}"
    if resource.wish is not command.wish:
        return judged([events.ResourceWished(resource=resource.id, wish=command.wish)], text)
    failed = resource.state is ResourceState.FAILED and group.phase is GroupPhase.ACTIVE
    if command.wish is Wish.ONLINE and failed and is_wanted(state, resource):
        cause = Cause(code="command", text=text)
        return judged(restart_events(group, [resource], cause), text)
    return judged([], text)
