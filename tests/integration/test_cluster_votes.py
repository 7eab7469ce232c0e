"""Dynamic votes on real nodes: down to the last one and back, and a stop in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.prober import Prober
from tests.integration.fault_support import SOON_MS
from tests.integration.membership_support import GUEST, NODES, PORT, VIP, Members, formed
from tests.integration.patience_support import unless_it_stalls

from leitwolf.model.views import QuorumView

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def cluster() -> Iterator[Members]:
    with formed(welcome=True) as made:
        made.until_quorum("n1", lambda view: view.dynamic, "votes as clusters are formed with")
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
    unless_it_stalls(lambda: check_down_and_back(members), members.gather)


def check_down_and_back(members: Members) -> None:
    """Switch one node after the other off, and on again."""
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
    told = f"none that votes may fail: {last} (it holds the only vote)"
    members.until_quorum(last, lambda view: view.survives == told, told)
    members.until(last, lambda view: f"only {last} votes" in view.advice, "the advice")
    generation = members.group(asked=last).generation
    with Prober(members.world, VIP, PORT, interval_us=2000) as prober:
        assert prober.wait_for_answers()
        for node in sorted(set(NODES) - left):
            members.lab.boot(node)
            left.add(node)
            until_votes(members, last, left)
        lost = [outage.milliseconds for outage in prober.outages()]
    assert not [one for one in lost if one >= SOON_MS], lost
    assert members.leader(last) == last, "coming back costs no office"
    assert members.group(asked=last).generation == generation


def test_a_stop_in_order_gives_the_vote_away(members: Members) -> None:
    """Of two nodes the one with the casting vote stops in order: the other goes on alone."""
    for node in ("n3", GUEST):
        members.evict(node)
    view = until_votes(members, "n1", {"n1", "n2"})
    holder = casting(view)
    [other] = {"n1", "n2"} - {holder}
    members.until("n1", lambda view: f"{holder} has the casting vote" in view.advice, "its name")
    members.stop(holder)
    members.until_online(other, {holder})
    view = until_votes(members, other, {other})
    assert view.leader == other
    assert f"{holder} is about to stop: its vote is taken" in members.log_text(other)
    members.lab.run(holder)
    view = until_votes(members, other, {"n1", "n2"})
    assert casting(view) == other, "the casting vote stays with who had to have it"
