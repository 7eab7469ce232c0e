"""Votes: at most one side of any partition decides, and what is said to be survived is.

Exhaustive where the rule alone is asked; a sample of partitions is played out with the whole core.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import combinations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from leitwolf.core.membership.votes import casting_holder, configured_weight, wanted_acceptors
from leitwolf.core.policy import survives
from leitwolf.core.policy.health import is_quorum
from leitwolf.core.quorum.predicate import agreed
from leitwolf.model.ids import NodeId
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig, QuorumWish
from leitwolf.model.state import State
from leitwolf.sim.entropy import Entropy
from leitwolf.sim.forming import QUORUMS, formed_log
from leitwolf.sim.scenario import demand_service
from leitwolf.sim.world import World
from leitwolf.state import fold

SECOND = 1_000_000_000
KINDS = tuple(sorted(QUORUMS))


def identities(count: int) -> list[AcceptorId]:
    return [AcceptorId(NodeId(number), f"disk{number}") for number in range(1, count + 1)]


def wish_of(kind: str, *, dynamic: bool) -> QuorumWish:
    weight, witness = QUORUMS[kind]
    return QuorumWish(witness=witness, node_weight=weight, dynamic=dynamic)


def subsets(items: Collection[int]) -> Iterator[frozenset[int]]:
    for size in range(len(items) + 1):
        yield from map(frozenset, combinations(sorted(items), size))


def everyone(kind: str, count: int) -> frozenset[int]:
    _, witness = QUORUMS[kind]
    nodes = frozenset(range(1, count + 1))
    return nodes if witness is None else nodes | {witness.id.node}


# --- how many votes ------------------------------------------------------------------------------


@st.composite
def wishes(draw: st.DrawFn) -> tuple[QuorumWish, list[AcceptorId], set[int], NodeId]:
    count = draw(st.integers(1, 8))
    numbers = st.integers(1, count)
    wish = replace(
        wish_of(draw(st.sampled_from(KINDS)), dynamic=draw(st.booleans())),
        prefer=NodeId(draw(st.integers(0, count))),
        voteless=tuple(sorted(draw(st.sets(numbers.map(NodeId), max_size=count)))),
    )
    absent = draw(st.sets(numbers)) | draw(st.sets(st.just(60_000)))
    return wish, identities(count), absent, NodeId(draw(st.integers(0, count)))


@given(wishes())
@settings(max_examples=400, deadline=None)
def test_what_holds_of_all_votes(
    given_: tuple[QuorumWish, list[AcceptorId], set[int], NodeId],
) -> None:
    """Never nobody, never the weightless, never the lost; odd where votes are dynamic; settled."""
    wish, nodes, absent, holder = given_
    wanted = wanted_acceptors(wish, nodes, absent, holder)
    weights = {acceptor.id.node: acceptor.weight for acceptor in wanted}
    assert sum(weights.values()) > 0
    assert [acceptor.id for acceptor in wanted if acceptor.kind == "node"] == nodes
    able = [one.node for one in nodes if configured_weight(wish, one.node)]
    for identity in nodes:
        if able and configured_weight(wish, identity.node) == 0:
            assert weights[identity.node] == 0
    if not wish.dynamic:
        assert all(weights[node] == 1 for node in able)
        return
    assert sum(weights.values()) % 2 == 1
    if any(node not in absent for node in able):
        assert all(weights[node] == 0 for node in able if node in absent)
        assert all(weights[node] >= 1 for node in able if node not in absent)
    if able and wish.witness is not None and wish.witness.id.node in absent:
        assert weights[wish.witness.id.node] == 0
    again = wanted_acceptors(wish, nodes, absent, casting_holder(wanted) or holder)
    assert again == wanted, "the same question has the same answer"


@given(wishes(), st.sets(st.integers(1, 8), min_size=1, max_size=3))
@settings(max_examples=400, deadline=None)
def test_a_loss_moves_no_casting_vote_without_need(
    given_: tuple[QuorumWish, list[AcceptorId], set[int], NodeId], others: set[int]
) -> None:
    """Nodes that come or go leave it where it is, unless its holder is among them."""
    wish, nodes, absent, holder = given_
    wish = replace(wish, dynamic=True, prefer=NodeId(0), voteless=())
    before = casting_holder(wanted_acceptors(wish, nodes, absent, holder))
    after = wanted_acceptors(wish, nodes, absent ^ others, before or holder)
    if before and before not in absent ^ others and casting_holder(after):
        assert casting_holder(after) == before


# --- partitions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("count", range(2, 9))
def test_at_most_one_side_of_any_partition_is_a_quorum(
    kind: str, dynamic: bool, count: int
) -> None:
    """Whoever is absent, however the rest splits, whichever side has the witness."""
    wish, nodes = wish_of(kind, dynamic=dynamic), identities(count)
    members = everyone(kind, count)
    seen = {
        wanted_acceptors(wish, nodes, absent, NodeId(holder))
        for absent in subsets(members)
        for holder in (0, 1, count)
    }
    for acceptors in seen:
        for side in subsets(members):
            assert not (is_quorum(acceptors, side) and is_quorum(acceptors, members - side))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", range(2, 5))
def test_no_step_of_a_change_lets_two_sides_decide(kind: str, count: int) -> None:
    """One side may know old, joint or new, the other its neighbour: one of both is no quorum."""
    wish, nodes = wish_of(kind, dynamic=True), identities(count)
    members = everyone(kind, count)
    known = {wanted_acceptors(wish, nodes, absent) for absent in subsets(members)}
    by_id = {acceptor.id.node: acceptor.id for acceptors in known for acceptor in acceptors}
    for old, new in product(known, known):
        before, after = QuorumConfig(acceptors=old), QuorumConfig(acceptors=new)
        joint = QuorumConfig(acceptors=new, former=old)
        for side in subsets(members):
            one = {by_id[node] for node in side}
            other = {by_id[node] for node in members - side}
            for mine, theirs in ((before, joint), (joint, joint), (joint, after)):
                assert not (agreed(mine, one) and agreed(theirs, other))


@pytest.mark.parametrize("seed", range(12))
def test_at_most_one_side_keeps_a_group_online(seed: int) -> None:
    """The whole core, split into two or three sides once or twice: one side at most serves.

    Replay: pytest tests/property/test_partitions.py -k "keeps_a_group_online[SEED]"
    """
    entropy = Entropy(1_000 + seed)
    count = 2 + seed % 7
    kind, dynamic = entropy.choice(list(KINDS)), entropy.chance(700)
    about = f"seed {seed}: {count} nodes, {kind}, {'dynamic' if dynamic else 'strict'}"
    world = World(seed=seed, nodes=count, quorum=kind, dynamic=dynamic)
    for node in world.nodes.values():
        node.power_on()
    world.run_until(5 * SECOND)
    demand_service(world, f"{about}: after the start")
    for _ in range(2):
        sides = {node: entropy.between(1, 2 + (count > 3)) for node in world.nodes}
        for one, other in product(world.nodes, world.nodes):
            if sides[one] != sides[other]:
                world.network.cut(one, other)
        world.refresh_streams()
        for witness in world.witnesses.values():
            lost = entropy.between(0, 3)
            witness.unreached.update(node for node, side in sides.items() if side == lost)
        world.run_until(world.now + SECOND)
        for _ in range(16):  # leases of before are over: look while votes are taken, and after
            world.run_until(world.now + SECOND // 4)
            serving = {sides[node.id] for node in world.nodes.values() if node.active_cells()}
            assert len(serving) <= 1, f"{about}: sides {sides} serve {serving}"
        world.network.heal()
        world.refresh_streams()
        for witness in world.witnesses.values():
            witness.unreached.clear()
        world.run_until(world.now + 12 * SECOND)
        demand_service(world, f"{about}: whole again")


# --- what is survived ----------------------------------------------------------------------------


def in_turn(
    wish: QuorumWish,
    nodes: list[AcceptorId],
    acceptors: tuple[Acceptor, ...],
    alive: frozenset[int],
    members: frozenset[int],
    holder: NodeId,
) -> int:
    """Count by trying every order."""
    fewest = len(alive)
    for one in alive:
        left = alive - {one}
        if not is_quorum(acceptors, left) or not any(node.node in left for node in nodes):
            return 0
        adapted = wanted_acceptors(wish, nodes, members - left, holder)
        if not is_quorum(adapted, left):
            adapted = acceptors
        keeper = casting_holder(adapted) or holder
        fewest = min(fewest, 1 + in_turn(wish, nodes, adapted, left, members, keeper))
    return fewest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("count", range(1, 6))
def test_what_is_said_to_be_survived_is(kind: str, dynamic: bool, count: int) -> None:
    """Each count and each loss, against trying all of them."""
    log = formed_log(
        nodes=count, groups=1, links=1, profile="default", quorum=kind, dynamic=dynamic
    )
    state = fold(State(), log.entries[0])
    assert state.quorum is not None
    acceptors, nodes, members = state.quorum.acceptors, identities(count), everyone(kind, count)

    def holds(left: frozenset[int]) -> bool:
        return is_quorum(acceptors, left) and any(node.node in left for node in nodes)

    found = survives(state, members)
    voting = frozenset(a.id.node for a in acceptors if a.weight)
    at_once = max(
        size
        for size in range(len(voting) + 1)
        if all(holds(members - lost) for lost in subsets(voting) if len(lost) == size)
    )
    assert found.failures == at_once
    for loss in found.losses:
        assert loss.survived == holds(members - frozenset(loss.lost))
        assert bool(loss.reason) != loss.survived
    if dynamic:
        holder = casting_holder(acceptors)
        assert found.in_turn == in_turn(state.wish, nodes, acceptors, members, members, holder)
    else:
        assert found.in_turn == found.failures
