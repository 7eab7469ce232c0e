"""Two real nodes: alone, with a disk, and with witnesses that are processes of their own."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.integration.disk_support import Disk, loop
from tests.integration.membership_support import PAIR, Members, Outside, formed
from tests.integration.place_support import PLACES, Place, breaking
from tests.integration.witness_support import wait_for

from leitwolf.model.views import QuorumView, StatusView

pytestmark = [pytest.mark.root, pytest.mark.gathers]


@pytest.fixture(scope="module")
def pair() -> Iterator[Members]:
    with formed("strict", pair=True) as cluster:
        yield cluster


def other_than(node: str) -> str:
    [other] = set(PAIR) - {node}
    return other


def until_weights(pair: Members, nodes: list[int], third: int, node: str = "") -> None:
    """Wait until nodes, in any order, and the disk or witness have these votes."""

    def good(view: QuorumView) -> bool:
        own = sorted(member.weight for member in view.members if not member.storage)
        other = [member.weight for member in view.members if member.storage]
        return not view.joint and (own, other) == (nodes, [third])

    pair.until_quorum(node, good, f"votes {nodes} and {third}")


def use_nodes(pair: Members, votes: str = "--strict") -> None:
    """Both nodes are there, and they alone vote."""
    pair.run("quorum", "votes", votes, node=pair.use_nodes())


def cut_link(pair: Members, outside: Outside) -> str:
    """Cut the link between both: the leader stays and the other one stops; return the leader."""
    leader = pair.leader()
    other = other_than(leader)
    pair.place(other)  # so that there is something to stop
    pair.split((leader,), (other,))
    pair.until_idle(other)
    pair.until_online(leader, without=(other,))
    assert outside.until_owner(leader, other) == leader
    pair.until(leader, lambda view: view.leader == leader, "the leader to stay")
    assert pair.gather().leader == leader
    return leader


def fall_silent(pair: Members, outside: Outside, shared: Disk | Place) -> None:
    """Disk or witness is lost and comes back while both nodes are there: votes follow, no more."""
    [group], leader = pair.status().groups, pair.leader()
    other = other_than(leader)

    def lost(view: StatusView) -> bool:
        """Either out of reach or, for who opens a loop device anew, shorter than a quorum disk."""
        codes = {one.code for one in view.findings if shared.location in one.text}
        return bool(codes & {"path-lost", "witness-unformatted"})

    shared.lose()
    until_weights(pair, [1, 2], 0)
    pair.until(other, lost, "what was lost")

    def told() -> bool:
        lines = pair.lab.command(other, "status").stdout.splitlines()
        return any(line[:2] == "! " and shared.location in line for line in lines)

    wait_for(told, "what was lost")
    assert outside.until_owner(*PAIR) == group.owner
    shared.find()
    until_weights(pair, [1, 1], 1)
    pair.until(other, lambda view: not lost(view), "nothing lost")
    [after] = pair.status().groups
    assert (pair.leader(), after.owner, after.generation) == (leader, group.owner, group.generation)


def test_two_strict_nodes_need_each_other(pair: Members) -> None:
    """Either death stops the other one, which serves again when both are back."""
    use_nodes(pair)
    with Outside(pair) as outside:
        for dying in (pair.leader(), other_than(pair.leader())):
            left = other_than(dying)
            pair.place(left)
            outside.until_owner(left)
            pair.world.power_off(dying)
            pair.until_idle(left)
            outside.until_owner()
            assert pair.status(left).stopped
            pair.gather()
            outside.until_owner(*PAIR)
    assert outside.two_owners_ms == 0


def test_two_nodes_and_a_disk_follow_who_is_there(pair: Members) -> None:
    """Dynamic votes: the disk is lost and comes back; the link is cut; the leader dies.

    It is a block device, written past all caches.
    """
    use_nodes(pair, "--dynamic")
    with loop(pair.world) as disk, Outside(pair) as outside:
        pair.run("quorum", "disk", "format", disk.location, "--nodes", "4")
        pair.run("quorum", "set", "disk", disk.location, "--witness")
        until_weights(pair, [1, 1], 1)
        fall_silent(pair, outside, disk)
        leader = cut_link(pair, outside)
        until_weights(pair, [1, 1], 1)
        left = other_than(leader)
        pair.world.power_off(leader)
        pair.until_online(left, without=(leader,))
        assert outside.until_owner(left) == left
        until_weights(pair, [0, 1], 0, left)
        pair.use_nodes()
    assert outside.two_owners_ms == 0


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("daemon", "full"),
        ("s3", "tag"),
        pytest.param("etcd", "full", marks=pytest.mark.needs("etcd")),
        ("share", "tag"),
    ],
)
def test_two_nodes_and_a_witness(pair: Members, kind: str, mode: str) -> None:
    """It falls silent: votes follow. The link is cut; the leader dies; partition in time."""
    use_nodes(pair, "--dynamic")
    with PLACES[kind](pair) as place, Outside(pair) as outside:
        options = ["--tag"] if mode == "tag" else []
        pair.run("quorum", "set", "witness", place.location, *options)
        until_weights(pair, [1, 1], 1)
        fall_silent(pair, outside, place)
        pair.run("quorum", "votes", "--strict")
        leader = cut_link(pair, outside)
        left = other_than(leader)
        pair.world.power_off(leader)
        pair.until_online(left, without=(leader,))
        pair.until(left, lambda view: view.leader == left, "itself as the leader")
        assert outside.until_owner(left) == left
        late(pair, outside, left, mode)
        use_nodes(pair)
    assert outside.two_owners_ms == 0


def late(pair: Members, outside: Outside, ahead: str, mode: str) -> None:
    """``ahead`` is alone, changes something and dies; the other one starts without it."""
    stale = other_than(ahead)
    pair.run("group", "set", "web", "--restarts", "7", node=ahead)
    newest = pair.client(ahead).quorum().last
    pair.world.power_off(ahead)
    outside.until_owner()
    pair.lab.boot(stale)
    if mode == "full":
        pair.until_online(stale)
        pair.until(stale, lambda view: view.index >= newest, f"entry {newest}")
        assert outside.until_owner(stale) == stale
        return  # as entries or as a snapshot

    def told(view: QuorumView) -> bool:
        text = rf"{ahead} knows entries up to (\d+), this node up to {view.last}"
        found = re.fullmatch(text, view.lacking)
        return bool(found and view.last < newest <= int(found[1]))

    view = pair.until_quorum(stale, told, "what it lacks")
    assert view.lacking in pair.run("quorum", "status", node=stale)
    assert pair.lab.ask(stale, "force", "--show")["known_at"] == ahead
    pair.until_idle(stale)
    assert outside.owners() == []


def test_a_witness_of_wrong_semantics_counts_nothing(pair: Members) -> None:
    """A daemon finds it when it starts, says what is wrong, and does not take over by it.

    What was repaired is tested again by itself, and counts.
    """
    use_nodes(pair, "--strict")
    with breaking(pair) as place, Outside(pair) as outside:
        pair.run("quorum", "set", "witness", place.location)
        until_weights(pair, [1, 1], 1)
        leader = pair.leader()
        left = other_than(leader)
        place.lose()
        pair.world.power_off(left)
        pair.lab.boot(left)

        def refused(view: QuorumView) -> bool:
            return [(one.code, left in one.text) for one in view.findings] == [
                ("witness-unfit", True)
            ]

        for node in PAIR:
            pair.until_quorum(node, refused, f"{left} refuses the witness")
        shown = pair.run("quorum", "status", node=left)
        assert "create: a value that is there is created a second time" in " ".join(shown.split())

        pair.world.power_off(leader)
        pair.until_idle(left)
        assert outside.owners() == []
        place.find()
        pair.until_online(left, without=(leader,))
        pair.until(left, lambda view: view.leader == left, "itself as the leader")
        assert outside.until_owner(left) == left
        wait_for(lambda: "cannot be a witness: create" in pair.log_text(left), "the refusal")
        wait_for(lambda: "counts again" in pair.log_text(left), "the return")
        use_nodes(pair)
    assert outside.two_owners_ms == 0
