"""Processes of other namespaces, as /proc shows them."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "argv_of",
    "children_of",
    "kill",
    "members_of",
    "numbered",
    "parents",
    "state_of",
    "wait_until_stopped",
]


def parents() -> dict[int, int]:
    """Return the parent of every process."""
    found = {}
    for path in Path("/proc").iterdir():
        if not path.name.isdigit():
            continue
        try:
            text = (path / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[int(path.name)] = int(text.rpartition(")")[2].split()[1])
    return found


def children_of(pid: int) -> list[int]:
    """Return the pids of a process' children."""
    return [child for child, parent in parents().items() if parent == pid]


def _namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""


def members_of(init: int) -> list[int]:
    """Return the pids of a machine's processes except its first, nested namespaces included.

    Who entered a machine from outside has its parent there, so descent alone does not tell.
    """
    own = _namespace(init)
    if not own:
        return []
    children: dict[int, list[int]] = {}
    for child, parent in parents().items():
        children.setdefault(parent, []).append(child)
    found = {pid for below in children.values() for pid in below if _namespace(pid) == own}
    rest = list(found)
    while rest:
        fresh = [pid for pid in children.get(rest.pop(), []) if pid not in found]
        found.update(fresh)
        rest += fresh
    return sorted(found - {init})


def numbered(init: int, number: int) -> int:
    """Return the process that has a number inside the machine of ``init``, 0: there is none."""
    own = _namespace(init)
    for pid in parents() if own else ():
        if _namespace(pid) == own and _innermost(pid) == number:
            return pid
    return 0


def _innermost(pid: int) -> int:
    """Return the number of a process in its own namespace, 0: it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = [line for line in status.splitlines() if line.startswith("NSpid:")]
    return int(found[0].split()[-1]) if found else 0


def argv_of(pid: int) -> list[str]:
    """Return the command line of a process, empty when it is gone."""
    try:
        content = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [part.decode(errors="replace") for part in content.split(b"\0")[:-1]]


def state_of(pid: int) -> str:
    """Return the kernel's letter for a process' state, X when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def wait_until_stopped(pids: Sequence[int], timeout_s: float) -> None:
    """Wait until processes that were told to stop did so, or cannot for now, or are gone."""
    deadline = time.monotonic() + timeout_s
    for pid in pids:
        while state_of(pid) in {"R", "S"} and time.monotonic() < deadline:
            time.sleep(0.0005)


def kill(pids: Sequence[int], timeout_s: float) -> list[int]:
    """Kill processes; return those that ended by then, which the kernel says itself."""
    ended = []
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue  # it was gone before
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            if select.select([handle], [], [], timeout_s)[0]:
                ended.append(pid)
        finally:
            os.close(handle)
    return ended
