"""A shared disk whose writer loses power, or whose cable is pulled, in any write.

Whatever happens: the block is the old or the new one, never garbage; the region that it names
holds every entry that was acknowledged, and none that was not written; and what was once settled
after a restart never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import pytest
from msgspec.structs import replace
from tests.disk_world import (
    HEADER,
    MemoryDevice,
    PowerCut,
    entry,
    formatted,
    opened,
    snapshot,
)

from leitwolf.model.errors import WitnessError
from leitwolf.model.ids import NodeId
from leitwolf.model.log import Entry
from leitwolf.model.witness import DiskBlock, Region
from leitwolf.ports.witness import DiskCall, RegionRead, RegionWrite
from leitwolf.wire.ballot import Ballot, Key
from leitwolf.witness.disk import BlockingDisk, load_region

STEPS = 14
NODE = NodeId(1)
BALLOT = Ballot(1, 1, 1)


@dataclass
class Writer:
    """What a leader writes: entries, promises, and from time to time a new region."""

    ballot: Ballot = BALLOT
    index: int = 0
    region: int = 0
    generation: int = 0
    acknowledged: int = 0
    """Highest index of an entry in a call that returned."""
    blocks: list[DiskBlock] = field(default_factory=list)
    """Every block whose writing began; the last one may or may not be there."""
    settled: int = 0
    """Stamp of the block that was written last by a call that returned."""
    log: dict[int, Entry] = field(default_factory=dict)

    def calls(self, steps: int, random: Random):
        for step in range(steps):
            fresh = step == 0 or random.random() < 0.25
            yield self._call(fresh=fresh, block=fresh or random.random() < 0.5, random=random)

    def _call(self, *, fresh: bool, block: bool, random: Random) -> DiskCall:
        folded = snapshot(self.index, self.ballot) if fresh and self.index else None
        if fresh:
            self.region, self.generation = 1 - self.region, self.generation + 1
        more = []
        for _ in range(random.randrange(1, 4)):
            self.index += 1
            self.log[self.index] = entry(self.index, self.ballot, random.choice((10, 300, 5000)))
            more.append(self.log[self.index])
        write = RegionWrite(
            region=self.region,
            generation=self.generation,
            accepted=self.ballot,
            fresh=fresh,
            entries=tuple(more),
            snapshot=folded,
        )
        said = None
        if block:
            said = DiskBlock(
                node=NODE,
                boot=1,
                sequence=0,
                stamp=len(self.blocks) + 1,
                promised=self.ballot,
                accepted=self.ballot,
                region=self.region,
                generation=self.generation,
                key=Key(self.ballot, self.index),
            )
            self.blocks.append(said)
        return DiskCall(write=write, block=said, read=True)

    def done(self, call: DiskCall) -> None:
        self.acknowledged = self.index
        if call.block is not None:
            self.settled = call.block.stamp


def run(device: MemoryDevice, seed: int) -> Writer:
    """Write until the end or the power cut."""
    writer, random = Writer(), Random(seed)
    try:
        disk = opened(device)
        for call in writer.calls(STEPS, random):
            result = disk.call(call)
            assert not result.full
            writer.done(call)
    except PowerCut:
        pass
    return writer


def judge(device: MemoryDevice, writer: Writer) -> DiskBlock | None:
    """Read as another node does; return the writer's block."""
    reader = opened(device, node=2)
    found = reader.call(DiskCall(read=True)).blocks
    if not found:
        assert writer.settled == 0, "an acknowledged block is gone"
        return None
    (block,) = found
    assert bare(block) in writer.blocks, "garbage"
    assert block.stamp >= writer.settled, "an acknowledged block is gone"
    region = reader.call(DiskCall(region=RegionRead(block=block))).region
    assert region is not None
    held = indices(region)
    assert held >= max(writer.acknowledged, block.key.index), "acknowledged entries are gone"
    assert all(item == writer.log[item.index] for item in region.entries)
    first = region.entries[0].index if region.entries else held + 1
    assert first == (region.snapshot.last.index if region.snapshot else 0) + 1, "a gap"
    return block


def indices(region: Region) -> int:
    """Return the highest index that a region covers."""
    if region.entries:
        return region.entries[-1].index
    return region.snapshot.last.index if region.snapshot is not None else 0


def tears(random: Random):
    """Nothing, all, every prefix of a unit, and any sectors; a sector may be torn in itself."""
    for end in (0, 1, 3, 7, 8, 10, 1000):
        yield lambda sector, end=end: sector < end
    for end in (0, 3):
        yield lambda sector, end=end: None if sector == end else sector < end
    chosen = {sector for sector in range(40) if random.random() < 0.5}
    yield lambda sector: sector in chosen


@pytest.mark.parametrize("seed", range(6))
def test_a_power_cut_in_any_write_loses_nothing_acknowledged(seed: int) -> None:
    """After a cut in every single write, torn in every way, the disk tells the truth."""
    whole = formatted()
    writer = run(whole, seed)
    assert judge(whole, writer) is not None
    assert whole.writes > STEPS
    for cut in range(1, whole.writes + 1):
        for keep in tears(Random(seed * 1000 + cut)):
            device = formatted()
            device.cut_at, device.keep = cut, keep
            writer = run(device, seed)
            seen = judge(device, writer)
            device.cut_at = 0
            before = device.writes
            disk = opened(device)  # restart: the own block is settled
            after = judge(device, writer)
            assert after == seen
            assert device.writes - before <= 1
            # The first write after the restart is torn too: nothing goes back.
            device.cut_at, device.keep = device.writes + 1, lambda sector: sector < 3
            if seen is not None:
                with pytest.raises(PowerCut):
                    disk.call(DiskCall(block=later(seen)))
                writer.blocks.append(later(seen))
                writer.settled = seen.stamp
                judge(device, writer)


def test_one_copy_of_a_block_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """W1: a disk that writes copy A alone loses what it acknowledged, and it is seen."""

    def write_block(disk: BlockingDisk, block: DiskBlock) -> None:
        newer = replace(block, sequence=disk._own.sequence + 1)
        disk._write_copy(0, newer)
        disk._own = newer

    monkeypatch.setattr(BlockingDisk, "_write_block", write_block)
    with pytest.raises(AssertionError, match="an acknowledged block is gone"):
        test_a_power_cut_in_any_write_loses_nothing_acknowledged(0)


def later(block: DiskBlock) -> DiskBlock:
    """Return what a restarted writer writes next."""
    return replace(block, boot=2, sequence=0, stamp=block.stamp + 1)


def bare(block: DiskBlock) -> DiskBlock:
    """Return a block as it was ordered: the disk counts the sequence by itself."""
    return replace(block, sequence=0)


@pytest.mark.parametrize("seed", range(4))
def test_a_failed_write_is_followed_by_others(seed: int) -> None:
    """A write that failed, done in part, is repeated by the same opening; nothing is lost."""
    total = formatted()
    run(total, seed)
    for failing in range(1, total.writes + 1):
        for keep in tears(Random(failing)):
            device = formatted()
            disk, writer, random = opened(device), Writer(), Random(seed)
            device.fail_at, device.keep = device.writes + failing, keep
            for call in writer.calls(STEPS, random):
                try:
                    result = disk.call(call)
                except WitnessError:
                    judge(device, writer)
                    result = disk.call(call)
                if result.full:  # the region counts already: the failed block write was done
                    assert call.block in map(bare, disk.call(DiskCall(read=True)).blocks)
                writer.done(call)
                judge(device, writer)


@pytest.mark.parametrize("seed", range(20))
def test_what_an_earlier_content_left_never_counts(seed: int) -> None:
    """Generations of all lengths, one over the other in one region: only the newest is read."""
    device, random, ballot = formatted(), Random(seed), BALLOT
    disk = opened(device)
    for generation in range(1, 12):
        size = random.choice((10, 4000))
        entries = tuple(entry(i, ballot, size) for i in range(1, random.randrange(2, 6)))
        more = tuple(
            entry(len(entries) + 1 + i, ballot, size) for i in range(random.randrange(1, 4))
        )
        # The same generation on purpose: a writer that restarted before its block was written.
        for part, fresh in ((entries, True), (more, False)):
            write = RegionWrite(
                region=1, generation=1 + generation // 4, accepted=ballot, fresh=fresh, entries=part
            )
            disk.call(DiskCall(write=write))
        block = DiskBlock(
            node=NODE,
            boot=1,
            sequence=1,
            accepted=ballot,
            region=1,
            generation=1 + generation // 4,
            key=Key(ballot, len(entries) + len(more)),
        )
        region, _ = load_region(device, HEADER, 0, block)
        assert region == Region(accepted=ballot, entries=entries + more)
