"""Votes: at most one side of any partition decides, and what is said to be survived is.

Exhaustive where the rule alone is asked. The whole core plays out all partitions of few nodes, and
a sample of those of many.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations, product
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.effort import part
from tests.sim_calm import SECOND, leader, log_end, mend, owners
from tests.sim_votes import config

from leitwolf.core.lease.profile import PROFILES
from leitwolf.core.membership.votes import casting_holder, configured_weight, wanted_acceptors
from leitwolf.core.policy import survives
from leitwolf.core.policy.health import is_quorum
from leitwolf.core.quorum.predicate import agreed
from leitwolf.model.commands import MoveGroup
from leitwolf.model.ids import GroupId, NodeId
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig, QuorumWish
from leitwolf.model.state import State
from leitwolf.sim.checks import Violation
from leitwolf.sim.entropy import Entropy
from leitwolf.sim.forming import QUORUMS, formed_log
from leitwolf.sim.scenario import demand_service
from leitwolf.sim.world import World
from leitwolf.state import fold

KINDS = tuple(sorted(QUORUMS))
LEASES = PROFILES["default"].promise + PROFILES["default"].run
"""When those of before a partition are over: the leader granted some until its own was."""
SHORT = 17 * SECOND // 20
LATEST = 2 * SECOND
"""By then a side that can serve does."""
STRICT = tuple((kind, "strict") for kind in KINDS)
DYNAMIC = tuple((kind, "dynamic") for kind in KINDS if QUORUMS[kind][0])
"""Without the kinds in which nodes have no votes: there strict and dynamic are the same."""


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
    """Whoever is absent, however the rest splits, whichever sides reach the disk or witness.

    If it answers both, both may be a quorum, but by its vote alone: it promises only one of them.
    """
    wish, ids = wish_of(kind, dynamic=dynamic), identities(count)
    nodes, members = frozenset(range(1, count + 1)), everyone(kind, count)
    outside = members - nodes
    seen = {
        wanted_acceptors(wish, ids, absent, NodeId(holder))
        for absent in subsets(members)
        for holder in (0, 1, count)
    }
    known = {one.id.node: one.id for one in wanted_acceptors(wish, ids)}
    having = {side: frozenset(known[node] for node in side) for side in subsets(members)}
    if not QUORUMS[kind][0]:
        assert len(seen) == 1, "votes follow though no node has one"
    for acceptors in seen:
        votes = QuorumConfig(acceptors=acceptors)
        holds = {side: agreed(votes, have) for side, have in having.items()}
        if count < 6:
            told = {side: is_quorum(acceptors, side) for side in having}
            assert told == holds, "status and the core count differently"
        deciding = {one.id.node for one in acceptors if one.weight} & outside
        for side in subsets(nodes):
            other = nodes - side
            assert not (holds[side] and holds[other | outside])
            if holds[side | outside] and holds[other | outside]:
                assert deciding, "two sides decide, and nobody is in both"
            if dynamic:
                assert holds[side] or holds[other | outside], "neither of two sides goes on"


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


# --- partitions, played out by the whole core ----------------------------------------------------


class Split(NamedTuple):
    """Sides that do not hear each other, and the nodes that reach the disk or witness."""

    sides: tuple[frozenset[int], ...]
    reach: frozenset[int]

    def able(self, votes: QuorumConfig, side: frozenset[int], asks: frozenset[int]) -> bool:
        """Return whether a side is a quorum, if one of ``asks`` asks the disk or witness."""
        have = {
            acceptor.id
            for acceptor in votes.acceptors
            if (acceptor.id.node in side if acceptor.kind == "node" else asks & self.reach)
        }
        return agreed(votes, have)


def partitions(nodes: Sequence[int]) -> Iterator[tuple[frozenset[int], ...]]:
    """All ways to part nodes into sides."""
    if not nodes:
        yield ()
        return
    for friends in subsets(nodes[1:]):
        for others in partitions([node for node in nodes[1:] if node not in friends]):
            yield (friends | {nodes[0]}, *others)


def splits(kind: str, count: int) -> Iterator[Split]:
    """All of them; a disk or witness is reached by none of the sides, by one, by several."""
    for sides in partitions(range(1, count + 1)):
        for reaching in subsets(range(len(sides)) if QUORUMS[kind][1] else ()):
            yield Split(sides, frozenset().union(*(sides[number] for number in reaching)))


def drawn(entropy: Entropy, nodes: Sequence[int], *, several: bool) -> Split:
    """Two or three sides; a disk or witness is reached by one, or by some nodes of several."""
    sides: list[frozenset[int]] = []
    while len(sides) < 2:
        chosen = {node: entropy.between(1, 3) for node in nodes}
        parts = (frozenset(n for n in nodes if chosen[n] == number) for number in (1, 2, 3))
        sides = [part for part in parts if part]
    if not several:
        return Split(tuple(sides), entropy.choice(sides))
    some = {node for node in nodes if entropy.chance(500)}
    return Split(tuple(sides), frozenset(some.union(min(side) for side in sides[:2])))


def formed(kind: str, count: int, *, dynamic: bool, seed: int) -> World:
    world = World(seed=seed, nodes=count, quorum=kind, dynamic=dynamic, links=1)
    for node in world.nodes.values():
        node.power_on()
    make_whole(world)
    return world


def cut_apart(world: World, split: Split) -> None:
    for one, other in product(world.nodes, world.nodes):
        if not any({one, other} <= side for side in split.sides):
            world.network.cut(one, other)
    world.refresh_streams()
    for witness in world.witnesses.values():
        witness.unreached.update(world.nodes.keys() - split.reach)


def make_whole(world: World) -> None:
    """Mend everything, until all serve, each of the first three a group, and nothing changes."""
    mend(world)
    for witness in world.witnesses.values():
        witness.unreached.clear()
    firsts = world.nodes.keys() & {1, 2, 3}
    until, ends, before = world.now + 12 * SECOND, {0, 1}, {0}
    while world.now < until and not (len(ends) == 1 and ends == before and is_whole(world)):
        if len(world.leaders()) == 1 and owners(world, firsts) != firsts:
            for number in firsts:
                command = MoveGroup(group=GroupId(f"g{number}"), node=NodeId(number))
                world.ask(leader(world).id, -number, command)
        world.run_until(world.now + SECOND // 20)
        before, ends = ends, {log_end(node) for node in world.nodes.values()}
    demand_service(world, "whole again")


def is_whole(world: World) -> bool:
    try:
        demand_service(world, "while healing")
    except Violation:
        return False
    firsts = world.nodes.keys() & {1, 2, 3}
    return config(world).former is None and owners(world, firsts) == firsts


def serving(world: World, split: Split) -> set[frozenset[int]]:
    """Sides on which anything runs."""
    active = owners(world, set(world.nodes))
    return {side for side in split.sides if side & active}


def serves(world: World, side: frozenset[int]) -> bool:
    """Whether everything runs on this side, under its leader."""
    cores = [node.daemon.core for node in world.leaders() if node.id in side]
    cells = [cell for node in side for cell in world.nodes[node].active_cells()]
    running = {cell.order.resource for cell in cells}
    return any(core is not None and running == set(core.state.resources) for core in cores)


def play(world: World, split: Split, lasting: int) -> None:
    """Part the cluster: one side at most serves, and one does if the votes of it agree.

    If the votes that the leader reaches agree it keeps its office. Once the leases of before are
    over, those that the leader granted in its last moment too, the others serve nothing any more.
    """
    votes, first, begun = config(world), leader(world).id, world.now
    able = {side for side in split.sides if split.able(votes, side, side)}
    kept = {side for side in able if first in side and split.able(votes, side, frozenset({first}))}
    print(f"at {begun / SECOND} s, n{first} led: {split}, {votes}")
    cut_apart(world, split)
    world.run_until(begun + LEASES)
    while world.now < begun + lasting or (
        able and world.now < begun + LATEST and not any(serves(world, side) for side in able)
    ):
        assert len(serving(world, split)) <= 1
        world.run_until(world.now + SECOND // 20)
    found = serving(world, split)
    assert len(found) == min(1, len(able))
    assert found <= (kept or able)
    assert all(serves(world, side) for side in found)
    make_whole(world)


@pytest.mark.parametrize(("kind", "votes"), [*STRICT, *DYNAMIC])
@pytest.mark.parametrize("count", [2, 3])
def test_all_partitions_of_few_nodes(kind: str, votes: str, count: int) -> None:
    """One after the other, whoever leads by then, whoever has the casting vote."""
    world = formed(kind, count, dynamic=votes == "dynamic", seed=1)
    for split in splits(kind, count):
        play(world, split, SHORT)


def play_some(seed: int, kind: str, votes: str, count: int) -> None:
    test = f"{__file__}::test_some_partitions_of_many_nodes[{count}-{votes}-{kind}]"
    print(f"seed {seed}: LEITWOLF_SEED={seed} ./run test '{test}'")
    entropy = Entropy(zlib.crc32(f"{seed} {kind} {votes} {count}".encode()))
    world = formed(kind, count, dynamic=votes == "dynamic", seed=entropy.between(1, 1_000))
    play(world, drawn(entropy, list(world.nodes), several=False), SHORT)
    play(world, drawn(entropy, list(world.nodes), several=True), LATEST + SECOND // 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("votes", ["strict", "dynamic"])
@pytest.mark.parametrize("count", range(4, 9))
def test_some_partitions_of_many_nodes(kind: str, votes: str, count: int) -> None:
    """Two in turn, the second one long enough for votes to follow who is there."""
    play_some(int(os.environ.get("LEITWOLF_SEED", "1")), kind, votes, count)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "votes"), [*STRICT, *DYNAMIC])
def test_partitions_of_four_nodes(kind: str, votes: str) -> None:
    """All, or evenly chosen ones, as of fewer nodes."""
    world = formed(kind, 4, dynamic=votes == "dynamic", seed=1)
    every = list(splits(kind, 4))
    for split in every[:: len(every) // part(len(every), least=10)]:
        play(world, split, SHORT)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("votes", ["strict", "dynamic"])
@pytest.mark.parametrize("count", [5, 8])
def test_more_partitions_of_many_nodes(kind: str, votes: str, count: int) -> None:
    """The same with other partitions."""
    for seed in range(2, 2 + part(10, least=1)):
        play_some(seed, kind, votes, count)


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
@pytest.mark.parametrize(
    ("count", "voters"), [(count, some) for count in range(2, 6) for some in range(1, count + 1)]
)
def test_what_blind_nodes_survive_is_told(
    kind: str, dynamic: bool, count: int, voters: int
) -> None:
    """Whichever nodes do not reach disk or witness: one must be left that may lead, by a quorum.

    The first ``voters`` nodes vote; the others do not, and may lead only where no node votes.
    """
    log = formed_log(
        nodes=count, groups=1, links=1, profile="default", quorum=kind, dynamic=dynamic
    )
    state = fold(State(), log.entries[0])
    ids, members = identities(count), everyone(kind, count)
    wish = replace(state.wish, voteless=tuple(one.node for one in ids[voters:]))
    acceptors = wanted_acceptors(wish, ids)
    state = replace(state, wish=wish, quorum=QuorumConfig(acceptors=acceptors))
    nodes = frozenset(identity.node for identity in ids)
    passive = frozenset(members) - nodes
    voting = frozenset(a.id.node for a in acceptors if a.weight)
    for unsighted in subsets(nodes):

        def holds(left: frozenset[int], unsighted: frozenset[int] = unsighted) -> bool:
            return any(
                is_quorum(acceptors, left - passive if node in unsighted else left)
                for node in (nodes & voting or nodes) & left
            )

        blind = {NodeId(node): frozenset(map(NodeId, passive)) for node in unsighted}
        found = survives(state, members, blind)
        assert found.quorum == holds(frozenset(members))
        if not found.quorum:
            continue
        for loss in found.losses:
            assert loss.survived == holds(frozenset(members) - frozenset(loss.lost))
        assert found.failures == max(
            size
            for size in range(len(voting) + 1)
            if all(holds(members - lost) for lost in subsets(voting) if len(lost) == size)
        )


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
