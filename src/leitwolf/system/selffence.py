"""The last resort of a node that cannot prove that it stopped: end itself.

``reboot`` resets the machine at once, without syncing: whatever still runs must not write any more.
``namespace`` ends the PID namespace of this process and nothing else; it is refused in the first
PID namespace of the machine. Why stands in the log of the kernel: on consoles, and afterwards
where that log outlives a reset (pstore). Standard library only: the guard imports this module.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

__all__ = ["FenceRefused", "in_first_pid_namespace", "self_fence"]

_FIRST_PID_NAMESPACE = "pid:[4026531836]"
"""PROC_PID_INIT_INO of the kernel: the first PID namespace has this number on every machine."""
_RB_AUTOBOOT = 0x01234567
_OWN_PID_NAMESPACE = Path("/proc/self/ns/pid")
_SYSRQ = Path("/proc/sysrq-trigger")
_KERNEL_LOG = Path("/dev/kmsg")
_ALERT = 1
_LINE_CHARACTERS_MAX = 200


class FenceRefused(RuntimeError):
    """Self-fencing was not done; the text says why."""

    code = "fence-refused"


def in_first_pid_namespace() -> bool:
    """Tell whether this process is in the machine's own PID namespace; not known counts as yes."""
    try:
        return str(_OWN_PID_NAMESPACE.readlink()) == _FIRST_PID_NAMESPACE
    except OSError:
        return True


def self_fence(kind: str, reason: str) -> None:
    """End this machine, or this PID namespace; does not return when it works.

    Args:
        kind: reboot or namespace, as in the settings.
        reason: for the kernel's log.

    Raises:
        FenceRefused: it is not permitted, or nothing happened.
    """
    if kind == "reboot":
        _reset_machine(reason)
    elif kind == "namespace":
        _end_namespace()
    raise FenceRefused(f"self-fencing by {kind!r} had no effect")


def _reset_machine(reason: str) -> None:
    with contextlib.suppress(OSError):  # for people only
        line = f"<{_ALERT}>leitwolf: this node resets itself: {reason}"
        _KERNEL_LOG.write_text(line[:_LINE_CHARACTERS_MAX])
    with contextlib.suppress(OSError):  # not there or not permitted: the system call comes next
        _SYSRQ.write_text("b")
    _reboot()


def _end_namespace() -> None:
    """Kill init of this PID namespace, and with it everything in it.

    A signal from inside cannot do it: init ignores SIGKILL of its own namespace. reboot(2) does:
    outside of the first PID namespace the kernel answers it by killing init.
    """
    if in_first_pid_namespace():
        raise FenceRefused(
            "this is the machine's own PID namespace, only LEITWOLF_FENCE=reboot may end that"
        )
    _reboot()
    os.kill(-1, signal.SIGKILL)  # reboot(2) not permitted: all but init and this process


def _reboot() -> None:
    ctypes.CDLL(None, use_errno=True).reboot(_RB_AUTOBOOT)
