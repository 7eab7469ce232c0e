"""Kinds of quorum on real nodes: shared disk, disk as witness, share, back to a majority.

The disk is a loop device in memory, so that what is tested is the protocol and not this machine's
storage.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.disk import shared_disk
from lab.prober import Prober
from tests.integration.membership_support import GUEST, NODES, PORT, VIP, Members, formed

from leitwolf.model.errors import LeitwolfError
from leitwolf.model.views import QuorumView, StatusView

pytestmark = pytest.mark.root


@pytest.fixture
def members() -> Iterator[Members]:
    with formed("strict", welcome=True) as cluster:
        yield cluster


@pytest.fixture
def device(members: Members) -> Iterator[Path]:
    """A block device that every node sees."""
    with shared_disk(members.world) as path:
        yield path


def use_disk(members: Members, device: Path, *options: str) -> None:
    members.run("quorum", "disk", "format", device)
    members.run("quorum", "set", "disk", device, *options)


def test_kind_of_quorum_changes_without_an_outage(members: Members, device: Path) -> None:
    """Nodes alone, then the disk alone, then nodes again: clients lose nothing, nothing moves."""
    before = members.status("n1")
    with Prober(members.world, VIP, PORT, interval_us=2000) as prober:
        assert prober.wait_for_answers()
        use_disk(members, device)
        members.until_votes(1, 5)
        members.run("quorum", "set", "nodes")
        members.until_votes(4, 4)
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
    members.until_votes(1, 5)
    owner = members.leader()
    dying = [node for node in NODES if node != owner][:2]
    [last] = [node for node in NODES if node not in (owner, *dying)]
    for node in (*dying, owner):
        members.world.power_off(node)
        time.sleep(1)
    view = members.until_online(last, without=(*dying, owner))
    assert view.leader == last


def test_four_nodes_split_the_pair_with_the_disk_goes_on(members: Members, device: Path) -> None:
    """2:2: the owner's pair keeps its groups, the other pair stops, and joins again."""
    use_disk(members, device)
    members.until_votes(1, 5)
    owner = members.leader()
    other = [node for node in NODES if node != owner]
    for node in other[1:]:
        members.world.cut(node, ("ic0",))
    members.until(other[2], lambda view: not view.quorum, "no quorum on the other side")
    assert members.status(owner).leader == owner
    members.until_online(owner, without=tuple(other[1:]))
    for node in other[1:]:
        members.world.heal(node, ("ic0",))
    members.until(
        owner, lambda view: all(node.up for node in view.nodes), "all four together again"
    )


def both_up(view: StatusView) -> bool:
    return view.quorum and len(view.nodes) == 2 and all(node.up for node in view.nodes)


def until_faults(members: Members, code: str) -> None:
    """Wait until the leader names this fault of a disk or witness; '': none at all."""

    def said(view: QuorumView) -> bool:
        faults = " ".join(member.fault for member in view.members).strip()
        return code in faults if code else not faults

    members.until_quorum("", said, f"the fault {code}")


def test_two_nodes_and_a_share_survive_either_loss(members: Members) -> None:
    """A link that is cut: the leader stays. The share is lost: both go on. A death: the other."""
    for node in ("n3", GUEST):
        members.evict(node)
    share = members.world.folder / "witness"
    members.run("quorum", "set", "witness", f"share:{share}?local=yes")
    members.until_votes(3, 3)
    leader = members.leader()
    [other] = [node for node in ("n1", "n2") if node != leader]

    members.world.cut(other, ("ic0",))
    members.until(other, lambda view: not view.quorum, "no quorum without the link")
    assert members.status(leader).leader == leader
    members.until_online(leader, without=(other,))
    members.world.heal(other, ("ic0",))
    members.until(leader, both_up, "both nodes again")
    assert members.status(leader).leader == leader

    [group] = members.status(leader).groups
    away = share.rename(share.with_name("away"))
    until_faults(members, "witness-unformatted")
    time.sleep(1)
    view = members.until(leader, both_up, "both nodes without the share")
    assert (view.leader, view.groups[0].generation) == (leader, group.generation)
    away.rename(share)
    until_faults(members, "")

    members.world.power_off(leader)
    view = members.until_online(other, without=(leader,))
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
    members.run("quorum", "disk", "format", device, "--cluster", other)
    done = members.lab.command("n1", "quorum", "set", "disk", str(device))
    assert "witness-foreign" in done.stderr, done.stderr
    members.run("quorum", "disk", "format", device, "--force")
    done = members.lab.command("n1", "quorum", "set", "disk", str(device), "--silence", "5000")
    assert "silence-too-long" in done.stderr, done.stderr
    with pytest.raises(LeitwolfError):
        members.client("n1").why("nothing")
