"""Histories: who gives way to whom, what the fold makes of a force, how storages are replaced."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.policy_world import World
from tests.sim_calm import calm, leader

from leitwolf.core.histories import Verdict, judge
from leitwolf.core.lease.profile import PROFILES, awaited, watchdog_awaited
from leitwolf.core.policy import judge as judge_command
from leitwolf.core.policy.commands_force import foretell
from leitwolf.core.rules import ALL_RULES
from leitwolf.daemon.histories import Histories
from leitwolf.model import events
from leitwolf.model.commands import ForceQuorum, Refusal, ReplaceStorage, SetQuorum
from leitwolf.model.errors import InvariantError
from leitwolf.model.history import HistoryStanding
from leitwolf.model.ids import NodeId
from leitwolf.model.log import ForcedRecord, PromisedRecord
from leitwolf.store import QuorumLog, StoreIdentity, dump
from leitwolf.store.head import Contradiction, Head
from leitwolf.store.record import fields_of
from leitwolf.system.watchdog import timeout_s
from leitwolf.wire.ballot import Ballot
from leitwolf.wire.guard import HistoryHeard
from leitwolf.wire.lineage import continues

LINEAGES = st.lists(st.integers(1, 3), max_size=3).map(tuple)
STANDINGS = st.builds(
    lambda lineage, established: HistoryStanding(lineage=lineage, established=established),
    LINEAGES,
    st.booleans(),
)
FITTING = {
    Verdict.BEHIND: Verdict.SUPERSEDED,
    Verdict.SUPERSEDED: Verdict.BEHIND,
}


@given(STANDINGS, STANDINGS)
def test_both_sides_come_to_verdicts_that_fit(one: HistoryStanding, other: HistoryStanding) -> None:
    """Never do both give way, and who is told to give way does."""
    mine, theirs = judge(1, one, 2, other), judge(2, other, 1, one)
    assert theirs == FITTING.get(mine, mine)
    if mine is Verdict.BEHIND:
        assert continues(other.lineage, one.lineage)
        assert other.established


@pytest.mark.parametrize(
    ("own", "other", "verdict"),
    [
        (HistoryStanding(), HistoryStanding(lineage=(5,)), Verdict.BEHIND),
        (HistoryStanding(lineage=(5,)), HistoryStanding(lineage=(6,)), Verdict.APART),
        (HistoryStanding(lineage=(5,)), HistoryStanding(lineage=(6, 7)), Verdict.APART),
        (
            HistoryStanding(lineage=(5,)),
            HistoryStanding(lineage=(6,), established=False),
            Verdict.APART,
        ),
        (
            HistoryStanding(lineage=(5,), established=False),
            HistoryStanding(lineage=(6,), established=False),
            Verdict.UNFINISHED,
        ),
        (
            HistoryStanding(),
            HistoryStanding(lineage=(5,), established=False, named=(1, 2)),
            Verdict.ORDERED,
        ),
        (
            HistoryStanding(),
            HistoryStanding(lineage=(5,), established=False, named=(2, 3)),
            Verdict.UNFINISHED,
        ),
    ],
)
def test_verdicts(own: HistoryStanding, other: HistoryStanding, verdict: Verdict) -> None:
    """A half that was forced twice is no successor of the other; a stuck force stops nobody."""
    assert judge(1, own, 2, other) is verdict


def test_the_silence_outlasts_every_lease_and_watchdog() -> None:
    """As the device is set by the guard."""
    for profile in PROFILES.values():
        assert watchdog_awaited(profile.run) >= awaited(profile.run)
        assert watchdog_awaited(profile.run) >= timeout_s(profile.run) * 1_000_000_000


# --- state and policy ----------------------------------------------------------------------------


def forced(*lineage: int) -> events.QuorumForced:
    return events.QuorumForced(lineage=lineage, nodes=(NodeId(1),), loss="what came later")


def test_addresses_are_probed_again_after_a_force() -> None:
    """What was online before is not proven any more, and disks and witnesses are set aside."""
    world = World(3)
    world.online("web")
    world.apply(forced(5))
    assert world.state.lineage == (5,)
    assert world.state.forced == world.state.index
    assert not any(resource.proven for resource in world.state.resources.values())
    assert world.state.wish.witness is None


def test_a_disk_that_a_force_left_is_never_taken_again() -> None:
    """Another half may have it, too; formatted anew it is another one."""
    world = World(3)
    used = SetQuorum(witness="disk", storage="00000001", location="/dev/quorum", alone=True)
    world.do(used)
    world.apply(forced(5))
    assert [one.id.storage for one in world.state.given_up] == ["00000001"]
    world.apply(forced(5, 6))
    assert [one.id.storage for one in world.state.given_up] == ["00000001"]
    refused = judge_command(world.state, used, world.seen())
    assert isinstance(refused, Refusal)
    assert refused.code == "witness-used"
    anew = replace(used, storage="00000002")
    assert not isinstance(judge_command(world.state, anew, world.seen()), Refusal)


def test_a_history_continues_its_own_log() -> None:
    """An entry of a history that parted cannot be folded."""
    world = World(3)
    world.apply(forced(5))
    with pytest.raises(InvariantError, match="does not continue"):
        world.apply(forced(6, 7))


def test_foretold_groups_start_where_they_would() -> None:
    """Only on nodes that go on."""
    world = World(3)
    world.online("web")
    placed = foretell(world.state, frozenset({NodeId(3)}))
    assert placed == {"web": 3}


def test_a_leader_refuses_to_be_forced() -> None:
    """Whoever judges commands leads."""
    world = World(3)
    refused = judge_command(world.state, ForceQuorum(), world.seen())
    assert isinstance(refused, Refusal)
    assert refused.code == "quorum-exists"


def test_only_its_former_storage_is_replaced() -> None:
    """A node says which one it set aside; while it holds a lease of it, it waits."""
    world = World(3)
    seen = world.seen()
    wrong = ReplaceStorage(node=NodeId(2), former="disk9", storage="new")
    refused = judge_command(world.state, wrong, seen)
    assert isinstance(refused, Refusal)
    assert refused.code == "storage-unknown"
    right = ReplaceStorage(node=NodeId(2), former="disk2", storage="new")
    leased = judge_command(world.state, right, seen)
    assert isinstance(leased, Refusal)
    assert (leased.code, leased.retryable) == ("still-leased", True)


# --- store ---------------------------------------------------------------------------------------


def test_an_order_that_was_obeyed_is_read_back(tmp_path: Path) -> None:
    """Also from the header of a later segment; and a dump shows it."""
    identity = StoreIdentity(cluster="c", node=1, storage="s")
    log = QuorumLog.create(tmp_path / "log", identity)
    log.write([ForcedRecord(ballot=Ballot(2, 0, 0), lineage=(5, 6))])
    log.sync()
    log.close()
    again = QuorumLog.open(tmp_path / "log", identity)
    assert (again.loaded.lineage, again.loaded.promised) == ((5, 6), Ballot(2, 0, 0))
    again.write([PromisedRecord(ballot=Ballot(2, 1, 1))])
    again.sync()
    again.close()
    [line] = [line for line in dump(tmp_path / "log") if line.get("kind") == "forced"]
    assert line["lineage"] == [5, 6]


def test_a_lineage_that_does_not_fit_its_ballot_is_refused() -> None:
    """Epoch and number of forces are the same; promises do not sink."""
    head = Head()
    for record in (
        ForcedRecord(ballot=Ballot(1, 0, 0), lineage=(5, 6)),
        ForcedRecord(ballot=Ballot(0, 0, 0), lineage=(5,)),
    ):
        with pytest.raises(Contradiction):
            head.take(*fields_of(record))
    head.take(*fields_of(ForcedRecord(ballot=Ballot(1, 0, 0), lineage=(5,))))
    assert head.lineage == head.copy().lineage == (5,)


def test_who_was_let_in_since_is_no_other_half() -> None:
    """It gave up its half and is connected: what was heard of it before is told no longer."""
    core = leader(calm(1, ALL_RULES)).daemon.core
    assert core is not None
    (friend, *_), far = sorted(core.connected), NodeId(max(core.state.nodes) + 1)
    histories = Histories(
        core,
        shown=lambda: HistoryStanding(lineage=(5,)),
        feed=lambda _: None,
        tell=lambda _: asyncio.sleep(0),
        record=lambda _: None,
        give_way=lambda _standing, _why: None,
        examine_again=lambda: None,
        joined=lambda: None,
    )
    for node in (friend, far):
        histories.heard(HistoryHeard(node=node, lineage=(6,), closed=False))
    told = [one for one in histories.notices() if one.code == Verdict.APART]
    assert len(told) == 1
    assert f"node {far}" in told[0].text
    assert core.state.nodes[friend].name not in told[0].text
    core.connected.discard(friend)
    [told_again] = [one for one in histories.notices() if one.code == Verdict.APART]
    assert core.state.nodes[friend].name in told_again.text
