"""When the guard in office gives up because its daemon is cut off, and only then."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from tests.lease_bench import Bench

from leitwolf.core.lease.streams import stranded
from leitwolf.sim.world import World
from leitwolf.wire.guard import OfficeLost, Streams, Votes

MS = 1_000_000
SECOND = 1_000 * MS


def votes(*weights: int) -> Votes:
    return Votes(tuple(range(1, len(weights) + 1)), weights)


def apart(nodes: int, *broken: tuple[int, int]) -> dict[int, tuple[int, ...]]:
    """Return who is apart from whom when these pairs have no stream."""
    found: dict[int, tuple[int, ...]] = {}
    for node in range(1, nodes + 1):
        pairs = [set(pair) - {node} for pair in broken if node in pair]
        found[node] = tuple(other for rest in pairs for other in rest)
    return found


EQUAL = votes(1, 1, 1)
FOUR = votes(1, 1, 1, 1)


@pytest.mark.parametrize(
    ("active", "broken", "expected"),
    [
        ([EQUAL], [(1, 2), (1, 3)], True),
        ([EQUAL], [(1, 2)], False),
        ([EQUAL], [(1, 2), (1, 3), (2, 3)], False),
        ([EQUAL], [], False),
        ([FOUR], [(1, 2), (1, 3), (1, 4)], True),
        ([FOUR], [(1, 2), (1, 3)], True),
        ([FOUR], [(1, 2), (1, 3), (2, 3)], False),
        ([FOUR], [(1, 2), (1, 3), (1, 4), (2, 3)], False),
        ([votes(3, 1, 1)], [(1, 2), (1, 3)], False),
        ([votes(1, 2, 0)], [(1, 2)], True),
        ([votes(1, 1, 1, 0), FOUR], [(1, 2), (1, 3), (1, 4)], True),
        ([EQUAL, votes(1, 1, 1, 2)], [(1, 2), (1, 3)], True),
        ([EQUAL, votes(1, 1, 1, 2)], [(1, 2), (1, 3), (1, 4), (2, 4), (3, 4)], False),
    ],
)
def test_the_leader_is_stranded_only_if_others_could_decide(
    active: list[Votes], broken: list[tuple[int, int]], expected: bool
) -> None:
    """It reaches no quorum, and others reach one among themselves, in every configuration."""
    nodes = max(len(one.nodes) for one in active)
    assert stranded(1, active, apart(nodes, *broken)) is expected


def test_who_is_not_heard_helps_nobody() -> None:
    """A node whose guard is silent promises nothing: it is counted on neither side."""
    said = apart(3, (1, 2), (1, 3))
    del said[3]
    assert not stranded(1, [EQUAL], said)


def test_a_stream_counts_when_both_ends_say_so() -> None:
    """The leader's calls do not get through while it takes those of others for alive."""
    assert stranded(1, [EQUAL], {1: (), 2: (1,), 3: (1,)})
    assert not stranded(1, [EQUAL], {1: (2, 3), 2: (), 3: (2,)})


def say(bench: Bench, streams: dict[int, Iterable[int]]) -> None:
    for node, others in streams.items():
        bench.order(bench[node], Streams(tuple(others)))


WHOLE: dict[int, Iterable[int]] = {1: (2, 3), 2: (1, 3), 3: (1, 2)}
BROKEN: dict[int, Iterable[int]] = {1: (), 2: (3,), 3: (2,)}


def test_a_stranded_leader_releases_after_a_while() -> None:
    """The run-leases go on; the others are freed to elect."""
    bench = Bench()
    bench.cluster()
    say(bench, WHOLE)
    bench.run(500)
    say(bench, BROKEN)
    bench.run(900)
    assert bench.leading(1)
    bench.run(190)
    assert bench[1].told(OfficeLost)[-1].reason == "daemon-stranded"
    page = bench[2].page
    assert page is not None
    assert page.freed
    assert bench.holds_lease(1)


def test_a_hiccup_of_the_streams_costs_no_office() -> None:
    """Streams that come back in time, again and again, change nothing."""
    bench = Bench()
    bench.cluster()
    for _ in range(5):
        say(bench, BROKEN)
        bench.run(800)
        say(bench, WHOLE)
        bench.run(200)
    assert bench.leading(1)


def test_nobody_gives_up_when_all_streams_are_broken() -> None:
    """A network that is slow as a whole must not stop the groups."""
    bench = Bench()
    bench.cluster()
    say(bench, WHOLE)
    bench.run(100)
    say(bench, {1: (), 2: (), 3: ()})
    bench.run(10_000)
    assert bench.leading(1)


@pytest.mark.parametrize("seed", range(3))
def test_the_groups_go_on_while_no_stream_passes(seed: int) -> None:
    """In a whole cluster: the leader stays, every lease stays."""
    world = World(seed=seed, nodes=3)
    for node in world.nodes.values():
        node.power_on()
    world.run_until(6 * SECOND)
    (leader,) = world.leaders()
    leases = [node.kernel.page.lease for node in world.nodes.values() if node.kernel.page]
    for one in world.nodes:
        for other in world.nodes:
            world.network.cut_stream(one, other)
    world.refresh_streams()
    world.run_until(world.now + 8 * SECOND)
    assert world.leaders() == [leader]
    assert leases == [node.kernel.page.lease for node in world.nodes.values() if node.kernel.page]
