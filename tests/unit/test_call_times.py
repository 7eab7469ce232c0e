"""What calls of a disk take, and the silence that follows."""

from __future__ import annotations

import random

from leitwolf.core.lease.profile import PROFILES, awaited
from leitwolf.core.quorum.timing import SAMPLES_MIN, Timing

MS = 1_000_000
SECOND = 1_000 * MS
H = 50 * MS


def run(timing: Timing, now: int, seconds: int, duration: int) -> int:
    for at in range(now + H, now + seconds * SECOND, H):
        timing.add(at, duration)
    return now + seconds * SECOND


def test_few_calls_say_nothing() -> None:
    """A slow call among the first ones does not count: p99.9 would be the maximum."""
    timing = Timing()
    for number in range(SAMPLES_MIN - 1):
        timing.add(number * SECOND, 500 * MS)
    assert timing.measured == 0
    assert timing.view(260 * MS).samples == SAMPLES_MIN - 1
    timing.add(SAMPLES_MIN * SECOND, 500 * MS)
    assert timing.measured == 2 * SECOND


def test_quantiles_are_those_of_the_window() -> None:
    """Of n samples the one at rank ceil(n q); old ones are forgotten."""
    timing = Timing()
    for duration in random.Random(3).sample(range(1, 4_097), 4_096):
        timing.add(0, duration * MS)
    view = timing.view(4_000 * MS)
    assert (view.p50, view.p999, view.worst) == (2_048 * MS, 4_092 * MS, 4_096 * MS)
    assert view.slow == 3_096
    for _ in range(4_096):
        timing.add(0, MS)
    assert timing.view(4_000 * MS).worst == MS


def test_a_single_slow_call_among_many_changes_nothing() -> None:
    """p99.9 of four thousand calls is the fifth slowest."""
    timing = Timing()
    now = run(timing, 0, 200, 5 * MS)
    timing.add(now, 4 * SECOND)
    run(timing, now, 2, 5 * MS)
    assert timing.measured == 20 * MS


def test_it_rises_at_once_and_falls_late() -> None:
    """A disk that is slow now and then keeps its silence; one that became fast loses it."""
    timing = Timing()
    now = run(timing, 0, 60, 100 * MS)
    assert timing.measured == 400 * MS
    now = run(timing, now, 220, 90 * MS)
    assert timing.measured == 400 * MS, "a little less changes nothing"
    now = run(timing, now, 230, 20 * MS)
    assert timing.measured == 400 * MS, "the calm has not lasted"
    now = run(timing, now, 100, 20 * MS)
    assert timing.measured == 80 * MS
    run(timing, now, 10, 120 * MS)
    assert timing.measured == 480 * MS, "it does not rise at once"


def test_failures_are_counted_not_measured() -> None:
    """A call that was given up says nothing about the disk."""
    timing = Timing()
    timing.fail(7, "witness-unreachable: gone")
    view = timing.view(260 * MS)
    assert (view.samples, view.failures, view.failed_at) == (0, 1, 7)
    assert view.failure == "witness-unreachable: gone"


def test_every_profile_bears_a_little_more_than_p() -> None:
    """The longest silence leaves R room for the election behind it (L14)."""
    for profile in PROFILES.values():
        assert profile.silence > profile.promise
        need = awaited(profile.silence) + (20 + profile.missed_ms) * MS
        bearable = min(profile.run - profile.kill, profile.run * 85 // 100)
        assert bearable - 3 * MS < need <= bearable
