"""Watches from outside which machine answers for an address, and whether ever two do.

It hears every frame that enters the switch, and asks for the address itself every few
milliseconds. Evidence that a machine owns an address: it answers or announces it (ARP, neighbour
advertisement) or sends an IP packet from it. Evidence of one machine with no gap above the window
makes an interval; the time with two owners is the overlap of intervals of different machines. Two
machines that answer one question count as the time between two questions, at least.

Program: ``observer.py BRIDGE ADDRESS,... INTERVAL_US WINDOW_US``; class: :class:`Observer`.
"""

from __future__ import annotations

import ipaddress
import json
import select
import socket
import struct
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from lab.child import MeasuringProcess
from lab.realtime import be_punctual, wall_minus_monotonic

if TYPE_CHECKING:
    from lab.world import World

__all__ = ["Evidence", "Observer", "Ownership", "evidence_in", "question"]

_ETH_P_ALL, _PACKET_OUTGOING, _SO_TIMESTAMPNS = 3, 4, 35
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_OBSERVER4 = "10.77.2.250"


class Evidence(NamedTuple):
    """A frame that shows who owns an address."""

    address: str
    mac: str
    answer: bool
    """It answers a question (the frame is an ARP reply or a solicited advertisement)."""


class Ownership:
    """Intervals of evidence by address and machine, and their overlap. Pure; times in ns.

    Args:
        window: evidence that is farther apart is two intervals.
        interval: between two questions.
    """

    def __init__(self, window: int, interval: int) -> None:
        self._window = window
        self._interval = interval
        self._intervals: dict[str, dict[str, list[list[int]]]] = {}
        self._asked: dict[str, set[str]] = {}
        self._doubles: dict[str, int] = {}

    def ask(self, address: str) -> None:
        """A question goes out: its answers are counted anew."""
        self._asked[address] = set()

    def see(self, at: int, evidence: Evidence) -> None:
        """Add evidence of the time ``at``."""
        address, mac, answer = evidence
        intervals = self._intervals.setdefault(address, {}).setdefault(mac, [])
        if intervals and at - intervals[-1][1] <= self._window:
            intervals[-1][1] = max(at, intervals[-1][1])
        else:
            intervals.append([at, at])
        if answer:
            answered = self._asked.setdefault(address, set())
            if mac not in answered and answered:
                self._doubles[address] = self._doubles.get(address, 0) + 1
            answered.add(mac)

    def two_owners(self, address: str) -> int:
        """Return for how long two machines owned the address, ns."""
        overlaps = []
        for one, other in combinations(self._intervals.get(address, {}).values(), 2):
            for first, last in one:
                overlaps += [
                    (max(first, begin), min(last, end))
                    for begin, end in other
                    if max(first, begin) < min(last, end)
                ]
        total, reached = 0, 0
        for begin, end in sorted(overlaps):
            total += max(0, end - max(begin, reached))
            reached = max(reached, end)
        return max(total, self._doubles.get(address, 0) * self._interval)

    def take(self) -> dict[str, Any]:
        """Return what was seen since the last call, by address, and forget it."""
        report = {
            address: {
                "two_owners_ms": self.two_owners(address) / 1e6,
                "owners": sorted(
                    (first, last, mac)
                    for mac, intervals in machines.items()
                    for first, last in intervals
                ),
            }
            for address, machines in self._intervals.items()
        }
        self._intervals.clear()
        self._doubles.clear()
        return report


def evidence_in(frame: bytes, addresses: frozenset[str]) -> Evidence | None:
    """Return what an Ethernet frame says about who owns one of ``addresses``."""
    if len(frame) < 34:
        return None
    mac = frame[6:12].hex(":")
    (kind,) = struct.unpack_from("!H", frame, 12)
    address, answer = "", False
    if kind == _ARP and len(frame) >= 42:
        address, answer = socket.inet_ntoa(frame[28:32]), frame[21] == 2 and frame[0] & 1 == 0
    elif kind == _IPV4:
        address = socket.inet_ntoa(frame[26:30])
    elif kind == _IPV6 and len(frame) >= 54:
        address = socket.inet_ntop(socket.AF_INET6, frame[22:38])
        if frame[20] == 58 and len(frame) >= 78 and frame[54] == 136:  # neighbour advertisement
            address = socket.inet_ntop(socket.AF_INET6, frame[62:78])
            answer = frame[0] & 1 == 0
    return Evidence(address, mac, answer) if address in addresses else None


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def question(address: str, mac: bytes) -> bytes:
    """Return the frame that asks who has ``address``: ARP or a neighbour solicitation."""
    if ":" not in address:
        sender, target = socket.inet_aton(_OBSERVER4), socket.inet_aton(address)
        body = struct.pack("!HHBBH6s4s6s4s", 1, _IPV4, 6, 4, 1, mac, sender, bytes(6), target)
        return b"\xff" * 6 + mac + struct.pack("!H", _ARP) + body
    target = ipaddress.IPv6Address(address).packed
    source = b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]])
    group = bytes.fromhex("ff0200000000000000000001ff") + target[13:]
    message = bytes([135, 0, 0, 0, 0, 0, 0, 0]) + target + b"\x01\x01" + mac
    pseudo = source + group + struct.pack("!IHBB", len(message), 0, 0, 58)
    message = message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]
    head = struct.pack("!IHBB", 0x60000000, len(message), 58, 255) + source + group
    return b"\x33\x33" + group[12:] + mac + struct.pack("!H", _IPV6) + head + message


def _hear(
    ears: socket.socket, suffix: str, addresses: frozenset[str], ownership: Ownership
) -> None:
    offset = wall_minus_monotonic()
    while True:
        try:
            frame, ancillary, _, origin = ears.recvmsg(256, 64)
        except BlockingIOError:
            return
        interface, _, direction = origin[:3]
        if direction == _PACKET_OUTGOING or not interface.endswith(suffix):
            continue
        evidence = evidence_in(frame, addresses)
        if evidence is None:
            continue
        at = time.monotonic_ns()
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                seconds, nanoseconds = struct.unpack("qq", content)
                at = min(at, seconds * 1_000_000_000 + nanoseconds - offset)
        ownership.see(at, evidence)


def main() -> None:
    """Watch until the standard input ends; answer each line with a report."""
    bridge, listed, interval, window = (
        sys.argv[1], sys.argv[2].split(","), int(sys.argv[3]) * 1000, int(sys.argv[4]) * 1000
    )  # fmt: skip
    addresses = frozenset(str(ipaddress.ip_address(address)) for address in listed)
    ears = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    ears.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    ears.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    ears.setblocking(False)
    mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    mouth.bind((bridge, 0))
    mac = mouth.getsockname()[4]
    questions = {address: question(address, mac) for address in addresses}
    ownership = Ownership(window, interval)
    be_punctual()
    suffix, due = bridge.removeprefix("br-"), time.monotonic_ns()
    while True:
        now = time.monotonic_ns()
        if now >= due:
            _hear(ears, suffix, addresses, ownership)  # answers to the question before
            for address, frame in questions.items():
                ownership.ask(address)
                mouth.send(frame)
            due = max(due + interval, now)
        timeout = max(0.0, (due - time.monotonic_ns()) / 1e9)
        ready, _, _ = select.select([0, ears.fileno()], [], [], timeout)
        _hear(ears, suffix, addresses, ownership)
        if 0 in ready:
            if not sys.stdin.readline():
                return
            sys.stdout.write(json.dumps(ownership.take()) + "\n")
            sys.stdout.flush()


class Observer(MeasuringProcess):
    """Watches addresses on a network of a world; a context manager.

    Args:
        world: where.
        addresses: virtual addresses, IPv4 and IPv6.
        network: of the addresses.
        interval_us: between two questions for each address.
        window_us: above it, a silence ends an interval of ownership.
    """

    def __init__(
        self,
        world: World,
        addresses: list[str],
        *,
        network: str = "client0",
        interval_us: int = 3000,
        window_us: int = 25_000,
    ) -> None:
        self._names = {world.mac(node, network): node for node in world.nodes}
        bridge = next(item.bridge for item in world.networks if item.name == network)
        arguments = [bridge, ",".join(addresses), str(interval_us), str(window_us)]
        super().__init__(world.enter_network("switch"), Path(__file__), arguments)

    def two_owners_ms(self) -> float:
        """Return for how long an address had two owners since the last report: the longest."""
        return max((seen["two_owners_ms"] for seen in self.report().values()), default=0.0)

    def owners(self) -> dict[str, list[str]]:
        """Return, by address, which nodes owned it since the last report, in their order."""
        owners: dict[str, list[str]] = {}
        for address, seen in self.report().items():
            line = owners.setdefault(address, [])
            for _, _, mac in seen["owners"]:
                name = self._names.get(mac, mac)
                if line[-1:] != [name]:
                    line.append(name)
        return owners


if __name__ == "__main__":
    main()
