"""sd_notify: telling systemd how this service is. Nothing here needs systemd to be there.

The protocol is sd_notify(3): one datagram of ``NAME=value`` lines to the socket that the
environment names. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

__all__ = ["VARIABLES", "Notifier"]

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What children of the service must not inherit."""


class Notifier:
    """The service manager as this process sees it; says nothing when there is none.

    Args:
        environment: usually ``os.environ``.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = environment.get("WATCHDOG_USEC", "")
        for_process = environment.get("WATCHDOG_PID", "")
        mine = not for_process or for_process == str(os.getpid())
        self.watchdog_ms = int(usec) // 1_000 if usec.isdigit() and mine and address else 0
        """Silence after which systemd kills the service, 0: never."""

    @property
    def managed(self) -> bool:
        """A service manager listens."""
        return bool(self._address)

    def send(self, *lines: str) -> bool:
        """Send lines ``NAME=value``; tell whether they went out. Never blocks, never raises."""
        if not self._address:
            return False
        with contextlib.suppress(OSError):  # systemd judges by silence, and nobody else listens
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
                channel.sendto("\n".join(lines).encode(), self._address)
            return True
        return False

    def ready(self, status: str = "") -> bool:
        """Start-up, or a reload, is finished."""
        return self.send("READY=1", *([f"STATUS={status}"] if status else []))

    def status(self, text: str) -> bool:
        """One line for ``systemctl status``."""
        return self.send(f"STATUS={text}")

    def watchdog(self) -> bool:
        """This process makes progress."""
        return self.send("WATCHDOG=1")

    def extend(self, seconds: int) -> bool:
        """A start or stop may take so much longer from now on, s."""
        return self.send(f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000}")

    def stopping(self, status: str = "") -> bool:
        """The stop has begun."""
        return self.send("STOPPING=1", *([f"STATUS={status}"] if status else []))

    def reloading(self) -> bool:
        """A reload has begun; :meth:`ready` ends it."""
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000
        return self.send("RELOADING=1", f"MONOTONIC_USEC={now_us}")

    def main_process(self, process: int) -> bool:
        """The main process of the service is another one from now on."""
        return self.send(f"MAINPID={process}")
