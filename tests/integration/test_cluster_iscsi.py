"""Real nodes whose quorum is a LUN of an iSCSI target: dead owner, dead SAN, evicted node."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.world import CLIENT
from tests.integration.membership_support import GUEST, MEMBERS, NODES, Members, formed
from tests.integration.target_support import Target

from leitwolf.model.views import QuorumMember, QuorumView
from leitwolf.witness.reservations import key_of

pytestmark = [pytest.mark.root, pytest.mark.needs("tgtd", "tgtadm")]

_PORT = 3260
_SIZE = 300 << 20
_MEMORY = Path("/dev/shm")
_WAIT_S = 30.0
_STOPPED_S = 3.0
"""T_d is below 0.3 s and R 0.42 s; the rest is for a machine that is busy with other things."""
_KEYS = """
import sys
from leitwolf.witness.iscsi import IscsiDevice
device = IscsiDevice(sys.argv[1], timeout_s=5)
print(device.keys())
device.close()
"""
_WRITE = """
import sys
from leitwolf.model.errors import WitnessError
from leitwolf.model.witness import DiskBlock
from leitwolf.ports.witness import DiskCall
from leitwolf.witness.disk import open_disk
try:
    disk = open_disk(sys.argv[1], cluster=sys.argv[2], node=int(sys.argv[3]), timeout_s=5)
    disk.call(DiskCall(block=DiskBlock(node=int(sys.argv[3]), boot=1, sequence=0)))
    print("written")
except WitnessError as error:
    print(error.code)
"""


@pytest.fixture
def members() -> Iterator[Members]:
    with formed(welcome=True) as cluster:
        yield cluster


@pytest.fixture
def target(members: Members) -> Iterator[Target]:
    """A SAN on the clients' machine, its LUN in memory, as the quorum disk of the cluster."""
    world = members.world
    folder = world.folder / "san"
    folder.mkdir()
    enter = world.enter_network(CLIENT)
    lun = _MEMORY / f"leitwolf-{os.getpid()}.lun"
    san = Target(folder, _SIZE, host=world.address(CLIENT), port=_PORT, enter=enter, lun=lun)
    try:
        san.start()
        members.run("quorum", "disk", "format", san.location)
        members.run("quorum", "set", "disk", san.location)
        members.until_votes(1)
        yield san
    finally:
        san.stop()
        lun.unlink()


def disk_of(view: QuorumView) -> QuorumMember:
    """The one member that is a disk."""
    [disk] = [member for member in view.members if member.times is not None]
    return disk


def in_network(members: Members, program: str, *words: str) -> str:
    """Run a program that reaches the SAN."""
    done = subprocess.run(
        [*members.world.enter_network(CLIENT), sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=_WAIT_S,
        env=members.lab.environment("n1"),
    )
    return done.stdout.strip()


def until_all_reach(members: Members, node: str = "n1") -> QuorumView:
    """Wait until every node reaches the disk."""

    def good(view: QuorumView) -> bool:
        return {path.node for path in disk_of(view).paths if path.reaches} == set(NODES)

    return members.until_quorum(node, good, "everybody at the disk")


def test_the_owner_dies_and_an_evicted_node_stays_out(members: Members, target: Target) -> None:
    """Another node takes the LUN over; who was evicted while it was off has no key any more."""
    view = until_all_reach(members)
    disk = disk_of(view)
    assert (disk.unfenced, disk.fault) == ("", "")
    assert disk.silence_ms == view.promise_ms
    owner = members.leader()
    other = next(node for node in MEMBERS if node != owner)
    members.world.power_off(owner)
    members.until_online(other, {owner})
    members.lab.boot(owner)
    members.until(other, lambda view: all(node.up for node in view.nodes), "all four together")
    until_all_reach(members, other)

    cluster = members.status(other).uuid
    numbers = {node.name: int(node.id) for node in members.status(other).nodes}
    members.world.power_off(GUEST)
    members.until(other, lambda view: view.quorum, "a leader")
    members.run("node", "evict", GUEST, "--timeout", "30", node=other)
    members.until(other, lambda view: len(view.nodes) == len(MEMBERS), "three members")
    keys = {key_of(cluster, number) for name, number in numbers.items() if name != GUEST}

    def kept() -> set[int]:
        return set(json.loads(in_network(members, _KEYS, target.location)))

    deadline = time.monotonic() + _WAIT_S
    while kept() != keys:
        assert time.monotonic() < deadline, (kept(), keys)
        time.sleep(0.2)
    late = in_network(members, _WRITE, target.location, cluster, str(numbers[GUEST]))
    assert late == "witness-fenced"
    assert kept() == keys


def test_a_frozen_san_stops_everything_until_it_is_thawed(members: Members, target: Target) -> None:
    """Without its disk the cluster stops within moments, and comes back by itself."""
    until_all_reach(members)
    begun = time.monotonic()
    target.signal(signal.SIGSTOP)
    for node in NODES:
        members.until(node, lambda view: not view.quorum, "no quorum")
    assert time.monotonic() - begun < _STOPPED_S
    lost = members.until_quorum("n1", lambda view: disk_of(view).fault, "the fault")
    assert disk_of(lost).times is not None
    assert {found.code for found in lost.findings} == {"path-lost"}
    target.signal(signal.SIGCONT)
    for node in NODES:
        members.until_online(node)
    back = until_all_reach(members)
    times = disk_of(back).times
    assert times is not None
    assert times.failures >= 1
    assert back.findings == ()


def test_the_way_to_the_lun_changes_online(members: Members, target: Target) -> None:
    """Another portal for all, the former one for a node; what is another disk is refused."""
    until_all_reach(members)
    second = target.add_portal(_PORT + 1)
    members.run("quorum", "relocate", second)
    members.run("quorum", "relocate", target.location, "--node", "n2", node="n2")
    places = {node: target.location if node == "n2" else second for node in NODES}

    def there(view: QuorumView) -> bool:
        found = {path.node: path.location for path in disk_of(view).paths if path.reaches}
        return found == places and disk_of(view).location == second

    view = members.until_quorum("n1", there, "the new way")
    assert not view.joint
    time.sleep(6)  # every node looked again, by its new way
    view = members.until_quorum("n1", there, "the new way")
    assert view.votes == 1
    members.until_online("n1")

    other = members.world.folder / "other"
    members.run("quorum", "disk", "format", str(other), "--create", "--nodes", "4")
    for words, code in (
        (("relocate", str(other)), "witness-foreign"),
        (("relocate", second, "--node", "n3"), "invalid-config"),
    ):
        done = members.lab.command("n1", "quorum", *words)
        assert done.returncode != 0
        assert code in done.stderr, done.stderr
