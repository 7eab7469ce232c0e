"""Group commit: requests that come in while the leader's disk writes are decided together."""

from __future__ import annotations

from leitwolf.core.effects import Request
from leitwolf.core.intake import Intake
from leitwolf.model.commands import PauseNode
from leitwolf.model.ids import NodeId
from leitwolf.model.limits import REQUESTS_TOGETHER_MAX


def request(number: int) -> Request:
    command = PauseNode(node=NodeId(1), paused=True)
    return Request(id=number, command=command, by="test", wall=0)


def numbers(intake: Intake, *, writing: bool = False) -> list[int]:
    event = intake.take(writing=writing)
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


def test_a_step_takes_a_bounded_number() -> None:
    """However many wait, the loop is not held up; the rest follows."""
    intake = Intake()
    for number in range(REQUESTS_TOGETHER_MAX + 5):
        intake.put(request(number))
    assert len(numbers(intake)) == REQUESTS_TOGETHER_MAX
    assert numbers(intake) == list(range(REQUESTS_TOGETHER_MAX, REQUESTS_TOGETHER_MAX + 5))
