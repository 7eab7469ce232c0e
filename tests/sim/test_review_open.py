"""A lease that a leader opened on entries that never committed is no dead end."""

from __future__ import annotations

import pytest

from leitwolf.core.lease import Commanded
from leitwolf.model.commands import PauseNode
from leitwolf.model.ids import NodeId
from leitwolf.sim.scenario import demand_service
from leitwolf.sim.world import World
from leitwolf.wire.guard import StopEverything

_MS = 1_000_000


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_node_starts_groups_after_the_leader_that_let_it_in_lost_its_entries(seed: int) -> None:
    """What F names must be committed: a later leader's log may never become that long."""
    world = World(seed=seed, nodes=3)
    for node in world.nodes.values():
        node.power_on()
    world.run_until(8_000 * _MS)
    (leader,) = world.leaders()
    others = [node for node in world.nodes.values() if node is not leader]
    # Streams to the leader break, and heartbeats go on: it keeps its lease and commits nothing.
    wanted = world._wanted
    world._wanted = lambda pair: leader.id not in pair and wanted(pair)  # type: ignore[method-assign]
    world.refresh_streams()
    world.run_until(world.now + 1_000 * _MS)
    for number in range(100):  # none of them can commit
        paused = number % 2 == 0
        world.ask(leader.id, number + 1, PauseNode(node=NodeId(leader.id), paused=paused))
    world.run_until(world.now + 20 * _MS)
    for node in others:
        node.guard.take(Commanded(StopEverything("test")))
    world.run_until(world.now + 300 * _MS)
    leader.power_off("test")
    world.run_until(world.now + 20_000 * _MS)
    demand_service(world, "after the leader died")
