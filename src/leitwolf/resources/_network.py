"""The sockets that all virtual addresses of a node share; opened once, kept open.

Closing a packet socket costs 20 ms (the kernel waits for its readers), opening one is work on the
path of a failover. Events of the kernel are taken as hints only: after any of them (or a lost one)
interfaces and addresses are read again, and what they say counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from leitwolf.model.errors import ResourceError
from leitwolf.resources import _neighbour as neighbour
from leitwolf.resources import _rtnetlink as rtnetlink
from leitwolf.resources._neighbour import Claim
from leitwolf.resources._rtnetlink import Address, Assigned, Link
from leitwolf.system.rawnetlink import Channel

__all__ = ["Network", "Picture"]

_ATTACH_FILTER = 26
_ICMP6_FILTER = 1
_ICMPV6_FILTER_ADVERTISEMENTS = struct.pack(
    "=8I", *([0xFFFFFFFF] * 4), 0xFFFFFEFF, *([0xFFFFFFFF] * 3)
)
"""One bit per ICMPv6 type, set: blocked. Only type 136 passes."""
_EVENT_BUFFER_BYTES = 1 << 16
"""Small on purpose: an overflow counts as an event, and all is read again anyway."""
_SETTLE_S = 0.001
"""Events come in bunches; the kernel is asked once per bunch."""
_ALL_NODES = "ff02::1"
_PACKET_BYTES_MAX = 2_048


@dataclass(frozen=True, slots=True)
class Picture:
    """Interfaces and addresses at one moment."""

    links: dict[int, Link]
    assigned: list[Assigned]
    indices: dict[ipaddress.IPv4Address | ipaddress.IPv6Address, int]
    """Interface of each address; the one that Leitwolf added where there are two."""

    def holder(self, address: Address) -> Link | None:
        """Return the interface that has an address, None: none has."""
        return self.links.get(self.indices.get(address.ip, 0))


@dataclass(slots=True)
class _Ears:
    """Who wants to hear of claims to an address."""

    listeners: list[Callable[[Claim], None]] = field(default_factory=list)


class Network:
    """Netlink, packet and ICMPv6 sockets of this network namespace, on the running loop.

    Raises:
        OSError: a socket cannot be opened (needs CAP_NET_RAW and CAP_NET_ADMIN).
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(rtnetlink.ROUTE)
        self._changed: list[Callable[[Picture], None]] = []
        self._ears: dict[ipaddress.IPv4Address | ipaddress.IPv6Address, _Ears] = {}
        self._settling: asyncio.TimerHandle | None = None
        self._picture: Picture | None = None
        """What the kernel has, None: events have come since."""
        kinds = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | kinds, rtnetlink.ROUTE)
        self._events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _EVENT_BUFFER_BYTES)
        self._events.bind((0, rtnetlink.EVENT_GROUPS))
        self._arp = socket.socket(
            socket.AF_PACKET, socket.SOCK_DGRAM | kinds, socket.htons(neighbour.ARP)
        )
        self._listen_to_arp()
        self._icmp: socket.socket | None = None
        with contextlib.suppress(OSError):  # a kernel without IPv6
            self._icmp = self._open_icmp()
        self._loop.add_reader(self._events, self._on_event)
        self._loop.add_reader(self._arp, self._on_arp)

    def _open_icmp(self) -> socket.socket:
        kinds = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        icmp = socket.socket(socket.AF_INET6, socket.SOCK_RAW | kinds, socket.IPPROTO_ICMPV6)
        icmp.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _ICMPV6_FILTER_ADVERTISEMENTS)
        icmp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        icmp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        icmp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        self._loop.add_reader(icmp, self._on_advertisement, icmp)
        return icmp

    def close(self) -> None:
        """Close the sockets; addresses stay."""
        if self._settling is not None:
            self._settling.cancel()
        for one in (self._events, self._arp, self._icmp):
            if one is not None:
                self._loop.remove_reader(one)
                one.close()
        self._channel.close()

    # --- what the kernel has ---------------------------------------------------------------------

    def look(self) -> Picture:
        """Return interfaces and addresses as the kernel has them now.

        Without an event since, the last picture is still true: of what others change the kernel
        tells within moments. What this node changes itself is read again at once: of an IPv6
        address that skips duplicate detection the kernel tells from a work queue, on a busy machine
        long after the address is there.

        Raises:
            OSError: the kernel refused.
        """
        if self._drain():
            self._settle()
        if self._picture is None:
            self._picture = self._dump()
        return self._picture

    def _dump(self) -> Picture:
        links = {link.index: link for link in rtnetlink.links(self._channel)}
        assigned = rtnetlink.addresses(self._channel)
        ordered = sorted(assigned, key=lambda one: one.ours)
        return Picture(links, assigned, {one.address.ip: one.index for one in ordered})

    def add(self, index: int, address: Address) -> None:
        """Add an address; see :func:`leitwolf.resources._rtnetlink.add_address`.

        Raises:
            ResourceError: ``address-unmarked``: the kernel keeps no mark, so that nobody would
                find the address again to remove it; it was taken away.
            OSError: the kernel refused.
        """
        self._picture = None
        rtnetlink.add_address(self._channel, index, address)
        if not self.present(address):
            rtnetlink.delete_address(self._channel, index, address)
            raise ResourceError(
                f"this kernel does not keep who added {address.ip}",
                code="address-unmarked",
                hint="virtual addresses need Linux 5.18 or newer (IFA_PROTO)",
            )

    def remove(self, address: Address) -> None:
        """Remove an address from every interface to which Leitwolf added it.

        Raises:
            OSError: the kernel refused.
        """
        self._picture = None
        for one in rtnetlink.addresses(self._channel):
            if one.ours and one.address.ip == address.ip:
                rtnetlink.delete_address(self._channel, one.index, one.address)

    def present(self, address: Address) -> bool:
        """Tell whether any interface has an address that Leitwolf added.

        Raises:
            OSError: the kernel refused.
        """
        return any(
            one.ours and one.address.ip == address.ip for one in rtnetlink.addresses(self._channel)
        )

    def on_change(self, listener: Callable[[Picture], None]) -> Callable[[], None]:
        """Call ``listener`` after changes of interfaces or addresses; returns how to end that."""
        self._changed.append(listener)
        return lambda: self._changed.remove(listener)

    def _on_event(self) -> None:
        if self._drain():
            self._settle()

    def _drain(self) -> bool:
        """Take the events that came; with one the last picture is worth nothing."""
        came = False
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self._events.recv(_PACKET_BYTES_MAX)
                    came = True
                except BlockingIOError:
                    raise
                except OSError:
                    came = True
                    break  # ENOBUFS: events were lost, which is an event
        if came:
            self._picture = None
        return came

    def _settle(self) -> None:
        if self._settling is None:
            self._settling = self._loop.call_later(_SETTLE_S, self._settled)

    def _settled(self) -> None:
        self._settling = None
        picture = self.look()
        for listener in list(self._changed):
            listener(picture)

    # --- neighbours ------------------------------------------------------------------------------

    def announce(self, link: Link, address: Address) -> None:
        """Tell all neighbours on ``link`` that ``address`` is here.

        Both go through the gate. Where the kernel cannot do that with ARP, which goes out on a
        packet socket, the permission that the caller has read just before must do.

        Raises:
            OSError: the interface is down or gone.
        """
        if not link.resolves:
            return
        if isinstance(address.ip, ipaddress.IPv4Address):
            destination = (link.name, neighbour.ARP, 0, link.hardware_type, link.broadcast)
            for packet in neighbour.arp_announcement(link.hardware_type, link.hardware, address.ip):
                try:
                    self._arp.sendto(packet, destination)
                except OSError as error:
                    # the gate is shut, or the queue is full: told again soon, if still permitted
                    if error.errno != errno.ENOBUFS:
                        raise
            return
        if self._icmp is None:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        source = struct.pack("=16sI", address.ip.packed, link.index)
        with contextlib.suppress(PermissionError):  # the gate is shut: nobody shall be told
            self._icmp.sendmsg(
                [neighbour.advertisement(link.hardware, address.ip)],
                [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source)],
                0,
                (_ALL_NODES, 0, 0, link.index),
            )

    def probe(self, link: Link, address: Address) -> None:
        """Ask once on ``link`` whether anybody has ``address``; answers come to ``listen``.

        Raises:
            OSError: the interface is down or gone.
        """
        if not link.resolves:
            return
        if isinstance(address.ip, ipaddress.IPv4Address):
            packet = neighbour.arp_probe(link.hardware_type, link.hardware, address.ip)
            kind, hardware = neighbour.ARP, link.broadcast
        else:
            hardware, packet = neighbour.duplicate_solicitation(address.ip)
            kind = neighbour.IPV6
        self._arp.sendto(packet, (link.name, kind, 0, link.hardware_type, hardware))

    def listen(self, address: Address, listener: Callable[[Claim], None]) -> Callable[[], None]:
        """Call ``listener`` for claims of others to ``address``; returns how to end that."""
        ears = self._ears.setdefault(address.ip, _Ears())
        ears.listeners.append(listener)
        self._listen_to_arp()

        def stop() -> None:
            ears.listeners.remove(listener)
            if not ears.listeners and self._ears.get(address.ip) is ears:
                del self._ears[address.ip]
                self._listen_to_arp()

        return stop

    def _listen_to_arp(self) -> None:
        """Have the kernel pass on only ARP about the addresses that are listened to."""
        watched = [one for one in self._ears if isinstance(one, ipaddress.IPv4Address)]
        program = neighbour.arp_filter(watched)
        code = b"".join(struct.pack("=HBBI", *step) for step in program)
        memory = ctypes.create_string_buffer(code, len(code))
        description = struct.pack("@HP", len(program), ctypes.addressof(memory))
        self._arp.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, description)

    def _on_arp(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self._hear(neighbour.read_arp(self._arp.recv(_PACKET_BYTES_MAX)))
                except BlockingIOError:
                    raise
                except OSError:
                    break  # ENETDOWN: an interface went down; the events tell

    def _on_advertisement(self, icmp: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, _ = icmp.recvmsg(_PACKET_BYTES_MAX, 64)
                hops = [
                    int.from_bytes(value[:4], "little")
                    for level, kind, value in ancillary
                    if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)
                ]
                if hops == [255]:  # from this link, not routed here
                    self._hear(neighbour.read_advertisement(data))

    def _hear(self, claim: Claim | None) -> None:
        if claim is None or claim.address not in self._ears:
            return
        own = {link.hardware for link in self.look().links.values()}
        if claim.hardware in own:
            return
        for listener in list(self._ears[claim.address].listeners):
            listener(claim)
