"""What lacks of a change of votes, profile or keys, as each node tells it, until nothing does."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.sim_calm import MS, SECOND, calm, followers, leader, started

from leitwolf.core.membership import View, outstanding
from leitwolf.core.rules import ALL_RULES
from leitwolf.daemon.changes import under_way
from leitwolf.model.commands import ChangeCluster, Command, Rekey, SetVotes
from leitwolf.model.ids import NodeId
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumWish
from leitwolf.model.witness import WITNESS_ID_MIN
from leitwolf.sim.node import SimNode
from leitwolf.sim.world import World

DISK = Acceptor(
    id=AcceptorId(NodeId(WITNESS_ID_MIN), "disk"), kind="disk", location="/dev/disk", weight=1
)
JOINT = "the former votes must agree, too, until every lease by them is over"


def told(node: SimNode) -> dict[str, str]:
    core = node.daemon.core
    assert core is not None
    return under_way(core)


def change(world: World, command: Command, kind: str) -> list[str]:
    """Have something changed; return what a follower told of it until nothing lacked any more.

    Looked at from the moment that it holds the entry, as a client does.
    """
    node = next(one for one in followers(world) if one.powered)
    core = node.daemon.core
    assert core is not None
    before, lines = core.state.index, list[str]()
    world.ask(leader(world).id, -100, command)
    until = world.now + 20 * SECOND
    while core.state.index <= before:
        assert world.now < until
        world.run_until(world.now + MS // 4)
    while (lacks := told(node)).get(kind):
        assert world.now < until, lacks
        if lacks[kind] not in lines:
            lines.append(lacks[kind])
        world.run_until(world.now + MS)
    world.run_until(world.now + SECOND)
    assert not any(told(one) for one in world.nodes.values() if one.powered)
    return lines


def votes_of(world: World) -> list[int]:
    config = leader(world).daemon.core.state.quorum  # type: ignore[union-attr]
    assert config is not None
    assert config.former is None
    return [acceptor.weight for acceptor in sorted(config.acceptors, key=lambda one: one.id.node)]


@pytest.mark.parametrize(
    ("wish", "lacks"),
    [
        (QuorumWish(), ""),
        (QuorumWish(voteless=(NodeId(3),)), "to come: n3 has no vote by choice"),
        (QuorumWish(witness=DISK), "/dev/disk is brought in"),
        (QuorumWish(witness=DISK, node_weight=0), "/dev/disk is brought in"),
        (QuorumWish(node_weight=0), "the quorum is to become "),
    ],
)
def test_a_wish_alone_changes_no_vote(wish: QuorumWish, lacks: str) -> None:
    """Before the leader did anything it is told what is to come; none of it is in force."""
    core = leader(started("majority", 3)).daemon.core
    assert core is not None
    assert outstanding(core.state, View(leader=core.me)) == ""
    found = outstanding(replace(core.state, wish=wish), View(leader=core.me))
    assert found.startswith(lacks)
    assert bool(found) is bool(lacks)


@pytest.mark.parametrize("dynamic", [True, False])
def test_votes_lack_until_the_new_ones_decide_alone(dynamic: bool) -> None:
    """By the wish, then by the joint configuration; the wish alone would be told as done."""
    world = started("majority", 3, dynamic=dynamic)
    assert not told(leader(world))
    assert change(world, SetVotes(weights={NodeId(3): 0}), "votes")[-1] == JOINT
    assert votes_of(world)[2] == 0
    lines = change(world, SetVotes(weights={NodeId(3): 1}), "votes")
    assert lines[-1] == JOINT
    assert votes_of(world) == [1, 1, 1]


def test_who_is_lost_is_waited_for_only_until_his_vote_is_taken() -> None:
    """Strict votes become dynamic while a node is off: that is complete when it has none."""
    world = started("majority", 3)
    off = followers(world)[0]
    off.power_off("test")
    world.run_until(world.now + 3 * SECOND)
    lines = change(world, SetVotes(dynamic=True), "votes")
    assert lines[-1] == JOINT
    assert sorted(votes_of(world)) == [0, 1, 2]


def test_a_profile_lacks_until_no_lease_of_the_former_can_be_in_force() -> None:
    """The entry alone brings nobody to act by it."""
    world = calm(1, ALL_RULES)
    lines = change(world, ChangeCluster(profile="virtual"), "profile")
    assert lines == ["leases of the profile default may still be in force"]


def test_keys_lack_until_the_former_one_is_forgotten() -> None:
    """In its two steps."""
    world = calm(1, ALL_RULES)
    lines = change(world, Rekey(former=b"o" * 32, key=b"n" * 32), "keys")
    assert lines == [
        "all nodes are being told the new heartbeat key",
        "all nodes are turning to the new heartbeat key",
    ]
