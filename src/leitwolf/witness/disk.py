"""A formatted shared disk, opened for one node.

Rules
    W1 A block is written as copy A, durably, then as copy B, durably.
    W2 Before anything is written after a failure or a start, the newer whole copy of the own block
       is written over the other one: only then it is known which region counts.
    W3 A region that the own block names is never begun anew. Who read a region reads the blocks
       again: if its block names another content by then, nothing of it counts.
    W4 Whatever reads blocks reads the header with them: a disk that another cluster formatted
       meanwhile is noticed before anything that it says is believed.
    W5 A block is written over nothing older than its writer knows to stand there, and not where no
       copy of it is whole any more.

Theory of operation
    Copy A is never older than copy B (W1, W2), so readers look at the copies A of all nodes in one
    read with the header, and at the copies B only where something is not whole: a write on its way,
    or damage. Where both are not whole the read is repeated, for a write on its way passes; damage
    does not.

What this does not guarantee: that a disk which acknowledged a write did it. ``check_disk`` compares
the copies.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec

from leitwolf.model.errors import WitnessError, check
from leitwolf.model.limits import NODES_MAX
from leitwolf.model.witness import DiskBlock, Region, is_evicted
from leitwolf.ports.witness import DiskCall, DiskResult, RegionRead, RegionWrite
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY
from leitwolf.witness.device import Device, open_device
from leitwolf.witness.layout import (
    HALF_BYTES,
    UNIT_BYTES,
    Geometry,
    Header,
    decode_block,
    decode_header,
    encode_block,
    encode_header,
    seed_of,
    unwritten,
)
from leitwolf.witness.region import Tail, append_record, begin, read_region
from leitwolf.witness.selftest import SelfTestReport
from leitwolf.witness.worker import Worker

__all__ = ["BlockingDisk", "TimedDisk", "load_region", "open_disk", "read_copies", "read_header"]

_READS_MAX = 5
"""Both copies of a block torn, five times in a row, is no write on its way: it is damage."""


def read_header(device: Device) -> Header:
    """Return the header of a disk, from the copy that is whole.

    Raises:
        WitnessError: ``witness-unformatted`` there is none; ``witness-foreign`` the copies are of
            two formattings; ``witness-unfit`` a later version's.
    """
    copies = (0, HALF_BYTES) if device.size >= HALF_BYTES + UNIT_BYTES else ()
    found = [decode_header(device.read(offset, UNIT_BYTES)) for offset in copies]
    headers = {header for header in found if header is not None}
    if not headers:
        raise WitnessError(
            "there is no quorum disk",
            code="witness-unformatted",
            hint="format it once, on one node: leitwolf quorum disk format",
        )
    if len(headers) > 1:
        raise WitnessError(
            "two formattings overlap on this disk: " + " and ".join(sorted(map(str, headers))),
            code="witness-foreign",
            hint="use another disk, or format this one anew",
        )
    return headers.pop()


def read_copies(device: Device, header: Header, slot: int) -> list[DiskBlock | None]:
    """Return both copies of a block, None for one that is not whole."""
    geometry = Geometry(header.nodes_max, header.region_bytes)
    offsets = [geometry.block_offset(slot, copy) for copy in (0, 1)]
    return [decode_block(device.read(at, UNIT_BYTES), header.disk, at) for at in offsets]


def load_region(device: Device, header: Header, slot: int, block: DiskBlock) -> tuple[Region, Tail]:
    """Return the region that a block names, as far as it is whole, and where it ends."""
    geometry = Geometry(header.nodes_max, header.region_bytes)
    start = geometry.region_offset(slot, block.region)

    def read(offset: int, length: int) -> bytes:
        return device.read(start + offset, length)

    seed = seed_of(header.disk, start)
    return read_region(read, header.region_bytes, seed, block.generation)


class BlockingDisk:
    """The disk without a time limit: calls last as long as the device needs."""

    def __init__(self, device: Device, *, cluster: str, node: int, storage: str = "") -> None:
        """Read header and own block, and settle the own block (W2).

        Args:
            device: opened for writing; closed by the owner of this object.
            cluster: UUID of the own cluster.
            node: own number; the slot follows from it.
            storage: UUID that the disk must have; '': any.

        Raises:
            WitnessError: not a disk of this cluster, without place for this node, or damaged.
        """
        self._device = device
        self._header = read_header(device)
        if self._header.cluster != cluster:
            raise _foreign(self._header)
        if storage not in ("", self._header.disk):
            raise WitnessError(
                f"the disk was formatted anew: it is {self._header.disk}, the cluster knows "
                f"{storage}, and has forgotten what it promised",
                code="witness-foreign",
                hint="leitwolf quorum replace",
            )
        if not 1 <= node <= self._header.nodes_max:
            raise WitnessError(
                f"the disk has room for nodes 1..{self._header.nodes_max}; this is node {node}",
                code="witness-unfit",
                hint="format a disk with --nodes as high as the highest node number, at most "
                f"{NODES_MAX}",
            )
        self._geometry = Geometry(self._header.nodes_max, self._header.region_bytes)
        self._image = encode_header(self._header)
        self._node, self._slot, self._cluster = node, node - 1, cluster
        self._own = unwritten(self._slot)
        self._tail: Tail | None = None
        self._tail_region = 0
        self._settled = False
        self._known: dict[tuple[int, int], tuple[bytes, DiskBlock | None]] = {}
        """Units as they were read last, with what they hold, by slot and copy."""
        self._refuse_evicted()  # before a registration gives the right to write
        offset = self._geometry.block_offset(self._slot, 0)
        device.claim(cluster, node, offset, self._refuse_evicted)
        self._settle()

    def call(self, call: DiskCall) -> DiskResult:
        """Do the steps of a call, see :class:`leitwolf.ports.witness.QuorumDisk`."""
        if call.write is not None or call.block is not None:
            if not self._settled:
                self._settle()
            if call.block is not None:
                self._demand_known(call.known)
            self._settled = False  # until all that follows went well; forgets the tail, too
            if call.write is not None and not self._write_region(call.write):
                self._settled = True
                return DiskResult(full=True)
            if call.block is not None:
                self._write_block(call.block)
            self._settled = True
        unfenced = self._device.unfenced
        if call.fence and not unfenced:
            check(self._node not in call.fence, "a node does not fence itself")
            self._device.fence(call.fence)
        if call.region is not None:
            region, blocks = self._read_region(call.region)
            return DiskResult(blocks=blocks, region=region, unfenced=unfenced)
        return DiskResult(blocks=self._read_blocks() if call.read else (), unfenced=unfenced)

    def self_test(self) -> SelfTestReport:
        """Try the disk in the own place, see :func:`leitwolf.witness.disktest.try_place`.

        Written is the end of the region that the own block does not name (W3). A content that
        reaches so far is begun anew; what stands behind its end never counts.
        """
        from leitwolf.witness.disktest import try_place  # noqa: PLC0415 — once, the tools' part

        if not self._settled:
            self._settle()
        free = self._geometry.region_offset(self._slot, 1 - self._own.region)
        self._tail = None  # perhaps of that very region
        return try_place(
            self._device,
            needed=self._geometry.needed_bytes,
            spare=free + self._header.region_bytes - UNIT_BYTES,
            claimed=self._geometry.block_offset(self._slot, 0),
        )

    # --- blocks

    def _refuse_evicted(self) -> None:
        """Refuse a node of which the newest leader's block says that it was evicted.

        Raises:
            WitnessError: ``witness-fenced``.
        """
        halves = [
            self._blocks(self._device.read(half, self._geometry.table_bytes), copy)
            for copy, half in enumerate((0, HALF_BYTES))
        ]
        found = [
            max(whole, key=lambda block: block.sequence)
            for copies in zip(*halves, strict=True)
            if (whole := [block for block in copies if block is not None])
        ]
        if is_evicted(self._node, found):
            raise WitnessError(
                f"node {self._node} was evicted, as the disk says: it does not write there",
                code="witness-fenced",
                hint="leitwolf rejoin TOKEN makes it a member again, with another number",
            )

    def _settle(self) -> None:
        """Find the own block; make both copies hold it (W2)."""
        copies = self._own_copies()
        self._own = self._newest(self._slot, copies)
        for number, copy in enumerate(copies):
            if copy != self._own:
                self._write_copy(number, self._own)
        self._tail = None
        self._settled = True

    def _own_copies(self) -> list[DiskBlock | None]:
        """Return what stands in the own place; another formatting shows by its header (W4)."""
        copies = read_copies(self._device, self._header, self._slot)
        if not any(copies):
            for half in (0, HALF_BYTES):
                self._refuse_foreign(self._device.read(half, UNIT_BYTES))
        return copies

    def _newest(self, slot: int, copies: list[DiskBlock | None]) -> DiskBlock:
        """Return the newer whole copy of a block.

        Raises:
            WitnessError: ``witness-damaged``, none is whole.
        """
        whole = [block for block in copies if block is not None]
        if whole:
            return max(whole, key=lambda block: block.sequence)
        raise WitnessError(
            f"the block of node {slot + 1} is damaged in both copies",
            code="witness-damaged",
            hint="what it promised is lost: leitwolf quorum replace",
        )

    def _demand_known(self, known: int) -> None:
        """Refuse to write over a block that is lost, or stands there older than is known (W5).

        Raises:
            WitnessError: ``witness-rolled-back``, ``witness-damaged``, ``witness-foreign``;
                nothing was written.
        """
        copies = self._own_copies()
        self._newest(self._slot, copies)
        for block in copies:
            if block is not None and block.sequence < known:
                raise WitnessError(
                    f"block {known} of node {self._node} stood there, now it is {block.sequence}",
                    code="witness-rolled-back",
                )

    def _write_block(self, block: DiskBlock) -> None:
        check(block.node == self._node, f"node {self._node} writes a block of node {block.node}")
        found = self._own.sequence
        block = msgspec.structs.replace(block, sequence=max(block.sequence, found + 1))
        for copy in (0, 1):
            self._write_copy(copy, block)
        self._own = block

    def _write_copy(self, copy: int, block: DiskBlock) -> None:
        offset = self._geometry.block_offset(self._slot, copy)
        self._device.write(offset, encode_block(block, self._header.disk, offset))

    def _read_blocks(self) -> tuple[DiskBlock, ...]:
        for _ in range(_READS_MAX - 1):
            try:
                return self._read_blocks_once()
            except WitnessError as error:
                if error.code != "witness-damaged":
                    raise
        return self._read_blocks_once()

    def _read_blocks_once(self) -> tuple[DiskBlock, ...]:
        table = self._device.read(0, self._geometry.table_bytes)
        images, halves = [table[:UNIT_BYTES]], [self._blocks(table, 0)]
        if None in halves[0] or images[0] != self._image:
            self._refuse_foreign(images[0])
            table = self._device.read(HALF_BYTES, self._geometry.table_bytes)
            images.append(table[:UNIT_BYTES])
            self._refuse_foreign(images[1])
            halves.append(self._blocks(table, 1))
        if self._image not in images:
            raise WitnessError(
                "both headers of the disk are damaged: something else wrote there",
                code="witness-damaged",
                hint="leitwolf quorum disk check tells what is left",
            )
        newest = (
            self._newest(slot, list(copies))
            for slot, copies in enumerate(zip(*halves, strict=True))
        )
        return tuple(block for block in newest if block.sequence)

    def _blocks(self, table: bytes, copy: int) -> list[DiskBlock | None]:
        return [
            self._block(table[UNIT_BYTES * (1 + slot) : UNIT_BYTES * (2 + slot)], slot, copy)
            for slot in range(self._geometry.nodes_max)
        ]

    def _block(self, unit: bytes, slot: int, copy: int) -> DiskBlock | None:
        """Return the block in a unit; most are the same bytes as at the last reading."""
        known = self._known.get((slot, copy))
        if known is not None and known[0] == unit:
            return known[1]
        block = decode_block(unit, self._header.disk, self._geometry.block_offset(slot, copy))
        self._known[slot, copy] = (unit, block)
        return block

    def _refuse_foreign(self, image: bytes) -> None:
        header = decode_header(image)
        if header is not None and header != self._header:
            raise _foreign(header)

    # --- regions

    def _write_region(self, write: RegionWrite) -> bool:
        """Write one record; False: no room, nothing to append to, or the region counts (W3)."""
        start = self._geometry.region_offset(self._slot, write.region)
        if write.fresh:
            if self._own.accepted != NO_BALLOT and self._own.region == write.region:
                return False
            seed = seed_of(self._header.disk, start)
            tail = begin(seed, write.generation, secrets.randbits(64))
        else:
            found = self._tail_of(write)
            if found is None:
                return False
            tail = found
        data, after = append_record(tail, write.accepted, write.entries, write.snapshot)
        if after.end > self._header.region_bytes:
            if not write.fresh:
                return False
            raise WitnessError(
                f"the cluster's state needs {after.end} bytes; a region of this disk has "
                f"{self._header.region_bytes}",
                code="witness-unfit",
                hint="format a disk with larger regions: leitwolf quorum disk format --region",
            )
        self._device.write(start + tail.end, data)
        self._tail, self._tail_region = after, write.region
        return True

    def _tail_of(self, write: RegionWrite) -> Tail | None:
        """Return where to append; after a start or a failure it is read from the disk.

        None: beginning the region failed, and no block named it yet.

        Raises:
            WitnessError: ``witness-damaged``, what the own block names is not there.
        """
        tail = self._tail
        if tail is not None and self._tail_region == write.region:
            check(tail.generation == write.generation, "the region has another generation")
            return tail
        own = self._own
        named = msgspec.structs.replace(own, region=write.region, generation=write.generation)
        _, tail = load_region(self._device, self._header, self._slot, named)
        if (own.region, own.generation) == (write.region, write.generation):
            if tail.number == 0 or tail.last < own.key:
                raise _lost(own)
            return tail
        return tail if tail.number else None

    def _read_region(self, wanted: RegionRead) -> tuple[Region | None, tuple[DiskBlock, ...]]:
        """Return a region, None if it was begun anew meanwhile, and all blocks as read after it.

        W3 protects only what a block names: what it still names then was not begun anew before.
        """
        block = wanted.block
        slot = block.node - 1
        check(0 <= slot < self._geometry.nodes_max, f"no slot for node {block.node}")
        region, last = Region(accepted=NO_BALLOT), NO_KEY
        if block.accepted != NO_BALLOT:
            region, tail = load_region(self._device, self._header, slot, block)
            last = tail.last
        blocks = self._read_blocks()
        if not any(one.node == block.node and one.names_as(block) for one in blocks):
            return None, blocks
        if last < block.key:
            raise _lost(block)
        return region, blocks


def _foreign(header: Header) -> WitnessError:
    return WitnessError(
        f"the disk belongs to cluster {header.cluster} (formatted as {header.disk})",
        code="witness-foreign",
        hint="every cluster needs a disk of its own",
    )


def _lost(block: DiskBlock) -> WitnessError:
    return WitnessError(
        f"the region of node {block.node} ends before entry {block.key.index}, which was written",
        code="witness-damaged",
        hint="leitwolf quorum disk check tells what is left",
    )


class TimedDisk:
    """A disk with a time limit for every call; see :class:`leitwolf.ports.witness.QuorumDisk`."""

    def __init__(self, worker: Worker, device: Device, disk: BlockingDisk) -> None:
        self._worker = worker
        self._device = device
        self._disk = disk

    def call(self, call: DiskCall) -> DiskResult:
        """Do the steps of a call, or raise :class:`WitnessError` when the limit is over."""
        return self._worker.run(lambda: self._disk.call(call))

    def self_test(self) -> SelfTestReport:
        """Try the disk in the own place, see :meth:`BlockingDisk.self_test`."""
        return self._worker.run(self._disk.self_test)

    def close(self) -> None:
        """Release the device; writes nothing."""
        self._worker.close(self._device.close)


def open_disk(
    location: str,
    *,
    cluster: str,
    node: int,
    timeout_s: float,
    storage: str = "",
    begun: Callable[[Worker], None] = lambda _: None,
) -> TimedDisk:
    """Open a formatted disk for one node.

    Args:
        location: path of a block device or file, or ``iscsi://portal[:port]/target/lun``.
        cluster: UUID of the own cluster.
        node: own number, 1..nodes_max of the disk.
        timeout_s: limit of one call, seconds.
        begun: is told of the thread that does it all, which may outlast a failure and a closing.
        storage: UUID that the disk must have; '': any.

    Raises:
        WitnessError: the disk is gone, of another cluster, in use by another process as this node,
            damaged, or does not answer in time.
    """
    devices: list[Device] = []

    def opened() -> tuple[Device, BlockingDisk]:
        devices.append(open_device(location, timeout_s=timeout_s))
        return devices[0], BlockingDisk(devices[0], cluster=cluster, node=node, storage=storage)

    def released() -> None:
        for device in devices:
            device.close()

    worker = Worker(location, timeout_s)
    begun(worker)
    try:
        device, disk = worker.run(opened)
    except BaseException:
        worker.close(released)
        raise
    return TimedDisk(worker, device, disk)
