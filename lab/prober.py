"""A client that asks an address all the time and knows how long nobody answered.

An outage lasts from the sending of the first probe that is lost to the first answer to a later
one. Answers after 50 ms count as lost. UDP probes go out every millisecond; answers are timed by
the kernel, so that a busy prober invents no outage. HTTP probes are whole requests, each on a
connection of its own.

Program: ``prober.py udp|http ADDRESS PORT INTERVAL_US``; class: :class:`Prober`.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from lab.child import MeasuringProcess
from lab.realtime import be_punctual, wall_minus_monotonic
from lab.stalls import Meter

if TYPE_CHECKING:
    from lab.world import World

__all__ = ["Outage", "Prober", "Tally"]

LATE_NS = 50_000_000
_SO_TIMESTAMPNS = 35
_PROBE = struct.Struct("<8sQQ")


class Outage(NamedTuple):
    """Nobody answered; monotonic ns. ``end`` 0: it lasts."""

    start: int
    end: int

    @property
    def milliseconds(self) -> float:
        """Its length, NaN while it lasts."""
        return (self.end - self.start) / 1e6 if self.end else float("nan")


class Tally:
    """Turns probes and answers, in any order, into outages. Pure."""

    def __init__(self, first: int = 0) -> None:
        self._pending: deque[int] = deque()
        self._answers: dict[int, int] = {}
        self._head = first
        self._outage = 0
        self.outages: list[Outage] = []
        self.sent = 0
        self.answered = 0

    def probe(self, at: int) -> int:
        """Count a probe that is sent at ``at``; return its number."""
        self._pending.append(at)
        self.sent += 1
        return self._head + len(self._pending) - 1

    def answer(self, number: int, at: int) -> None:
        """Count the answer to a probe; later ones than 50 ms, doubles and strangers are none."""
        place = number - self._head
        if 0 <= place < len(self._pending) and at - self._pending[place] <= LATE_NS:
            self._answers.setdefault(number, at)

    def settle(self, now: int) -> None:
        """Decide what can be decided at ``now``: probes are judged in their order."""
        while self._pending:
            at = self._answers.pop(self._head, 0)
            if at:
                self.answered += 1
                if self._outage:
                    self.outages.append(Outage(self._outage, at))
                    self._outage = 0
            elif now - self._pending[0] <= LATE_NS:
                return
            elif not self._outage:
                self._outage = self._pending[0]
            self._pending.popleft()
            self._head += 1

    def take(self) -> list[Outage]:
        """Return the outages since the last call, the present one last and with end 0."""
        outages, self.outages = self.outages, []
        return [*outages, Outage(self._outage, 0)] if self._outage else outages


class _UdpProber:
    """Sends datagrams and takes their echoes."""

    def __init__(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.target = (address, port)
        self.session = os.urandom(8)
        self.tally = Tally()

    def descriptors(self) -> list[int]:
        return [self.socket.fileno()]

    def probe(self) -> None:
        now = time.monotonic_ns()
        number = self.tally.probe(now)
        try:
            self.socket.sendto(_PROBE.pack(self.session, number, now), self.target)
        except OSError:
            return  # no route, no neighbour: it is lost

    def receive(self) -> None:
        offset = wall_minus_monotonic()
        while True:
            try:
                data, ancillary, _, sender = self.socket.recvmsg(256, 64)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error; whatever it says, there was no answer
            if len(data) != _PROBE.size or sender[0] != self.target[0]:
                continue
            session, number, _ = _PROBE.unpack(data)
            at = time.monotonic_ns()
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
                    seconds, nanoseconds = struct.unpack("qq", content)
                    at = min(at, seconds * 1_000_000_000 + nanoseconds - offset)
            if session == self.session:
                self.tally.answer(number, at)


class _HttpProber:
    """Asks for / on a new connection each time."""

    def __init__(self, address: str, port: int) -> None:
        self.family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.target = (address, port)
        host = f"[{address}]" if ":" in address else address
        self.request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        self.open: dict[int, tuple[socket.socket, int, int]] = {}
        self.asked: set[int] = set()
        self.tally = Tally()

    def descriptors(self) -> list[int]:
        return list(self.open)

    def waiting(self) -> list[int]:
        """Connections that are not through yet."""
        return [descriptor for descriptor in self.open if descriptor not in self.asked]

    def probe(self) -> None:
        now = time.monotonic_ns()
        for descriptor, (connection, _, began) in list(self.open.items()):
            if now - began > LATE_NS:
                self._drop(descriptor, connection)
        number = self.tally.probe(now)
        connection = socket.socket(self.family, socket.SOCK_STREAM)
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            connection.connect(self.target)
        except BlockingIOError:
            self.open[connection.fileno()] = (connection, number, now)
        except OSError:
            connection.close()
        else:
            self.open[connection.fileno()] = (connection, number, now)

    def receive(self) -> None:
        _, writable, _ = select.select([], self.waiting(), [], 0)
        for descriptor in writable:
            connection = self.open[descriptor][0]
            try:
                connection.send(self.request)
                self.asked.add(descriptor)
            except OSError:
                self._drop(descriptor, connection)
        readable, _, _ = select.select(list(self.asked), [], [], 0)
        for descriptor in readable:
            connection, number, _ = self.open[descriptor]
            try:
                content = connection.recv(4096)
            except OSError:
                content = b""
            if content.startswith(b"HTTP/1.") and content[9:12] == b"200":
                self.tally.answer(number, time.monotonic_ns())
            self._drop(descriptor, connection)

    def _drop(self, descriptor: int, connection: socket.socket) -> None:
        del self.open[descriptor]
        self.asked.discard(descriptor)
        connection.close()


def main() -> None:
    """Probe until the standard input ends; answer each line with a report."""
    kind, address, port, interval = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    prober = _UdpProber(address, port) if kind == "udp" else _HttpProber(address, port)
    real_time = be_punctual()
    meter = Meter()
    stall, due = 0, time.monotonic_ns()
    while True:
        now = time.monotonic_ns()
        if now >= due:
            stall = max(stall, now - due)
            prober.probe()
            due = max(due + interval * 1000, now)  # what was missed is not made up for
        waiting = prober.waiting() if isinstance(prober, _HttpProber) else []
        timeout = max(0.0, (due - time.monotonic_ns()) / 1e9)
        ready, _, _ = select.select([0, *prober.descriptors()], waiting, [], timeout)
        prober.receive()
        prober.tally.settle(time.monotonic_ns())
        if 0 in ready:
            if not sys.stdin.readline():
                return
            report = {
                "outages": prober.tally.take(),
                "sent": prober.tally.sent,
                "answered": prober.tally.answered,
                "worst_stall_ms": max(stall, meter.take_ns()) / 1e6,
                "real_time": real_time,
            }
            sys.stdout.write(json.dumps(report) + "\n")
            sys.stdout.flush()
            stall = 0


class Prober(MeasuringProcess):
    """Probes an address from a machine's network; a context manager.

    Args:
        world: where.
        address: of the service.
        port: of the service.
        kind: ``udp`` or ``http``.
        interval_us: between two probes; 1000 for UDP, not below 2000 for HTTP.
        machine: that asks.
    """

    def __init__(
        self,
        world: World,
        address: str,
        port: int,
        *,
        kind: str = "udp",
        interval_us: int = 1000,
        machine: str = "client",
    ) -> None:
        arguments = [kind, address, str(port), str(interval_us)]
        super().__init__(world.enter_network(machine), Path(__file__), arguments)
        self._over: list[Outage] = []
        self._stall_ms = 0.0

    def report(self) -> dict[str, Any]:
        """Return counters and the outages since the last report; see :meth:`outages`."""
        report = super().report()
        self._stall_ms = max(self._stall_ms, report["worst_stall_ms"])
        self._over += [Outage(*outage) for outage in report["outages"] if outage[1]]
        return report

    def outages(self) -> list[Outage]:
        """Return the outages since this was called last; a lasting one is last, with end 0."""
        lasting = [Outage(*outage) for outage in self.report()["outages"] if not outage[1]]
        outages, self._over = [*self._over, *lasting], []
        return outages

    def stall_ms(self) -> float:
        """Return for how long the prober or a processor stood still since this was called last.

        That is how long the machine did not run what it must run at once.
        """
        self.report()
        stall, self._stall_ms = self._stall_ms, 0.0
        return stall

    def wait_for_answers(self, count: int = 20, timeout_s: float = 10.0) -> bool:
        """Wait until ``count`` more probes were answered and no outage lasts; say whether."""
        deadline = time.monotonic() + timeout_s
        target = self.report()["answered"] + count
        while time.monotonic() < deadline:
            report = self.report()
            outages = report["outages"]
            if report["answered"] >= target and not (outages and outages[-1][1] == 0):
                return True
            time.sleep(0.01)
        return False


if __name__ == "__main__":
    main()
