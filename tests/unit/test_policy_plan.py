"""What the leader decides: nodes, placement, restarts, failover, drain, removal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.policy_world import AWAY, DISCONNECTED, UP, World

import leitwolf.core.policy as package
from leitwolf.core.policy import CAUSES, NOT_CHOSEN, REFUSALS, candidates, group_status
from leitwolf.core.policy.dependencies import dependents, depth, find_cycle, levels, order
from leitwolf.core.policy.status import status_of
from leitwolf.model import errors, events
from leitwolf.model.commands import (
    AddResource,
    ChangeGroup,
    EvictNode,
    IssueToken,
    MoveGroup,
    PauseNode,
    RecoverGroup,
    RemoveGroup,
    StopNode,
    WishGroup,
    WishResource,
)
from leitwolf.model.ids import (
    GroupId,
    GroupPhase,
    GroupStatus,
    NodeId,
    NodeStatus,
    ResourceId,
    ResourceState,
    Wish,
)
from leitwolf.model.observations import NodeView
from leitwolf.state import SECOND

WEB = GroupId("web")
ONLINE, OFFLINE, FAILED = ResourceState.ONLINE, ResourceState.OFFLINE, ResourceState.FAILED
PENDING = ResourceState.ONLINE_PENDING
MILLISECOND = 1_000_000


def kinds(found: list[events.Event]) -> list[str]:
    return [type(event).__name__ for event in found]


# --- nodes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "up"),
    [
        (UP, True),
        (DISCONNECTED, False),
        (NodeView(leased=False, connected=True, away=False), False),
        (AWAY, False),
    ],
)
def test_a_node_is_up_when_leased_and_connected(view: NodeView, *, up: bool) -> None:
    """Neither a lease without a daemon nor a daemon without a lease makes a node an owner."""
    world = World(1, up=False)
    world.see(1, view)
    world.settle()
    assert world.state.nodes[1].up is up


def test_a_node_whose_daemon_died_keeps_its_groups() -> None:
    """A leased node without a connection is not down: its groups run on and are adopted."""
    world = World()
    world.online("web")
    world.see(1, DISCONNECTED)
    assert world.plan().changes == ()


def test_groups_of_a_lost_node_move_in_the_same_change() -> None:
    """There is no moment at which the log says that the node is down but still the owner."""
    world = World()
    for name in ("a", "b", "c", "d"):
        world.online(name)
    owned = [name for name in "abcd" if world.group(name).owner == 1]
    assert len(owned) == 2
    world.see(1, AWAY)
    (planned,) = world.settle()
    assert kinds(list(planned.events)) == ["NodeDown", "GroupPlaced", "GroupPlaced"]
    assert planned.because.code == "node-lost"
    assert all(world.group(name).owner != 1 for name in "abcd")


def test_a_lost_node_does_not_use_up_the_failover_budget() -> None:
    """The group did not fail; it must survive any number of power failures."""
    world = World()
    world.online("web")
    for _ in range(5):
        owner = world.group("web").owner
        world.see(owner, AWAY)
        world.settle()
        world.see(owner, UP)
        world.settle()
    assert world.group("web").failovers == ()
    assert world.group("web").owner != 0


def test_without_a_taker_the_group_stops_and_says_why_then_starts_again() -> None:
    """A stopped group that shall be online is placed as soon as a node can take it."""
    world = World(2)
    world.online("web")
    world.see(2, AWAY)
    world.settle()
    world.see(1, AWAY)
    (planned,) = world.settle()
    stopped = planned.events[1]
    assert isinstance(stopped, events.GroupStopped)
    assert {(each.node, each.code) for each in stopped.not_chosen} == {(1, "down"), (2, "down")}
    world.see(2, UP)
    found = world.events(world.settle())
    assert kinds(found) == ["NodeUp", "GroupPlaced"]
    assert world.group("web").owner == 2


def test_two_nodes_lost_at_once_leave_their_groups_on_the_third() -> None:
    """No group is placed on a node that is lost in the same plan."""
    world = World()
    for name in ("a", "b", "c"):
        world.online(name)
    world.see(1, AWAY)
    world.see(2, AWAY)
    assert len(world.settle()) == 2
    assert {world.group(name).owner for name in "abc"} == {3}


# --- placement -----------------------------------------------------------------------------------


def test_without_preference_the_node_with_the_fewest_groups_is_chosen() -> None:
    """Groups spread evenly; ties go to the lower number."""
    world = World()
    for name in ("a", "b", "c", "d"):
        world.online(name)
    assert [world.group(name).owner for name in "abcd"] == [1, 2, 3, 1]


@pytest.mark.parametrize(
    ("owner", "expected"), [(0, (3, 4, 1, 2)), (4, (1, 2, 3)), (3, (4, 1, 2)), (2, (3, 4, 1))]
)
def test_the_list_goes_on_behind_the_failing_node(owner: int, expected: tuple[int, ...]) -> None:
    """Preferred 3, 4 of nodes 1-4 is the list 3, 4, 1, 2: a failure on 4 leads to 1."""
    world = World(4)
    world.add("web", preferred=(NodeId(3), NodeId(4)))
    assert (
        candidates(world.state, world.group("web"), world.seen(), NodeId(owner)).usable == expected
    )


def test_every_node_that_is_not_chosen_has_its_reason() -> None:
    """Down, not connected, paused, learner, leaving and later in the order are told apart."""
    world = World(6)
    world.add("web", preferred=(NodeId(6), NodeId(1)))
    world.apply(
        World.new_node(7),
        events.NodePaused(node=NodeId(2), paused=True),
        events.NodeLeaving(node=NodeId(3), evicted=True),
        events.NodeDown(node=NodeId(4), attested=True),
        events.NodeUp(node=NodeId(7)),
    )
    world.see(7, UP)
    world.see(5, DISCONNECTED)
    found = candidates(world.state, world.group("web"), world.seen())
    assert found.usable == (6, 1)
    assert [(each.node, each.code) for each in found.not_chosen(NodeId(6))] == [
        (1, "not-preferred-first"),
        (2, "paused"),
        (3, "leaving"),
        (4, "down"),
        (5, "not-connected"),
        (7, "learner"),
    ]


def test_a_node_that_is_away_takes_nothing_whatever_else_is_seen() -> None:
    """Away is what the guard is certain of."""
    world = World()
    world.add("web")
    world.see(1, NodeView(leased=True, connected=True, away=True))
    assert candidates(world.state, world.group("web"), world.seen()).usable == (2, 3)


# --- starting and reporting ----------------------------------------------------------------------


def test_a_group_that_shall_be_offline_is_not_placed() -> None:
    """The wish of the operator decides."""
    world = World()
    world.online("web")
    world.do(WishGroup(group=WEB, wish=Wish.OFFLINE))
    assert world.settle() == []
    assert world.group("web").phase is GroupPhase.ACTIVE
    world.see(1, AWAY)
    world.settle()
    assert world.group("web").owner == 2, "ownership moves, nothing starts"


def test_reports_become_entries_with_all_states_between() -> None:
    """A coalesced report is filled in, so that the log tells a possible story."""
    world = World()
    world.online("web")
    world.report("web-app", PENDING)
    (planned,) = world.settle()
    states = [event.state for event in planned.events if isinstance(event, events.ResourceMoved)]
    assert states == [OFFLINE, PENDING]


@pytest.mark.parametrize("change", [{"generation": 0}, {"attempt": 7}])
def test_stale_reports_are_ignored(change: dict[str, int]) -> None:
    """What another generation or attempt did says nothing about this one."""
    from msgspec.structs import replace

    world = World()
    world.online("web")
    world.report("web-app", FAILED)
    name = ResourceId("web-app")
    world.reports[name] = replace(world.reports[name], **change)
    seen = world.seen()
    seen.resources[name] = world.reports[name]
    from leitwolf.core.policy import plan

    assert plan(world.state, seen, world.now).changes == ()


def test_groups_do_not_wait_for_each_other() -> None:
    """Each group has its own change."""
    world = World()
    world.add("a")
    world.add("b")
    assert len(world.plan().changes) == 2


# --- failures ------------------------------------------------------------------------------------


def fail(world: World, text: str = "exit status 1") -> list[events.Event]:
    world.report("web-app", FAILED, text=text)
    return world.events(world.settle())


def fail_over(world: World) -> None:
    """Let the group fail where it is, and come online on the next node."""
    while world.group("web").phase is GroupPhase.ACTIVE and world.group("web").failed_at < 0:
        fail(world)
    if world.group("web").phase is GroupPhase.CLOSING:
        world.report("web-app", OFFLINE)
        world.attest("web")
        world.settle()


def test_a_failed_resource_is_restarted_in_place_first() -> None:
    """Failure and next attempt are one change: no moment without a decision."""
    world = World()
    world.online("web")
    found = fail(world)
    assert [(event.state, event.attempt) for event in found] == [(FAILED, 0), (PENDING, 1)]
    assert world.plan().changes == (), "the report of attempt 0 is stale now"


def test_beyond_the_restart_threshold_the_group_fails_over() -> None:
    """One restart per node, then the next node; the owner closes first."""
    world = World()
    world.online("web")
    fail(world)
    found = fail(world)
    assert kinds(found) == ["ResourceMoved", "GroupClosing"]
    assert world.group("web").phase is GroupPhase.CLOSING
    assert world.group("web").target == 2
    assert world.plan().changes == (), "nothing moves before the owner attested"
    world.report("web-app", OFFLINE)
    world.attest("web")
    found = world.events(world.settle())
    placed = next(event for event in found if isinstance(event, events.GroupPlaced))
    assert (placed.node, placed.generation, placed.failover) == (2, 2, True)
    assert placed.cause.code == "failed-over"


def test_restarts_one_after_the_other_keep_a_growing_distance() -> None:
    """The first at once, then 100 ms apart, doubling up to 5 s; the plan says when to go on."""
    world = World()
    world.online("web", restart_threshold=20)
    assert kinds(fail(world)) == ["ResourceMoved", "ResourceMoved"]
    pauses = []
    for _ in range(9):
        begun = world.now
        world.now += MILLISECOND
        assert kinds(fail(world)) == ["ResourceMoved"], "noted, and no more"
        next_at = world.plan().next_at
        assert next_at is not None
        world.now = next_at - 1
        assert world.plan().changes == ()
        world.now = next_at
        (found,) = world.events(world.settle())
        assert isinstance(found, events.ResourceMoved)
        assert found.state is PENDING
        assert world.plan().next_at is None
        pauses.append((world.now - begun) // MILLISECOND)
    assert pauses == [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]
    world.report("web-app", ONLINE)
    world.settle()
    world.now += 6 * SECOND
    assert kinds(fail(world)) == ["ResourceMoved", "ResourceMoved"], "it ran for long enough"


def test_a_pause_delays_neither_failover_nor_operator() -> None:
    """Used up restarts move the group at once, and a paused resource can be taken offline."""
    world = World()
    world.online("web", restart_threshold=2)
    fail(world)
    fail(world)
    world.do(PauseNode(node=NodeId(1), paused=True, drain=True))
    assert "GroupClosing" in kinds(world.events(world.settle())), "drained without waiting"
    world = World()
    world.online("web", restart_threshold=1)
    fail(world)
    assert "GroupClosing" in kinds(fail(world))
    world = World()
    world.online("web", restart_threshold=2)
    fail(world)
    fail(world)
    world.do(WishGroup(group=WEB, wish=Wish.OFFLINE))
    world.settle()
    world.now += 10 * SECOND
    assert world.plan().changes == ()


def test_restarts_fall_out_of_their_period() -> None:
    """A failure now and then is restarted in place for ever."""
    world = World()
    world.online("web", restart_period_s=100)
    for _ in range(5):
        assert kinds(fail(world)) == ["ResourceMoved", "ResourceMoved"]
        world.report("web-app", ONLINE)
        world.settle()
        world.now += 101 * SECOND
    assert world.group("web").owner == 1


def test_each_node_is_visited_once_then_the_group_is_failed() -> None:
    """The default of the original: one restart per node, one visit to each node, then failed."""
    world = World()
    world.online("web")
    owners = [world.group("web").owner]
    for _ in range(2):
        fail_over(world)
        owners.append(world.group("web").owner)
    assert owners == [1, 2, 3]
    fail_over(world)
    group = world.group("web")
    assert (group.phase, group.owner, group.failed_at) == (GroupPhase.ACTIVE, 3, world.now)
    assert group.cause.code == "failover-threshold"
    assert group_status(world.state, WEB) is GroupStatus.FAILED


def test_no_node_is_visited_twice_however_large_the_budget() -> None:
    """A group that failed on every node is given up, not sent round in a circle."""
    world = World(2)
    world.online("web", failover_threshold=100)
    fail_over(world)
    assert world.group("web").owner == 2
    fail_over(world)
    assert (world.group("web").owner, world.group("web").failed_at) == (2, world.now)
    assert world.group("web").cause.code == "no-other-node"


def test_a_failed_group_is_tried_again_after_its_retry_period() -> None:
    """The plan names the instant; then all counters begin anew."""
    world = World()
    world.online("web", failover_threshold=0, retry_period_s=60)
    fail(world)
    fail(world)
    assert world.group("web").failed_at == world.now
    due = world.now + 60 * SECOND
    assert world.plan().next_at == due
    world.now = due - 1
    assert world.plan().changes == ()
    world.now = due
    found = world.events(world.settle())
    assert kinds(found) == ["ResourceMoved", "GroupRecovered"]
    assert world.group("web").failed_at == -1
    assert world.resource("web-app").restarts == ()
    assert world.plan().next_at is None


def test_a_failed_group_goes_to_a_node_that_comes_up_later() -> None:
    """Giving up for lack of a node ends when there is a node, not after an hour."""
    world = World(2)
    world.see(2, AWAY)
    world.settle()
    world.online("web")
    fail(world)
    found = fail(world)
    assert found[-1].cause.code == "no-other-node"  # type: ignore[union-attr]
    world.see(2, UP)
    found = world.events(world.settle())
    assert kinds(found) == ["NodeUp", "GroupClosing"]


def test_a_resource_that_cannot_be_stopped_is_not_restarted() -> None:
    """What still runs must not be started a second time, here or elsewhere."""
    world = World()
    world.online("web")
    world.report("web-app", FAILED, code="stop-timeout")
    found = world.events(world.settle())
    assert kinds(found) == ["ResourceMoved", "GroupFailed"]
    world.do(MoveGroup(group=WEB, node=NodeId(2)))
    assert world.plan().changes == (), "closing waits for the attest"
    world.see(1, AWAY)
    world.settle()
    assert world.group("web").owner == 2, "the end of the lease settles it"


def test_what_is_not_wanted_is_not_restarted() -> None:
    """Recovery never begins while the wish is offline, the provider's included."""
    world = World()
    world.online("web", resources={"web-ip": (), "web-app": ("web-ip",)})
    world.do(WishResource(resource=ResourceId("web-ip"), wish=Wish.OFFLINE))
    found = fail(world)
    assert [(event.state, event.attempt) for event in found] == [(FAILED, 0)]


def test_an_operator_ends_the_failure() -> None:
    """Recover forgets what was counted and starts the next attempt at once."""
    world = World()
    world.online("web", failover_threshold=0)
    fail(world)
    fail(world)
    world.do(RecoverGroup(group=WEB))
    assert world.group("web").failed_at == -1
    assert (world.resource("web-app").state, world.resource("web-app").restarts) == (PENDING, ())
    assert world.settle() == []
    assert world.do(RecoverGroup(group=WEB)).events == ()


def test_a_group_that_failed_everywhere_prefers_nodes_where_it_did_not() -> None:
    """When its owner dies, a node on which it failed is taken only if no other can."""
    world = World()
    world.online("web")
    fail_over(world)
    assert (world.group("web").owner, world.group("web").visited) == (2, (1,))
    world.see(3, AWAY)
    world.settle()
    world.see(2, AWAY)
    world.settle()
    assert world.group("web").owner == 1


# --- moving and draining -------------------------------------------------------------------------


def test_a_move_closes_first_and_ends_on_the_target() -> None:
    """A planned move is not a failover."""
    world = World()
    world.online("web")
    world.do(MoveGroup(group=WEB, node=NodeId(3)))
    assert world.settle() == []
    world.attest("web")
    world.report("web-app", OFFLINE)
    world.settle()
    assert world.group("web").owner == 3
    assert world.group("web").failovers == ()


@pytest.mark.parametrize(("lost", "owner"), [(3, 2), (1, 3)])
def test_a_move_survives_the_loss_of_either_end(lost: int, owner: int) -> None:
    """Target lost: the next candidate. Source lost: the target at once."""
    world = World()
    world.online("web")
    world.do(MoveGroup(group=WEB, node=NodeId(3)))
    world.see(lost, AWAY)
    world.settle()
    if lost != 1:
        world.attest("web")
        world.settle()
    assert world.group("web").owner == owner


def test_draining_moves_every_group_by_itself() -> None:
    """Each group closes on its own; none waits for another."""
    world = World()
    for name in ("a", "b", "c", "d"):
        world.online(name)
    world.do(PauseNode(node=NodeId(1), paused=True))
    found = world.settle()
    assert [kinds(list(each.events)) for each in found] == [["GroupClosing"], ["GroupClosing"]]
    world.attest("a")
    world.settle()
    assert world.group("a").owner != 1
    assert world.group("d").phase is GroupPhase.CLOSING


def test_draining_without_a_taker_leaves_the_group_running() -> None:
    """An administrator who drains the last node does not want an outage."""
    world = World(2)
    world.online("web")
    world.do(PauseNode(node=NodeId(2), paused=True))
    world.do(PauseNode(node=NodeId(1), paused=True))
    assert world.plan().changes == ()
    world.do(PauseNode(node=NodeId(2), paused=False))
    assert kinds(world.events(world.settle())) == ["GroupClosing"]


def test_a_node_that_stops_closes_what_nobody_can_take_and_starts_it_again() -> None:
    """It would be killed there otherwise. The wish remains, and nothing counts as a failure."""
    world = World(2)
    world.online("web")
    world.do(PauseNode(node=NodeId(2), paused=True))
    world.do(StopNode(node=NodeId(1)))
    (closing,) = world.events(world.settle())
    assert isinstance(closing, events.GroupClosing)
    assert (closing.target, closing.failover) == (0, False)
    assert closing.cause.text == "node1 is about to stop; no other node can take web"
    world.report("web-app", OFFLINE)
    world.attest("web")
    found = world.events(world.settle())
    assert kinds(found) == ["ResourceMoved", "GroupStopped"]
    group = world.group("web")
    assert (group.wish, group.phase, group.failed_at) == (Wish.ONLINE, GroupPhase.STOPPED, -1)
    assert group.cause.text == "node1 stopped web before it stops itself; no node can take web"
    assert world.resource("web-app").restarts == ()
    world.see(1, AWAY)
    assert kinds(world.events(world.settle())) == ["NodeDown"]
    world.see(1, UP)
    assert kinds(world.events(world.settle())) == ["NodeUp", "GroupPlaced"]
    assert (world.group("web").owner, world.group("web").failovers) == (1, ())


def test_a_node_that_stops_moves_what_another_can_take() -> None:
    """Only what cannot move stops without a target; a taker that comes meanwhile has it at once."""
    world = World(2)
    world.online("web")
    world.do(StopNode(node=NodeId(1)))
    (closing,) = world.events(world.settle())
    assert isinstance(closing, events.GroupClosing)
    assert closing.target == 2
    world = World(2)
    world.online("web")
    world.do(PauseNode(node=NodeId(2), paused=True))
    world.do(StopNode(node=NodeId(1)))
    world.settle()
    world.do(PauseNode(node=NodeId(2), paused=False))
    world.attest("web")
    assert kinds(world.events(world.settle())) == ["GroupPlaced"]
    assert world.group("web").owner == 2


def test_nothing_is_restarted_on_a_node_that_stops() -> None:
    """Neither in place nor by a failover that counts: what failed stops with the rest."""
    world = World(1)
    world.online("web")
    world.do(StopNode(node=NodeId(1)))
    world.report("web-app", FAILED)
    assert kinds(world.events(world.settle())) == ["ResourceMoved", "GroupClosing"]
    assert world.resource("web-app").attempt == 0
    assert world.group("web").visited == ()


def test_pausing_without_draining_moves_nothing() -> None:
    """Paused nodes keep what they run and take nothing new."""
    world = World(2)
    world.online("web")
    world.do(PauseNode(node=NodeId(1), paused=True, drain=False))
    assert world.plan().changes == ()


def test_groups_leave_a_node_that_leaves() -> None:
    """A leaving node gets no groups, loses those that it has, and does not come up again."""
    world = World()
    world.online("web")
    world.do(EvictNode(node=NodeId(1)))
    assert kinds(world.events(world.settle())) == ["GroupClosing"]
    world.see(1, AWAY)
    world.settle()
    assert world.group("web").owner == 2
    world.see(1, UP)
    assert world.plan().changes == ()
    assert world.state.nodes[1].status is NodeStatus.LEAVING


# --- removing, tokens ----------------------------------------------------------------------------


def test_a_group_is_removed_when_its_owner_attested() -> None:
    """Its name and addresses are free only when nothing of it can run any more."""
    world = World()
    world.online("web", resources={"web-ip": (), "web-app": ("web-ip",)})
    world.do(RemoveGroup(group=WEB, force=True))
    assert world.settle() == []
    assert "web" in world.state.groups
    world.attest("web")
    found = world.events(world.settle())
    assert kinds(found) == ["GroupStopped", "ResourceRemoved", "ResourceRemoved", "GroupRemoved"]
    assert world.state.groups == {}
    assert world.state.resources == {}


def test_an_unused_token_ends_with_its_lifetime() -> None:
    """The plan names the instant and withdraws the token then."""
    world = World()
    world.do(IssueToken(digest="a" * 64, lifetime_s=10))
    assert world.plan().next_at == world.now + 10 * SECOND
    world.now += 10 * SECOND
    assert kinds(world.events(world.settle())) == ["TokenUsed"]
    assert world.state.tokens == {}


def test_new_settings_count_at_once() -> None:
    """A raised threshold lets a group fail over that had given up."""
    world = World()
    world.online("web", failover_threshold=0)
    fail(world)
    fail(world)
    world.do(ChangeGroup(group=WEB, failover_threshold=1))
    assert kinds(world.events(world.settle())) == ["GroupClosing"]


def test_a_resource_that_is_added_to_an_active_group_belongs_to_it() -> None:
    """Its reports are taken in under the present generation."""
    world = World()
    world.online("web")
    world.do(
        AddResource(
            group=WEB, resource=ResourceId("more"), type="process", parameters={"command": "x"}
        )
    )
    assert world.settle() == []
    world.report("more", ONLINE)
    world.settle()
    assert group_status(world.state, WEB) is GroupStatus.ONLINE


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ((), GroupStatus.OFFLINE),
        ((OFFLINE, OFFLINE), GroupStatus.OFFLINE),
        ((ONLINE, ONLINE), GroupStatus.ONLINE),
        ((ONLINE, OFFLINE), GroupStatus.PARTIAL),
        ((ONLINE, PENDING), GroupStatus.PENDING),
        ((ResourceState.OFFLINE_PENDING, OFFLINE), GroupStatus.PENDING),
        ((PENDING, FAILED, ONLINE), GroupStatus.FAILED),
    ],
)
def test_the_status_of_a_group_comes_from_its_resources(
    states: tuple[ResourceState, ...], status: GroupStatus
) -> None:
    """As in the original: failed before pending before partial."""
    assert status_of(states) is status


def test_dependencies_are_ordered_and_cycles_named() -> None:
    """Providers first, ties by name; a cycle is told link by link."""
    a, b, c, d = (ResourceId(name) for name in "abcd")
    diamond = {a: (b, c), b: (d,), c: (d,), d: ()}
    assert levels(diamond) == [(d,), (b, c), (a,)]
    assert order(diamond) == [d, b, c, a]
    assert depth(diamond) == 3
    assert dependents(diamond)[d] == (b, c)
    assert find_cycle(diamond) == ()
    assert find_cycle({a: (b,), b: (c,), c: (b,), d: ()}) == (b, c, b)
    assert find_cycle({a: (a,)}) == (a, a)


def test_every_code_is_documented() -> None:
    """The reference lists each cause and each reason that the core gives, and none else."""
    folder = Path(package.__file__).parents[1]
    paths = [path for path in folder.rglob("*.py") if path.name != "codes.py"]
    paths.append(folder.parent / "model" / "types.py")
    bare = "".join(path.read_text() for path in paths)
    given = set(re.findall(r'"([a-z]+(?:-[a-z]+)*)"', bare))
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    general = {one.code for one in kinds if issubclass(one, errors.LeitwolfError)}
    for code in [*CAUSES, *NOT_CHOSEN, *REFUSALS]:
        assert code in given, f"{code} is documented but never given"
    for code in re.findall(r'code(?:, text)? ?= ?"([a-z-]+)"', bare):
        assert code in {*CAUSES, *NOT_CHOSEN, *REFUSALS, *general}, code
    for code in re.findall(r'Refused\(\s*"([a-z-]+)"', bare):
        assert code in REFUSALS, code
