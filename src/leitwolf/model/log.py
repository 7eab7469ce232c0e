"""The replicated log as data: entries, what is written on disk, snapshots."""

from __future__ import annotations

import msgspec

from leitwolf.model.quorum import QuorumConfig
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY, Ballot, Key
from leitwolf.wire.lineage import Lineage

__all__ = [
    "CommitRecord",
    "Entry",
    "EntryRecord",
    "ForcedRecord",
    "Loaded",
    "PromisedRecord",
    "Record",
    "Snapshot",
    "TruncateRecord",
    "WitnessRecord",
]


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the log. ``payload`` is an encoded :class:`leitwolf.model.events.Change`.

    ``config`` set: a change of the quorum configuration, in force from the moment that it is
    appended (not committed), as the rules of reconfiguration demand.
    """

    index: int
    ballot: Ballot
    payload: bytes
    config: QuorumConfig | None = None


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class PromisedRecord(_Record, frozen=True, kw_only=True):
    """No ballot below this one is helped any more (R1, R4)."""

    ballot: Ballot


class EntryRecord(_Record, frozen=True, kw_only=True):
    """An entry appended behind the last one."""

    entry: Entry


class TruncateRecord(_Record, frozen=True, kw_only=True):
    """All entries from ``index`` on are void."""

    index: int


class CommitRecord(_Record, frozen=True, kw_only=True):
    """Entries up to ``index`` were known to be committed; a hint, never ahead of the truth."""

    index: int


class WitnessRecord(_Record, frozen=True, kw_only=True):
    """What this node knows to stand on a disk or witness; nothing of it ever sinks there."""

    storage: str
    """UUID of the formatting."""
    sequences: tuple[tuple[int, int], ...] = ()
    """Node and sequence of its block; of an object 0 and its stamp."""
    promised: Ballot = NO_BALLOT
    """Of an object."""
    key: Key = NO_KEY
    """Of an object."""


class ForcedRecord(_Record, frozen=True, kw_only=True):
    """This storage is in the history ``lineage`` from here on: the operator forced it.

    The entry that begins the history may come later, from the node that was forced first. Nothing
    below ``ballot``, the first of its epoch, is helped any more.
    """

    ballot: Ballot
    lineage: Lineage


Record = PromisedRecord | EntryRecord | TruncateRecord | CommitRecord | WitnessRecord | ForcedRecord


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The folded state up to ``last``, instead of the entries up to there."""

    last: Key
    config: QuorumConfig
    """Quorum configuration in force at ``last``."""
    state: bytes
    """Encoded :class:`leitwolf.model.state.State`."""
    state_hash: str
    """SHA-256 of ``state``, hexadecimal."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a log store holds when it is opened."""

    promised: Ballot = NO_BALLOT
    snapshot: Snapshot | None = None
    entries: tuple[Entry, ...] = ()
    """Entries behind the snapshot, without gaps."""
    commit: int = 0
    """Commit hint."""
    witnesses: tuple[WitnessRecord, ...] = ()
    """The newest record of each disk or witness, oldest first."""
    lineage: Lineage = ()
    """History that this storage was forced into; its entry may be missing still."""
