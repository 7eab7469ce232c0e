"""The following half: what an acceptor does with the appends and snapshots of a leader.

Rules:

- R3: nothing below the promised ballot (nor below the floor of the own guard) is accepted; what is
  accepted at a higher ballot promises it, in the same write.
- I13: what is accepted at a higher ballot waits until the page shows that the own guard has it for
  its floor (``Follow``). Without a guard nothing new is promised.
- R4: a confirmation waits until everything written so far is durable.
- Entries that contradict the leader's are dropped first; committed ones never (InvariantError).

What this does not guarantee: an acceptor that accepts is no proof that the leader still leads.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass

import msgspec

from leitwolf.core.lease.profile import MILLISECOND
from leitwolf.core.messages import (
    Append,
    Appended,
    Gap,
    InstallSnapshot,
    Refused,
    SnapshotInstalled,
)
from leitwolf.core.quorum.signals import LeaderSeen
from leitwolf.core.quorum.standing import NEVER, Standing
from leitwolf.model.errors import ProtocolError, check
from leitwolf.model.log import Snapshot
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY, Ballot, Key
from leitwolf.wire.guard import Follow

__all__ = ["Replica"]

_HELD_MAX = 4
"""A leader sends one message of a new ballot and waits; what is too much counts as lost."""
_LOOK_AGAIN_NS = 2 * MILLISECOND
"""Heartbeats raise the floor before the first append comes, so this is hardly ever needed."""


@dataclass(frozen=True, slots=True)
class _Held:
    until: int
    node: int
    message: Append | InstallSnapshot


class Replica:
    """Follows the owner of the highest ballot."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._followed = NO_BALLOT
        self._held: deque[_Held] = deque(maxlen=_HELD_MAX)
        self._incoming: tuple[Ballot, Key] = (NO_BALLOT, NO_KEY)
        self._chunks = bytearray()

    def guard_lost(self) -> None:
        """What the guard was told may be lost: tell it again."""
        self._followed = NO_BALLOT

    def admits(self, node: int, ballot: Ballot) -> bool:
        """Return whether ``ballot`` is not below what was promised; refuse it otherwise (R3)."""
        standing = self._standing
        highest = max(standing.promised, standing.page().floor)
        if ballot >= highest or not standing.rules.holds("accept-at-promised"):
            return True
        refusal = Refused(ballot=ballot, promised=highest, key=standing.log.last, remaining=0)
        standing.send(node, refusal, standing.outbox.position)
        return False

    def must_wait(self, node: int, message: Append | InstallSnapshot) -> bool:
        """Hold a message that would promise more than the own guard knows yet (I13)."""
        standing, ballot = self._standing, message.ballot
        self._tell_guard(ballot)
        known = ballot <= max(standing.page().floor, standing.promised)
        if known or not standing.rules.holds("floor-before-accept"):
            return False
        self._held.append(_Held(standing.now + standing.promise_ns, node, message))
        return True

    def released(self) -> list[tuple[int, Append | InstallSnapshot]]:
        """Return what need not be held any more; what was held for P counts as lost."""
        if not self._held:
            return []
        standing, floor = self._standing, self._standing.page().floor
        ready = [(held.node, held.message) for held in self._held if held.message.ballot <= floor]
        waiting = [held for held in self._held if held.message.ballot > floor]
        self._held = deque((held for held in waiting if standing.now < held.until), _HELD_MAX)
        for held in self._held:
            self._tell_guard(held.message.ballot)
        return ready

    def _tell_guard(self, ballot: Ballot) -> None:
        standing = self._standing
        if ballot > max(standing.page().floor, self._followed):
            self._followed = ballot
            standing.outbox.ask(Follow(ballot))

    def deadline(self) -> int:
        """Return when to look at the page again."""
        return self._standing.now + _LOOK_AGAIN_NS if self._held else NEVER

    def follow(self, ballot: Ballot) -> None:
        """Take ``ballot`` for elected: the own promise first, then everybody else."""
        standing = self._standing
        if ballot > standing.promised:
            standing.promise(ballot)
        if ballot != standing.leader:
            standing.leader = ballot
            standing.signals.append(LeaderSeen(ballot=ballot))

    def append(self, node: int, message: Append) -> None:
        """Take in entries of a ballot that was admitted and is followed."""
        standing, log = self._standing, self._standing.log
        standing.named_commit = max(standing.named_commit, message.commit)
        previous = message.previous
        end = previous.index + len(message.entries)
        known = log.ballot_at(previous.index)
        if previous.index >= log.base.index and known != previous.ballot:
            check(previous.index > standing.commit, f"{previous} contradicts what is committed")
            hint = max(log.divergence(previous), standing.commit)
            standing.send(node, Gap(ballot=message.ballot, hint=hint))
            return
        standing.merge(message.entries)
        standing.advance(min(message.commit, end))
        if message.quiet:
            return
        # A leader holds every committed entry, so what is committed here is equal there.
        match = max(end, standing.commit)
        reply = Appended(ballot=message.ballot, match=match, storage=standing.me.storage)
        standing.send(node, reply, standing.outbox.position)

    def install(self, node: int, message: InstallSnapshot) -> None:
        """Take in a chunk of the leader's snapshot; store the whole once it is complete."""
        standing = self._standing
        if (
            message.last.index <= standing.commit
            or standing.log.ballot_at(message.last.index) == message.last.ballot
        ):
            standing.advance(message.last.index)
            self._confirm(node, message, received=0, installed=True)
            return
        transfer = (message.ballot, message.last)
        if transfer != self._incoming or message.offset == 0:
            self._incoming = transfer
            self._chunks = bytearray()
        if message.offset == len(self._chunks):
            self._chunks += message.data
            if message.done:
                standing.restore(self._complete(message))
                self._confirm(node, message, received=0, installed=True)
                return
        self._confirm(node, message, received=len(self._chunks), installed=False)

    def _complete(self, message: InstallSnapshot) -> Snapshot:
        data, self._chunks = bytes(self._chunks), bytearray()
        self._incoming = (NO_BALLOT, NO_KEY)
        try:
            snapshot = msgspec.msgpack.decode(data, type=Snapshot)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"snapshot {message.last} is unreadable: {error}") from error
        if snapshot.last != message.last:
            raise ProtocolError(f"snapshot {snapshot.last} came as {message.last}")
        if hashlib.sha256(snapshot.state).hexdigest() != snapshot.state_hash:
            raise ProtocolError(f"snapshot {message.last} does not match its hash")
        return snapshot

    def _confirm(
        self, node: int, message: InstallSnapshot, *, received: int, installed: bool
    ) -> None:
        standing = self._standing
        reply = SnapshotInstalled(
            ballot=message.ballot,
            last=message.last,
            received=received,
            installed=installed,
            storage=standing.me.storage,
        )
        standing.send(node, reply, standing.outbox.position)
