"""What a guard does, case by case; the rules themselves are in test_lease_rules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.lease_bench import BOOT, DEFAULT, MS, Bench

from leitwolf.core.lease import (
    Armed,
    ArmGate,
    Commanded,
    Disarm,
    Heard,
    LeaseError,
    LeaseMachine,
    Reboot,
    SendPeer,
    StopAll,
    Stopped,
    Tell,
    Tick,
    WritePage,
    awaited,
    held,
)
from leitwolf.core.lease.roster import quorum_end
from leitwolf.wire.ballot import Ballot, Now, successor
from leitwolf.wire.guard import (
    Attest,
    DaemonHello,
    Exclude,
    Fence,
    Fenced,
    FenceRefused,
    Follow,
    Freed,
    GuardHello,
    LeaseClosed,
    LeaseOpened,
    NodeAway,
    NodeBack,
    Office,
    OfficeLost,
    OpenLease,
    Recorded,
    Release,
    Released,
    RosterReport,
    StopEverything,
    TakeOffice,
    Votes,
)
from leitwolf.wire.heartbeat import Ack, Heartbeat, Outbid, Probe, ProbeReply
from leitwolf.wire.page import LeasePage

LOW = Ballot(1, 0, 0)


def page_of(bench: Bench, number: int) -> LeasePage:
    page = bench[number].page
    assert page is not None
    return page


def heartbeat(ballot: Ballot, **fields: Any) -> Heartbeat:
    values: dict[str, Any] = {
        "sent": 1,
        "incarnation": 5,
        "promise": DEFAULT.promise,
        "released": False,
        "grant": 0,
        "opened": 0,
        "run": 0,
        "echo": 0,
        "echo_incarnation": 0,
    }
    return Heartbeat(ballot=ballot, **{**values, **fields})


def step(bench: Bench, number: int, event: Any) -> list[Any]:
    """Feed one event to a machine beside the world, and return the bare effects."""
    machine = bench[number].machine
    assert machine is not None
    return machine.step(bench[number].now(bench.t), event)


# --- acceptor ------------------------------------------------------------------------------------


def test_promise_runs_for_p_stretched_and_names_its_holder() -> None:
    """A fence of another owner is refused with the holder and the exact remaining time."""
    bench = Bench()
    ballot = bench.cluster()
    (refused,) = bench.fence((3,), Ballot(1, 9, 2))
    page = page_of(bench, 3)
    assert refused == FenceRefused(
        Ballot(1, 9, 2), ballot, ballot, page.promise_end - bench[3].raw(bench.t)
    )
    assert page.promise_end == page.heard_at + awaited(DEFAULT.promise)
    bench.isolate(1)
    bench.at(bench[3].when(page.promise_end) - 1, lambda: None)
    bench.run((page.promise_end - bench[3].raw(bench.t)) / MS)
    (fenced,) = bench.fence((3,), Ballot(1, 9, 2))
    assert fenced == Fenced(Ballot(1, 9, 2), ballot, freed=False, no_memory=False)
    assert page_of(bench, 3).floor == Ballot(1, 9, 2)


def test_same_owner_may_prepare_a_higher_round() -> None:
    """L13: a promise binds to the owner, not to its ballot."""
    bench = Bench()
    bench.cluster()
    (answer,) = bench.fence((3,), Ballot(1, 9, 1))
    assert isinstance(answer, Fenced)


def test_fence_below_the_floor_is_refused_without_a_waiting_time() -> None:
    """Waiting does not help who is outbid: remaining is 0 and the floor is named."""
    bench = Bench()
    bench.order(bench[1], Follow(Ballot(1, 7, 3)))
    (answer,) = bench.fence((1,), Ballot(1, 6, 2))
    assert answer == FenceRefused(Ballot(1, 6, 2), Ballot(0, 0, 0), Ballot(1, 7, 3), 0)
    bench.order(bench[1], Follow(LOW))
    assert page_of(bench, 1).floor == Ballot(1, 7, 3)


def test_guard_without_memory_is_silent_until_its_daemon_spoke() -> None:
    """L3: it answers no heartbeat and fences nothing before it knows what was promised."""
    bench = Bench(boot=False)
    machine = LeaseMachine(boot_id=BOOT, incarnation=1, page=None, now=Now(10 * MS, 10 * MS))
    effects = machine.start(Now(10 * MS, 10 * MS))
    assert [type(effect) for effect in effects] == [WritePage, Disarm, StopAll]
    machine.step(Now(11 * MS, 11 * MS), Commanded(bench.configure(bench[1])))
    beat = Heard(2, 0, heartbeat(Ballot(1, 3, 2)))
    answers = machine.step(Now(12 * MS, 12 * MS), beat)
    assert not [e for e in answers if isinstance(e, SendPeer) and isinstance(e.message, Ack)]
    (told,) = machine.step(Now(13 * MS, 13 * MS), Commanded(Fence(Ballot(1, 3, 2))))
    assert isinstance(told, Tell)
    assert isinstance(told.report, FenceRefused)
    assert told.report.remaining > 0
    machine.step(Now(14 * MS, 14 * MS), Commanded(DaemonHello(Ballot(1, 3, 2))))
    page, ack = machine.step(Now(15 * MS, 15 * MS), beat)
    assert isinstance(page, WritePage)
    assert isinstance(ack, SendPeer)
    assert isinstance(ack.message, Ack)
    assert ack.message.no_memory
    assert page.page.fence_from == 10 * MS + awaited(DEFAULT.promise)
    assert page.page.forgot_until == page.page.fence_from + awaited(DEFAULT.run)


def test_page_of_a_guard_that_never_met_its_daemon_is_no_memory_either() -> None:
    """A second restart before the daemon spoke must not pass for a whole memory."""
    machine = LeaseMachine(boot_id=BOOT, incarnation=1, page=None, now=Now(1, 1))
    machine.start(Now(1, 1))
    bench = Bench(boot=False)
    second = LeaseMachine(boot_id=BOOT, incarnation=2, page=machine.page, now=Now(5 * MS, 5 * MS))
    second.start(Now(5 * MS, 5 * MS))
    second.step(Now(6 * MS, 6 * MS), Commanded(bench.configure(bench[1])))
    second.step(Now(6 * MS, 6 * MS), Commanded(DaemonHello(LOW)))
    assert second.page.fence_from == 5 * MS + awaited(DEFAULT.promise)


def test_page_of_another_boot_is_no_page() -> None:
    """Instants of another boot mean nothing: such a guard starts without memory."""
    page = LeasePage(boot_id=bytes(16), lease=7, gate=True, lease_end=1 << 50, floor=LOW)
    machine = LeaseMachine(boot_id=BOOT, incarnation=1, page=page, now=Now(1, 1))
    assert [type(e) for e in machine.start(Now(1, 1))] == [WritePage, Disarm, StopAll]
    assert machine.page.lease == 0


def test_heartbeat_below_the_floor_is_outbid() -> None:
    """Its sender learns the floor, and nothing is renewed."""
    bench = Bench()
    ballot = bench.cluster()
    before = page_of(bench, 3)
    effects = step(bench, 3, Heard(2, 1, heartbeat(Ballot(1, 0, 2))))
    assert effects == [SendPeer(2, Outbid(Ballot(1, 0, 2), ballot), 1)]
    assert page_of(bench, 3) == before


def test_heartbeat_in_the_name_of_another_is_ignored() -> None:
    """A ballot has one owner; strangers and impossible durations are ignored as well."""
    bench = Bench()
    bench.cluster()
    high = Ballot(1, 90, 2)
    for event in (
        Heard(3, 0, heartbeat(high)),
        Heard(9, 0, heartbeat(replace_node(high, 9))),
        Heard(2, 0, heartbeat(high, promise=-1)),
        Heard(2, 0, heartbeat(high, promise=1 << 61)),
    ):
        assert not [e for e in step(bench, 1, event) if isinstance(e, SendPeer)]
    assert page_of(bench, 1).floor < high


def replace_node(ballot: Ballot, node: int) -> Ballot:
    return ballot._replace(node=node)


# --- office --------------------------------------------------------------------------------------


def test_quorum_end_is_the_latest_instant_of_a_quorum() -> None:
    """2 * sum > total; an even split is no quorum; weights count; unknown nodes count as never."""
    ends = {1: 50, 2: 40, 3: 30}
    assert quorum_end(Votes((1, 2, 3), (1, 1, 1)), ends) == 40
    assert quorum_end(Votes((1, 2, 3, 4), (1, 1, 1, 1)), ends) == 30
    assert quorum_end(Votes((1, 2), (1, 1)), {1: 50}) == 0
    assert quorum_end(Votes((1, 2, 3), (0, 0, 1)), ends) == 30
    assert quorum_end(Votes((1, 2, 3), (5, 1, 1)), ends) == 50
    assert quorum_end(Votes((), ()), ends) == 0
    assert quorum_end(Votes((1,), (0,)), ends) == 0


def test_leader_lease_counts_from_the_start_of_the_confirmed_heartbeat() -> None:
    """Its end is ``sent`` of a heartbeat that a quorum confirmed, plus P shortened."""
    bench = Bench()
    bench.cluster()
    beats = [
        effect.message.sent
        for effect in bench[1].done(SendPeer)
        if isinstance(effect.message, Heartbeat) and effect.message.promise
    ]
    bench.run(1)
    assert page_of(bench, 1).leader_end in {sent + held(DEFAULT.promise) for sent in beats[-4:]}


def test_office_needs_floor_owner_and_configuration() -> None:
    """Refusals name their reason."""
    bench = Bench()
    ballot = Ballot(1, 4, 1)
    bench.order(bench[1], TakeOffice(ballot, ()))
    assert bench[1].reports[-1] == OfficeLost(ballot, LOW, "floor")
    bench.fence((1,), ballot)
    bench.order(bench[1], TakeOffice(Ballot(1, 4, 2), ()))
    assert bench[1].reports[-1].reason == "not-owner"
    bench.order(bench[1], TakeOffice(ballot, (3,)))
    assert Office(ballot, (3,)) in bench[1].reports
    bench.order(bench[1], TakeOffice(ballot, ()))
    assert bench[1].reports[-1] == Office(ballot, (3,))


def test_office_never_confirmed_ends_after_p_and_cannot_be_retaken() -> None:
    """No quorum for P: OfficeLost; the same ballot is refused afterwards, its roster is gone."""
    bench = Bench()
    bench.isolate(1)
    ballot = bench.elect(1, (1, 2))
    bench.run(DEFAULT.promise_ms - 1)
    assert not bench[1].told(OfficeLost)
    bench.run(2)
    assert bench[1].told(OfficeLost)[0].reason == "no-quorum"
    bench.order(bench[1], TakeOffice(ballot, ()))
    assert bench[1].reports[-1] == OfficeLost(ballot, successor(ballot), "floor")


def test_leader_without_quorum_steps_down_when_its_lease_ends() -> None:
    """The leader lease ran out: OfficeLost at that instant, and its own run-lease is over."""
    bench = Bench()
    bench.cluster()
    end = page_of(bench, 1).leader_end
    bench.isolate(1)
    bench.run((end - bench[1].raw(bench.t)) / MS - 1)
    assert bench.leading(1)
    bench.run(2)
    assert bench[1].told(OfficeLost)[0].reason == "no-quorum"
    assert not bench.holds_lease(1)


def test_outbid_ends_office_and_names_the_higher_floor() -> None:
    """A node that promised a higher ballot says so, and the office ends."""
    bench = Bench()
    bench.cluster()
    bench.order(bench[2], Follow(Ballot(1, 50, 3)))
    bench.run(60)
    (lost,) = bench[1].told(OfficeLost)
    assert (lost.reason, lost.floor) == ("refused", Ballot(1, 50, 3))
    assert page_of(bench, 1).office == Ballot(0, 0, 0)
    assert page_of(bench, 1).leader_end == 0


def test_fence_of_a_higher_own_round_ends_office_before_it_is_answered() -> None:
    """The page shows no office when the daemon hears Fenced."""
    bench = Bench()
    bench.cluster()
    page, lost, fenced = step(bench, 1, Commanded(Fence(Ballot(1, 9, 1))))
    assert page.page.office == Ballot(0, 0, 0)
    assert page.page.floor == Ballot(1, 9, 1)
    assert isinstance(lost.report, OfficeLost)
    assert isinstance(fenced.report, Fenced)


def test_restarted_guard_is_not_in_office_but_keeps_its_lease() -> None:
    """The page carries run-lease and promise over; the roster is gone, so is the office."""
    bench = Bench()
    ballot = bench.cluster()
    before = page_of(bench, 1)
    bench.crash(bench[1], keep_page=True)
    bench.boot(bench[1])
    page = page_of(bench, 1)
    assert page.office == Ballot(0, 0, 0)
    assert page.floor == successor(ballot)
    assert (page.lease, page.gate, page.lease_end) == (11, True, before.lease_end)
    assert bench[1].told(GuardHello)[-1].remembers
    assert bench[1].told(LeaseOpened)[-1] == LeaseOpened(11, 5)
    assert page.promise_end == before.promise_end


def test_restarted_guard_of_a_follower_is_prolonged_further() -> None:
    """Its new incarnation is echoed, so the lease goes on without a stop."""
    bench = Bench()
    bench.cluster()
    bench.crash(bench[2], keep_page=True)
    bench.run(10)
    bench.boot(bench[2])
    bench.run(3 * DEFAULT.run_ms)
    assert bench.holds_lease(2)
    assert not bench[2].told(LeaseClosed)
    assert bench[1].told(NodeBack)[-1].incarnation == page_of(bench, 2).incarnation
    assert 2 not in {away.node for away in bench[1].told(NodeAway) if away.lease}


def test_release_frees_others_and_the_next_leader_continues_every_lease() -> None:
    """L8, L5: after a release another is elected at once, and nothing stops anywhere."""
    bench = Bench()
    ballot = bench.cluster()
    bench.order(bench[1], Release(ballot))
    assert bench[1].told(Released) == [Released(ballot)]
    assert not bench.leading(1)
    assert bench.holds_lease(1)
    bench.run(2)
    second = bench.elect(2, (2, 3))
    bench.run(1_000)
    assert page_of(bench, 2).office == second
    assert [bench.holds_lease(n) for n in bench.nodes] == [True] * 3
    assert not [node for node in bench.nodes.values() if node.told(LeaseClosed)]
    leases = {back.node: back.lease for back in bench[2].told(NodeBack)}
    assert leases == {1: 11, 2: 12, 3: 13}


def test_the_guard_in_office_reports_how_all_nodes_stand_once_a_second() -> None:
    """For people: promises and leases of all; a node that is away holds none."""

    def told(reports: list[Any]) -> list[RosterReport]:
        return [report for report in reports if isinstance(report, RosterReport)]

    bench = Bench()
    ballot = bench.cluster()
    reports: list[Any] = []
    bench[1].on_report = reports.append
    bench.run(3_000)
    assert len(told(reports)) == 3
    newest = told(reports)[-1]
    assert newest.ballot == ballot
    assert {standing.node: standing.lease for standing in newest.standings} == {1: 11, 2: 12, 3: 13}
    for standing in newest.standings:
        assert newest.at < standing.promise_end <= newest.at + DEFAULT.promise
        assert newest.at < standing.horizon
    bench.cut |= {(3, 1), (1, 3)}
    bench.run(2_000)
    leases = {standing.node: standing.lease for standing in told(reports)[-1].standings}
    assert leases == {1: 11, 2: 12, 3: 0}


def test_release_is_repeated_until_promises_would_have_ended() -> None:
    """A node that missed the first release hears a later one; after P it is told no more."""
    bench = Bench()
    ballot = bench.cluster()
    bench.isolate(1)
    bench.order(bench[1], Release(ballot))
    bench.run(100)
    bench.heal()
    bench.run(60)
    assert page_of(bench, 2).freed
    assert page_of(bench, 2).floor == successor(ballot)
    bench.run(DEFAULT.promise_ms)
    sent = len(bench[1].done(SendPeer))
    bench.run(500)
    late = bench[1].done(SendPeer)[sent:]
    assert not [effect for effect in late if isinstance(effect.message, Heartbeat)]


def test_a_release_is_told_to_every_daemon_once_and_after_the_page_says_so() -> None:
    """The daemons need not look for it, and whoever hears of it finds it in the page."""
    bench = Bench()
    ballot = bench.cluster()
    for node in bench.nodes.values():
        node.effects.clear()
    bench.order(bench[1], Release(ballot))
    bench.run(3 * DEFAULT.heartbeat_ms)
    for node in bench.nodes.values():
        assert node.told(Freed) == [Freed(ballot)]
        before = node.effects[: node.effects.index(Tell(Freed(ballot)))]
        assert [effect.page.freed for effect in before if isinstance(effect, WritePage)][-1]


def test_release_of_a_ballot_that_never_took_office_bars_it() -> None:
    """Released also answers for a ballot not held, which then can never be."""
    bench = Bench()
    ballot = Ballot(1, 3, 1)
    bench.fence((1,), ballot)
    bench.order(bench[1], Release(ballot))
    assert bench[1].reports[-1] == Released(ballot)
    bench.order(bench[1], TakeOffice(ballot, ()))
    assert isinstance(bench[1].reports[-1], OfficeLost)


@pytest.mark.parametrize(("how", "reason"), [("dies", "daemon-gone"), ("hangs", "daemon-stalled")])
def test_leader_without_its_daemon_releases(how: str, reason: str) -> None:
    """Only the leadership is given up: the run-lease goes on and others are freed."""
    bench = Bench()
    bench.cluster()
    if how == "dies":
        bench.daemon_dies(bench[1])
    else:
        bench[1].daemon_hangs_since = bench[1].raw(bench.t)
        bench.run(2 * DEFAULT.promise_ms + 1)
    assert bench[1].told(OfficeLost)[-1].reason == reason
    bench.run(2)
    assert page_of(bench, 2).freed
    assert bench.holds_lease(1)


def test_own_lease_follows_the_leader_lease() -> None:
    """L5: the leader's run-lease ends with its leader lease, not R later."""
    bench = Bench()
    bench.cluster()
    assert page_of(bench, 1).lease_end == page_of(bench, 1).leader_end
    bench.run(500)
    assert page_of(bench, 1).lease_end == page_of(bench, 1).leader_end


def test_single_node_leads_by_itself() -> None:
    """A cluster of one is its own quorum: lease and OPEN come at once."""
    bench = Bench(1)
    ballot = bench.elect(1, (1,))
    bench.open(ballot, 1, 7)
    assert bench.leading(1)
    assert bench.holds_lease(1)
    bench.run(5_000)
    assert bench.leading(1)
    assert bench.holds_lease(1)


@pytest.mark.parametrize("phase_ms", range(0, 50, 7))
def test_death_of_a_leader_stops_nothing_on_others(phase_ms: int) -> None:
    """I10: whenever in the heartbeat the leader dies, others are granted before they must stop."""
    bench = Bench()
    bench.cluster()
    bench.run(phase_ms)
    bench.crash(bench[1], keep_page=False)
    while not all(isinstance(a, Fenced) for a in bench.fence((2, 3), Ballot(1, 9, 2))):
        bench.run(1)
    bench.run(40)
    bench.order(bench[2], TakeOffice(Ballot(1, 9, 2), (1,)))
    bench.run(500)
    assert bench.leading(2)
    assert not bench[2].told(LeaseClosed)
    assert not bench[3].told(LeaseClosed)


# --- roster --------------------------------------------------------------------------------------


def test_silent_node_is_away_exactly_at_its_horizon() -> None:
    """R, stretched, after the ack that was granted last came in."""
    bench = Bench()
    ballot = bench.cluster()
    bench.cut |= {(2, 1)}
    bench.run(DEFAULT.run_ms - 60)
    assert not [away for away in bench[1].told(NodeAway) if away.lease]
    last_sent = page_of(bench, 2).lease_end - held(DEFAULT.run)
    bench.run(70)
    assert bench[1].told(NodeAway)[-1] == NodeAway(ballot, 2, 12, attested=False)
    received = bench[2].when(last_sent) + bench.latency
    assert bench[1].raw(received) + awaited(DEFAULT.run) <= bench[1].raw(bench.t)


def test_attested_stop_is_reported_at_once_and_the_node_comes_back() -> None:
    """StopEverything: closed, killed, attested; the daemon may open it again under a new id."""
    bench = Bench()
    ballot = bench.cluster()
    bench.order(bench[2], StopEverything("maintenance"))
    assert bench[2].told(LeaseClosed) == [LeaseClosed(12, "maintenance")]
    bench.run(60)
    assert bench[2].told(Attest) == [Attest(12)]
    back = NodeBack(ballot, 2, page_of(bench, 2).incarnation, 0)
    assert bench[1].reports[-2:] == [NodeAway(ballot, 2, 12, attested=True), back]
    bench.run(300)
    assert bench[1].reports[-1] == back
    bench.open(ballot, 2, 12)
    assert isinstance(bench[1].reports[-1], Recorded)
    bench.open(ballot, 2, 30)
    bench.run(60)
    assert page_of(bench, 2).lease == 30
    assert bench[1].reports[-1] == NodeBack(ballot, 2, page_of(bench, 2).incarnation, 30)


def test_own_stop_in_office_is_reported_like_that_of_any_node() -> None:
    """The leader stops its own resources and stays in office."""
    bench = Bench()
    ballot = bench.cluster()
    bench.order(bench[1], StopEverything("paused"))
    bench.run(20)
    assert bench[1].reports[-2] == NodeAway(ballot, 1, 11, attested=True)
    assert bench.leading(1)
    bench.open(ballot, 1, 40)
    assert bench.holds_lease(1)


def test_barred_node_is_not_admitted_by_its_old_lease() -> None:
    """Its lease runs out, it is away, and it returns by OPEN."""
    bench = Bench()
    bench.order(bench[1], Release(bench.cluster()))
    bench.run(2)
    ballot = bench.elect(2, (2, 3), barred=(3,))
    bench.run(100)
    assert 3 not in {back.node for back in bench[2].told(NodeBack)}
    bench.run(DEFAULT.run_ms)
    assert not bench.holds_lease(3)
    assert NodeAway(ballot, 3, 0, attested=False) in bench[2].reports
    bench.open(ballot, 3, 50)
    bench.run(60)
    assert bench.holds_lease(3)


def test_node_that_lost_its_page_is_not_granted_and_waited_for() -> None:
    """A new incarnation without memory: its old lease is counted until the horizon."""
    bench = Bench()
    ballot = bench.cluster()
    bench.crash(bench[2], keep_page=False)
    bench.boot(bench[2], ballot)
    bench.run(DEFAULT.run_ms - 120)
    assert not [away for away in bench[1].told(NodeAway) if away.lease == 12]
    assert page_of(bench, 2).lease == 0
    bench.run(190)
    assert bench[1].reports[-2] == NodeAway(ballot, 2, 12, attested=False)
    assert bench[1].reports[-1] == NodeBack(ballot, 2, page_of(bench, 2).incarnation, 0)


def test_late_ack_of_a_former_guard_changes_nothing() -> None:
    """Messages of a predecessor that were long under way do not bring its lease back."""
    bench = Bench()
    ballot = bench.cluster()
    old = page_of(bench, 2).incarnation
    bench.crash(bench[2], keep_page=True)
    bench.boot(bench[2])
    bench.run(60)
    beat = page_of(bench, 1).leader_end - held(DEFAULT.promise)
    told = len(bench[1].reports)
    late = Ack(
        ballot, beat, page_of(bench, 1).incarnation, DEFAULT.promise, 1 << 60, old, 0, 0, False, ()
    )
    step(bench, 1, Heard(2, 0, late))
    bench.run(100)
    assert bench[1].reports[told:] == []


def test_exclude_of_a_node_that_is_away_is_answered_again() -> None:
    """The daemon may have missed the first report."""
    bench = Bench()
    ballot = bench.cluster()
    bench.isolate(2)
    bench.run(500)
    bench.order(bench[1], Exclude(ballot, 2))
    assert bench[1].reports[-1] == NodeAway(ballot, 2, 12, attested=False)
    told = len(bench[1].reports)
    bench.order(bench[1], Exclude(Ballot(1, 0, 1), 3))
    bench.order(bench[1], OpenLease(ballot, 77, 99, 5))
    assert len(bench[1].reports) == told


# --- run-lease -----------------------------------------------------------------------------------


def test_stop_begins_k_before_the_end_in_order() -> None:
    """Gate closed in the page, kernel lease deleted, then the kill, by the end of the lease."""
    bench = Bench()
    bench.cluster()
    bench.isolate(2)
    end = page_of(bench, 2).lease_end
    bench.run((end - DEFAULT.kill - bench[2].raw(bench.t)) / MS - 0.5)
    done = len(bench[2].effects)
    bench.run(1)
    page, disarm, stop, closed = bench[2].effects[done:][:4]
    assert not page.page.gate
    assert page.page.lease == 12
    assert isinstance(disarm, Disarm)
    assert stop == StopAll(12, "lease-over", end)
    assert closed.report == LeaseClosed(12, "lease-over")
    bench.run(DEFAULT.kill_ms)
    assert (page_of(bench, 2).lease, page_of(bench, 2).lease_closed) == (0, 12)
    assert not bench[2].rebooted


def test_stop_that_is_not_confirmed_reboots_once() -> None:
    """What cannot be stopped by the end of the lease takes the node with it."""
    bench = Bench()
    bench.cluster()
    bench[2].stuck = True
    bench.isolate(2)
    bench.run(2_000)
    assert bench[2].done(Reboot) == [Reboot("stop-not-confirmed")]
    assert page_of(bench, 2).lease == 12


def test_thawed_guard_closes_before_it_answers() -> None:
    """A heartbeat that wakes it is answered only after gate, kernel lease and kill."""
    bench = Bench()
    bench.cluster()
    bench.freeze(bench[2])
    bench.run(2_000)
    done = len(bench[2].effects)
    bench.thaw(bench[2])
    kinds = [type(effect) for effect in bench[2].effects[done:]]
    assert kinds[:3] == [WritePage, Disarm, StopAll]
    bench.run(100)
    assert page_of(bench, 2).lease == 0
    assert not bench[2].rebooted


def test_guard_frozen_while_stopping_gets_one_more_k() -> None:
    """It was the guard that slept through the deadline, so the killer did as well: once only."""
    bench = Bench()
    bench.cluster()
    bench[2].stop_ms = 30
    bench.order(bench[2], StopEverything("test"))
    bench.freeze(bench[2])
    bench.run(2_000)
    bench.thaw(bench[2])
    assert bench[2].done(StopAll)[-1].reason == "thawed"
    bench.run(100)
    assert bench[2].told(Attest) == [Attest(12)]
    assert not bench[2].rebooted


def test_guard_restarted_while_stopping_goes_on_stopping() -> None:
    """A closed gate with a lease in the page: the stop was not confirmed yet."""
    bench = Bench()
    bench.cluster()
    bench[2].stop_ms = 1_000
    bench.order(bench[2], StopEverything("test"))
    bench.crash(bench[2], keep_page=True)
    bench[2].stop_ms = 5
    bench.boot(bench[2])
    assert bench[2].done(StopAll)[-1].reason == "guard-restarted"
    bench.run(10)
    assert bench[2].told(Attest) == [Attest(12)]


def test_new_guard_closes_a_lease_that_ended_meanwhile() -> None:
    """L9: closing comes before everything else."""
    bench = Bench()
    bench.cluster()
    bench.crash(bench[2], keep_page=True)
    bench.run(1_000)
    done = len(bench[2].effects)
    bench.boot(bench[2])
    assert [type(e) for e in bench[2].effects[done:][:3]] == [WritePage, Disarm, StopAll]


def test_open_waits_until_the_start_is_clean() -> None:
    """A guard without memory opens nothing before everything old is confirmed stopped."""
    bench = Bench()
    ballot = bench.elect(1, (1, 2, 3))
    bench.crash(bench[2], keep_page=False)
    bench[2].stop_ms = 200
    bench.boot(bench[2], ballot)
    bench.run(10)
    bench.open(ballot, 2, 20)
    bench.run(180)
    assert not bench[2].told(LeaseOpened)
    bench.run(100)
    assert bench[2].told(LeaseOpened) == [LeaseOpened(20, 5)]


def test_refused_arming_is_repaired_by_a_fresh_grant_only() -> None:
    """The gate ran out: no bare add for the old end, one for an end granted since."""
    bench = Bench()
    bench.cluster()
    page = page_of(bench, 2)
    raw = bench[2].raw(bench.t)
    effects = step(bench, 2, Armed(12, page.lease_end, raw - 5, raw, accepted=False))
    assert [type(effect) for effect in effects] == [Tell]
    done = len(bench[2].effects)
    bench.run(120)
    arms = [effect for effect in bench[2].effects[done:] if isinstance(effect, ArmGate)]
    assert arms[0].renewal is False
    assert arms[-1].renewal is True
    page = page_of(bench, 2)
    late = Armed(12, page.lease_end - 1, raw - 5, raw, accepted=False)
    effects = step(bench, 2, late)
    assert effects[-1] == ArmGate(12, page.lease_end, renewal=False)
    assert not step(bench, 2, Armed(99, page.lease_end, raw, raw, accepted=False))


def test_refused_armings_are_told_once_a_minute_with_their_number() -> None:
    """Each heartbeat arms, and rule loads of others delay it: the log would fill with lines."""
    bench = Bench()
    bench.cluster()

    def lines(*, accepted: bool) -> list[str]:
        page = page_of(bench, 2)
        raw = bench[2].raw(bench.t)
        armed = Armed(page.lease, page.lease_end, raw - 30_000_000, raw, accepted=accepted)
        found = [one.report for one in step(bench, 2, armed) if isinstance(one, Tell)]
        return [one.detail for one in found if isinstance(one, Recorded)]

    assert lines(accepted=False) == ["lease 12: arming refused after 30.0 ms"]
    for _ in range(3):
        assert lines(accepted=False) == []
        assert lines(accepted=True) == []
    bench.run(61_000)
    told = "lease 12: arming refused after 30.0 ms; 3 more since the last such line"
    assert lines(accepted=False) == [told]
    assert lines(accepted=False) == []


def test_foreign_stopped_confirms_nothing() -> None:
    """Stopped of another lease, or without a stop under way, changes nothing."""
    bench = Bench()
    bench.cluster()
    step(bench, 2, Stopped(12))
    assert page_of(bench, 2).lease == 12
    bench[2].stuck = True
    bench.order(bench[2], StopEverything("test"))
    bench.event(bench[2], Stopped(11))
    assert page_of(bench, 2).lease == 12


# --- links and the machine as a whole ------------------------------------------------------------


def test_probes_are_answered_and_links_reported() -> None:
    """Every link to every node is probed once a second; a silent one is down after 3 s."""
    bench = Bench()
    reports: list[Any] = []
    bench[1].on_report = reports.append
    bench.run(1_100)
    probes = {(e.node, e.link) for e in bench[1].done(SendPeer) if isinstance(e.message, Probe)}
    assert probes == {(2, 0), (2, 1), (3, 0), (3, 1)}
    assert [(s.node, s.link, s.up) for s in reports[-1].links] == [
        (2, 0, True), (2, 1, True), (3, 0, True), (3, 1, True)
    ]  # fmt: skip
    assert {state.round_trip for state in reports[-1].links} == {2 * bench.latency}
    bench.cut |= {(3, 1)}
    bench.run(2_000)
    assert all(state.up for state in reports[-1].links)
    bench.run(1_500)
    assert [state.up for state in reports[-1].links] == [True, True, False, False]


def test_reply_to_a_probe_of_another_life_is_no_round_trip() -> None:
    """Incarnation and plausibility are checked."""
    bench = Bench()
    reports: list[Any] = []
    bench[1].on_report = reports.append
    step(bench, 1, Heard(2, 0, ProbeReply(bench[1].raw(bench.t) - 10**11, 0)))
    bench.run(1_100)
    assert {state.round_trip for state in reports[-1].links} == {2 * bench.latency}


def test_clock_that_goes_back_ends_the_guard() -> None:
    """CLOCK_MONOTONIC_RAW never does; if it seems to, nothing here can be trusted."""
    bench = Bench()
    machine = bench[1].machine
    assert machine is not None
    with pytest.raises(LeaseError, match="went back"):
        machine.step(Now(0, 0), Tick(0))


def test_contradicting_configurations_end_the_guard() -> None:
    """Another node id, a zero duration, votes without weights: the daemon is mad."""
    bench = Bench()
    good = bench.configure(bench[1])
    for bad in (
        replace(good, node=2),
        replace(good, kill=0),
        replace(good, configurations=(Votes((1, 2), (1,)),)),
    ):
        with pytest.raises(LeaseError):
            bench.order(bench[1], bad)


def test_page_is_written_only_when_it_changed() -> None:
    """A tick without anything to do has no effects at all."""
    bench = Bench()
    bench.cluster()
    step(bench, 3, Tick(0))
    assert step(bench, 3, Tick(0)) == []


def test_member_added_in_office_is_waited_for_before_it_is_away() -> None:
    """A node that joins the configuration has R, like every other, before it counts as away."""
    bench = Bench(4)
    full = bench.configure(bench[1])
    three = replace(full, peers=full.peers[:2], configurations=(Votes((1, 2, 3), (1, 1, 1)),))
    bench.order(bench[1], three)
    ballot = bench.elect(1, (1, 2, 3))
    bench.isolate(4)
    bench.run(1_000)
    bench.order(bench[1], full)
    bench.run(DEFAULT.run_ms - 5)
    assert 4 not in {away.node for away in bench[1].told(NodeAway)}
    bench.run(20)
    assert bench[1].reports[-1] == NodeAway(ballot, 4, 0, attested=False)
    bench.order(bench[1], three)
    bench.run(100)
    assert bench.leading(1)
