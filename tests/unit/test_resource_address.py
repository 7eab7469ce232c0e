"""Packets, filters and the choice of the interface for virtual addresses."""

from __future__ import annotations

import ipaddress
import random
import struct

import pytest

from leitwolf.model.errors import ResourceError
from leitwolf.resources import _neighbour as neighbour
from leitwolf.resources._network import Picture
from leitwolf.resources._rtnetlink import Assigned, Link
from leitwolf.resources.ip_address import choose_link
from leitwolf.system.rtnetlink import ADDRESS_PROTOCOL

MAC = bytes.fromhex("020000000001")
V4, V6 = ipaddress.IPv4Address("192.0.2.10"), ipaddress.IPv6Address("2001:db8::10")


def test_announcement_is_read_as_a_claim() -> None:
    """Both forms of the gratuitous ARP claim the address; the probe claims nothing yet."""
    for packet in neighbour.arp_announcement(1, MAC, V4):
        assert len(packet) == 28
        assert neighbour.read_arp(packet) == neighbour.Claim(V4, MAC)
    probe = neighbour.read_arp(neighbour.arp_probe(1, MAC, V4))
    assert probe == neighbour.Claim(V4, MAC, probing=True)


def test_advertisement_is_read_as_a_claim() -> None:
    """Target and link-layer address come back; hardware of 20 bytes, too."""
    for hardware in (MAC, bytes(range(20))):
        packet = neighbour.advertisement(hardware, V6)
        assert len(packet) % 8 == 0
        claim = neighbour.read_advertisement(packet)
        assert claim is not None
        assert claim.address == V6
        assert claim.hardware[: len(hardware)] == hardware


def test_solicitation_is_valid_ipv6() -> None:
    """The duplicate probe goes to the solicited-node group with a right checksum."""
    hardware, packet = neighbour.duplicate_solicitation(V6)
    assert hardware == bytes.fromhex("3333ff000010")
    assert packet[7] == 255
    assert packet[8:24] == bytes(16)
    destination, body = packet[24:40], packet[40:]
    assert str(ipaddress.IPv6Address(destination)) == "ff02::1:ff00:10"
    summed = bytes(16) + destination + struct.pack(">II", len(body), 58) + body
    total = sum(struct.unpack(f">{len(summed) // 2}H", summed))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF


def test_rubbish_is_no_claim() -> None:
    """Any bytes are read without an exception (seed printed)."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    whole = [*neighbour.arp_announcement(1, MAC, V4), neighbour.advertisement(MAC, V6)]
    for _ in range(3000):
        data = bytearray(dice.choice(whole))
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        cut = bytes(data[: dice.randrange(len(data) + 1)])
        neighbour.read_arp(cut)
        neighbour.read_advertisement(cut)


def run_filter(program: list[tuple[int, int, int, int]], packet: bytes) -> bool:
    """Run a classic BPF program as the kernel does, as far as ours go."""
    at, register = 0, 0
    while True:
        code, yes, no, value = program[at]
        at += 1
        if code == 0x30:
            register = packet[value]
        elif code == 0x20:
            (register,) = struct.unpack_from(">I", packet, value)
        elif code == 0x15:
            at += yes if register == value else no
        else:
            return value != 0


@pytest.mark.parametrize("count", [0, 1, 2, 7, 200, 201])
def test_filter_passes_what_matters(count: int) -> None:
    """Claims to watched addresses and probes pass; others only when there are too many."""
    watched = [ipaddress.IPv4Address(0x0A000000 + number) for number in range(1, count + 1)]
    program = neighbour.arp_filter(watched)
    assert all(yes < 256 and no < 256 for _, yes, no, _ in program)
    for address in watched:
        for packet in neighbour.arp_announcement(1, MAC, address):
            assert run_filter(program, packet)
    stranger = neighbour.arp_announcement(1, MAC, V4)[0]
    assert run_filter(program, stranger) is (count > neighbour.FILTERED_ADDRESSES_MAX)
    assert run_filter(program, neighbour.arp_probe(1, MAC, V4)) is (count > 0)
    if count:
        assert run_filter(program, neighbour.arp_announcement(32, bytes(20), V4)[0])


def link(index: int, name: str, *, up: bool = True, carrier: bool = True) -> Link:
    return Link(
        index=index,
        name=name,
        hardware_type=1,
        hardware=MAC,
        broadcast=b"\xff" * 6,
        up=up,
        carrier=carrier,
        resolves=True,
    )


def picture(links: list[Link], *assigned: tuple[int, str, int]) -> Picture:
    found = [Assigned(index, ipaddress.ip_interface(text), mark) for index, text, mark in assigned]
    return Picture(
        {one.index: one for one in links}, found, {one.address.ip: one.index for one in found}
    )


VIP = ipaddress.ip_interface("192.0.2.10/24")


def test_interface_is_chosen_by_name_or_subnet() -> None:
    """A name that is an interface decides; else the subnet does, in both families."""
    seen = picture(
        [link(1, "eth0"), link(2, "eth1")], (1, "192.0.2.1/24", 0), (2, "2001:db8::1/64", 0)
    )
    assert choose_link(seen, VIP, "").name == "eth0"
    assert choose_link(seen, VIP, "clients").name == "eth0"
    assert choose_link(seen, VIP, "eth1").name == "eth1"
    assert choose_link(seen, ipaddress.ip_interface("2001:db8::10/64"), "").name == "eth1"


def test_interface_that_works_is_preferred() -> None:
    """Of two interfaces in the subnet the one with carrier is taken."""
    seen = picture(
        [link(1, "eth0", carrier=False), link(2, "eth1")],
        (1, "192.0.2.1/24", 0),
        (2, "192.0.2.2/24", 0),
    )
    assert choose_link(seen, VIP, "").name == "eth1"


def test_other_virtual_address_is_no_reason() -> None:
    """An interface is not in a subnet because of a virtual address that may leave it."""
    seen = picture([link(1, "eth0")], (1, "192.0.2.11/24", ADDRESS_PROTOCOL))
    with pytest.raises(ResourceError) as caught:
        choose_link(seen, VIP, "")
    assert caught.value.code == "interface-missing"


@pytest.mark.parametrize("broken", [{"up": False}, {"carrier": False}])
def test_interface_that_does_not_work_is_refused(broken: dict[str, bool]) -> None:
    """Down and without carrier: the address would be deaf there."""
    seen = picture([link(1, "eth0", **broken)], (1, "192.0.2.1/24", 0))
    with pytest.raises(ResourceError) as caught:
        choose_link(seen, VIP, "")
    assert caught.value.code == "interface-down"
