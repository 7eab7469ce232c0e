"""When the demand for service begins: not before the last fault is over."""

from __future__ import annotations

from leitwolf.sim import scenario
from leitwolf.sim.faults import SECOND
from leitwolf.sim.world import World


def test_a_stall_that_outlasts_the_faults_is_waited_for() -> None:
    """A daemon in charge that stands still looks well at first; service is demanded after it."""
    world = World(seed=1, nodes=3)
    for node in world.nodes.values():
        node.power_on()
    world.run_until(5 * SECOND)
    [leader] = world.leaders()
    leader.stall(leader.daemon, 5 * SECOND // 2)
    scenario.demand_service(world, "while its daemon stands still")
    scenario._settle(world, world.now + 25 * SECOND)
    assert world.now < 15 * SECOND
