"""Which virtual addresses this node has, and their removal, for the guard's stop path.

The host marks each address that it adds with :data:`ADDRESS_PROTOCOL` (attribute IFA_PROTO, shown
by ``ip address`` as ``proto 0x4c``), so that whoever finds the node later knows what is
Leitwolf's. Kernels before 5.18 keep no mark; there the set ``managed`` of the gate, which the
kernel keeps as well, says it: pass :meth:`leitwolf.system.gate.Gate.managed` as ``also``.

Standard library only: the guard imports this.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection
from typing import Final, NamedTuple

from leitwolf.system.rawnetlink import Channel, attribute, decode_attributes

__all__ = ["ADDRESS_PROTOCOL", "NodeAddress", "marked_addresses", "remove_address"]

ADDRESS_PROTOCOL: Final = 0x4C
"""Mark of the addresses that Leitwolf added ("L"; 0..3 are the kernel's own)."""

_ROUTE = 0
_NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS = 20, 21, 22
_ADDRESS, _LOCAL, _PROTOCOL = 1, 2, 11
_HEADER = struct.Struct("=BBBBI")


class NodeAddress(NamedTuple):
    """An address on an interface of this network namespace."""

    interface: int
    """Index of the interface."""
    address: str
    prefix: int
    """Length of the network prefix, bits."""


def marked_addresses(
    protocol: int = ADDRESS_PROTOCOL, also: Collection[str] = ()
) -> list[NodeAddress]:
    """Return the addresses that bear the mark, and those that ``also`` names.

    Args:
        protocol: the mark, 1..255.
        also: addresses without prefix that count as marked.

    Raises:
        OSError: the kernel refused.
    """
    channel = Channel(_ROUTE)
    try:
        replies = channel.dump(_GET_ADDRESS, _HEADER.pack(0, 0, 0, 0, 0))
    finally:
        channel.close()
    found: list[NodeAddress] = []
    for reply in replies:
        family, prefix, _, _, interface = _HEADER.unpack_from(reply.body)
        if reply.kind != _NEW_ADDRESS or family not in (socket.AF_INET, socket.AF_INET6):
            continue
        values = dict(decode_attributes(reply.body[_HEADER.size :]))
        # With a peer, IFA_ADDRESS is the other end.
        raw = values.get(_LOCAL) or values.get(_ADDRESS)
        if raw is None:
            continue
        address = socket.inet_ntop(family, raw)
        if values.get(_PROTOCOL) == bytes((protocol,)) or address in also:
            found.append(NodeAddress(interface, address, prefix))
    return found


def remove_address(interface: int, address: str, prefix: int) -> bool:
    """Remove an address from an interface; False: it was not there (any more).

    Removing the first IPv4 address of a subnet makes the kernel remove the later ones of the same
    subnet too, unless the interface has ``promote_secondaries`` set.

    Raises:
        ValueError: it is no address, or the prefix does not fit it.
        OSError: the kernel refused.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        raw = socket.inet_pton(family, address)
    except OSError:
        raise ValueError(f"not an IP address: {address!r}") from None
    if not 0 <= prefix <= len(raw) * 8:
        raise ValueError(f"no prefix of {address}: {prefix}")
    body = _HEADER.pack(family, prefix, 0, 0, interface) + attribute(_LOCAL, raw)
    channel = Channel(_ROUTE)
    try:
        channel.request(_DELETE_ADDRESS, 0, body)
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise
        return False
    finally:
        channel.close()
    return True
