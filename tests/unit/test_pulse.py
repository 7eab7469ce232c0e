"""The beat of the daemon: progress is shown, and the core is woken when it wants to be."""

from __future__ import annotations

import asyncio

import pytest

from leitwolf.daemon.pulse import Pulse
from leitwolf.system.clock import raw_ns

MILLISECOND = 1_000_000
EARLY = 2 * MILLISECOND


class Seen:
    """A pulse, and when it did what."""

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.woken: list[int] = []
        self.pulse = Pulse(show=self.shown.append, wake=self._wake)
        self.pulse.start()

    def _wake(self) -> None:
        self.woken.append(raw_ns())
        self.pulse.want(raw_ns() + 3_600_000 * MILLISECOND)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(30):
            while len(self.woken) < count:
                await asyncio.sleep(0.001)


@pytest.mark.asyncio
@pytest.mark.parametrize("delay_ms", [1, 20, 49, 130])
async def test_the_core_is_woken_when_it_wants(delay_ms: int) -> None:
    """Once, not before, whether that is before the next beat or behind it."""
    seen = Seen()
    await seen.until(1)
    wanted = raw_ns() + delay_ms * MILLISECOND
    seen.pulse.want(wanted)
    await seen.until(2)
    assert seen.woken[1] >= wanted - EARLY
    seen.pulse.stop()


@pytest.mark.asyncio
async def test_what_is_wanted_later_is_not_done_earlier() -> None:
    """The last wish counts; a timer that was set for an earlier one only looks again."""
    seen = Seen()
    await seen.until(1)
    seen.pulse.want(raw_ns() + 10 * MILLISECOND)
    seen.pulse.want(raw_ns() + 3_600_000 * MILLISECOND)
    beats = len(seen.shown)
    async with asyncio.timeout(30):
        while len(seen.shown) < beats + 3:
            await asyncio.sleep(0.001)
    assert len(seen.woken) == 1
    seen.pulse.stop()


@pytest.mark.asyncio
async def test_nothing_beats_after_the_end() -> None:
    """Neither progress nor the core."""
    seen = Seen()
    await seen.until(1)
    seen.pulse.want(raw_ns() + 10 * MILLISECOND)
    seen.pulse.stop()
    before = (len(seen.shown), len(seen.woken))
    await asyncio.sleep(0.15)
    assert (len(seen.shown), len(seen.woken)) == before
