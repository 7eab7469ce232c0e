"""Packet connections to the guard and to the resource host (SOCK_SEQPACKET), with reconnect."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path

from leitwolf.system.diary import log

__all__ = ["PacketLink"]

_RETRY_FIRST_S = 0.002
_RETRY_LAST_S = 0.1
_PACKET_BYTES_MAX = 4 << 20
_QUEUE_MAX = 4_096
"""Packets waiting for a reader that does not read; then the connection is dropped."""


class PacketLink:
    """One connection to a process of this node that is made again whenever it ends.

    Packets are delivered in order while a connection lives; what was under way when it ended may
    be lost, which ``on_lost`` says.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_up: Callable[[], None],
        on_packet: Callable[[bytes], None],
        on_lost: Callable[[], None],
    ) -> None:
        """Prepare; :meth:`run` connects."""
        self._path = path
        self._on_up = on_up
        self._on_packet = on_packet
        self._on_lost = on_lost
        self._socket: socket.socket | None = None
        self._queue: deque[bytes] = deque()
        self._ended = asyncio.Event()

    @property
    def up(self) -> bool:
        """A connection lives."""
        return self._socket is not None

    async def run(self) -> None:
        """Connect and connect again, until cancelled."""
        delay = _RETRY_FIRST_S
        try:
            while True:
                try:
                    await self._connect()
                except OSError:
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _RETRY_LAST_S)
                    continue
                delay = _RETRY_FIRST_S
                await self._ended.wait()
        finally:
            self._close()

    async def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _PACKET_BYTES_MAX)
        try:
            await asyncio.get_running_loop().sock_connect(connection, str(self._path))
        except BaseException:
            connection.close()
            raise
        self._ended.clear()
        self._socket = connection
        asyncio.get_running_loop().add_reader(connection, self._readable)
        self._on_up()

    def send(self, packet: bytes) -> None:
        """Send a packet, or queue it while the reader is busy; dropped without a connection."""
        if self._socket is None:
            return
        if self._queue:
            self._enqueue(packet)
            return
        try:
            self._socket.send(packet)
        except BlockingIOError:
            self._enqueue(packet)
            asyncio.get_running_loop().add_writer(self._socket, self._writable)
        except OSError as error:
            log.warning("packet link broke", path=str(self._path), error=str(error))
            self._close()

    def _enqueue(self, packet: bytes) -> None:
        if len(self._queue) >= _QUEUE_MAX:
            log.warning("packet link drops a reader that does not read", path=str(self._path))
            self._close()
            return
        self._queue.append(packet)

    def _writable(self) -> None:
        while self._queue and self._socket is not None:
            try:
                self._socket.send(self._queue[0])
            except BlockingIOError:
                return
            except OSError:
                self._close()
                return
            self._queue.popleft()
        if self._socket is not None:
            asyncio.get_running_loop().remove_writer(self._socket)

    def _readable(self) -> None:
        while self._socket is not None:
            try:
                packet = self._socket.recv(_PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._close()
                return
            self._on_packet(packet)

    def _close(self) -> None:
        connection, self._socket = self._socket, None
        if connection is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(connection)
        loop.remove_writer(connection)
        connection.close()
        self._queue.clear()
        loop.call_soon(self._lost)

    def _lost(self) -> None:
        """Tell it before anything is connected again: what is told then is of the new one."""
        self._on_lost()
        self._ended.set()
