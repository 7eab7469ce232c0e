"""Interfaces and addresses of the machine as the kernel has them (rtnetlink).

Every function is one exchange with the kernel over a channel that stays open: about 50 µs, and no
other task of the host can come in between.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from dataclasses import dataclass

from leitwolf.system.rawnetlink import CREATE, EXCLUSIVE, Channel, attribute, decode_attributes
from leitwolf.system.rtnetlink import ADDRESS_PROTOCOL

__all__ = [
    "EVENT_GROUPS",
    "ROUTE",
    "Address",
    "Assigned",
    "Link",
    "add_address",
    "addresses",
    "delete_address",
    "links",
]

ROUTE = 0
"""NETLINK_ROUTE."""
EVENT_GROUPS = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR."""

Address = ipaddress.IPv4Interface | ipaddress.IPv6Interface
"""A virtual address with its prefix."""

_NEW_LINK, _GET_LINK = 16, 18
_NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS = 20, 21, 22
_LINK_HEADER = struct.Struct("=BxHiII")
_LINK_ADDRESS, _LINK_BROADCAST, _LINK_NAME, _LINK_EXTENSIONS = 1, 2, 3, 29
_SKIP_STATISTICS = 8
_FLAG_UP, _FLAG_LOOPBACK, _FLAG_NOARP, _FLAG_CARRIER = 0x1, 0x8, 0x80, 0x10000
_ADDRESS_HEADER = struct.Struct("=BBBBI")
_ADDRESS, _LOCAL, _BROADCAST, _LIFETIME, _FLAGS, _PROTOCOL = 1, 2, 4, 6, 8, 11
_NO_DUPLICATE_DETECTION = 0x02
_FOR_EVER = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface."""

    index: int
    name: str
    hardware_type: int
    """ARPHRD: 1 Ethernet, 32 InfiniBand."""
    hardware: bytes
    """Its hardware address."""
    broadcast: bytes
    """Hardware address of everybody."""
    up: bool
    carrier: bool
    resolves: bool
    """Neighbours are found by ARP and neighbour discovery."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """An address on an interface."""

    index: int
    address: Address
    protocol: int
    """IFA_PROTO: who added it; 0: not told."""

    @property
    def ours(self) -> bool:
        """Whether it bears Leitwolf's mark."""
        return self.protocol == ADDRESS_PROTOCOL


def links(channel: Channel) -> list[Link]:
    """Return all interfaces.

    Raises:
        OSError: the kernel refused.
    """
    body = _LINK_HEADER.pack(0, 0, 0, 0, 0) + attribute(
        _LINK_EXTENSIONS, struct.pack("=I", _SKIP_STATISTICS)
    )
    found = []
    for reply in channel.dump(_GET_LINK, body):
        if reply.kind != _NEW_LINK:
            continue
        _, kind, index, flags, _ = _LINK_HEADER.unpack_from(reply.body)
        values = dict(decode_attributes(reply.body[_LINK_HEADER.size :]))
        found.append(
            Link(
                index=index,
                name=values.get(_LINK_NAME, b"").rstrip(b"\0").decode(),
                hardware_type=kind,
                hardware=values.get(_LINK_ADDRESS, b""),
                broadcast=values.get(_LINK_BROADCAST, b""),
                up=bool(flags & _FLAG_UP),
                carrier=bool(flags & _FLAG_CARRIER),
                resolves=not flags & (_FLAG_NOARP | _FLAG_LOOPBACK),
            )
        )
    return found


def addresses(channel: Channel) -> list[Assigned]:
    """Return all addresses of all interfaces.

    Raises:
        OSError: the kernel refused.
    """
    found = []
    for reply in channel.dump(_GET_ADDRESS, _ADDRESS_HEADER.pack(0, 0, 0, 0, 0)):
        family, prefix, _, _, index = _ADDRESS_HEADER.unpack_from(reply.body)
        if reply.kind != _NEW_ADDRESS or family not in (socket.AF_INET, socket.AF_INET6):
            continue
        values = dict(decode_attributes(reply.body[_ADDRESS_HEADER.size :]))
        # with a peer, IFA_ADDRESS is the other end
        raw = values.get(_LOCAL) or values.get(_ADDRESS)
        if raw is None:
            continue
        address = ipaddress.ip_interface((raw, prefix))
        found.append(Assigned(index, address, values.get(_PROTOCOL, b"\0")[0]))
    return found


def _body(index: int, address: Address) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    header = _ADDRESS_HEADER.pack(family, address.network.prefixlen, 0, 0, index)
    return header + attribute(_LOCAL, address.packed)


def add_address(channel: Channel, index: int, address: Address) -> None:
    """Add an address with Leitwolf's mark, usable at once (no duplicate detection).

    An IPv6 address is added as deprecated (preferred for 0 s): it is answered from, but the node
    does not choose it as the source of connections of its own.

    Raises:
        OSError: EEXIST: the interface has it; ENODEV: no such interface; others.
    """
    body = _body(index, address) + attribute(_ADDRESS, address.packed)
    body += attribute(_FLAGS, struct.pack("=I", _NO_DUPLICATE_DETECTION))
    body += attribute(_PROTOCOL, bytes((ADDRESS_PROTOCOL,)))
    if address.version == 4:
        if address.network.prefixlen < 31:
            body += attribute(_BROADCAST, address.network.broadcast_address.packed)
    else:
        body += attribute(_LIFETIME, struct.pack("=IIII", 0, _FOR_EVER, 0, 0))
    channel.request(_NEW_ADDRESS, CREATE | EXCLUSIVE, body)


def delete_address(channel: Channel, index: int, address: Address) -> bool:
    """Remove an address; False: it was not there.

    Raises:
        OSError: the kernel refused.
    """
    try:
        channel.request(_DELETE_ADDRESS, 0, _body(index, address))
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise
        return False
    return True
