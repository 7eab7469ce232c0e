"""Makes a measuring process as punctual as this machine permits. Run by path, beside its users."""

from __future__ import annotations

import ctypes
import gc
import os
import time

__all__ = ["be_punctual", "wall_minus_monotonic"]

_MCL_CURRENT_FUTURE = 3


def be_punctual(priority: int = 10) -> bool:
    """Take real-time scheduling, stay in memory, collect no garbage; return if real time."""
    gc.disable()
    ctypes.CDLL(None).mlockall(_MCL_CURRENT_FUTURE)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(priority))
    except PermissionError:
        return False
    return True


def wall_minus_monotonic() -> int:
    """Return the difference of the clocks (ns), for the kernel's time stamps are of the wall."""
    return min(
        (abs(after - before), wall - (before + after) // 2)
        for before, wall, after in (
            (time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(5)
        )
    )[1]
