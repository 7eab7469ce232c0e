"""Layout and rules of a shared disk, on a device in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace
from tests.disk_world import (
    CLUSTER,
    GEOMETRY,
    HEADER,
    NODES,
    REGION_BYTES,
    SECTOR_BYTES,
    MemoryDevice,
    entry,
    formatted,
    opened,
    snapshot,
)

from leitwolf.model.errors import Conflict, InvalidConfig, InvariantError, WitnessError
from leitwolf.model.ids import NodeId
from leitwolf.model.witness import DiskBlock, Region
from leitwolf.ports.witness import DiskCall, DiskResult, RegionRead, RegionWrite
from leitwolf.wire.ballot import Ballot, Key
from leitwolf.witness import inspect
from leitwolf.witness.device import DirectFile
from leitwolf.witness.format import write_structure
from leitwolf.witness.inspect import demand_unused, quantiles
from leitwolf.witness.iscsi import Lun, parse_location
from leitwolf.witness.layout import (
    HALF_BYTES,
    UNIT_BYTES,
    Geometry,
    decode_block,
    decode_header,
    encode_block,
    encode_header,
    seed_of,
)
from leitwolf.witness.region import append_record, begin, read_region
from leitwolf.witness.reservations import key_of
from leitwolf.witness.signatures import INSPECTED_BYTES, what_stands
from leitwolf.witness.worker import Worker

BALLOT = Ballot(1, 2, 1)
BLOCK = DiskBlock(
    node=NodeId(1),
    boot=1 << 63,
    sequence=1 << 40,
    promised=BALLOT,
    accepted=BALLOT,
    region=1,
    generation=3,
    key=Key(BALLOT, 7),
    commit=6,
    stamp=5,
    armed=True,
)


def torn(old: bytes, new: bytes, at: int) -> bytes:
    return new[:at] + old[at:]


def append(index: int, *, fresh: bool = False, region: int = 1, generation: int = 1) -> RegionWrite:
    return RegionWrite(
        region=region,
        generation=generation,
        accepted=BALLOT,
        fresh=fresh,
        entries=(entry(index, BALLOT),),
    )


def block(stamp: int, *, node: int = 1, **fields: object) -> DiskBlock:
    made = DiskBlock(node=NodeId(node), boot=1, sequence=0, stamp=stamp)
    return replace(made, **fields)


def blocks(device: MemoryDevice, node: int = 2) -> dict[int, int]:
    found = opened(device, node).call(DiskCall(read=True)).blocks
    return {item.node: item.stamp for item in found}


def code(raised: pytest.ExceptionInfo[WitnessError]) -> str:
    return raised.value.code


def test_header_and_block_come_back_as_they_were_written() -> None:
    """What is encoded is decoded, with all its fields."""
    assert decode_header(encode_header(HEADER)) == HEADER
    assert decode_block(encode_block(BLOCK, "d", 4096), "d", 4096) == BLOCK


def test_a_unit_torn_at_any_sector_is_not_whole() -> None:
    """Neither content is taken for whole when the unit holds a part of each."""
    old = encode_block(replace(BLOCK, stamp=4), "d", 4096)
    new = encode_block(BLOCK, "d", 4096)
    for at in range(SECTOR_BYTES, UNIT_BYTES, SECTOR_BYTES):
        mixed = torn(old, new, at)
        assert mixed == new or decode_block(mixed, "d", 4096) is None
        noise = torn(Random(at).randbytes(UNIT_BYTES), new, at)
        assert decode_block(noise, "d", 4096) is None


def test_every_flipped_bit_is_found() -> None:
    """One wrong bit anywhere in a unit, padding included, and it is not whole."""
    for unit, decode in (
        (encode_header(HEADER), decode_header),
        (encode_block(BLOCK, "d", 4096), lambda data: decode_block(data, "d", 4096)),
    ):
        for position in range(UNIT_BYTES):
            broken = bytearray(unit)
            broken[position] ^= 1 << (position % 8)
            assert decode(bytes(broken)) is None, position


def test_a_block_counts_only_on_its_disk_and_in_its_place() -> None:
    """What an earlier formatting left, or what was meant for elsewhere, is not whole."""
    unit = encode_block(BLOCK, "d", 4096)
    assert decode_block(unit, "another", 4096) is None
    assert decode_block(unit, "d", 8192) is None
    assert decode_block(bytes(UNIT_BYTES), "d", 4096) is None


def test_a_later_format_is_refused() -> None:
    """A disk of a later version is named as such, not taken for damaged."""
    with pytest.raises(WitnessError) as raised:
        decode_header(encode_header(replace(HEADER, version=2)))
    assert code(raised) == "witness-unfit"


def test_sizes_outside_their_range_are_refused() -> None:
    """Nodes and regions have limits; nothing overlaps within them."""
    for nodes, region in ((0, 1 << 20), (65, 1 << 20), (8, 4096), (8, (1 << 20) + 512)):
        with pytest.raises(InvalidConfig):
            Geometry(nodes, region)
    largest = Geometry(64, 1 << 20)
    assert largest.block_offset(63, 0) < HALF_BYTES <= largest.block_offset(0, 1)
    assert largest.block_offset(63, 1) < largest.region_offset(0, 0)
    assert largest.region_offset(63, 1) + (1 << 20) == largest.needed_bytes


def content() -> tuple[bytes, list[int], list[Region]]:
    """Return a region of four records, where each ends, and what it holds up to each."""
    seed, tail, data = seed_of("d", 0), begin(seed_of("d", 0), 3, 99), b""
    ends, states = [0], [Region(accepted=Ballot(0, 0, 0))]
    folded, entries = snapshot(10, BALLOT), ()
    assert tail.seed == seed
    for number in range(4):
        more = tuple(entry(11 + 2 * number + i, BALLOT, 3000) for i in range(2))
        record, tail = append_record(tail, BALLOT, more, folded if number == 0 else None)
        data += record
        entries += more
        assert len(data) == tail.end
        ends.append(tail.end)
        states.append(Region(accepted=BALLOT, snapshot=folded, entries=entries))
    return data, ends, states


def read(data: bytes, generation: int = 3, disk: str = "d") -> Region:
    size = len(data)

    def part(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    return read_region(part, size, seed_of(disk, 0), generation)[0]


def test_a_region_is_read_up_to_the_first_record_that_is_not_whole() -> None:
    """Torn anywhere, the records before are all there and nothing else is."""
    data, ends, states = content()
    assert all(end % UNIT_BYTES == 0 for end in ends)
    for at in range(0, len(data) + 1, SECTOR_BYTES):
        found = read(data[:at] + bytes(1 << 16))
        assert found in states
        whole = max(number for number, end in enumerate(ends) if end <= at)
        assert states.index(found) >= whole
    assert read(data) == states[-1]


def test_a_flipped_bit_ends_a_region_there() -> None:
    """A rotten record is not read, and nothing behind it."""
    data, ends, states = content()
    for position in range(0, len(data), 37):
        broken = bytearray(data)
        broken[position] ^= 0x10
        found = read(bytes(broken))
        damaged = max(number for number, end in enumerate(ends) if end <= position)
        assert found in (states[damaged], states[-1])
        if found == states[-1]:  # in the zeros behind a record, where nothing can be lost
            assert not data[position]


def test_other_generations_and_disks_do_not_count() -> None:
    """A region holds nothing of a generation, or disk, that is not asked for."""
    data, _, states = content()
    assert read(data, generation=2) == states[0]
    assert read(data, disk="another") == states[0]


def test_a_newer_leader_overrules_the_tail() -> None:
    """Entries that begin at or below the last index replace those from there on."""
    newer = Ballot(1, 3, 1)
    first, tail = append_record(
        begin(seed_of("d", 0), 3, 9), BALLOT, tuple(entry(i, BALLOT) for i in (1, 2, 3))
    )
    second, tail = append_record(tail, newer, (entry(2, newer),))
    assert tail.last == Key(newer, 2)
    assert read(first + second + bytes(4096)) == Region(
        accepted=newer, entries=(entry(1, BALLOT), entry(2, newer))
    )
    with pytest.raises(InvariantError):
        append_record(tail, newer, (entry(4, newer),))


def test_a_region_that_is_full_says_so_and_keeps_what_it_has() -> None:
    """Nothing of the call is done, and the other region can be begun."""
    device = formatted()
    disk = opened(device)
    assert disk.call(DiskCall(write=append(1, fresh=True))) == DiskResult()
    index, before = 2, bytes(device.content)
    while not disk.call(DiskCall(write=append(index), block=block(index), read=True)).full:
        index, before = index + 1, bytes(device.content)
    assert index == REGION_BYTES // UNIT_BYTES + 1
    assert device.content == before
    assert not disk.call(DiskCall(write=append(index, fresh=True, region=0, generation=2))).full


def test_a_state_too_large_for_a_region_is_an_error() -> None:
    """Beginning the other region would not help; the text says what does."""
    write = RegionWrite(
        region=0,
        generation=1,
        accepted=BALLOT,
        fresh=True,
        entries=(),
        snapshot=snapshot(9, BALLOT, REGION_BYTES),
    )
    with pytest.raises(WitnessError) as raised:
        opened(formatted()).call(DiskCall(write=write))
    assert code(raised) == "witness-unfit"


def test_the_region_that_counts_is_never_begun_anew() -> None:
    """The writer is told to begin the other one (W3)."""
    disk = opened(formatted())
    said = block(1, accepted=BALLOT, region=1, generation=1, key=Key(BALLOT, 1))
    disk.call(DiskCall(write=append(1, fresh=True), block=said))
    assert disk.call(DiskCall(write=append(2, fresh=True, generation=2))).full
    region = disk.call(DiskCall(region=RegionRead(block=said))).region
    assert region == Region(accepted=BALLOT, entries=(entry(1, BALLOT),))


def test_a_region_named_by_a_write_that_failed_is_not_begun_anew() -> None:
    """The block's first copy may name it already: power lost while it is rewritten would harm."""
    device = formatted()
    disk = opened(device)
    first = block(1, accepted=BALLOT, region=0, generation=1, key=Key(BALLOT, 1))
    disk.call(DiskCall(write=append(1, fresh=True, region=0), block=first))
    said = block(2, accepted=BALLOT, region=1, generation=2, key=Key(BALLOT, 2))
    call = DiskCall(write=append(2, fresh=True, generation=2), block=said)
    device.fail_at = device.writes + 3  # copy B
    with pytest.raises(WitnessError):
        disk.call(call)
    assert disk.call(call).full
    assert blocks(device) == {1: 2}
    device.content[GEOMETRY.block_offset(0, 0) + 50] ^= 1
    assert blocks(device, 3) == {1: 2}, "copy B was not mended"


def test_appending_to_a_region_whose_beginning_failed_is_refused() -> None:
    """It is no damage, for no block named it: the other region is to be begun."""
    device = formatted()
    disk = opened(device)
    device.fail_at = device.writes + 1
    with pytest.raises(WitnessError):
        disk.call(DiskCall(write=append(1, fresh=True)))
    assert disk.call(DiskCall(write=append(2))).full
    assert not disk.call(DiskCall(write=append(1, fresh=True, region=0))).full


def test_a_content_equal_to_an_earlier_one_does_not_inherit_its_end() -> None:
    """The first record is the same, the second is of another time: it does not count."""
    device = formatted()
    disk = opened(device)
    disk.call(DiskCall(write=append(1, fresh=True)))
    disk.call(DiskCall(write=append(2)))
    disk.call(DiskCall(write=append(1, fresh=True)))
    said = block(1, accepted=BALLOT, region=1, generation=1, key=Key(BALLOT, 1))
    disk.call(DiskCall(block=said))
    region = disk.call(DiskCall(region=RegionRead(block=said))).region
    assert region == Region(accepted=BALLOT, entries=(entry(1, BALLOT),))


def test_what_is_begun_anew_while_it_is_read_does_not_count() -> None:
    """The beginning is of the old content, the rest of the new one: the reader is told."""
    device = formatted()
    owner, reader = opened(device), opened(device, 2)
    said = block(1, accepted=BALLOT, region=1, generation=1, key=Key(BALLOT, 1))
    owner.call(DiskCall(write=append(1, fresh=True), block=said))
    owner.call(DiskCall(write=append(2)))  # acknowledged, and no block names it
    original, start = device.read, GEOMETRY.region_offset(0, 1)

    def read_and_rewrite(offset: int, length: int) -> bytes:
        data = original(offset, length)
        if offset != start:
            return data
        device.read = original  # type: ignore[method-assign]
        for generation, region in ((2, 0), (3, 1)):
            fresh = append(3, fresh=True, region=region, generation=generation)
            names = {"region": region, "generation": generation, "key": Key(BALLOT, 3)}
            owner.call(DiskCall(write=fresh, block=block(generation, accepted=BALLOT, **names)))
        return data[:UNIT_BYTES] + original(offset, length)[UNIT_BYTES:]

    device.read = read_and_rewrite  # type: ignore[method-assign]
    found = reader.call(DiskCall(region=RegionRead(block=said)))
    assert found.region is None
    [newer] = found.blocks
    assert (newer.region, newer.generation) == (1, 3)
    again = reader.call(DiskCall(region=RegionRead(block=newer)))
    assert again.region == Region(accepted=BALLOT, entries=(entry(3, BALLOT),))


def test_a_restarted_writer_appends_behind_what_is_there() -> None:
    """The end of the region is found on the disk; the sequence goes on."""
    device = formatted()
    said = block(1, accepted=BALLOT, region=1, generation=1, key=Key(BALLOT, 1))
    opened(device).call(DiskCall(write=append(1, fresh=True), block=said))
    opened(device).call(DiskCall(write=append(2), block=replace(said, stamp=2)))
    (found,) = opened(device, 2).call(DiskCall(read=True)).blocks
    assert (found.sequence, found.stamp) == (2, 2)
    region = opened(device, 3).call(DiskCall(region=RegionRead(block=found))).region
    assert region is not None
    assert [item.index for item in region.entries] == [1, 2]


def test_a_region_shorter_than_its_block_says_is_damage() -> None:
    """Reading it, and appending to it, is refused."""
    device = formatted()
    said = block(1, accepted=BALLOT, region=1, generation=1, key=Key(BALLOT, 2))
    disk = opened(device)
    disk.call(DiskCall(write=append(1, fresh=True)))
    disk.call(DiskCall(write=append(2), block=said))
    device.content[GEOMETRY.region_offset(0, 1) + UNIT_BYTES + 100] ^= 1
    (found,) = opened(device, 2).call(DiskCall(read=True)).blocks
    for call in (DiskCall(region=RegionRead(block=found)), DiskCall(write=append(3))):
        with pytest.raises(WitnessError) as raised:
            opened(device).call(call)
        assert code(raised) == "witness-damaged"


def test_the_other_copy_answers_for_a_damaged_one() -> None:
    """Copy B is read where copy A is not whole, and a restart of the writer mends it."""
    device = formatted()
    opened(device).call(DiskCall(block=block(7)))
    for copy in (0, 1):
        device.content[GEOMETRY.block_offset(0, copy) + 50] ^= 1
        assert blocks(device) == {1: 7}
        opened(device)
        assert decode_block(
            device.read(GEOMETRY.block_offset(0, copy), UNIT_BYTES),
            HEADER.disk,
            GEOMETRY.block_offset(0, copy),
        )


@pytest.mark.parametrize("rot", [b"\x01", bytes(UNIT_BYTES)])
def test_a_block_lost_in_both_copies_stops_everybody(rot: bytes) -> None:
    """What it promised is unknown: zeros, too, are damage and not an empty place."""
    device = formatted()
    opened(device).call(DiskCall(block=block(7)))
    reader = opened(device, 2)
    for copy in (0, 1):
        offset = GEOMETRY.block_offset(0, copy) + (0 if len(rot) > 1 else 70)
        device.content[offset : offset + len(rot)] = rot
    for attempt in (lambda: reader.call(DiskCall(read=True)), lambda: opened(device)):
        with pytest.raises(WitnessError) as raised:
            attempt()
        assert code(raised) == "witness-damaged"
        assert raised.value.hint.endswith("leitwolf quorum replace")


def test_a_write_on_its_way_is_read_again() -> None:
    """Both copies torn for a moment is no damage."""
    device = formatted()
    opened(device).call(DiskCall(block=block(7)))
    reader = opened(device, 2)
    whole = bytes(device.content)
    for copy in (0, 1):
        device.content[GEOMETRY.block_offset(0, copy) + 50] ^= 1
    reads, original = [0], device.read

    def read_and_pass(offset: int, length: int) -> bytes:
        reads[0] += 1
        data = original(offset, length)
        if reads[0] == 2:
            device.content[:] = whole
        return data

    device.read = read_and_pass  # type: ignore[method-assign]
    assert [item.stamp for item in reader.call(DiskCall(read=True)).blocks] == [7]
    assert reads[0] == 3


def test_another_cluster_is_noticed_at_every_read() -> None:
    """A disk formatted anew by somebody else is foreign, whichever copy shows it."""
    for where in (0, HALF_BYTES):
        device = formatted()
        disk = opened(device)
        device.content[0] ^= 1  # so that copy B is looked at
        other = encode_header(replace(HEADER, cluster="other", disk="other"))
        device.content[where : where + UNIT_BYTES] = other
        with pytest.raises(WitnessError) as raised:
            disk.call(DiskCall(read=True))
        assert code(raised) == "witness-foreign"


def formatted_anew(device: MemoryDevice) -> None:
    write_structure(device, replace(HEADER, disk="disk-2"), None)


def without_first_block(device: MemoryDevice) -> None:
    for copy in (0, 1):
        offset = GEOMETRY.block_offset(0, copy)
        device.content[offset : offset + UNIT_BYTES] = bytes(UNIT_BYTES)


@pytest.mark.parametrize(
    ("lose", "told"),
    [(formatted_anew, "witness-foreign"), (without_first_block, "witness-damaged")],
)
def test_nothing_is_written_where_the_own_block_is_gone(
    lose: Callable[[MemoryDevice], None], told: str
) -> None:
    """New blocks stay whole; and what else was lost with a block is unknown, whoever wrote last."""
    device = formatted()
    disk = opened(device)
    disk.call(DiskCall(block=block(1)))
    lose(device)
    image = bytes(device.content)
    with pytest.raises(WitnessError) as raised:
        disk.call(DiskCall(block=block(2), known=1, read=True))
    assert code(raised) == told
    assert device.content == image


def test_one_header_may_be_damaged_not_both() -> None:
    """With one whole header all goes on; with none nothing is believed."""
    device = formatted()
    disk = opened(device)
    device.content[0] ^= 1
    disk.call(DiskCall(read=True))
    opened(device, 2)
    device.content[HALF_BYTES] ^= 1
    with pytest.raises(WitnessError) as raised:
        disk.call(DiskCall(read=True))
    assert code(raised) == "witness-damaged"
    with pytest.raises(WitnessError) as raised:
        opened(device, 2)
    assert code(raised) == "witness-unformatted"


def test_the_wrong_cluster_or_node_cannot_open_it() -> None:
    """Every cluster has its own disk, and a node its place on it."""
    from leitwolf.witness.disk import BlockingDisk

    with pytest.raises(WitnessError) as raised:
        BlockingDisk(formatted(), cluster="other", node=1)
    assert code(raised) == "witness-foreign"
    with pytest.raises(WitnessError) as raised:
        BlockingDisk(formatted(), cluster=CLUSTER, node=NODES + 1)
    assert code(raised) == "witness-unfit"
    with pytest.raises(InvariantError):
        opened(formatted()).call(DiskCall(block=block(1, node=2)))


@pytest.mark.parametrize(
    ("offset", "magic", "word"),
    [
        (0x438, b"\x53\xef", "ext4"),
        (0, b"XFSB", "XFS"),
        (512, b"EFI PART", "GPT"),
        (510, b"\x55\xaa", "MBR"),
        (512, b"LABELONE", "LVM2"),
        (4086, b"SWAPSPACE2", "swap"),
        (0, b"SBD_SBD_", "SBD"),
        (99_999, b"x", "unknown"),
    ],
)
def test_what_a_device_holds_is_named(offset: int, magic: bytes, word: str) -> None:
    """Whoever is refused reads what would be lost."""
    data = bytearray(INSPECTED_BYTES)
    assert what_stands(bytes(data)) == ""
    data[offset : offset + len(magic)] = magic
    assert word in what_stands(bytes(data))


def test_a_quorum_disk_is_recognised_by_either_header() -> None:
    """The second copy tells it even behind a new partition table."""
    data = bytearray(formatted().content[:INSPECTED_BYTES])
    assert CLUSTER in what_stands(bytes(data))
    data[:UNIT_BYTES] = bytes(UNIT_BYTES)
    assert CLUSTER in what_stands(bytes(data))


def test_memory_and_other_things_are_no_disks(tmp_path: Path) -> None:
    """What does not survive a crash, or is no file, is refused with a reason."""
    in_memory = Path(f"/dev/shm/leitwolf-disk-{os.getpid()}")
    in_memory.write_bytes(b"")
    try:
        for path, word in ((in_memory, "memory"), (tmp_path, "neither")):
            with pytest.raises(WitnessError) as raised:
                DirectFile(path)
            assert code(raised) == "witness-unfit"
            assert word in raised.value.text
    finally:
        in_memory.unlink()


def test_a_call_that_is_late_blocks_the_next_ones_until_it_is_back() -> None:
    """No second write is sent while one is on its way (A4)."""
    worker, gate, done = Worker("disk", 0.05), threading.Event(), []
    with pytest.raises(WitnessError):
        worker.run(gate.wait)
    with pytest.raises(WitnessError) as raised:
        worker.run(lambda: done.append(1))
    assert code(raised) == "witness-unreachable"
    gate.set()
    worker._timeout_s = 30
    worker.run(lambda: done.append(2))
    assert done == [2]
    worker.close(lambda: done.append(3))
    worker._thread.join(30)
    assert done == [2, 3]


def test_locations_of_luns() -> None:
    """Portal, port, target and number; anything else is refused."""
    assert parse_location("iscsi://192.0.2.1/iqn.x:y/3") == Lun("192.0.2.1:3260", "iqn.x:y", 3)
    assert parse_location("iscsi://[2001:db8::1]:99/t/0") == Lun("[2001:db8::1]:99", "t", 0)
    for wrong in ("iscsi://", "iscsi://host/target", "iscsi://host/target/x", "iscsi:/a/b/1"):
        with pytest.raises(WitnessError):
            parse_location(wrong)


def test_reservation_keys_tell_cluster_and_node() -> None:
    """Two clusters, or two nodes, never have the same key, and none is zero."""
    keys = {key_of(cluster, node) for cluster in ("a", "b") for node in (1, 2, 65535)}
    assert len(keys) == 6
    assert all(0 < key < 1 << 64 for key in keys)


def test_durations_are_told_by_quantiles() -> None:
    """Rank ceil(n * q); without any all are zero."""
    assert quantiles([]).worst_ns == 0
    view = quantiles(reversed(range(1, 4097)))
    assert (view.samples, view.worst_ns) == (4096, 4096)
    assert (view.p50_ns, view.p99_ns, view.p999_ns) == (2048, 4056, 4092)


@pytest.mark.parametrize("damage", [False, True])
def test_a_disk_that_was_written_to_is_told_from_a_new_one(
    monkeypatch: pytest.MonkeyPatch, damage: bool
) -> None:
    """One block is enough; one that cannot be read may be of an earlier use."""
    device = formatted()
    monkeypatch.setattr(inspect, "open_device", lambda *_, **__: device)
    demand_unused("/dev/quorum")
    if damage:
        device.write(GEOMETRY.block_offset(1, 1), bytes(UNIT_BYTES))
    else:
        opened(device).call(DiskCall(block=BLOCK))
    with pytest.raises(Conflict) as raised:
        demand_unused("/dev/quorum")
    assert raised.value.code == "witness-used"
