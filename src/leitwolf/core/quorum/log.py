"""The log in memory: entries behind a base, and the configurations that they bring into force.

Theory of operation: the log is a base (the key of an entry that a snapshot covers) and the entries
behind it, without gaps. After a snapshot some covered entries stay (``ENTRIES_RETAINED``), so that
a node which is only a little behind gets entries instead of a snapshot. Every entry with a
configuration puts it in force from the moment that it is appended; truncation brings the former one
back.
"""

from __future__ import annotations

from collections.abc import Iterable

from leitwolf.model.errors import check
from leitwolf.model.limits import ENTRIES_RETAINED
from leitwolf.model.log import Entry, Loaded, Snapshot
from leitwolf.model.quorum import QuorumConfig
from leitwolf.wire.ballot import NO_KEY, Ballot, Key

__all__ = ["Log"]

_ENTRY_OVERHEAD_BYTES = 64
"""Index, ballot and framing of an entry; a configuration is small and rare."""


class Log:
    """Entries ``base.index + 1 .. last.index``."""

    def __init__(self, loaded: Loaded, config: QuorumConfig) -> None:
        """Take over what the store holds; ``config`` is in force where nothing else says so."""
        self.snapshot: Snapshot | None = None
        self.last = NO_KEY
        """Key of the last entry; of the base while there is none."""
        self._base = NO_KEY
        self._entries: list[Entry] = []
        self._configs: list[tuple[int, QuorumConfig]] = [(0, config)]
        if loaded.snapshot is not None:
            self.reset(loaded.snapshot)
        for entry in loaded.entries:
            self.append(entry)

    @property
    def base(self) -> Key:
        """Key of the entry before the first one held."""
        return self._base

    @property
    def config(self) -> QuorumConfig:
        """Configuration of the last entry that has one."""
        return self._configs[-1][1]

    @property
    def config_index(self) -> int:
        """Index of the entry that put :attr:`config` in force (or of the base)."""
        return self._configs[-1][0]

    def config_at(self, index: int) -> QuorumConfig:
        """Return the configuration in force when the log ended at ``index``."""
        for at, config in reversed(self._configs):
            if at <= index:
                return config
        return self._configs[0][1]

    def ballot_at(self, index: int) -> Ballot | None:
        """Return the ballot of the entry (or base) at ``index``; None when it is not held."""
        if index == self._base.index:
            return self._base.ballot
        if self._base.index < index <= self.last.index:
            return self._entries[index - self._base.index - 1].ballot
        return None

    def key_at(self, index: int) -> Key:
        """Return the key at ``index``, which must be held."""
        ballot = self.ballot_at(index)
        check(ballot is not None, f"index {index} is not in the log")
        return Key(ballot or self._base.ballot, index)

    def after(self, index: int) -> tuple[Entry, ...]:
        """Return all entries behind ``index``, which must not lie before the base."""
        check(index >= self._base.index, f"entries behind {index} are compacted")
        return tuple(self._entries[index - self._base.index :])

    def span(self, first: int, last: int) -> tuple[Entry, ...]:
        """Return the entries ``first..last``, all of which must be held."""
        check(first > self._base.index and last <= self.last.index, "span outside of the log")
        start = first - self._base.index - 1
        return tuple(self._entries[start : last - self._base.index])

    def batch(self, first: int, bytes_max: int) -> tuple[Entry, ...]:
        """Return entries from ``first`` on, at least one if there is one, up to ``bytes_max``."""
        check(first > self._base.index, "batch begins before the log")
        size = 0
        entries: list[Entry] = []
        for at in range(first - self._base.index - 1, len(self._entries)):
            size += len(self._entries[at].payload) + _ENTRY_OVERHEAD_BYTES
            if entries and size > bytes_max:
                break
            entries.append(self._entries[at])
        return tuple(entries)

    def append(self, entry: Entry) -> None:
        """Append an entry; it must continue the log."""
        last = self.last
        check(entry.index == last.index + 1, f"entry {entry.index} behind {last.index}")
        check(entry.ballot >= last.ballot, f"ballot {entry.ballot} behind {last.ballot}")
        self._entries.append(entry)
        self.last = Key(entry.ballot, entry.index)
        if entry.config is not None:
            self._configs.append((entry.index, entry.config))

    def truncate(self, index: int) -> None:
        """Drop all entries from ``index`` on."""
        check(index > self._base.index, "truncation below the base")
        self.last = self.key_at(min(index - 1, self.last.index))
        del self._entries[index - self._base.index - 1 :]
        while len(self._configs) > 1 and self._configs[-1][0] >= index:
            self._configs.pop()

    def divergence(self, previous: Key) -> int:
        """Return the highest index below ``previous`` that may still be equal there.

        An entry of a higher ballot than ``previous`` cannot be in the log that ends with it.
        """
        index = min(previous.index - 1, self.last.index)
        while index > self._base.index:
            ballot = self.ballot_at(index)
            if ballot is not None and ballot <= previous.ballot:
                break
            index -= 1
        return max(index, self._base.index)

    def compact(self, snapshot: Snapshot) -> None:
        """Note an own snapshot and drop entries far behind it."""
        check(
            self.ballot_at(snapshot.last.index) == snapshot.last.ballot,
            f"snapshot {snapshot.last} is not of this log",
        )
        self.snapshot = snapshot
        keep_from = snapshot.last.index - ENTRIES_RETAINED
        if keep_from > self._base.index:
            base = self.key_at(keep_from)
            config = self.config_at(keep_from)
            del self._entries[: keep_from - self._base.index]
            self._base = base
            later = [item for item in self._configs if item[0] > keep_from]
            self._configs = [(keep_from, config), *later]

    def reset(self, snapshot: Snapshot) -> None:
        """Begin anew behind a snapshot of the leader (or of the store)."""
        self.snapshot = snapshot
        self._base = self.last = snapshot.last
        self._entries.clear()
        self._configs = [(snapshot.last.index, snapshot.config)]

    def extend(self, entries: Iterable[Entry]) -> None:
        """Append several entries."""
        for entry in entries:
            self.append(entry)
