"""Whom a node is told of that was off while others joined."""

from __future__ import annotations

from leitwolf.core.acquaintances import Acquaintances
from leitwolf.core.messages import PreProbe
from leitwolf.model.ids import NodeId, NodeStatus
from leitwolf.model.observations import Acquaint
from leitwolf.model.state import Node, State
from leitwolf.wire.ballot import Ballot, Key

BALLOT = Ballot(0, 3, 1)
TWO = NodeId(2)


def node(number: int, changed: int) -> Node:
    return Node(
        id=NodeId(number),
        name=f"n{number}",
        uuid=f"u{number}",
        storage=f"s{number}",
        addresses={},
        fingerprint="f",
        status=NodeStatus.MEMBER,
        changed=changed,
    )


STATE = State(nodes={number: node(number, 10 * number) for number in (1, 2, 3)}, node_serial=3)


def told(known: Acquaintances, index: int) -> list[int]:
    """Whom node 2 is told of when its log ends at an index."""
    probe = PreProbe(round=1, key=Key(BALLOT, index))
    sends = known.answer(TWO, probe, STATE)
    return [one.id for send in sends for one in send.message.nodes]


def test_only_what_may_be_lacking_is_told_and_once() -> None:
    """Until the stream is another one."""
    known = Acquaintances(lambda _: True)
    assert told(known, 30) == []
    assert told(known, 29) == [3]
    assert told(known, 29) == []
    assert told(known, 15) == [2, 3]
    known.lost(TWO)
    assert told(known, 15) == [2, 3]


def test_a_log_that_parted_may_lack_everybody() -> None:
    """How far it is equal is not known; its length says nothing."""
    assert told(Acquaintances(lambda _: True), 99) == []
    assert told(Acquaintances(lambda _: False), 99) == [1, 2, 3]


def test_what_was_told_counts_until_the_log_says_who_that_is() -> None:
    """A number is given once: who is lacking in a log that knows it was removed."""
    known = Acquaintances(lambda _: True)
    known.heard(Acquaint(nodes=(node(1, 99), node(3, 30))))
    former = State(nodes={1: node(1, 10), 2: node(2, 20)}, node_serial=2)
    wide = known.widen(former)
    assert wide.nodes == {1: node(1, 10), 2: node(2, 20), 3: node(3, 30)}
    assert known.widen(former) is wide
    removed = State(nodes={1: node(1, 10)}, node_serial=3)
    assert known.widen(removed) is removed
