"""Directed runs for votes that follow who is there, and what brings a situation about in them."""

from __future__ import annotations

from collections.abc import Callable

from tests.sim_calm import MS, SECOND, isolate, leader, mend, reach, started

from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.commands import SetVotes
from leitwolf.model.ids import NodeId
from leitwolf.model.quorum import QuorumConfig
from leitwolf.sim.node import SimNode
from leitwolf.sim.scenario import demand_service
from leitwolf.sim.world import World


def dynamic(
    nodes: int, quorum: str = "majority", *, seed: int = 1, rules: Rules = ALL_RULES
) -> World:
    """A calm cluster with dynamic votes; node 1 was on first."""
    return started(quorum, nodes, seed=seed, rules=rules, dynamic=True)


def config(world: World) -> QuorumConfig:
    """The configuration by which the leader decides."""
    core = leader(world).daemon.core
    assert core is not None
    return core.quorum.config


def votes(world: World) -> dict[int, int]:
    """Votes of everyone, as the leader counts them."""
    return {acceptor.id.node: acceptor.weight for acceptor in config(world).acceptors}


def settled(world: World, expected: dict[int, int], within: int = 6 * SECOND) -> None:
    """Let time pass until exactly these have votes, by one configuration."""

    def there() -> bool:
        return (
            len(world.leaders()) == 1 and config(world).former is None and votes(world) == expected
        )

    until = world.now + within
    while not there() and world.now < until:
        world.run_until(world.now + 20 * MS)
    assert there(), (world.now / SECOND, world.leaders() and votes(world), expected)


def notices_at(node: SimNode) -> int:
    """True time at which a leader takes the next vote, if nothing changes."""
    core = node.daemon.core
    assert core is not None
    assert core.governor is not None
    return node.true_time(core.governor._leader.presence.next_at)


def loses_all_as_it_takes_a_vote(seed: int, rules: Rules) -> None:
    """A leader is cut off from the second node just before it takes the vote of the third."""
    world = dynamic(3, seed=seed, rules=rules)
    first = leader(world)
    third = [node for node in world.nodes.values() if node is not first][-1]
    third.power_off("test")
    core = first.daemon.core
    assert core is not None
    reach(world, lambda: core.governor is not None and _watches(first), SECOND)
    world.run_until(notices_at(first) - (5 + seed * 7) * MS)
    isolate(world, first)
    third.power_on()
    world.run_until(world.now + 6 * SECOND)
    mend(world)
    world.run_until(world.now + 8 * SECOND)
    demand_service(world, "after the cut")


def _watches(node: SimNode) -> bool:
    core = node.daemon.core
    return (
        core is not None
        and core.governor is not None
        and core.governor._leader.presence.next_at >= 0
    )


def prefers_a_node_that_stands_still(seed: int, rules: Rules) -> None:
    """The casting vote is to go to a node that freezes while its stream still stands."""
    world = dynamic(2, seed=seed, rules=rules)
    first = leader(world)
    [other] = [node for node in world.nodes.values() if node is not first]
    other.freeze()
    world.run_until(world.now + 600 * MS)
    world.ask(first.id, 1, SetVotes(prefer=NodeId(other.id)))
    world.run_until(world.now + 3 * SECOND)
    if first not in world.leaders():
        world.fail("I10: the death of the other node ended the leader's office")
    other.thaw()
    world.run_until(world.now + 8 * SECOND)
    demand_service(world, "after it goes on")
    if votes(world) != {first.id: 1, other.id: 2}:
        world.fail(f"I9: the preferred node has no casting vote: {votes(world)}")


VOTES: dict[str, Callable[[int, Rules], None]] = {
    "votes-jointly": loses_all_as_it_takes_a_vote,
    "votes-within-reach": prefers_a_node_that_stands_still,
}
"""Rule -> the situation in which it acts."""
