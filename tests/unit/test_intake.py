"""Group commit: requests that come in while the leader's disk writes are decided together."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from leitwolf.core.effects import Request
from leitwolf.core.intake import Intake
from leitwolf.core.node import Node
from leitwolf.model.commands import PauseNode
from leitwolf.model.ids import NodeId
from leitwolf.model.limits import REQUESTS_TOGETHER_MAX
from leitwolf.wire.ballot import Ballot, Key


def request(number: int) -> Request:
    command = PauseNode(node=NodeId(1), paused=True)
    return Request(id=number, command=command, by="test", wall=0)


def core(*, leads: bool = True, commit: int = 6) -> Node:
    """As much of a node as counts here; its last entry is 7."""
    quorum = SimpleNamespace(commit=commit, last_key=Key(Ballot(0, 1, 1), 7))
    return cast("Node", SimpleNamespace(governor=object() if leads else None, quorum=quorum))


def numbers(intake: Intake, node: Node | None = None, *, writing: bool = False) -> list[int]:
    event = intake.take(node or core(), writing=writing)
    return [one.id for one in event.requests] if event is not None else []


def test_a_request_is_taken_at_once_while_the_disk_rests() -> None:
    """One client alone waits for nobody."""
    intake = Intake()
    assert not numbers(intake)
    intake.put(request(1))
    assert numbers(intake) == [1]
    assert not numbers(intake)


def test_requests_wait_for_the_disk_and_come_together_in_order() -> None:
    """What came during a write is one step, in the order of arrival."""
    intake = Intake()
    for number in (3, 1, 2):
        intake.put(request(number))
        assert not numbers(intake, writing=True)
    assert numbers(intake) == [3, 1, 2]


def test_a_disk_that_nobody_waits_for_holds_up_nothing() -> None:
    """What is committed without the own disk, and what another node decides, does not wait."""
    intake = Intake()
    for node in (core(commit=7), core(leads=False)):
        intake.put(request(1))
        assert numbers(intake, node, writing=True) == [1]


def test_a_step_takes_a_bounded_number() -> None:
    """However many wait, the loop is not held up; the rest follows."""
    intake = Intake()
    for number in range(REQUESTS_TOGETHER_MAX + 5):
        intake.put(request(number))
    assert len(numbers(intake)) == REQUESTS_TOGETHER_MAX
    assert numbers(intake) == list(range(REQUESTS_TOGETHER_MAX, REQUESTS_TOGETHER_MAX + 5))
