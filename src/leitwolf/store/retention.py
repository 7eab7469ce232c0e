"""Which segments a restart needs, and how many more are kept as history."""

from __future__ import annotations

from collections.abc import Sequence

from leitwolf.ports.files import FileSystem
from leitwolf.store.head import Head
from leitwolf.store.segment import Segment
from leitwolf.store.sizes import StoreSizes

__all__ = ["drop_history", "is_expendable", "replay_start"]


def replay_start(segments: Sequence[Segment], head: Head) -> int:
    """Return the sequence of the segment at which a restart begins to read.

    It is the newest that begins at or before the end of the older of the two snapshots kept, so
    that a damaged newest snapshot can be bridged by entries. What stands there as last entry was
    not live any more in segments before, as nothing that a snapshot covers is ever truncated.
    """
    base = head.snapshots[0].last.index if len(head.snapshots) == 2 else 0
    start = segments[0].header.sequence
    for segment in segments:
        if segment.header.last_index <= base:
            start = segment.header.sequence
    return max(start, _reset_in(segments, head))


def _reset_in(segments: Sequence[Segment], head: Head) -> int:
    """Return the sequence of the segment that holds the oldest snapshot's record, if a reset."""
    if not head.snapshots or not head.snapshots[0].reset:
        return 0
    name = head.snapshots[0].name
    unaware = [
        segment.header.sequence
        for segment in segments
        if name not in {reference.name for reference in segment.header.snapshots}
    ]
    return max(unaware, default=0)


def is_expendable(segments: Sequence[Segment], head: Head) -> bool:
    """Return whether the oldest segment is history only."""
    needed = min(replay_start(segments, head), segments[-1].header.replay_from)
    return segments[0].header.sequence < needed


def drop_history(
    segments: Sequence[Segment], first: int, sizes: StoreSizes, files: FileSystem
) -> int:
    """Return how many of the oldest segments exceed the history's limits of size and age.

    Ages are compared between files, so the wall clock's present value is of no consequence.
    """
    old = [segment for segment in segments if segment.header.sequence < first]
    excess = sum(segment.header.size for segment in old) - sizes.history_bytes
    newest = files.modified_ns(segments[-1].path)
    count = 0
    for segment in old:
        age = newest - files.modified_ns(segment.path)
        if excess <= 0 and age <= sizes.history_age_ns:
            break
        excess -= segment.header.size
        count += 1
    return count
