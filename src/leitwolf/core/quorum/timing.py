"""How long the calls of a disk or witness take, and the silence T_d that follows from it. Pure.

Rules:

- T_d = max(P, what the operator asked for, 4 x p99.9 of the calls), never above what R of the
  profile bears (L14). A renewal counts from the start of its call, and the next one may just have
  begun behind a slow one: that is twice a call; the other half is the margin.
- It rises as soon as calls ask for it, and falls only when they ask for clearly less, for a while:
  each change makes those who challenge wait by something else.
- A quantile of few calls says nothing: below :data:`SAMPLES_MIN` nothing is measured.

Theory of operation: a window over the newest calls, looked at once a second. A call that failed
tells how long nothing came, not how long the disk takes: failures are counted, not measured.

What this does not guarantee: that a disk which becomes slow at once is noticed before its lease is
over. Rules that make a longer or shorter silence safe are in :mod:`leitwolf.core.quorum.passive`.
"""

from __future__ import annotations

from collections import deque

import msgspec

from leitwolf.core.lease.profile import MILLISECOND

__all__ = ["SAMPLES_MIN", "CallTimes", "Timing"]

SAMPLES_MIN = 1_000
"""p99.9 of fewer is their maximum."""
_SAMPLES_MAX = 4_096
"""Three minutes of renewals at H = 50 ms."""
_MARGIN = 4
_STEP_NS = 10 * MILLISECOND
"""The silence is a multiple of it, so that it does not change all the time."""
_REVIEW_NS = 1_000 * MILLISECOND
_CALM_NS = 60_000 * MILLISECOND
"""It falls after less was asked for during this time."""


class CallTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in ns, by the clock of the node that called; 0 without a sample."""

    samples: int
    p50: int
    p999: int
    worst: int
    slow: int
    """Of the samples, how many took longer than P / 4: so many that P alone would be too short."""
    failures: int
    """Since the daemon started: calls without an answer in time, or with an error."""
    failed_at: int
    """When the last of them ended, RAW ns; -1: none did."""
    failure: str
    """What it said."""
    wanted: int
    """The silence that the calls ask for; 0: too few of them."""


class Timing:
    """The newest calls of one acceptor. Instants are RAW ns."""

    def __init__(self) -> None:
        self._samples: deque[int] = deque(maxlen=_SAMPLES_MAX)
        self._failures = 0
        self._failed_at = -1
        self._failure = ""
        self._wanted = 0
        self._review_at = 0
        self._less_since = -1
        self.measured = 0
        """The silence that follows, before all limits; 0: not measured yet."""

    def add(self, now: int, duration: int) -> None:
        """Count a call that was answered."""
        self._samples.append(duration)
        if now >= self._review_at:
            self._review_at = now + _REVIEW_NS
            self._review(now)

    def fail(self, now: int, text: str) -> None:
        """Count a call that was not."""
        self._failures += 1
        self._failed_at, self._failure = now, text

    def view(self, promise: int) -> CallTimes:
        """Return what the window holds; ``promise``: P, ns."""
        ordered = sorted(self._samples)
        return CallTimes(
            samples=len(ordered),
            p50=_at(ordered, 500),
            p999=_at(ordered, 999),
            worst=_at(ordered, 1_000),
            slow=sum(duration > promise // _MARGIN for duration in ordered),
            failures=self._failures,
            failed_at=self._failed_at,
            failure=self._failure,
            wanted=self._wanted,
        )

    def _review(self, now: int) -> None:
        if len(self._samples) < SAMPLES_MIN:
            return
        wanted = _MARGIN * _at(sorted(self._samples), 999)
        self._wanted = -(-wanted // _STEP_NS) * _STEP_NS
        if self._wanted >= self.measured:
            self.measured, self._less_since = self._wanted, -1
        elif 4 * self._wanted > 3 * self.measured:
            self._less_since = -1
        elif self._less_since < 0:
            self._less_since = now
        elif now >= self._less_since + _CALM_NS:
            self.measured, self._less_since = self._wanted, -1


def _at(ordered: list[int], per_mille: int) -> int:
    """Return the sample at rank ceil(n * q), 0 without any."""
    return ordered[-(-len(ordered) * per_mille // 1_000) - 1] if ordered else 0
