"""Memory of what other nodes' storages promised, against copies restored from the past.

A storage that comes back with less than it once showed has forgotten promises: it could vote twice.
It is locked out for good, since what it forgot cannot be found again; the node joins anew with a
new storage.

What is compared. A promised ballot never sinks. The last entry sinks only when a leader of a higher
ballot truncates it, so under an unchanged promise it may not sink below an entry of that promise.
Committed entries that a storage acknowledged are never truncated at all. The number of records
that a storage wrote only grows; two storages of one name that wrote as many but others are copies
that both went on.

Hellos overtake each other: on two links, or one of a daemon that died meanwhile. So a hello of the
same daemon process as the one before is not compared (a running daemon forgets nothing), and the
lock falls only when one process was refused several times, which no leftover of a dead one is.

What this does not guarantee. The marks live in memory: a copy is not noticed by nodes that all
restarted since.
"""

from __future__ import annotations

from dataclasses import dataclass

from leitwolf.peers.frames import Code, Hello, Rejection
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY, Ballot, Key

__all__ = ["Marks"]


_LOCK_AFTER = 5
"""Refusals of one process until its storage is locked out; above the links of any node."""


@dataclass(slots=True)
class _Mark:
    promised: Ballot = NO_BALLOT
    last: Key = NO_KEY
    position: int = 0
    chain: bytes = b""
    held: int = 0
    session: bytes = b""
    refused_session: bytes = b""
    refused: int = 0


class Marks:
    """The highest that this node saw of every storage."""

    def __init__(self) -> None:
        self._marks: dict[str, _Mark] = {}
        self._locked: set[str] = set()

    def note(self, storage: str, promised: Ballot, last: Key = NO_KEY, held: int = 0) -> None:
        """Remember what a storage durably promised or acknowledged.

        Args:
            storage: uuid.
            promised: ballot that it promised or accepted in.
            last: key of an entry that it acknowledged.
            held: index up to which it acknowledged entries that are committed.
        """
        mark = self._marks.setdefault(storage, _Mark())
        mark.promised = max(mark.promised, promised)
        mark.held = max(mark.held, held)
        mark.last = max(mark.last, last)

    def examine(self, hello: Hello) -> Rejection | None:
        """Return why this hello cannot be of a storage that kept its promises; else note it."""
        mark = self._marks.setdefault(hello.storage, _Mark())
        same_process = bool(hello.session) and hello.session == mark.session
        if hello.storage in self._locked or (not same_process and self._rolled_back(hello, mark)):
            self._count_refusal(hello, mark)
            return Rejection(
                code=Code.STATE_ROLLED_BACK,
                text=(
                    f"the state of node {hello.node} is older than it was: it promised ballot"
                    f" {mark.promised} and held entry {mark.last.index}, now it shows ballot"
                    f" {hello.promised} and entry {hello.last.index}"
                ),
                hint="its state directory was restored from a copy: evict the node and join again",
            )
        mark.session = hello.session
        mark.promised = max(mark.promised, hello.promised)
        mark.last = max(mark.last, hello.last)
        if hello.position >= mark.position:
            mark.position, mark.chain = hello.position, hello.chain
        return None

    def _count_refusal(self, hello: Hello, mark: _Mark) -> None:
        """Lock the storage out when the refused process comes back again and again."""
        if hello.session != mark.refused_session:
            mark.refused_session, mark.refused = hello.session, 0
        mark.refused += 1
        if mark.refused >= _LOCK_AFTER:
            self._locked.add(hello.storage)

    def promised(self, storage: str) -> Ballot:
        """Return the highest ballot that a storage is known to have promised."""
        mark = self._marks.get(storage)
        return mark.promised if mark is not None else NO_BALLOT

    def forget(self, storages_kept: set[str]) -> None:
        """Forget all storages but these (those in the log)."""
        self._marks = {name: mark for name, mark in self._marks.items() if name in storages_kept}
        self._locked &= storages_kept

    @staticmethod
    def _rolled_back(hello: Hello, mark: _Mark) -> bool:
        if hello.promised < mark.promised or hello.last.index < mark.held:
            return True
        if hello.position < mark.position:
            return True
        if hello.position == mark.position and hello.chain != mark.chain:
            return bool(mark.chain)
        return hello.last < mark.last and mark.last.ballot >= hello.promised
