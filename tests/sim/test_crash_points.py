"""Guard, daemon and host die before each of their effects; what was done before stays done."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from tests.sim_calm import MS, SECOND, calm

from leitwolf.core.rules import ALL_RULES
from leitwolf.model.commands import MoveGroup
from leitwolf.model.ids import GroupId, NodeId
from leitwolf.sim.process import Process
from leitwolf.sim.scenario import Setting, demand_service, simulate
from leitwolf.sim.world import World

DIED = re.compile(r"(guard|daemon|host) +dies before: (.*)")
MOVE = 7
"""Request by which g2 moves from node 2 to node 3; node 1 leads."""

POINTS = {
    ("host", 2): {"note a stop", "tell stopping", "stop", "tell stopped", "close", "tell attested"},
    ("host", 3): {"start", "tell starting", "note a start", "tell started"},
    ("daemon", 1): {"send", "write", "sync", "publish", "answer"},
    ("daemon", 2): {"send", "write", "sync", "publish", "order its host"},
    ("daemon", 3): {"send", "write", "sync", "publish", "order its host"},
    ("guard", 2): {"SendPeer", "WritePage", "ArmGate", "Tell"},
    ("guard", 3): {"SendPeer", "WritePage", "ArmGate", "Tell"},
}
"""Process and node -> the kinds of effects that it has a part in the move with."""


def moved(name: str, node: int, dies: Callable[[str], bool]) -> tuple[World, Process]:
    """Move a group while a process may die; everything must be well soon."""
    world = calm(1, ALL_RULES)
    process = next(one for one in world.nodes[node].processes if one.name == name)
    process.dies_before = dies
    world.ask(1, MOVE, MoveGroup(group=GroupId("g2"), node=NodeId(3)))
    world.run_until(world.now + 150 * MS)
    process.dies_before = None
    world.run_until(world.now + 4 * SECOND)
    return world, process


def effects(name: str, node: int) -> list[str]:
    """The effects of a process while the group moves and nobody dies."""
    done: list[str] = []

    def note(effect: str) -> bool:
        done.append(effect)
        return False

    world, process = moved(name, node, note)
    assert process.life == 1
    assert world.answers[MOVE].refusal is None
    return done


def demand_well(name: str, node: int, points: Iterable[int]) -> None:
    """Everything is well soon after a process died before the effect of such a number."""
    for point in points:
        print(f"{name} of n{node}, effect {point}")
        seen: list[str] = []

        def dies(effect: str, seen: list[str] = seen, point: int = point) -> bool:
            seen.append(effect)
            return len(seen) > point

        world, process = moved(name, node, dies)
        assert process.life == 2, "it died once, and the keeper started another"
        demand_service(world, f"after {name} of n{node} died before effect {point}: {seen[-1]}")


@pytest.mark.parametrize(("name", "node"), POINTS)
def test_a_move_goes_on_after_a_death_at_its_effects(name: str, node: int) -> None:
    """A process dies before one effect of each kind: the first, and the last but one."""
    done = effects(name, node)
    assert set(done) == POINTS[name, node]
    numbers: dict[str, list[int]] = {}
    for number, effect in enumerate(done):
        numbers.setdefault(effect, []).append(number)
    demand_well(name, node, sorted({some[0] for some in numbers.values()} | {len(done) - 2}))


@pytest.mark.long
@pytest.mark.parametrize(("name", "node"), POINTS)
def test_a_move_goes_on_after_a_death_at_every_effect(name: str, node: int) -> None:
    """The same before each effect that it has in the move and shortly after."""
    demand_well(name, node, range(len(effects(name, node))))


def test_random_deaths_come_at_effects_of_all_processes() -> None:
    """Few runs of the mix suffice: guards, daemons and hosts die, before effects of many kinds."""
    died: Counter[tuple[str, str]] = Counter()
    for seed in range(5):
        outcome = simulate(seed, Setting(nodes=3, mix="crashes", chaos_s=20))
        assert outcome.ok, f"seed {seed}: {outcome.violation}"
        died += Counter(found.groups() for line in outcome.trace if (found := DIED.search(line)))
    print(died)
    kinds = Counter(name for name, _ in died)
    assert kinds["guard"] >= 3
    assert kinds["daemon"] >= 4
    assert kinds["host"] >= 4
    assert min(Counter(name for name, _ in died.elements()).values()) >= 10


def test_nothing_else_depends_on_how_many_effects_somebody_might_have_died_at() -> None:
    """Deaths are drawn from a stream of their own: where none comes the run is the same."""
    worlds = [calm(3, ALL_RULES) for _ in range(2)]
    worlds[0].crash_per_million = {}
    worlds[1].crash_per_million = {"guard": 0, "daemon": 0, "host": 0}
    for world in worlds:
        world.run_until(world.now + 5 * SECOND)
    assert worlds[0].trace == worlds[1].trace
    assert worlds[0].steps == worlds[1].steps
    assert worlds[0].entropy.bits() == worlds[1].entropy.bits()
