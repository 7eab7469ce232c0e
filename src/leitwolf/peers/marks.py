"""Memory of what other nodes' storages promised, against copies restored from the past.

A storage that comes back with less than it once showed has forgotten promises: it could vote twice.
It is locked out for good, since what it forgot cannot be found again; the node joins anew with a
new storage.

What is compared. A promised ballot never sinks. The last entry sinks only when a leader of a higher
ballot truncates it, so under an unchanged promise it may not sink below an entry of that promise.
Committed entries that a storage acknowledged are never truncated at all.

What this does not guarantee. The marks live in memory: a copy is not noticed by nodes that all
restarted since.
"""

from __future__ import annotations

from dataclasses import dataclass

from leitwolf.peers.frames import Code, Hello, Rejection
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY, Ballot, Key

__all__ = ["Marks"]


@dataclass(slots=True)
class _Mark:
    promised: Ballot = NO_BALLOT
    last: Key = NO_KEY
    chain: bytes = b""
    held: int = 0


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
        if last > mark.last:
            mark.last, mark.chain = last, b""

    def examine(self, hello: Hello) -> Rejection | None:
        """Return why this hello cannot be of a storage that kept its promises; else note it."""
        mark = self._marks.setdefault(hello.storage, _Mark())
        if hello.storage in self._locked or self._rolled_back(hello, mark):
            self._locked.add(hello.storage)
            return Rejection(
                code=Code.STATE_ROLLED_BACK,
                text=(
                    f"the state of node {hello.node} is older than it was: it promised ballot"
                    f" {mark.promised} and held entry {mark.last.index}, now it shows ballot"
                    f" {hello.promised} and entry {hello.last.index}"
                ),
                hint="its state directory was restored from a copy: evict the node and join again",
            )
        mark.promised = max(mark.promised, hello.promised)
        mark.last, mark.chain = hello.last, hello.chain
        return None

    def forget(self, storages_kept: set[str]) -> None:
        """Forget all storages but these (those in the log)."""
        self._marks = {name: mark for name, mark in self._marks.items() if name in storages_kept}
        self._locked &= storages_kept

    @staticmethod
    def _rolled_back(hello: Hello, mark: _Mark) -> bool:
        if hello.promised < mark.promised or hello.last.index < mark.held:
            return True
        if hello.last == mark.last:
            return bool(mark.chain) and hello.chain != mark.chain
        return hello.last < mark.last and mark.last.ballot >= hello.promised
