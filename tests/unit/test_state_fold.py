"""The fold of the log into the state."""

from __future__ import annotations

import pytest
from tests.policy_world import World

from leitwolf.model import events
from leitwolf.model.errors import InvariantError
from leitwolf.model.events import Cause, Change
from leitwolf.model.ids import (
    GroupId,
    GroupPhase,
    NodeId,
    NodeStatus,
    ResourceId,
    ResourceState,
    Wish,
)
from leitwolf.model.log import Entry
from leitwolf.model.quorum import QuorumConfig, QuorumWish, Relocation
from leitwolf.model.state import State
from leitwolf.state import (
    RESOURCE_TRANSITIONS,
    SECOND,
    decode,
    decode_change,
    digest,
    encode,
    encode_change,
    fold,
    fold_change,
    resource_path,
)
from leitwolf.wire.ballot import Ballot

CAUSE = Cause(code="test", text="the test says so")
WEB = GroupId("web")
APP = ResourceId("web-app")


def change(*found: events.Event, time: int = 1) -> Change:
    return Change(events=found, because=CAUSE, by="test", time=time, wall=0)


def placed(node: int, generation: int, *, failover: bool = False) -> events.GroupPlaced:
    return events.GroupPlaced(
        group=WEB, node=NodeId(node), generation=generation, cause=CAUSE, failover=failover
    )


def moved(
    state: ResourceState, *, node: int = 1, generation: int = 1, attempt: int = 0
) -> events.ResourceMoved:
    return events.ResourceMoved(
        resource=APP,
        node=NodeId(node),
        generation=generation,
        attempt=attempt,
        state=state,
        cause=CAUSE,
    )


def closing(target: int = 0, *, failover: bool = False) -> events.GroupClosing:
    return events.GroupClosing(group=WEB, target=NodeId(target), cause=CAUSE, failover=failover)


@pytest.fixture
def world() -> World:
    """Three nodes; group web is placed on node1 in generation 1."""
    world = World()
    world.add("web")
    world.apply(placed(1, 1))
    return world


def test_fold_sets_index_time_and_quorum() -> None:
    """An entry moves index and time on; its configuration becomes the state's."""
    payload = encode_change(
        change(
            events.ClusterFormed(uuid="u", name="n", profile="default", port=7, authority=b"\x01"),
            time=50,
        )
    )
    config = QuorumConfig(acceptors=())
    entry = Entry(index=1, ballot=Ballot(1, 1, 1), payload=payload, config=config)
    state = fold(State(), entry)
    assert (state.index, state.time, state.uuid, state.quorum) == (1, 50, "u", config)


def test_fold_refuses_a_gap_and_an_unreadable_payload() -> None:
    """Entries follow each other without gaps, and each can be read."""
    with pytest.raises(InvariantError, match="entry 2 cannot follow entry 0"):
        fold(State(), Entry(index=2, ballot=Ballot(1, 1, 1), payload=encode_change(change())))
    for payload in (b"", b"\xc1", encode_change(change()) + b"\x00"):
        with pytest.raises(InvariantError, match="cannot be read"):
            fold(State(), Entry(index=1, ballot=Ballot(1, 1, 1), payload=payload))


def test_unknown_events_are_refused() -> None:
    """An event of a newer version is an error, not nothing."""
    payload = encode_change(change(events.TokenUsed(digest="x"))).replace(
        b"TokenUsed", b"TokenUsee"
    )
    with pytest.raises(InvariantError, match="cannot be read"):
        decode_change(payload)


def test_nothing_is_accepted_before_the_cluster_is_formed() -> None:
    """The first event of a log forms the cluster, and only the first."""
    with pytest.raises(InvariantError, match="does not begin with ClusterFormed"):
        fold_change(State(), 1, change(World.new_node(1)))
    world = World()
    with pytest.raises(InvariantError, match="second ClusterFormed"):
        world.apply(events.ClusterFormed(uuid="u", name="n", profile="p", port=1, authority=b""))


def test_time_never_goes_back(world: World) -> None:
    """A new leader whose clock begins a little behind leaves cluster time where it is."""
    before = world.state.time
    state = fold_change(world.state, world.state.index + 1, change(time=before - 1))
    assert state.time == before


def test_the_given_state_is_not_mutated(world: World) -> None:
    """The fold makes a new state; the old one stays as it was, to the byte."""
    before, image = world.state, encode(world.state)
    world.apply(moved(ResourceState.ONLINE), closing(2))
    assert encode(before) == image
    assert before.groups is not world.state.groups
    assert before.nodes is world.state.nodes, "untouched tables are shared"


def test_touched_objects_know_entry_and_cause(world: World) -> None:
    """Each object that an entry touches names it; the event's cause wins over the change's."""
    cause = Cause(code="exited", text="it ended")
    event = events.ResourceMoved(
        resource=APP,
        node=NodeId(1),
        generation=1,
        attempt=0,
        state=ResourceState.FAILED,
        cause=cause,
    )
    index = world.apply(event)
    assert (world.resource("web-app").changed, world.resource("web-app").cause) == (index, cause)
    assert world.group("web").changed < index
    index = world.apply(events.GroupWished(group=WEB, wish=Wish.OFFLINE), because=cause)
    assert (world.group("web").changed, world.group("web").cause) == (index, cause)
    world.apply(events.GroupChanged(group=WEB, retry_period_s=5))  # no reason for its place
    assert (world.group("web").changed, world.group("web").cause) == (index, cause)


# --- encoding ------------------------------------------------------------------------------------


def test_states_survive_encoding(world: World) -> None:
    """Decoding an encoded state gives the state, and encoding that gives the same bytes."""
    again = decode(encode(world.state))
    assert again == world.state
    assert encode(again) == encode(world.state)
    with pytest.raises(InvariantError, match="cannot be read"):
        decode(encode(world.state)[:-1])


def test_the_digest_does_not_depend_on_the_order_of_dictionaries(world: World) -> None:
    """Two equal states have one digest, however their dictionaries were built."""
    from msgspec.structs import replace

    turned = replace(
        world.state,
        nodes=dict(reversed(world.state.nodes.items())),
        networks=dict(reversed(world.state.networks.items())),
    )
    assert list(turned.nodes) != list(world.state.nodes)
    assert digest(turned) == digest(world.state)
    assert digest(replace(turned, name="other")) != digest(turned)


# --- nodes ---------------------------------------------------------------------------------------


def test_the_first_node_is_a_member_and_later_ones_learn() -> None:
    """A cluster of one can vote; who joins must catch up first."""
    world = World(nodes=1)
    world.apply(World.new_node(2))
    assert world.state.nodes[1].status is NodeStatus.MEMBER
    assert world.state.nodes[2].status is NodeStatus.LEARNER
    world.apply(events.NodePromoted(node=NodeId(2)))
    assert world.state.nodes[2].status is NodeStatus.MEMBER


def test_node_ids_are_never_given_again() -> None:
    """The id of a removed node is not used for another one."""
    world = World()
    world.apply(events.NodeDown(node=NodeId(3), attested=True))
    world.apply(events.NodeRemoved(node=NodeId(3), evicted=True))
    with pytest.raises(InvariantError, match="node id 3 was given before"):
        world.apply(World.new_node(3))


def test_a_removed_node_is_forgotten_everywhere(world: World) -> None:
    """Preferred owners, visited nodes and targets name members only."""
    world.apply(events.GroupChanged(group=WEB, preferred=(NodeId(3), NodeId(1))))
    world.apply(closing(3))
    world.apply(events.NodeDown(node=NodeId(3), attested=False))
    world.apply(events.NodeRemoved(node=NodeId(3), evicted=True))
    assert world.group("web").preferred == (1,)
    assert world.group("web").target == 0


def replaced(world: World, number: int = 3) -> None:
    """Evict a node in whose place another one of its name is to come."""
    node = NodeId(number)
    world.apply(events.NodeDown(node=node, attested=False))
    world.apply(events.NodeLeaving(node=node, evicted=True, replaced=True))
    world.apply(events.NodeRemoved(node=node, evicted=True))


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ((2, 3, 1), None, (2, 5, 1)),
        ((3,), None, (5,)),
        ((3, 1), None, (5, 1)),
        ((2, 1), None, (2, 1)),
        ((2, 3, 1), (1,), (1,)),
        ((2, 3, 1), (1, 2), (1, 2)),
        ((3, 1), (), ()),
    ],
)
def test_the_new_node_gets_the_place_of_the_former_one(
    world: World,
    before: tuple[NodeId, ...],
    now: tuple[NodeId, ...] | None,
    expected: tuple[NodeId, ...],
) -> None:
    """By its name, unless somebody changed the preferences meanwhile."""
    world.apply(events.GroupChanged(group=WEB, preferred=before))
    cause = world.group("web").cause
    replaced(world)
    if now is not None:
        world.apply(events.GroupChanged(group=WEB, preferred=now))
    world.apply(World.new_node(4, name="another"))
    assert 4 not in world.group("web").preferred
    assert list(world.state.vacancies) == ["node3"]
    world.apply(World.new_node(5, name="node3"))
    assert world.group("web").preferred == expected
    assert world.group("web").cause == cause, "why it is where it is remains"
    assert not world.state.vacancies


def test_the_new_node_gets_vote_and_ways_of_the_former_one(world: World) -> None:
    """Who had the casting vote, who had none, and where each finds its disk."""
    location = "/dev/other"
    world.apply(events.QuorumWished(wish=QuorumWish(prefer=NodeId(3), voteless=(NodeId(2),))))
    world.apply(events.WitnessRelocated(storage="d", node=NodeId(3), location=location))
    replaced(world, 2)
    replaced(world, 3)
    assert (world.state.wish, world.state.relocations) == (QuorumWish(), ())
    world.apply(World.new_node(4, name="node3"))
    world.apply(World.new_node(5, name="node2"))
    assert world.state.wish == QuorumWish(prefer=NodeId(4), voteless=(NodeId(5),))
    assert world.state.relocations == (Relocation(storage="d", node=NodeId(4), location=location),)


def test_a_casting_vote_that_was_given_away_is_not_taken_back(world: World) -> None:
    """Whoever changed it meanwhile knew better; and who was evicted for good has no place."""
    world.apply(events.QuorumWished(wish=QuorumWish(prefer=NodeId(3))))
    replaced(world)
    world.apply(events.QuorumWished(wish=QuorumWish(prefer=NodeId(1))))
    world.apply(World.new_node(4, name="node3"))
    assert world.state.wish.prefer == 1
    world.apply(events.NodeLeaving(node=NodeId(4), evicted=True))
    world.apply(events.NodeRemoved(node=NodeId(4), evicted=True))
    assert not world.state.vacancies


def test_a_node_that_is_up_or_owns_groups_is_not_removed(world: World) -> None:
    """Removing takes nothing away from anybody."""
    with pytest.raises(InvariantError, match="while it is up"):
        world.apply(events.NodeRemoved(node=NodeId(2), evicted=True))
    world.apply(events.NodeDown(node=NodeId(1), attested=False))
    with pytest.raises(InvariantError, match="while it owns web"):
        world.apply(events.NodeRemoved(node=NodeId(1), evicted=True))


def test_draining_needs_a_pause() -> None:
    """Resuming ends a drain, pausing alone begins none."""
    world = World()
    world.apply(events.NodePaused(node=NodeId(2), paused=True, drain=True))
    assert world.state.nodes[2].draining
    world.apply(events.NodePaused(node=NodeId(2), paused=False, drain=True))
    assert not world.state.nodes[2].draining
    assert not world.state.nodes[2].paused


@pytest.mark.parametrize(
    "event",
    [
        events.NodeUp(node=NodeId(1)),
        events.NodeUp(node=NodeId(9)),
        events.NodePromoted(node=NodeId(1)),
        events.NodeAdded(
            node=NodeId(9), name="node1", uuid="x", storage="x", addresses={}, fingerprint=""
        ),
        events.TokenUsed(digest="unknown"),
        events.LeaderElected(node=NodeId(9)),
        events.GroupAdded(group=WEB),
        events.GroupRemoved(group=WEB),
        events.GroupWished(group=GroupId("none"), wish=Wish.ONLINE),
        events.GroupStopped(group=WEB, cause=CAUSE),
        events.ResourceAdded(resource=APP, group=WEB, type="process", parameters={}),
        events.ResourceAdded(
            resource=ResourceId("x"),
            group=WEB,
            type="process",
            parameters={},
            depends=(ResourceId("none"),),
        ),
        events.ResourceRemoved(resource=ResourceId("none")),
        placed(2, 2),
        moved(ResourceState.ONLINE, node=2),
        moved(ResourceState.ONLINE, generation=2),
        moved(ResourceState.OFFLINE),
        moved(ResourceState.ONLINE, attempt=1),
        moved(ResourceState.ONLINE_PENDING, attempt=2),
    ],
    ids=lambda event: type(event).__name__,
)
def test_contradicting_events_are_refused(world: World, event: events.Event) -> None:
    """A committed event that contradicts the state is never half applied."""
    with pytest.raises(InvariantError):
        world.apply(event)


# --- groups --------------------------------------------------------------------------------------


def test_placing_begins_a_generation(world: World) -> None:
    """The new owner begins with everything offline, no attempts and no restarts."""
    world.apply(moved(ResourceState.FAILED))
    world.apply(moved(ResourceState.ONLINE_PENDING, attempt=1))
    assert world.resource("web-app").restarts == (world.now,)
    world.apply(closing(2))
    index = world.apply(placed(2, 2))
    group, resource = world.group("web"), world.resource("web-app")
    assert (group.phase, group.owner, group.generation) == (GroupPhase.ACTIVE, 2, 2)
    assert (group.placed, group.placed_because, group.target) == (index, CAUSE, 0)
    assert resource.state is ResourceState.OFFLINE
    assert (resource.attempt, resource.restarts) == (0, ())


def test_a_living_owner_must_close_first(world: World) -> None:
    """A group is taken from an owner that is up only through closing."""
    with pytest.raises(InvariantError, match="is up and did not close it"):
        world.apply(placed(2, 2))
    world.apply(events.NodeDown(node=NodeId(1), attested=False), placed(2, 2))
    assert world.group("web").owner == 2


def test_a_group_is_not_placed_on_a_node_that_is_down(world: World) -> None:
    """A placement on a dead node would be an outage."""
    world.apply(events.NodeDown(node=NodeId(2), attested=False))
    world.apply(closing(0))
    with pytest.raises(InvariantError, match="which is down"):
        world.apply(placed(2, 2))


def test_failovers_are_counted_within_their_period(world: World) -> None:
    """Old failovers fall out; moves are not counted."""
    world.apply(events.GroupChanged(group=WEB, failover_period_s=10))
    world.apply(closing(2, failover=True))
    world.apply(placed(2, 2, failover=True))
    first = world.now
    world.now += 5 * SECOND
    world.apply(closing(1))
    world.apply(placed(1, 3))
    assert world.group("web").failovers == (first,)
    world.now += 6 * SECOND
    world.apply(closing(3, failover=True))
    world.apply(placed(3, 4, failover=True))
    assert world.group("web").failovers == (world.now,)


def test_closing_for_a_failure_remembers_the_node_until_all_is_online(world: World) -> None:
    """A node on which the group failed is visited until the group is online as a whole."""
    world.apply(closing(2, failover=True))
    world.apply(placed(2, 2, failover=True))
    assert world.group("web").visited == (1,)
    world.apply(moved(ResourceState.ONLINE, node=2, generation=2))
    assert world.group("web").visited == ()


def test_generations_of_a_removed_group_are_not_given_again(world: World) -> None:
    """A group of the same name begins above every generation that was ever attested."""
    world.apply(closing(0))
    world.apply(events.GroupStopped(group=WEB, cause=CAUSE))
    world.apply(events.ResourceRemoved(resource=APP), events.GroupRemoved(group=WEB))
    world.add("web")
    assert world.group("web").generation == 1
    with pytest.raises(InvariantError, match="generation 1 is not above 1"):
        world.apply(placed(1, 1))


def test_attempts_of_a_removed_resource_are_not_used_again(world: World) -> None:
    """A late report about a removed resource cannot be taken for one about its successor."""
    world.apply(moved(ResourceState.ONLINE), moved(ResourceState.OFFLINE))
    world.apply(events.ResourceRemoved(resource=APP))
    world.apply(events.ResourceAdded(resource=APP, group=WEB, type="process", parameters={}))
    assert world.resource("web-app").attempt == 1


def test_an_address_must_prove_itself_after_the_operator_took_it_offline(world: World) -> None:
    """The duplicate probe is due at the first online, not at failover."""
    world.apply(moved(ResourceState.ONLINE))
    assert world.resource("web-app").proven
    world.apply(closing(2), placed(2, 2))
    assert world.resource("web-app").proven
    world.apply(events.GroupWished(group=WEB, wish=Wish.OFFLINE))
    assert not world.resource("web-app").proven


def test_only_restarts_of_failed_resources_count(world: World) -> None:
    """A restart because of new parameters does not use up the budget."""
    world.apply(moved(ResourceState.ONLINE))
    world.apply(moved(ResourceState.ONLINE_PENDING, attempt=1))
    assert world.resource("web-app").restarts == ()


# --- transitions ---------------------------------------------------------------------------------


def test_every_state_of_a_resource_can_be_reached_by_legal_steps() -> None:
    """Coalesced reports are filled in: each path consists of transitions of the table."""
    for old in ResourceState:
        for new in ResourceState:
            path = resource_path(old, new)
            assert (path == ()) == (old is new)
            for state in path:
                assert state in RESOURCE_TRANSITIONS[old]
                old = state  # noqa: PLW2901 - walks along the path
            assert old is new
