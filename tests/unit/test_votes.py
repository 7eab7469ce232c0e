"""Who has how many votes, who counts as lost, and what commands about votes mean."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.policy_world import AWAY, World

from leitwolf.cli import render
from leitwolf.core.membership import Presence, Sight, View, next_step, patience, sought_witness
from leitwolf.core.membership.votes import casting_holder, wanted_acceptors
from leitwolf.core.policy import survives
from leitwolf.core.rules import Rules
from leitwolf.daemon.views import advice, quorum_view
from leitwolf.model.commands import Refusal, SetQuorum, SetVotes
from leitwolf.model.ids import NodeId
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig, QuorumWish
from leitwolf.model.state import State
from leitwolf.model.witness import WITNESS_ID_MIN
from leitwolf.sim.forming import formed_log
from leitwolf.sim.world import World as Cluster
from leitwolf.state import fold

SECOND = 1_000_000_000
WITNESS = Acceptor(
    id=AcceptorId(NodeId(WITNESS_ID_MIN), "share"), kind="object", location="share:/w"
)
W = WITNESS_ID_MIN


def identities(count: int) -> list[AcceptorId]:
    return [AcceptorId(NodeId(number), f"disk{number}") for number in range(1, count + 1)]


def votes(acceptors: tuple[Acceptor, ...]) -> list[int]:
    return [acceptor.weight for acceptor in acceptors]


# --- who has how many ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "count", "absent", "expected"),
    [
        (QuorumWish(), 4, {4}, [1, 1, 1, 1]),  # strict: 3 of 4, whoever is lost
        (QuorumWish(), 8, {8, 7}, [1] * 8),  # strict: 5 of 8
        (QuorumWish(witness=WITNESS), 3, {3}, [1, 1, 1, 1]),
        (QuorumWish(dynamic=True), 3, set(), [1, 1, 1]),
        (QuorumWish(dynamic=True), 4, set(), [2, 1, 1, 1]),
        (QuorumWish(dynamic=True), 4, {2}, [1, 0, 1, 1]),
        (QuorumWish(dynamic=True), 4, {1, 2}, [0, 0, 2, 1]),
        (QuorumWish(dynamic=True), 4, {1, 2, 4}, [0, 0, 1, 0]),
        (QuorumWish(dynamic=True), 4, {1, 2, 3, 4}, [2, 1, 1, 1]),  # never nobody
        (QuorumWish(dynamic=True, prefer=NodeId(3)), 4, set(), [1, 1, 2, 1]),
        (QuorumWish(dynamic=True, prefer=NodeId(3)), 4, {3}, [1, 1, 0, 1]),
        (QuorumWish(dynamic=True, witness=WITNESS), 4, set(), [1, 1, 1, 1, 1]),
        (QuorumWish(dynamic=True, witness=WITNESS), 4, {1}, [0, 1, 1, 1, 0]),
        (QuorumWish(dynamic=True, witness=WITNESS), 4, {1, 2}, [0, 0, 1, 1, 1]),
        (QuorumWish(dynamic=True, witness=WITNESS), 4, {1, 2, W}, [0, 0, 2, 1, 0]),
        (QuorumWish(dynamic=True, witness=WITNESS), 2, {2}, [1, 0, 0]),
        (QuorumWish(dynamic=True, witness=WITNESS, node_weight=0), 3, {1, 2}, [0, 0, 0, 1]),
        (QuorumWish(dynamic=True, voteless=(NodeId(4),)), 4, set(), [1, 1, 1, 0]),
        (QuorumWish(dynamic=True, voteless=(NodeId(4),)), 4, {1, 2, 3}, [1, 1, 1, 0]),
        (QuorumWish(voteless=(NodeId(4),)), 4, {4}, [1, 1, 1, 0]),
        (QuorumWish(voteless=(NodeId(1), NodeId(2))), 2, {2}, [1, 1]),  # nobody else is left
        (QuorumWish(dynamic=True, voteless=(NodeId(1), NodeId(2))), 2, {2}, [1, 0]),
    ],
)
def test_votes(wish: QuorumWish, count: int, absent: set[int], expected: list[int]) -> None:
    """Strict: as configured; dynamic: of those that are there, an odd number."""
    assert votes(wanted_acceptors(wish, identities(count), absent)) == expected


def test_the_casting_vote_stays_with_who_has_it() -> None:
    """Whoever has it, or leads, keeps it as nodes come back; one that is preferred gets it."""
    wish = QuorumWish(dynamic=True)
    wanted = wanted_acceptors(wish, identities(4), {1, 2}, NodeId(4))
    assert votes(wanted) == [0, 0, 1, 2]
    assert casting_holder(wanted) == 4
    assert votes(wanted_acceptors(wish, identities(2), {1}, NodeId(2))) == [0, 1]
    assert votes(wanted_acceptors(wish, identities(2), (), NodeId(2))) == [1, 2]
    preferring = replace(wish, prefer=NodeId(1))
    assert votes(wanted_acceptors(preferring, identities(2), (), NodeId(2))) == [2, 1]


# --- who is lost ---------------------------------------------------------------------------------


def sight(
    node: int = 2, *, reached: bool = True, match: int = 10, voting: bool = True
) -> tuple[Sight, ...]:
    return (Sight(id=node, reached=reached, match=match, voting=voting),)


def look(presence: Presence, at: float, sights: tuple[Sight, ...], commit: int = 10) -> set[int]:
    presence.observe(int(at * SECOND), commit, SECOND, sights)
    return set(presence.absent)


def test_lost_after_a_second_and_not_before() -> None:
    """A moment out of reach costs no vote; when to look again is told."""
    presence = Presence()
    assert look(presence, 0, sight()) == set()
    assert presence.next_at == -1
    assert look(presence, 5, sight(reached=False)) == set(), "what was before does not count"
    assert presence.next_at == 6 * SECOND
    assert look(presence, 5.9, sight(reached=False)) == set()
    assert look(presence, 5.95, sight()) == set()
    assert look(presence, 6.5, sight(reached=False)) == set(), "it was back in between"
    assert look(presence, 7.5, sight(reached=False)) == {2}


def test_who_confirms_nothing_is_lost() -> None:
    """A node that holds its lease while its daemon hangs is no help to the log."""
    presence = Presence()
    look(presence, 0, sight(match=10), commit=10)
    look(presence, 1, sight(match=10), commit=11)  # on its way
    assert presence.next_at > 0, "it must be looked at again"
    assert look(presence, 1.5, sight(match=10), commit=11) == set()
    assert look(presence, 2.6, sight(match=10), commit=11) == {2}


def test_who_lags_but_goes_on_is_not_lost() -> None:
    """Under a stream of changes a node is always a little behind."""
    presence = Presence()
    for step in range(40):
        at, commit = step / 10, 100 + 10 * step
        assert look(presence, at, sight(match=commit - 15), commit=commit) == set(), step


def test_back_after_a_moment_and_later_each_time() -> None:
    """One that comes and goes waits longer with each loss, and is forgiven after a minute."""
    presence = Presence()
    look(presence, 0, sight())
    at = 1.0
    for steady in (0.25, 1, 4, 16, 64, 64):
        assert presence.pause(2) == 0
        look(presence, at, sight(reached=False))
        assert look(presence, at + 1, sight(reached=False)) == {2}
        look(presence, at + 2, sight())
        assert presence.pause(2) == int(steady * SECOND)
        assert presence.next_at == int((at + 2 + steady) * SECOND)
        assert look(presence, at + 1.99 + steady, sight()) == {2}
        assert look(presence, at + 2 + steady, sight()) == set()
        at += 2 + steady
    look(presence, at + 61, sight())
    look(presence, at + 62, sight(reached=False))
    look(presence, at + 63, sight(reached=False))
    look(presence, at + 64, sight())
    assert look(presence, at + 64.25, sight()) == set()


def test_a_gap_while_coming_back_begins_the_wait_anew() -> None:
    """It must be within reach all the time."""
    presence = Presence()
    assert look(presence, 0, sight(voting=False)) == {2}, "without a vote: was lost before"
    look(presence, 0.2, sight(reached=False, voting=False))
    look(presence, 0.22, sight(voting=False))
    assert look(presence, 0.46, sight(voting=False)) == {2}
    assert look(presence, 0.47, sight(voting=False)) == set()


def test_patience_is_a_second_or_p() -> None:
    """A profile for slow links waits longer."""
    assert patience(SECOND // 4) == SECOND
    assert patience(3 * SECOND) == 3 * SECOND


# --- steps ---------------------------------------------------------------------------------------


def formed(nodes: int, quorum: str = "majority", **wish: object) -> State:
    log = formed_log(nodes=nodes, groups=1, links=1, profile="default", quorum=quorum, dynamic=True)
    state = fold(State(), log.entries[0])
    return replace(state, wish=replace(state.wish, **wish))


def config_of(state: State) -> QuorumConfig:
    assert state.quorum is not None
    return state.quorum


def test_a_lost_node_loses_its_vote_jointly_and_says_why() -> None:
    """One joint step for all who are lost; the text is what the log tells people."""
    state = formed(5)
    view = View(leader=NodeId(2), reached=frozenset({1, 2, 3}), absent=frozenset({4, 5}))
    step = next_step(state, config_of(state), view)
    assert step is not None
    assert step.kind == "joint"
    assert step.config is not None
    assert step.config.former == config_of(state).acceptors
    assert votes(step.config.acceptors) == [1, 1, 1, 0, 0]
    assert step.text == "n4 was lost: its vote is taken; n5 was lost: its vote is taken"
    settled = replace(step.config, former=None)
    assert next_step(state, settled, view) is None, "nothing more"
    back = replace(view, absent=frozenset({5}), reached=frozenset({1, 2, 3, 4}))
    again = next_step(state, settled, back)
    assert again is not None
    assert again.text == "n2 has the casting vote; n4 votes"


def test_no_vote_goes_where_nobody_is_within_reach() -> None:
    """The leader would lose the new quorum with the joint entry already."""
    state = formed(2, prefer=NodeId(2))
    view = View(leader=NodeId(1), reached=frozenset({1}))
    assert votes(config_of(state).acceptors) == [2, 1]
    assert next_step(state, config_of(state), view) is None
    reached = replace(view, reached=frozenset({1, 2}))
    assert next_step(state, config_of(state), reached) is not None
    broken = next_step(state, config_of(state), view, Rules.without("votes-within-reach"))
    assert broken is not None


def test_a_leader_that_reaches_no_quorum_takes_nobody_s_vote() -> None:
    """It could not commit that, and the others, who decide without it, need votes of their own."""
    state = formed(3, dynamic=True)
    lost = frozenset({2, 3})
    view = View(leader=NodeId(1), reached=frozenset({1}), absent=lost)
    assert next_step(state, config_of(state), view) is None
    view = View(leader=NodeId(1), reached=frozenset({1, 2}), absent=frozenset({3}))
    assert next_step(state, config_of(state), view) is not None


def test_a_storage_that_was_replaced_gets_no_vote_back() -> None:
    """Its node is within reach, with another storage; the former one confirms nothing any more."""
    state = formed(3, dynamic=True)
    alone = (0, 1, 0, 0)
    acceptors = tuple(replace(a, weight=alone[a.id.node]) for a in config_of(state).acceptors)
    anew = {n: replace(state.nodes[n], storage=f"anew{n}") for n in (2, 3)}
    state = replace(state, nodes={**state.nodes, **anew})
    learners = tuple(AcceptorId(NodeId(n), f"anew{n}") for n in (2, 3))
    config = QuorumConfig(acceptors=acceptors, learners=learners)
    view = View(leader=NodeId(1), reached=frozenset({1, 2, 3}))
    assert next_step(state, config, view) is None, "two of three votes would be nobody's"
    ready = next_step(state, config, replace(view, caught_up=frozenset({2})))
    assert ready is not None
    assert ready.config is not None
    assert AcceptorId(NodeId(2), "anew2") in {acceptor.id for acceptor in ready.config.acceptors}


def test_a_witness_gets_its_vote_only_when_it_is_ready() -> None:
    """It is sought first: armed, and holding everything."""
    state = formed(3, "full-witness")
    config = config_of(state)
    [witness] = [acceptor.id.node for acceptor in config.acceptors if acceptor.kind != "node"]
    assert votes(config.acceptors) == [1, 1, 1, 0]
    view = View(leader=NodeId(1), reached=frozenset({1, 2, witness}))
    assert sought_witness(state, config, view) == 0
    lost = replace(view, absent=frozenset({3}))
    assert sought_witness(state, config, lost) == witness
    assert next_step(state, config, lost) is None
    ready = replace(lost, caught_up=frozenset({witness}))
    step = next_step(state, config, ready)
    assert step is not None
    assert step.config is not None
    assert votes(step.config.acceptors) == [1, 1, 0, 1]
    gone = replace(lost, absent=frozenset({3, witness}))
    step = next_step(state, config, gone)
    assert step is not None
    assert step.config is not None
    assert votes(step.config.acceptors) == [2, 1, 0, 0], "without it one node has the casting vote"


def test_a_node_that_stops_in_order_gives_its_vote_away() -> None:
    """The leader's own vote, too: the other one can go on alone."""
    state = formed(2)
    stopping = replace(state.nodes[1], stopping=True)
    state = replace(state, nodes={**state.nodes, 1: stopping})
    view = View(leader=NodeId(1), reached=frozenset({1, 2}), absent=frozenset({1}))
    step = next_step(state, config_of(state), view)
    assert step is not None
    assert step.config is not None
    assert votes(step.config.acceptors) == [0, 1]
    assert "n1 is about to stop: its vote is taken" in step.text


# --- commands ------------------------------------------------------------------------------------


def refused(world: World, command: SetVotes | SetQuorum) -> Refusal:
    answer = world.command(command)
    assert isinstance(answer, Refusal), answer
    return answer


def test_commands_change_the_wish() -> None:
    """Each part alone; what is not named stays."""
    world = World()
    world.do(SetVotes(dynamic=True))
    world.do(SetVotes(prefer=NodeId(2)))
    world.do(SetVotes(weights={NodeId(3): 0}))
    wish = world.state.wish
    assert (wish.dynamic, wish.prefer, wish.voteless) == (True, 2, (3,))
    world.do(SetVotes(weights={NodeId(3): 1}, prefer=NodeId(0), dynamic=False))
    assert world.state.wish == QuorumWish()


@pytest.mark.parametrize(
    ("command", "code", "field"),
    [
        (SetVotes(weights={NodeId(number): 0 for number in (1, 2, 3)}), "nobody-votes", "weight"),
        (SetVotes(weights={NodeId(9): 0}), "unknown-node", "node"),
        (SetVotes(prefer=NodeId(9)), "unknown-node", "prefer"),
        (SetVotes(weights={NodeId(1): 2}), "out-of-range", "weight"),
        (SetVotes(weights={NodeId(1): -1}), "out-of-range", "weight"),
        (SetVotes(weights={NodeId(1): 0}, prefer=NodeId(1)), "nobody-votes", "prefer"),
    ],
)
def test_refusals_name_field_and_code(command: SetVotes, code: str, field: str) -> None:
    """Nothing changes, and it is said what is wrong."""
    refusal = refused(World(), command)
    assert (refusal.code, refusal.field) == (code, field)
    assert refusal.hint


def test_strict_votes_are_refused_while_too_many_are_lost() -> None:
    """With one of three there a majority of three would be none."""
    world = World()
    world.do(SetVotes(dynamic=True))
    world.see(2, AWAY)
    world.see(3, AWAY)
    refusal = refused(world, SetVotes(dynamic=False))
    assert refusal.code == "not-enough-voters"
    assert refusal.retryable
    assert "node2" in refusal.text
    world.do(SetVotes(dynamic=True, prefer=NodeId(1)))


DISK = SetQuorum(witness="disk", storage="00000001", location="/dev/quorum")


@pytest.mark.parametrize(
    ("command", "code", "field"),
    [
        (replace(DISK, witness="floppy"), "invalid-witness", "witness"),
        (replace(DISK, storage="?"), "invalid-storage", "storage"),
        (replace(DISK, location=""), "out-of-range", "location"),
        (replace(DISK, silence_ms=5_000), "silence-too-long", "silence_ms"),
        (replace(DISK, witness="object", full=False, alone=True), "tag-alone", "full"),
        (SetQuorum(alone=True), "nobody-votes", "alone"),
    ],
)
def test_kinds_that_cannot_be_are_refused(command: SetQuorum, code: str, field: str) -> None:
    """Nothing changes, and it is said what is wrong."""
    world = World()
    refusal = refused(world, command)
    assert (refusal.code, refusal.field) == (code, field)
    assert world.state.wish == QuorumWish()


def test_a_kind_is_refused_that_would_not_survive_what_is_lost() -> None:
    """A disk alone carries the last node; nodes alone would not, and those that lack are named."""
    world = World()
    world.do(replace(DISK, alone=True))
    world.see(2, AWAY)
    world.see(3, AWAY)
    refusal = refused(world, SetQuorum())
    assert refusal.code == "not-enough-voters"
    assert refusal.retryable
    assert "node2, node3 cannot be reached" in refusal.text
    assert "evict" in refusal.hint
    assert world.state.wish.witness is not None


def test_one_change_of_the_quorum_at_a_time() -> None:
    """While two configurations are in force a third one waits."""
    world = World()
    config = config_of(world.state)
    world.state = replace(world.state, quorum=replace(config, former=config.acceptors))
    refusal = refused(world, DISK)
    assert (refusal.code, refusal.retryable) == ("quorum-changing", True)
    assert refusal.hint


# --- what is survived ----------------------------------------------------------------------------


def test_what_two_nodes_survive() -> None:
    """Strict: neither loss; dynamic: that of the node without the casting vote."""
    state = formed(2)
    found = survives(state, {1, 2})
    assert (found.failures, found.nodes, found.in_turn) == (0, (2,), 0)
    assert found.text == (
        "n2 may fail, not n1 (it has the casting vote: 1 of 3 votes would be left)"
    )
    alone = replace(config_of(state), acceptors=wanted_acceptors(state.wish, identities(2), {2}))
    found = survives(replace(state, quorum=alone), {1})
    assert found.text == "none that votes may fail: n1 (it holds the only vote)"
    strict = tuple(Acceptor(id=identity) for identity in identities(2))
    state = replace(state, wish=QuorumWish(), quorum=QuorumConfig(acceptors=strict))
    found = survives(state, {1, 2})
    assert found.nodes == ()
    assert found.text.startswith("none that votes may fail: n1 (1 of 2 votes would be left)")


def test_what_four_nodes_survive_at_once_and_in_turn() -> None:
    """Pairs are told where some are survived; one after the other goes down to two."""
    found = survives(formed(4), {1, 2, 3, 4})
    assert (found.failures, found.in_turn) == (1, 2)
    assert found.text == "any one of 4 that vote may fail, any 2 one after the other"
    pairs = {loss.lost: loss.survived for loss in found.losses if len(loss.lost) == 2}
    assert pairs[NodeId(2), NodeId(3)]
    assert not pairs[NodeId(1), NodeId(2)]
    [witness] = [
        a.id.node for a in config_of(formed(4, "full-witness")).acceptors if a.kind != "node"
    ]
    found = survives(formed(4, "full-witness"), {1, 2, 3, 4, witness})
    assert (found.failures, found.in_turn) == (2, 3)
    assert witness in found.nodes


def test_a_node_that_does_not_reach_the_witness_cannot_go_on_by_it() -> None:
    """The other one can: only its own death is not survived."""
    state = formed(2, "full-witness")
    [witness] = [a.id.node for a in config_of(state).acceptors if a.kind != "node"]
    everyone = {1, 2, witness}
    assert survives(state, everyone).nodes == (1, 2, witness)
    found = survives(state, everyone, {NodeId(2): frozenset({witness})})
    assert found.nodes == (2, witness)
    assert found.failures == found.in_turn == 0
    assert found.text == (
        "n2 or the witness may fail, not n1 (no node would be left that reaches what it needs)"
    )


def test_a_disk_alone_is_not_survived() -> None:
    """Any node may fail while one is left that can lead; the disk may not."""
    state = formed(2, "disk")
    [disk] = [a.id.node for a in config_of(state).acceptors if a.kind != "node"]
    found = survives(state, {1, 2, disk})
    assert found.nodes == (1, 2)
    assert found.text == "none that votes may fail: the disk (it holds the only vote)"
    last = survives(state, {1, disk})
    assert [loss.reason for loss in last.losses] == [
        "no node would be left that can lead",
        "it holds the only vote",
    ]


# --- how it is shown -----------------------------------------------------------------------------


def shown(nodes: int, quorum: str = "majority", *, dynamic: bool = True) -> str:
    """What ``leitwolf quorum status`` prints on the leader of a calm cluster."""
    world = Cluster(seed=1, nodes=nodes, quorum=quorum, dynamic=dynamic)
    for node in world.nodes.values():
        node.power_on()
    world.run_until(4 * SECOND)
    [node] = world.leaders()
    core = node.daemon.core
    assert core is not None
    view = quorum_view(core, node.kernel.page, node.raw(), worst_stall=0, realtime=True)
    assert all(item.match == view.commit for item in view.members if item.voting)
    return render.quorum(view)


def test_status_shows_votes_and_what_is_survived() -> None:
    """Configured and current votes; at once and one after the other."""
    text = shown(4)
    assert "votes 5, needed 3, dynamic: any one of 4 that vote may fail" in text
    assert "n1  1 vote and the casting vote" in text
    assert "  survived: loss of n1; n2; n3; n4\n" in text
    assert "NOT survived: loss at once of n1 and n2; n1 and n3; n1 and n4 (2 of 5 votes" in text
    assert "one after the other, 1.9 s apart or more: any 2" in text
    text = shown(3, "full-witness")
    assert "  no vote now  " in text, "the witness: three nodes are an odd number"
    text = shown(5, dynamic=False)
    assert "strict: any 2 at once of 5 that vote may fail" in text
    assert "votes stay as they are, whoever is lost" in text
    text = shown(2, "disk", dynamic=False)
    assert "n1  no vote (weight 0)" in text


@pytest.mark.parametrize(
    ("wish", "weights", "said"),
    [
        (QuorumWish(), [1], "one node: nothing can take over"),
        (QuorumWish(dynamic=True), [1], "one node: nothing can take over"),
        (QuorumWish(), [1, 1], "two nodes vote: both are needed, either's death stops all"),
        (QuorumWish(dynamic=True), [1, 2], "two nodes vote, n2 has the casting vote"),
        (
            QuorumWish(dynamic=True),
            [1, 2, 0],
            (
                "two nodes vote, n2 has the casting vote: its death stops all, that of n1 does "
                "not; start the other nodes"
            ),
        ),
        (QuorumWish(dynamic=True), [0, 1], "only n2 votes: its death stops all"),
        (QuorumWish(), [1, 1, 1, 1], "4 nodes vote: an even split stops both halves"),
        (QuorumWish(dynamic=True), [2, 1, 1, 1], ""),
        (QuorumWish(dynamic=True), [1, 1, 1], ""),
    ],
)
def test_advice_says_which_node_is_needed(wish: QuorumWish, weights: list[int], said: str) -> None:
    """Also what join and init print: with two nodes, whose death stops all."""
    state = formed(len(weights))
    acceptors = tuple(
        Acceptor(id=identity, weight=weight)
        for identity, weight in zip(identities(len(weights)), weights, strict=True)
    )
    state = replace(state, wish=wish, quorum=QuorumConfig(acceptors=acceptors))
    assert advice(state).startswith(said)
    assert bool(advice(state)) is bool(said)
