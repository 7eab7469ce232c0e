"""What a node tells of itself and of others, for people."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from tests.sim_calm import SECOND, calm, followers, isolate, leader, started

from leitwolf.cli import render
from leitwolf.core.node import Node
from leitwolf.core.rules import ALL_RULES
from leitwolf.daemon import views
from leitwolf.model.ids import NetworkRole, NodeId
from leitwolf.model.state import Network
from leitwolf.model.views import LogLine, ProofView, StatusView, StoppedView
from leitwolf.system.walltime import local_time
from leitwolf.wire.ballot import Ballot
from leitwolf.wire.page import LeasePage

STOPPED = StoppedView(at_wall=1, text="run-lease over")
WALL = 1_700_000_000_123_000_000
"""2023-11-14 22:13:20.123 UTC."""


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_leader_tells_of_itself_how_much_it_has() -> None:
    """Everything that is durable, as it tells of the others; not nothing."""
    core = leader(calm(1, ALL_RULES)).daemon.core
    assert core is not None
    shown = views.quorum_view(core, None, 0, worst_stall=0, realtime=True)
    assert {member.match for member in shown.members} == {shown.last}


def test_what_a_node_lacked_and_has_by_now_is_no_warning() -> None:
    """Somebody who knew more once is told only while he does."""
    core = leader(calm(1, ALL_RULES)).daemon.core
    assert core is not None
    last = core.quorum.last_key.index
    for known, warned in ((last - 1, False), (last + 1, True)):
        core.behind.clear()
        core.behind[NodeId(2)] = known
        shown = views.quorum_view(core, None, 0, worst_stall=0, realtime=True)
        assert bool(shown.lacking) is warned


def shown_status(core: Node, *, leased: bool) -> StatusView:
    proof = ProofView(address=True, process=False, data=False)
    return views.status_view(
        core,
        links={},
        streams={},
        sides={},
        fresh=False,
        leased=leased,
        proof=proof,
        stopped=(STOPPED,),
    )


def test_a_node_without_quorum_says_no_more_than_it_knows() -> None:
    """A former leader that is cut off leads nothing, and cannot tell what became of the others."""
    world = calm(1, ALL_RULES)
    cut = leader(world)
    isolate(world, cut)
    world.run_until(world.now + 2 * SECOND)
    core = cut.daemon.core
    assert core is not None
    shown = shown_status(core, leased=False)
    assert (shown.quorum, shown.leader) == (False, "")
    for line in shown.nodes:
        assert not line.leader
        assert line.here or (not line.up and line.reason == "not reachable from here")
    quorum = views.quorum_view(core, None, world.now, worst_stall=0, realtime=True)
    assert quorum.leader == ""


@pytest.mark.parametrize(
    ("page", "has"),
    [
        (None, False),
        (LeasePage(), False),
        (LeasePage(lease=7, lease_end=11), True),
        (LeasePage(lease=7, lease_end=10), False),
        (LeasePage(office=Ballot(1, 2, 3), leader_end=11), True),
        (LeasePage(office=Ballot(1, 2, 3), leader_end=10), False),
    ],
)
def test_who_leads_has_quorum_before_it_has_a_run_lease(page: LeasePage | None, has: bool) -> None:
    """What a new leader shows is fresh; it must not say at once that nobody leads."""
    assert views.has_lease(page, 10) is has


def test_a_node_that_comes_and_goes_is_told_when_its_vote_returns() -> None:
    """By the one that leads; others know that it has none."""
    world = started("majority", 3, dynamic=True)
    leading = leader(world)
    flaps, other = followers(world)
    for stays in (2, 3, 2):
        flaps.power_off("test")
        world.run_until(world.now + 3 * SECOND)
        flaps.power_on()
        world.run_until(world.now + stays * SECOND)
    for node, told in ((leading, "after 4 s without another loss"), (other, "no vote now")):
        core = node.daemon.core
        assert core is not None
        [line] = [one for one in shown_status(core, leased=True).nodes if one.id == flaps.id]
        assert line.up
        assert line.reason.endswith(told)


def test_what_a_node_owns_ends_when_it_has_no_quorum() -> None:
    """The log goes on saying that it is online here; the screen does not."""
    world = calm(1, ALL_RULES)
    core = leader(world).daemon.core
    assert core is not None
    well = render.status(shown_status(core, leased=True))
    assert "ends here" not in well
    view = shown_status(core, leased=True)
    [mine] = [group.id for group in view.groups if group.owner == view.node]
    assert f"● {mine}  online on {view.node}" in well
    text = render.status(shown_status(core, leased=False))
    assert f"○ {mine}  ends here without quorum" in text
    assert text.count("ends here without quorum") == 1
    assert "others may have them by now" in text


def test_a_network_on_which_no_node_has_an_address_is_not_up() -> None:
    """A second interconnect that was only named is none."""
    world = calm(1, ALL_RULES)
    core = leader(world).daemon.core
    assert core is not None
    name, state = "storage", core.state
    network = Network(name=name, subnets=("10.9.9.0/24",), role=NetworkRole.INTERCONNECT)
    core.state = replace(state, networks={**state.networks, name: network})
    up = {item.name: item.up for item in shown_status(core, leased=True).networks}
    assert not up.pop(name)
    assert all(up.values())


@pytest.mark.usefixtures("berlin")
def test_times_are_those_of_the_machine_with_their_zone() -> None:
    """Whoever compares them with the journal has nothing to compute."""
    assert local_time(WALL) == "2023-11-14 23:13:20.123 CET"


def test_a_line_of_the_timeline_begins_with_the_reason() -> None:
    """The events with all their fields come behind it."""
    entry = LogLine(
        index=23,
        wall=WALL,
        by="policy",
        code="c",
        because="n1 can take it",
        cause=22,
        events=("GroupPlaced group=web node=n1", "X"),
    )
    line = render.line(entry)
    assert line.endswith("policy: n1 can take it <- 22  [GroupPlaced group=web node=n1; X]")
