"""How long a disk takes: the newest durations, for display and for the silence T_d."""

from __future__ import annotations

from collections import deque

import msgspec

__all__ = ["Durations", "DurationsView"]

_SAMPLES_MAX = 4096
"""At 20 renewals a second a minute and more; p99.9 of it is the fifth slowest."""


class DurationsView(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in nanoseconds (CLOCK_MONOTONIC_RAW); all 0 without a sample."""

    samples: int
    p50_ns: int
    p99_ns: int
    p999_ns: int
    worst_ns: int


class Durations:
    """A window over the newest samples."""

    def __init__(self) -> None:
        self._samples: deque[int] = deque(maxlen=_SAMPLES_MAX)

    def add(self, duration_ns: int) -> None:
        """Count one duration."""
        self._samples.append(duration_ns)

    def view(self) -> DurationsView:
        """Return the quantiles of the window: of n samples the one at rank ceil(n * q)."""
        ordered = sorted(self._samples.copy())
        count = len(ordered)

        def at(per_mille: int) -> int:
            return ordered[-(-count * per_mille // 1000) - 1] if ordered else 0

        return DurationsView(
            samples=count, p50_ns=at(500), p99_ns=at(990), p999_ns=at(999), worst_ns=at(1000)
        )
