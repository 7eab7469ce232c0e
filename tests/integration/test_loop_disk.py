"""A quorum disk on a loop device and on a file, by O_DIRECT, used by several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path

import pytest
from tests.lun_fake import Host, Lun

from leitwolf.model.errors import WitnessError
from leitwolf.model.ids import NodeId
from leitwolf.model.log import Entry
from leitwolf.model.witness import DiskBlock
from leitwolf.ports.witness import DiskCall, RegionRead, RegionWrite
from leitwolf.wire.ballot import Ballot, Key
from leitwolf.witness.device import DirectFile
from leitwolf.witness.disk import open_disk
from leitwolf.witness.format import format_disk
from leitwolf.witness.inspect import check_disk, dump_disk
from leitwolf.witness.reservations import key_of

pytestmark = pytest.mark.root

CLUSTER = "3f0c4c1e-0000-4000-8000-000000000002"
OTHER = "0b8f6bb4-6c0c-4d4a-9a68-3f1f5f0f2d11"
SIZE_BYTES = 8 << 20
REGION_BYTES = 512 << 10
ROUNDS = 60


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    """A block device of 8 MiB."""
    backing = tmp_path / "backing"
    with backing.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, SIZE_BYTES)
    done = subprocess.run(
        ["losetup", "--find", "--show", backing], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def prepare(location: str, *, create: bool = False) -> None:
    format_disk(location, cluster=CLUSTER, nodes_max=4, region_bytes=REGION_BYTES, create=create)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "leitwolf.cli", "quorum", "disk", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def write_much(location: str, node: int, answers: Queue[tuple[int, list[dict[int, int]]]]) -> None:
    """Append entries and renew as one node; report every reading of the others."""
    disk = open_disk(location, cluster=CLUSTER, node=node, timeout_s=30)
    ballot, seen = Ballot(1, 1, node), []
    for index in range(1, ROUNDS + 1):
        entry = Entry(index=index, ballot=ballot, payload=bytes([node]) * 700)
        write = RegionWrite(
            region=0, generation=1, accepted=ballot, fresh=index == 1, entries=(entry,)
        )
        block = DiskBlock(
            node=NodeId(node),
            boot=1,
            sequence=0,
            accepted=ballot,
            generation=1,
            key=Key(ballot, index),
            stamp=index,
        )
        blocks = disk.call(DiskCall(write=write, block=block, read=True)).blocks
        seen.append({item.node: item.stamp for item in blocks})
    disk.close()
    answers.put((node, seen))


def test_two_processes_write_their_blocks_at_once(loop: str) -> None:
    """Nobody disturbs the other; each sees the other's stamps only grow, and its own at once."""
    prepare(loop)
    context = get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=write_much, args=(loop, node, answers)) for node in (1, 2)]
    for process in processes:
        process.start()
    found = dict(answers.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    for node, seen in found.items():
        assert [stamps[node] for stamps in seen] == list(range(1, ROUNDS + 1))
        others = [stamps.get(3 - node, 0) for stamps in seen]
        assert others == sorted(others)
    assert max(stamps.get(2, 0) for stamps in found[1]) + max(
        stamps.get(1, 0) for stamps in found[2]
    ), "they never met"
    checked = check_disk(loop)
    assert checked.faults == ()
    assert [slot.last_index for slot in checked.view.slots] == [ROUNDS, ROUNDS, 0, 0]


def test_a_reader_gets_a_region_of_several_reads(loop: str) -> None:
    """A region longer than one read comes back whole through another opening."""
    prepare(loop)
    ballot = Ballot(1, 1, 1)
    entries = tuple(Entry(index=i, ballot=ballot, payload=os.urandom(40_000)) for i in range(1, 11))
    block = DiskBlock(
        node=NodeId(1), boot=1, sequence=0, accepted=ballot, generation=1, key=Key(ballot, 10)
    )
    writer = open_disk(loop, cluster=CLUSTER, node=1, timeout_s=30)
    write = RegionWrite(region=0, generation=1, accepted=ballot, fresh=True, entries=entries)
    writer.call(DiskCall(write=write, block=block))
    reader = open_disk(loop, cluster=CLUSTER, node=2, timeout_s=30)
    region = reader.call(DiskCall(region=RegionRead(block=block))).region
    assert region is not None
    assert region.entries == entries
    reader.close()
    writer.close()


@pytest.mark.parametrize("kind", ["device", "file"])
def test_one_process_for_each_node(loop: str, tmp_path: Path, kind: str) -> None:
    """A second process of the same node is refused until the first is gone; other nodes are not."""
    location = loop if kind == "device" else str(tmp_path / "share")
    prepare(location, create=kind == "file")
    first = open_disk(location, cluster=CLUSTER, node=1, timeout_s=30)
    with pytest.raises(WitnessError) as raised:
        open_disk(location, cluster=CLUSTER, node=1, timeout_s=30)
    assert raised.value.code == "witness-denied"
    open_disk(location, cluster=CLUSTER, node=2, timeout_s=30).close()
    first.close()
    open_disk(location, cluster=CLUSTER, node=1, timeout_s=30).close()


def test_a_device_that_holds_something_is_not_formatted(loop: str) -> None:
    """The file system is named and untouched; --force takes it; a second cluster is refused."""
    subprocess.run(["mkfs.ext4", "-q", loop], check=True)
    arguments = ["format", loop, "--nodes", "1", "--region", "1"]
    refused = command(*arguments, "--cluster", CLUSTER)
    assert refused.returncode == 4
    assert "ext4 file system [disk-in-use]" in refused.stderr
    assert subprocess.run(["e2fsck", "-fn", loop], capture_output=True, check=False).returncode == 0
    taken = command(*arguments, "--cluster", CLUSTER, "--force", "--json")
    assert json.loads(taken.stdout)["found"].endswith("ext4 file system")
    other = command(*arguments, "--cluster", OTHER)
    assert f"the quorum disk of Leitwolf cluster {CLUSTER} [disk-in-use]" in other.stderr


def test_the_commands_tell_what_is_wrong(loop: str) -> None:
    """Too small, unformatted, damaged: each has its code, its exit code and what to do."""
    small = command("format", loop, "--cluster", CLUSTER, "--json")
    assert small.returncode == 8
    assert json.loads(small.stdout)["code"] == "witness-unfit"
    assert "269484032" in json.loads(small.stdout)["error"]
    unformatted = command("check", loop)
    assert (unformatted.returncode, unformatted.stdout) == (8, "")
    assert "[witness-unformatted]" in unformatted.stderr
    prepare(loop)
    assert command("check", loop).returncode == 0
    with Path(loop).open("r+b") as device:
        device.seek(4096 + 30)
        device.write(b"rot")
        device.flush()
        os.fsync(device.fileno())
    damaged = command("check", loop)
    assert damaged.returncode == 1
    assert "copy A of the block of node 1 is damaged" in damaged.stdout
    shown = command("dump", loop, "--json")
    assert json.loads(shown.stdout)["header"]["cluster"] == CLUSTER
    assert dump_disk(loop).slots[0].copies == (False, True)
    assert "node 1: never wrote" in command("dump", loop).stdout


def test_a_disk_without_reservations_is_named(loop: str) -> None:
    """It works, and the check says what is missing and what to use instead."""
    prepare(loop)
    assert check_disk(loop).unfenced == "the disk has no reservations"
    done = command("check", loop)
    assert done.returncode == 0, done.stderr
    assert "[witness-unfenced]" in done.stdout


def test_a_block_device_is_fenced_through_the_kernel(loop: str) -> None:
    """What opens it registers; who is fenced by another host is told so at its next fencing."""
    lun = Lun()
    hosts = [Host(lun, name) for name in "ab"]
    devices = [DirectFile(Path(loop), control=host.ioctl) for host in hosts]
    try:
        for number, device in enumerate(devices, 1):
            device.claim(CLUSTER, number, 4096 * number, lambda: None)
        assert lun.keys == {"a": key_of(CLUSTER, 1), "b": key_of(CLUSTER, 2)}
        devices[1].fence((1, 3))
        assert [lun.may_write(host.name) for host in hosts] == [False, True]
        with pytest.raises(WitnessError) as raised:
            devices[0].fence((2,))
        assert raised.value.code == "witness-fenced"
    finally:
        for device in devices:
            device.close()
