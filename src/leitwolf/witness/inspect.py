"""Looking at a shared disk without changing it: ``quorum disk check`` and ``quorum disk dump``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from leitwolf.model.errors import Conflict
from leitwolf.model.witness import DiskBlock
from leitwolf.system.clock import raw_ns
from leitwolf.wire.ballot import NO_BALLOT
from leitwolf.witness.device import Device, open_device
from leitwolf.witness.disk import load_region, read_copies, read_header
from leitwolf.witness.layout import (
    HALF_BYTES,
    UNIT_BYTES,
    Geometry,
    Header,
    decode_header,
)

__all__ = [
    "DiskCheck",
    "DiskView",
    "DurationsView",
    "SlotView",
    "check_disk",
    "demand_unused",
    "demand_unwritten",
    "dump_disk",
    "quantiles",
    "read_disk_header",
]

_TIMEOUT_S = 30.0
_READS = 100


class SlotView(msgspec.Struct, frozen=True, kw_only=True):
    """What one node has on the disk."""

    node: int
    copies: tuple[bool, bool]
    """Whether copy A and copy B of the block are whole."""
    block: DiskBlock | None
    """The newer whole copy; None: the node never wrote, or no copy is whole."""
    entries: int = 0
    """Entries in the region, behind its snapshot."""
    snapshot_index: int = 0
    """Index of the snapshot's last entry; 0: there is none."""
    last_index: int = 0
    region_bytes: int = 0
    """Of the region, in use."""
    region_whole: bool = True
    """It reaches as far as the block says."""


class DiskView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on a disk, in short."""

    location: str
    size_bytes: int
    header: Header
    slots: tuple[SlotView, ...]


class DurationsView(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in nanoseconds (CLOCK_MONOTONIC_RAW); all 0 without a sample."""

    samples: int
    p50_ns: int
    p99_ns: int
    p999_ns: int
    worst_ns: int


def quantiles(durations: Iterable[int]) -> DurationsView:
    """Return the quantiles of durations: of n the one at rank ceil(n * q)."""
    ordered = sorted(durations)
    count = len(ordered)

    def at(per_mille: int) -> int:
        return ordered[-(-count * per_mille // 1000) - 1] if ordered else 0

    return DurationsView(
        samples=count, p50_ns=at(500), p99_ns=at(990), p999_ns=at(999), worst_ns=at(1000)
    )


class DiskCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a disk is what it should be."""

    location: str
    ok: bool
    faults: tuple[str, ...]
    """Each in one sentence; copies that a node is just writing may show for a moment."""
    unfenced: str
    """Why it has no reservations by which a node is kept from writing, '': it has."""
    reads: DurationsView
    """Reads of 4096 bytes past all caches of this machine."""
    view: DiskView


Progress = Callable[[str], None]


def _silent(text: str) -> None:
    del text


def _slot(device: Device, header: Header, slot: int) -> SlotView:
    copies = read_copies(device, header, slot)
    whole = (copies[0] is not None, copies[1] is not None)
    block = max((c for c in copies if c is not None), key=lambda c: c.sequence, default=None)
    if block is None or not block.sequence:
        return SlotView(node=slot + 1, copies=whole, block=None)
    if block.accepted == NO_BALLOT:
        return SlotView(node=slot + 1, copies=whole, block=block)
    region, tail = load_region(device, header, slot, block)
    return SlotView(
        node=slot + 1,
        copies=whole,
        block=block,
        entries=len(region.entries),
        snapshot_index=region.snapshot.last.index if region.snapshot is not None else 0,
        last_index=tail.last.index,
        region_bytes=tail.end,
        region_whole=tail.last >= block.key,
    )


def _view(location: str, device: Device, progress: Progress) -> DiskView:
    header = read_header(device)
    slots = []
    for slot in range(header.nodes_max):
        progress(f"reading what node {slot + 1} wrote")
        slots.append(_slot(device, header, slot))
    return DiskView(location=location, size_bytes=device.size, header=header, slots=tuple(slots))


def dump_disk(location: str, *, progress: Progress = _silent) -> DiskView:
    """Return what stands on a disk; read-only.

    Raises:
        WitnessError: the device is gone, or is no quorum disk.
    """
    device = open_device(location, timeout_s=_TIMEOUT_S, write=False)
    try:
        return _view(location, device, progress)
    finally:
        device.close()


def read_disk_header(location: str) -> Header:
    """Return what a disk says that it is; read-only.

    Raises:
        WitnessError: the device is gone, or is no quorum disk.
    """
    device = open_device(location, timeout_s=_TIMEOUT_S, write=False)
    try:
        return read_header(device)
    finally:
        device.close()


def demand_unused(location: str) -> None:
    """Refuse a disk on which any node wrote since it was formatted; read-only.

    What stands there is of an earlier use, perhaps of a history that parted from the own one.

    Raises:
        WitnessError: the device is gone, or is no quorum disk.
        Conflict: ``witness-used``.
    """
    device = open_device(location, timeout_s=_TIMEOUT_S, write=False)
    try:
        demand_unwritten(device, read_header(device), location)
    finally:
        device.close()


def demand_unwritten(device: Device, header: Header, location: str) -> None:
    """Refuse an opened disk on which any node wrote, see :func:`demand_unused`."""
    for slot in range(header.nodes_max):
        copies = read_copies(device, header, slot)
        if any(copy is None or copy.sequence for copy in copies):
            raise _used(location, slot + 1)


def _used(location: str, node: int) -> Conflict:
    return Conflict(
        f"{location} was used before: node {node} wrote there since it was formatted",
        code="witness-used",
        hint=f"format it anew: leitwolf quorum disk format {location} --force",
    )


def _faults(device: Device, view: DiskView) -> list[str]:
    faults = [
        f"header copy {name} is damaged"
        for name, offset in (("A", 0), ("B", HALF_BYTES))
        if decode_header(device.read(offset, UNIT_BYTES)) is None
    ]
    needed = Geometry(view.header.nodes_max, view.header.region_bytes).needed_bytes
    if view.size_bytes < needed:
        faults.append(f"the device has {view.size_bytes} bytes, its header says {needed}")
    for slot in view.slots:
        faults += [
            f"copy {name} of the block of node {slot.node} is damaged"
            for name, whole in zip("AB", slot.copies, strict=True)
            if not whole
        ]
        if slot.block is not None and slot.block.distrusted:
            faults.append(f"node {slot.node} found that an older copy of the disk was put back")
        if not slot.region_whole and slot.block is not None:
            faults.append(
                f"the region of node {slot.node} ends at entry {slot.last_index}, "
                f"entry {slot.block.key.index} was written"
            )
    return faults


def _time_of_read(device: Device) -> int:
    begun = raw_ns()
    device.read(0, UNIT_BYTES)
    return raw_ns() - begun


def check_disk(location: str, *, progress: Progress = _silent) -> DiskCheck:
    """Look at every copy and region of a disk, and at the time that reads take; read-only.

    Raises:
        WitnessError: the device is gone, or is no quorum disk.
    """
    device = open_device(location, timeout_s=_TIMEOUT_S, write=False)
    try:
        view = _view(location, device, progress)
        faults, unfenced = _faults(device, view), device.unfenced
        progress("measuring reads")
        durations = [_time_of_read(device) for _ in range(_READS)]
    finally:
        device.close()
    return DiskCheck(
        location=location,
        ok=not faults,
        faults=tuple(faults),
        unfenced=unfenced,
        reads=quantiles(durations),
        view=view,
    )
