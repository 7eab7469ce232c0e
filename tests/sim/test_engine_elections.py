"""An engine that decides alone elects leaders of its own, and answers nothing meanwhile."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.sim_calm import MS, SECOND, leader, owners, started

from leitwolf.core.lease.profile import PROFILES
from leitwolf.daemon.storage_views import findings
from leitwolf.model.commands import MoveGroup
from leitwolf.model.ids import GroupId, NodeId
from leitwolf.sim.world import World

NODES = {1, 2, 3}


def spread(profile: str) -> World:
    """Three nodes and an engine; each owns a group."""
    world = World(seed=1, nodes=len(NODES), quorum="engine", profile=profile)
    for node in world.nodes.values():
        node.power_on()
    world.run_until((4 if profile == "default" else 12) * SECOND)
    for number in NODES:
        command = MoveGroup(group=GroupId(f"g{number}"), node=NodeId(number))
        world.ask(leader(world).id, -number, command)
    world.run_until(world.now + 3 * SECOND)
    assert owners(world, NODES) == NODES
    return world


@pytest.mark.parametrize(
    ("profile", "silent_ms"), [("default", 900), ("virtual", 1_600), ("wan", 1_600)]
)
def test_what_an_election_of_etcd_stops(profile: str, silent_ms: int) -> None:
    """At its defaults: all under default, what the leader owns under virtual, else nothing.

    Afterwards everything runs again.
    """
    world = spread(profile)
    first = leader(world).id
    [engine] = world.witnesses.values()
    engine.unreached.update(NODES)
    until, stopped = world.now + silent_ms * MS, set[int]()
    while world.now < until + 2 * SECOND:
        if world.now >= until:
            engine.unreached.clear()
        world.run_until(world.now + 5 * MS)
        stopped |= NODES - owners(world, NODES)
    expected = {"default": NODES, "virtual": {first}, "wan": set[int]()}
    assert stopped == expected[profile]
    world.run_until(world.now + 10 * SECOND)
    state = leader(world).daemon.core.state
    assert all(group.owner for group in state.groups.values())


def test_an_etcd_that_may_be_too_slow_is_named() -> None:
    """Where all votes are its own and the profile is short; of another store nothing is known."""
    world = started("engine", 3)
    core = leader(world).daemon.core
    [passive] = core.quorum.passives
    etcd, state = "etcd://10.0.0.1:2379/lab", core.state

    def named(location: str, profile: str, *, weight: int = 0, lasting: bool = True) -> list[str]:
        passive.acceptor = replace(passive.acceptor, location=location)
        wish = replace(state.wish, node_weight=weight)
        core.state = replace(state, profile=profile, wish=wish)
        return [one.code for one in findings(core, lambda one: f"n{one}", lasting=lasting)]

    for profile in PROFILES:
        short = profile in {"fast", "default"}
        assert named(etcd, profile) == (["engine-slow"] if short else [])
        assert named(etcd, profile, lasting=False) == []
        assert named(etcd, profile, weight=1) == []
        assert named("s3://bucket/lab", profile) == []
