"""A quorum disk on an iSCSI LUN: durable writes, reservations, and a target that goes away."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.target_support import Target
from tests.integration.witness_support import wait_for

from leitwolf.model.errors import WitnessError
from leitwolf.model.ids import NodeId
from leitwolf.model.witness import DiskBlock
from leitwolf.ports.witness import DiskCall
from leitwolf.wire.ballot import Ballot
from leitwolf.witness.disk import TimedDisk, open_disk
from leitwolf.witness.format import format_disk
from leitwolf.witness.inspect import check_disk
from leitwolf.witness.iscsi import IscsiDevice
from leitwolf.witness.reservations import key_of

pytestmark = [pytest.mark.root, pytest.mark.needs("tgtd", "tgtadm")]

CLUSTER = "3f0c4c1e-0000-4000-8000-000000000001"
REGION_BYTES = 256 << 10
SIZE_BYTES = 16 << 20
TIMEOUT_S = 30.0


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    made = Target(tmp_path, SIZE_BYTES)
    try:
        made.start()
        format_disk(made.location, cluster=CLUSTER, nodes_max=4, region_bytes=REGION_BYTES)
        yield made
    finally:
        made.stop()


def disk(target: Target, node: int, timeout_s: float = TIMEOUT_S) -> TimedDisk:
    return open_disk(target.location, cluster=CLUSTER, node=node, timeout_s=timeout_s)


def block(node: int, stamp: int) -> DiskBlock:
    return DiskBlock(node=NodeId(node), boot=1, sequence=0, stamp=stamp)


def stamps(disk: TimedDisk) -> dict[int, int]:
    return {item.node: item.stamp for item in disk.call(DiskCall(read=True)).blocks}


def stamps_or_none(disk: TimedDisk) -> dict[int, int] | None:
    try:
        return stamps(disk)
    except WitnessError:
        return None


def opens(target: Target, found: list[TimedDisk]) -> bool:
    """Open the disk of node 1 with a short limit, tell whether that went well."""
    with contextlib.suppress(WitnessError):
        found.append(disk(target, 1, timeout_s=1))
        return True
    return False


def writes(disk: TimedDisk, stamp: int) -> bool:
    """Write node 1's block, tell whether that went well."""
    with contextlib.suppress(WitnessError):
        disk.call(DiskCall(block=block(1, stamp)))
        return True
    return False


def test_two_nodes_write_and_see_each_other(target: Target) -> None:
    """Both nodes write under one reservation, and each reads what the other wrote."""
    first, second = disk(target, 1), disk(target, 2)
    try:
        first.call(DiskCall(block=block(1, 11)))
        found = second.call(DiskCall(block=block(2, 22), read=True)).blocks
        assert {item.node: item.stamp for item in found} == {1: 11, 2: 22}
        assert stamps(first) == {1: 11, 2: 22}
    finally:
        first.close()
        second.close()
    assert check_disk(target.location).faults == ()


def test_an_evicted_node_writes_no_more(target: Target) -> None:
    """A preempted key ends the node's writes, while it can still read; the others go on."""
    first, second = disk(target, 1), disk(target, 2)
    try:
        first.call(DiskCall(block=block(1, 1)))
        second.call(DiskCall(fence=(1, 4)))
        with pytest.raises(WitnessError) as raised:
            first.call(DiskCall(block=block(1, 2)))
        assert raised.value.code == "witness-fenced"
        assert stamps(first) == {1: 1}
        second.call(DiskCall(block=block(2, 5)))
        assert stamps(second) == {1: 1, 2: 5}
    finally:
        first.close()
        second.close()


def test_a_fenced_node_does_not_come_back_by_a_new_session(target: Target) -> None:
    """After the session broke, a removed key is not registered again behind the others' back."""
    device = IscsiDevice(target.location, timeout_s=TIMEOUT_S)
    second = disk(target, 2)
    try:
        device.claim(CLUSTER, 1, 0, lambda: None)
        second.call(DiskCall(fence=(1,)))
        assert device._session is not None
        device._session.close(logout=False)
        device._session = None
        with pytest.raises(WitnessError) as raised:
            device.read(0, 4096)
        assert raised.value.code == "witness-fenced"
        reader = IscsiDevice(target.location, timeout_s=TIMEOUT_S)
        assert reader.keys() == [key_of(CLUSTER, 2)]
        reader.close()
    finally:
        device.close()
        second.close()


def test_an_evicted_node_cannot_register_again_by_opening(target: Target) -> None:
    """Its key stays away from the LUN; a node that was only taken over from comes back."""
    first, second, third = disk(target, 1), disk(target, 2), disk(target, 3)
    ballot = Ballot(0, 5, 2)
    evicts = DiskBlock(
        node=NodeId(2), boot=1, sequence=0, promised=ballot, accepted=ballot, evicted=(1,)
    )
    try:
        second.call(DiskCall(block=evicts, fence=(1, 3), read=True))
        with pytest.raises(WitnessError) as raised:
            disk(target, 1)
        assert raised.value.code == "witness-fenced"
        with pytest.raises(WitnessError) as raised:
            third.call(DiskCall(block=block(3, 1)))
        assert raised.value.code == "witness-fenced"
        again = disk(target, 3)
        again.call(DiskCall(block=block(3, 2)))
        again.close()
        reader = IscsiDevice(target.location, timeout_s=TIMEOUT_S)
        assert set(reader.keys()) == {key_of(CLUSTER, 2), key_of(CLUSTER, 3)}
        reader.close()
    finally:
        first.close()
        second.close()
        third.close()


def test_another_cluster_is_kept_out_by_the_reservation(target: Target) -> None:
    """A LUN reserved by one cluster cannot be claimed by another."""
    first = disk(target, 1)
    device = IscsiDevice(target.location, timeout_s=TIMEOUT_S)
    try:
        with pytest.raises(WitnessError) as raised:
            device.claim("another", 1, 0, lambda: None)
        assert raised.value.code == "witness-foreign"
    finally:
        device.close()
        first.close()


def test_a_restarted_target_is_used_again(target: Target) -> None:
    """When the target is back, the same handle logs in, reserves and writes again."""
    first = disk(target, 1)
    try:
        first.call(DiskCall(block=block(1, 1)))
        target.stop()
        with pytest.raises(WitnessError) as raised:
            first.call(DiskCall(block=block(1, 2)))
        assert raised.value.code == "witness-unreachable"
        target.start()
        first.call(DiskCall(block=block(1, 3)))
        assert stamps(first) == {1: 3}
        reader = IscsiDevice(target.location, timeout_s=TIMEOUT_S)
        assert reader.keys() == [key_of(CLUSTER, 1)]
        assert reader.reservation() == (key_of(CLUSTER, 1), 5)
        reader.close()
    finally:
        first.close()


def test_a_target_that_does_not_answer_costs_the_time_limit(target: Target) -> None:
    """A hanging target is an error after the limit; nothing is sent before it is resolved."""
    found: list[TimedDisk] = []
    # The limit is short for a machine that stands still: what fails is tried again.
    wait_for(lambda: opens(target, found), "the disk")
    (first,) = found
    try:
        wait_for(lambda: writes(first, 1), "the target")
        target.signal(signal.SIGSTOP)
        for _ in range(2):
            with pytest.raises(WitnessError) as raised:
                first.call(DiskCall(block=block(1, 2)))
            assert raised.value.code == "witness-unreachable"
        target.signal(signal.SIGCONT)
        wait_for(lambda: writes(first, 3), "the target")
        wait_for(lambda: stamps_or_none(first) == {1: 3}, "the target")
    finally:
        first.close()
