"""Packets of ARP (RFC 826, 5227) and neighbour discovery (RFC 4861): made and read, not sent."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Collection
from dataclasses import dataclass

__all__ = [
    "ARP",
    "FILTERED_ADDRESSES_MAX",
    "IPV6",
    "Claim",
    "advertisement",
    "arp_announcement",
    "arp_filter",
    "arp_probe",
    "duplicate_solicitation",
    "read_advertisement",
    "read_arp",
]

ARP, IPV6 = 0x0806, 0x86DD
"""Ethernet types."""
_ARP_HEADER = struct.Struct(">HHBBH")
_IPV4, _REQUEST, _REPLY = 0x0800, 1, 2
_SOLICITATION, _ADVERTISEMENT, _ICMPV6 = 135, 136, 58
_OVERRIDE = 0x20000000
_TARGET_HARDWARE = 2
_ALL_ONES_HOPS = 255
FILTERED_ADDRESSES_MAX = 200
"""More addresses than jumps of 8 bits reach: then every ARP packet is looked at."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody says: this address is mine."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    hardware: bytes
    """Hardware address that it is said to have."""
    probing: bool = False
    """Not in use yet: a probe, as at the start of somebody who wants it."""


def _arp(
    kind: int, operation: int, sender: tuple[bytes, bytes], target: tuple[bytes, bytes]
) -> bytes:
    header = _ARP_HEADER.pack(kind, _IPV4, len(sender[0]), 4, operation)
    return header + sender[0] + sender[1] + target[0] + target[1]


def arp_announcement(
    hardware_type: int, hardware: bytes, address: ipaddress.IPv4Address
) -> tuple[bytes, bytes]:
    """Return a gratuitous ARP as request and as reply: some systems heed only one of them."""
    own, nobody = (hardware, address.packed), bytes(len(hardware))
    request = _arp(hardware_type, _REQUEST, own, (nobody, address.packed))
    return request, _arp(hardware_type, _REPLY, own, (hardware, address.packed))


def arp_probe(hardware_type: int, hardware: bytes, address: ipaddress.IPv4Address) -> bytes:
    """Return the question whether anybody has an address, which claims nothing (RFC 5227)."""
    sender = (hardware, bytes(4))
    return _arp(hardware_type, _REQUEST, sender, (bytes(len(hardware)), address.packed))


def read_arp(data: bytes) -> Claim | None:
    """Return what an ARP packet claims; None: nothing, or it is no ARP for IPv4."""
    if len(data) < _ARP_HEADER.size:
        return None
    _, protocol, hardware_bytes, protocol_bytes, operation = _ARP_HEADER.unpack_from(data)
    end = _ARP_HEADER.size + 2 * (hardware_bytes + 4)
    if protocol != _IPV4 or protocol_bytes != 4 or len(data) < end:
        return None
    at = _ARP_HEADER.size
    hardware = data[at : at + hardware_bytes]
    sender = data[at + hardware_bytes : at + hardware_bytes + 4]
    target = data[end - 4 : end]
    if sender != bytes(4):
        return Claim(ipaddress.IPv4Address(sender), hardware)
    if operation == _REQUEST and target != bytes(4):
        return Claim(ipaddress.IPv4Address(target), hardware, probing=True)
    return None


def arp_filter(watched: Collection[ipaddress.IPv4Address]) -> list[tuple[int, int, int, int]]:
    """Return a socket filter (classic BPF) that passes what matters to ``watched``.

    Passed are ARP packets whose sender address is watched or none (probes). On a large network
    everybody's ARP would otherwise wake the host all the time. Links whose hardware addresses are
    not of 6 bytes are passed as they are.
    """
    load_byte, load_word, equal, give = 0x30, 0x20, 0x15, 0x06
    everything, nothing = (give, 0, 0, 0xFFFFFFFF), (give, 0, 0, 0)
    if not watched:
        return [nothing]
    if len(watched) > FILTERED_ADDRESSES_MAX:
        return [everything]
    words = [0, *sorted(int(address) for address in watched)]
    program = [(load_byte, 0, 0, 4), (equal, 0, len(words) + 2, 6), (load_word, 0, 0, 14)]
    # each hit jumps over the rest of the comparisons and the refusal behind them
    program += [(equal, len(words) - number, 0, word) for number, word in enumerate(words)]
    return [*program, nothing, everything]


def advertisement(hardware: bytes, address: ipaddress.IPv6Address) -> bytes:
    """Return an unsolicited neighbour advertisement with override, checksum left to the kernel."""
    option = struct.pack(">BB", _TARGET_HARDWARE, (len(hardware) + 9) // 8) + hardware
    option += bytes(-len(option) % 8)
    return struct.pack(">BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE) + address.packed + option


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def duplicate_solicitation(address: ipaddress.IPv6Address) -> tuple[bytes, bytes]:
    """Return destination hardware address and IPv6 packet of a duplicate address probe.

    The source is the unspecified address, so nobody's neighbour table changes (RFC 4862).
    """
    group = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:]
    body = struct.pack(">BBHI", _SOLICITATION, 0, 0, 0) + address.packed
    pseudo = bytes(16) + group + struct.pack(">II", len(body), _ICMPV6)
    body = body[:2] + struct.pack(">H", _checksum(pseudo + body)) + body[4:]
    header = struct.pack(">IHBB", 6 << 28, len(body), _ICMPV6, _ALL_ONES_HOPS)
    return b"\x33\x33" + group[12:], header + bytes(16) + group + body


def read_advertisement(data: bytes) -> Claim | None:
    """Return what an ICMPv6 neighbour advertisement claims; None: nothing, or it is none."""
    if len(data) < 24 or data[0] != _ADVERTISEMENT or data[1] != 0:
        return None
    at, hardware = 24, b""
    while at + 8 <= len(data):
        kind, length = data[at], data[at + 1] * 8
        if length == 0 or at + length > len(data):
            return None
        if kind == _TARGET_HARDWARE:
            hardware = data[at + 2 : at + length]
        at += length
    return Claim(ipaddress.IPv6Address(data[8:24]), hardware)
