"""The link of each two nodes: what each says that it hears, and what follows of both."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.sim_calm import MS, SECOND, calm, leader
from tests.unit.api_support import node_line, status_view

from leitwolf.cli import render
from leitwolf.core.membership.paths import Paths
from leitwolf.core.membership.roster import interconnects
from leitwolf.core.node import Node
from leitwolf.core.rules import ALL_RULES
from leitwolf.daemon.link_views import pair_views, told_of, troubles
from leitwolf.daemon.network_views import network_views
from leitwolf.daemon.networks import OwnSide
from leitwolf.model.ids import NodeId
from leitwolf.model.limits import LINKS_TOLD_MAX, NODES_MAX
from leitwolf.model.observations import LinkHeard, PathReport
from leitwolf.model.state import State
from leitwolf.model.views import NetworkView, PairView
from leitwolf.sim.world import World
from leitwolf.system.walltime import local_time
from leitwolf.wire.guard import LinkReport, LinkState

WALL = 1_700_000_000_000_000_000
N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)


@pytest.fixture(scope="module")
def state() -> State:
    """Three nodes on two interconnects."""
    core = leader(calm(1, ALL_RULES)).daemon.core
    assert core is not None
    return core.state


def report(*links: tuple[int, int, bool, int]) -> LinkReport:
    """What a guard tells: node, link, up, age in ms (-1: never heard)."""
    return LinkReport(
        tuple(
            LinkState(node=node, link=link, up=up, age=age * MS if age >= 0 else -1, round_trip=1)
            for node, link, up, age in links
        )
    )


def heard(network: str, node: int, *, hears: bool = True, since: int = 0) -> LinkHeard:
    return LinkHeard(network=network, node=NodeId(node), heard=hears, since_wall=since)


# --- what a node tells ---------------------------------------------------------------------------


def test_a_change_is_told_once_and_not_too_often(state: State) -> None:
    """With the moment since which it is so; what changed soon after goes with a later report."""
    one, two = interconnects(state)
    paths = Paths()
    told = paths.hear(SECOND, report((2, 0, True, 0), (2, 1, True, 0)), state, WALL)
    assert told is not None
    since = SECOND + WALL
    assert told.links == (heard(one, 2, since=since), heard(two, 2, since=since))
    same = report((2, 0, True, 90), (2, 1, True, 90))
    assert paths.hear(2 * SECOND, same, state, WALL) is None
    down = report((2, 0, True, 90), (2, 1, False, 3_000))
    told = paths.hear(5 * SECOND, down, state, WALL)
    assert told is not None
    assert told.links[1] == heard(two, 2, hears=False, since=2 * SECOND + WALL)
    both = report((2, 0, False, 3_000), (2, 1, False, 3_100))
    assert paths.hear(5 * SECOND + 249 * MS, both, state, WALL) is None
    told = paths.hear(6 * SECOND, both, state, WALL)
    assert told is not None
    assert [link.heard for link in told.links] == [False, False]
    assert paths.hear(7 * SECOND, both, state, WALL) is None


def test_a_guard_that_has_just_started_is_not_deaf(state: State) -> None:
    """That nothing was heard yet counts when it lasts; and again after the next start."""
    paths = Paths()
    for begin in (SECOND, 60 * SECOND):
        for after in (0, 1_000, 2_999):
            assert paths.hear(begin + after * MS, report((2, 0, False, -1)), state, WALL) is None
        told = paths.hear(begin + 3 * SECOND, report((2, 0, False, -1)), state, WALL)
        assert told is not None
        assert told.links == (heard(interconnects(state)[0], 2, hears=False),)
        gone = paths.deaf()
        assert gone is not None
        assert gone.links == paths.links == ()
        assert paths.deaf() is None


def test_links_of_a_network_that_is_gone_are_left_out(state: State) -> None:
    """The guard still numbers one more than the state has."""
    paths = Paths()
    told = paths.hear(SECOND, report((2, 1, True, 0), (2, 2, True, 0)), state, WALL)
    assert told is not None
    assert [link.network for link in told.links] == [interconnects(state)[1]]


def test_who_comes_within_reach_is_told_and_asked(state: State) -> None:
    """He answers, and asks nothing himself: only the stream of one of the two may be new."""
    mine, yours = Paths(), Paths()
    yours.hear(SECOND, report((1, 0, True, 0)), state, WALL)
    assert mine.heard(N2, PathReport(paths=())) is None
    answer = yours.heard(N1, mine.greeting())
    assert answer is not None
    assert mine.heard(N2, answer) is None
    assert mine.links_told[N2] == yours.links != ()
    mine.lost(N2)
    assert not mine.links_told


def test_what_is_told_and_taken_is_bounded(state: State) -> None:
    """Of more links than 64 nodes on eight interconnects have."""
    paths = Paths()
    many = report(*((node, 0, True, 0) for node in range(2, LINKS_TOLD_MAX + 9)))
    told = paths.hear(SECOND, many, state, WALL)
    assert told is not None
    assert len(told.links) == LINKS_TOLD_MAX == 8 * NODES_MAX
    paths.heard(N2, PathReport(paths=(), links=(*told.links, *told.links)))
    assert len(paths.links_told[N2]) == LINKS_TOLD_MAX


# --- what follows for a pair ---------------------------------------------------------------------


def said(name: str, ears: dict[int, dict[int, bool]]) -> Paths:
    """What n1 knows: for each node within reach whom it hears, since WALL + its number."""
    paths = Paths()
    for who, others in ears.items():
        links = tuple(
            heard(name, node, hears=hears, since=WALL + who) for node, hears in others.items()
        )
        if who == N1:
            paths.links = links
        else:
            paths.heard(NodeId(who), PathReport(paths=(), links=links))
    return paths


@pytest.mark.parametrize(
    ("ears", "how", "reason", "since"),
    [
        ({2: {3: True}, 3: {2: True}}, "up", "n2 and n3 hear each other", 3),
        ({2: {3: False}, 3: {2: False}}, "down", "n2 and n3 do not hear each other", 3),
        (
            {2: {3: True}, 3: {2: False}},
            "one-way",
            "one way: n2 hears n3, n3 does not hear n2",
            3,
        ),
        (
            {2: {3: False}, 3: {2: True}},
            "one-way",
            "one way: n3 hears n2, n2 does not hear n3",
            2,
        ),
        (
            {2: {3: False}},
            "down",
            "n2 does not hear n3; whether n3 hears n2 is not known: n3 is not heard",
            2,
        ),
        (
            {2: {3: True}, 3: {}},
            "unknown",
            "n2 hears n3; whether n3 hears n2 is not known: n3 has not said",
            0,
        ),
        ({}, "unknown", "not known: n2 is not heard, n3 is not heard", 0),
        ({3: {}}, "unknown", "not known: n2 is not heard, n3 has not said", 0),
    ],
)
def test_a_link_is_what_both_of_its_ends_say(
    state: State, ears: dict[int, dict[int, bool]], how: str, reason: str, since: int
) -> None:
    """What one of them does not say, or said before it was lost, is not known."""
    name = interconnects(state)[0]
    pairs = list(pair_views(state, name, told_of(said(name, ears), N1)))
    assert [pair.nodes for pair in pairs] == [("n1", "n2"), ("n1", "n3"), ("n2", "n3")]
    assert (pairs[2].state, pairs[2].reason) == (how, reason)
    assert pairs[2].since_wall == (WALL + since if since else 0)
    assert [end.node for end in pairs[2].ends] == ["n2", "n3"]
    bad = list(pair_views(state, name, told_of(said(name, ears), N1), every_pair=False))
    assert bad == [pair for pair in pairs if pair.state != "up"]


def test_a_node_without_an_address_has_no_links_there(state: State) -> None:
    """It is missing among the pairs, not broken."""
    name = interconnects(state)[0]
    third = replace(state.nodes[N3], addresses={})
    state = replace(state, nodes={**state.nodes, N3: third})
    assert [pair.nodes for pair in pair_views(state, name, {})] == [("n1", "n2")]


ALL = {1: {2: True, 3: True}, 2: {1: True, 3: True}, 3: {1: True, 2: True}}


@pytest.mark.parametrize(
    ("ears", "down", "told"),
    [
        (ALL, 0, []),
        (ALL | {2: {1: True, 3: False}}, 0, ["one way: n3 hears n2, n2 does not hear n3"]),
        (
            ALL | {2: {1: True, 3: False}, 3: {1: True, 2: False}},
            0,
            ["n2 and n3 do not hear each other"],
        ),
        (ALL | {2: {1: True, 3: False}, 3: {1: True, 2: False}}, 3, []),
        # Of n3 it is told already that this node does not reach it.
        ({1: {2: True, 3: False}, 2: {1: True, 3: False}}, 0, ["n2 does not hear n3"]),
        (ALL | {2: {1: False, 3: True}}, 0, ["one way: n1 hears n2, n2 does not hear n1"]),
        (ALL | {1: {2: False, 3: True}}, 0, []),
        (
            ALL | {2: {1: False, 3: False}, 3: {1: False, 2: False}},
            0,
            ["broken: n1–n2, n1–n3 and 1 more"],
        ),
        ({1: {2: True, 3: True}}, 0, ["not known: n2 is not heard, n3 is not heard"]),
    ],
)
def test_the_status_names_what_is_broken_in_few_words(
    state: State, ears: dict[int, dict[int, bool]], down: int, told: list[str]
) -> None:
    """Nothing of what works, of nodes that are down, and of what stands elsewhere already."""
    name = interconnects(state)[0]
    if down:
        gone = replace(state.nodes[NodeId(down)], up=False)
        state = replace(state, nodes={**state.nodes, gone.id: gone})
    pairs = tuple(pair_views(state, name, told_of(said(name, ears), N1), every_pair=False))
    assert troubles(state, N1, pairs) == told


def test_the_tree_fits_a_screen_with_all_links_broken(state: State) -> None:
    """The remark stands in place of the own address."""
    none = {one: {other: False for other in (1, 2, 3) if other != one} for one in (2, 3)}
    views: list[NetworkView] = []
    for name in interconnects(state):
        told = told_of(said(name, {1: {2: True, 3: True}, **none}), N1)
        sides = {name: OwnSide("192.168.100.101", "enp0s31f6", "")}
        views += [one for one in network_views(state, N1, {}, sides, told) if one.name == name]
    nodes = (node_line(1), node_line(2), node_line(3))
    lines = render.status(status_view(nodes=nodes, networks=tuple(views))).splitlines()
    assert len([line for line in lines if line.endswith("broken: n1–n2, n1–n3 and 1 more")]) == 2
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100


def test_a_list_of_networks_shows_each_link_with_its_sign(state: State) -> None:
    """And since when it is so, where that is known."""
    name = interconnects(state)[0]
    told = told_of(said(name, {1: {2: True, 3: True}, 2: {1: True, 3: False}}), N1)
    found = network_views(state, N1, {}, {}, told, every_pair=True)
    lines = render.networks(found).splitlines()
    since, unknown = local_time(WALL + 2), "whether n3 hears n2 is not known: n3 is not heard"
    assert lines[0].startswith(f"up    {name}  ")
    assert lines[1:4] == [
        f"      ● n1 and n2 hear each other  since {since}",
        "      ? n1 hears n3; whether n3 hears n1 is not known: n3 is not heard",
        f"      ○ n2 does not hear n3; {unknown}  since {since}",
    ]
    assert lines[4].startswith(f"up    {interconnects(state)[1]}  ")


# --- in a cluster --------------------------------------------------------------------------------


def core_of(world: World, node: int) -> Node:
    core = world.nodes[node].daemon.core
    assert core is not None
    return core


def pairs_at(world: World, node: int, link: int) -> dict[tuple[str, str], PairView]:
    """All pairs of an interconnect, as a node knows them."""
    core = core_of(world, node)
    name = interconnects(core.state)[link]
    return {pair.nodes: pair for pair in pair_views(core.state, name, told_of(core.paths, core.me))}


def states_at(world: World, node: int, link: int) -> list[str]:
    return [pair.state for pair in pairs_at(world, node, link).values()]


def test_every_node_knows_every_link() -> None:
    """One that is cut, then cut one way only, then well again; the other network is untouched."""
    world = calm(1, ALL_RULES)
    for node in world.nodes:
        assert states_at(world, node, 0) == states_at(world, node, 1) == ["up"] * 3
    world.network.cut(2, 3, 1)
    world.network.cut(3, 2, 1)
    world.refresh_streams()
    world.run_until(world.now + 6 * SECOND)
    for node in world.nodes:
        assert states_at(world, node, 0) == ["up"] * 3
        assert states_at(world, node, 1) == ["up", "up", "down"]
    world.network.heal()
    world.network.cut(2, 3, 1)
    world.refresh_streams()
    world.run_until(world.now + 6 * SECOND)
    for node in world.nodes:
        found = pairs_at(world, node, 1)["n2", "n3"]
        assert found.reason == "one way: n2 hears n3, n3 does not hear n2"
    world.network.heal()
    world.refresh_streams()
    world.run_until(world.now + 6 * SECOND)
    for node in world.nodes:
        assert states_at(world, node, 1) == ["up"] * 3


def test_what_a_lost_node_said_is_not_shown_as_present() -> None:
    """A stream that ended is enough; when it is back the node tells again, although nothing
    changed for itself."""
    world = calm(1, ALL_RULES)
    world.network.cut_stream(1, 3)
    world.refresh_streams()
    world.run_until(world.now + 2 * SECOND)
    assert not core_of(world, 1).paths.links_told.keys() & {N3}
    assert pairs_at(world, 1, 0)["n2", "n3"].reason == (
        "n2 hears n3; whether n3 hears n2 is not known: n3 is not heard"
    )
    assert states_at(world, 2, 0) == ["up"] * 3
    world.network.heal()
    world.refresh_streams()
    world.run_until(world.now + 2 * SECOND)
    assert states_at(world, 1, 0) == ["up"] * 3


def test_a_stream_that_changed_at_one_end_only_costs_nothing() -> None:
    """A node that takes another stream forgets what was said, and asks; the other notices none."""
    world = calm(1, ALL_RULES)
    daemon = world.nodes[1].daemon
    history = core_of(world, 2).history
    daemon.peer_lost(2)
    daemon.peer_up(2, history)
    world.run_until(world.now + SECOND)
    assert states_at(world, 1, 0) == ["up"] * 3


def test_a_dead_guard_hears_nobody() -> None:
    """What it heard is not known on any node until the next guard tells; its peers still do."""
    world = calm(1, ALL_RULES)
    world.nodes[2].guard.perish(page=False)
    unknown = "n3 hears n2; whether n2 hears n3 is not known: n2 has not said"
    assert world.run_to(
        lambda: {pairs_at(world, node, 0)["n2", "n3"].reason for node in world.nodes} == {unknown},
        100 * MS,
    )
    assert not world.nodes[2].guard.alive
    world.run_until(world.now + 5 * SECOND)
    for node in world.nodes:
        assert states_at(world, node, 0) == ["up"] * 3
