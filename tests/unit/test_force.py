"""A node that forces a quorum, or is named in one, message by message."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from leitwolf.core.ears import SILENCE_NS
from leitwolf.core.effects import (
    AskGuard,
    Durable,
    Effect,
    FromGuard,
    FromPeer,
    PeerLost,
    PeerUp,
    Reply,
    Request,
    Requests,
    Send,
    Tick,
    Write,
)
from leitwolf.core.histories import comparable
from leitwolf.core.lease.profile import PROFILES, watchdog_awaited
from leitwolf.core.messages import ForceAnswer, ForceOrder, ForceProbe, ForceReport
from leitwolf.core.node import Node
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.commands import Answer, ForceQuorum
from leitwolf.model.events import Cause, Change, ClusterChanged
from leitwolf.model.history import HistoryStanding
from leitwolf.model.ids import NodeId
from leitwolf.model.log import Entry, Loaded
from leitwolf.model.quorum import AcceptorId
from leitwolf.model.views import ForceView
from leitwolf.sim.forming import formed_log
from leitwolf.state import encode_change
from leitwolf.wire.ballot import Ballot, Key
from leitwolf.wire.guard import DaemonHello, GuardHello
from leitwolf.wire.lineage import Lineage, shared

SECOND = 1_000_000_000
AT_ONCE = Rules.without("force-wait")
BEGIN = 100 * SECOND
FIRST = HistoryStanding()


def node(
    me: int = 1, *, rules: Rules = ALL_RULES, lineage: Lineage = (), entries: tuple[Entry, ...] = ()
) -> Node:
    """One of three nodes; ``entries`` follow the first one."""
    log = formed_log(nodes=3, groups=1, links=1, profile="default")
    loaded = Loaded(promised=log.promised, entries=(*log.entries, *entries), commit=1)
    identity = AcceptorId(NodeId(me), f"disk{me}")
    return Node(
        me=identity, loaded=loaded, page=lambda: None, now=0, rules=rules, lineage=lineage, boot=me
    )


def entry(index: int, ballot: Ballot, *events: Any) -> Entry:
    change = Change(events=events, because=Cause(code="command", text=""), by="", time=0, wall=0)
    return Entry(index=index, ballot=ballot, payload=encode_change(change))


def asked(core: Node, now: int, *named: int, confirmed: bool = True) -> list[Effect]:
    command = ForceQuorum(nodes=tuple(map(NodeId, named)), others_down=confirmed)
    return core.step(now, Requests(requests=(Request(id=1, command=command, by="me", wall=0),)))


def up(core: Node, now: int, number: int, history: HistoryStanding = FIRST) -> None:
    core.step(now, PeerUp(node=number, history=history))


def sent(effects: list[Effect], kind: type) -> list[Any]:
    return [one.message for one in effects if isinstance(one, Send) and type(one.message) is kind]


def refused(effects: list[Effect]) -> str:
    [answer] = [one.answer for one in effects if isinstance(one, Reply)]
    assert isinstance(answer, Answer)
    assert answer.refusal is not None
    return answer.refusal.code


def report(core: Node, now: int, number: int, probe: ForceProbe, **fields: Any) -> list[Effect]:
    given = {"key": core.quorum.last_key, "storage": f"disk{number}", **fields}
    message = ForceReport(serial=probe.serial, **given)
    return core.step(now, FromPeer(node=number, message=message))


def test_the_named_nodes_are_asked_again_before_anything_is_written() -> None:
    """The second question says that it is the last one; what it hears then decides."""
    core = node(rules=AT_ONCE)
    up(core, BEGIN, 2)
    [first] = sent(asked(core, BEGIN, 1, 2), ForceProbe)
    assert not first.last
    report(core, BEGIN, 2, first)
    [last] = sent(core.step(BEGIN + 1, Tick(wall=0)), ForceProbe)
    assert last.last
    assert not core.quorum.lineage
    assert report(core, BEGIN + 2, 2, first) == []  # late: it says nothing any more
    report(core, BEGIN + 2, 2, last, code="others-heard", text="n3 can be heard from here")
    assert refused(core.step(BEGIN + 3, Tick(wall=0))) == "others-heard"
    assert not core.quorum.lineage


def test_who_is_lost_before_the_last_answer_is_not_waited_for() -> None:
    """Nothing is written with a node that does not answer."""
    core = node(rules=AT_ONCE)
    up(core, BEGIN, 2)
    [first] = sent(asked(core, BEGIN, 1, 2), ForceProbe)
    report(core, BEGIN, 2, first)
    core.step(BEGIN + 1, Tick(wall=0))
    core.step(BEGIN + 2, PeerLost(node=2))
    assert refused(core.step(BEGIN + 3, Tick(wall=0))) == "node-not-connected"


@pytest.mark.parametrize(("me", "other"), [(1, 2), (2, 1)])
def test_of_two_that_force_at_once_the_lower_number_goes_on(me: int, other: int) -> None:
    """The other one is refused, and gives its own force up when it is asked last."""
    core = node(me)
    up(core, BEGIN, other)
    [mine] = sent(asked(core, BEGIN, me, other), ForceProbe)
    report(core, BEGIN, other, mine)
    probe = ForceProbe(serial=7, nodes=(1, 2), last=True)
    effects = core.step(BEGIN + 4 * SECOND, FromPeer(node=other, message=probe))
    [answer] = sent(effects, ForceReport)
    if me < other:
        assert answer.code == "force-running"
        assert core.force.waiting_ns
    else:
        assert answer.code == ""
        assert refused(effects) == "force-running"
        assert not core.force.waiting_ns


def test_showing_what_a_force_would_do_stops_no_other_one() -> None:
    """Only a force that was confirmed counts."""
    core = node(1)
    up(core, BEGIN, 2)
    asked(core, BEGIN, 1, 2, confirmed=False)
    probe = ForceProbe(serial=7, nodes=(1, 2), last=True)
    [answer] = sent(core.step(BEGIN, FromPeer(node=2, message=probe)), ForceReport)
    assert answer.code == ""


# --- silence -------------------------------------------------------------------------------------


def plan(core: Node) -> ForceView:
    [answer] = [one.answer for one in asked(core, BEGIN, 1, confirmed=False) if type(one) is Reply]
    return msgspec.json.decode(answer.data["plan"], type=ForceView)


def test_while_the_profile_changes_the_longer_one_is_waited_for() -> None:
    """Leases of the longer profile may be open somewhere: others may know that it is settled."""
    change = entry(2, Ballot(0, 1, 2), ClusterChanged(profile="wan"))
    longer = watchdog_awaited(PROFILES["wan"].run)
    assert plan(node(entries=(change,))).wait_ms == longer // 1_000_000
    assert longer > watchdog_awaited(PROFILES["default"].run)


@pytest.mark.parametrize("last", [False, True])
def test_who_is_asked_last_or_ordered_was_in_silence_for_the_whole_time(last: bool) -> None:
    """Not only for as long as it takes to notice that somebody lives."""
    core = node(2)
    up(core, BEGIN, 3)
    core.step(BEGIN, PeerLost(node=3))
    up(core, BEGIN, 1)
    early, late = BEGIN + SILENCE_NS + 1, BEGIN + watchdog_awaited(PROFILES["default"].run) + 1
    assert early < late
    for now, code in ((early, "others-heard" if last else ""), (late, "")):
        probe = ForceProbe(serial=7, nodes=(1, 2), last=last)
        [answer] = sent(core.step(now, FromPeer(node=1, message=probe)), ForceReport)
        assert answer.code == code
    order = ForceOrder(lineage=(5,), key=core.quorum.last_key, nodes=(1, 2))
    [refusal] = sent(core.step(early, FromPeer(node=1, message=order)), ForceAnswer)
    assert refusal.code == "others-heard"
    core.step(late, FromPeer(node=1, message=order))
    assert core.quorum.lineage == (5,)


# --- durability ----------------------------------------------------------------------------------


def forced_alone() -> tuple[Node, list[Effect]]:
    """Node 1 just forced a quorum of itself; nothing is durable yet."""
    core = node(rules=AT_ONCE)
    asked(core, BEGIN, 1)
    return core, core.step(BEGIN + 1, Tick(wall=0))


def test_the_guard_hears_of_a_forced_ballot_when_it_is_durable() -> None:
    """A crash takes it back; a guard with that floor would help nobody in the former history."""
    core, effects = forced_alone()
    [write] = [one for one in effects if isinstance(one, Write)]
    hello = FromGuard(report=GuardHello(incarnation=7, remembers=False))

    def told(now: int) -> Ballot:
        asked = [one.command for one in core.step(now, hello) if isinstance(one, AskGuard)]
        [command] = [one for one in asked if isinstance(one, DaemonHello)]
        return command.written

    assert core.quorum.promised.epoch == 1
    assert told(BEGIN + 2).epoch == 0
    core.step(BEGIN + 3, Durable(position=write.position))
    assert told(BEGIN + 4) == core.quorum.promised


# --- forces that got stuck -----------------------------------------------------------------------


def stuck(*entries: Entry, lineage: Lineage = (5,)) -> Node:
    first = entry(2, Ballot(1, 1, 1))
    return node(lineage=lineage, entries=(first, *entries))


@pytest.mark.parametrize(
    ("core", "lineage", "key"),
    [
        (node(), (), Key(Ballot(0, 1, 1), 1)),
        (stuck(), (), Key(Ballot(0, 1, 1), 1)),
        (stuck(), (6,), Key(Ballot(0, 1, 1), 1)),
        (stuck(), (5,), Key(Ballot(1, 1, 1), 2)),
        (stuck(entry(3, Ballot(1, 2, 1))), (6,), Key(Ballot(1, 2, 1), 3)),
    ],
)
def test_what_a_node_holds_for_who_forces_in_another_history(
    core: Node, lineage: Lineage, key: Key
) -> None:
    """The entry of a force that got stuck is none; one that somebody led in is not given away."""
    first = core.quorum.key_at(1)
    expected = first if key.index == 1 else key
    assert comparable(core.quorum, core.history, lineage) == expected


def test_histories_share_what_was_before_they_parted() -> None:
    """Up to an epoch."""
    assert shared((), (5,)) == 0
    assert shared((5, 6), (5, 7, 8)) == 1
    assert shared((5,), (5,)) == 1


def test_a_node_whose_force_got_stuck_obeys_a_later_one() -> None:
    """Of another history, if that is later than its own, and holds no less."""
    core = stuck()
    key = core.quorum.key_at(1)
    up(core, BEGIN, 2, HistoryStanding(lineage=(6,), established=False))
    for lineage in ((6,), (6, 7)):
        order = ForceOrder(lineage=lineage, key=key, nodes=(1, 2))
        core.step(BEGIN + 4 * SECOND, FromPeer(node=2, message=order))
        assert core.quorum.lineage == (lineage if len(lineage) == 2 else (5,))


def test_the_next_history_is_later_than_those_of_all_named_nodes() -> None:
    """Else a node whose own force got stuck could not be ordered into it."""
    core = node(rules=AT_ONCE)
    up(core, BEGIN, 2, HistoryStanding(lineage=(5, 6), established=False))
    [first] = sent(asked(core, BEGIN, 1, 2), ForceProbe)
    report(core, BEGIN, 2, first)
    [last] = sent(core.step(BEGIN + 1, Tick(wall=0)), ForceProbe)
    report(core, BEGIN + 1, 2, last)
    core.step(BEGIN + 2, Tick(wall=0))
    assert len(core.quorum.lineage) == core.quorum.promised.epoch == 3
    assert len(set(core.quorum.lineage)) == 3
