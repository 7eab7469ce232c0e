"""To whom office is handed over: not to a node that lacks the way to a disk that it would need."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from msgspec.structs import replace
from tests.policy_world import DISCONNECTED, UP
from tests.quorum_world import PROMISE, World, configuration

from leitwolf.core.policy import Judged, blind_nodes, judge
from leitwolf.core.quorum.predicate import witnesses
from leitwolf.model.commands import Refusal, TransferLeader
from leitwolf.model.ids import NO_NODE, NodeId, NodeStatus
from leitwolf.model.observations import Observations, PathState
from leitwolf.model.quorum import Acceptor, Relocation
from leitwolf.model.state import State
from leitwolf.sim.forming import formed_log
from leitwolf.state import fold

SINCE = 1_700_000_000_000_000_000
"""2023-11-14 22:13:20 UTC."""
GONE = "witness-unreachable: no route to host"


def formed(nodes: int, quorum: str) -> State:
    """A cluster with strict votes of which all nodes are members; node 1 leads."""
    log = formed_log(
        nodes=nodes, groups=1, links=1, profile="default", quorum=quorum, dynamic=False
    )
    return replace(fold(State(), log.entries[0]), leader=NodeId(1))


def disk_of(state: State) -> Acceptor:
    assert state.quorum is not None
    [disk] = witnesses(state.quorum)
    return disk


def seen(state: State, blind: set[int], off: Collection[int] = ()) -> Observations:
    """What the leader sees: each node that is on told whether it reaches the disk."""
    storage = disk_of(state).id.storage
    return Observations(
        nodes={node: DISCONNECTED if node in off else UP for node in state.nodes},
        resources={},
        attested={},
        paths={
            node: (
                PathState(storage="another", fault=GONE, since_wall=SINCE),
                PathState(storage=storage, fault=GONE if node in blind else "", since_wall=SINCE),
            )
            for node in state.nodes.keys() - {1, *off}
        },
    )


def changed(state: State, node: int, **fields: object) -> State:
    member = replace(state.nodes[NodeId(node)], **fields)
    return replace(state, nodes={**state.nodes, NodeId(node): member})


def ask(state: State, observed: Observations, node: int = NO_NODE) -> Judged | Refusal:
    return judge(state, TransferLeader(node=NodeId(node)), observed)


def test_a_blind_target_is_refused_with_what_it_told() -> None:
    """Named: the node, the disk by its own way there, since when, and what to do about it."""
    state = formed(3, "disk")
    way = Relocation(storage=disk_of(state).id.storage, node=NodeId(2), location="/dev/second")
    state = replace(state, relocations=(way,))
    refusal = ask(state, seen(state, {2}), 2)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.field, refusal.retryable) == ("node-blind", "node", True)
    assert refusal.text == (
        "n2 could not lead: it told that it does not reach disk /dev/second since "
        f"2023-11-14 22:13:20 UTC: {GONE}"
    )
    assert refusal.hint.startswith(
        "on n2: leitwolf quorum disk check /dev/second; another way to it: "
        "leitwolf quorum relocate; "
    )
    assert isinstance(ask(state, seen(state, {2}), 3), Judged)
    assert isinstance(ask(state, seen(state, set()), 2), Judged), "it reaches it again"


def test_nobody_in_particular_is_refused_when_all_others_are_blind() -> None:
    """Each of them is named; one that sees is enough, and one without a daemon is none."""
    state = formed(3, "disk")
    assert isinstance(ask(state, seen(state, {2})), Judged)
    assert blind_nodes(state, seen(state, {2})) == {2}
    for observed, named in ((seen(state, {2, 3}), ("n2", "n3")), (seen(state, {2}, {3}), ("n2",))):
        refusal = ask(state, observed)
        assert isinstance(refusal, Refusal)
        assert refusal.code == "node-blind"
        assert refusal.text.count("could not lead") == len(named)
        assert all(f"{name} could not lead" in refusal.text for name in named)


@pytest.mark.parametrize("goes", [{"stopping": True}, {"status": NodeStatus.LEAVING}])
def test_a_leader_that_must_go_releases_to_whom_there_is(goes: dict[str, object]) -> None:
    """The order of a stop is not refused; a target that somebody names still is."""
    state = formed(2, "disk")
    assert isinstance(ask(state, seen(state, {2})), Refusal)
    state = changed(state, 1, **goes)
    assert isinstance(ask(state, seen(state, {2})), Judged)
    assert isinstance(ask(state, seen(state, {2}), 2), Refusal)


@pytest.mark.parametrize("quorum", ["disk-witness", "tag-witness"])
def test_a_node_that_needs_no_witness_may_lead_without(quorum: str) -> None:
    """Its vote and those of the others are enough; where they are not, it is refused."""
    state = formed(4, quorum)  # three of five votes are needed
    assert isinstance(ask(state, seen(state, {2}, {4}), 2), Judged)
    assert not blind_nodes(state, seen(state, {2, 3}, {4}))
    refusal = ask(state, seen(state, {2}, {3, 4}), 2)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "node-blind"
    kind = "disk" if quorum == "disk-witness" else "witness"
    assert f"does not reach {kind} " in refusal.text


def test_the_vote_of_a_leader_that_goes_is_not_counted() -> None:
    """Three nodes and a disk need three votes: with the leader gone, who sees is the one."""
    state = formed(3, "disk-witness")
    observed = seen(state, {2})
    assert not blind_nodes(state, observed)
    assert blind_nodes(changed(state, 1, stopping=True), observed) == {2}


def test_nothing_changes_without_a_disk_or_witness() -> None:
    """What is told of storages that are in use no more counts nothing."""
    state = formed(3, "majority")
    told = (PathState(storage="5ead0000", fault=GONE, since_wall=SINCE),)
    observed = Observations(
        nodes=dict.fromkeys(state.nodes, UP),
        resources={},
        attested={},
        paths=dict.fromkeys(state.nodes, told),
    )
    assert not blind_nodes(state, observed)
    assert isinstance(ask(state, observed, 2), Judged)
    assert isinstance(ask(state, observed), Judged)


@pytest.mark.parametrize(("blind", "successor"), [((), 2), ({2}, 3), ({2, 3}, 2)])
def test_the_successor_is_one_that_can_lead(blind: set[int], successor: int) -> None:
    """Of equals the first; a blind one only where all are."""
    world = World(configuration(1, 2, 3), (1, 2, 3))
    while not world.leader():
        world.pass_time(PROMISE)
    world.quiet()
    world.cores[1].transfer(world.now, NO_NODE, blind)
    world.settle(1)
    world.quiet()
    assert world.leader() == successor


def test_a_seeing_node_that_lags_goes_before_a_blind_one() -> None:
    """It is sent what it lacks before the release."""
    world = World(configuration(1, 2, 3), (1, 2, 3))
    while not world.leader():
        world.pass_time(PROMISE)
    world.disconnect(1, 3)
    world.propose(1, b"unknown to 3")
    world.quiet()
    world.join(1, 3)
    world.cores[1].transfer(world.now, NO_NODE, {2})
    world.settle(1)
    world.quiet()
    assert world.leader() == 3
