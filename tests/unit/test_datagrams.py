"""The guard's sockets on the loopback interface: what cannot be sent, and when they bind anew."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from leitwolf.guard.datagrams import Datagrams
from leitwolf.guard.seal import KeyRing
from leitwolf.wire.guard import Configure, PeerNode
from leitwolf.wire.heartbeat import Probe

MS = 1_000_000
OWN, REACHED, REFUSED = "127.0.0.1", "127.0.0.2", "255.255.255.255"
"""The kernel lets nobody send to the last one (EACCES), as to where no route leads."""
HERE, GOOD, BAD = 1, 2, 3


@pytest.fixture
def datagrams() -> Iterator[Datagrams]:
    with select.epoll() as epoll:
        sockets = Datagrams(epoll)
        yield sockets
        sockets.close()


def configured(datagrams: Datagrams) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((OWN, 0))
        port = free.getsockname()[1]
    peers = (PeerNode(GOOD, (REACHED,)), PeerNode(BAD, (REFUSED,)))
    configuration = Configure(
        HERE, port, (OWN,), 50 * MS, 200 * MS, 300 * MS, 50 * MS, 200 * MS, 300 * MS, peers, ()
    )
    datagrams.configure(configuration, KeyRing([bytes(32)]), 0)


def test_a_socket_that_reaches_anybody_is_kept(datagrams: Datagrams) -> None:
    configured(datagrams)
    for now in range(0, 3_000 * MS, 100 * MS):
        datagrams.send(now, BAD, Probe(now, 1))
        datagrams.send(now, GOOD, Probe(now, 1))
        assert datagrams.maintain(now) == []
    assert datagrams.unsent == 30


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
