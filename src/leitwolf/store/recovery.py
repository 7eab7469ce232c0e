"""Reading a log after a start: what is durable, what was torn, what has rotted.

Rules
    - Every record up to the last durable one is read back, or the log is refused as a whole.
    - A record that cannot be read is *rotten* when something says that it was durable: a mark in
      its segment's ring, a later record's ``synced``, or a later segment. Else it is *torn*: nobody
      was told of it, and it is cut together with everything behind it.
    - Nothing is changed here; :class:`leitwolf.store.log.QuorumLog` changes the tail.

What this does not guarantee: when power fails within the moments between a sync and the next
write-back of its mark, and the disk then loses exactly the last synced batch, that looks torn.
Peers notice it: they remember the chain that was acknowledged (``QuorumLog.remembers``).
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import NamedTuple

from leitwolf.model.errors import LogCorrupt
from leitwolf.model.log import Entry, Snapshot
from leitwolf.ports.files import File, FileSystem
from leitwolf.store.head import Contradiction, Head
from leitwolf.store.identity import StoreIdentity, same_identity
from leitwolf.store.record import (
    Kind,
    StoredRecord,
    decode_entry,
    find_records,
    next_sector,
    scan,
    seed_of,
)
from leitwolf.store.segment import (
    DATA_OFFSET,
    SEALED,
    Segment,
    newest_mark,
    read_header,
    segment_name,
    sequence_of,
)
from leitwolf.store.snapshots import read_snapshot

__all__ = ["Damage", "DamagedLog", "Recovery", "Tail", "find_segments", "read_whole", "recover"]

_PAGE_BYTES = 4096
_HINT = (
    "Set this log aside (it is kept in quarantine/) and let the node fetch it anew from its "
    "peers: they hold every committed entry. Until then this node must not vote."
)


class Damage(NamedTuple):
    """Where a log is damaged, and what can be read before that."""

    segment: str
    offset: int
    position: int
    """Number of the first record that is unreadable, 0: not known."""
    last_index: int
    """Last entry that is readable."""


class DamagedLog(LogCorrupt):
    """:class:`LogCorrupt` with the place of the damage."""

    def __init__(self, text: str, damage: Damage) -> None:
        super().__init__(text, hint=_HINT)
        self.damage = damage


class Tail(NamedTuple):
    """What must be written again at the end of the newest segment before the log is used."""

    offset: int
    """End of what the newest mark vouches for."""
    content: bytes
    """Records behind it that are good, and zeros over what is cut."""
    end: int
    """Where the next batch begins."""
    cut: int
    """Bytes of unfinished writes that are cut."""
    mark_serial: int
    """Of the next mark."""


class Recovery(NamedTuple):
    """A log as it was read."""

    head: Head
    snapshot: Snapshot | None
    entries: tuple[Entry, ...]
    segments: tuple[Segment, ...]
    tail: Tail
    notes: tuple[str, ...]


def find_segments(
    directory: Path, identity: StoreIdentity, files: FileSystem
) -> tuple[Segment, ...]:
    """Return the segments up to the newest without a gap, oldest first.

    Older ones before a gap or a damaged header are history that cannot be reached any more.

    Raises:
        DamagedLog: a header is unreadable, or there is no segment at all.
        StorageError: a segment belongs to somebody else.
    """
    found: list[Segment] = []
    numbers = [number for name in files.names(directory) if (number := sequence_of(name))]
    for number in sorted(numbers, reverse=True):
        if found and number != found[-1].header.sequence - 1:
            break
        path = directory / segment_name(number)
        file = files.open(path, write=False)
        try:
            header, size = read_header(file), file.size()
        finally:
            file.close()
        if header is None or header.sequence != number or header.size != size:
            if found and number < found[0].header.replay_from:
                break  # damaged history stops nobody
            damage = Damage(path.name, 0, 0, 0)
            raise DamagedLog(f"The header of {path} is unreadable, or its length wrong.", damage)
        same_identity(directory, header.identity, identity)
        found.append(Segment(path, header))
    if not found:
        damage = Damage(segment_name(1), 0, 1, 0)
        raise DamagedLog(f"All segments of the log in {directory} are missing.", damage)
    return tuple(reversed(found))


def read_whole(file: File) -> bytes:
    """Return the content of a file; pages that the disk cannot read come as 0xFF."""
    size = file.size()
    try:
        return file.read(0, size)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    parts = []
    for offset in range(0, size, _PAGE_BYTES):
        length = min(_PAGE_BYTES, size - offset)
        try:
            parts.append(file.read(offset, length))
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            parts.append(b"\xff" * length)
    return b"".join(parts)


class _Reader:
    """Replays segments and keeps the entries that are live."""

    def __init__(self, start: Segment) -> None:
        self.head = Head.at(start.header)
        self.first = self.head.last_index + 1
        self.live: list[StoredRecord] = []

    def take(self, record: StoredRecord) -> None:
        self.head.take(record.kind, record.ballot, record.entry_index, record.payload)
        self.head.position, self.head.chain = record.position, record.chain
        if record.kind is Kind.ENTRY:
            self.live.append(record)
        elif record.kind is Kind.TRUNCATE:
            self.first = min(self.first, record.entry_index)  # below: all that was read is void
            del self.live[record.entry_index - self.first :]
        elif record.kind is Kind.SNAPSHOT and self.head.snapshots[-1].reset:
            self.live.clear()
            self.first = self.head.last_index + 1


def recover(directory: Path, identity: StoreIdentity, files: FileSystem) -> Recovery:
    """Read a log.

    Raises:
        DamagedLog: a record that was durable is unreadable.
        StorageError: ``foreign-storage``.
        OSError: it cannot be read now.
    """
    segments = find_segments(directory, identity, files)
    newest = segments[-1].header
    run = [segment for segment in segments if segment.header.sequence >= newest.replay_from]
    if run[0].header.sequence != newest.replay_from:
        missing = segment_name(newest.replay_from)
        damage = Damage(missing, 0, 0, 0)
        raise DamagedLog(f"Segment {directory / missing} is missing.", damage)
    reader = _Reader(run[0])
    data, seed = b"", seed_of(identity.storage)
    previous, end = run[0], DATA_OFFSET
    for segment in run:
        header = segment.header
        if (header.position, header.chain) != (reader.head.position, reader.head.chain):
            raise _rotten(reader, previous, end, "a later segment goes on behind it")
        file = files.open(segment.path, write=False)
        try:
            data = read_whole(file)
        finally:
            file.close()
        previous, end = segment, _replay(reader, segment, data, seed)
    tail = _tail(reader, run[-1], data, end, seed)
    snapshot, notes = _snapshot(directory, reader, run[-1], files)
    if tail.cut:
        notes = (*notes, f"cut {tail.cut} bytes of an unfinished write")
    return Recovery(
        reader.head, snapshot, _entries(reader, snapshot, run[-1]), segments, tail, notes
    )


def _replay(reader: _Reader, segment: Segment, data: bytes, seed: int) -> int:
    """Take the records of a segment and return the offset behind the last one."""
    end = DATA_OFFSET
    head = reader.head
    for record in scan(data, DATA_OFFSET, head.position, head.chain, seed):
        try:
            reader.take(record)
        except Contradiction as error:
            damage = Damage(segment.path.name, record.offset, record.position, head.last_index)
            raise DamagedLog(
                f"Record {record.position} in {segment.path} contradicts the ones before: {error}.",
                damage,
            ) from error
        end = record.end
    return end


def _tail(reader: _Reader, segment: Segment, data: bytes, end: int, seed: int) -> Tail:
    """Decide whether the first record that cannot be read was torn, and what to do about it."""
    bad = reader.head.position + 1
    mark = newest_mark(data)
    if mark is not None and mark.end == SEALED:
        raise _rotten(reader, segment, end, "the segment that goes on behind it is missing")
    if mark is not None and mark.position >= bad:
        raise _rotten(reader, segment, end, f"a mark says so for records up to {mark.position}")
    for record in find_records(data, end, seed):
        if record.synced >= bad:
            raise _rotten(reader, segment, end, f"record {record.position} behind it says so")
    following = next_sector(end)
    start = min(following, DATA_OFFSET if mark is None else mark.end)
    stop = max(following, end + len(data[end:].rstrip(b"\0")))
    content = data[start:end] if start < end else b""
    serial = 0 if mark is None else mark.serial + 1
    return Tail(start, content.ljust(stop - start, b"\0"), following, stop - following, serial)


def _rotten(reader: _Reader, segment: Segment, end: int, proof: str) -> DamagedLog:
    head = reader.head
    bad = head.position + 1
    return DamagedLog(
        f"Record {bad} of the quorum log, in {segment.path} behind offset {end}, was durable "
        f"({proof}) and is unreadable. Readable are the records up to {head.position}: entries up "
        f"to {head.last_index}, promise {head.promised}, committed {head.commit}. "
        "Nothing was changed.",
        Damage(segment.path.name, end, bad, head.last_index),
    )


def _snapshot(
    directory: Path, reader: _Reader, newest: Segment, files: FileSystem
) -> tuple[Snapshot | None, tuple[str, ...]]:
    """Return the newest snapshot, or the one before when that is damaged and entries bridge it."""
    references = reader.head.snapshots
    notes: tuple[str, ...] = ()
    for number, reference in enumerate(reversed(references)):
        snapshot = read_snapshot(directory, reference, files)
        if snapshot is not None:
            return snapshot, notes
        notes = (*notes, f"snapshot {reference.name} is damaged or missing")
        older = references[-2 - number].last.index if number + 2 <= len(references) else 0
        if reference.reset or reader.first > older + 1:
            damage = Damage(reference.name, 0, 0, reader.head.last_index)
            raise DamagedLog(
                f"Snapshot {directory / reference.name} is damaged or missing, and the entries "
                f"from {older + 1} on that it stands for are not in {newest.path} or before.",
                damage,
            )
    return None, notes


def _entries(reader: _Reader, snapshot: Snapshot | None, segment: Segment) -> tuple[Entry, ...]:
    covered = 0 if snapshot is None else snapshot.last.index
    entries = []
    for record in reader.live[max(0, covered + 1 - reader.first) :]:
        entry = decode_entry(record)
        if entry is None:
            raise DamagedLog(
                f"Entry {record.entry_index} (record {record.position}) cannot be decoded.",
                Damage(segment.path.name, 0, record.position, record.entry_index - 1),
            )
        entries.append(entry)
    return tuple(entries)
