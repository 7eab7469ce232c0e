"""Segments: the files that hold the log, and the ring of marks inside each.

Layout of ``quolog.<sequence>``, all of it allocated and zeroed before it gets its name::

    0      header page: who it belongs to and what was true at its beginning; written once
    4096   ring of 8 marks, a sector each: how far the log was durable, and its chain there
    8192   records

A mark is written after each successful sync and becomes durable with the next one, so it costs no
sync of its own. It is the second witness of what was durable: a bad record below the newest mark
did not tear, it rotted.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import msgspec
from google_crc32c import extend as crc32c_extend

from leitwolf.model.errors import check
from leitwolf.model.log import WitnessRecord
from leitwolf.ports.files import SECTOR_BYTES, File
from leitwolf.store.identity import StoreIdentity
from leitwolf.store.record import CHAIN_BYTES
from leitwolf.wire.ballot import Ballot, Key
from leitwolf.wire.lineage import Lineage

__all__ = [
    "DATA_OFFSET",
    "SEALED",
    "SPARE_NAME",
    "Mark",
    "Segment",
    "SegmentHeader",
    "SnapshotReference",
    "newest_mark",
    "pack_header",
    "pack_mark",
    "read_header",
    "segment_name",
    "sequence_of",
    "unpack_header",
]

SPARE_NAME = "quolog.spare"
RING_OFFSET = 4096
RING_SLOTS = 8
DATA_OFFSET = RING_OFFSET + RING_SLOTS * SECTOR_BYTES
SEALED = 0

_PREFIX = "quolog."
_DIGITS = 10
_HEADER_MAGIC = b"LWQUOLG1"
_HEADER_START = struct.Struct("<8sII")
_MARK_MAGIC = 0x4B52414D
_MARK = struct.Struct(f"<IQQQ{CHAIN_BYTES}s")
_CHECKSUM = struct.Struct("<I")


class SnapshotReference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which file holds a snapshot; the log names it, so no other file can take its place."""

    last: Key
    name: str
    digest: bytes
    """SHA-256 of the file."""
    reset: bool
    """The log before it is void (installed from the leader)."""


class SegmentHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was true when the segment began."""

    sequence: int
    size: int
    identity: StoreIdentity
    position: int
    """Of the last record before this segment."""
    chain: bytes
    promised: Ballot
    commit: int
    last_index: int
    """Index of the last entry before this segment."""
    snapshots: tuple[SnapshotReference, ...]
    """The two newest snapshots, oldest first."""
    witnesses: tuple[WitnessRecord, ...] = ()
    """What this node knows to stand on the disks and witnesses that it used last."""
    replay_from: int
    """Sequence of the segment at which a restart begins to read."""
    lineage: Lineage = ()
    """History that the storage was forced into."""


class Segment(NamedTuple):
    """A segment in the folder."""

    path: Path
    header: SegmentHeader


class Mark(NamedTuple):
    """How far the log was durable."""

    serial: int
    """Counts the marks of a segment; chooses the slot."""
    position: int
    end: int
    """Offset in this segment at which the next batch begins; SEALED: in the next segment."""
    chain: bytes


def segment_name(sequence: int) -> str:
    """Return the file name of a segment."""
    return f"{_PREFIX}{sequence:0{_DIGITS}d}"


def sequence_of(name: str) -> int | None:
    """Return the sequence number in a file name, None if it is no segment's."""
    digits = name.removeprefix(_PREFIX)
    if digits == name or len(digits) != _DIGITS or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits)


def pack_header(header: SegmentHeader) -> bytes:
    """Return the header page."""
    body = msgspec.msgpack.encode(header)
    start = _HEADER_START.pack(_HEADER_MAGIC, len(body), crc32c_extend(0, body))
    check(len(start) + len(body) <= RING_OFFSET, "segment header is longer than its page")
    return (start + body).ljust(RING_OFFSET, b"\0")


def unpack_header(data: bytes) -> SegmentHeader | None:
    """Return the header in a header page, None when it is damaged or none."""
    if len(data) < RING_OFFSET:
        return None
    magic, length, crc = _HEADER_START.unpack_from(data)
    end = _HEADER_START.size + length
    if magic != _HEADER_MAGIC or end > RING_OFFSET:
        return None
    body = data[_HEADER_START.size : end]
    if crc32c_extend(0, body) != crc:
        return None
    try:
        return msgspec.msgpack.decode(body, type=SegmentHeader)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def pack_mark(mark: Mark) -> tuple[int, bytes]:
    """Return offset and bytes of a mark."""
    body = _MARK.pack(_MARK_MAGIC, *mark)
    data = body + _CHECKSUM.pack(crc32c_extend(0, body))
    return RING_OFFSET + mark.serial % RING_SLOTS * SECTOR_BYTES, data.ljust(SECTOR_BYTES, b"\0")


def newest_mark(data: bytes) -> Mark | None:
    """Return the mark with the highest serial in a segment's ring, None if there is none."""
    marks = []
    for slot in range(RING_SLOTS):
        offset = RING_OFFSET + slot * SECTOR_BYTES
        body = data[offset : offset + _MARK.size]
        crc = data[offset + _MARK.size : offset + _MARK.size + _CHECKSUM.size]
        if len(crc) < _CHECKSUM.size or _CHECKSUM.pack(crc32c_extend(0, body)) != crc:
            continue
        magic, *values = _MARK.unpack(body)
        if magic == _MARK_MAGIC:
            marks.append(Mark(*values))
    return max(marks, default=None)


def read_header(file: File) -> SegmentHeader | None:
    """Return the header of an open segment, None when it is damaged."""
    return unpack_header(file.read(0, RING_OFFSET))
