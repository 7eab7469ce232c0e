"""Effects of a step in their order, and which log position makes what durable.

All records of one step go into one :class:`Write` (unless a snapshot comes between), at the place
of the first of them; so a step that proposes many entries costs one write.
"""

from __future__ import annotations

from collections import deque

from leitwolf.core.effects import AskGuard, CallWitness, Effect, SaveSnapshot, Send, Write
from leitwolf.core.messages import QuorumMessage
from leitwolf.model.errors import check
from leitwolf.model.log import Record, Snapshot
from leitwolf.model.quorum import AcceptorId
from leitwolf.ports.witness import WitnessCall
from leitwolf.wire.guard import GuardCommand

__all__ = ["Outbox"]


class Outbox:
    """Collects effects; counts positions from 1, what was loaded is position 0."""

    def __init__(self, last_index: int) -> None:
        self.position = 0
        """Newest position given to a write."""
        self.durable_position = 0
        self.durable_index = last_index
        """Entries up to here are durable here, unless truncated since."""
        self._effects: list[Effect] = []
        self._records: list[Record] = []
        self._write_at = 0
        self._marks: deque[tuple[int, int]] = deque()

    @property
    def writing(self) -> bool:
        """Whether this step writes anything to the log."""
        return bool(self._records)

    def record(self, *records: Record) -> int:
        """Add records to the write of this step and return its position."""
        if not self._records:
            self.position += 1
            self._write_at = len(self._effects)
        self._records.extend(records)
        return self.position

    def truncated(self, index: int) -> None:
        """Note that entries from ``index`` on are void: their durability does not count."""
        self.durable_index = min(self.durable_index, index - 1)
        self._marks = deque((position, min(last, index - 1)) for position, last in self._marks)

    def save(self, snapshot: Snapshot, last_index: int, *, reset: bool) -> int:
        """Store a snapshot behind everything written so far and return its position.

        Args:
            snapshot: to be stored.
            last_index: last index of the log before (no reset), or of the snapshot (reset).
            reset: the log before it is void.
        """
        self._close(last_index)
        self.position += 1
        if reset:
            self.durable_index = 0
            self._marks.clear()
            self._marks.append((self.position, last_index))
        self._effects.append(SaveSnapshot(position=self.position, snapshot=snapshot, reset=reset))
        return self.position

    def send(self, node: int, message: QuorumMessage, after: int = 0) -> None:
        """Send a message once the log is durable up to ``after``."""
        self._effects.append(Send(node=node, message=message, after=after))

    def call(self, acceptor: AcceptorId, serial: int, call: WitnessCall, after: int) -> None:
        """Call a passive acceptor once the log is durable up to ``after``."""
        effect = CallWitness(acceptor=acceptor, serial=serial, call=call, after=after)
        self._effects.append(effect)

    def ask(self, command: GuardCommand) -> None:
        """Tell the guard something at once."""
        self._effects.append(AskGuard(command=command))

    def take(self, last_index: int) -> list[Effect]:
        """Return the effects so far; ``last_index`` is the last index of the log now."""
        self._close(last_index)
        effects, self._effects = self._effects, []
        return effects

    def durable(self, position: int) -> None:
        """Note that the log is durable up to ``position``."""
        check(position <= self.position, f"durable {position} of {self.position} writes")
        self.durable_position = max(self.durable_position, position)
        while self._marks and self._marks[0][0] <= position:
            self.durable_index = self._marks.popleft()[1]

    def _close(self, last_index: int) -> None:
        if self._records:
            write = Write(position=self.position, records=tuple(self._records))
            self._effects.insert(self._write_at, write)
            self._marks.append((self.position, last_index))
            self._records = []
