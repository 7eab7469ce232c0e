"""A disk or witness that is restored from an older copy: noticed, left, and said so to others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.sim.test_quorum_kinds import passive
from tests.sim_calm import MS, SECOND, leader, reach, slow_disk, started
from tests.sim_needed import broken, missed

from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.commands import ChangeGroup
from leitwolf.model.ids import GroupId
from leitwolf.model.witness import ROLLED_BACK
from leitwolf.sim.node import SimNode
from leitwolf.sim.scenario import demand_service
from leitwolf.sim.world import World


def others_of(world: World, first: SimNode) -> list[SimNode]:
    return [node for node in world.nodes.values() if node is not first]


def change(world: World, node: SimNode, count: int = 5) -> None:
    """Commit some changes, which only this node and the witness get."""
    for number in range(count):
        command = ChangeGroup(group=GroupId("g1"), restart_threshold=number % 6 + 1)
        world.ask(node.id, -500 - number, command)
        world.run_until(world.now + 100 * MS)
    for number in range(count):
        assert world.answers[-500 - number].refusal is None


def disk_forgets_while_its_owner_lives(seed: int, rules: Rules) -> World:
    """Only the owner and the disk have the newest changes; the disk loses them, then the owner."""
    world = started("disk", 3, seed=seed, rules=rules)
    first = leader(world)
    others = others_of(world, first)
    for node in others:
        node.power_off("test")
    world.run_until(world.now + SECOND)
    [disk] = world.witnesses.values()
    put_back = disk.copy()
    change(world, first)
    put_back()
    world.run_until(world.now + 150 * MS)
    first.power_off("test")
    for node in others:
        node.power_on()
    world.run_until(world.now + 4 * SECOND)
    return world


def tag_forgets_while_all_are_down(seed: int, rules: Rules) -> World:
    """B was refused, for it lacks a change; the tag forgets it while both nodes are down."""
    world = started("tag-witness", 2, seed=seed, rules=rules)
    first = leader(world)
    [other] = others_of(world, first)
    [tag] = world.witnesses.values()
    put_back = tag.copy()
    other.power_off("test")
    world.run_until(world.now + 2 * SECOND)
    change(world, first)
    first.power_off("test")
    other.power_on()
    world.run_until(world.now + 3 * SECOND)
    assert not world.leaders()
    other.power_off("test")
    put_back()
    world.run_until(world.now + SECOND)
    other.power_on()
    world.run_until(world.now + 4 * SECOND)
    return world


SCENES: dict[str, Callable[[int, Rules], World]] = {
    "witness-memory": tag_forgets_while_all_are_down,
    "witness-distrust": disk_forgets_while_its_owner_lives,
    "witness-record": tag_forgets_while_all_are_down,
}
"""Rule -> the run in which something breaks without it."""


@pytest.mark.parametrize("rule", SCENES)
def test_a_copy_of_the_past_needs_the_rule(rule: str) -> None:
    """With all rules nobody leads by such a witness; without this one a change is lost."""
    for seed in range(1, 4):
        world = SCENES[rule](seed, ALL_RULES)
        assert not world.leaders()

    def lost(seed: int, rules: Rules) -> str:
        told = broken(SCENES[rule], seed, rules)
        return told if told.startswith(("I1: ", "I2: ")) or not rules.off else ""

    assert not (why := missed(rule, lost, range(1, 41))), why


@pytest.mark.parametrize("quorum", ["disk-witness", "full-witness", "tag-witness"])
def test_nodes_go_on_without_a_witness_that_forgot(quorum: str) -> None:
    """They are a quorum by themselves: nothing stops, and the witness is named as what it is."""
    world = started(quorum, 3)
    first, starts = leader(world), world.checker.starts
    [witness] = world.witnesses.values()
    put_back = witness.copy()
    change(world, first)
    world.run_until(world.now + 2 * SECOND)
    assert not passive(first).distrusted
    put_back()
    world.run_until(world.now + 12 * SECOND)
    assert leader(world) is first
    assert world.checker.starts == starts
    assert passive(first).fault.startswith(ROLLED_BACK)
    demand_service(world, "without the witness")


def test_what_a_disk_confirmed_before_it_forgot_counts_no_more() -> None:
    """The owner is slower than the disk; when it has the change itself, the disk lost it."""
    world = started("disk-witness", 2)
    first = leader(world)
    [other] = others_of(world, first)
    other.power_off("test")
    world.run_until(world.now + 2 * SECOND)
    [disk] = world.witnesses.values()
    put_back = disk.copy()
    world.run_until(world.now + 200 * MS)  # renewals, by which the copy is known
    slow_disk(first, 150, 150)
    core = first.daemon.core
    assert core is not None
    world.ask(first.id, -1, ChangeGroup(group=GroupId("g1"), restart_threshold=5))
    world.run_until(world.now + 2 * MS)
    index = core.quorum.last_key.index
    reach(world, lambda: passive(first).match == index, 100 * MS)
    assert core.quorum.durable_index < index
    put_back()
    reach(world, lambda: bool(passive(first).distrusted), 100 * MS)
    reach(world, lambda: core.quorum.durable_index == index, 200 * MS)
    world.run_until(world.now + 20 * MS)
    assert core.quorum.commit < index
    if -1 in world.answers:
        assert world.answers[-1].refusal is not None


@pytest.mark.parametrize("quorum", ["disk-witness", "full-witness"])
def test_a_copy_made_when_nothing_was_newer_is_no_fault(quorum: str) -> None:
    """What was written after a restart goes on where it stood; nobody is accused."""
    world = started(quorum, 2)
    for _ in range(3):
        first = leader(world)
        first.power_off("test")
        world.run_until(world.now + 3 * SECOND)
        first.power_on()
        world.run_until(world.now + 3 * SECOND)
    assert not any(passive(node).distrusted for node in world.nodes.values())
