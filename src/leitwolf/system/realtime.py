"""Real-time scheduling and locked memory, with an honest account of what was not permitted.

Standard library only: the guard imports this module.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "GUARD_PRIORITY",
    "KEEPER_PRIORITY",
    "Realtime",
    "enter",
    "return_memory",
    "schedule",
    "stand_back",
    "take_precedence",
]

GUARD_PRIORITY = 50
"""Above ordinary real-time work, below the kernel's own threads for timers and migration."""
KEEPER_PRIORITY = 40
"""Below the guard: restarting must never delay a heartbeat."""

_NICE = -10
"""A busy node shall decide and start in milliseconds, too; work without end stays possible."""

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_CAP_IPC_LOCK = 14


@dataclass(frozen=True, slots=True)
class Realtime:
    """What this process got; ``problems`` says in words what it did not get, and why."""

    scheduled: bool
    locked: bool
    problems: tuple[str, ...] = ()


def enter(priority: int, *, wanted: bool, threads: bool = False) -> Realtime:
    """Take real-time scheduling (SCHED_RR) and lock the memory of this process.

    Children do not inherit the scheduling unless ``threads`` is set. Pages are locked as they are
    touched, so a warm-up pass over the own paths belongs after it. Objects made so far are taken
    out of garbage collection.

    Args:
        priority: 1..99.
        wanted: False: only the garbage collector is told.
        threads: those made later have it too; only for a process that never forks, as the kernel
            makes no difference between a thread and a child here.
    """
    gc.collect()
    return_memory()
    gc.freeze()
    if not wanted:
        return Realtime(scheduled=False, locked=False, problems=("LEITWOLF_REALTIME=no",))
    problems = [problem for problem in (schedule(priority, threads=threads), _lock()) if problem]
    return Realtime(
        scheduled=not any(problem.startswith("scheduling") for problem in problems),
        locked=not any(problem.startswith("memory") for problem in problems),
        problems=tuple(problems),
    )


def return_memory() -> None:
    """Give back what imports left behind on the heap, about 1 MiB."""
    with contextlib.suppress(AttributeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


def take_precedence(*, heirs: bool) -> bool:
    """Put this process before ordinary ones; tell whether that was permitted.

    Args:
        heirs: what it starts later has the same precedence; for threads, not for others' programs.
    """
    policy = os.SCHED_OTHER if heirs else os.SCHED_OTHER | os.SCHED_RESET_ON_FORK
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        os.sched_setscheduler(0, policy, os.sched_param(0))
    except PermissionError:
        return False
    return True


def schedule(priority: int, *, threads: bool) -> str:
    """Take the scheduling alone; return the problem in words, '' when there is none."""
    policy = os.SCHED_RR if threads else os.SCHED_RR | os.SCHED_RESET_ON_FORK
    try:
        os.sched_setscheduler(0, policy, os.sched_param(priority))
    except OSError as error:
        return f"scheduling: SCHED_RR {priority} refused ({error.strerror}); needs CAP_SYS_NICE"
    return ""


def stand_back() -> None:
    """Let the calling thread run behind its process' main thread, where it has real time."""
    if os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR:
        behind = os.sched_param(os.sched_getparam(0).sched_priority - 1)
        os.sched_setscheduler(0, os.SCHED_RR, behind)


def _lock() -> str:
    """Return the problem in words, '' when there is none."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit != resource.RLIM_INFINITY and not _may_lock():
        # With MCL_FUTURE a later allocation above the limit would fail: worse than a page fault.
        return f"memory: not locked, limit is {limit >> 10} KiB and CAP_IPC_LOCK is missing"
    library = ctypes.CDLL(None, use_errno=True)
    if library.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        return f"memory: not locked ({os.strerror(ctypes.get_errno())})"
    return ""


def _may_lock() -> bool:
    """Tell whether this process has CAP_IPC_LOCK in the first user namespace.

    In another one the capability does not lift the limit, and /proc shows the full set there too.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    first = Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]
    return bool(effective >> _CAP_IPC_LOCK & 1) and first
