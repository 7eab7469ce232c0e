"""What a node tells of itself and of others, for people."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from tests.sim_calm import calm, leader

from leitwolf.cli import render
from leitwolf.core.rules import ALL_RULES
from leitwolf.daemon import views
from leitwolf.model.views import LogLine
from leitwolf.system.walltime import local_time

WALL = 1_700_000_000_123_000_000
"""2023-11-14 22:13:20.123 UTC."""


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_leader_tells_of_itself_how_much_it_has() -> None:
    """Everything that is durable, as it tells of the others; not nothing."""
    core = leader(calm(1, ALL_RULES)).daemon.core
    assert core is not None
    shown = views.quorum_view(core, None, 0, worst_stall=0, realtime=True)
    assert {member.match for member in shown.members} == {shown.last}


@pytest.mark.usefixtures("berlin")
def test_times_are_those_of_the_machine_with_their_zone() -> None:
    """Whoever compares them with the journal has nothing to compute."""
    assert local_time(WALL) == "2023-11-14 23:13:20.123 CET"


def test_a_line_of_the_timeline_begins_with_the_reason() -> None:
    """The events with all their fields come behind it."""
    entry = LogLine(
        index=23,
        wall=WALL,
        by="policy",
        code="c",
        because="n1 can take it",
        cause=22,
        events=("GroupPlaced group=web node=n1", "X"),
    )
    line = render.line(entry)
    assert line.endswith("policy: n1 can take it <- 22  [GroupPlaced group=web node=n1; X]")
