"""Explanations of where a group is, and what the quorum survives."""

from __future__ import annotations

from msgspec.structs import replace
from tests.policy_world import AWAY, World

from leitwolf.core.policy import survives, why
from leitwolf.model.commands import AddGroup, ChangeGroup, MoveGroup, NewResource, WishResource
from leitwolf.model.ids import (
    GroupId,
    GroupPhase,
    GroupStatus,
    NodeId,
    ResourceId,
    ResourceState,
    Wish,
)
from leitwolf.model.quorum import Acceptor

WEB = GroupId("web")


def failed_over() -> World:
    """A group that failed on node1 and is placed on node2."""
    world = World()
    world.online("web")
    for _ in range(2):
        world.report("web-app", ResourceState.FAILED, code="exited", text="exit status 1")
        world.settle()
    world.attest("web")
    world.settle()
    return world


def test_the_chain_of_causes_leads_back_to_the_failure() -> None:
    """Placed because it failed over, because the restarts were used up, because it exited."""
    world = failed_over()
    found = why(world.state, world.log.get, WEB, world.seen())
    assert found is not None
    assert [reason.code for reason in found.reasons] == ["failed-over", "failover", "exited"]
    assert found.reasons[2].text == "web-app on node1: failed (exit status 1)"
    assert [(each.node, each.code) for each in found.not_chosen] == [
        (1, "failed-there"),
        (3, "higher-id"),
    ]
    assert (found.phase, found.owner, found.status) == (GroupPhase.ACTIVE, 2, GroupStatus.OFFLINE)
    assert found.waits_for == "web-app to come online"
    assert len(found.lines) <= 10


def test_the_time_is_written_as_the_caller_wants() -> None:
    """As its entries beside it are; UTC where nobody says how."""
    world = failed_over()
    found = why(world.state, world.log.get, WEB, clock=lambda _: "at noon")
    assert found is not None
    assert "since at noon" in found.summary
    found = why(world.state, world.log.get, WEB)
    assert found is not None
    assert " UTC " in found.summary


def test_a_resource_that_was_taken_offline_is_named() -> None:
    """Else a group that is partly online by somebody's wish looks like a riddle."""
    world = World()
    world.online("web")
    world.do(WishResource(resource=ResourceId("web-app"), wish=Wish.OFFLINE))
    world.report("web-app", ResourceState.OFFLINE)
    world.settle()
    found = why(world.state, world.log.get, WEB)
    assert found is not None
    assert "web-app is offline, as it shall be, with what depends on it" in found.lines


def test_what_is_waited_for_names_the_check() -> None:
    """A wrong port is found by reading it."""
    world = World()
    app = NewResource(
        resource=ResourceId("app"),
        type="process",
        parameters={"command": "/bin/server", "check_tcp": "127.0.0.1:81"},
    )
    world.do(AddGroup(group=GroupId("new"), resources=(app,)))
    world.settle()
    world.report("app", ResourceState.ONLINE_PENDING)
    world.settle()
    found = why(world.state, world.log.get, GroupId("new"))
    assert found is not None
    assert found.waits_for == "app (its check_tcp 127.0.0.1:81) to come online"


def test_new_settings_leave_the_reason_of_the_place() -> None:
    """Nothing moved because of them."""
    world = failed_over()
    before = world.group("web").cause
    world.do(ChangeGroup(group=WEB, restart_threshold=5))
    assert (world.group("web").restart_threshold, world.group("web").cause) == (5, before)


def test_causes_are_told_without_the_history() -> None:
    """The state keeps why the group was placed, whatever became of the log."""
    world = failed_over()
    found = why(world.state, lambda _index: None, WEB)
    assert found is not None
    assert [reason.code for reason in found.reasons] == ["failed-over"]
    assert "web failed on node1" in found.lines[1]


def test_a_broken_history_ends_the_walk() -> None:
    """Entries that point at themselves or at each other are walked once."""
    world = failed_over()
    index = world.group("web").placed
    event = world.log[index].events[-1]
    turned = replace(event, cause=replace(event.cause, index=index))  # type: ignore[union-attr]
    world.log[index] = replace(
        world.log[index],
        events=(turned,),
        because=replace(world.log[index].because, index=index),
    )
    found = why(world.state, world.log.get, WEB)
    assert found is not None
    assert len(found.lines) <= 10


def test_a_closing_group_waits_for_its_owner() -> None:
    """The operator sees who has to act, and who asked for the move."""
    world = World()
    world.online("web")
    world.do(MoveGroup(group=WEB, node=NodeId(3)))
    found = why(world.state, world.log.get, WEB)
    assert found is not None
    assert found.waits_for.startswith("node1 to confirm")
    assert "asked for by root" in found.lines[1]


def test_an_unknown_group_has_no_explanation() -> None:
    """There is nothing to explain."""
    world = World()
    assert why(world.state, world.log.get, WEB) is None


# --- health --------------------------------------------------------------------------------------


def test_what_the_quorum_survives() -> None:
    """Three nodes: any one; two left: none; one left: no quorum."""
    world = World()
    assert survives(world.state).failures == 1
    assert survives(world.state).nodes == (1, 2, 3)
    world.see(3, AWAY)
    world.settle()
    found = survives(world.state)
    assert (found.quorum, found.failures, found.nodes) == (True, 0, ())
    found = survives(world.state, alive={1})
    assert not found.quorum
    assert survives(World(5).state).failures == 2


def test_weights_and_joint_configurations_count() -> None:
    """A heavy vote cannot be missed; during a change both configurations must agree."""
    world = World()
    assert world.state.quorum is not None
    heavy = tuple(
        Acceptor(id=each.id, weight=3 if each.id.node == 1 else 1)
        for each in world.state.quorum.acceptors
    )
    config = replace(world.state.quorum, acceptors=heavy)
    found = survives(replace(world.state, quorum=config))
    assert (found.failures, found.nodes) == (0, (2, 3))
    assert found.text == (
        "node2 or node3 may fail, not node1 (it has the casting vote: 2 of 5 votes would be left)"
    )
    config = replace(world.state.quorum, former=heavy)
    assert survives(replace(world.state, quorum=config)).nodes == (2, 3)
