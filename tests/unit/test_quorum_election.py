"""Elections in a small orderly world: who leads, when, and who must not."""

from __future__ import annotations

import pytest
from tests.quorum_world import MS, PROMISE, World, acceptors, configuration, identity

from leitwolf.core.effects import AskGuard, Send
from leitwolf.core.messages import Append, Prepare, PreProbeReply, TransferOffice
from leitwolf.core.quorum import Behind, Role, SteppedDown, TransferFailed
from leitwolf.model.errors import NotLeader
from leitwolf.model.quorum import Acceptor, QuorumConfig
from leitwolf.model.witness import WITNESS_ID_MIN
from leitwolf.wire.ballot import Ballot, Key
from leitwolf.wire.guard import Fence, Office, OfficeLost, Release, Released


def three() -> World:
    return World(configuration(1, 2, 3), (1, 2, 3))


def wait_for_leader(world: World, limit: int = 10 * PROMISE) -> int:
    """Let time pass until somebody leads; return how long it took."""
    begun = world.now
    while not world.leader():
        assert world.now - begun < limit, "nobody is elected"
        world.pass_time(MS)
    return world.now - begun


def led(world: World) -> World:
    wait_for_leader(world)
    return world


def test_the_first_election_follows_the_rank() -> None:
    """After a cold start the lowest node leads, one promise later; everybody knows it."""
    world = three()
    assert wait_for_leader(world) <= PROMISE + 10 * MS
    assert [core.leader for core in world.cores.values()] == [1, 1, 1]
    assert world.cores[1].commit == 1


def test_a_node_alone_leads_itself() -> None:
    """A cluster of one elects itself and commits."""
    world = led(World(configuration(1), (1,)))
    world.propose(1, b"x")
    world.quiet()
    assert world.cores[1].commit == 2


def test_a_dead_leader_is_replaced_by_the_next_in_rank() -> None:
    """The node behind the last leader takes over a promise after the last heartbeat."""
    world = led(three())
    world.pass_time(3 * PROMISE)
    world.crash(1)
    world.lose_guard(1)
    assert wait_for_leader(world) <= PROMISE + 10 * MS
    assert world.leader() == 2


def test_a_living_leader_is_left_alone() -> None:
    """While heartbeats come nobody campaigns, however long it goes."""
    world = led(three())
    ballot = world.cores[1].ballot
    world.pass_time(20 * PROMISE)
    assert world.leaders == {ballot: 1}


def test_a_cut_off_node_does_not_disturb() -> None:
    """A node that was alone for long comes back as a follower: pre-probes raised no ballot."""
    world = led(three())
    ballot = world.cores[1].ballot
    world.part(3)
    world.pass_time(10 * PROMISE)
    assert world.cores[3].promised == ballot
    world.heal()
    world.pass_time(2 * PROMISE)
    assert world.leader() == 1
    assert world.cores[1].ballot == ballot
    assert world.cores[3].leader == 1


def test_the_minority_side_steps_down() -> None:
    """A leader cut off from the rest loses its office, and the others elect another one."""
    world = led(three())
    world.part(1)
    world.pass_time(3 * PROMISE)
    assert world.cores[1].role != Role.LEADER
    assert world.leader() in (2, 3)
    world.heal()
    world.pass_time(3 * PROMISE)
    assert len({core.leader for core in world.cores.values()}) == 1


def test_no_quorum_no_leader() -> None:
    """One of three, or two of four, elect nobody."""
    world = three()
    world.part(1)
    world.part(2)
    world.pass_time(10 * PROMISE)
    assert not world.leaders
    four = World(configuration(1, 2, 3, 4), (1, 2, 3, 4))
    four.part(1, 2)
    four.pass_time(10 * PROMISE)
    assert not four.leaders


def test_no_guard_no_election() -> None:
    """Nodes whose guards are away promise nothing; with the guards back one is elected."""
    world = three()
    world.lose_guard(2)
    world.lose_guard(3)
    world.pass_time(5 * PROMISE)
    assert not world.leaders
    world.connect_guard(2)
    wait_for_leader(world)


def test_a_node_that_is_behind_does_not_win() -> None:
    """R2: who lacks entries names those who have them, and somebody else is elected."""
    world = led(three())
    world.part(2)
    world.propose(1, b"unknown to 2")
    world.quiet()
    world.heal()
    world.network.clear()
    world.crash(1)
    world.lose_guard(1)
    wait_for_leader(world)
    assert world.leader() == 3
    behind = [signal for signal in world.signals[2] if isinstance(signal, Behind)]
    assert behind
    assert behind[0].node == 3


@pytest.mark.parametrize(("writer", "named"), [(3, 3), (2, WITNESS_ID_MIN)])
def test_a_witness_names_who_has_what_it_knows_of(writer: int, named: int) -> None:
    """It holds no entries: their writer does; what this node wrote itself it lost, so not it."""
    world = led(three())
    world.part(2)
    core, limit = world.cores[2], world.now + 10 * PROMISE
    while (campaign := core._candidate.campaign) is None:
        assert world.now < limit, "it does not try to lead"
        world.pass_time(MS)
    key = Key(Ballot(0, 9, writer), 40)
    promised = core.promised
    answer = PreProbeReply(round=campaign.serial, willing=False, promised=promised, key=key)
    core.receive(world.now, WITNESS_ID_MIN, answer)
    [behind] = [signal for signal in core.take_signals() if isinstance(signal, Behind)]
    assert (behind.node, behind.key) == (named, key)


def test_a_minority_with_a_higher_promise_is_taken_along() -> None:
    """L13: a leader with a valid lease goes above a ballot that a minority promised, and stays."""
    world = led(three())
    before = world.cores[1].ballot
    stray = Ballot(0, before.round + 4, 3)
    guard = world.guards[3]
    guard.page = guard.page._replace(floor=stray)
    world.pass_time(2 * PROMISE)
    world.propose(1, b"x")
    world.quiet()
    assert world.leader() == 1
    assert world.cores[1].ballot == Ballot(0, stray.round + 1, 1)
    stepped = [signal for signal in world.signals[1] if isinstance(signal, SteppedDown)]
    assert [signal.reason for signal in stepped] == ["raised"]
    world.propose(1, b"y")
    world.quiet()
    assert world.cores[3].commit == world.cores[1].commit


def test_without_a_lease_a_refused_leader_steps_down() -> None:
    """L13: a leader without a valid lease gives way to a higher promise."""
    world = led(three())
    for node in (1, 3):
        page = world.guards[node].page
        floor = Ballot(0, 9, 3) if node == 3 else page.floor
        world.guards[node].page = page._replace(leader_end=0, floor=floor)
    world.propose(1, b"x")
    world.quiet()
    assert world.cores[1].role == Role.FOLLOWER


def test_losing_the_office_ends_the_term() -> None:
    """When the guard says that the office is lost the daemon stops deciding at once."""
    world = led(three())
    ballot = world.cores[1].ballot
    world.cores[1].guard(world.now, OfficeLost(ballot, ballot, "no-quorum"))
    assert world.cores[1].role == Role.FOLLOWER
    with pytest.raises(NotLeader):
        world.cores[1].propose(world.now, b"x")


def test_a_leader_without_its_guard_lasts_as_long_as_its_lease() -> None:
    """The guard may be away for a moment; without a lease in its page the term ends."""
    world = led(three())
    world.pass_time(PROMISE)
    core, guard = world.cores[1], world.guards[1]
    core.guard_lost(world.now)
    core.tick(world.now)
    assert core.role == Role.LEADER
    world.now = guard.page.leader_end
    core.tick(world.now)
    assert core.role == Role.FOLLOWER


def test_learners_and_idle_acceptors_do_not_campaign() -> None:
    """Neither a learner nor a node without weight campaigns, unless others than nodes vote."""
    learner = World(configuration(1, learners=(2,)), (1, 2))
    learner.crash(1)
    learner.pass_time(10 * PROMISE)
    assert not learner.leaders
    idle = QuorumConfig(
        acceptors=(Acceptor(id=identity(1)), Acceptor(id=identity(2), weight=0)),
    )
    world = World(idle, (1, 2))
    assert world.cores[2].deadline() > 10**18
    assert not world.called
    disk = QuorumConfig(
        acceptors=(
            Acceptor(id=identity(1), weight=0),
            Acceptor(id=identity(9), kind="disk"),
        ),
    )
    world = World(disk, (1,))
    world.pass_time(PROMISE)
    assert world.called == [1]


def test_leadership_is_handed_over_without_waiting() -> None:
    """L8: the successor leads as soon as the ballot is released; no time needs to pass."""
    world = led(three())
    world.cores[1].transfer(world.now, 3)
    world.settle(1)
    world.quiet()
    assert world.leader() == 3
    stepped = [signal for signal in world.signals[1] if isinstance(signal, SteppedDown)]
    assert [signal.reason for signal in stepped] == ["transferred"]
    world.pass_time(2 * PROMISE)
    assert world.leader() == 3


def test_the_most_up_to_date_voter_is_the_default_successor() -> None:
    """Without a name the voter with the most entries is chosen."""
    world = led(three())
    world.disconnect(1, 2)
    world.propose(1, b"unknown to 2")
    world.quiet()
    world.join(1, 2)
    world.cores[1].transfer(world.now, 0)
    world.settle(1)
    world.quiet()
    assert world.leader() == 3


def test_impossible_transfers_change_nothing() -> None:
    """Strangers and unreachable nodes get no office; the leader goes on."""
    world = led(three())
    world.disconnect(1, 3)
    for node, reason in ((7, "no-voter"), (3, "not-connected")):
        world.cores[1].transfer(world.now, node)
        world.settle(1)
        assert world.signals[1][-1] == TransferFailed(node=node, reason=reason)
    world.disconnect(1, 2)
    world.cores[1].transfer(world.now, 0)
    world.settle(1)
    assert world.signals[1][-1] == TransferFailed(node=0, reason="no-voter")
    assert world.leader() == 1


def test_a_successor_that_does_not_catch_up_is_given_up() -> None:
    """The transfer ends after the length of a promise, and the leader still leads."""
    world = led(three())
    world.propose(1, b"x")
    world.cores[1].transfer(world.now, 3)
    world.settle(1)
    world.network.clear()
    world.now += PROMISE
    world.cores[1].tick(world.now)
    world.settle(1)
    assert TransferFailed(node=3, reason="not-caught-up") in world.signals[1]
    assert world.leader() == 1


def test_what_was_proposed_is_committed_before_the_office_is_released() -> None:
    """The successor has it, but the commit needs the own disk: who waits is answered first."""
    world = led(three())
    world.disconnect(1, 2)
    index = world.propose(1, b"x")
    world.cores[1].transfer(world.now, 3)
    world.settle(1)
    while world.network:
        world.deliver()
        world.sync(3)
    core = world.cores[1]
    assert core.match(3) == index > core.commit
    assert not any(isinstance(command, Release) for command in world.guards[1].inbox)
    world.sync(1)
    assert core.commit == index
    assert any(isinstance(command, Release) for command in world.guards[1].inbox)


def test_a_successor_waits_for_its_own_guard() -> None:
    """A call to take over that is faster than the release is repeated at the guard, not dropped."""
    world = led(three())
    world.pass_time(PROMISE)
    ballot = world.cores[1].ballot
    world.cores[3].receive(world.now, 1, TransferOffice(ballot=ballot, successor=3))
    world.settle(3)
    assert isinstance(world.guards[3].inbox[0], Fence)
    world.quiet()
    assert world.cores[3].role == Role.CANDIDATE
    world.guards[1].page = world.guards[1].page._replace(office=Ballot(0, 0, 0))
    world.free(ballot)
    world.now = world.cores[3].deadline()
    world.tick(3)
    world.quiet()
    assert world.cores[3].role == Role.LEADER


@pytest.mark.parametrize("victim", [1, 2, 3])
def test_a_quorum_elects_soon_after_every_kind_of_trouble(victim: int) -> None:
    """I9: within ten promises after the links are mended there is one leader, and one log."""
    world = led(World(configuration(1, 2, 3, 4, 5), (1, 2, 3, 4, 5)))
    world.part(victim, 4)
    world.pass_time(3 * PROMISE)
    world.crash(victim)
    world.lose_guard(victim)
    world.pass_time(2 * PROMISE)
    world.start(victim)
    world.heal()
    world.pass_time(10 * PROMISE)
    leader = world.leader()
    assert leader
    world.propose(leader, b"x")
    world.quiet()
    keys = {core.last_key for core in world.cores.values()}
    assert len(keys) == 1
    assert {core.commit for core in world.cores.values()} == {keys.pop().index}
    world.check_logs()
    world.check_floors()


def test_an_idle_leader_hears_of_a_higher_promise() -> None:
    """L13 without any proposal: the node that cannot follow asks, and the leader goes above it."""
    world = led(three())
    stray = Ballot(0, 7, 3)
    world.guards[3].page = world.guards[3].page._replace(floor=stray)
    world.pass_time(4 * PROMISE)
    assert world.leader() == 1
    assert world.cores[1].ballot.round == 8
    assert world.guards[3].page.renewed == world.cores[1].ballot


def test_attempts_become_rarer() -> None:
    """A node that finds no quorum asks at most about once per promise in the long run."""
    world = three()
    world.part(1)
    world.part(2)
    world.part(3)
    world.pass_time(5 * PROMISE)
    world.trace = []
    asked = world.cores[1]._candidate._serial
    world.pass_time(10 * PROMISE)
    assert 3 <= world.cores[1]._candidate._serial - asked <= 10


def test_an_office_that_nobody_wants_is_released() -> None:
    """When the guard takes office for a campaign that is over it is told to give it up."""
    world = led(three())
    late = Ballot(0, 9, 2)
    world.cores[2].guard(world.now, Office(late, ()))
    assert world.cores[2].role == Role.FOLLOWER
    assert world.cores[2].take_effects() == [AskGuard(command=Release(late))]


def test_entries_go_before_the_call_to_take_over() -> None:
    """What was proposed in the step of the release is sent first, so the successor has it."""
    world = led(three())
    core = world.cores[1]
    core.transfer(world.now, 3)
    world.settle(1)
    core.propose(world.now, b"late")
    core.guard(world.now, Released(core.ballot))
    sent = [e.message for e in core.take_effects() if isinstance(e, Send) and e.node == 3]
    assert [type(message) for message in sent] == [Append, TransferOffice]


def released_for_3(world: World) -> Ballot:
    """Have node 1 release its office for node 3 when nobody heard it lately; return its ballot."""
    ballot = world.cores[1].ballot
    world.guards[2].page = world.guards[2].page._replace(renewed=ballot)
    world.now += 2 * PROMISE  # idle: the leader's last message is long ago
    world.cores[1].transfer(world.now, 3)
    world.settle(1)
    world.free(ballot)
    return ballot


def test_whom_nobody_named_lets_the_successor_go_first() -> None:
    """Its start may be slow; who campaigned beside it within milliseconds could win instead."""
    world = led(three())
    ballot = released_for_3(world)
    world.cores[2].receive(world.now, 1, TransferOffice(ballot=ballot, successor=3))
    assert world.cores[2]._candidate.campaign_at() == world.now + PROMISE // 2
    world.quiet()
    assert world.leader() == 3
    world.crash(3)
    world.pass_time(2 * PROMISE)
    assert world.leader() == 1, "whoever is next in rank follows the successor as any leader"


def test_who_already_asks_lets_the_successor_go_first() -> None:
    """It competes with it no more, nor asks a disk or witness; that counts as no attempt."""
    witness = Acceptor(id=identity(WITNESS_ID_MIN), kind="object")
    world = led(World(QuorumConfig(acceptors=(*acceptors(1, 2, 3), witness)), (1, 2, 3)))
    ballot = released_for_3(world)
    core, candidate = world.cores[2], world.cores[2]._candidate
    [passive] = core.passives
    candidate.start()
    core.receive(world.now, 1, TransferOffice(ballot=ballot, successor=3))
    assert passive._probe is None
    welcome = PreProbeReply(
        round=candidate._serial, willing=True, promised=ballot, key=core.last_key
    )
    for node in (1, 3):
        core.receive(world.now, node, welcome)
    assert core.role == Role.FOLLOWER
    assert candidate._attempts == 0
    world.settle(2)
    world.quiet()
    assert world.leader() == 3


def test_nobody_waits_for_a_successor_that_went_away() -> None:
    """The release was under way when its connection broke: the others elect as after any."""
    world = led(three())
    ballot = world.cores[1].ballot
    world.now += 2 * PROMISE  # idle: the leader's last message is long ago
    world.cores[1].transfer(world.now, 3)
    world.settle(1)
    world.crash(3)
    world.guards[2].page = world.guards[2].page._replace(renewed=ballot)
    world.quiet()
    assert not world.leader(), "it was released"
    assert wait_for_leader(world) < PROMISE // 4
    assert world.leader() == 2


def test_a_promise_to_another_ends_following() -> None:
    """After a promise to a candidate no leader is known until one is seen."""
    world = led(three())
    assert world.cores[3].leader == 1
    world.crash(1)
    key = world.cores[2].last_key
    world.cores[3].receive(world.now, 2, Prepare(ballot=Ballot(0, 5, 2), key=key))
    world.settle(3)
    world.quiet()
    assert world.cores[3].leader == 0
