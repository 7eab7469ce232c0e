"""Kinds of quorum on real nodes: shared disk, disk as witness, share, back to a majority.

The disk is a loop device in memory, so that what is tested is the protocol and not this machine's
storage; it is opened with O_DIRECT like every block device.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.prober import Prober
from lab.world import World
from tests.integration.membership_support import GUEST, MEMBERS, PORT, VIP, Members, block_device

from leitwolf.model.errors import LeitwolfError
from leitwolf.model.views import StatusView

pytestmark = pytest.mark.root

NODES = (*MEMBERS, GUEST)
_WAIT_S = 20.0


@pytest.fixture
def members() -> Iterator[Members]:
    with World(4) as world:
        cluster = Members(world)
        try:
            cluster.form(votes="strict")
            cluster.serve()
            cluster.welcome()
            yield cluster
        finally:
            cluster.lab.close()


@pytest.fixture
def device(members: Members) -> Iterator[Path]:
    """A block device that every node sees."""
    with block_device(members) as path:
        yield path


def command(members: Members, *words: str | Path) -> str:
    """Run a command on n1, which must succeed."""
    done = members.lab.command("n1", *(str(word) for word in words))
    assert done.returncode == 0, done.stderr + done.stdout
    return str(done.stdout)


def until_quorum(members: Members, votes: int, count: int) -> None:
    """Wait until one configuration with so many votes and acceptors is in force."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        view = members.client("n1").quorum()
        voting = [member for member in view.members if member.voting]
        if not view.joint and view.votes == votes and len(voting) == count:
            return
        time.sleep(0.05)
    raise AssertionError(command(members, "quorum", "status") + members.log_text())


def until_online(members: Members, node: str, *, without: tuple[str, ...]) -> StatusView:
    """Wait until the group is online on a node that is left."""
    gone = set(without)

    def good(view: StatusView) -> bool:
        return view.quorum and any(
            group.status == "online" and group.owner not in gone for group in view.groups
        )

    return members.until(node, good, "the group online")


def use_disk(members: Members, device: Path, *options: str) -> None:
    command(members, "quorum", "disk", "format", device)
    command(members, "quorum", "set", "disk", device, *options)


def test_kind_of_quorum_changes_without_an_outage(members: Members, device: Path) -> None:
    """Nodes alone, then the disk alone, then nodes again: clients lose nothing, nothing moves."""
    before = members.status("n1")
    with Prober(members.world, VIP, PORT, interval_us=2000) as prober:
        assert prober.wait_for_answers()
        use_disk(members, device)
        until_quorum(members, 1, 5)
        command(members, "quorum", "set", "nodes")
        until_quorum(members, 4, 4)
        lost = [outage.milliseconds for outage in prober.outages()]
    assert not [one for one in lost if one >= 1_000], lost
    after = members.status("n1")
    assert after.leader == before.leader
    assert [group.generation for group in after.groups] == [
        group.generation for group in before.groups
    ]


def test_one_node_and_the_disk_are_enough(members: Members, device: Path) -> None:
    """Three of four nodes die, the owner of the disk last: the fourth goes on alone."""
    use_disk(members, device)
    until_quorum(members, 1, 5)
    owner = members.leader()
    dying = [node for node in NODES if node != owner][:2]
    [last] = [node for node in NODES if node not in (owner, *dying)]
    for node in (*dying, owner):
        members.world.power_off(node)
        time.sleep(1)
    view = until_online(members, last, without=(*dying, owner))
    assert view.leader == last


def test_four_nodes_split_the_pair_with_the_disk_goes_on(members: Members, device: Path) -> None:
    """2:2: the owner's pair keeps its groups, the other pair stops, and joins again."""
    use_disk(members, device)
    until_quorum(members, 1, 5)
    owner = members.leader()
    other = [node for node in NODES if node != owner]
    for node in other[1:]:
        members.world.cut(node, ("ic0",))
    members.until(other[2], lambda view: not view.quorum, "no quorum on the other side")
    assert members.status(owner).leader == owner
    until_online(members, owner, without=tuple(other[1:]))
    for node in other[1:]:
        members.world.heal(node, ("ic0",))
    members.until(
        owner, lambda view: all(node.up for node in view.nodes), "all four together again"
    )


def test_two_nodes_and_a_share_survive_either_death(members: Members) -> None:
    """With a file on a share as witness the survivor of two nodes goes on."""
    for node in ("n3", GUEST):
        members.evict(node)
    share = members.world.folder / "witness"
    command(members, "quorum", "set", "witness", f"share:{share}?local=yes")
    until_quorum(members, 3, 3)
    leader = members.leader()
    [other] = [node for node in ("n1", "n2") if node != leader]
    members.world.power_off(leader)
    view = until_online(members, other, without=(leader,))
    assert view.leader == other


def test_wrong_disks_are_refused_with_what_to_do(members: Members, device: Path) -> None:
    """An unformatted one, one of another cluster, a silence that the profile cannot bear."""
    for words, code in (
        (("quorum", "set", "disk", str(device)), "witness-unformatted"),
        (("quorum", "set", "witness", "gopher://x/y"), "invalid-config"),
    ):
        done = members.lab.command("n1", *words)
        assert done.returncode != 0
        assert code in done.stderr + done.stdout, done.stderr
    other = "00000000-0000-4000-8000-000000000000"
    command(members, "quorum", "disk", "format", device, "--cluster", other)
    done = members.lab.command("n1", "quorum", "set", "disk", str(device))
    assert "witness-foreign" in done.stderr, done.stderr
    command(members, "quorum", "disk", "format", device, "--force")
    done = members.lab.command("n1", "quorum", "set", "disk", str(device), "--silence", "5000")
    assert "silence-too-long" in done.stderr, done.stderr
    with pytest.raises(LeitwolfError):
        members.client("n1").why("nothing")
