"""The quorum log of a simulated node: what is written, what is durable, what a crash leaves.

The real store has its own crash tests; here its contract is modelled: records written in order
become durable in order, a crash keeps any prefix of what was not yet durable.
"""

from __future__ import annotations

from leitwolf.model.log import (
    CommitRecord,
    Entry,
    EntryRecord,
    ForcedRecord,
    Loaded,
    PromisedRecord,
    Record,
    Snapshot,
    TruncateRecord,
    WitnessRecord,
)
from leitwolf.sim.entropy import Entropy
from leitwolf.wire.ballot import NO_BALLOT, Ballot
from leitwolf.wire.lineage import Lineage

__all__ = ["Storage"]


class Storage:
    """One log, of one storage uuid."""

    def __init__(self, name: str, loaded: Loaded | None = None) -> None:
        """Begin empty, or with what forming the cluster wrote."""
        self.name = name
        self._promised = NO_BALLOT
        self._snapshot: Snapshot | None = None
        self._entries: dict[int, Entry] = {}
        self._commit = 0
        self._witnesses: dict[str, WitnessRecord] = {}
        self._lineage: Lineage = ()
        self._unsynced: list[Record] = []
        if loaded is not None:
            self._promised, self._snapshot = loaded.promised, loaded.snapshot
            self._entries = {entry.index: entry for entry in loaded.entries}
            self._commit = loaded.commit

    @property
    def promised(self) -> Ballot:
        """Highest ballot that is promised durably."""
        return self._promised

    def holds(self, entry: Entry) -> bool:
        """Return whether ``entry`` is durable, by itself or in the snapshot that covers it."""
        if self._snapshot is not None and entry.index <= self._snapshot.last.index:
            return True
        have = self._entries.get(entry.index)
        return have is not None and have.ballot == entry.ballot

    def write(self, records: tuple[Record, ...]) -> None:
        """Hand records to the disk; they may or may not survive a crash from now on."""
        self._unsynced.extend(records)

    def sync(self) -> None:
        """Everything written is durable from now on."""
        for record in self._unsynced:
            self._apply(record)
        self._unsynced.clear()

    def save_snapshot(self, snapshot: Snapshot, *, reset: bool) -> None:
        """Store a snapshot durably, at once, and drop what it covers."""
        self.sync()
        self._snapshot = snapshot
        if reset:
            self._entries.clear()
        for index in [index for index in self._entries if index <= snapshot.last.index]:
            del self._entries[index]
        self._commit = max(self._commit, snapshot.last.index)

    def crash(self, entropy: Entropy) -> None:
        """Lose what was not durable, but for a prefix that happened to reach the disk."""
        kept = entropy.between(0, len(self._unsynced))
        for record in self._unsynced[:kept]:
            self._apply(record)
        self._unsynced.clear()

    def load(self) -> Loaded:
        """Return what a daemon finds when it starts."""
        base = self._snapshot.last.index if self._snapshot else 0
        entries: list[Entry] = []
        index = base + 1
        while index in self._entries:
            entries.append(self._entries[index])
            index += 1
        return Loaded(
            promised=self._promised,
            snapshot=self._snapshot,
            entries=tuple(entries),
            commit=min(self._commit, index - 1),
            witnesses=tuple(self._witnesses.values()),
            lineage=self._lineage,
        )

    def _apply(self, record: Record) -> None:
        match record:
            case PromisedRecord():
                self._promised = max(self._promised, record.ballot)
            case EntryRecord():
                self._entries[record.entry.index] = record.entry
            case TruncateRecord():
                for index in [index for index in self._entries if index >= record.index]:
                    del self._entries[index]
            case CommitRecord():
                self._commit = max(self._commit, record.index)
            case WitnessRecord():
                self._witnesses[record.storage] = record
            case ForcedRecord():
                self._promised, self._lineage = record.ballot, record.lineage
