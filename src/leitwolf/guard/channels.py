"""``guard.sock``: the daemon and the host of this node as the guard sees them.

Never blocks: what a client does not read is queued up to a bound, then the client is dropped. A
client that breaks the protocol is dropped. A newer daemon or host displaces the older one.
"""

from __future__ import annotations

import enum
import os
import select
import socket
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from leitwolf.wire.guard import GUARD, DaemonHello, GuardCommand, HostHello
from leitwolf.wire.layout import LayoutError

__all__ = ["Arrival", "Client", "Clients", "Kind"]

_PACKET_BYTES_MAX = 65_536
_QUEUE_MAX = 512
"""Packets waiting for one client: seconds of reports, then it hangs and is dropped."""
_UNKNOWN_MAX = 8
"""Connections that have not said who they are."""
_PACKETS_PER_PASS = 64


class Kind(enum.Enum):
    """Who a client is."""

    UNKNOWN = "unknown"
    DAEMON = "daemon"
    HOST = "host"
    GONE = "gone"


@dataclass(slots=True, eq=False)
class Client:
    """One connection."""

    channel: socket.socket
    kind: Kind = Kind.UNKNOWN
    queue: deque[bytes] = field(default_factory=deque)


@dataclass(frozen=True, slots=True)
class Arrival:
    """Something that a client did: it spoke, or (``command`` None) it is gone."""

    kind: Kind
    command: GuardCommand | None
    reason: str = ""


class Clients:
    """Listener and connections.

    Args:
        path: of the socket; one that is there is replaced.
        epoll: where descriptors are registered.
        greeting: packet that every new connection gets first.

    Raises:
        OSError: the socket cannot be made.
    """

    def __init__(self, path: Path, epoll: select.epoll, greeting: bytes) -> None:
        self._epoll = epoll
        self._greeting = greeting
        self._by_descriptor: dict[int, Client] = {}
        self._listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        # Made under another name and moved: nobody ever meets it with other permissions, and
        # the name is never gone.
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        self._listener.bind(str(fresh))
        fresh.chmod(0o600)
        self._listener.listen(_UNKNOWN_MAX)
        fresh.rename(path)
        self.listening = self._listener.fileno()
        epoll.register(self._listener, select.EPOLLIN)

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._by_descriptor

    def client(self, kind: Kind) -> Client | None:
        """Return the daemon or the host, None when it is not connected."""
        return next((one for one in self._by_descriptor.values() if one.kind is kind), None)

    def accept(self) -> None:
        """Take new connections, and greet them."""
        while True:
            try:
                channel, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                return  # the client gave up, or descriptors ran out: it tries again
            channel.setblocking(False)
            unknown = [c for c in self._by_descriptor.values() if c.kind is Kind.UNKNOWN]
            if len(unknown) >= _UNKNOWN_MAX:
                self._drop(unknown[0])
            client = Client(channel)
            self._by_descriptor[channel.fileno()] = client
            self._epoll.register(channel, select.EPOLLIN)
            self.send(client, self._greeting)

    def receive(self, descriptor: int) -> Iterator[Arrival]:
        """Take what a client sent, at most a bounded number of packets."""
        client = self._by_descriptor[descriptor]
        for _ in range(_PACKETS_PER_PASS):
            try:
                packet = client.channel.recv(_PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError as error:
                yield from self._lose(client, str(error))
                return
            if not packet:
                yield from self._lose(client, "closed")
                return
            try:
                command = GUARD.decode(packet)
            except LayoutError as error:
                yield from self._lose(client, str(error))
                return
            yield from self._understand(client, command)
            if client.kind is Kind.GONE:
                return

    def _understand(self, client: Client, command: GuardCommand) -> Iterator[Arrival]:
        if client.kind is Kind.UNKNOWN:
            wanted = {DaemonHello: Kind.DAEMON, HostHello: Kind.HOST}.get(type(command))
            if wanted is None:
                yield from self._lose(client, f"{type(command).__name__} before a hello")
                return
            former = self.client(wanted)
            if former is not None:
                yield from self._lose(former, "displaced")
            client.kind = wanted
        yield Arrival(client.kind, command)

    def _lose(self, client: Client, reason: str) -> Iterator[Arrival]:
        kind = client.kind
        self._drop(client)
        if kind in (Kind.DAEMON, Kind.HOST):
            yield Arrival(kind, None, reason)

    def _drop(self, client: Client) -> None:
        descriptor = client.channel.fileno()
        client.kind = Kind.GONE
        self._by_descriptor.pop(descriptor, None)
        self._epoll.unregister(descriptor)
        client.channel.close()

    def send(self, client: Client, packet: bytes) -> bool:
        """Send or queue a packet; False: the client does not read and must be dropped."""
        if client.queue:
            if len(client.queue) >= _QUEUE_MAX:
                return False
            client.queue.append(packet)
            return True
        try:
            client.channel.send(packet)
        except BlockingIOError:
            client.queue.append(packet)
            self._epoll.modify(client.channel, select.EPOLLIN | select.EPOLLOUT)
        except OSError:
            return True  # its end shows when it is read from
        return True

    def flush(self, descriptor: int) -> None:
        """Send what is queued for a client that can take it."""
        client = self._by_descriptor[descriptor]
        while client.queue:
            try:
                client.channel.send(client.queue[0])
            except BlockingIOError:
                return
            except OSError:
                client.queue.clear()
                break
            client.queue.popleft()
        self._epoll.modify(client.channel, select.EPOLLIN)

    def lose(self, client: Client, reason: str) -> list[Arrival]:
        """Drop a client."""
        return list(self._lose(client, reason))

    def close(self) -> None:
        """Close everything; the name stays for the next guard to replace."""
        for client in list(self._by_descriptor.values()):
            self._drop(client)
        self._epoll.unregister(self._listener)
        self._listener.close()
