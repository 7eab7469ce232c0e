"""What the simulator demands of a log and of what starts: of whom, and of whom not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from leitwolf.model.events import Cause, Change, Event, GroupPlaced
from leitwolf.model.ids import GroupId, NodeId
from leitwolf.model.log import Entry
from leitwolf.model.state import State
from leitwolf.sim.checks import Checker, Violation
from leitwolf.state import encode_change
from leitwolf.wire.ballot import Ballot

FIRST, SECOND, THIRD = (Ballot(0, number, number) for number in (1, 2, 3))


def entry(index: int, ballot: Ballot, *events: Event) -> Entry:
    because = Cause(code="test", text="test")
    change = Change(events=events, because=because, by="test", time=0, wall=0)
    return Entry(index=index, ballot=ballot, payload=encode_change(change))


def placed(node: int, generation: int) -> Event:
    cause = Cause(code="test", text="test")
    return GroupPlaced(
        group=GroupId("g1"),
        node=NodeId(node),
        generation=generation,
        cause=cause,
        failover=False,
    )


def cell(generation: int) -> Any:
    order = SimpleNamespace(group="g1", resource="g1-app", generation=generation)
    return SimpleNamespace(order=order)


def office(ballot: Ballot, *entries: Entry) -> Any:
    return SimpleNamespace(lineage=(), commit=0, log=entries, ballot=ballot)


@pytest.fixture
def checker() -> Checker:
    """It saw two entries of the first ballot, which a leader of the second one committed."""
    found = Checker(now=lambda: 0)
    for number in (1, 2):
        node: Any = SimpleNamespace(
            id=number, lineage=(), counted_by=tuple, run_end=0, active_cells=list
        )
        found.add(node)
    found.applied(2, (entry(1, FIRST), entry(2, FIRST)), State(), SECOND)
    return found


def test_a_later_leader_holds_what_was_committed(checker: Checker) -> None:
    """I1: whoever takes office by a newer ballot has it all."""
    checker.elected(3, office(THIRD, entry(1, FIRST), entry(2, FIRST)))
    with pytest.raises(Violation, match="I1: n3 leads without committed entry 2"):
        checker.elected(3, office(THIRD, entry(1, FIRST)))


def test_an_office_that_was_missed_asleep_need_not(checker: Checker) -> None:
    """The promises were counted late, when a newer ballot had gone on: it can commit nothing."""
    checker.elected(1, office(FIRST, entry(1, FIRST)))
    checker.elected(2, office(SECOND, entry(1, FIRST)))


def test_only_what_was_placed_on_a_node_starts_there(checker: Checker) -> None:
    """I6: on that node, in that generation, by a committed entry of its history."""
    checker.applied(2, (entry(3, SECOND, placed(node=1, generation=4)),), State(), SECOND)
    checker.started(1, cell(4))
    with pytest.raises(Violation, match="I6: n2 starts g1-app of generation 4"):
        checker.started(2, cell(4))
    with pytest.raises(Violation, match="I6: n1 starts g1-app of generation 5"):
        checker.started(1, cell(5))


def test_what_was_placed_after_the_fork_is_nothing_in_the_forced_history(checker: Checker) -> None:
    """I6: a history begins with what was committed before it."""
    checker.applied(2, (entry(3, SECOND, placed(node=1, generation=4)),), State(), SECOND)
    checker.applied(2, (entry(4, SECOND, placed(node=1, generation=5)),), State(), SECOND)
    node = checker._nodes[1]
    node.lineage = (7,)  # type: ignore[misc,assignment]
    checker.applied(1, (entry(4, THIRD),), State(), THIRD)
    checker.started(1, cell(4))
    with pytest.raises(Violation, match="I6: n1 starts g1-app of generation 5"):
        checker.started(1, cell(5))
