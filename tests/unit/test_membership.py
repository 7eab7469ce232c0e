"""Steps of reconfiguration and what the guard is told, as tables."""

from __future__ import annotations

import msgspec
import pytest

from leitwolf.core.governor import barred_owner
from leitwolf.core.membership import Step, View, guard_configuration, next_step
from leitwolf.core.messages import Promised
from leitwolf.core.quorum import MayLead
from leitwolf.model.history import HistoryStanding
from leitwolf.model.ids import NodeId, NodeStatus
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.model.state import Node, State
from leitwolf.sim.forming import formed_log
from leitwolf.state import fold
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY, Ballot
from leitwolf.wire.guard import Votes

NONE: frozenset[NodeId] = frozenset()


def formed(nodes: int = 3) -> State:
    return fold(State(), formed_log(nodes=nodes, groups=1, links=2, profile="default").entries[0])


def config_of(state: State) -> QuorumConfig:
    assert state.quorum is not None
    return state.quorum


def changed(state: State, node: int, **fields: object) -> State:
    nodes = dict(state.nodes)
    nodes[node] = msgspec.structs.replace(nodes[node], **fields)
    return msgspec.structs.replace(state, nodes=nodes)


def with_learner(state: State) -> State:
    template = state.nodes[1]
    learner: Node = msgspec.structs.replace(
        template, id=NodeId(4), name="n4", uuid="node4", storage="disk4", status=NodeStatus.LEARNER
    )
    return msgspec.structs.replace(state, nodes={**state.nodes, 4: learner})


def step_of(
    state: State,
    config: QuorumConfig,
    *,
    caught_up: frozenset[NodeId] = NONE,
    away: frozenset[NodeId] = NONE,
    connected: frozenset[NodeId] = NONE,
    joint_over: bool = False,
) -> Step | None:
    view = View(
        caught_up=caught_up,
        away=away,
        connected=connected,
        reached=frozenset(state.nodes),
        joint_over=joint_over,
    )
    return next_step(state, config, view)


def test_nothing_is_to_be_done_in_a_settled_cluster() -> None:
    """Members that vote and no one else: no step."""
    state = formed()
    assert step_of(state, config_of(state)) is None


def test_a_joiner_learns_then_votes_jointly_then_finally() -> None:
    """The whole way of a new node, one step at a time."""
    state = with_learner(formed())
    config = config_of(state)
    learn = step_of(state, config)
    assert learn is not None
    assert learn.kind == "learn"
    assert learn.config is not None
    assert learn.config.acceptors == config.acceptors, "a learner has no vote"
    assert step_of(state, learn.config) is None, "it must catch up first"
    joint = step_of(state, learn.config, caught_up=frozenset({NodeId(4)}))
    assert joint is not None
    assert joint.kind == "joint"
    assert joint.config is not None
    assert joint.config.former == config.acceptors
    assert {a.id.node for a in joint.config.acceptors} == {1, 2, 3, 4}
    assert step_of(state, joint.config) is None, "leases granted before must be over (L10)"
    final = step_of(state, joint.config, joint_over=True)
    assert final is not None
    assert final.kind == "final"
    assert final.config is not None
    assert final.config.former is None


def test_a_leaving_node_is_drained_excluded_and_only_then_loses_its_vote() -> None:
    """The vote goes when nothing can run there any more, never before."""
    state = changed(formed(), 3, status=NodeStatus.LEAVING)
    group = next(iter(state.groups.values()))
    groups = {group.id: msgspec.structs.replace(group, owner=NodeId(3))}
    owning = msgspec.structs.replace(state, groups=groups)
    config = config_of(state)
    reachable = frozenset({NodeId(3)})
    assert step_of(owning, config, connected=reachable) is None, "its group moves away first"
    exclude = step_of(state, config, connected=reachable)
    assert exclude is not None
    assert (exclude.kind, exclude.node) == ("exclude", 3)
    gone = step_of(owning, config)
    assert gone is not None
    assert gone.kind == "exclude", "who cannot be talked to is not waited for"
    joint = step_of(state, config, away=reachable)
    assert joint is not None
    assert joint.kind == "joint"
    assert joint.config is not None
    assert {a.id.node for a in joint.config.acceptors} == {1, 2}
    left = QuorumConfig(acceptors=joint.config.acceptors)
    forget = step_of(state, left, away=reachable)
    assert forget is not None
    assert forget.kind == "forget"


def test_another_storage_is_another_acceptor() -> None:
    """A node that came back with a new disk learns anew and replaces its former self."""
    state = changed(formed(), 2, storage="disk2b")
    config = config_of(state)
    learn = step_of(state, config)
    assert learn is not None
    assert learn.kind == "learn"
    assert learn.config is not None
    joint = step_of(state, learn.config, caught_up=frozenset({NodeId(2)}))
    assert joint is not None
    assert joint.config is not None
    identities = {acceptor.id for acceptor in joint.config.acceptors}
    assert AcceptorId(NodeId(2), "disk2b") in identities
    assert AcceptorId(NodeId(2), "disk2") not in identities


def test_a_leader_leaves_when_somebody_can_take_its_office_over() -> None:
    """Else it would try without end; until then others may become members, who can."""
    state = with_learner(changed(formed(2), 1, status=NodeStatus.LEAVING))
    config = config_of(state)
    alone = View(leader=NodeId(1), connected=frozenset({1}), reached=frozenset({1}))
    step = next_step(state, config, alone)
    assert step is not None
    assert (step.kind, step.node) == ("learn", 4)
    both = View(leader=NodeId(1), connected=frozenset({1, 2}), reached=frozenset({1, 2}))
    step = next_step(state, config, both)
    assert step is not None
    assert (step.kind, step.node) == ("exclude", 1)


def test_the_vote_of_an_excluded_node_counts_until_it_is_taken() -> None:
    """Its lease is over, but its daemon confirms: without it the change could not commit."""
    state = changed(formed(2), 2, status=NodeStatus.LEAVING)
    view = View(
        leader=NodeId(1),
        away=frozenset({2}),
        connected=frozenset({1, 2}),
        reached=frozenset({1}),
    )
    step = next_step(state, config_of(state), view)
    assert step is not None
    assert step.kind == "joint"
    assert next_step(state, config_of(state), msgspec.structs.replace(view, connected=NONE)) is None


def test_a_step_that_cannot_be_taken_holds_up_no_other() -> None:
    """The node that leaves is waited for; one that became ready meanwhile votes."""
    state = with_learner(changed(formed(3), 2, status=NodeStatus.LEAVING))
    learner = AcceptorId(NodeId(4), "disk4")
    config = msgspec.structs.replace(config_of(state), learners=(learner,))
    view = View(
        leader=NodeId(1),
        away=frozenset({2}),
        caught_up=frozenset({4}),
        connected=frozenset({1, 2, 4}),
        reached=frozenset({1, 4}),
    )
    step = next_step(state, config, view)
    assert step is None, "two of four are no quorum either"
    step = next_step(state, config, msgspec.structs.replace(view, reached=frozenset({1, 2, 4})))
    assert step is not None
    assert step.node == 4


def test_the_guard_is_told_both_configurations_during_a_change() -> None:
    """Joint: the leader lease needs a quorum of each (L2)."""
    state = formed()
    config = config_of(state)
    smaller = QuorumConfig(acceptors=config.acceptors[:2], former=config.acceptors)
    told = guard_configuration(state, smaller, NodeId(1))
    assert told is not None
    assert told.configurations == (Votes((1, 2), (1, 1)), Votes((1, 2, 3), (1, 1, 1)))
    assert told.addresses == ("10.0.0.1", "10.1.0.1")
    assert [peer.node for peer in told.peers] == [2, 3]


def test_nodes_that_a_history_does_not_name_get_heartbeats_when_it_is_established() -> None:
    """Until then it may come to nothing, and would have them close what they run."""
    state = formed()
    named = QuorumConfig(acceptors=config_of(state).acceptors[:2])
    for established, unled in ((False, (3,)), (True, ())):
        history = HistoryStanding(lineage=(5,), established=established)
        told = guard_configuration(state, named, NodeId(1), history=history)
        assert told is not None
        assert (told.lineage, told.unled) == ((5,), unled)
        assert [peer.node for peer in told.peers] == [2, 3]


def test_a_stranger_has_no_guard_configuration() -> None:
    """A node that the log does not know tells its guard nothing."""
    state = formed()
    assert guard_configuration(state, config_of(state), NodeId(9)) is None


def test_weightless_and_foreign_kinds_are_told_as_they_are() -> None:
    """A weight of 0 is told; acceptors that are no nodes renew nothing and are left out."""
    state = formed()
    acceptors = (
        Acceptor(id=AcceptorId(NodeId(1), "disk1"), weight=0),
        Acceptor(id=AcceptorId(NodeId(900), "lun"), weight=1, kind="disk"),
    )
    told = guard_configuration(state, QuorumConfig(acceptors=acceptors), NodeId(1))
    assert told is not None
    assert told.configurations == (Votes((1, 900), (0, 1)),)


def promise(renewed: Ballot, *, freed: bool = False, no_memory: bool = False) -> Promised:
    return Promised(
        ballot=Ballot(0, 9, 1),
        renewed=renewed,
        freed=freed,
        no_memory=no_memory,
        key=NO_KEY,
        storage="disk",
    )


@pytest.mark.parametrize(
    ("report", "barred"),
    [
        ((promise(Ballot(0, 5, 2)), promise(Ballot(0, 4, 3))), (2,)),
        ((promise(Ballot(0, 5, 2)), promise(Ballot(0, 6, 3))), (3,)),
        ((promise(Ballot(0, 5, 1)), promise(Ballot(0, 4, 3))), ()),
        ((promise(Ballot(0, 5, 2), freed=True), promise(Ballot(0, 4, 3))), ()),
        ((promise(Ballot(0, 5, 2)), promise(Ballot(0, 4, 3), no_memory=True)), ()),
        ((promise(NO_BALLOT), promise(NO_BALLOT)), ()),
    ],
)
def test_only_the_owner_of_the_highest_renewed_ballot_is_taken_from_at_once(
    report: tuple[Promised, ...], barred: tuple[int, ...]
) -> None:
    """L6: nobody where a release or a lost memory makes the report unsure, never oneself."""
    signal = MayLead(ballot=Ballot(0, 9, 1), report=report)
    assert barred_owner(signal, NodeId(1)) == barred
