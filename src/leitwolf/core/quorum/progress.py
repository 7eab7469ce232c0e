"""What a leader knows of the log of one other node, and what it may send to it now.

Stages::

    probe     one append is out, to find where the logs agree   -> stream, snapshot, probe again
    stream    appends follow each other without waiting          -> probe after a gap or silence
    snapshot  one chunk is out; the log there is too old          -> stream when installed

A new stream of the transport, a gap and silence lead back to probe: what was under way may be lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from leitwolf.model.limits import APPENDS_IN_FLIGHT_MAX
from leitwolf.wire.ballot import NO_KEY, Key

__all__ = ["Progress", "Stage"]


class Stage(StrEnum):
    """How the leader feeds a node."""

    PROBE = "probe"
    STREAM = "stream"
    SNAPSHOT = "snapshot"


@dataclass(slots=True)
class Progress:
    """Replication to one node. Indices, and instants of the leader in ns."""

    next: int
    """Index of the next entry to send."""
    match: int = 0
    """Everything up to here is durable there and equal to the leader's log."""
    storage: str = ""
    """Storage that confirmed ``match``; '' before the first confirmation."""
    stage: Stage = Stage.PROBE
    heard: int = -1
    """When the node last said anything, -1: never in this term."""
    sent: int = 0
    """When the oldest unanswered message (or a later one) went out."""
    waiting: bool = False
    """Probe and snapshot: the one message is out."""
    in_flight: deque[int] = field(default_factory=deque)
    """Stream: last index of each unanswered append that carries entries."""
    commit_sent: int = 0
    notice_at: int = -1
    """When it is told of commits at the latest, -1: nothing is to be told, or at once."""
    snapshot: Key = NO_KEY
    chunks: bytes = b""
    """The encoded snapshot under way."""
    offset: int = 0

    def ready(self) -> bool:
        """Return whether another message may go out now."""
        if self.stage == Stage.STREAM:
            return len(self.in_flight) < APPENDS_IN_FLIGHT_MAX
        return not self.waiting

    def appended(self, last: int, count: int, commit: int, now: int) -> None:
        """Note that an append of ``count`` entries up to ``last`` was sent with ``commit``."""
        if not self.in_flight and not self.waiting:
            self.sent = now
        if self.stage == Stage.STREAM:
            if count:
                self.in_flight.append(last)
            self.next = last + 1
        else:
            self.waiting = True
        self.commit_sent = max(self.commit_sent, min(commit, last))
        self.notice_at = -1

    def matched(self, match: int, storage: str, now: int) -> None:
        """Note that ``storage`` of the node confirmed everything up to ``match``."""
        if storage != self.storage:
            self.storage, self.match = storage, 0
        self.match = max(self.match, match)
        if self.stage != Stage.STREAM:
            self.stage, self.waiting, self.chunks = Stage.STREAM, False, b""
            self.next = self.match + 1
        while self.in_flight and self.in_flight[0] <= match:
            self.in_flight.popleft()
        self.next = max(self.next, self.match + 1)
        self.sent = now

    def probe(self, after: int) -> None:
        """Begin anew behind ``after``; what is under way counts as lost."""
        self.stage, self.waiting, self.chunks, self.offset = Stage.PROBE, False, b"", 0
        self.in_flight.clear()
        self.next = after + 1
        self.commit_sent = 0
        self.notice_at = -1

    def begin_snapshot(self, last: Key, chunks: bytes) -> None:
        """Begin to send a snapshot, from its first byte."""
        self.stage, self.waiting, self.offset = Stage.SNAPSHOT, False, 0
        self.snapshot, self.chunks = last, chunks
        self.in_flight.clear()
        self.notice_at = -1

    def overdue_at(self, silence: int) -> int:
        """Return when an unanswered message counts as lost; -1: nothing is unanswered."""
        return self.sent + silence if self.waiting or self.in_flight else -1
