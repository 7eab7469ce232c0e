"""What clients see of a faulty cluster could have come about one operation after another."""

from __future__ import annotations

import pytest
from tests.effort import part
from tests.linearizable import Kind, Operation, unexplained
from tests.sim_calm import MS, cut, leader, reach, started
from tests.sim_clients import GROUP, recorded

from leitwolf.core.rules import Rules
from leitwolf.model.commands import AddGroup, ChangeGroup, MoveGroup, WishGroup
from leitwolf.model.ids import GroupId, NodeId, Wish
from leitwolf.sim.faults import MIXES


def explained(history: list[Operation], initial: int) -> bool:
    lost = unexplained(history, initial)
    if lost:
        print("\n".join(map(str, history)))
        print("none of these can follow:", *lost, sep="\n")
    return not lost


@pytest.mark.parametrize(
    ("seed", "quorum"), [(0, "majority"), (1, "majority"), (2, "majority"), (3, "disk")]
)
def test_histories_are_linearizable(seed: int, quorum: str) -> None:
    """Reads under the lease, writes and swaps, with crashes, freezes and cuts meanwhile.

    A shared disk is out of reach, slow, or does not answer now and then.
    """
    print(f"seed {seed} {quorum}")
    history, initial = recorded(seed, quorum=quorum)
    assert explained(history, initial)
    done = [one for one in history if one.returned is not None]
    assert sum(one.kind is Kind.READ for one in done) > 50
    assert sum(one.kind is Kind.SWAP and one.done for one in done) > 5
    assert sum(not one.done for one in done) > 5
    assert len(done) < len(history)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("quorum", ["majority", "disk", "tag-witness", "full-witness"])
def test_more_histories_are_linearizable(quorum: str) -> None:
    """The same with other kinds of quorum, two nodes and a witness among them."""
    nodes = 3 if quorum in ("majority", "disk") else 2
    for seed in range(100, 100 + part(40)):
        print(f"seed {seed} {quorum} {nodes} nodes")
        assert explained(*recorded(seed, quorum=quorum, nodes=nodes))


def test_clients_notice_answers_that_come_too_early() -> None:
    """A write that was answered before it was committed is missing later."""
    rules = Rules.without("answer-after-commit")
    assert any(unexplained(*recorded(seed, rules=rules, blind=True)) for seed in range(10))


@pytest.mark.long
def test_clients_notice_reads_without_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deposed leader whose guard stands still shows what is old, if nobody looks at its lease."""
    stalls = {"stall-guard": 10, "freeze": 3, "kill-daemon": 3}
    monkeypatch.setitem(MIXES, "stalled-guards", stalls)
    found = False
    for seed in range(40):
        history = recorded(seed, mix="stalled-guards", lease_checked=False, blind=True)
        found = found or bool(unexplained(*history))
        assert not unexplained(*recorded(seed, mix="stalled-guards"))
        if found:
            return
    pytest.fail("no stale read was noticed")


@pytest.mark.long
def test_clients_notice_what_a_new_owner_of_the_disk_lost() -> None:
    """Without P4 acknowledged writes are gone."""
    rules = Rules.without("disk-adopt")
    assert any(
        unexplained(*recorded(seed, quorum="disk", rules=rules, blind=True)) for seed in range(20)
    )


def test_a_change_that_counts_on_an_older_configuration_is_refused() -> None:
    """By its code, only if something was configured since, and from any node."""
    world = started("majority", 3)
    state = world.state()
    assert state is not None
    first = leader(world)
    other = next(node for node in world.nodes.values() if node is not first)
    since = state.index
    world.ask(other.id, 901, ChangeGroup(group=GROUP, retry_period_s=901), since)
    world.run_until(world.now + 200 * MS)
    assert world.answers[901].refusal is None
    for number, node in ((902, first), (903, other)):
        world.ask(node.id, number, WishGroup(group=GROUP, wish=Wish.OFFLINE), since)
        world.run_until(world.now + 200 * MS)
        refusal = world.answers[number].refusal
        assert refusal is not None
        assert (refusal.code, refusal.retryable) == ("changed-meanwhile", False)
        assert f"entry {world.answers[901].index} " in refusal.text
    world.ask(other.id, 904, WishGroup(group=GROUP, wish=Wish.OFFLINE), world.answers[901].index)
    world.run_until(world.now + 2_000 * MS)
    assert world.answers[904].refusal is None
    known = world.state()
    assert known is not None
    assert known.index > known.configured == world.answers[904].index  # stops are no configuration


def test_a_change_that_counts_on_a_lost_history_is_refused() -> None:
    """Whoever read an entry that a forced quorum lost does not take another state for the same."""
    world = started("majority", 3)
    first = leader(world)
    state = world.state()
    assert state is not None
    command = ChangeGroup(group=GROUP, retry_period_s=905)
    world.ask(first.id, 905, command, state.index + 1)
    world.run_until(world.now + 200 * MS)
    refusal = world.answers[905].refusal
    assert refusal is not None
    assert refusal.code == "changed-meanwhile"
    assert f"no entry {state.index + 1}" in refusal.text
    world.ask(first.id, 906, command, state.index)
    world.run_until(world.now + 200 * MS)
    assert world.answers[906].refusal is None


def test_a_replaced_leader_that_does_not_know_it_refuses_by_nothing_that_it_knows() -> None:
    """It stood still, its guard still does: the page shows no lease, so it may know too little."""
    world = started("majority", 3)
    first = leader(world)
    cut(world, {first.id})
    first.stall(first.guard, 6_000 * MS)
    first.stall(first.daemon, 3_000 * MS)
    reach(world, lambda: first not in world.leaders() != [], 2_000 * MS)
    other = GroupId("other")
    world.ask(leader(world).id, 901, AddGroup(group=other))
    exists, nothing = AddGroup(group=GROUP), MoveGroup(group=GROUP, node=NodeId(1))
    asked = {902: (exists, -1), 903: (nothing, -1), 904: (nothing, 1)}
    for number, (command, since) in asked.items():
        world.ask(first.id, number, command, since)
    reach(world, lambda: 904 in world.answers, 4_000 * MS)
    assert world.answers[901].refusal is None
    for number in asked:
        refusal = world.answers[number].refusal
        assert refusal is not None
        assert (refusal.code, refusal.retryable) == ("not-ready", True)


def test_a_refusal_waits_for_what_it_rests_on() -> None:
    """The change by which it is refused may still be lost: then nobody may have been told of it."""
    world = started("majority", 3)
    first = leader(world)
    cut(world, {first.id})
    for number in (901, 902):
        world.ask(first.id, number, AddGroup(group=GroupId("other")))
    world.run_until(world.now + 100 * MS)
    assert not {901, 902} & set(world.answers)
    world.run_until(world.now + 20_000 * MS)
    for number in (901, 902):
        refusal = world.answers[number].refusal
        assert refusal is not None
        assert refusal.code == "outcome-unknown"
