"""What the API answers: views made for people and programs, stable in form."""

from __future__ import annotations

import msgspec

from leitwolf.model.ids import NodeId

__all__ = [
    "ClusterSetup",
    "DroppedView",
    "EndView",
    "ExplanationView",
    "FindingView",
    "ForceGroup",
    "ForceNode",
    "ForceView",
    "GroupView",
    "InitRequest",
    "JoinRequestView",
    "LinkView",
    "LogLine",
    "LossView",
    "MachineView",
    "NetworkView",
    "NodeLine",
    "PairView",
    "PathView",
    "PreventRequest",
    "ProofView",
    "QuorumMember",
    "QuorumView",
    "ResourceView",
    "StatusView",
    "StoppedView",
    "StrangerView",
    "SurvivalView",
    "TimesView",
]


class _View(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class LinkView(_View, frozen=True, kw_only=True):
    """One interconnect link from this node to another."""

    network: str
    up: bool
    """Heartbeats of it come in by UDP."""
    round_trip_ms: float
    stream: bool = False
    """A connection between the daemons stands on it, by TCP."""


class NodeLine(_View, frozen=True, kw_only=True):
    """One node."""

    id: NodeId
    name: str
    standing: str
    """member, learner or leaving."""
    up: bool
    paused: bool
    leader: bool
    here: bool
    connected: bool
    reason: str
    links: tuple[LinkView, ...] = ()
    addresses: dict[str, str] = {}


class EndView(_View, frozen=True, kw_only=True):
    """What one of two nodes says of the link between them."""

    node: str
    hears: bool | None = None
    """It hears the other one; null: not known here."""
    since_wall: int = 0
    """It hears it: since when; it does not: when last, 0: never. UTC ns, by its own clock."""
    unknown: str = ""
    """Why that is not known, '': it is."""


class PairView(_View, frozen=True, kw_only=True):
    """The link between two nodes on an interconnect, as both of them say."""

    nodes: tuple[str, str]
    state: str
    """``up``: both hear each other; ``one-way``: only one hears the other; ``down``: neither does,
    or one does not and what the other hears is not known; ``unknown``."""
    reason: str
    """The same in words."""
    since_wall: int
    """Since when, UTC ns; 0: for ever, or not known."""
    ends: tuple[EndView, EndView]


class NetworkView(_View, frozen=True, kw_only=True):
    """One network, as seen from the node asked."""

    name: str
    subnets: tuple[str, ...]
    role: str
    up: bool
    """This node has an address there, its interface carries, and, of an interconnect, some other
    node is reached by it."""
    reason: str = ""
    """Why it is down, who is not reached, which other nodes do not hear each other, or else by
    which address and interface it is used."""
    pairs: tuple[PairView, ...] = ()
    """Of an interconnect: all pairs of nodes; in a status only those that are not up."""


class ResourceView(_View, frozen=True, kw_only=True):
    """One resource."""

    id: str
    type: str
    state: str
    wish: str
    code: str
    """Of the reason, stable, for programs."""
    reason: str
    parameters: dict[str, str]
    depends: tuple[str, ...]
    changed: int


class GroupView(_View, frozen=True, kw_only=True):
    """One group with its resources."""

    id: str
    status: str
    wish: str
    phase: str
    owner: str
    reason: str
    generation: int
    preferred: tuple[str, ...]
    resources: tuple[ResourceView, ...]
    changed: int


class ProofView(_View, frozen=True, kw_only=True):
    """What this node can prove to have ended when its lease is over, whatever hangs or freezes."""

    address: bool
    """The kernel's gate shuts virtual addresses by itself."""
    process: bool
    """A watchdog resets a node whose processes cannot be stopped."""
    data: bool
    """Writes to shared data are fenced."""


class MachineView(_View, frozen=True, kw_only=True):
    """What the processes of this node got from the machine, as they say themselves."""

    user: int
    """Id of the user as whom they run."""
    realtime: bool
    """The guard has real-time scheduling."""
    realtime_wanted: bool
    """It tries to get it (LEITWOLF_REALTIME)."""
    cgroups: bool
    """Resources run in cgroups; else in PID namespaces."""
    watchdog: str
    """The device that the guard takes once the node is in a cluster, or none: LEITWOLF_WATCHDOG."""
    watched: bool
    """It has it, and feeds it."""


class StoppedView(_View, frozen=True, kw_only=True):
    """What this node stopped without quorum: when (UTC ns) and why."""

    at_wall: int
    text: str


class StrangerView(_View, frozen=True, kw_only=True):
    """Somebody who sends heartbeats of another cluster to the node asked."""

    address: str
    count: int
    """Datagrams since the first one; forgotten a minute after the last."""


class FindingView(_View, frozen=True, kw_only=True):
    """Something that will hurt one day, and what to do about it before."""

    code: str
    """Stable, for programs."""
    text: str
    fix: str


class StatusView(_View, frozen=True, kw_only=True):
    """The whole cluster as this node sees it."""

    formed: bool
    cluster: str
    uuid: str
    node: str
    profile: str
    leader: str
    quorum: bool
    """A leader is known and reachable from here."""
    fresh: bool
    """Read at the leader under its lease; else it may be old."""
    index: int
    advice: str
    """One sentence about what is missing for safety, '' when nothing is."""
    survives: str = ""
    """Which further failures the cluster survives now; '': not formed."""
    under_way: dict[str, str] = {}
    """What lacks, in words, of a change that takes its time: of ``votes``, the ``profile``, or the
    heartbeat ``keys``."""
    proof: ProofView | None = None
    machine: MachineView | None = None
    """None: the guard or the host of this node is only starting."""
    fault: str = ""
    """Code of what keeps this node from taking part, '': nothing does."""
    port: int = 0
    """Of all nodes, TCP and UDP."""
    nodes: tuple[NodeLine, ...] = ()
    networks: tuple[NetworkView, ...] = ()
    groups: tuple[GroupView, ...] = ()
    stopped: tuple[StoppedView, ...] = ()
    strangers: tuple[StrangerView, ...] = ()
    findings: tuple[FindingView, ...] = ()


class TimesView(_View, frozen=True, kw_only=True):
    """How long calls of a disk or witness take, as the node asked sees it."""

    samples: int
    """The newest calls, up to 4096; the quantiles are theirs."""
    p50_ms: float
    p999_ms: float
    worst_ms: float
    slow: int
    """How many of them took longer than P / 4."""
    failures: int
    """Since the daemon started: no answer in time, or an error."""
    failed_s: float
    """How long ago the last of them was; below 0: there was none."""
    failure: str
    """What it said."""


class PathView(_View, frozen=True, kw_only=True):
    """Whether a node reaches a disk or witness; each that may lead looks every few seconds."""

    node: str
    reaches: bool
    since_wall: int
    """UTC ns, by the clock of that node."""
    fault: str
    """Code and text of what failed, '': it reaches it."""
    location: str
    """Where it looks for it."""


class QuorumMember(_View, frozen=True, kw_only=True):
    """One acceptor."""

    node: str
    weight: int
    """Votes that it has now."""
    configured: int
    """Votes that it has while it is there and no dynamic rule says otherwise: 0 or 1."""
    voting: bool
    """It is an acceptor, no learner."""
    match: int
    """Last index known to be durable there; -1: not known here."""
    connected: bool
    fault: str = ""
    """Why a disk or witness did not do what this node asked of it last, or why a node can never
    lead; '': nothing of it."""
    promised: str = ""
    """Ballot whose owner its guard promised to help no other; '': not known here."""
    promise_ms: float = -1.0
    """How long still, within the last second; 0: over or freed, below 0: not known here."""
    lease_ms: float = -1.0
    """What was left of its run-lease, at most, within the last second; 0: it holds none, below 0:
    not known here."""
    kind: str = "node"
    """node, disk or object."""
    storage: str = ""
    """UUID of a disk or witness."""
    location: str = ""
    """Where nodes reach it that are told nothing else."""
    silence_ms: float = -1.0
    """Of a disk or witness: T_d, after which its silent owner counts as gone; below 0: a node."""
    unfenced: str = ""
    """Of a disk: why it has no reservations by which an evicted node is kept out, '': it has."""
    times: TimesView | None = None
    """Of a disk or witness."""
    paths: tuple[PathView, ...] = ()
    """Of a disk or witness: of those that look, among the node asked and those in its reach."""


class WitnessView(_View, frozen=True, kw_only=True):
    """The disk or witness that is wanted."""

    kind: str
    """``disk`` or ``object``."""
    location: str
    storage: str
    """UUID of its formatting."""
    alone: bool
    """Nodes have no vote."""
    full: bool
    silence_ms: int


class LossView(_View, frozen=True, kw_only=True):
    """One failure, or two at once, and what becomes of the quorum."""

    lost: tuple[str, ...]
    survived: bool
    reason: str
    """Why it is not survived, '': it is."""


class SurvivalView(_View, frozen=True, kw_only=True):
    """Which further failures the cluster survives now."""

    quorum: bool
    """There is one now."""
    at_once: int
    """So many of those that vote may fail at the same time, whichever they are."""
    in_turn: int
    """So many of all may fail one after the other, whichever they are."""
    apart_ms: int
    """Failures closer than that count as at once: only after it the votes are adapted for
    certain; 0: votes stay as they are (strict)."""
    losses: tuple[LossView, ...]
    """Of each one that is there; of each two that vote, where some are survived and some not."""


class DroppedView(_View, frozen=True, kw_only=True):
    """What the node asked did not take or send; everything is counted, and nothing else is done."""

    datagrams: dict[str, int]
    """Heartbeats that its guard dropped since it started, by reason; {}: no guard told."""
    unsent: int
    """Heartbeats that the kernel refused to send since then."""
    streams: dict[str, int]
    """Connections of nodes and joiners that ended since the daemon started, by reason."""
    rejected: dict[str, int]
    """Nodes and joiners that it rejected, by code."""


class QuorumView(_View, frozen=True, kw_only=True):
    """Who promised what, as this node knows it."""

    node: str
    leader: str
    ballot: str
    promised: str
    epoch: int
    commit: int
    last: int
    votes: int
    needed: int
    dynamic: bool
    """Votes follow who is there; False: everyone keeps his vote (strict)."""
    prefer: str
    """Node that is preferred for the casting vote, '': none."""
    profile: str
    heartbeat_ms: int
    promise_ms: int
    run_ms: int
    kill_ms: int
    lease_margin_ms: float
    """What is left of this node's run-lease, below 0: none."""
    leader_margin_ms: float
    """What is left of the leader lease, at the leader; below 0: none."""
    worst_stall_ms: float
    realtime: bool
    guard: bool
    joint: bool
    members: tuple[QuorumMember, ...]
    survives: str
    """Which further failures the cluster survives now."""
    survival: SurvivalView
    """The same in parts."""
    lacking: str
    """What a stale node lacks and who has it."""
    findings: tuple[FindingView, ...] = ()
    witness: WitnessView | None = None
    dropped: DroppedView | None = None


class ForceNode(_View, frozen=True, kw_only=True):
    """One node, as far as a force is concerned."""

    node: str
    here: bool
    named: bool
    """It would go on."""
    answers: bool
    heard_ms: float
    """How long ago it was heard last, -1: never since this daemon started."""
    index: int
    """Newest entry that it holds, -1: it did not say."""
    code: str = ""
    text: str = ""
    """Why it would refuse, '': it would not, or did not say."""


class ForceGroup(_View, frozen=True, kw_only=True):
    """A group that would be started."""

    group: str
    node: str


class ForceView(_View, frozen=True, kw_only=True):
    """What forcing a quorum would mean; nothing was done."""

    nodes: tuple[ForceNode, ...]
    index: int
    """Newest entry held here."""
    known: int
    """Newest entry that was ever heard of here, at least :attr:`index`."""
    known_at: str
    """Who holds it, '': nobody is known to hold more."""
    loss: str
    """What may be lost, in words."""
    groups: tuple[ForceGroup, ...]
    wait_ms: int
    """How long nothing of the other nodes must be heard before anything starts."""
    code: str = ""
    text: str = ""
    hint: str = ""
    """Why it would be refused, '': it would not."""


class LogLine(_View, frozen=True, kw_only=True):
    """One line of the merged timeline."""

    index: int
    wall: int
    by: str
    code: str
    because: str
    cause: int
    events: tuple[str, ...]


class ExplanationView(_View, frozen=True, kw_only=True):
    """Where a group is and why."""

    group: str
    summary: str
    lines: tuple[str, ...]
    waits_for: str
    causes: tuple[LogLine, ...]


class InitRequest(_View, frozen=True, kw_only=True):
    """Form a cluster of one. Networks are given as subnets or interface names."""

    name: str = ""
    node_name: str = ""
    interconnect: tuple[str, ...] = ()
    client: tuple[str, ...] = ()
    profile: str = ""
    port: int = 0
    votes: str = ""
    """``dynamic`` or ``strict``; '': dynamic."""


class JoinRequestView(_View, frozen=True, kw_only=True):
    """Join with a token."""

    token: str
    """'': of a node that comes back by what it still has."""
    node_name: str = ""
    again: bool = False
    """Set an unusable state aside: the way back of a node whose storage is lost."""
    replace: bool = False
    """Take the place of the node of this name."""


class PreventRequest(_View, frozen=True, kw_only=True):
    """Let a node join only, or not."""

    prevent: bool


class ClusterSetup(_View, frozen=True, kw_only=True):
    """Answer to forming or joining."""

    cluster: str
    uuid: str
    node: str
    node_id: int
    profile: str
    networks: dict[str, str]
    advice: str
    profile_reason: str = ""
    """Why a shorter profile was not taken where none was asked for, '' otherwise."""
