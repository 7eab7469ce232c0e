"""What the daemon and the host of a node say to its guard, and what it answers.

Channel: SOCK_SEQPACKET on ``guard.sock`` in the runtime directory, one message per packet; the
daemon begins with :class:`DaemonHello`, the host with :class:`HostHello`. The connection is the
session: when the daemon's ends, the guard drops its unanswered fences and nothing else.
Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

from leitwolf.wire.ballot import Ballot
from leitwolf.wire.layout import Registry
from leitwolf.wire.lineage import Lineage

__all__ = [
    "GUARD",
    "Attest",
    "Back",
    "BackDropped",
    "BackingThin",
    "Configure",
    "DaemonHello",
    "DatagramReport",
    "Exclude",
    "Fence",
    "FenceRefused",
    "Fenced",
    "Follow",
    "Freed",
    "GuardCommand",
    "GuardHello",
    "GuardReport",
    "HistoryHeard",
    "HostHello",
    "HostStopped",
    "LeaseClosed",
    "LeaseOpened",
    "LinkReport",
    "LinkState",
    "NodeAway",
    "NodeBack",
    "Office",
    "OfficeLost",
    "OpenLease",
    "PeerNode",
    "Recorded",
    "Release",
    "Released",
    "RosterReport",
    "Standing",
    "StopEverything",
    "Stranger",
    "StrangersReport",
    "Streams",
    "TakeOffice",
    "Votes",
]

GUARD = Registry()

# --- parts ---------------------------------------------------------------------------------------


@GUARD.part
@dataclass(frozen=True, slots=True)
class PeerNode:
    """A node to send to: its addresses in the order of the links, '' where it has none."""

    node: int
    addresses: tuple[str, ...]


@GUARD.part
@dataclass(frozen=True, slots=True)
class Votes:
    """One active configuration: weights of the node acceptors. Quorum: 2 * sum > total."""

    nodes: tuple[int, ...]
    weights: tuple[int, ...]


@GUARD.part
@dataclass(frozen=True, slots=True)
class LinkState:
    """How one link to one node is: age of the last answered probe or heartbeat, -1: never."""

    node: int
    link: int
    up: bool
    age: int
    round_trip: int


@GUARD.part
@dataclass(frozen=True, slots=True)
class Standing:
    """What the guard in office knows of one node; instants are its RAW ns, 0: never."""

    node: int
    promise_end: int
    """Until then its newest confirmed promise binds it to the ballot of the office."""
    horizon: int
    """No run-lease of it outlasts this; in the past: it holds none."""
    lease: int
    """Id of its run-lease on the roster, 0: none."""


@GUARD.part
@dataclass(frozen=True, slots=True)
class Stranger:
    """Somebody who sends heartbeats under a key that this cluster does not have."""

    address: str
    count: int
    """Of its datagrams, since the first one."""


# --- daemon and host to guard --------------------------------------------------------------------


@GUARD.message(1)
@dataclass(frozen=True, slots=True)
class DaemonHello:
    """First message of a daemon: the highest ballot that it wrote or began to write (L3)."""

    written: Ballot


@GUARD.message(2)
@dataclass(frozen=True, slots=True)
class Configure:
    """Who is who; replaces the former configuration as a whole. Sent again on every change."""

    node: int
    """This node's id."""
    port: int
    """UDP port of every guard."""
    addresses: tuple[str, ...]
    """This node's own address on each link, '' where it has none."""
    heartbeat: int
    """H in ns."""
    promise: int
    """P in ns."""
    run: int
    """R in ns."""
    kill: int
    """K in ns."""
    promise_longest: int
    """Longest P that a promise in force may have, in ns: as P, or more while that changes."""
    run_longest: int
    """Longest R that a lease in force may have, in ns: as R, or more while that changes."""
    peers: tuple[PeerNode, ...]
    """All other members and learners."""
    configurations: tuple[Votes, ...]
    """The active configurations: one, or two during a change (joint)."""
    lineage: Lineage = ()
    """Of the history that this node is in; its guard has no part in any other."""
    unled: tuple[int, ...] = ()
    """Peers that get no heartbeats: they are not named in that history, which may come to nothing,
    and would close what they run."""


@GUARD.message(3)
@dataclass(frozen=True, slots=True)
class Fence:
    """May this node promise ``ballot``? Answered by :class:`Fenced` or :class:`FenceRefused`."""

    ballot: Ballot


@GUARD.message(4)
@dataclass(frozen=True, slots=True)
class Follow:
    """``ballot`` is elected (its append was received): raise the floor to it, no answer."""

    ballot: Ballot


@GUARD.message(5)
@dataclass(frozen=True, slots=True)
class TakeOffice:
    """A quorum promised ``ballot`` to this node: renew in it. Answered by Office or OfficeLost.

    ``barred``: nodes that must not be admitted to the roster by their old lease: they return by
    OPEN only.
    """

    ballot: Ballot
    barred: tuple[int, ...]


@GUARD.message(6)
@dataclass(frozen=True, slots=True)
class Exclude:
    """Take ``node`` off the roster of ``ballot``; answered by :class:`NodeAway` when it is over."""

    ballot: Ballot
    node: int


@GUARD.message(7)
@dataclass(frozen=True, slots=True)
class OpenLease:
    """Put ``node`` on the roster of ``ballot`` with a new lease id (L5); self included."""

    ballot: Ballot
    node: int
    lease: int
    index: int
    """F: index of the last entry appended; the node starts nothing before it applied F."""


@GUARD.message(8)
@dataclass(frozen=True, slots=True)
class Release:
    """Give up ``ballot`` (L8); answered by :class:`Released`."""

    ballot: Ballot


@GUARD.message(9)
@dataclass(frozen=True, slots=True)
class StopEverything:
    """Close this node's lease: gate, kill, attest. For an orderly stop and for evicted nodes."""

    reason: str


@GUARD.message(10)
@dataclass(frozen=True, slots=True)
class HostHello:
    """First message of a host."""

    process: int


@GUARD.message(11)
@dataclass(frozen=True, slots=True)
class HostStopped:
    """Every resource cgroup is empty and every address removed, as asked for ``lease``."""

    lease: int


@GUARD.message(12)
@dataclass(frozen=True, slots=True)
class Streams:
    """The nodes with which the daemon has a stream now; sent again on every change."""

    nodes: tuple[int, ...]


@GUARD.message(13)
@dataclass(frozen=True, slots=True)
class Back:
    """A passive acceptor confirmed a renewal begun at ``start`` (L2); others await ``duration``.

    ``duration`` 0: count it no more; answered by :class:`BackDropped`.
    """

    ballot: Ballot
    acceptor: int
    start: int
    duration: int


# --- guard to daemon and host --------------------------------------------------------------------


@GUARD.message(32)
@dataclass(frozen=True, slots=True)
class GuardHello:
    """First message of a guard to a new connection; state stands in the shared page."""

    incarnation: int
    remembers: bool
    """The page of its predecessor was there and whole."""


@GUARD.message(33)
@dataclass(frozen=True, slots=True)
class Fenced:
    """The floor is ``ballot``; what the next promise must report (L6, L8)."""

    ballot: Ballot
    renewed: Ballot
    """Highest ballot ever renewed here."""
    freed: bool
    """The promise made to ``renewed`` was ended by a release, not by time."""
    no_memory: bool


@GUARD.message(34)
@dataclass(frozen=True, slots=True)
class FenceRefused:
    """Not now: the promise to ``holder`` runs ``remaining`` ns more, or the floor is higher."""

    ballot: Ballot
    holder: Ballot
    floor: Ballot
    remaining: int


@GUARD.message(35)
@dataclass(frozen=True, slots=True)
class Office:
    """In office; nodes in ``barred`` are and stay off the roster until opened."""

    ballot: Ballot
    barred: tuple[int, ...]


@GUARD.message(36)
@dataclass(frozen=True, slots=True)
class OfficeLost:
    """Office in ``ballot`` ended or was not taken: ``floor`` is higher, or no quorum renewed."""

    ballot: Ballot
    floor: Ballot
    reason: str


@GUARD.message(37)
@dataclass(frozen=True, slots=True)
class NodeAway:
    """``node`` holds no run-lease any more, whatever it does: its groups may be taken.

    ``lease`` is the id that ended (0: it was never on this roster); ``attested`` tells whether it
    confirmed that everything is stopped, or the time of its lease passed.
    """

    ballot: Ballot
    node: int
    lease: int
    attested: bool


@GUARD.message(38)
@dataclass(frozen=True, slots=True)
class NodeBack:
    """``node`` acknowledges heartbeats of ``ballot``; ``lease`` on the roster, 0: needs OPEN."""

    ballot: Ballot
    node: int
    incarnation: int
    lease: int


@GUARD.message(39)
@dataclass(frozen=True, slots=True)
class LeaseOpened:
    """This node's run-lease ``lease`` is open; start nothing before ``index`` is applied."""

    lease: int
    index: int


@GUARD.message(40)
@dataclass(frozen=True, slots=True)
class LeaseClosed:
    """This node's run-lease ``lease`` is closed for ever; everything is being stopped."""

    lease: int
    reason: str


@GUARD.message(41)
@dataclass(frozen=True, slots=True)
class Attest:
    """To daemon: ``lease`` is closed and everything under it confirmed stopped."""

    lease: int


@GUARD.message(42)
@dataclass(frozen=True, slots=True)
class Released:
    """Ballot released: it grants nothing and counts no ack any more."""

    ballot: Ballot


@GUARD.message(43)
@dataclass(frozen=True, slots=True)
class LinkReport:
    """State of all links, on every change and once a second."""

    links: tuple[LinkState, ...]


@GUARD.message(44)
@dataclass(frozen=True, slots=True)
class Recorded:
    """A line for the local recorder: what the guard did, when (RAW ns), and why."""

    at: int
    code: str
    detail: str


@GUARD.message(45)
@dataclass(frozen=True, slots=True)
class Freed:
    """The owner released ``ballot``: this node is not bound to it any more, the page says so."""

    ballot: Ballot


@GUARD.message(46)
@dataclass(frozen=True, slots=True)
class BackDropped:
    """The leader lease of ``ballot`` does not rest on ``acceptor`` any more."""

    ballot: Ballot
    acceptor: int


@GUARD.message(48)
@dataclass(frozen=True, slots=True)
class RosterReport:
    """For people, once a second from the guard in office: how all nodes stand."""

    ballot: Ballot
    at: int
    """When it was so, RAW ns."""
    standings: tuple[Standing, ...]


@GUARD.message(47)
@dataclass(frozen=True, slots=True)
class BackingThin:
    """Whether acks of nodes alone renew the leader lease too late for comfort; on every change."""

    ballot: Ballot
    thin: bool


@GUARD.message(49)
@dataclass(frozen=True, slots=True)
class StrangersReport:
    """Who sent heartbeats of another cluster within the last minute; () when they are gone."""

    strangers: tuple[Stranger, ...]


@GUARD.message(50)
@dataclass(frozen=True, slots=True)
class HistoryHeard:
    """A leader of another history sends heartbeats; said once of each, and again after P.

    ``closed``: it continues the one of this node, so every lease here is being closed.
    """

    node: int
    lineage: Lineage
    closed: bool


@GUARD.message(51)
@dataclass(frozen=True, slots=True)
class DatagramReport:
    """For people: the datagrams that this guard dropped, by reason, and could not send.

    Since it started; told to every daemon at its hello, and when a number changed.
    """

    malformed: int
    """No datagram of a guard: too short, other magic or version."""
    oversized: int
    foreign_key: int
    """Sealed under a key that this cluster does not have."""
    unknown_sender: int
    """In the name of a node that this one does not listen to."""
    replayed: int
    """Taken before, or too old to know."""
    forged: int
    """The tag is wrong."""
    misrouted: int
    """Authentic, but not on the link that it names."""
    unreadable: int
    """Authentic, but no message."""
    unsent: int
    """The kernel refused them."""


GuardCommand = (
    DaemonHello
    | Configure
    | Fence
    | Follow
    | TakeOffice
    | Exclude
    | OpenLease
    | Release
    | StopEverything
    | Streams
    | Back
    | HostHello
    | HostStopped
)
GuardReport = (
    GuardHello
    | Fenced
    | FenceRefused
    | Office
    | OfficeLost
    | NodeAway
    | NodeBack
    | LeaseOpened
    | LeaseClosed
    | Attest
    | Released
    | Freed
    | BackDropped
    | BackingThin
    | LinkReport
    | RosterReport
    | StrangersReport
    | DatagramReport
    | HistoryHeard
    | Recorded
)
