"""A machine that sleeps while its guard stands still: nobody closes its leases when it wakes up."""

from __future__ import annotations

import pytest

from leitwolf.sim.faults import SECOND
from leitwolf.sim.network import MILLISECOND
from leitwolf.sim.world import World


@pytest.mark.parametrize("asleep_ms", [60, 97, 150])
def test_a_sleep_beside_a_stalled_guard_makes_no_second_leader(asleep_ms: int) -> None:
    """The page shows the sleep to its readers, and the host ends what ran; others take over."""
    world = World(seed=asleep_ms, nodes=5)
    for node in world.nodes.values():
        node.power_on()
    world.run_until(5 * SECOND)
    [leader] = world.leaders()
    leader.stall(leader.guard, 800 * MILLISECOND)
    leader.suspend()
    world.later(asleep_ms * MILLISECOND, leader.thaw)
    world.run_until(7 * SECOND)
    [successor] = world.leaders()
    assert successor is not leader
