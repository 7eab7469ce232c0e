"""Reading old entries and chains back from the segments, without keeping them in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from leitwolf.model.log import Entry
from leitwolf.ports.files import FileSystem
from leitwolf.store.head import Contradiction, Head
from leitwolf.store.record import Kind, StoredRecord, decode_entry, scan
from leitwolf.store.recovery import read_whole
from leitwolf.store.segment import DATA_OFFSET, Segment

__all__ = ["chain_at", "history"]


def _content(path: Path, files: FileSystem) -> bytes:
    """Return a segment's bytes; none when it was removed in the meantime."""
    try:
        file = files.open(path, write=False)
    except FileNotFoundError:
        return b""
    try:
        return read_whole(file)
    finally:
        file.close()


def chain_at(
    segments: Sequence[Segment], position: int, files: FileSystem, seed: int
) -> bytes | None:
    """Return the chain at ``position``, None when that record is not kept.

    Raises:
        OSError: it cannot be read now.
    """
    for segment in reversed(segments):
        header = segment.header
        if header.position == position:
            return header.chain
        if header.position < position:
            data = _content(segment.path, files)
            for record in scan(data, DATA_OFFSET, header.position, header.chain, seed):
                if record.position == position:
                    return record.chain
            return None
    return None


def history(
    segments: Sequence[Segment], after: int, limit: int, files: FileSystem, seed: int
) -> Iterator[Entry]:
    """Yield up to ``limit`` entries with an index above ``after``.

    An entry is yielded when a later record says that it is committed, or when the log ends.
    """
    pending: deque[StoredRecord] = deque()
    given = 0
    head = Head()
    for segment in _from(segments, after):
        header = segment.header
        if head.position != header.position:  # a truncation may be among what could not be read
            pending.clear()
        head = Head.at(header)
        data = _content(segment.path, files)
        for record in scan(data, DATA_OFFSET, header.position, header.chain, seed):
            try:
                head.take(record.kind, record.ballot, record.entry_index, record.payload)
            except Contradiction:
                break
            head.position = record.position
            _follow(pending, record, head, after)
            while pending and pending[0].entry_index <= head.commit and given < limit:
                after, given = pending[0].entry_index, given + 1
                yield from _decoded(pending.popleft())
            if given >= limit:
                return
    for record in islice(pending, limit - given):
        yield from _decoded(record)


def _from(segments: Sequence[Segment], after: int) -> Sequence[Segment]:
    """Return the segments that can hold entries above ``after``."""
    start = 0
    for number, segment in enumerate(segments):
        if segment.header.last_index <= after:
            start = number
    return segments[start:]


def _follow(pending: deque[StoredRecord], record: StoredRecord, head: Head, after: int) -> None:
    if record.kind is Kind.ENTRY:
        if record.entry_index > after:
            pending.append(record)
    elif record.kind is Kind.TRUNCATE:
        while pending and pending[-1].entry_index >= record.entry_index:
            pending.pop()
    elif record.kind is Kind.SNAPSHOT and head.snapshots[-1].reset:
        pending.clear()


def _decoded(record: StoredRecord) -> Iterator[Entry]:
    entry = decode_entry(record)
    if entry is not None:
        yield entry
