"""A floor above the leader's ballot on one node, as a lost campaign leaves it, stops no group."""

from __future__ import annotations

import pytest

from leitwolf.core.lease import Commanded
from leitwolf.sim.world import World
from leitwolf.wire.ballot import Ballot
from leitwolf.wire.guard import Follow

_MS = 1_000_000


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_minority_with_a_higher_floor_ends_no_lease(seed: int) -> None:
    """The leader prepares a round above it (L13); every run-lease of the cluster goes on."""
    world = World(seed=seed, nodes=3)
    for node in world.nodes.values():
        node.power_on()
    world.run_until(8_000 * _MS)
    (leader,) = world.leaders()
    leases = {node.id: node.kernel.page.lease for node in world.nodes.values() if node.kernel.page}
    other = next(node for node in world.nodes.values() if node is not leader)
    assert leader.kernel.page is not None
    office = leader.kernel.page.office
    other.guard.take(Commanded(Follow(Ballot(office.epoch, office.round + 1, other.id))))
    for _ in range(30):
        world.run_until(world.now + 50 * _MS)
        assert leases == {
            node.id: node.kernel.page.lease for node in world.nodes.values() if node.kernel.page
        }
        for node in world.nodes.values():
            assert node.kernel.page is not None
            assert node.kernel.page.gate
    assert len(world.leaders()) == 1
