"""The addresses of this machine, by interface (rtnetlink). Standard library only."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

from leitwolf.system.rawnetlink import Channel, decode_attributes

__all__ = ["InterfaceAddress", "interface_addresses"]

_NETLINK_ROUTE = 0
_GET_ADDRESS = 22
_IFA_ADDRESS, _IFA_LOCAL, _IFA_PROTO = 1, 2, 11
_SCOPE_GLOBAL = 0
_ADDRESS_HEADER = struct.Struct("=BBBBI")


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
