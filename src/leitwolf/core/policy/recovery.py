"""What one group needs now: placing, moving, restarting, failing over, giving up, removing.

Rules:
    Only the log and the observations are looked at; each step is decided on what the steps before
    it have made of the group, until nothing is left to do. So a plan is complete: applying it and
    planning again finds nothing new. A group leaves a living owner only by closing: the owner
    attests that everything is stopped (I4). A resource whose stop failed is never restarted.

Theory of operation:
    :func:`settle` folds each step into a small state that holds the nodes and this one group.
    Groups know nothing of each other, except for how many of them a node owns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leitwolf.core.policy.dependencies import graph, order
from leitwolf.core.policy.placement import Candidates, Placement
from leitwolf.model.errors import check
from leitwolf.model.events import (
    Cause,
    Change,
    Event,
    GroupClosing,
    GroupFailed,
    GroupPlaced,
    GroupRecovered,
    GroupRemoved,
    GroupStopped,
    ResourceMoved,
    ResourceRemoved,
)
from leitwolf.model.ids import (
    NO_NODE,
    GroupId,
    GroupPhase,
    NodeId,
    NodeStatus,
    ResourceState,
    Wish,
)
from leitwolf.model.limits import RESTART_PAUSE_MS, RESTART_PAUSE_MS_MAX
from leitwolf.model.observations import Observations, ResourceReport
from leitwolf.model.state import Group, Node, Resource, State
from leitwolf.state import SECOND, fold_change, recent, resource_path

__all__ = [
    "Scene",
    "failover_limit",
    "is_wanted",
    "restart_at",
    "restart_events",
    "retry_at",
    "settle",
]

STEPS_MAX = 16
"""Steps of one group in one plan; the longest chain (report, failure, closing, placing) has six."""
_MILLISECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Scene:
    """What the decisions about all groups have in common."""

    nodes: dict[int, Node]
    """After the node changes of this plan."""
    placement: Placement
    seen: Observations
    now: int
    """Cluster time, ns."""
    index: int
    """Of the last entry: what changed behind it belongs to this plan."""

    def name(self, node: NodeId) -> str:
        """Return the name of a node for texts."""
        found = self.nodes.get(node)
        return found.name if found else f"node {node}"

    def past(self, index: int) -> int:
        """Return an index for a cause: 0 when it names the entry that is being planned."""
        return index if index <= self.index else 0

    def away(self, node: NodeId) -> bool:
        """Return whether a node certainly holds no lease (or is no member any more)."""
        view = self.seen.nodes.get(node)
        known = self.nodes.get(node)
        return known is None or (not known.up and view is not None and view.away)

    def connected(self, node: NodeId) -> bool:
        """Return whether the daemon of a node can take orders."""
        view = self.seen.nodes.get(node)
        return view is not None and view.connected


@dataclass(frozen=True, slots=True)
class Step:
    """Events that belong together and what caused them."""

    events: tuple[Event, ...]
    because: Cause


def settle(
    scene: Scene, group: Group, resources: Mapping[str, Resource]
) -> tuple[tuple[Event, ...], Cause | None]:
    """Return everything that is to be done about a group now, and its first cause.

    Args:
        scene: nodes and observations.
        group: the group as the log has it.
        resources: its resources.
    """
    state = State(
        uuid="plan",
        index=scene.index,
        time=scene.now,
        nodes=scene.nodes,
        groups={group.id: group},
        resources=dict(resources),
    )
    events: list[Event] = []
    because: Cause | None = None
    for _ in range(STEPS_MAX):
        step = _next(scene, state, group.id)
        if step is None:
            return tuple(events), because
        because = because or step.because
        events.extend(step.events)
        change = Change(events=step.events, because=step.because, by="", time=scene.now, wall=0)
        state = fold_change(state, scene.index + 1, change)
    check(condition=False, text=f"the plan for group {group.id} finds no end")
    return (), None


def _next(scene: Scene, state: State, name: GroupId) -> Step | None:
    """Return the next step of a group, None when nothing is to be done."""
    group = state.groups.get(name)
    if group is None:
        return None
    if group.phase is GroupPhase.STOPPED:
        return _stopped(scene, state, group)
    if scene.away(group.owner):
        return _orphaned(scene, group)
    if step := _reported(scene, state, group):
        return step
    if group.phase is GroupPhase.CLOSING:
        if scene.seen.attested.get(group.id, 0) >= group.generation:
            return _closed(scene, group)
        return None
    if scene.nodes[group.owner].stopping:
        return _drained(scene, group)  # whatever failed there is stopped as well, not restarted
    return _failed(scene, state, group) or _drained(scene, group)


# --- placing -------------------------------------------------------------------------------------


def _place(
    scene: Scene, group: Group, found: Candidates, cause: Cause, *, failover: bool = False
) -> Step:
    """Place a group on the best candidate, or stop it when there is none."""
    chosen = found.first
    if chosen == NO_NODE:
        reasons = found.not_chosen()
        text = f"{cause.text}; no node can take {group.id}"
        stopped = Cause(code="no-candidate", text=text, index=cause.index)
        scene.placement.moved(group.owner, NO_NODE)
        return Step((GroupStopped(group=group.id, cause=stopped, not_chosen=reasons),), cause)
    scene.placement.moved(group.owner, chosen)
    placed = GroupPlaced(
        group=group.id,
        node=chosen,
        generation=group.generation + 1,
        cause=cause,
        failover=failover,
        not_chosen=found.not_chosen(chosen),
    )
    return Step((placed,), cause)


def _stopped(scene: Scene, state: State, group: Group) -> Step | None:
    if group.removing:
        providers = graph(state.resources.values())
        gone: list[Event] = [
            ResourceRemoved(resource=resource) for resource in reversed(order(providers))
        ]
        cause = Cause(
            code="removing",
            text=f"{group.id} is stopped and to be removed",
            index=scene.past(group.changed),
        )
        return Step((*gone, GroupRemoved(group=group.id)), cause)
    if group.wish is not Wish.ONLINE:
        return None
    found = scene.placement.choose(group)
    if found.first == NO_NODE:
        return None
    cause = Cause(
        code="group-start",
        text=f"{group.id} is to be online and {scene.name(found.first)} can take it",
        index=scene.past(group.changed),
    )
    return _place(scene, group, found, cause)


def _orphaned(scene: Scene, group: Group) -> Step:
    """The owner certainly runs nothing any more."""
    view = scene.seen.nodes.get(group.owner)
    owner = scene.name(group.owner)
    if view is not None and view.attested:
        code, text = "node-stopped", f"{owner} confirmed that everything on it is stopped"
    else:
        code, text = "node-lost", f"{owner} is lost: its lease is over"
    cause = Cause(code=code, text=text)
    return _release(scene, group, cause)


def _closed(scene: Scene, group: Group) -> Step:
    """The owner attested that everything of the group is stopped."""
    owner = scene.name(group.owner)
    if group.failing_over:
        code, text = "failed-over", f"{group.id} failed on {owner} and is stopped there"
    elif group.removing:
        code, text = "removing", f"{owner} stopped {group.id}"
    elif group.target == NO_NODE and scene.nodes[group.owner].stopping:
        code, text = "drained", f"{owner} stopped {group.id} before it stops itself"
    else:
        code, text = "moved", f"{owner} stopped {group.id} for its move"
    cause = Cause(code=code, text=text, index=scene.past(group.changed))
    return _release(scene, group, cause)


def _release(scene: Scene, group: Group, cause: Cause) -> Step:
    """Give a group that certainly does not run to its next owner, or to nobody."""
    if group.removing:
        scene.placement.moved(group.owner, NO_NODE)
        return Step((GroupStopped(group=group.id, cause=cause),), cause)
    found = scene.placement.choose(group, after=group.owner, last=group.owner, target=group.target)
    return _place(scene, group, found, cause, failover=group.failing_over)


# --- reports -------------------------------------------------------------------------------------


def _reported(scene: Scene, state: State, group: Group) -> Step | None:
    """Note what the owner reported and the log does not show."""
    events: list[Event] = []
    because: Cause | None = None
    for name in sorted(state.resources):
        resource = state.resources[name]
        report = scene.seen.resources.get(resource.id)
        if (
            report is None
            or report.generation != group.generation
            or report.attempt != resource.attempt
            or report.state is resource.state
        ):
            continue
        cause = _report_cause(scene, state, group, resource, report)
        because = because or cause
        events.extend(
            ResourceMoved(
                resource=resource.id,
                node=group.owner,
                generation=group.generation,
                attempt=resource.attempt,
                state=passed,
                cause=cause,
            )
            for passed in resource_path(resource.state, report.state)
        )
    return Step(tuple(events), because) if because else None


def _report_cause(
    scene: Scene, state: State, group: Group, resource: Resource, report: ResourceReport
) -> Cause:
    """Return why a resource changed its state: why it was stopped, else what its host says."""
    where = scene.name(group.owner)
    if report.state in (ResourceState.OFFLINE, ResourceState.OFFLINE_PENDING):
        if group.phase is GroupPhase.CLOSING:
            text = f"{resource.id} stops on {where}: {group.id} leaves it"
            return Cause(code="group-closing", text=text, index=scene.past(group.changed))
        if not is_wanted(state, resource):
            text = f"{resource.id} stops on {where}: it is not wanted online"
            index = group.changed if group.wish is Wish.OFFLINE else resource.changed
            return Cause(code="unwanted", text=text, index=scene.past(index))
        for name in resource.depends:
            provider = state.resources[name]
            told = scene.seen.resources.get(name)
            standing = provider.state
            if standing is ResourceState.ONLINE and told is not None:
                standing = told.state
            if standing is not ResourceState.ONLINE:
                text = f"{resource.id} stops on {where}: it needs {name}, which is {standing}"
                return Cause(
                    code="dependency-cycled", text=text, index=scene.past(provider.changed)
                )
    said = f" ({report.text})" if report.text else ""
    text = f"{resource.id} on {where}: {report.state}{said}"
    index = 0  # nothing in the log leads to a failure
    if report.state in (ResourceState.ONLINE, ResourceState.ONLINE_PENDING):
        pending = resource.state is ResourceState.ONLINE_PENDING
        index = resource.changed if pending else group.placed
    return Cause(code=report.code, text=text, index=scene.past(index))


def is_wanted(state: State, resource: Resource) -> bool:
    """Return whether the operator wants a resource online, and all that it needs."""
    group = state.groups[resource.group]
    pending, seen = [resource], {resource.id}
    while pending:
        each = pending.pop()
        if each.wish is not Wish.ONLINE:
            return False
        for name in each.depends:
            if name not in seen:
                seen.add(name)
                pending.append(state.resources[name])
    return group.wish is Wish.ONLINE


# --- failures ------------------------------------------------------------------------------------


def retry_at(group: Group) -> int | None:
    """Return the cluster time at which a failed group is tried again, None: never by itself."""
    if group.failed_at < 0 or group.retry_period_s < 0:
        return None
    return group.failed_at + group.retry_period_s * SECOND


def restart_at(group: Group, resource: Resource, now: int) -> int:
    """Return the cluster time, ns, from which a failed resource may be restarted in place.

    The first restart of the restart period is made at once. Each further one keeps a distance from
    the one before it that doubles up to a limit, so what ran well for longer never waits.
    """
    used = recent(resource.restarts, group.restart_period_s, now)
    if not used:
        return 0
    pause_ms = RESTART_PAUSE_MS
    for _ in used[1:]:
        pause_ms = min(2 * pause_ms, RESTART_PAUSE_MS_MAX)
    return used[-1] + pause_ms * _MILLISECOND


def failover_limit(group: Group, nodes: Mapping[int, Node]) -> int:
    """Return how often a group may fail over within its failover period."""
    if group.failover_threshold >= 0:
        return group.failover_threshold
    voting = sum(1 for node in nodes.values() if node.status is NodeStatus.MEMBER)
    return max(0, voting - 1)


def restart_events(group: Group, failed: list[Resource], cause: Cause) -> list[Event]:
    """Return the order to begin the next attempt of these resources, where they are."""
    return [
        ResourceMoved(
            resource=resource.id,
            node=group.owner,
            generation=group.generation,
            attempt=resource.attempt + 1,
            state=ResourceState.ONLINE_PENDING,
            cause=cause,
        )
        for resource in failed
    ]


def _failed(scene: Scene, state: State, group: Group) -> Step | None:
    """React to failed resources of an active group."""
    failed = [
        resource
        for _, resource in sorted(state.resources.items())
        if resource.state is ResourceState.FAILED and is_wanted(state, resource)
    ]
    if not failed:
        if group.failed_at < 0:
            return None
        text = f"nothing of {group.id} is failed any more"
        cause = Cause(code="no-failure-left", text=text, index=scene.past(group.changed))
        return Step((GroupRecovered(group=group.id, cause=cause),), cause)
    stuck = next((one for one in failed if one.cause.code.startswith("stop-")), None)
    spent = next((one for one in failed if not _may_restart(scene, group, one)), None)
    retry = retry_at(group)
    if retry is not None and scene.now >= retry:
        return _retried(scene, group, failed)
    if stuck is not None:
        if group.failed_at >= 0:
            return None
        text = f"{stuck.id} could not be stopped on {scene.name(group.owner)}"
        return _given_up(scene, group, stuck, "stop-failed", text)
    if group.failed_at < 0 and spent is None:
        return _restarted(scene, group, failed)
    return _fail_over(scene, group, spent or failed[0])


def _restarted(scene: Scene, group: Group, failed: list[Resource]) -> Step | None:
    """Restart in place what does not have to pause first."""
    failed = [one for one in failed if restart_at(group, one, scene.now) <= scene.now]
    if not failed:
        return None
    names = ", ".join(resource.id for resource in failed)
    text = f"{names} failed and is restarted on {scene.name(group.owner)}"
    index = scene.past(failed[0].changed)
    cause = Cause(code="restart-in-place", text=text, index=index)
    return Step(tuple(restart_events(group, failed, cause)), cause)


def _may_restart(scene: Scene, group: Group, resource: Resource) -> bool:
    used = recent(resource.restarts, group.restart_period_s, scene.now)
    return len(used) < group.restart_threshold


def _retried(scene: Scene, group: Group, failed: list[Resource]) -> Step:
    text = f"{group.id} was failed for {group.retry_period_s} s and is tried again"
    cause = Cause(code="retry-period", text=text, index=scene.past(group.changed))
    events = restart_events(group, failed, cause)
    return Step((*events, GroupRecovered(group=group.id, cause=cause)), cause)


def _fail_over(scene: Scene, group: Group, resource: Resource) -> Step | None:
    """Let a group go to another node, or give up; a failed group goes when it can after all."""
    where = scene.name(group.owner)
    used = len(recent(group.failovers, group.failover_period_s, scene.now))
    limit = failover_limit(group, scene.nodes)
    text = f"{resource.id} failed on {where} and its restarts there are used up"
    if used >= limit:
        if group.failed_at >= 0:
            return None
        text += f"; {group.id} failed over {used} times, the limit is {limit}"
        return _given_up(scene, group, resource, "failover-threshold", text)
    found = scene.placement.choose(group, after=group.owner, leaving=group.owner, revisit=False)
    if found.first == NO_NODE:
        if group.failed_at >= 0:
            return None
        reasons = "; ".join(reason.text for reason in found.not_chosen(group.owner))
        text += f"; no other node can take {group.id}" + (f": {reasons}" if reasons else "")
        return _given_up(scene, group, resource, "no-other-node", text)
    cause = Cause(code="failover", text=text, index=scene.past(resource.changed))
    closing = GroupClosing(group=group.id, target=found.first, cause=cause, failover=True)
    return Step((closing,), cause)


def _given_up(scene: Scene, group: Group, resource: Resource, code: str, text: str) -> Step:
    cause = Cause(code=code, text=text, index=scene.past(resource.changed))
    return Step((GroupFailed(group=group.id, cause=cause),), cause)


# --- draining ------------------------------------------------------------------------------------


def _drained(scene: Scene, group: Group) -> Step | None:
    """Let a group leave a node that drains, stops or leaves, if another can take it.

    One that nobody can take stops in order on a node that is about to stop, as it would be killed
    there otherwise; its wish remains, so it starts where it can next. Else it runs on.
    """
    owner = scene.nodes[group.owner]
    leaving = owner.status is NodeStatus.LEAVING
    if not (owner.draining or owner.stopping or leaving) or not scene.connected(owner.id):
        return None
    found = scene.placement.choose(group, after=owner.id)
    if found.first == NO_NODE and not owner.stopping:
        return None
    why = "is about to stop" if owner.stopping else "is being drained"
    text = f"{owner.name} {'leaves the cluster' if leaving else why}"
    if found.first == NO_NODE:
        text += f"; no other node can take {group.id}"
    cause = Cause(code="drained", text=text, index=scene.past(owner.changed))
    closing = GroupClosing(group=group.id, target=found.first, cause=cause, failover=False)
    return Step((closing,), cause)
