"""``host.sock``: the daemon's way to the host, one packet per message, MessagePack.

The newest daemon counts: when one connects, the former connection is closed. A peer that sends what
is no order loses its connection, nothing else. A daemon that reads too slowly loses it, too; it
connects again and gets an inventory. One packet holds at most about 4 MB, which is an inventory of
10 000 resources (a report has 250 to 400 bytes); the kernel grants that only to root, to others
about 200 kB, which is 500 resources.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from leitwolf.model.errors import MALFORMED
from leitwolf.model.observations import HostOrder, HostReport

__all__ = ["BUFFER_BYTES", "Channel", "listen"]

BUFFER_BYTES = 4 << 20
"""Socket buffers: the largest inventory must fit."""
ORDER_BYTES_MAX = 1 << 20
"""Largest order: all parameters of a resource fit several times."""
REPORTS_WAITING_MAX = 10_000
"""Reports that wait for a slow daemon; beyond, it is disconnected."""


def listen(path: Path) -> socket.socket:
    """Return the listening socket, 0600, in place of what a former host left there.

    Raises:
        OSError: the runtime directory cannot be written.
    """
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    kinds = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    server = socket.socket(socket.AF_UNIX, kinds)
    before = os.umask(0o177)
    try:
        server.bind(str(temporary))
    finally:
        os.umask(before)
    server.listen(4)
    temporary.replace(path)
    return server


def _enlarge(connection: socket.socket) -> None:
    forced = ((33, socket.SO_RCVBUF), (32, socket.SO_SNDBUF))  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
    for option, plain in forced:
        try:
            connection.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        except PermissionError:
            connection.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)


class Channel:
    """The connection to the daemon, if there is one.

    Args:
        server: a listening socket, see :func:`listen`.
        greeting: makes the first report for a daemon that connects.
        accept: takes its orders.
    """

    def __init__(
        self,
        server: socket.socket,
        greeting: Callable[[], HostReport],
        accept: Callable[[HostOrder], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._greeting = greeting
        self._accept = accept
        self._connection: socket.socket | None = None
        self._waiting: deque[bytes] = deque()
        self._decoder = msgspec.msgpack.Decoder(HostOrder)
        self._encoder = msgspec.msgpack.Encoder()
        self._loop.add_reader(server, self._on_connect)

    def report(self, report: HostReport) -> None:
        """Send a report; nothing when no daemon is connected."""
        if self._connection is None:
            return
        if len(self._waiting) >= REPORTS_WAITING_MAX:
            self._disconnect()
            return
        self._waiting.append(self._encoder.encode(report))
        if len(self._waiting) == 1:
            self._flush()

    def close(self) -> None:
        """Close both sockets; the file stays for the daemon to wait at."""
        self._disconnect()
        self._loop.remove_reader(self._server)
        self._server.close()

    def _on_connect(self) -> None:
        try:
            connection, _ = self._server.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self._disconnect()
        connection.setblocking(False)
        _enlarge(connection)
        self._connection = connection
        self._loop.add_reader(connection, self._on_packet, connection)
        self.report(self._greeting())

    def _on_packet(self, connection: socket.socket) -> None:
        try:
            data, _, flags, _ = connection.recvmsg(ORDER_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            self._disconnect()
            return
        if not data or flags & socket.MSG_TRUNC:
            self._disconnect()
            return
        try:
            order = self._decoder.decode(data)
        except MALFORMED:
            self._disconnect()
            return
        self._accept(order)

    def _flush(self) -> None:
        connection = self._connection
        while connection is not None and self._waiting:
            try:
                connection.send(self._waiting[0])
            except BlockingIOError:
                self._loop.add_writer(connection, self._flush)
                return
            except OSError:
                self._disconnect()
                return
            self._waiting.popleft()
        if connection is not None:
            self._loop.remove_writer(connection)

    def _disconnect(self) -> None:
        if self._connection is None:
            return
        self._loop.remove_reader(self._connection)
        self._loop.remove_writer(self._connection)
        self._connection.close()
        self._connection = None
        self._waiting.clear()
