"""The guard's sockets on the loopback interface: when they bind anew, and what they count."""

from __future__ import annotations

import dataclasses
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from leitwolf.guard.datagrams import Datagrams
from leitwolf.guard.seal import DATAGRAM_BYTES_MAX, KeyRing, Sealer
from leitwolf.wire.guard import GUARD, Configure, DatagramReport, PeerNode
from leitwolf.wire.heartbeat import PEER, Probe

MS = 1_000_000
OWN, REACHED, REFUSED = "127.0.0.1", "127.0.0.2", "255.255.255.255"
"""The kernel lets nobody send to the last one (EACCES), as to where no route leads."""
HERE, GOOD, BAD = 1, 2, 3
RING = KeyRing([bytes(32)])
PACKET = PEER.encode(Probe(5, 1))


@pytest.fixture
def datagrams() -> Iterator[Datagrams]:
    with select.epoll() as epoll:
        sockets = Datagrams(epoll)
        yield sockets
        sockets.close()


def configured(datagrams: Datagrams) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((OWN, 0))
        port = free.getsockname()[1]
    peers = (PeerNode(GOOD, (REACHED,)), PeerNode(BAD, (REFUSED,)))
    configuration = Configure(
        HERE, port, (OWN,), 50 * MS, 200 * MS, 300 * MS, 50 * MS, 200 * MS, 300 * MS, peers, ()
    )
    datagrams.configure(configuration, RING, 0)
    return port


def test_a_socket_that_reaches_anybody_is_kept(datagrams: Datagrams) -> None:
    configured(datagrams)
    for now in range(0, 3_000 * MS, 100 * MS):
        datagrams.send(now, BAD, Probe(now, 1))
        datagrams.send(now, GOOD, Probe(now, 1))
        assert datagrams.maintain(now) == []
    assert datagrams.counts().unsent == 30


def test_a_socket_that_reaches_nobody_is_bound_anew_and_tells_it_once(datagrams: Datagrams) -> None:
    configured(datagrams)
    datagrams.send(0, GOOD, Probe(0, 1))
    told = []
    for now in range(100 * MS, 3_000 * MS, 100 * MS):
        datagrams.send(now, BAD, Probe(now, 1))
        told += datagrams.maintain(now)
    assert told == [OWN]
    datagrams.send(3_000 * MS, GOOD, Probe(0, 1))
    for now in range(3_100 * MS, 5_000 * MS, 100 * MS):
        datagrams.send(now, BAD, Probe(now, 1))
        told += datagrams.maintain(now)
    assert told == [OWN, OWN]


def sealed(
    node: int = GOOD, link: int = 0, packet: bytes = PACKET, key: bytes = bytes(32)
) -> bytes:
    return Sealer(KeyRing([key]), node).seal(link, packet)


def spoiled(datagram: bytes) -> bytes:
    return datagram[:-1] + bytes([datagram[-1] ^ 1])


def padded(size: int) -> bytes:
    return sealed() + bytes(size - len(sealed()))


TWICE = sealed()
WRONG: dict[str, Callable[[], tuple[bytes, ...]]] = {
    "malformed": lambda: (b"LW", bytes(100)),
    "oversized": lambda: (padded(DATAGRAM_BYTES_MAX + 1), padded(9_000)),
    "foreign_key": lambda: (sealed(key=b"k" * 32),),
    "unknown_sender": lambda: (sealed(node=9), sealed(node=HERE)),
    "replayed": lambda: (TWICE, TWICE),
    "forged": lambda: (spoiled(sealed()), padded(DATAGRAM_BYTES_MAX)),
    "misrouted": lambda: (sealed(link=1),),
    "unreadable": lambda: (sealed(packet=b"\0"), sealed(packet=PACKET + b"\0")),
}


@pytest.mark.parametrize("reason", WRONG)
def test_what_is_wrong_is_counted_by_its_reason_and_dropped(
    datagrams: Datagrams, reason: str
) -> None:
    """Sent through the socket; nothing of it comes out, and what follows does."""
    port = configured(datagrams)
    sent = WRONG[reason]()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        for datagram in (*sent, sealed()):
            other.sendto(datagram, (OWN, port))
    taken = sent[:1] if reason == "replayed" else ()
    assert len(list(datagrams.receive(0))) == 1 + len(taken)
    none = dict.fromkeys((field.name for field in dataclasses.fields(DatagramReport)), 0)
    assert dataclasses.asdict(datagrams.counts()) == none | {reason: len(sent) - len(taken)}


def test_counts_are_told_when_they_change_at_most_once_a_second(datagrams: Datagrams) -> None:
    """A flood costs one report a second; at rest none is sent."""
    port = configured(datagrams)
    assert datagrams.news(0) == datagrams.counts()
    told = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        for now in range(100 * MS, 5_000 * MS, 100 * MS):
            if now < 3_000 * MS:
                other.sendto(b"?", (OWN, port))
                assert list(datagrams.receive(now)) == []
            report = datagrams.news(now)
            told += [report] if report is not None else []
    assert [report.malformed for report in told] == [10, 20, 29]
    assert GUARD.decode(GUARD.encode(told[-1])) == told[-1] == datagrams.counts()
