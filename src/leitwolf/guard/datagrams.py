"""The UDP sockets of the guard: one for each of this node's link addresses.

Sockets are bound freely (the address need not be there yet), and bound anew when nothing can be
sent, as after an interface went and came back. A socket that still reaches anybody is kept, with
what waits in it. Nothing here blocks; what cannot be sent is lost, as datagrams are.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from leitwolf.guard.seal import Drops, KeyRing, Opener, Sealer
from leitwolf.guard.strangers import Strangers
from leitwolf.wire.guard import Configure, DatagramReport
from leitwolf.wire.heartbeat import PEER, PeerMessage
from leitwolf.wire.layout import LayoutError

__all__ = ["Datagrams"]

_RECEIVE_BYTES = 2_048
"""More than any datagram has: what is longer is cut off, and dropped as oversized."""
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
_BUFFER_BYTES = 1 << 20
_PRIORITY = 6
_TRAFFIC_CLASS = 0xC0
"""DSCP CS6, network control."""
_BIND_AGAIN_NS = 250_000_000
_PER_PASS = 512
"""Datagrams of one socket in one pass; what is left waits for the next one."""
_NEWS_NS = 1_000_000_000

_Address = tuple[Any, ...]


@dataclass(slots=True)
class _Link:
    """One own address."""

    address: str
    port: int
    channel: socket.socket | None = None
    bind_at: int = 0
    """Instant of the next binding, 0: none is due."""
    works: bool = False
    """The kernel took a datagram since the binding, or since the last failure was noted."""
    told: bool = False
    """The binding was reported, and nothing could be sent since."""

    def failed(self, at: int) -> None:
        """Bind anew at an instant, unless something can be sent until then."""
        if not self.bind_at:
            self.bind_at = at
            self.works = False

    def sent(self) -> None:
        """The kernel took a datagram."""
        self.works = True
        self.told = False


class Datagrams:
    """Sockets, keys and addresses.

    Args:
        epoll: where descriptors are registered.
    """

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._links: list[_Link] = []
        self._peers: dict[int, list[_Address | None]] = {}
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._by_descriptor: dict[int, int] = {}
        self._misrouted = self._unreadable = self._unsent = 0
        self._told: DatagramReport | None = None
        self._news_at = 0
        self.strangers = Strangers()

    def configure(self, configuration: Configure, keys: KeyRing, now: int) -> None:
        """Follow a configuration; sockets whose address stays are kept."""
        if self._sealer is None or self._opener is None:
            self._sealer = Sealer(keys, configuration.node)
            self._opener = Opener(keys)
        self._sealer.set_keys(keys)
        self._opener.set_keys(keys)
        self._opener.set_senders(peer.node for peer in configuration.peers)
        former = self._links
        self._links = []
        for link, address in enumerate(configuration.addresses):
            known = former[link] if link < len(former) else None
            if known and (known.address, known.port) == (address, configuration.port):
                self._links.append(known)
                continue
            if known:
                self._unbind(known)
            self._links.append(_Link(address, configuration.port, bind_at=now))
        for gone in former[len(self._links) :]:
            self._unbind(gone)
        self._peers = {
            peer.node: [_resolve(one, configuration.port) for one in peer.addresses]
            for peer in configuration.peers
        }
        self.maintain(now)

    # --- binding ---------------------------------------------------------------------------------

    def maintain(self, now: int) -> list[str]:
        """Bind what is due to be bound; return the links that were, each once until it works."""
        bound = []
        for number, link in enumerate(self._links):
            if link.channel is not None and link.bind_at and now >= link.bind_at:
                if link.works:
                    link.bind_at = 0
                    continue
                self._unbind(link)
                link.bind_at = now
            if link.channel is None and link.address and now >= link.bind_at:
                link.bind_at = now + _BIND_AGAIN_NS
                if self._bind(number, link):
                    link.bind_at = 0
                    if not link.told:
                        bound.append(link.address)
                    link.told = True
        return bound

    def deadline(self) -> int:
        """Return the instant of the next binding, 0: none is due."""
        return min(
            (link.bind_at for link in self._links if link.bind_at and link.address), default=0
        )

    def _bind(self, number: int, link: _Link) -> bool:
        address = _resolve(link.address, link.port)
        if address is None:
            return False
        family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
        channel = socket.socket(
            family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            if family == socket.AF_INET6:
                channel.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
                channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _TRAFFIC_CLASS)
            else:
                channel.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
                channel.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _TRAFFIC_CLASS)
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY)
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            channel.bind(address)
        except OSError:
            channel.close()
            return False
        link.channel = channel
        self._by_descriptor[channel.fileno()] = number
        self._epoll.register(channel, select.EPOLLIN)
        return True

    def _unbind(self, link: _Link) -> None:
        if link.channel is None:
            return
        self._by_descriptor.pop(link.channel.fileno(), None)
        self._epoll.unregister(link.channel)
        link.channel.close()
        link.channel = None

    # --- messages --------------------------------------------------------------------------------

    def send(self, now: int, node: int, message: PeerMessage, link: int = -1) -> None:
        """Send to a node on one link, or (-1) on all that both have."""
        targets = self._peers.get(node)
        if targets is None or self._sealer is None:
            return
        packet = PEER.encode(message)
        for number, target in enumerate(targets):
            if target is None or number >= len(self._links) or link not in (-1, number):
                continue
            own = self._links[number]
            if own.channel is None:
                continue
            try:
                own.channel.sendto(self._sealer.seal(number, packet), target)
                own.sent()
            except (BlockingIOError, ConnectionRefusedError):
                self._unsent += 1  # full queue, or the other guard is not there
            except OSError:
                self._unsent += 1
                own.failed(now + _BIND_AGAIN_NS)

    def receive(self, now: int) -> Iterator[tuple[int, int, PeerMessage]]:
        """Return sender, link and message of all datagrams that wait; what is wrong is counted."""
        for number, link in enumerate(self._links):
            for _ in range(_PER_PASS):
                if link.channel is None:
                    break
                try:
                    datagram, source = link.channel.recvfrom(_RECEIVE_BYTES)
                except BlockingIOError:
                    break
                except ConnectionRefusedError:
                    continue  # an earlier datagram was answered by ICMP
                except OSError:
                    link.failed(now)
                    break
                foreign = self._foreign()
                found = self._open(number, datagram)
                if found is None and self._foreign() > foreign:
                    self.strangers.note(now, source[0])
                if found is not None:
                    yield found

    def _open(self, number: int, datagram: bytes) -> tuple[int, int, PeerMessage] | None:
        if self._opener is None:
            return None
        opened = self._opener.open(datagram)
        if opened is None:
            return None
        sender, named, packet = opened
        if named != number:
            self._misrouted += 1
            return None
        try:
            return sender, number, PEER.decode(packet)
        except LayoutError:
            self._unreadable += 1
            return None

    def _foreign(self) -> int:
        return self._opener.drops.foreign_key if self._opener is not None else 0

    # --- counts ----------------------------------------------------------------------------------

    def counts(self) -> DatagramReport:
        """Return how many datagrams were dropped, by reason, and not sent."""
        drops = self._opener.drops if self._opener is not None else Drops()
        return DatagramReport(
            malformed=drops.malformed,
            oversized=drops.oversized,
            foreign_key=drops.foreign_key,
            unknown_sender=drops.unknown_sender,
            replayed=drops.replayed,
            forged=drops.forged,
            misrouted=self._misrouted,
            unreadable=self._unreadable,
            unsent=self._unsent,
        )

    def news(self, now: int) -> DatagramReport | None:
        """Return the counts when they changed, at most once a second."""
        if now < self._news_at:
            return None
        self._news_at = now + _NEWS_NS
        counts = self.counts()
        if counts == self._told:
            return None
        self._told = counts
        return counts

    def close(self) -> None:
        """Close all sockets."""
        for link in self._links:
            self._unbind(link)
        self._links = []


def _resolve(address: str, port: int) -> _Address | None:
    """Return a numeric address as the socket calls want it, None: '' or its interface is gone."""
    if not address:
        return None
    try:
        found = socket.getaddrinfo(
            address, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )
    except OSError:
        return None
    return found[0][4]
