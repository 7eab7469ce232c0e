"""The addresses of this machine, by interface (rtnetlink). Standard library only."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

from leitwolf.system.rawnetlink import Channel, decode_attributes
from leitwolf.system.rtnetlink import ADDRESS_PROTOCOL

__all__ = ["InterfaceAddress", "interface_addresses", "interface_faults", "lasting"]

_NETLINK_ROUTE = 0
_GET_LINK, _GET_ADDRESS = 18, 22
_IFLA_NAME = 3
_IS_UP, _HAS_CARRIER = 0x1, 0x10000
_IFA_ADDRESS, _IFA_LOCAL, _IFA_PROTO = 1, 2, 11
_SCOPE_GLOBAL = 0
_ADDRESS_HEADER = struct.Struct("=BBBBI")
_LINK_HEADER = struct.Struct("=BxHiII")


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """One address of one interface."""

    interface: str
    address: str
    subnet: str
    """The network that the prefix spans, for example 192.0.2.0/24."""
    protocol: int
    """IFA_PROTO: who set it; 0: not told."""


def interface_addresses() -> list[InterfaceAddress]:
    """Return all addresses of global scope, loopback left out, in the order of the kernel.

    Raises:
        OSError: the kernel refused.
    """
    channel = Channel(_NETLINK_ROUTE)
    try:
        replies = channel.dump(_GET_ADDRESS, _ADDRESS_HEADER.pack(0, 0, 0, 0, 0))
    finally:
        channel.close()
    found: list[InterfaceAddress] = []
    for reply in replies:
        family, prefix, _, scope, index = _ADDRESS_HEADER.unpack_from(reply.body)
        values = dict(decode_attributes(reply.body[_ADDRESS_HEADER.size :]))
        raw = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
        if family not in (socket.AF_INET, socket.AF_INET6) or raw is None:
            continue
        address = ipaddress.ip_address(raw)
        if scope != _SCOPE_GLOBAL or address.is_loopback:
            continue
        try:
            name = socket.if_indextoname(index)
        except OSError:
            continue  # the interface went away meanwhile
        subnet = ipaddress.ip_network(f"{address}/{prefix}", strict=False)
        protocol = values.get(_IFA_PROTO, b"\0")[0]
        found.append(InterfaceAddress(name, str(address), str(subnet), protocol))
    return found


def lasting(addresses: list[InterfaceAddress]) -> list[InterfaceAddress]:
    """Return the addresses of the machine itself, without those that Leitwolf added."""
    return [item for item in addresses if item.protocol != ADDRESS_PROTOCOL]


def interface_faults() -> dict[str, str]:
    """Return of each interface what keeps it from carrying anything, '': nothing does.

    Raises:
        OSError: the kernel refused.
    """
    channel = Channel(_NETLINK_ROUTE)
    try:
        replies = channel.dump(_GET_LINK, _LINK_HEADER.pack(0, 0, 0, 0, 0))
    finally:
        channel.close()
    found: dict[str, str] = {}
    for reply in replies:
        *_, flags, _ = _LINK_HEADER.unpack_from(reply.body)
        values = dict(decode_attributes(reply.body[_LINK_HEADER.size :]))
        name = values.get(_IFLA_NAME, b"").rstrip(b"\0").decode(errors="replace")
        fault = "" if flags & _HAS_CARRIER else "has no carrier"
        found[name] = fault if flags & _IS_UP else "is down"
    return found
