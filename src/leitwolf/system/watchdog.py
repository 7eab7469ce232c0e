"""Watchdogs: a device that resets the machine when nobody feeds it.

The guard opens it once it knows R, feeds it only while its passes are timely and nothing is
overdue, and closes it properly only when nothing can run here any more. After a SIGKILL of the
guard the device goes on counting until the next guard feeds it.

The timeout (whole seconds) covers R, the 2 s after which the keeper ends a hanging guard, and one
second for the restart: an ordinary end of the lease, and a restart, are over well before it. Who
waits for proof by "lease and watchdog expiry" waits R and then :func:`timeout_s`.
Standard library only: the guard imports this module.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

__all__ = ["DeviceWatchdog", "NoWatchdog", "Watchdog", "open_watchdog", "timeout_s"]

_WDIOC_KEEPALIVE = 0x80045705
_WDIOC_SETTIMEOUT = 0xC0045706
_WDIOC_GETTIMEOUT = 0x80045707
_SECOND_NS = 1_000_000_000
_RESTART_NS = 3 * _SECOND_NS


def timeout_s(run: int) -> int:
    """Return the timeout of the watchdog in seconds for a run-lease of ``run`` ns."""
    return -(-(run + _RESTART_NS) // _SECOND_NS)


class Watchdog(Protocol):
    """What the guard feeds."""

    @property
    def problem(self) -> str:
        """Why there is no protection, '' when there is."""
        ...

    def set_timeout(self, seconds: int) -> int:
        """Ask for a timeout; return the one in force, 0: none."""
        ...

    def feed(self) -> None:
        """Put off the reset by one timeout."""
        ...

    def close(self) -> None:
        """Stop the watchdog, where the device permits it (nowayout forbids it)."""
        ...


class NoWatchdog:
    """No device; says why.

    Args:
        problem: why there is none.
    """

    def __init__(self, problem: str) -> None:
        self.problem = problem

    def set_timeout(self, seconds: int) -> int:  # noqa: ARG002  # there is nothing to set
        """Return 0: nothing resets this machine."""
        return 0

    def feed(self) -> None:
        """Nothing to feed."""

    def close(self) -> None:
        """Nothing to close."""


class DeviceWatchdog:
    """A watchdog device of the kernel; counting begins when it is opened.

    Args:
        path: the device.
        control: the ioctl call; tests replace it.

    Raises:
        OSError: not there, not permitted, or in use by another program.
    """

    problem = ""

    def __init__(
        self, path: str, control: Callable[[int, int, bytes], bytes | int] = fcntl.ioctl
    ) -> None:
        self._control = control
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def set_timeout(self, seconds: int) -> int:
        """Ask for a timeout; return the one in force (drivers round, some cannot change it)."""
        # A driver with a fixed timeout refuses; what counts is what it answers then.
        with contextlib.suppress(OSError):
            self._control(self._descriptor, _WDIOC_SETTIMEOUT, struct.pack("i", seconds))
        answer = self._control(self._descriptor, _WDIOC_GETTIMEOUT, struct.pack("i", 0))
        value: int = struct.unpack("i", answer)[0] if isinstance(answer, bytes) else 0
        return value

    def feed(self) -> None:
        """Put off the reset by one timeout.

        Raises:
            OSError: the device failed.
        """
        self._control(self._descriptor, _WDIOC_KEEPALIVE, struct.pack("i", 0))

    def close(self) -> None:
        """Stop the watchdog by the magic character; with nowayout it goes on and resets."""
        if self._descriptor >= 0:
            os.write(self._descriptor, b"V")
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def no_way_out(self) -> bool:
        """The device cannot be stopped once it is open; unknown counts as False."""
        device = Path("/sys/class/watchdog") / Path(self._path).name / "nowayout"
        try:
            return device.read_text().strip() == "1"
        except OSError:
            return False


def open_watchdog(path: str) -> Watchdog:
    """Open the watchdog of the settings; a :class:`NoWatchdog` says why there is none."""
    if path == "none":
        return NoWatchdog("switched off by LEITWOLF_WATCHDOG=none")
    try:
        return DeviceWatchdog(path)
    except OSError as error:
        return NoWatchdog(f"{path}: {error.strerror}")
