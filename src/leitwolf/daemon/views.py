"""Views of a node for the API: pure functions of the core, the guard's page and link reports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from leitwolf.core.lease.profile import MILLISECOND, awaited
from leitwolf.core.membership import acting, patience
from leitwolf.core.membership.roster import interconnects
from leitwolf.core.membership.votes import configured_weight
from leitwolf.core.node import Node
from leitwolf.core.policy import Survival, group_status, survives, why
from leitwolf.core.quorum.predicate import contenders, witnesses
from leitwolf.core.rules import ALL_RULES
from leitwolf.daemon.changes import under_way
from leitwolf.daemon.link_views import told_of
from leitwolf.daemon.network_views import network_views
from leitwolf.daemon.networks import OwnSide
from leitwolf.daemon.storage_views import blind, details, findings, seen
from leitwolf.model.errors import NotFound
from leitwolf.model.events import Cause, Change, Event
from leitwolf.model.ids import NO_NODE, GroupId, NodeId
from leitwolf.model.quorum import location_of
from leitwolf.model.state import Group, Resource, State
from leitwolf.model.state import Node as NodeState
from leitwolf.model.views import (
    ExplanationView,
    GroupView,
    LinkView,
    LogLine,
    LossView,
    NodeLine,
    ProofView,
    QuorumMember,
    QuorumView,
    ResourceView,
    StatusView,
    StoppedView,
    SurvivalView,
    WitnessView,
)
from leitwolf.model.witness import WITNESS_ID_MIN, is_witness
from leitwolf.system.walltime import local_time
from leitwolf.wire.ballot import NO_BALLOT
from leitwolf.wire.guard import LinkState, RosterReport
from leitwolf.wire.page import LeasePage

__all__ = [
    "advice",
    "describe",
    "explanation",
    "has_lease",
    "log_line",
    "quorum_view",
    "status_view",
    "votes_settled",
]

_ROSTER_NS = 2_000 * MILLISECOND
"""The guard in office reports once a second; what is older is of a former office."""
_QUIET_EVENTS = ("keys", "because", "cause", "not_chosen", "node_serial")


def _node_name(state: State, node: int) -> str:
    known = state.nodes.get(node)
    if known is None and is_witness(node) and state.quorum is not None:
        for acceptor in witnesses(state.quorum):
            if acceptor.id.node == node:
                what = "disk" if acceptor.kind == "disk" else "witness"
                return f"{what} {location_of(acceptor, state.relocations, NO_NODE)}"
    return known.name if known else (f"n{node}" if node else "")


def describe(state: State, event: Event) -> str:
    """Return an event in a few words."""
    words = [type(event).__name__]
    for name in event.__struct_fields__:
        if name in _QUIET_EVENTS:
            continue
        value = getattr(event, name)
        if value is None or value == () or isinstance(value, bytes | Cause):
            continue
        if name in ("node", "target") and isinstance(value, int):
            value = _node_name(state, value) or "-"
        elif isinstance(value, tuple | dict):
            value = msgspec.json.encode(value).decode()
        words.append(f"{name}={value}")
    return " ".join(words)


def log_line(state: State, index: int, change: Change) -> LogLine:
    """Return one line of the timeline."""
    return LogLine(
        index=index,
        wall=change.wall,
        by=change.by,
        code=change.because.code,
        because=change.because.text,
        cause=change.because.index,
        events=tuple(describe(state, event) for event in change.events),
    )


def explanation(
    state: State, lookup: Callable[[int], Change | None], group: str
) -> ExplanationView:
    """Explain where a group is and why.

    Raises:
        NotFound: there is no such group.
    """
    explained = why(state, lookup, GroupId(group), clock=local_time)
    if explained is None:
        names = ", ".join(state.groups) or "none"
        raise NotFound(f"there is no group {group!r}; groups are: {names}")
    causes = []
    for index in dict.fromkeys(reason.index for reason in explained.reasons):
        change = lookup(index)
        if change is not None:
            causes.append(log_line(state, index, change))
    return ExplanationView(
        group=group,
        summary=explained.summary,
        lines=explained.lines[1:],
        waits_for=explained.waits_for,
        causes=tuple(causes),
    )


def votes_settled(state: State, node: NodeId) -> bool:
    """Return whether a node is an acceptor, by one configuration."""
    config = state.quorum
    acceptors = config.acceptors if config is not None and config.former is None else ()
    return any(acceptor.id.node == node for acceptor in acceptors)


def advice(state: State) -> str:
    """Return one sentence about what is missing for safety, '' when nothing is."""
    if state.quorum is None:
        return ""
    voting = [acceptor for acceptor in state.quorum.acceptors if acceptor.weight]
    voters = len(voting)
    if len(contenders(state.quorum)) > 1 and voters in (1, 3):
        return ""
    nodes = [acceptor for acceptor in state.quorum.acceptors if acceptor.kind == "node"]
    third = "join a third, or let a witness vote (leitwolf quorum set)"
    others = "start the other nodes, or give them a vote (leitwolf quorum weight)"
    if voters == 1 and len(nodes) > 1:
        only = _node_name(state, voting[0].id.node)
        return f"only {only} votes: its death stops all; {others}"
    if voters == 1:
        return "one node: nothing can take over; join two more (leitwolf token)"
    if voters == 2 and state.wish.dynamic:
        needed, other = sorted(voting, key=lambda acceptor: -acceptor.weight)
        return (
            f"two nodes vote, {_node_name(state, needed.id.node)} has the casting vote: its death "
            f"stops all, that of {_node_name(state, other.id.node)} does not; "
            f"{others if len(nodes) > 2 else third}"
        )
    if voters == 2:
        return f"two nodes vote: both are needed, either's death stops all; {third}"
    if voters % 2 == 0 and not state.wish.dynamic:
        return f"{voters} nodes vote: an even split stops both halves; add one or evict one"
    return ""


def _links(
    state: State,
    node: NodeState,
    links: Mapping[tuple[int, int], LinkState],
    streams: Collection[int],
) -> tuple[LinkView, ...]:
    found = []
    for number, name in enumerate(interconnects(state)):
        link = links.get((node.id, number))
        if link is not None and node.addresses.get(name):
            round_trip_ms = max(0, link.round_trip) / MILLISECOND
            found.append(
                LinkView(
                    network=name,
                    up=link.up,
                    round_trip_ms=round_trip_ms,
                    stream=number in streams,
                )
            )
    return tuple(found)


def _node_line(
    node: Node,
    item: NodeState,
    links: Mapping[tuple[int, int], LinkState],
    streams: Collection[int],
) -> NodeLine:
    here = item.id == node.me
    connected = here or item.id in node.connected
    votes = {a.id.node: a.weight for a in node.quorum.config.acceptors}
    if item.up and not connected:
        reason = "holds a lease, its daemon is not connected"
    elif item.up:
        lacks = configured_weight(node.state.wish, item.id) > 0 and votes.get(item.id, 1) == 0
        reason = _voteless(node, item.id) if lacks else ""
    else:
        reason = "holds no lease: nothing runs there"
    return NodeLine(
        id=item.id,
        name=item.name,
        standing=item.status.value,
        up=item.up,
        paused=item.paused,
        leader=item.id == node.leader,
        here=here,
        connected=connected,
        reason=reason,
        links=() if here else _links(node.state, item, links, streams),
        addresses=item.addresses,
    )


def _voteless(node: Node, who: NodeId) -> str:
    """Say that a node has no vote, and, where this node leads, when it gets it back."""
    reason = "has no vote now"
    pause_s = node.governor.pause(who) / (1_000 * MILLISECOND) if node.governor is not None else 0
    if pause_s < 1:
        return reason
    return (
        f"{reason}: lost several times, it gets it back after {pause_s:.0f} s without another loss"
    )


def _without_quorum(line: NodeLine) -> NodeLine:
    """Leave out what this node cannot know now: who leads, and what became of unreachable nodes."""
    if line.connected:
        return msgspec.structs.replace(line, leader=False)
    return msgspec.structs.replace(line, leader=False, up=False, reason="not reachable from here")


def _resource_view(resource: Resource) -> ResourceView:
    return ResourceView(
        id=resource.id,
        type=resource.type,
        state=resource.state.value,
        wish=resource.wish.value,
        code=resource.cause.code,
        reason=resource.cause.text,
        parameters=resource.parameters,
        depends=resource.depends,
        changed=resource.changed,
    )


def _group_view(state: State, group: Group) -> GroupView:
    return GroupView(
        id=group.id,
        status=group_status(state, group.id).value,
        wish=group.wish.value,
        phase=group.phase.value,
        owner=_node_name(state, group.owner),
        reason=group.cause.text,
        generation=group.generation,
        preferred=tuple(_node_name(state, item) for item in group.preferred),
        resources=tuple(
            _resource_view(item)
            for item in sorted(state.resources.values(), key=lambda item: item.id)
            if item.group == group.id
        ),
        changed=group.changed,
    )


def has_lease(page: LeasePage | None, now: int) -> bool:
    """Return whether this node hears a leader and is heard (its run-lease lasts), or leads.

    A new leader leads before it has a run-lease of its own: that takes a round of beats more.
    """
    if page is None:
        return False
    running = page.lease != 0 and now < page.lease_end
    return running or (page.office != NO_BALLOT and now < page.leader_end)


def _hears_leader(node: Node, *, leased: bool) -> bool:
    """Return whether there is a leader for this node: a connection outlives a cut cable by far."""
    leader = node.leader
    return bool(leader) and leased and (leader == node.me or leader in node.connected)


def status_view(
    node: Node,
    *,
    links: Mapping[tuple[int, int], LinkState],
    streams: Mapping[int, Collection[int]],
    sides: Mapping[str, OwnSide],
    fresh: bool,
    leased: bool,
    proof: ProofView,
    stopped: tuple[StoppedView, ...],
) -> StatusView:
    """Return the cluster as this node sees it.

    Args:
        node: the core.
        links: newest link reports of the guard, by node and link number.
        streams: numbers of the links on which a stream stands, by node.
        sides: this machine's side of each network.
        fresh: the state was read under the leader lease.
        leased: see :func:`has_lease`.
        proof: what this node can prove to have ended.
        stopped: what this node stopped without quorum.
    """
    state = node.state
    leader = node.leader
    quorum = _hears_leader(node, leased=leased)
    lines = (
        _node_line(node, item, links, streams.get(item.id, ()))
        for item in sorted(state.nodes.values(), key=lambda item: item.id)
    )
    return StatusView(
        formed=True,
        cluster=state.name,
        uuid=state.uuid,
        node=_node_name(state, node.me),
        profile=state.profile,
        port=state.port,
        leader=_node_name(state, leader) if quorum else "",
        quorum=quorum,
        fresh=fresh,
        proof=proof,
        index=state.index,
        advice=advice(state),
        survives=_survived(node).text,
        under_way=under_way(node),
        nodes=tuple(line if quorum else _without_quorum(line) for line in lines),
        networks=network_views(state, node.me, links, sides, told_of(node.paths, node.me)),
        groups=tuple(
            _group_view(state, item)
            for item in sorted(state.groups.values(), key=lambda item: item.id)
        ),
        stopped=stopped,
        findings=findings(node, lambda item: _node_name(state, item)),
    )


def _reached(node: Node) -> set[NodeId]:
    """Return the disks and witnesses that answer, as far as this node knows.

    One that follows a leader asks none itself; the leader would not lead without those it needs.
    """
    config = node.quorum.config
    if node.in_charge or not node.leader:
        return {NodeId(one) for one in node.quorum.witnesses}
    return {acceptor.id.node for acceptor in witnesses(config)}


def _within(node: Node) -> set[NodeId]:
    """Return the nodes, disks and witnesses that can be reached from here, this node included."""
    return {node.me, *node.connected, *_reached(node)}


def _survived(node: Node) -> Survival:
    """Return which further failures are survived; who leads by what, and not, :func:`blind` says.

    A disk or witness that this node does not reach is there all the same if another does.
    """
    return survives(node.state, _within(node) | seen(node), blind(node))


def _survival(node: Node, naming: Callable[[NodeId], str]) -> tuple[str, SurvivalView]:
    """Return which further failures are survived, in one line and in parts."""
    state = node.state
    found = _survived(node)
    profile = acting(state, ALL_RULES)
    # A death is noticed by R at the latest, lasts until it counts, and the change waits by L10.
    apart = profile.run + patience(profile.promise) + awaited(profile.run) + profile.heartbeat
    return found.text, SurvivalView(
        quorum=found.quorum,
        at_once=found.failures,
        in_turn=found.in_turn,
        apart_ms=-(-apart // MILLISECOND) if state.wish.dynamic else 0,
        losses=tuple(
            LossView(
                lost=tuple(naming(one) for one in loss.lost),
                survived=loss.survived,
                reason=loss.reason,
            )
            for loss in found.losses
        ),
    )


def _remaining(instant: int, at: int) -> float:
    return max(0, instant - at) / MILLISECOND


def _promise(
    node: Node, identity: NodeId, page: LeasePage, now: int, roster: RosterReport | None
) -> dict[str, Any]:
    """Return what one acceptor promised and how long its run-lease lasts, as far as known here."""
    if identity == node.me:
        return {
            "promised": str(page.renewed) if page.renewed != NO_BALLOT else "",
            "promise_ms": 0.0 if page.freed else _remaining(page.promise_end, now),
            "lease_ms": _remaining(page.lease_end, now) if page.lease else 0.0,
        }
    if roster is None or roster.at < now - _ROSTER_NS or roster.ballot != node.quorum.ballot:
        return {}
    for standing in roster.standings:
        if standing.node == identity:
            return {
                "promised": str(roster.ballot) if standing.promise_end else "",
                "promise_ms": _remaining(standing.promise_end, roster.at),
                "lease_ms": _remaining(standing.horizon, roster.at) if standing.lease else 0.0,
            }
    return {}


def _without_place(node: Node, identity: NodeId) -> str:
    """Return why a node can never lead by the disk in use; '': it has a place there."""
    for disk in witnesses(node.quorum.config):
        if disk.slots and disk.slots < identity < WITNESS_ID_MIN:
            return f"no-disk-slot: no place on {disk.location} (nodes 1..{disk.slots})"
    return ""


def _witness(state: State) -> WitnessView | None:
    found = state.wish.witness
    if found is None:
        return None
    return WitnessView(
        kind=found.kind,
        location=found.location,
        storage=found.id.storage,
        alone=state.wish.node_weight == 0,
        full=found.full,
        silence_ms=found.silence_ms,
    )


def _members(
    node: Node,
    page: LeasePage,
    now: int,
    roster: RosterReport | None,
    naming: Callable[[NodeId], str],
) -> tuple[QuorumMember, ...]:
    """Return all acceptors, then all learners."""
    quorum, wish = node.quorum, node.state.wish
    members = [(acceptor.id.node, acceptor.weight, True) for acceptor in quorum.config.acceptors]
    members.extend((learner.node, 0, False) for learner in quorum.config.learners)
    within = _within(node)
    return tuple(
        QuorumMember(
            node=naming(identity),
            weight=weight,
            configured=1 if is_witness(identity) else configured_weight(wish, identity),
            voting=voting,
            match=quorum.durable_at(identity) if node.in_charge else -1,
            connected=identity in within,
            fault=quorum.witness_faults.get(identity, "") or _without_place(node, identity),
            **_promise(node, identity, page, now, roster),
            **details(node, identity, now, naming),
        )
        for identity, weight, voting in members
    )


def quorum_view(
    node: Node,
    page: LeasePage | None,
    now: int,
    *,
    worst_stall: int,
    realtime: bool,
    roster: RosterReport | None = None,
) -> QuorumView:
    """Return who promised what, votes, lease margins, worst stall, profile.

    Args:
        node: the core.
        page: of the own guard.
        now: RAW ns.
        worst_stall: of the own guard, ns.
        realtime: the own guard has real-time scheduling.
        roster: what the own guard told of all nodes in the last office that it had.
    """
    state, quorum = node.state, node.quorum
    config = quorum.config
    profile = acting(state, ALL_RULES)

    def naming(item: NodeId) -> str:
        return _node_name(state, item)

    leased = has_lease(page, now)
    page = page or LeasePage()
    votes = sum(acceptor.weight for acceptor in config.acceptors)
    needed = votes // 2 + 1
    lacking = "; ".join(
        f"{naming(other)} knows entries up to {index}, this node up to {quorum.last_key.index}"
        for other, index in node.behind.items()
        if index > quorum.last_key.index
    )
    text, survival = _survival(node, naming)
    return QuorumView(
        node=naming(node.me),
        leader=naming(node.leader) if _hears_leader(node, leased=leased) else "",
        ballot=str(quorum.ballot),
        promised=str(quorum.promised),
        epoch=quorum.promised.epoch,
        commit=quorum.commit,
        last=quorum.last_key.index,
        votes=votes,
        needed=needed,
        dynamic=state.wish.dynamic,
        prefer=naming(state.wish.prefer) if state.wish.prefer else "",
        profile=profile.name,
        heartbeat_ms=profile.heartbeat_ms,
        promise_ms=profile.promise_ms,
        run_ms=profile.run_ms,
        kill_ms=profile.kill_ms,
        lease_margin_ms=max(-1.0, (page.lease_end - now) / MILLISECOND) if page.lease else -1.0,
        leader_margin_ms=(
            max(-1.0, (page.leader_end - now) / MILLISECOND) if node.in_charge else -1.0
        ),
        worst_stall_ms=worst_stall / MILLISECOND,
        realtime=realtime,
        guard=page.progress > now - 1_000 * MILLISECOND,
        joint=config.former is not None,
        members=_members(node, page, now, roster, naming),
        survives=text,
        survival=survival,
        lacking=lacking,
        findings=findings(node, naming, lasting=True),
        witness=_witness(state),
    )
