"""What guards say to each other by UDP, inside the AEAD envelope.

Renewals run in a star: the guard in office sends :class:`Heartbeat` to every member and learner on
every interconnect, each answers with :class:`Ack` (or :class:`Outbid`). All pairs exchange
:class:`Probe` and :class:`ProbeReply` on each link once a second, for the link's state only.
Instants are the sender's CLOCK_MONOTONIC_RAW in nanoseconds unless a field says otherwise; they
are compared only by the node that took them. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

from leitwolf.wire.ballot import Ballot
from leitwolf.wire.layout import Registry
from leitwolf.wire.lineage import Lineage

__all__ = ["PEER", "Ack", "Heartbeat", "Outbid", "PeerMessage", "Probe", "ProbeReply"]

PEER = Registry()


@PEER.message(1)
@dataclass(frozen=True, slots=True)
class Heartbeat:
    """From the guard in office to one node: renew your promise, and perhaps your run-lease."""

    ballot: Ballot
    sent: int
    """When the sender began this renewal (before it computed it)."""
    incarnation: int
    """Random number of the sending guard process; acks that name another are dropped."""
    promise: int
    """P: length of the promise asked for, in ns; 0: only the grant counts, and no answer."""
    released: bool
    """The owner released this ballot (L8): free the promise made to it, nothing is renewed."""
    grant: int
    """Lease id on the roster of the receiver; 0: nothing is granted."""
    opened: int
    """For a lease to be opened: index of the last entry appended (F of L5), else 0."""
    run: int
    """R: length of the run-lease granted, in ns, counted from ``echo``."""
    echo: int
    """Receiver's own ``sent`` of its newest ack that the sender has seen; 0: none."""
    echo_incarnation: int
    """Receiver's guard incarnation that goes with ``echo``."""
    lineage: Lineage = ()
    """Of the history in which the sender leads; guards of another one do not answer."""


@PEER.message(2)
@dataclass(frozen=True, slots=True)
class Ack:
    """From a node to the guard in office: promise renewed, and what became of my run-lease."""

    ballot: Ballot
    heartbeat_sent: int
    """``sent`` of the heartbeat that this confirms."""
    heartbeat_incarnation: int
    promise: int
    """Length of the promise that was confirmed, as asked."""
    sent: int
    """Own clock: the leader echoes it, and a grant counts from it."""
    incarnation: int
    lease: int
    """Id of the open run-lease, 0: none."""
    attested: int
    """Id of the newest lease that this guard closed after everything under it was stopped and
    confirmed stopped, attested to exactly this ballot; 0: none (L7)."""
    no_memory: bool
    """Guard lost its page less than P + R ago."""
    apart: tuple[int, ...]
    """Nodes with which this node's daemon has no stream; all others while there is no daemon."""


@PEER.message(3)
@dataclass(frozen=True, slots=True)
class Outbid:
    """Answer to a heartbeat below the floor: a higher ballot is promised here."""

    ballot: Ballot
    """The ballot of the refused heartbeat."""
    floor: Ballot


@PEER.message(4)
@dataclass(frozen=True, slots=True)
class Probe:
    """Link check, sent once a second per pair and link."""

    sent: int
    incarnation: int


@PEER.message(5)
@dataclass(frozen=True, slots=True)
class ProbeReply:
    """Answer to a probe on the link on which it came."""

    sent: int
    """``sent`` of the probe."""
    incarnation: int
    """``incarnation`` of the probe."""


PeerMessage = Heartbeat | Ack | Outbid | Probe | ProbeReply
