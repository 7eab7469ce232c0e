"""Records of the quorum log: their layout, and the scan that tells torn from rotten.

Layout, little-endian, 68 bytes and the payload::

    crc32c     u32   over everything behind it, seeded with the storage's uuid
    length     u32   of the payload
    position   u64   1, 2, 3 ... over the whole life of the log
    synced     u64   position up to which the log was durable when this record was written
    kind       u8    see Kind
    (zero)     u8, u16
    ballot     u32, u64, u32
    index      u64
    chain      16 bytes: BLAKE2b of the chain before and of all the rest of the record
    payload

A batch (one write) begins on a sector boundary, so that no sector that holds a durable record is
ever written again. ``chain`` proves the sequence: a record that is whole but left over from an
earlier tail does not continue it. ``synced`` is what makes a bad record a torn one or a rotten one:
if anything that was written later claims that the bad record's position was durable, it rotted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple

import msgspec
from google_crc32c import extend as crc32c_extend

from leitwolf.model.errors import check
from leitwolf.model.limits import ENTRY_BYTES_MAX
from leitwolf.model.log import (
    CommitRecord,
    Entry,
    EntryRecord,
    ForcedRecord,
    PromisedRecord,
    Record,
    WitnessRecord,
)
from leitwolf.ports.files import SECTOR_BYTES
from leitwolf.wire.ballot import NO_BALLOT, Ballot

__all__ = [
    "CHAIN_BYTES",
    "HEADER_BYTES",
    "NO_CHAIN",
    "PAYLOAD_BYTES_MAX",
    "Kind",
    "StoredRecord",
    "decode_entry",
    "decode_record",
    "encode_record",
    "fields_of",
    "find_records",
    "next_sector",
    "scan",
    "seed_of",
]

CHAIN_BYTES = 16
NO_CHAIN = bytes(CHAIN_BYTES)
PAYLOAD_BYTES_MAX = 2 * ENTRY_BYTES_MAX
"""An entry, its configuration and the codec's overhead; longer lengths are damage."""

_CHECKSUM = struct.Struct("<I")
_FIXED = struct.Struct("<IQQBBHIQIQ")
_ALL = struct.Struct(f"<IIQQBBHIQIQ{CHAIN_BYTES}s")
HEADER_BYTES = _ALL.size

_encoder = msgspec.msgpack.Encoder()
_entry_decoder = msgspec.msgpack.Decoder(Entry)


class Kind(IntEnum):
    """What a record says."""

    PROMISED = 1
    ENTRY = 2
    TRUNCATE = 3
    SNAPSHOT = 4
    COMMIT = 5
    WITNESS = 6
    FORCED = 7


_KINDS = {int(kind): kind for kind in Kind}


class StoredRecord(NamedTuple):
    """A record as it stands in a segment; ``offset`` to ``end`` are its bytes there."""

    kind: Kind
    position: int
    synced: int
    ballot: Ballot
    entry_index: int
    chain: bytes
    payload: bytes
    offset: int
    end: int


def seed_of(storage: str) -> int:
    """Return the checksum seed of a storage: a record of another one is never whole here."""
    return int(crc32c_extend(0, storage.encode()))


def next_sector(offset: int) -> int:
    """Return the first sector boundary at or after ``offset``."""
    return -(-offset // SECTOR_BYTES) * SECTOR_BYTES


def fields_of(record: Record) -> tuple[Kind, Ballot, int, bytes]:
    """Return kind, ballot, index and payload of a record of the core."""
    if isinstance(record, EntryRecord):
        entry = record.entry
        return Kind.ENTRY, entry.ballot, entry.index, _encoder.encode(entry)
    if isinstance(record, PromisedRecord):
        return Kind.PROMISED, record.ballot, 0, b""
    if isinstance(record, ForcedRecord):
        return Kind.FORCED, record.ballot, 0, _encoder.encode(record.lineage)
    if isinstance(record, CommitRecord):
        return Kind.COMMIT, NO_BALLOT, record.index, b""
    if isinstance(record, WitnessRecord):
        return Kind.WITNESS, NO_BALLOT, 0, _encoder.encode(record)
    return Kind.TRUNCATE, NO_BALLOT, record.index, b""


def encode_record(
    fields: tuple[Kind, Ballot, int, bytes],
    *,
    position: int,
    synced: int,
    chain: bytes,
    seed: int,
) -> tuple[bytes, bytes]:
    """Return the bytes of a record, and the chain with it.

    Args:
        fields: from :func:`fields_of`.
        position: number of this record, 1 and up.
        synced: position that is known to be durable.
        chain: chain up to the record before.
        seed: from :func:`seed_of`.

    Raises:
        InvariantError: the payload is longer than :data:`PAYLOAD_BYTES_MAX`.
    """
    kind, ballot, index, payload = fields
    check(len(payload) <= PAYLOAD_BYTES_MAX, f"record of {len(payload)} bytes is too long")
    fixed = _FIXED.pack(len(payload), position, synced, kind, 0, 0, *ballot, index)
    after = blake2b(chain + fixed + payload, digest_size=CHAIN_BYTES).digest()
    body = fixed + after + payload
    return _CHECKSUM.pack(crc32c_extend(seed, body)) + body, after


def decode_record(data: bytes, offset: int, seed: int) -> StoredRecord | None:
    """Return the record at ``offset`` if its checksum holds, else None. The chain is not checked.

    Never raises, whatever the bytes are.
    """
    start = offset + HEADER_BYTES
    if offset < 0 or start > len(data):
        return None
    (
        crc, length, position, synced, kind, zero, zeros, epoch, round_, node, index, chain,
    ) = _ALL.unpack_from(data, offset)  # fmt: skip
    end = start + length
    if length > PAYLOAD_BYTES_MAX or end > len(data):
        return None
    if crc32c_extend(seed, data[offset + _CHECKSUM.size : end]) != crc:
        return None
    if kind not in _KINDS or zero or zeros or position == 0:
        return None
    return StoredRecord(
        _KINDS[kind], position, synced, Ballot(epoch, round_, node), index, chain,
        data[start:end], offset, end,
    )  # fmt: skip


def decode_entry(record: StoredRecord) -> Entry | None:
    """Return the entry of an entry record, None when payload and header contradict each other."""
    try:
        entry = _entry_decoder.decode(record.payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if entry.index != record.entry_index or entry.ballot != record.ballot:
        return None
    return entry


def scan(
    data: bytes, offset: int, position: int, chain: bytes, seed: int
) -> Iterator[StoredRecord]:
    """Yield the records from ``offset`` on that continue ``chain`` after ``position``.

    The next record stands right behind one, or, when it began a batch, on the next sector
    boundary; the chain leaves no doubt which.
    """
    while True:
        record = _successor(data, offset, position, chain, seed)
        if record is None and next_sector(offset) != offset:
            record = _successor(data, next_sector(offset), position, chain, seed)
        if record is None:
            return
        yield record
        position, chain, offset = record.position, record.chain, record.end


def _successor(
    data: bytes, offset: int, position: int, chain: bytes, seed: int
) -> StoredRecord | None:
    record = decode_record(data, offset, seed)
    if record is None or record.position != position + 1:
        return None
    begin = offset + _CHECKSUM.size
    fixed = data[begin : begin + _FIXED.size]
    if blake2b(chain + fixed + record.payload, digest_size=CHAIN_BYTES).digest() != record.chain:
        return None
    return record


def find_records(data: bytes, offset: int, seed: int) -> Iterator[StoredRecord]:
    """Yield every whole record that begins a batch at or after ``offset``, chained or not."""
    blank = bytes(HEADER_BYTES)
    for start in range(next_sector(offset), len(data) - HEADER_BYTES + 1, SECTOR_BYTES):
        if data[start : start + HEADER_BYTES] == blank:
            continue
        record = decode_record(data, start, seed)
        if record is not None:
            yield record
