"""The arithmetic of the lab's instruments: outages from probes, ownership from frames."""

from __future__ import annotations

import socket
import struct

import pytest
from lab.observer import Evidence, Ownership, evidence_in, question
from lab.prober import LATE_NS, Outage, Tally

MS = 1_000_000
VIP, VIP6 = "10.77.2.50", "fd77:2::50"
A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"


def test_an_outage_lasts_from_the_first_lost_probe_to_the_first_later_answer() -> None:
    """Probes 3 to 7 are lost; the answer to 8 ends it, whenever it is noticed."""
    tally = Tally()
    for number in range(12):
        assert tally.probe(number * MS) == number
        if not 3 <= number <= 7:
            tally.answer(number, number * MS + 300_000)
        tally.settle(number * MS)
    assert tally.take() == []
    tally.settle(11 * MS + LATE_NS)
    assert tally.take() == [Outage(3 * MS, 8 * MS + 300_000)]
    assert tally.answered == 7


def test_a_late_or_double_or_strange_answer_is_none() -> None:
    """Fifty milliseconds are the limit; what is not awaited counts for nothing."""
    tally = Tally()
    tally.probe(MS)
    tally.answer(0, MS + LATE_NS + 1)
    tally.answer(7, MS + 1)
    tally.settle(MS + LATE_NS + 1)
    assert tally.take() == [Outage(MS, 0)]
    tally.answer(0, MS + LATE_NS)
    number = tally.probe(100 * MS)
    tally.answer(number, 101 * MS)
    tally.answer(number, 102 * MS)
    tally.settle(103 * MS)
    assert tally.take() == [Outage(MS, 101 * MS)]
    assert tally.answered == 1


def test_answers_out_of_order_are_no_outage() -> None:
    """The network may reorder."""
    tally = Tally()
    for number in range(3):
        tally.probe(number * MS)
    for number in (2, 0, 1):
        tally.answer(number, 4 * MS)
    tally.settle(200 * MS)
    assert tally.take() == []
    assert tally.answered == 3


def test_a_clean_move_has_never_two_owners() -> None:
    """One is silent before the other speaks, and back again later."""
    ownership = Ownership(window=25 * MS, interval=3 * MS)
    for at in range(0, 300, 3):
        owner = B if 100 <= at < 200 else A
        ownership.ask(VIP)
        ownership.see(at * MS, Evidence(VIP, owner, True))
    report = ownership.take()[VIP]
    assert report["two_owners_ms"] == 0
    assert [mac for _, _, mac in report["owners"]] == [A, B, A]


def test_overlapping_owners_are_measured() -> None:
    """From the second one's first sign to the first one's last; three owners count once."""
    ownership = Ownership(window=25 * MS, interval=3 * MS)
    for at in range(0, 101, 10):
        ownership.see(at * MS, Evidence(VIP, A, False))
    for at in range(62, 201, 10):
        ownership.see(at * MS, Evidence(VIP, B, False))
        ownership.see(at * MS, Evidence(VIP, "02:00:00:00:00:0c", False))
    assert ownership.two_owners(VIP) == (192 - 62) * MS
    assert ownership.take()[VIP]["two_owners_ms"] == 130
    assert ownership.take() == {}


def test_two_answers_to_one_question_are_two_owners() -> None:
    """Even when neither is seen again."""
    ownership = Ownership(window=25 * MS, interval=3 * MS)
    ownership.ask(VIP)
    ownership.see(1, Evidence(VIP, A, True))
    ownership.see(2, Evidence(VIP, A, True))
    assert ownership.two_owners(VIP) == 0
    ownership.see(3, Evidence(VIP, B, True))
    assert ownership.two_owners(VIP) == 3 * MS


def ethernet(
    kind: int, body: bytes, *, source: str = A, target: str = "02:00:00:00:00:01"
) -> bytes:
    addresses = (bytes.fromhex(mac.replace(":", "")) for mac in (target, source))
    return b"".join(addresses) + struct.pack("!H", kind) + body


def arp(operation: int, sender: str) -> bytes:
    mac = bytes.fromhex(A.replace(":", ""))
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + (
        mac + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(VIP)
    )


def ipv6(source: str, message: bytes) -> bytes:
    return (
        struct.pack("!IHBB", 0x60000000, len(message), 58, 255)
        + socket.inet_pton(socket.AF_INET6, source)
        + bytes(16)
        + message
    )


ADVERTISEMENT = bytes([136, 0, 0, 0, 0x60, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, VIP6)


@pytest.mark.parametrize(
    ("frame", "evidence"),
    [
        (ethernet(0x0806, arp(2, VIP)), Evidence(VIP, A, True)),
        (ethernet(0x0806, arp(1, VIP), target="ff:ff:ff:ff:ff:ff"), Evidence(VIP, A, False)),
        (ethernet(0x0806, arp(2, VIP), target="ff:ff:ff:ff:ff:ff"), Evidence(VIP, A, False)),
        (ethernet(0x0806, arp(1, "10.77.2.100")), None),
        (ethernet(0x0800, bytes(12) + socket.inet_aton(VIP) + bytes(10)), Evidence(VIP, A, False)),
        (ethernet(0x0800, bytes(16) + socket.inet_aton(VIP) + bytes(10)), None),
        (ethernet(0x86DD, ipv6(VIP6, bytes(24))), Evidence(VIP6, A, False)),
        (ethernet(0x86DD, ipv6("fe80::1", ADVERTISEMENT)), Evidence(VIP6, A, True)),
        (ethernet(0x86DD, ipv6("fe80::1", bytes(24))), None),
        (b"short", None),
    ],
)  # fmt: skip
def test_frames_that_show_an_owner(frame: bytes, evidence: Evidence | None) -> None:
    """Answers, announcements and packets from the address are evidence; questions are not."""
    assert evidence_in(frame, frozenset({VIP, VIP6})) == evidence


def test_questions_are_no_evidence() -> None:
    """The observer does not take itself for an owner."""
    for address in (VIP, VIP6):
        frame = question(address, bytes(6))
        assert evidence_in(frame, frozenset({VIP, VIP6})) is None
