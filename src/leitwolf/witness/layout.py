"""Where everything stands on a shared disk, and units of 4096 bytes. Pure.

Layout, in units of 4096 bytes::

    0          header, copy A
    1 .. n     block of slot 0 .. n - 1, copy A
    128        header, copy B
    129 ..     blocks, copy B
    256        region 0 of slot 0, region 1 of slot 0, region 0 of slot 1, ...

The copies stand half a MiB apart: what other tools write at the beginning of a device (a partition
table, a superblock) leaves copy B. A node has the slot ``node - 1``; it alone writes there.

A unit is ``magic (8), crc32c (4), length (4), payload, zeros``. The checksum covers all behind it
and is seeded, for blocks, with the uuid of the disk and the place: what an earlier formatting left,
or what was meant for elsewhere, is never whole. A unit torn between two contents is not whole
either; only then the other copy is asked. Formatting writes a block of sequence 0 into every slot,
so that a unit of zeros is damage and never taken for a node that promised nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgspec
from google_crc32c import extend as crc32c_extend

from leitwolf.model.errors import InvalidConfig, WitnessError, check
from leitwolf.model.ids import NodeId
from leitwolf.model.limits import NODES_MAX
from leitwolf.model.witness import DiskBlock

__all__ = [
    "HALF_BYTES",
    "REGION_BYTES_DEFAULT",
    "UNIT_BYTES",
    "VERSION",
    "Geometry",
    "Header",
    "decode_block",
    "decode_header",
    "encode_block",
    "encode_header",
    "next_unit",
    "seed_of",
    "unwritten",
]

UNIT_BYTES = 4096
"""The sector of every disk divides it, and O_DIRECT takes it everywhere."""
HALF_BYTES = 128 * UNIT_BYTES
"""From copy A to copy B: room for a header and the blocks of :data:`NODES_MAX` nodes."""
REGION_BYTES_DEFAULT = 16 << 20
VERSION = 1

_REGIONS_OFFSET = 2 * HALF_BYTES
_REGION_BYTES_MIN = 64 << 10
_UNIT = struct.Struct("<8sII")
_COVERED_FROM = 12
"""The checksum covers everything behind itself."""
_HEADER_MAGIC = b"LEITWOLF"
_BLOCK_MAGIC = b"LWBLOCK1"

_encoder = msgspec.msgpack.Encoder()
_block_decoder = msgspec.msgpack.Decoder(DiskBlock)


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a formatted disk says about itself."""

    version: int
    cluster: str
    """UUID of the cluster that it was formatted for."""
    disk: str
    """UUID of this formatting: a disk formatted anew is another acceptor."""
    nodes_max: int
    region_bytes: int


class _Version(msgspec.Struct, frozen=True, kw_only=True):
    version: int


_header_decoder = msgspec.msgpack.Decoder(Header)
_version_decoder = msgspec.msgpack.Decoder(_Version)


@dataclass(frozen=True, slots=True)
class Geometry:
    """Offsets in bytes, from the numbers in the header."""

    nodes_max: int
    region_bytes: int

    def __post_init__(self) -> None:
        if not 1 <= self.nodes_max <= NODES_MAX:
            raise InvalidConfig(
                f"nodes: {self.nodes_max} is outside 1..{NODES_MAX}", field="nodes_max"
            )
        if self.region_bytes < _REGION_BYTES_MIN or self.region_bytes % UNIT_BYTES:
            raise InvalidConfig(
                f"region: {self.region_bytes} bytes is no multiple of {UNIT_BYTES} from "
                f"{_REGION_BYTES_MIN} on",
                field="region_bytes",
            )

    @property
    def needed_bytes(self) -> int:
        """Smallest device that holds it all."""
        return _REGIONS_OFFSET + 2 * self.nodes_max * self.region_bytes

    @property
    def table_bytes(self) -> int:
        """Length of one header with the blocks behind it."""
        return UNIT_BYTES * (1 + self.nodes_max)

    def block_offset(self, slot: int, copy: int) -> int:
        """Return where a copy (0: A, 1: B) of a slot's block stands."""
        check(0 <= slot < self.nodes_max and copy in {0, 1}, f"no block {slot}, copy {copy}")
        return copy * HALF_BYTES + UNIT_BYTES * (1 + slot)

    def region_offset(self, slot: int, region: int) -> int:
        """Return where a region (0 or 1) of a slot begins."""
        check(0 <= slot < self.nodes_max and region in {0, 1}, f"no region {slot}, {region}")
        return _REGIONS_OFFSET + (2 * slot + region) * self.region_bytes


def next_unit(length: int) -> int:
    """Return ``length`` rounded up to whole units."""
    return -(-length // UNIT_BYTES) * UNIT_BYTES


def seed_of(disk: str, offset: int) -> int:
    """Return the checksum seed for what stands at ``offset`` of the disk with this uuid."""
    return int(crc32c_extend(0, f"{disk}@{offset}".encode()))


def _encode_unit(magic: bytes, payload: bytes, seed: int) -> bytes:
    check(len(payload) <= UNIT_BYTES - _UNIT.size, f"unit of {len(payload)} bytes is too long")
    covered = struct.pack("<I", len(payload)) + payload
    covered += bytes(UNIT_BYTES - _COVERED_FROM - len(covered))
    return magic + struct.pack("<I", crc32c_extend(seed, covered)) + covered


def _decode_unit(magic: bytes, unit: bytes, seed: int) -> bytes | None:
    if len(unit) != UNIT_BYTES:
        return None
    found, crc, length = _UNIT.unpack_from(unit)
    if found != magic or crc32c_extend(seed, unit[_COVERED_FROM:]) != crc:
        return None
    if length > UNIT_BYTES - _UNIT.size:
        return None
    return unit[_UNIT.size : _UNIT.size + length]


def encode_header(header: Header) -> bytes:
    """Return the unit of a header; both copies hold the same bytes."""
    return _encode_unit(_HEADER_MAGIC, _encoder.encode(header), 0)


def decode_header(unit: bytes) -> Header | None:
    """Return the header in a unit, None when there is no whole one.

    Raises:
        WitnessError: ``witness-unfit``, a later version formatted the disk.
    """
    payload = _decode_unit(_HEADER_MAGIC, unit, 0)
    if payload is None:
        return None
    try:
        version = _version_decoder.decode(payload).version
        if version == VERSION:
            header = _header_decoder.decode(payload)
            Geometry(header.nodes_max, header.region_bytes)
            return header
    except (msgspec.MsgspecError, UnicodeDecodeError, InvalidConfig):
        return None
    raise WitnessError(
        f"the disk has format {version}; this version reads format {VERSION}",
        code="witness-unfit",
        hint="use the version of leitwolf that formatted it, or a later one",
    )


def encode_block(block: DiskBlock, disk: str, offset: int) -> bytes:
    """Return the unit of a block that is to stand at ``offset``."""
    return _encode_unit(_BLOCK_MAGIC, _encoder.encode(block), seed_of(disk, offset))


def decode_block(unit: bytes, disk: str, offset: int) -> DiskBlock | None:
    """Return the block in a unit read at ``offset``, None when it is not whole.

    Never raises, whatever the bytes are.
    """
    payload = _decode_unit(_BLOCK_MAGIC, unit, seed_of(disk, offset))
    if payload is None:
        return None
    try:
        return _block_decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def unwritten(slot: int) -> DiskBlock:
    """Return what formatting writes into a slot: zeros there are damage, not emptiness."""
    return DiskBlock(node=NodeId(slot + 1), boot=0, sequence=0)
