"""The order of effects: persist, sync, then send, then apply, then acknowledge.

Rules:

- Records and snapshots reach the disk in the order of their positions. One sync covers everything
  that is queued when it begins (group commit); one batch at a time is under way.
- What names a position ``after`` leaves when the log is durable up to it, not earlier. What waits
  leaves in the order of its positions, and in the order of submission among equal ones.
- Of one step: messages, guard commands and calls of passive acceptors first, then applied entries,
  then orders to the host, then replies.
- A write that failed ends everything: nothing that waits leaves any more (A2), and the executor
  refuses to go on.

Theory of operation: pure ordering without I/O. The driver calls :meth:`Executor.submit` with the
effects of a step, writes and syncs what :meth:`Executor.next_batch` returns, calls
:meth:`Executor.synced`, and then steps the core with :class:`Durable`. ``ports`` does the rest at
once; its calls must not block and must not call back into the executor.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from typing import Protocol

import msgspec

from leitwolf.core.effects import (
    Applied,
    AskGuard,
    CallWitness,
    Effect,
    OrderHost,
    PeerMessage,
    Reply,
    SaveSnapshot,
    Send,
    Write,
)
from leitwolf.model.commands import Answer
from leitwolf.model.errors import check
from leitwolf.model.log import Entry, Record
from leitwolf.model.observations import HostOrder
from leitwolf.wire.guard import GuardCommand

__all__ = ["Batch", "Executor", "Outlets"]


_Outgoing = Send | AskGuard | CallWitness


class Outlets(Protocol):
    """Where effects go that are not writes; every call returns at once."""

    def send(self, node: int, message: PeerMessage) -> None:
        """Send to a node's daemon; dropped when no stream is up."""

    def ask_guard(self, command: GuardCommand) -> None:
        """Tell the own guard; dropped when there is none."""

    def call_witness(self, call: CallWitness) -> None:
        """Begin a call of a passive acceptor; its end comes back as an event."""

    def applied(self, entries: tuple[Entry, ...]) -> None:
        """Publish committed entries."""

    def order_host(self, order: HostOrder) -> None:
        """Tell the resource host; dropped when there is none."""

    def reply(self, request: int, answer: Answer) -> None:
        """Answer a request."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """To be written and synced as one: records, or one snapshot."""

    position: int
    """The log is durable up to here when the batch is."""
    records: tuple[Record, ...] = ()
    snapshot: SaveSnapshot | None = None


class Executor:
    """Orders the effects of the core of one node."""

    def __init__(self, outlets: Outlets) -> None:
        self._outlets = outlets
        self._queue: deque[Write | SaveSnapshot] = deque()
        self._waiting: list[tuple[int, int, _Outgoing]] = []
        self._serial = 0
        self._submitted = 0
        self._under_way = 0
        self._failed = False
        self.durable = 0
        """Position up to which the log is durable."""

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, under way or waiting."""
        return not (self._queue or self._under_way or self._waiting)

    @property
    def writing(self) -> bool:
        """Whether a batch is under way."""
        return self._under_way != 0

    def submit(self, effects: Iterable[Effect]) -> None:
        """Take the effects of one step: queue its writes, do what may be done now, in order.

        Raises:
            InvariantError: a write failed before, or positions do not follow each other.
        """
        check(not self._failed, "a write failed: nothing is executed any more")
        later: list[Applied | OrderHost | Reply] = []
        ready: list[_Outgoing] = []
        for effect in effects:
            match effect:
                case Write() | SaveSnapshot():
                    check(
                        effect.position == self._submitted + 1,
                        f"write {effect.position} behind {self._submitted}",
                    )
                    self._submitted = effect.position
                    self._queue.append(effect)
                case Send() | AskGuard() | CallWitness():
                    ready.append(effect)
                case _:
                    later.append(effect)
        for effect in ready:
            self._release_or_wait(effect)
        for kind in (Applied, OrderHost, Reply):
            for item in later:
                if isinstance(item, kind):
                    self._finish(item)

    def next_batch(self) -> Batch | None:
        """Return what to write and sync next; None while a batch is under way or nothing waits."""
        check(not self._failed, "a write failed: nothing is written any more")
        if self._under_way or not self._queue:
            return None
        first = self._queue.popleft()
        if isinstance(first, SaveSnapshot):
            self._under_way = first.position
            return Batch(position=first.position, snapshot=first)
        records = list(first.records)
        position = first.position
        while self._queue and isinstance(self._queue[0], Write):
            position = self._queue[0].position
            records.extend(self._queue[0].records)
            self._queue.popleft()
        self._under_way = position
        return Batch(position=position, records=tuple(records))

    def synced(self, position: int) -> None:
        """Note that the batch up to ``position`` is durable, and let go what waited for it.

        Raises:
            InvariantError: no such batch is under way, or a write failed before.
        """
        check(not self._failed, "a write failed: nothing becomes durable any more")
        check(position == self._under_way, f"synced {position}, under way {self._under_way}")
        self._under_way = 0
        self.durable = position
        while self._waiting and self._waiting[0][0] <= position:
            self._emit(heapq.heappop(self._waiting)[2])

    def failed(self) -> None:
        """Note that a write or sync failed: whatever waits never leaves; every later call raises.

        The caller lets its error end the process; a sync is never retried.
        """
        self._failed = True

    def _release_or_wait(self, effect: _Outgoing) -> None:
        check(effect.after <= self._submitted, f"waits for {effect.after}, never written")
        if effect.after <= self.durable:
            self._emit(effect)
            return
        self._serial += 1
        heapq.heappush(self._waiting, (effect.after, self._serial, effect))

    def _emit(self, effect: _Outgoing) -> None:
        match effect:
            case Send():
                self._outlets.send(effect.node, effect.message)
            case AskGuard():
                self._outlets.ask_guard(effect.command)
            case CallWitness():
                self._outlets.call_witness(effect)

    def _finish(self, effect: Applied | OrderHost | Reply) -> None:
        match effect:
            case Applied():
                self._outlets.applied(effect.entries)
            case OrderHost():
                self._outlets.order_host(effect.order)
            case Reply():
                self._outlets.reply(effect.id, effect.answer)
