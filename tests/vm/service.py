"""What the group of these tests runs: tells who it is to whoever asks, and to the watcher unasked.

Program: ``service.py PORT WATCHER:PORT``. Every tenth of a second it sends ``runs NODE PID`` to the
watcher, by the address of its node; a datagram to PORT is answered with ``answers NODE PID``.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time

PERIOD_S = 0.1


def main() -> None:
    """Serve until killed."""
    host, _, port = sys.argv[2].rpartition(":")
    watcher = (host, int(port))
    me = f"{os.uname().nodename} {os.getpid()}"
    asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asked.bind(("0.0.0.0", int(sys.argv[1])))  # the address may come later
    telling = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    due = time.monotonic()
    while True:
        if time.monotonic() >= due:
            due = time.monotonic() + PERIOD_S
            with contextlib.suppress(OSError):  # its cable is out
                telling.sendto(f"runs {me}".encode(), watcher)
        if select.select([asked], [], [], max(0.0, due - time.monotonic()))[0]:
            _, client = asked.recvfrom(256)
            with contextlib.suppress(OSError):  # the gate is shut
                asked.sendto(f"answers {me}".encode(), client)


if __name__ == "__main__":
    main()
