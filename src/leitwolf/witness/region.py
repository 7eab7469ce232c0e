"""Regions of a shared disk: records one behind the other, each written at once. Pure.

A record is one batch: entries, and in the first record of a content perhaps a snapshot. It begins
on a unit, so that appending never writes a unit again that holds acknowledged data, and it may be
many units long; a torn one is not whole and ends the region.

Layout, little-endian, then the payload (MessagePack) and zeros up to the next unit::

    magic       4    LWR1
    crc32c      u32  over everything behind it, seeded with disk uuid and place of the region
    length      u32  of the payload
    generation  u64  of the content
    writing     u64  random, one for each content: no two chains are the same
    number      u64  1, 2, 3 ... in the content
    accepted    u32, u64, u32
    chain       16   BLAKE2b of the chain before and of all the rest of the record

A record counts only if it is of the generation and continues number and chain of the one before.
What an earlier content left behind the end never does: its chain began with another ``writing``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b

import msgspec
from google_crc32c import extend as crc32c_extend

from leitwolf.model.errors import check
from leitwolf.model.log import Entry, Snapshot
from leitwolf.model.witness import Region
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY, Ballot, Key
from leitwolf.witness.layout import next_unit

__all__ = ["Tail", "append_record", "begin", "read_region"]

_HEAD = struct.Struct("<4sIIQQQIQI16s")
_FIXED = struct.Struct("<IQQQIQI")
_COVERED_FROM = 8
_MAGIC = b"LWR1"
_CHAIN_BYTES = 16
_CHUNK_BYTES = 256 << 10
"""First read of a region; the next ones double, so a short log costs one read."""
_CHUNK_BYTES_MAX = 4 << 20

Read = Callable[[int, int], bytes]
"""Reads ``length`` bytes at an offset within the region."""


class _Batch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    entries: tuple[Entry, ...]
    snapshot: Snapshot | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """Where the next record of a content belongs, and what it must continue."""

    seed: int
    generation: int
    writing: int
    number: int = 0
    chain: bytes = bytes(_CHAIN_BYTES)
    end: int = 0
    """Bytes of the region in use, whole units."""
    last: Key = NO_KEY


def begin(seed: int, generation: int, writing: int) -> Tail:
    """Return the tail of an empty content.

    Args:
        seed: of the region, see :func:`leitwolf.witness.layout.seed_of`.
        generation: number of the content.
        writing: random, 64 bits.
    """
    return Tail(seed=seed, generation=generation, writing=writing)


def append_record(
    tail: Tail, accepted: Ballot, entries: tuple[Entry, ...], snapshot: Snapshot | None = None
) -> tuple[bytes, Tail]:
    """Return the bytes to write at ``tail.end``, and the tail behind them.

    Raises:
        InvariantError: a snapshot that is not first, or a gap between the entries.
    """
    check(snapshot is None or tail.number == 0, "a snapshot begins a region, nothing else")
    last = snapshot.last if snapshot is not None else tail.last
    for entry in entries:
        known = last != NO_KEY
        check(not known or entry.index <= last.index + 1, f"gap before entry {entry.index}")
        last = Key(entry.ballot, entry.index)
    payload = _encoder.encode(_Batch(entries=entries, snapshot=snapshot))
    number = tail.number + 1
    fixed = _FIXED.pack(len(payload), tail.generation, tail.writing, number, *accepted)
    chain = _link(tail.chain, fixed, payload)
    body = fixed + chain + payload
    data = _MAGIC + struct.pack("<I", crc32c_extend(tail.seed, body)) + body
    data += bytes(next_unit(len(data)) - len(data))
    return data, replace(tail, number=number, chain=chain, end=tail.end + len(data), last=last)


def _link(chain: bytes, fixed: bytes, payload: bytes) -> bytes:
    return blake2b(chain + fixed + payload, digest_size=_CHAIN_BYTES).digest()


class _Window:
    """The beginning of a region, read as far as it is needed."""

    def __init__(self, read: Read, size: int) -> None:
        self._read = read
        self._size = size
        self._data = bytearray()
        self._chunk = _CHUNK_BYTES

    def upto(self, end: int) -> bytearray | None:
        """Return at least the first ``end`` bytes, None when the region is shorter."""
        if end > self._size:
            return None
        while len(self._data) < end:
            length = min(self._chunk, self._size - len(self._data))
            self._data += self._read(len(self._data), length)
            self._chunk = min(2 * self._chunk, _CHUNK_BYTES_MAX)
        return self._data


def _successor(window: _Window, tail: Tail) -> tuple[Ballot, _Batch, Tail] | None:
    """Return the record that continues ``tail``; None when there is none that is whole."""
    start = tail.end
    data = window.upto(start + _HEAD.size)
    if data is None:
        return None
    (
        magic, crc, length, generation, writing, number, epoch, round_, node, chain,
    ) = _HEAD.unpack_from(data, start)  # fmt: skip
    if magic != _MAGIC or number != tail.number + 1:
        return None
    end = start + _HEAD.size + length
    data = window.upto(end) if generation == tail.generation else None
    if data is None:
        return None
    covered = bytes(data[start + _COVERED_FROM : end])
    if crc32c_extend(tail.seed, covered) != crc:
        return None
    payload = covered[_HEAD.size - _COVERED_FROM :]
    if _link(tail.chain, covered[: _FIXED.size], payload) != chain:
        return None
    try:
        batch = _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    last = tail.last if batch.snapshot is None else batch.snapshot.last
    if batch.entries:
        last = Key(batch.entries[-1].ballot, batch.entries[-1].index)
    following = replace(
        tail, writing=writing, number=number, chain=chain, end=next_unit(end), last=last
    )
    return Ballot(epoch, round_, node), batch, following


def read_region(read: Read, size: int, seed: int, generation: int) -> tuple[Region, Tail]:
    """Return the content of a generation as far as it is whole, and where it ends.

    A later record whose entries begin at or below the last index replaces those from there on:
    that is how a newer leader overrules what an older one left uncommitted.

    Args:
        read: reads ``length`` bytes at an offset within the region.
        size: of the region, bytes.
        seed: of the region.
        generation: which content; of another one there is nothing.
    """
    window, tail = _Window(read, size), begin(seed, generation, 0)
    accepted, snapshot = NO_BALLOT, None
    entries: list[Entry] = []
    while (found := _successor(window, tail)) is not None:
        accepted, batch, tail = found
        if batch.snapshot is not None:
            snapshot = batch.snapshot
        if batch.entries and entries:
            del entries[max(0, batch.entries[0].index - entries[0].index) :]
        entries += batch.entries
    return Region(accepted=accepted, snapshot=snapshot, entries=tuple(entries)), tail
