"""Rows of the specification's table: who counts votes, who owns the disk, who waits for nobody."""

from __future__ import annotations

import pytest
from tests.sim.test_quorum_kinds import generations
from tests.sim_calm import MS, SECOND, cut, leader, mend, owners, started

from leitwolf.core.lease.profile import PROFILES
from leitwolf.model.commands import TransferLeader
from leitwolf.model.ids import NodeId
from leitwolf.sim.node import SimNode
from leitwolf.sim.scenario import demand_service
from leitwolf.sim.world import World

P_MS = PROFILES["default"].promise_ms


def other_than(world: World, node: SimNode) -> SimNode:
    return next(one for one in world.nodes.values() if one is not node)


# --- a majority of nodes, strict -----------------------------------------------------------------


def test_four_nodes_in_two_halves_stop() -> None:
    """2:2: neither half has more than half of the votes; together again they serve."""
    world = started("majority", 4)
    first = leader(world)
    cut(world, {first.id, other_than(world, first).id})
    world.run_until(world.now + 3 * SECOND)
    assert not world.leaders()
    assert not owners(world, set(world.nodes))
    mend(world)
    world.run_until(world.now + 5 * SECOND)
    demand_service(world, "whole again")


@pytest.mark.parametrize("leads", [True, False])
def test_three_of_four_nodes_go_on(leads: bool) -> None:
    """3:1, whoever is alone: it stops, the others serve."""
    world = started("majority", 4)
    alone = leader(world) if leads else other_than(world, leader(world))
    cut(world, {alone.id})
    world.run_until(world.now + 3 * SECOND)
    assert leader(world) is not alone
    assert owners(world, set(world.nodes) - {alone.id})
    assert not owners(world, {alone.id})


@pytest.mark.parametrize("leads", [True, False])
def test_of_two_nodes_both_are_needed(leads: bool) -> None:
    """Whichever dies, the other one stops; it goes on when the first is back."""
    world = started("majority", 2)
    dies = leader(world) if leads else other_than(world, leader(world))
    dies.power_off("test")
    world.run_until(world.now + 3 * SECOND)
    assert not world.leaders()
    assert not owners(world, set(world.nodes))
    dies.power_on()
    world.run_until(world.now + 8 * SECOND)
    demand_service(world, "with both")


def test_eight_nodes_need_five() -> None:
    """Three die at once, the leader among them: five go on; with one more all stop."""
    world = started("majority", 8)
    first = leader(world)
    for dies in [first, *[node for node in world.nodes.values() if node is not first][:2]]:
        dies.power_off("test")
    world.run_until(world.now + 3 * SECOND)
    demand_service(world, "with five of eight")
    leader(world).power_off("test")
    world.run_until(world.now + 3 * SECOND)
    assert not world.leaders()
    assert not owners(world, set(world.nodes))


# --- a shared disk -------------------------------------------------------------------------------


def test_nothing_starts_without_the_disk() -> None:
    """Nodes that are switched on and do not reach it lead nobody; with it they serve."""
    world = started("disk", 3)
    for node in world.nodes.values():
        node.power_off("test")
    [disk] = world.witnesses.values()
    disk.unreached.update(world.nodes)
    world.run_until(world.now + SECOND)
    for node in world.nodes.values():
        node.power_on()
    world.run_until(world.now + 8 * SECOND)
    assert all(node.daemon.alive for node in world.nodes.values())
    assert not world.leaders()
    assert not owners(world, set(world.nodes))
    disk.unreached.clear()
    world.run_until(world.now + 8 * SECOND)
    demand_service(world, "with the disk")


@pytest.mark.parametrize("quorum", ["disk", "engine", "full-witness"])
def test_ownership_is_handed_over_without_an_outage(quorum: str) -> None:
    """By request, to the node that is named, within 50 ms; nothing stops or starts."""
    world = started(quorum, 3)
    first, starts = leader(world), world.checker.starts
    target = list(world.nodes.values())[-1]
    assert target is not first
    world.ask(first.id, -1, TransferLeader(node=NodeId(target.id)))
    assert world.run_to(lambda: world.leaders() == [target], 50 * MS)
    held = generations(world)
    world.run_until(world.now + 3 * SECOND)
    assert world.answers[-1].refusal is None
    assert leader(world) is target
    assert world.checker.starts == starts
    assert generations(world) == held
    demand_service(world, "with its new owner")


# --- two nodes and a witness ---------------------------------------------------------------------


@pytest.mark.parametrize("quorum", ["disk-witness", "full-witness", "tag-witness"])
def test_a_dead_leader_is_replaced_at_once(quorum: str) -> None:
    """It never armed the witness, so nobody waits for its stamp: P and an election, no more."""
    world = started(quorum, 2)
    first = leader(world)
    other = other_than(world, first)
    first.power_off("test")
    assert world.run_to(lambda: world.leaders() == [other], (P_MS + 40) * MS)
