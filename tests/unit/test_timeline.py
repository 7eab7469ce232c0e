"""The timeline of a daemon: newest changes from memory, older ones from the history."""

from __future__ import annotations

import pytest

from leitwolf.daemon import timeline as module
from leitwolf.daemon.timeline import Timeline
from leitwolf.model.events import Cause, Change, GroupChanged
from leitwolf.model.ids import GroupId
from leitwolf.model.log import Entry
from leitwolf.state import encode_change
from leitwolf.wire.ballot import Ballot


def change(number: int) -> Change:
    event = GroupChanged(group=GroupId("web"), retry_period_s=number)
    because = Cause(code="command", text=f"change {number}")
    return Change(events=(event,), because=because, by="root", time=number, wall=number)


def entries(first: int, last: int) -> tuple[Entry, ...]:
    return tuple(
        Entry(index=number, ballot=Ballot(1, 1, 1), payload=encode_change(change(number)))
        for number in range(first, last + 1)
    )


def known(count: int) -> Timeline:
    """A timeline to which so many entries were applied, all of them in the history."""
    made = Timeline(lambda after, limit: iter(entries(after + 1, min(after + limit, count))))
    for entry in entries(1, count):
        made.add((entry,))
    return made


def test_changes_come_back_as_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are still in memory or not makes no difference."""
    monkeypatch.setattr(module, "_RECENT_MAX", 3)
    made = known(10)
    assert made.applied == 10
    assert [made.lookup(index) for index in range(1, 11)] == [change(n) for n in range(1, 11)]
    assert made.lines(0, 100) == [(number, change(number)) for number in range(1, 11)]
    assert made.lines(6, 2) == [(7, change(7)), (8, change(8))]


def test_what_is_not_there_is_not_invented() -> None:
    """Not applied yet, no index at all, or not kept: nothing."""
    made = known(3)
    assert made.lookup(4) is None
    assert made.lookup(0) is None
    forgetful = Timeline(lambda after, limit: iter(entries(after + 5, after + 4 + limit)))
    forgetful.restored(9)
    assert forgetful.lookup(2) is None
