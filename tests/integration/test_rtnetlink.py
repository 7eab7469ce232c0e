"""Marked addresses are found and removed, with a real kernel."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from tests.integration import kernel_support as support
from tests.integration.kernel_support import inside

from leitwolf.system.rawnetlink import CREATE, EXCLUSIVE, Channel, attribute
from leitwolf.system.rtnetlink import (
    ADDRESS_PROTOCOL,
    NodeAddress,
    marked_addresses,
    remove_address,
)

pytestmark = pytest.mark.root


@pytest.fixture
def interface() -> Iterator[int]:
    with support.world() as net, inside(net.node):
        yield socket.if_nametoindex("eth0")


def add_marked(interface: int, address: str, prefix: int, mark: int = ADDRESS_PROTOCOL) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    raw = socket.inet_pton(family, address)
    body = struct.pack("=BBBBI", family, prefix, 0, 0, interface)
    body += attribute(2, raw) + attribute(1, raw) + attribute(11, bytes((mark,)))
    channel = Channel(0)
    channel.request(20, CREATE | EXCLUSIVE, body)
    channel.close()


def test_only_marked_addresses_are_found_and_removed(interface: int) -> None:
    """Both families; the node's own addresses, and those with other marks, stay."""
    add_marked(interface, "198.51.100.1", 32)
    add_marked(interface, "2001:db8:1::1", 128)
    add_marked(interface, "198.51.100.9", 24, mark=77)
    expected = {
        NodeAddress(interface, "198.51.100.1", 32),
        NodeAddress(interface, "2001:db8:1::1", 128),
    }
    assert set(marked_addresses()) == expected
    assert marked_addresses(77) == [NodeAddress(interface, "198.51.100.9", 24)]
    for one in expected:
        assert remove_address(*one)
        assert not remove_address(*one), "it is gone already"
    assert marked_addresses() == []
    assert len(marked_addresses(77, also={support.OWN4, support.OWN6})) == 3


def test_unmarked_addresses_are_found_by_name(interface: int) -> None:
    """Kernels without the mark: the gate's list says which addresses are Leitwolf's."""
    found = marked_addresses(also={support.VIRTUAL4, support.VIRTUAL6, "203.0.113.77"})
    assert set(found) == {
        NodeAddress(interface, support.VIRTUAL4, 32),
        NodeAddress(interface, support.VIRTUAL6, 128),
    }


def test_what_cannot_be_removed_is_told_apart(interface: int) -> None:
    """No such interface: not there. No address or prefix: a mistake of the caller."""
    assert not remove_address(4711, "198.51.100.1", 32)
    with pytest.raises(ValueError, match="not an IP address"):
        remove_address(interface, "198.51.100", 32)
    with pytest.raises(ValueError, match="no prefix of"):
        remove_address(interface, "198.51.100.1", 33)


def test_many_addresses_come_in_several_parts(interface: int) -> None:
    """A dump longer than one datagram is read to its end."""
    wanted = {f"10.9.{i // 250}.{i % 250}" for i in range(600)}
    for address in wanted:
        add_marked(interface, address, 32)
    assert {one.address for one in marked_addresses()} == wanted
