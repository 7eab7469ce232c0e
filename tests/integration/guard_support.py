"""Real guards and keepers in namespaces of their own, with daemon and host played by tests.

Each node has its own network, PID and mount namespace, so that self-fencing ("namespace") can end
nothing but the node. Its runtime directory is on the machine's tmpfs, so a test talks to it there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lab.processes import numbered
from tests.integration.kernel_support import eventually

from leitwolf.system import clock
from leitwolf.system.page import PageReader
from leitwolf.system.progress import Progress, Role
from leitwolf.system.settings import Settings
from leitwolf.wire.ballot import Ballot
from leitwolf.wire.guard import (
    GUARD,
    Configure,
    DaemonHello,
    Fence,
    Fenced,
    GuardHello,
    LeaseOpened,
    Office,
    OpenLease,
    PeerNode,
    TakeOffice,
    Votes,
)
from leitwolf.wire.layout import LayoutError
from leitwolf.wire.page import LeasePage

T = TypeVar("T")
MS = 1_000_000
VIRTUAL = "198.51.100.7"
PORT = 7_654
WRITTEN = Ballot(1, 1, 1)
KEY = bytes(range(32))

_IDLE = "import signal\nwhile True: signal.pause()"
_REACH = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 0))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    client.sendto(b"?", server.getsockname())  # a shut gate refuses it
    server.settimeout(5)
    server.recv(9)
except OSError:
    sys.exit(1)
"""
_ADD = """
import socket, struct, sys
from leitwolf.system.gate import Gate
from leitwolf.system.rawnetlink import Channel, attribute
from leitwolf.system.rtnetlink import ADDRESS_PROTOCOL
gate = Gate()
gate.manage([sys.argv[1]])
raw = socket.inet_aton(sys.argv[1])
head = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, socket.if_nametoindex("lo"))
mark = attribute(11, bytes((ADDRESS_PROTOCOL,)))
Channel(0).request(20, 0x600, head + attribute(2, raw) + attribute(1, raw) + mark)
gate.hold([sys.argv[1]])
"""


@dataclass(frozen=True)
class Leases:
    """P, R and K in ms."""

    promise: int
    run: int
    kill: int


BRIEF = Leases(900, 1_500, 150)
"""The profile for machines without guarantees: for what must end soon."""
CALM = Leases(3_600, 4_800, 400)
"""Outlast a machine that stands still for 3 s; for all that is not to end meanwhile."""
LONG = Leases(7_000, 9_000, 400)
"""Outlast that and the start of a program on a slow machine."""


class Node:
    """One node: namespaces with an init of their own, settings, and what runs there."""

    def __init__(self, name: str) -> None:
        base = Path(f"/dev/shm/lw-{os.getpid()}-{name}")
        shutil.rmtree(base, ignore_errors=True)
        (base / "config" / "pki").mkdir(parents=True)
        (base / "config" / "pki" / "heartbeat.key").write_bytes(KEY)
        (base / "run").mkdir()
        self.base = base
        self.settings = Settings(
            runtime=base / "run",
            state=base / "state",
            config=base / "config",
            containment="pidns",
            watchdog="none",
            fence="namespace",
        )
        here = Path(__file__).resolve().parents[2]
        path = f"{here / 'src'}:{here}"
        self.environment = {**os.environ, **self.settings.environment(), "PYTHONPATH": path}
        self.init = subprocess.Popen(
            ["unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child",
             sys.executable, "-c",
             "import signal; signal.signal(17, signal.SIG_IGN)\n" + _IDLE],
        )  # fmt: skip
        self.first = eventually(self._first)
        self.run("ip", "link", "set", "lo", "up")
        self.progress = Progress(self.settings.runtime / "progress.page")
        self.started: list[subprocess.Popen[bytes]] = []
        self.channels: list[socket.socket] = []

    def _first(self) -> int:
        children = Path(f"/proc/{self.init.pid}/task/{self.init.pid}/children").read_text().split()
        return int(children[0]) if children else 0

    def _inside(self, words: Sequence[str]) -> list[str]:
        return ["nsenter", "-t", str(self.first), "-n", "-p", "-m", *words]

    def run(self, *words: str, check: bool = True) -> int:
        return subprocess.run(
            self._inside(words), check=check, env=self.environment, capture_output=True
        ).returncode

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a program in the node."""
        with (self.base / "log").open("ab") as log:
            process = subprocess.Popen(
                self._inside(words), env=self.environment, stderr=log, stdout=log
            )
        self.started.append(process)
        return process

    def log(self) -> str:
        return (self.base / "log").read_text()

    def outer(self, inner: int) -> int:
        """Return the id that a process of the node has outside, 0: there is none."""
        return numbered(self.first, inner)

    def process(self, role: Role) -> int:
        """Return the outer id of the process in a role, once it is ready."""
        slot = eventually(lambda: s if (s := self.progress.slot(role)).counter else None)
        return self.outer(slot.process)

    def kill(self, role: Role, number: int = signal.SIGKILL) -> int:
        """Signal the process in a role; return the inner id that it had."""
        inner = self.progress.slot(role).process
        outer = self.outer(inner)
        assert outer, f"no {role.name.lower()} runs"
        os.kill(outer, number)
        return inner

    def replaced(self, role: Role, former: int) -> int:
        """Wait for another process in a role; return its inner id."""
        return eventually(
            lambda: (
                s.process if (s := self.progress.slot(role)).counter and s.process != former else 0
            )
        )

    def page(self) -> LeasePage | None:
        return PageReader(self.settings.runtime / "guard.page").read()

    def open_page(self) -> LeasePage | None:
        page = self.page()
        return page if page is not None and page.gate else None

    def add_address(self) -> None:
        """Add a virtual address as the host does: under the gate first."""
        self.run(sys.executable, "-c", _ADD, VIRTUAL)

    def reachable(self) -> bool:
        return self.run(sys.executable, "-c", _REACH, VIRTUAL, check=False) == 0

    def close(self) -> None:
        for process in self.started:
            # nsenter stops with its child; stopped it would not wait for it, and init would hang.
            process.kill()
            process.wait()
        os.kill(self.first, signal.SIGKILL)  # and with it everything in the node
        self.init.wait()
        for channel in self.channels:
            channel.close()
        self.progress.close()
        shutil.rmtree(self.base, ignore_errors=True)


@contextlib.contextmanager
def nodes(*names: str) -> Iterator[list[Node]]:
    made: list[Node] = []
    try:
        for name in names:
            made.append(Node(name))  # noqa: PERF401  # those made are closed in any case
        yield made
    finally:
        for one in made:
            one.close()


def configuration(
    node: int = 1,
    own: tuple[str, ...] = (),
    peers: tuple[PeerNode, ...] = (),
    weights: tuple[int, ...] = (1,),
    leases: Leases = BRIEF,
) -> Configure:
    """Return what a daemon says; that there never were longer leases."""
    members = tuple(range(1, len(weights) + 1))
    promise, run, kill = (ms * MS for ms in (leases.promise, leases.run, leases.kill))
    return Configure(
        node, PORT, own, 100 * MS, promise, run, kill, promise, run, peers,
        (Votes(members, weights),),
    )  # fmt: skip


def connect(node: Node) -> tuple[socket.socket, GuardHello]:
    """Return a connection to the guard and its greeting, once there is one."""

    def attempt() -> tuple[socket.socket, GuardHello] | None:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        node.channels.append(channel)
        try:
            channel.connect(str(node.settings.runtime / "guard.sock"))
            hello = GUARD.decode(channel.recv(65_536))
        except (OSError, LayoutError):
            return None
        assert isinstance(hello, GuardHello)
        channel.setblocking(False)
        return channel, hello

    return eventually(attempt)


class Daemon:
    """The daemon's side of ``guard.sock``."""

    def __init__(self, node: Node, written: Ballot = WRITTEN) -> None:
        self.node = node
        self._progress = Progress(node.settings.runtime / "progress.page")
        self._progress.begin(Role.DAEMON)
        self.reports: list[Any] = []
        self.channel, self.hello = connect(node)
        self.send(DaemonHello(written))

    def send(self, message: object) -> None:
        self.channel.send(GUARD.encode(message))

    def configure(
        self,
        node: int = 1,
        own: tuple[str, ...] = (),
        peers: tuple[PeerNode, ...] = (),
        weights: tuple[int, ...] = (1,),
        leases: Leases = CALM,
    ) -> None:
        """Configure a guard that has just begun: it waits for brief leases, and gets others."""
        for one in (BRIEF, leases):
            self.send(configuration(node, own, peers, weights, one))

    def pump(self) -> None:
        """Make progress, as a living daemon does, and read what the guard says."""
        self._progress.advance(clock.raw_ns())
        with contextlib.suppress(BlockingIOError):
            while packet := self.channel.recv(65_536):
                self.reports.append(GUARD.decode(packet))

    def expect(self, kind: type[T], **fields: object) -> T:
        """Return the newest report of a kind with these fields, once it came."""

        def look() -> T | None:
            self.pump()
            for report in reversed(self.reports):
                if isinstance(report, kind) and all(
                    getattr(report, name) == value for name, value in fields.items()
                ):
                    return report
            return None

        return eventually(look)

    def during(self, seconds: float, condition: Callable[[], bool]) -> None:
        """See that a condition holds for a while, making progress meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.pump()
            assert condition()
            time.sleep(0.02)

    def until(self, condition: Callable[[], T]) -> T:
        """Wait for a condition, making progress meanwhile."""

        def look() -> T:
            self.pump()
            return condition()

        return eventually(look)

    def lead(self, ballot: Ballot) -> None:
        """Fence a ballot, and take office in it."""

        def fenced() -> bool:
            self.pump()
            if any(isinstance(r, Fenced) and r.ballot == ballot for r in self.reports):
                return True
            self.send(Fence(ballot))
            time.sleep(0.1)
            return False

        eventually(fenced)
        self.send(TakeOffice(ballot, ()))
        self.expect(Office, ballot=ballot)

    def open_own(self, ballot: Ballot, lease: int) -> None:
        """Open the lease of this node."""
        self.send(OpenLease(ballot, ballot.node, lease, 1))
        self.expect(LeaseOpened, lease=lease)

    def close(self) -> None:
        self.channel.close()
        self._progress.close()
