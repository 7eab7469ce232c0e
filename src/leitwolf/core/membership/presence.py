"""Who is lost and who is back, as one leader sees it: what dynamic votes follow.

Rules:

- An acceptor is *lost* when it was out of reach for the patience (1 s, or P if that is longer): no
  stream, or no run-lease, or it did not confirm what was committed when it was looked at before.
- It is *back* when it was within reach all the time for 0.25 s, four times as long with each time
  that it was lost before in the same office: one that comes and goes must not change the votes with
  every move, and one that was restarted must not be missed when another one fails.
- The observation is that of one office. A new leader takes from the votes who was absent before it,
  and begins to count anew.

What this does not guarantee: anything to safety. Whatever it says, votes change by joint consensus
only, so that a wrong view costs a vote and never a second quorum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from leitwolf.core.lease.profile import MILLISECOND

__all__ = ["PATIENCE_NS", "Presence", "Sight", "patience"]

PATIENCE_NS = 1_000 * MILLISECOND
"""Out of reach for so long: lost."""
_STEADY_NS = 250 * MILLISECOND
"""Within reach for so long: back; four times as long with every former loss."""
_GROWTH_MAX = 4
"""A node that comes and goes waits 64 s at most."""
_FORGIVEN_NS = 60_000 * MILLISECOND
"""Who was there for so long is no longer one that comes and goes."""


def patience(promise_ns: int) -> int:
    """Return after which time (ns) out of reach an acceptor is lost; ``promise_ns``: P."""
    return max(PATIENCE_NS, promise_ns)


@dataclass(frozen=True, slots=True)
class Sight:
    """How an acceptor looks at one moment."""

    id: int
    reached: bool
    """Its stream is up and it holds a run-lease; a witness: it did what was asked of it last."""
    match: int
    """Confirmed durable up to here."""
    voting: bool
    """It has a vote now."""


@dataclass(slots=True)
class _Record:
    absent: bool
    mark: int = 0
    """Committed when it was looked at last in good order: to be confirmed within the patience."""
    away_since: int = -1
    """Since when it is out of reach or confirms nothing, -1: it is not."""
    steady_since: int = -1
    """While absent: since when it is within reach, -1: it is not."""
    back_at: int = 0
    losses: int = 0

    @property
    def steady_for(self) -> int:
        """How long it must be within reach to count as back."""
        return _STEADY_NS << 2 * min(max(self.losses - 1, 0), _GROWTH_MAX)


class Presence:
    """Of all acceptors but the leader's own node. Instants are RAW ns of this node."""

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}
        self.next_at = -1
        """When to look again at the latest, -1: when something happens."""

    @property
    def absent(self) -> frozenset[int]:
        """Ids of those that are lost and not back."""
        return frozenset(one for one, record in self._records.items() if record.absent)

    def pause(self, one: int) -> int:
        """Return how long (ns) a lost one must be within reach to be back; 0: it is not lost."""
        record = self._records.get(one)
        return record.steady_for if record is not None and record.absent else 0

    def observe(self, now: int, commit: int, patience_ns: int, sights: Iterable[Sight]) -> None:
        """Look at all acceptors.

        Args:
            now: this moment.
            commit: index up to which entries are committed.
            patience_ns: see :func:`patience`.
            sights: every acceptor once; who is missing is forgotten.
        """
        former, self._records = self._records, {}
        instants: list[int] = []
        for sight in sights:
            record = former.get(sight.id) or _Record(absent=not sight.voting, mark=commit)
            self._records[sight.id] = record
            confirms = sight.match >= record.mark
            if sight.reached and confirms:
                record.mark, record.away_since = commit, -1
            elif record.away_since < 0:
                record.away_since = now
            gone = 0 <= record.away_since <= now - patience_ns
            if record.absent:
                _watch_return(record, now, steady=sight.reached and not gone)
            elif gone:
                record.absent, record.steady_since = True, -1
                record.losses += 1
            elif now - record.back_at > _FORGIVEN_NS:
                record.losses = 0
            if sight.reached and sight.match < record.mark:
                instants.append(now + patience_ns // 2)  # it may have confirmed by then
            if record.away_since >= 0 and not gone:
                instants.append(record.away_since + patience_ns)
            if record.absent and record.steady_since >= 0:
                instants.append(record.steady_since + record.steady_for)
        self.next_at = min(instants, default=-1)


def _watch_return(record: _Record, now: int, *, steady: bool) -> None:
    if not steady:
        record.steady_since = -1
    elif record.steady_since < 0:
        record.steady_since = now
    elif now - record.steady_since >= record.steady_for:
        record.absent, record.back_at = False, now
