"""What the simulator demands of a log: of whom, and of whom not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from leitwolf.model.log import Entry
from leitwolf.model.state import State
from leitwolf.sim.checks import Checker, Violation
from leitwolf.wire.ballot import Ballot

FIRST, SECOND, THIRD = (Ballot(0, number, number) for number in (1, 2, 3))


def entry(index: int, ballot: Ballot) -> Entry:
    return Entry(index=index, ballot=ballot, payload=b"")


def office(ballot: Ballot, *entries: Entry) -> Any:
    return SimpleNamespace(lineage=(), commit=0, log=entries, ballot=ballot)


@pytest.fixture
def checker() -> Checker:
    """It saw two entries of the first ballot, which a leader of the second one committed."""
    node: Any = SimpleNamespace(id=2, lineage=(), counted_by=tuple)
    found = Checker(now=lambda: 0)
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
