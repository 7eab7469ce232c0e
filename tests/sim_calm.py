"""A calm simulated cluster for directed runs, and what brings a situation about in it."""

from __future__ import annotations

from collections.abc import Callable

from leitwolf.core.quorum.candidate import Phase
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.commands import Command, MoveGroup
from leitwolf.model.ids import GroupId, NodeId
from leitwolf.sim.node import SimNode
from leitwolf.sim.scenario import demand_service
from leitwolf.sim.world import World

MS = 1_000_000
SECOND = 1_000 * MS


def calm(seed: int, rules: Rules, nodes: int = 3, profile: str = "default") -> World:
    """A cluster that runs a group on each of its first nodes; node 1 leads."""
    world = World(seed=seed, nodes=nodes, rules=rules, profile=profile)
    world.nodes[1].power_on()
    for number in range(2, nodes + 1):
        world.later(40 * MS, world.nodes[number].power_on)
    world.run_until((2 if profile == "default" else 12) * SECOND)
    for number in (1, 2, 3):
        command = MoveGroup(group=GroupId(f"g{number}"), node=NodeId(number))
        world.ask(leader(world).id, -number, command)
    world.run_until(world.now + 2 * SECOND)
    demand_service(world, "after the start")
    return world


def started(
    quorum: str, nodes: int, *, seed: int = 1, rules: Rules = ALL_RULES, dynamic: bool = False
) -> World:
    """A cluster with this kind of quorum and three groups online; node 1 was on first."""
    world = World(seed=seed, nodes=nodes, quorum=quorum, dynamic=dynamic, rules=rules)
    world.nodes[1].power_on()
    for number in range(2, nodes + 1):
        world.later(200 * MS, world.nodes[number].power_on)
    world.run_until(4 * SECOND)
    demand_service(world, "after the start")
    return world


def leader(world: World) -> SimNode:
    [node] = world.leaders()
    return node


def cut(world: World, side: set[int]) -> None:
    """Split these nodes from the others."""
    for one in world.nodes:
        for other in world.nodes:
            if (one in side) != (other in side):
                world.network.cut(one, other)
    world.refresh_streams()


def owners(world: World, among: set[int]) -> set[int]:
    """Nodes on which something is active."""
    return {node.id for node in world.nodes.values() if node.active_cells()} & among


def followers(world: World) -> list[SimNode]:
    leading = leader(world)
    return [node for node in world.nodes.values() if node is not leading]


def watch(world: World, duration: int) -> None:
    """Let time pass and look at every half millisecond."""
    until = world.now + duration
    while world.now < until:
        world.run_until(world.now + MS // 2)
        world.checker.active()


def isolate(world: World, node: SimNode, *, but: tuple[SimNode, ...] = ()) -> None:
    for other in world.nodes.values():
        if other is not node and other not in but:
            world.network.cut(node.id, other.id)
            world.network.cut(other.id, node.id)
    world.refresh_streams()


def ask(world: World, node: SimNode, command: Command) -> None:
    """Ask a node for something; nobody waits for the answer."""
    world.ask(node.id, 1, command)


def reach(world: World, seen: Callable[[], bool], within: int) -> None:
    """Let time pass until the situation is there, which must come about."""
    assert world.run_to(seen, within), f"seed {world.seed}: the situation does not come about"


def phase(node: SimNode) -> Phase | None:
    """How far the campaign of a node is, if it has one."""
    core = node.daemon.core
    campaign = core.quorum._candidate.campaign if core is not None else None
    return campaign.phase if campaign is not None else None


def asks_its_guard(node: SimNode) -> bool:
    """Whether the daemon of a node waits for its guard's consent to a promise."""
    core = node.daemon.core
    return core is not None and bool(core.quorum._voter._asked)


def waits_for_its_guard(node: SimNode) -> bool:
    """Whether the daemon of a node holds a message until its guard knows the ballot."""
    core = node.daemon.core
    return core is not None and bool(core.quorum._replica._held)


def mend(world: World) -> None:
    """Undo all cuts."""
    world.network.heal()
    world.refresh_streams()


def lease(node: SimNode) -> int:
    """The run-lease that a node holds, 0: none."""
    return node.kernel.page.lease if node.kernel.page is not None else 0


def log_end(node: SimNode) -> int:
    """Index of the last entry on a node's disk."""
    loaded = node.storage.load()
    return loaded.entries[-1].index if loaded.entries else loaded.commit


def slow_disk(node: SimNode, least_ms: int, most_ms: int) -> None:
    """Let writes take so long from now on."""
    node.disk_slow_until, node.disk_slow_ms = 1 << 62, (least_ms, most_ms)
