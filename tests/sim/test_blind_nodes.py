"""Office goes to nodes that reach what they need: one that is blind would cost the groups R."""

from __future__ import annotations

import pytest
from tests.sim_calm import MS, SECOND, leader, started

from leitwolf.model.commands import Refusal, SetVotes, StopNode, TransferLeader
from leitwolf.model.ids import NO_NODE, NodeId
from leitwolf.sim.node import SimNode
from leitwolf.sim.scenario import demand_service
from leitwolf.sim.world import World

_TOLD_NS = 6 * SECOND
"""Every node looked meanwhile, and told the others."""


def blinded(quorum: str, nodes: int, *, others: int) -> tuple[World, SimNode, list[SimNode]]:
    """A cluster in which so many others lost their way to the disk; its leader, and all others."""
    world = started(quorum, nodes)
    first = leader(world)
    rest = [node for node in world.nodes.values() if node is not first]
    [disk] = world.witnesses.values()
    disk.unreached.update(node.id for node in rest[:others])
    world.run_until(world.now + _TOLD_NS)
    return world, first, rest


def hand_over(world: World, first: SimNode, target: int = NO_NODE) -> Refusal | None:
    """Ask the leader to hand over; return its refusal."""
    world.answers.pop(-1, None)
    world.ask(first.id, -1, TransferLeader(node=NodeId(target)))
    assert world.run_to(lambda: -1 in world.answers, SECOND)
    return world.answers[-1].refusal


def test_of_two_followers_the_one_that_sees_gets_the_office() -> None:
    """Nobody is named: the blind one comes first by its number, and is passed over."""
    world, first, [blind, seeing] = blinded("disk", 3, others=1)
    starts, elections = world.checker.starts, world.checker.elections
    assert blind.id < seeing.id
    assert hand_over(world, first) is None
    assert world.run_to(lambda: world.leaders() == [seeing], 50 * MS), (
        "P/2 later it would win anyway"
    )
    world.run_until(world.now + SECOND)
    assert leader(world) is seeing
    assert world.checker.elections == elections + 1
    assert world.checker.starts == starts, "no group noticed it"
    demand_service(world, "by the one that sees")


@pytest.mark.parametrize("named", [True, False])
def test_an_operator_costs_nobody_the_office(named: bool) -> None:
    """All others are blind: refused, and the leader goes on; when the way is back, it is done."""
    world, first, rest = blinded("disk", 3, others=2)
    starts, elections = world.checker.starts, world.checker.elections
    refusal = hand_over(world, first, rest[0].id if named else NO_NODE)
    assert refusal is not None
    assert refusal.code == "node-blind"
    assert f"n{rest[0].id} could not lead: it told that it does not reach disk" in refusal.text
    assert (f"n{rest[1].id} could not lead" in refusal.text) is not named
    world.run_until(world.now + SECOND)
    assert leader(world) is first
    assert (world.checker.elections, world.checker.starts) == (elections, starts)
    [disk] = world.witnesses.values()
    disk.unreached.clear()
    world.run_until(world.now + _TOLD_NS)
    assert hand_over(world, first, rest[0].id if named else NO_NODE) is None
    world.run_until(world.now + SECOND)
    assert leader(world) is rest[0]


def test_a_node_that_stops_releases_though_nobody_can_take_over() -> None:
    """It goes in any case: whoever gets its way back need not wait for its lease to end."""
    world, first, _ = blinded("disk", 3, others=2)
    world.ask(first.id, -2, StopNode(node=first.id))
    assert world.run_to(lambda: -2 in world.answers, SECOND)
    assert hand_over(world, first) is None
    assert not world.leaders()


def test_who_needs_no_witness_is_handed_the_office() -> None:
    """Two nodes are two of three votes: the witness is not missed."""
    world, first, [other] = blinded("tag-witness", 2, others=1)
    starts = world.checker.starts
    assert hand_over(world, first, other.id) is None
    world.run_until(world.now + SECOND)
    assert leader(world) is other
    assert world.checker.starts == starts


def test_a_leader_without_a_vote_stays_while_who_votes_is_blind() -> None:
    """It leads by the vote of the other one and of the witness, which that one does not reach."""
    world, first, [other] = blinded("disk-witness", 2, others=1)
    starts, elections = world.checker.starts, world.checker.elections
    world.ask(first.id, -3, SetVotes(weights={first.id: 0}))
    world.run_until(world.now + 3 * SECOND)
    assert world.answers[-3].refusal is None
    config = first.daemon.core.quorum.config
    assert {one.id.node: one.weight for one in config.acceptors}[first.id] == 0
    assert leader(world) is first
    assert (world.checker.elections, world.checker.starts) == (elections, starts)
    demand_service(world, "by one without a vote")
    [disk] = world.witnesses.values()
    disk.unreached.clear()
    assert world.run_to(lambda: world.leaders() == [other], _TOLD_NS), "it sees again, and votes"
    world.run_until(world.now + SECOND)
    assert world.checker.starts == starts
