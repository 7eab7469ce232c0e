"""What the quorum core tells the node core, in order; taken with ``take_signals``."""

from __future__ import annotations

import msgspec

from leitwolf.core.messages import Promised
from leitwolf.model.log import Entry, Snapshot
from leitwolf.wire.ballot import Ballot, Key

__all__ = [
    "Behind",
    "Committed",
    "Elected",
    "LeaderSeen",
    "MayLead",
    "Restored",
    "Signal",
    "SteppedDown",
    "TransferFailed",
]


class _Signal(msgspec.Struct, frozen=True, kw_only=True):
    pass


class MayLead(_Signal, frozen=True, kw_only=True):
    """A quorum promised ``ballot``: ask the guard to take office in it.

    ``report`` holds the promises by node, the own one included: what their guards said (L6).
    """

    ballot: Ballot
    report: tuple[Promised, ...]


class Elected(_Signal, frozen=True, kw_only=True):
    """The guard is in office: answer with ``begin``, the first entry of the term."""

    ballot: Ballot


class Committed(_Signal, frozen=True, kw_only=True):
    """These entries follow the last ones and are committed."""

    entries: tuple[Entry, ...]


class Restored(_Signal, frozen=True, kw_only=True):
    """The leader's snapshot replaces everything up to its key."""

    snapshot: Snapshot


class SteppedDown(_Signal, frozen=True, kw_only=True):
    """Out of office in ``ballot``, or never in it although a quorum promised it.

    ``reason`` is a stable code: ``outbid``, ``office-lost``, ``released``, ``transferred``,
    ``guard-lost``, ``not-released`` (its guard did not confirm), ``raised`` (the same node
    prepares a higher round, L13), ``removed``, ``timeout``.
    """

    ballot: Ballot
    reason: str


class LeaderSeen(_Signal, frozen=True, kw_only=True):
    """The owner of ``ballot`` leads: its first append of this ballot was accepted."""

    ballot: Ballot


class Behind(_Signal, frozen=True, kw_only=True):
    """``node`` knows entries up to ``key`` that this candidate lacks (R2, partition in time).

    Where a witness said so, which holds no entries, ``node`` is the leader that wrote them.
    """

    node: int
    key: Key


class TransferFailed(_Signal, frozen=True, kw_only=True):
    """Leadership was not handed to ``node`` (0: nobody could take it); this node goes on.

    ``reason`` is a stable code: ``no-voter``, ``not-connected``, ``not-caught-up``.
    """

    node: int
    reason: str


Signal = (
    MayLead | Elected | Committed | Restored | SteppedDown | LeaderSeen | Behind | TransferFailed
)
