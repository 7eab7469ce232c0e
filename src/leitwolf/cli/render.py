"""Views as text: a tree that fits a screen, one glyph and one reason each."""

from __future__ import annotations

import msgspec

from leitwolf.model.commands import Answer
from leitwolf.model.views import (
    DroppedView,
    ExplanationView,
    FindingView,
    ForceNode,
    ForceView,
    GroupView,
    LogLine,
    NetworkView,
    NodeLine,
    PairView,
    ProofView,
    QuorumMember,
    QuorumView,
    StatusView,
    SurvivalView,
)
from leitwolf.system.walltime import local_time

__all__ = ["explanation", "force", "line", "networks", "plan_of", "quorum", "status"]

_LINES_MAX = 24
"""Of a tree that is taller, groups that are well take one line each."""
_COLUMNS_MAX = 100

_GLYPHS = {
    "online": "●",
    "offline": "○",
    "pending": "◐",
    "online-pending": "◐",
    "offline-pending": "◑",
    "partially-online": "◒",
    "failed": "✗",
}
_LINK_GLYPHS = {"up": "●", "down": "○", "one-way": "◒"}


def _node(node: NodeLine) -> str:
    glyph = "●" if node.up else "○"
    marks = [
        word
        for word, present in (
            ("leader", node.leader),
            ("here", node.here),
            ("paused", node.paused),
            (node.standing, node.standing != "member"),
        )
        if present
    ]
    links = " ".join(
        f"{link.network}{'↑' if link.up else '↓'}"
        + (f"{link.round_trip_ms:.1f}ms" if link.up and link.round_trip_ms > 0 else "")
        for link in node.links
    )
    parts = [f"{glyph} {node.name}", f"[{', '.join(marks)}]" if marks else "", links, node.reason]
    return "  " + "  ".join(part for part in parts if part)


def _group(group: GroupView, *, ends: bool, folded: bool) -> list[str]:
    """Return the lines of a group.

    Args:
        group: the group.
        ends: this node owns it and has no quorum any more.
        folded: when all of it is well, one line is enough.
    """
    where = f" on {group.owner}" if group.owner else ""
    glyph = _GLYPHS.get(group.status, "?")
    lines = [f"  {glyph} {group.id}  {group.status}{where}  {group.reason}"]
    if ends:
        lines = [f"  ○ {group.id}  ends here without quorum (by the log: {group.status}{where})"]
    elif not group.resources:
        lines = [f"  ○ {group.id}  empty{where}  leitwolf resource add {group.id} ..."]
    elif folded and group.status == "online":
        names = ", ".join(item.parameters.get("address", item.id) for item in group.resources)
        return [_clipped(f"  {glyph} {group.id}  online{where}  {names}", f"  {group.reason}")]
    for index, resource in enumerate(group.resources):
        branch = "└" if index == len(group.resources) - 1 else "├"
        glyph = "○" if ends else _GLYPHS.get(resource.state, "?")
        detail = resource.parameters.get("address") or resource.parameters.get("command", "")
        reason = "" if ends or resource.state == "online" else f"  {resource.reason}"
        begun = f"    {branch} {glyph} {resource.id}  {resource.type} {detail}"
        lines.append(_clipped(begun, reason))
    return lines


def _clipped(text: str, reason: str) -> str:
    """Return text and reason in a line; what is too long of the text is left out."""
    room = max(_COLUMNS_MAX - len(reason), _COLUMNS_MAX // 2)
    return (text if len(text) <= room else f"{text[: room - 1]}…") + reason


def _proof(proof: ProofView) -> str:
    """Say what ends for certain on this node when its lease is over (I4)."""
    words = (
        ("addresses", proof.address, "no kernel gate"),
        ("processes", proof.process, "no watchdog"),
        ("shared data", proof.data, "no fence"),
    )
    said = [name if there else f"{name} NOT ({why})" for name, there, why in words]
    return f"provably over here without a lease: {', '.join(said)}"


def _network(network: NetworkView) -> str:
    """Return name, subnets, role and reason of a network."""
    parts = (network.name, ", ".join(network.subnets), network.role, network.reason)
    return "  ".join(part for part in parts if part)


def networks(found: tuple[NetworkView, ...]) -> str:
    """Return all networks, and under each interconnect the link of each two nodes."""
    lines = []
    for network in found:
        lines.append(f"{'up  ' if network.up else 'down'}  {_network(network)}")
        lines.extend(map(_pair, network.pairs))
    return "\n".join(lines)


def _pair(pair: PairView) -> str:
    since = f"  since {local_time(pair.since_wall)}" if pair.since_wall else ""
    return f"      {_LINK_GLYPHS.get(pair.state, '?')} {pair.reason}{since}"


def status(view: StatusView) -> str:
    """Return the whole cluster as a tree."""
    lines = _tree(view, folded=False)
    if len(lines) > _LINES_MAX:
        lines = _tree(view, folded=True)
    return "\n".join(lines)


def _tree(view: StatusView, *, folded: bool) -> list[str]:
    if not view.formed:
        state = "takes no part in its cluster" if view.fault else "not running in a cluster"
        return [f"{view.node}: {state}", f"  -> {view.advice}"]
    state = f"leader {view.leader}" if view.quorum else "NO QUORUM HERE"
    age = "" if view.fresh else "  (as this node knows it; may be old)"
    lines = [f"{view.cluster}  {state}  profile {view.profile}  entry {view.index}{age}"]
    if view.survives and view.quorum:
        lines.append(f"further failures: {view.survives}")
    lines.extend(f"under way: {what}: {text}" for what, text in view.under_way.items())
    if view.advice:
        lines.append(f"! {view.advice}")
    lines.extend(
        f"! heartbeats of another cluster, or of a former member, from {one.address} ({one.count})"
        for one in view.strangers
    )
    lines.extend(map(_finding, view.findings))
    if view.proof is not None:
        lines.append(_proof(view.proof))
    lines.append("nodes")
    lines.extend(_node(node) for node in view.nodes)
    lines.append("networks")
    lines.extend(f"  {'●' if net.up else '○'} {_network(net)}" for net in view.networks)
    known = "" if view.quorum else f"  as of entry {view.index}; others may have them by now"
    lines.append(f"groups{known}" if view.groups else "groups: none (leitwolf group add --help)")
    for group in view.groups:
        ends = not view.quorum and group.owner == view.node and group.status != "offline"
        lines.extend(_group(group, ends=ends, folded=folded))
    if view.stopped:
        lines.append("stopped here without quorum")
        lines.extend(f"  {local_time(item.at_wall)}  {item.text}" for item in view.stopped)
    return lines


def _promise(member: QuorumMember) -> str:
    """Say what a member promised, and how long its run-lease lasts, where that is known."""
    parts = []
    if member.promise_ms >= 0:
        left = f"{member.promise_ms:.0f} ms" if member.promise_ms else "over"
        parts.append(f"promised {member.promised}: {left}" if member.promised else "no promise")
    if member.lease_ms >= 0:
        parts.append(f"lease {member.lease_ms:.0f} ms" if member.lease_ms else "no lease")
    return "".join(f"  {part}" for part in parts)


def _finding(found: FindingView) -> str:
    return f"! {found.text} [{found.code}]\n  -> {found.fix}"


def _storage(member: QuorumMember) -> list[str]:
    """Say how long a disk or witness takes and who reaches it; nothing of a node."""
    times = member.times
    if times is None:
        return []
    lines = [f"    silence {member.silence_ms:.0f} ms"]
    if times.samples:
        lines[0] += (
            f"; {times.samples} calls from here: p50 {times.p50_ms:.1f}, p99.9 "
            f"{times.p999_ms:.1f}, worst {times.worst_ms:.1f} ms, {times.slow} slow"
        )
    if times.failures:
        lines[0] += f"; {times.failures} failed, the last {times.failed_s:.0f} s ago"
        lines.append(f"      {times.failure}")
    reach = [path.node for path in member.paths if path.reaches]
    if reach:
        lines.append(f"    reached by {', '.join(reach)}")
    lines.extend(
        f"    NOT reached by {path.node} since {local_time(path.since_wall)}: {path.fault}"
        for path in member.paths
        if not path.reaches
    )
    return lines


def _mode(view: QuorumView) -> str:
    """Say how votes are given."""
    if not view.dynamic:
        return "strict"
    return f"dynamic, {view.prefer} preferred" if view.prefer else "dynamic"


def _survival(view: SurvivalView) -> list[str]:
    """Say which further failures are survived, at once and one after the other."""
    if not view.quorum:
        return []
    lines = []
    for count, what in ((1, "loss of"), (2, "loss at once of")):
        by_reason: dict[str, list[str]] = {}
        for loss in view.losses:
            if len(loss.lost) == count:
                by_reason.setdefault(loss.reason, []).append(" and ".join(loss.lost))
        if "" in by_reason:
            lines.append(f"  survived: {what} {'; '.join(by_reason.pop(''))}")
        fatal = [f"{'; '.join(lost)} ({reason})" for reason, lost in by_reason.items()]
        if fatal:
            lines.append(f"  NOT survived: {what} {'; '.join(fatal)}")
    if not view.apart_ms:
        return [*lines, "  votes stay as they are, whoever is lost"]
    apart = f"{view.apart_ms / 1_000:.1f} s"
    if view.in_turn > view.at_once:
        return [*lines, f"  one after the other, {apart} apart or more: any {view.in_turn}"]
    return [*lines, f"  votes follow a loss within {apart}"]


def _vote(member: QuorumMember) -> str:
    """Say how many votes an acceptor has now, and how many it has while all is well."""
    if not member.voting:
        return "learner"
    if member.weight > 1:
        return f"{member.weight - 1} vote and the casting vote"
    if member.weight:
        return "1 vote"
    return "no vote now" if member.configured else "no vote (weight 0)"


def _dropped(view: DroppedView | None) -> list[str]:
    """Say what a node did not take or send, where there was anything."""
    if view is None:
        return []
    kinds = (
        ("heartbeats dropped", view.datagrams),
        ("not sent", {"": view.unsent}),
        ("streams ended", view.streams),
        ("rejected", view.rejected),
    )
    said = []
    for what, counts in kinds:
        some = [f"{count} {reason}".rstrip() for reason, count in counts.items() if count]
        if some:
            said.append(f"{what}: {', '.join(some)}")
    return ["; ".join(said)] if said else []


def quorum(view: QuorumView) -> str:
    """Return who promised what."""
    margin = f"{view.lease_margin_ms:.0f} ms left" if view.lease_margin_ms > 0 else "none"
    leading = f", leader lease {view.leader_margin_ms:.0f} ms" if view.leader_margin_ms > 0 else ""
    machine = (
        f"worst stall {view.worst_stall_ms:.1f} ms, real time "
        f"{'yes' if view.realtime else 'no'}, guard {'up' if view.guard else 'DOWN'}"
    )
    lines = [
        f"leader {view.leader or 'unknown'}  ballot {view.ballot}  promised {view.promised}"
        + ("  (configuration is changing)" if view.joint else ""),
        f"votes {view.votes}, needed {view.needed}, {_mode(view)}: {view.survives}",
        *_survival(view.survival),
        f"run-lease of {view.node}: {margin}{leading}",
        (
            f"profile {view.profile}: H {view.heartbeat_ms}  P {view.promise_ms}  "
            f"R {view.run_ms}  K {view.kill_ms} ms; {machine}"
        ),
        f"log: committed {view.commit}, last {view.last}",
        *_dropped(view.dropped),
    ]
    for member in view.members:
        match = f"has {member.match}" if member.match >= 0 else "not known here"
        link = "" if member.connected else "  not connected"
        link += f"  {member.fault}" if member.fault else ""
        lines.append(f"  {member.node}  {_vote(member)}  {match}{_promise(member)}{link}")
        lines.extend(_storage(member))
    if view.lacking:
        lines.append(f"! {view.lacking}")
    lines.extend(map(_finding, view.findings))
    return "\n".join(lines)


def plan_of(answer: Answer) -> ForceView:
    """Return what a force would mean, as the node answered."""
    return msgspec.json.decode(answer.data["plan"], type=ForceView)


def _forced(node: ForceNode) -> str:
    """Say what one node has to do with a force."""
    if node.here:
        heard = "this node"
    elif node.answers:
        heard = "answers"
    elif node.heard_ms < 0:
        heard = "not heard since this daemon started"
    else:
        heard = f"last heard {node.heard_ms / 1000:.1f} s ago"
    holds = f"holds entry {node.index}" if node.index >= 0 else "its log is not known here"
    fate = "goes on" if node.named else "is given up: must be switched off"
    against = f"  {node.text} [{node.code}]" if node.code else ""
    return f"  {'●' if node.named else '○'} {node.node}  {fate}  {heard}, {holds}{against}"


def force(view: ForceView) -> str:
    """Return what forcing a quorum would mean."""
    placed = ", ".join(f"{item.group} on {item.node}" for item in view.groups)
    lines = ["forcing a quorum would mean", *(_forced(node) for node in view.nodes)]
    lines.append(f"may be lost: {view.loss}")
    lines.append(f"would be started, after {view.wait_ms / 1000:.1f} s: {placed or 'nothing'}")
    lines.append("the nodes that are given up set their logs aside when they come back, and rejoin")
    if view.code:
        lines.append(f"! refused: {view.text} [{view.code}]")
    return "\n".join(lines)


def line(entry: LogLine) -> str:
    """Return one line of the timeline: why first, for those who look what has happened."""
    cause = f" <- {entry.cause}" if entry.cause else ""
    events = "; ".join(entry.events)
    when = local_time(entry.wall)
    return f"{entry.index:>7}  {when}  {entry.by}: {entry.because}{cause}  [{events}]"


def explanation(view: ExplanationView) -> str:
    """Return the explanation of a group."""
    lines = [view.summary, *(f"  {text}" for text in view.lines)]
    if view.causes:
        lines.append("because")
        lines.extend(f"  {line(cause)}" for cause in view.causes)
    return "\n".join(lines)
