"""Many clients at once, each with one connection and one request under way: changes per second.

One thread drives all of them, so that what is measured is the server: an answer costs the thread
some 30 us, whoever gave it.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Callable

__all__ = ["Answers", "changes_per_second"]

_WARM_S = 0.5
_READ_BYTES = 65_536
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Answers:
    """Cuts the answers of one HTTP/1.1 connection out of what comes in. Pure."""

    def __init__(self) -> None:
        self._data = b""

    def push(self, data: bytes) -> list[bytes]:
        """Take bytes; return the answers that they complete, whole.

        Raises:
            RuntimeError: an answer is no success, or has no length.
        """
        self._data += data
        whole = []
        while (end := self._end()) and end <= len(self._data):
            whole.append(self._data[:end])
            self._data = self._data[end:]
        return whole

    def _end(self) -> int:
        """Return the length of the first answer, 0: not known yet."""
        head = self._data.find(b"\r\n\r\n")
        if head < 0:
            return 0
        if not self._data.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"refused: {self._data[:300]!r}")
        length = _LENGTH.search(self._data, 0, head)
        if length is None:
            raise RuntimeError(f"no length: {self._data[:head]!r}")
        return head + 4 + int(length[1])


def changes_per_second(
    connect: Callable[[], socket.socket],
    request: Callable[[int], bytes],
    *,
    clients: int,
    seconds: float,
) -> float:
    """Return how many requests were answered in a second, after a short warm-up.

    Args:
        connect: makes a connection to the server.
        request: returns the bytes of the request with a number; no number comes twice.
        clients: how many ask at once.
        seconds: how long is counted.

    Raises:
        RuntimeError: a request was refused, or a connection ended.
    """
    connections = {one.fileno(): (one, Answers()) for one in (connect() for _ in range(clients))}
    poll = select.epoll()
    try:
        for descriptor in connections:
            poll.register(descriptor, select.EPOLLIN)
        for number, (connection, _) in enumerate(connections.values()):
            connection.sendall(request(number))
        number, answered, begun = clients, 0, 0.0
        warm_until = time.perf_counter() + _WARM_S
        while True:
            now = time.perf_counter()
            if not begun and now >= warm_until:
                begun, answered = now, 0
            if begun and now >= begun + seconds:
                return answered / (now - begun)
            for descriptor, _ in poll.poll(1.0):
                connection, answers = connections[descriptor]
                data = connection.recv(_READ_BYTES)
                if not data:
                    raise RuntimeError("the server closed a connection")
                for _ in answers.push(data):
                    answered += 1
                    connection.sendall(request(number))
                    number += 1
    finally:
        poll.close()
        for connection, _ in connections.values():
            connection.close()
