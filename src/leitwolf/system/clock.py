"""The clocks of the machine. Standard library only: the guard imports this module."""

from __future__ import annotations

import time
from pathlib import Path

from leitwolf.wire.ballot import Now

__all__ = ["boot_id", "next_multiple", "now", "raw_ns"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_APART_NS = 500_000
_READINGS_MAX = 4


def now() -> Now:
    """Return one reading of CLOCK_MONOTONIC_RAW and CLOCK_BOOTTIME, in ns.

    A stall between the two readings would look like a sleep of the machine and end every lease
    (rule L1), so they are taken again when they lie more than 0.5 ms apart. A real sleep stays
    visible: it moves the difference for good.
    """
    raw = boot = 0
    for _ in range(_READINGS_MAX):
        raw = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) - raw <= _APART_NS:
            break
    return Now(raw, boot)


def raw_ns() -> int:
    """Return CLOCK_MONOTONIC_RAW in ns."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)


def boot_id() -> bytes:
    """Return the 16 bytes that name this boot of the kernel.

    Raises:
        OSError: /proc is not mounted.
    """
    return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))


def next_multiple(now: float, period: float) -> float:
    """Return the first multiple of ``period`` after ``now``, both in seconds.

    For what is done periodically: so a process wakes once for all of it, and to wake costs more
    than what is done then.
    """
    return (now // period + 1) * period
