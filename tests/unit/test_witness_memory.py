"""What a node remembers of a disk or witness: nothing of it sinks, and it outlives a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.disk_world import GEOMETRY, formatted, opened
from tests.unit.test_store_log import B1, B2, IDENTITY, SMALL, entry, reopened

from leitwolf.core.quorum.memory import Memory
from leitwolf.model.errors import WitnessError
from leitwolf.model.ids import NodeId
from leitwolf.model.log import PromisedRecord, WitnessRecord
from leitwolf.model.witness import ROLLED_BACK, DiskBlock
from leitwolf.ports.witness import DiskCall
from leitwolf.store import QuorumLog
from leitwolf.wire.ballot import NO_KEY, Ballot, Key


def record(storage: str, sequence: int, nodes: int = 2) -> WitnessRecord:
    sequences = tuple((node, sequence) for node in range(1, nodes + 1))
    return WitnessRecord(storage=storage, sequences=sequences, promised=B1, key=Key(B1, 7))


@pytest.mark.parametrize(
    ("sequences", "promised", "key", "word"),
    [
        ({1: 4, 2: 9}, B1, Key(B1, 7), ""),
        ({1: 5, 2: 9, 3: 1}, B2, Key(B2, 3), ""),
        ({1: 3, 2: 9}, B1, Key(B1, 7), "block 4 of node 1"),
        ({1: 4}, B1, Key(B1, 7), "block 9 of node 2"),
        ({1: 4, 2: 9}, Ballot(0, 1, 2), Key(B1, 7), "was promised"),
        ({1: 4, 2: 9}, B1, Key(B1, 6), "entry 7"),
    ],
)
def test_nothing_sinks(sequences: dict[int, int], promised: Ballot, key: Key, word: str) -> None:
    """Every number may grow, new blocks may come; whatever is less is named."""
    memory = Memory("s", None)
    memory.note({1: 4, 2: 9}, B1, Key(B1, 7))
    memory.note({1: 2}, Ballot(0, 0, 1), Key(B1, 1))
    said = memory.lost(sequences, promised, key)
    assert word in said
    assert bool(said) is bool(word)


def test_what_was_written_down_is_known_again() -> None:
    """A memory that begins with a record misses the same as the one that made it."""
    memory = Memory("s", None)
    memory.note({1: 4}, B1, Key(B1, 7))
    again = Memory("s", memory.record())
    assert again.lost({1: 3}, B1, Key(B1, 7))
    assert again.sequence(1) == 4
    assert again.sequence(2) == 0


def test_records_survive_a_restart_and_the_change_of_segments(tmp_path: Path) -> None:
    """The newest of the two storages used last, also when their segment is long gone."""
    log = QuorumLog.create(tmp_path / "quorum", IDENTITY, sizes=SMALL)
    log.write([PromisedRecord(ballot=B1), record("a", 1), record("b", 1), record("c", 1)])
    log.write([record("b", 2)])
    log.sync()
    log = reopened(log, tmp_path / "quorum")
    assert log.loaded.witnesses == (record("c", 1), record("b", 2))
    for index in range(1, 60):
        log.write([entry(index, size=2_000)])
        log.sync()
    log = reopened(log, tmp_path / "quorum")
    assert log.loaded.witnesses == (record("c", 1), record("b", 2))
    log.close()


def test_the_largest_records_fit_into_a_segment_header(tmp_path: Path) -> None:
    """Two disks with 64 nodes each, written for years."""
    log = QuorumLog.create(tmp_path / "quorum", IDENTITY, sizes=SMALL)
    storages = [f"{number:032d}-1234" for number in (1, 2)]
    log.write([record(storage, 1 << 50, nodes=64) for storage in storages])
    for index in range(1, 60):
        log.write([entry(index, size=2_000)])
        log.sync()
    log = reopened(log, tmp_path / "quorum")
    assert [one.storage for one in log.loaded.witnesses] == storages
    log.close()


def test_a_block_is_written_over_nothing_older_than_is_known() -> None:
    """An older image of the device came back while it is in use: nothing is written over it."""
    device = formatted()
    disk = opened(device)
    said = DiskBlock(node=NodeId(1), boot=1, sequence=1)
    disk.call(DiskCall(block=said))
    image = bytes(device.content)
    for sequence in (2, 3):
        block = DiskBlock(node=NodeId(1), boot=1, sequence=sequence)
        disk.call(DiskCall(block=block, known=sequence - 1))
    later = bytes(device.content)
    device.content[:] = image
    block = DiskBlock(node=NodeId(1), boot=1, sequence=4)
    with pytest.raises(WitnessError) as raised:
        disk.call(DiskCall(block=block, known=3))
    assert raised.value.code == ROLLED_BACK
    assert bytes(device.content) == image
    device.content[:] = later
    start = GEOMETRY.block_offset(0, 1)  # only copy B came from the past: its turn came later
    device.content[start : start + 4096] = image[start : start + 4096]
    with pytest.raises(WitnessError) as raised:
        disk.call(DiskCall(block=block, known=3))
    assert raised.value.code == ROLLED_BACK


def test_others_show_that_they_live_by_whatever_they_write() -> None:
    """Block, stamp, promise or key; what this node wrote itself is no sign."""
    disk = Memory("d", None)
    disk.note({1: 4, 2: 7})
    before = disk.signs(1)
    disk.note({1: 5})
    assert disk.signs(1) == before
    disk.note({2: 8})
    assert disk.signs(1) != before
    cas = Memory("o", None)
    cas.note({0: 4}, Ballot(0, 3, 2), NO_KEY)
    before = cas.signs(1)
    cas.note({0: 5}, Ballot(0, 3, 2), NO_KEY)
    assert cas.signs(1) not in (None, before)
    cas.note({0: 5}, Ballot(0, 4, 1), NO_KEY)
    assert cas.signs(1) is None
