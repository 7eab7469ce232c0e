"""How long it takes to take over a shared disk after a long reign, and what that costs others."""

from __future__ import annotations

import pytest
from tests.sim_calm import MS, SECOND, leader, started

from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.commands import ChangeGroup, TransferLeader
from leitwolf.model.ids import GroupId, NodeId
from leitwolf.sim.witness import SharedDisk
from leitwolf.sim.world import World


def long_reign(rules: Rules, *, changes: int, change_ns: int) -> World:
    """Node 3 owns a disk with room for everything, and made many changes one by one.

    Args:
        rules: that hold.
        changes: how many.
        change_ns: how long it takes to read one of them from the disk.
    """
    world = started("disk", 3, rules=rules)
    world.ask(leader(world).id, -1, TransferLeader(node=NodeId(3)))
    world.run_until(world.now + SECOND)
    first, [disk] = leader(world), world.witnesses.values()
    assert isinstance(disk, SharedDisk)
    disk.region_units, disk.unit_ns = 4_096, change_ns
    before = first.daemon.core.state.index
    for number in range(changes):
        command = ChangeGroup(group=GroupId("g1"), restart_threshold=number % 6)
        world.ask(first.id, -100 - number, command)
        world.run_until(world.now + 2 * MS)
    assert leader(world) is first
    assert first.daemon.core.state.index >= before + changes
    return world


def generations(world: World, among: list[str]) -> dict[str, int]:
    state = leader(world).daemon.core.state
    return {group: state.groups[GroupId(group)].generation for group in among}


def groups_go_on(rules: Rules) -> bool:
    """The owner dies; return whether the groups of the others went on."""
    world = long_reign(rules, changes=200, change_ns=MS // 5)
    first = leader(world)
    state = first.daemon.core.state
    among = [str(group.id) for group in state.groups.values() if group.owner != first.id]
    assert among
    before = generations(world, among)
    first.power_off("test")
    world.run_until(world.now + 4 * SECOND)
    return generations(world, among) == before


@pytest.mark.parametrize("rule", ["region-bounded"])
def test_a_long_reign_costs_no_other_group_anything(rule: str) -> None:
    """I10: a region is read within an election, however long its owner wrote."""
    assert groups_go_on(ALL_RULES)
    assert not groups_go_on(Rules.without(rule))


def takes_over(rules: Rules) -> bool:
    """The region takes longer to read than a campaign lasts; return whether somebody led."""
    world = long_reign(rules, changes=100, change_ns=4 * MS)
    leader(world).power_off("test")
    return world.run_to(lambda: bool(world.leaders()), 4 * SECOND)


@pytest.mark.parametrize("rule", ["adopted-once"])
def test_what_was_read_too_late_is_not_read_again(rule: str) -> None:
    """I9: the campaign is over meanwhile; the next one finds everything in the own log."""
    assert takes_over(Rules.without("region-bounded"))
    assert not takes_over(Rules.without("region-bounded", rule))
