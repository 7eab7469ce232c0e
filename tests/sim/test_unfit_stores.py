"""Shares that answer with old values, disks that rot: what the rules bear, and what is told."""

from __future__ import annotations

import pytest
from tests.sim.test_quorum_kinds import passive
from tests.sim_calm import MS, SECOND, leader, started

from leitwolf.core.rules import Rules
from leitwolf.model.commands import ChangeGroup
from leitwolf.model.ids import GroupId
from leitwolf.model.witness import ROLLED_BACK
from leitwolf.sim.scenario import Setting, demand_service, simulate
from leitwolf.sim.witness import SharedDisk

# What is refused as unfit, and breaks something where it is not: compare-and-swap that does not
# compare, and disks that show old blocks, are rules of test_quorum_kinds.py (conditions-kept,
# fresh-reads). Here: what happens if such a store is used all the same, and can be noticed.


@pytest.mark.parametrize("quorum", ["tag-witness", "full-witness", "engine"])
@pytest.mark.parametrize("nodes", [2, 3])
def test_stale_reads_break_nothing(quorum: str, nodes: int) -> None:
    """They may cost the witness, for it looks as if it had been restored; never two leaders."""
    for seed in range(1, 7):
        setting = Setting(nodes=nodes, quorum=quorum, mix="stale", chaos_s=15, liveness=False)
        outcome = simulate(seed, setting)
        assert outcome.ok, f"seed {seed} {quorum} {nodes} stale: {outcome.violation}"


def test_stale_reads_are_told() -> None:
    """A witness that shows less than it showed is counted no more; the nodes go on."""
    world = started("full-witness", 3)
    first, starts = leader(world), world.checker.starts
    [share] = world.witnesses.values()
    for number in range(5):
        command = ChangeGroup(group=GroupId("g1"), restart_threshold=number + 1)
        world.ask(first.id, -1 - number, command)
        world.run_until(world.now + 1_200 * MS)
    share.stale_per_thousand = 1_000
    world.run_until(world.now + 12 * SECOND)
    assert any(passive(node).fault.startswith(ROLLED_BACK) for node in world.nodes.values())
    assert leader(world) is first
    assert world.checker.starts == starts
    demand_service(world, "without the witness")


@pytest.mark.parametrize("quorum", ["disk", "disk-witness"])
@pytest.mark.parametrize("nodes", [2, 3])
def test_a_rotten_copy_breaks_nothing(quorum: str, nodes: int) -> None:
    """Of each block one of two copies cannot be read: the other counts, and is copied back."""
    for seed in range(1, 7):
        outcome = simulate(seed, Setting(nodes=nodes, quorum=quorum, mix="rotten", chaos_s=15))
        assert outcome.ok, f"seed {seed} {quorum} {nodes} rotten: {outcome.violation}"


@pytest.mark.parametrize("whole", [False, True])
def test_a_damaged_disk_is_not_adopted(whole: bool) -> None:
    """A region, or a block with both copies, is gone with its owner: the others say so and wait."""
    world = started("disk", 3)
    first = leader(world)
    [disk] = world.witnesses.values()
    assert isinstance(disk, SharedDisk)
    first.power_off("test")
    world.run_until(world.now + 20 * MS)
    (disk.ruin if whole else disk.rot_region)(first.id)
    world.run_until(world.now + 4 * SECOND)
    assert not world.leaders()
    faults = [passive(node).fault for node in world.nodes.values() if node is not first]
    assert any(fault.startswith("witness-damaged") for fault in faults), faults


def test_a_rotten_region_is_begun_anew_by_its_owner() -> None:
    """It lives and knows everything: with the next overflow the region is whole again."""
    world = started("disk", 2)
    first, elections = leader(world), world.checker.elections
    [disk] = world.witnesses.values()
    assert isinstance(disk, SharedDisk)
    disk.rot_region(first.id)
    for number in range(70):
        command = ChangeGroup(group=GroupId("g1"), restart_threshold=number % 6)
        world.ask(first.id, -100 - number, command)
        world.run_until(world.now + 15 * MS)
    assert world.checker.elections == elections
    first.power_off("test")
    world.run_until(world.now + 3 * SECOND)
    demand_service(world, "without the former owner")


def test_stale_blocks_are_told_where_newer_ones_were_seen() -> None:
    """Such a disk is left for good, as one that was restored; nodes that suffice go on."""
    world = started("disk-witness", 3)
    first, starts = leader(world), world.checker.starts
    for number in range(5):
        command = ChangeGroup(group=GroupId("g1"), restart_threshold=number + 1)
        world.ask(first.id, -1 - number, command)
        world.run_until(world.now + 1_200 * MS)
    world.run_until(world.now + 7 * SECOND)
    world.rules = Rules.without("fresh-reads")
    world.run_until(world.now + 12 * SECOND)
    assert any(passive(node).fault.startswith(ROLLED_BACK) for node in world.nodes.values())
    assert leader(world) is first
    assert world.checker.starts == starts
    demand_service(world, "without the disk")


@pytest.mark.parametrize("copy", [0, 1])
def test_a_disk_is_taken_over_by_the_copy_that_is_left(copy: int) -> None:
    """Its owner alone made a change and died; one copy of its block is gone: nothing is lost."""
    world = started("disk", 2)
    first = leader(world)
    [other] = [node for node in world.nodes.values() if node is not first]
    other.power_off("test")
    world.run_until(world.now + SECOND)
    world.ask(first.id, -1, ChangeGroup(group=GroupId("g1"), restart_threshold=5))
    world.run_until(world.now + 300 * MS)
    assert world.answers[-1].refusal is None
    [disk] = world.witnesses.values()
    assert isinstance(disk, SharedDisk)
    first.power_off("test")
    world.run_until(world.now + 20 * MS)
    disk.rot(copy)
    assert None in disk._copies[first.id]
    other.power_on()
    world.run_until(world.now + 8 * SECOND)
    assert leader(world) is other
    state = world.state()
    assert state is not None
    assert state.groups[GroupId("g1")].restart_threshold == 5
    demand_service(world, "without the former owner")
