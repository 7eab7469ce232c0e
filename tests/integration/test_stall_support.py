"""A machine that stands still is noticed on each of its processors, and tests run again then."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from lab.stalls import STALL_MS, Stalls
from tests.integration.stall_support import TwoOwners, again_if_stalled

_SPIN = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
end = time.monotonic() + 0.25
while time.monotonic() < end:
    pass
"""


@pytest.fixture
def stalls() -> Iterator[Stalls]:
    with Stalls() as watched:
        yield watched


@pytest.mark.root
@pytest.mark.parametrize("processor", sorted(os.sched_getaffinity(0))[:2])
def test_a_processor_that_stands_still_is_noticed(stalls: Stalls, processor: int) -> None:
    """Something that goes before everything else takes one of them, while the others go on."""
    stalls.stall_ms()
    subprocess.run([sys.executable, "-S", "-E", "-c", _SPIN, str(processor)], check=True)
    assert stalls.stall_ms() > STALL_MS


class Told(Stalls):
    """Says what it is told to."""

    def __init__(self, *stood: float) -> None:
        self._stood = iter([one for stall in stood for one in (0.0, stall)])

    def stall_ms(self) -> float:
        return next(self._stood)


@pytest.mark.parametrize(
    ("stood", "error", "tries"),
    [
        ((500, 500, 500), ValueError("late"), 3),
        ((500, 1, 500), ValueError("late"), 2),
        ((1, 500, 500), ValueError("late"), 1),
        ((500, 500, 500), TwoOwners("n1 and n2"), 1),
        ((500, 500, 500), AssertionError("assert 3.0 == 0, two_owners_ms"), 1),
    ],
)
def test_what_fails_is_tried_again_only_if_the_machine_stood_still(
    stood: tuple[float, ...], error: Exception, tries: int
) -> None:
    """Three times at most, and never when two nodes answered for one address."""
    tried = []

    def run() -> None:
        tried.append(error)
        raise error

    with pytest.raises(type(error), match=str(error)):
        list(again_if_stalled(run, Told(*stood)))
    assert len(tried) == tries


def test_what_passes_the_second_time_has_passed() -> None:
    """It is said for how long the machine stood still, and what failed by it."""
    outcomes = iter([False, True])

    def run() -> None:
        assert next(outcomes), "late"

    [said] = again_if_stalled(run, Told(500, 0))
    assert said.startswith("a processor stood still for 500 ms: late")
