"""Another way to the same disk or witness: for one node, or for all."""

from __future__ import annotations

import pytest
from tests.policy_world import World

from leitwolf.core.policy import Judged, judge
from leitwolf.model.commands import RelocateWitness, SetQuorum
from leitwolf.model.ids import NodeId
from leitwolf.model.quorum import location_of
from leitwolf.model.state import State

STORAGE = "00000000-0000-4000-8000-000000000001"
OTHER = "00000000-0000-4000-8000-000000000002"


@pytest.fixture
def world() -> World:
    """Three nodes and a disk."""
    world = World()
    world.do(use("iscsi://a/t/1"))
    return world


def use(location: str, storage: str = STORAGE) -> SetQuorum:
    return SetQuorum(witness="disk", storage=storage, location=location, alone=True)


def ways(state: State) -> list[str]:
    """Where nodes 1 and 2 reach it, and one that is told nothing."""
    assert state.wish.witness is not None
    return [location_of(state.wish.witness, state.relocations, node) for node in (1, 2, 0)]


def refusal(world: World, command: RelocateWitness) -> str:
    answer = judge(world.state, command, world.seen())
    assert not isinstance(answer, Judged)
    return answer.code


def test_all_nodes_use_another_portal_but_those_with_their_own(world: World) -> None:
    """A node's own way counts for it, the common one for the others."""
    world.do(RelocateWitness(storage=STORAGE, location="iscsi://b/t/1", node=NodeId(2)))
    assert ways(world.state) == ["iscsi://a/t/1", "iscsi://b/t/1", "iscsi://a/t/1"]
    world.do(RelocateWitness(storage=STORAGE, location="iscsi://c/t/1"))
    assert ways(world.state) == ["iscsi://c/t/1", "iscsi://b/t/1", "iscsi://c/t/1"]
    world.do(RelocateWitness(storage=STORAGE, location="iscsi://c/t/1", node=NodeId(2)))
    world.do(RelocateWitness(storage=STORAGE, location="iscsi://a/t/1"))
    assert world.state.relocations == ()
    assert ways(world.state) == ["iscsi://a/t/1"] * 3


def test_what_is_so_already_changes_nothing(world: World) -> None:
    """Asked twice, it is one entry."""
    command = RelocateWitness(storage=STORAGE, location="/dev/sdb")
    world.do(command)
    index = world.state.index
    world.do(command)
    assert world.state.index == index


def test_the_disk_named_anew_and_another_one_forget_the_common_way(world: World) -> None:
    """What was said of a disk that is gone says nothing about the next one."""
    world.do(RelocateWitness(storage=STORAGE, location="/dev/sdb"))
    world.do(RelocateWitness(storage=STORAGE, location="/dev/sdc", node=NodeId(2)))
    world.do(use("/dev/sdd"))
    assert ways(world.state) == ["/dev/sdd", "/dev/sdc", "/dev/sdd"]
    world.do(use("/dev/sde", OTHER))
    assert world.state.relocations == ()
    assert ways(world.state) == ["/dev/sde"] * 3


def test_unknown_disks_nodes_and_places_are_refused(world: World) -> None:
    """With a code for each."""
    assert refusal(world, RelocateWitness(storage=OTHER, location="/x")) == "no-such-witness"
    unknown = RelocateWitness(storage=STORAGE, location="/x", node=NodeId(9))
    assert refusal(world, unknown) == "unknown-node"
    assert refusal(world, RelocateWitness(storage=STORAGE, location="")) == "out-of-range"
