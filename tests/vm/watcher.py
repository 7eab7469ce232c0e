"""Sees from outside which machine runs the service, and which one answers at its virtual address.

Program: ``watcher.py OWN_ADDRESS PORT VIRTUAL_ADDRESS PORT``. It hears what the service says of
itself (see ``service.py``) and asks at the virtual address twenty times a second. Class:
:class:`Watcher`.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
import time
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from lab.child import MeasuringProcess

__all__ = ["Sighting", "Watcher"]

_ASK_S = 0.05


class Sighting(NamedTuple):
    """One process of the service: what was seen of it. Instants of the monotonic clock, s."""

    kind: str
    """``runs`` or ``answers``."""
    node: str
    process: int
    first: float
    last: float
    gap: float
    """Longest silence between two signs of it."""


def main() -> None:
    """Watch until the standard input ends; answer each line with all sightings since the last."""
    own, port, address, asked = sys.argv[1:]
    channel = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    channel.bind((own, int(port)))
    seen: dict[str, list[float]] = {}
    due = time.monotonic()
    while True:
        if time.monotonic() >= due:
            due = time.monotonic() + _ASK_S
            with contextlib.suppress(OSError):  # nobody has the address
                channel.sendto(b"who", (address, int(asked)))
        wait = max(0.0, due - time.monotonic())
        ready = select.select([0, channel], [], [], wait)[0]
        if channel in ready:
            try:
                text = channel.recv(256).decode()
            except OSError:
                continue  # an ICMP error
            now = time.monotonic()
            known = seen.setdefault(text, [now, now, 0.0])
            known[1:] = now, max(known[2], now - known[1])
        elif 0 in ready:
            if not sys.stdin.readline():
                return
            report = [
                (kind, node, int(pid), *known)
                for text, known in seen.items()
                for kind, node, pid in [text.split()]
            ]
            sys.stdout.write(json.dumps({"seen": report}) + "\n")
            sys.stdout.flush()
            seen.clear()


class Watcher(MeasuringProcess):
    """Watches; a context manager.

    Args:
        enter: command prefix that enters the network of the clients.
        own: address and port here.
        service: address and port of the service.
    """

    def __init__(self, enter: list[str], own: tuple[str, int], service: tuple[str, int]) -> None:
        arguments = [own[0], str(own[1]), service[0], str(service[1])]
        super().__init__(enter, Path(__file__), arguments)

    def sightings(self) -> list[Sighting]:
        """Return what was seen since the last call."""
        return [Sighting(*one) for one in self.report()["seen"]]


if __name__ == "__main__":
    main()
