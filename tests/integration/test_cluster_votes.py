"""Dynamic votes on real nodes: down to the last one and back, and a stop in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.prober import Prober
from tests.integration.membership_support import GUEST, NODES, PORT, VIP, Members, formed

from leitwolf.model.views import QuorumView

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def cluster() -> Iterator[Members]:
    with formed(welcome=True) as made:
        assert made.client("n1").quorum().dynamic, "as clusters are formed"
        yield made


@pytest.fixture
def members(cluster: Members) -> Members:
    """Four nodes with dynamic votes and a group online."""
    cluster.gather()
    return cluster


def until_votes(members: Members, asked: str, expected: set[str]) -> QuorumView:
    """Wait until exactly these nodes vote, by one configuration, an odd number in all."""

    def good(view: QuorumView) -> bool:
        voting = {member.node for member in view.members if member.weight}
        return not view.joint and bool(view.leader) and view.votes % 2 == 1 and voting == expected

    return members.until_quorum(asked, good, f"votes of {expected}")


def casting(view: QuorumView) -> str:
    """Who has the casting vote, '' if nobody has."""
    return next((member.node for member in view.members if member.weight > 1), "")


def test_four_nodes_down_to_the_last_one_and_back(members: Members) -> None:
    """Leader, then owner, then the node without the casting vote dies; nothing comes back late."""
    left = set(NODES)
    view = until_votes(members, "n1", left)
    assert view.dynamic
    assert (view.survival.at_once, view.survival.in_turn) == (1, 2)
    for _ in range(3):
        alive = sorted(left)
        status = members.until(alive[0], lambda seen: seen.quorum, "a leader")
        keeps = casting(until_votes(members, alive[0], left)) if len(left) == 2 else ""
        victim = next(
            node
            for node in (status.leader, members.owner(alive[0]), *alive)
            if node != keeps and node in left
        )
        members.world.power_off(victim)
        left.discard(victim)
        asked = min(left)
        members.until_online(asked, set(NODES) - left)
        until_votes(members, asked, left)
        assert f"{victim} was lost: its vote is taken" in members.log_text(asked)
    [last] = left
    view = members.client(last).quorum()
    assert view.survives == f"none that votes may fail: {last} (it holds the only vote)"
    assert f"only {last} votes" in members.status(last).advice
    generation = members.status(last).groups[0].generation
    with Prober(members.world, VIP, PORT, interval_us=2000) as prober:
        assert prober.wait_for_answers()
        for node in sorted(set(NODES) - left):
            members.lab.boot(node)
            left.add(node)
            until_votes(members, last, left)
        lost = [outage.milliseconds for outage in prober.outages()]
    assert not [one for one in lost if one >= 1_000], lost
    after = members.status(last)
    assert after.leader == last, "coming back costs no office"
    assert after.groups[0].generation == generation


def test_a_stop_in_order_gives_the_vote_away(members: Members) -> None:
    """Of two nodes the one with the casting vote stops in order: the other goes on alone."""
    for node in ("n3", GUEST):
        members.evict(node)
    view = until_votes(members, "n1", {"n1", "n2"})
    holder = casting(view)
    [other] = {"n1", "n2"} - {holder}
    assert f"{holder} has the casting vote" in members.status("n1").advice
    members.stop(holder)
    members.until_online(other, {holder})
    view = until_votes(members, other, {other})
    assert view.leader == other
    assert f"{holder} is about to stop: its vote is taken" in members.log_text(other)
    members.lab.run(holder)
    view = until_votes(members, other, {"n1", "n2"})
    assert casting(view) == other, "the casting vote stays with who had to have it"
