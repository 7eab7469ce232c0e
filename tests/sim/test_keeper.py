"""A keeper that dies or stands still: what lives goes on, and who dies meanwhile stays dead."""

from __future__ import annotations

import pytest
from tests.sim_calm import MS, SECOND, followers, leader, owners, reach, started

from leitwolf.sim import keeper
from leitwolf.sim.node import SimNode
from leitwolf.sim.scenario import demand_service
from leitwolf.sim.world import World


def alive(node: SimNode) -> set[str]:
    return {process.name for process in node.processes if process.alive}


ALL = {"guard", "daemon", "host", "keeper"}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Three nodes that were started by hand: no service manager starts another keeper."""
    monkeypatch.setattr(keeper, "_MANAGED_PER_THOUSAND", 0)
    return started("majority", 3)


def test_the_death_of_keepers_stops_nothing(world: World) -> None:
    """No office and no group is lost; the hosts start others."""
    elections, starts = world.checker.elections, world.checker.starts
    for node in world.nodes.values():
        node.keeper.perish()
    world.run_until(world.now + 900 * MS)
    assert all(alive(node) == ALL - {"keeper"} for node in world.nodes.values())
    world.run_until(world.now + SECOND)
    assert all(alive(node) == ALL for node in world.nodes.values())
    assert (world.checker.elections, world.checker.starts) == (elections, starts)


def test_who_dies_without_a_keeper_stays_dead_until_there_is_one(world: World) -> None:
    """The host starts one after a second, which adopts the host and starts the others."""
    node = followers(world)[0]
    node.keeper.perish()
    node.daemon.perish()
    node.guard.perish(page=False)
    world.run_until(world.now + 950 * MS)
    assert alive(node) == {"host"}
    life = node.host.life
    world.run_until(world.now + 2 * SECOND)
    assert alive(node) == ALL
    assert node.host.life == life
    world.run_until(world.now + 3 * SECOND)
    demand_service(world, "with another keeper")


def test_without_keeper_and_host_nobody_comes_back(world: World) -> None:
    """The groups of such a node go elsewhere once its guard is gone, and nothing answers there."""
    node = leader(world)
    for process in (node.keeper, node.host):
        process.perish()
    world.run_until(world.now + 2 * SECOND)
    assert owners(world, {node.id}), "the guard and the daemon live"
    node.guard.perish(page=False)
    world.run_until(world.now + 5 * SECOND)
    assert alive(node) == {"daemon"}
    assert not owners(world, {node.id})
    assert leader(world) is not node
    node.keeper.begin()
    world.run_until(world.now + 5 * SECOND)
    assert alive(node) == ALL
    demand_service(world, "after it was started by hand")


def test_a_keeper_that_stands_still_starts_nobody(world: World) -> None:
    """As soon as it goes on it does; the host of such a node starts no second keeper."""
    node = followers(world)[0]
    node.stall(node.keeper, 2_500 * MS)
    node.daemon.perish()
    world.run_until(world.now + 2_400 * MS)
    assert alive(node) == ALL - {"daemon"}
    world.run_until(world.now + 500 * MS)
    assert alive(node) == ALL


def test_the_service_manager_starts_a_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not need the host for that."""
    monkeypatch.setattr(keeper, "_MANAGED_PER_THOUSAND", 1_000)
    world = started("majority", 2)
    node = leader(world)
    for process in (node.keeper, node.host):
        process.perish()
    reach(world, lambda: alive(node) == ALL, 950 * MS)
