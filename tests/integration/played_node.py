"""Programs for keeper tests: ``keeper``, and the smallest ``daemon`` and ``host``.

The daemon takes office alone, holds the lease of its node, and takes office again whenever the
guard is another one. The host starts one process and leaves it when it dies.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time

from leitwolf.keeper import process
from leitwolf.system import clock
from leitwolf.system.page import PageReader
from leitwolf.system.progress import Flag, Progress, Role
from leitwolf.system.settings import Settings
from leitwolf.wire.ballot import Ballot
from leitwolf.wire.guard import (
    GUARD,
    Configure,
    DaemonHello,
    Fence,
    Fenced,
    FenceRefused,
    LeaseOpened,
    NodeBack,
    Office,
    OpenLease,
    TakeOffice,
    Votes,
)
from leitwolf.wire.layout import LayoutError

MS = 1_000_000
NEVER_LONGER = (900 * MS, 1_500 * MS)
"""P and R that a guard without memory waits for."""
LEASES = (7_000 * MS, 9_000 * MS, 400 * MS)
"""P, R and K that outlast a machine that stands still, and a program that starts slowly."""
BRIEF = (*NEVER_LONGER, 150 * MS)
SETTINGS = Settings.load(os.environ)


def command(part: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.integration.played_node", part)


def keeper() -> int:
    programs = {role: command(role.name.lower()) for role in (Role.KEEPER, Role.DAEMON, Role.HOST)}
    if "PLAYED_STOP_S" in os.environ:
        process._DAEMON_STOP = int(os.environ["PLAYED_STOP_S"]) * 1_000 * MS
    return process.Keeper(SETTINGS, programs).run()


def daemon() -> int:
    time.sleep(float(os.environ.get("PLAYED_LOADING_S", "0")))
    progress = Progress(SETTINGS.runtime / "progress.page")
    progress.begin(Role.DAEMON)

    def drain(*_: object) -> None:
        draining_s = float(os.environ.get("PLAYED_DRAINING_S", "0"))
        if not draining_s:
            sys.exit(0)
        progress.mark(Flag.DRAINS)
        signal.setitimer(signal.ITIMER_REAL, draining_s)

    signal.signal(signal.SIGTERM, drain)
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(0))
    while True:
        with contextlib.suppress(OSError, LayoutError), connected() as channel:
            govern(channel, progress)
        progress.advance(clock.raw_ns())
        time.sleep(0.005)


def connected() -> socket.socket:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel.connect(str(SETTINGS.runtime / "guard.sock"))
    GUARD.decode(channel.recv(65_536))
    return channel


def govern(channel: socket.socket, progress: Progress) -> None:
    """Hold office and lease until the guard is gone."""
    page = PageReader(SETTINGS.runtime / "guard.page").read()
    floor = page.floor if page is not None else Ballot(1, 1, 1)
    ballot = Ballot(1, floor.round + 1, 1)
    leases = BRIEF if "PLAYED_BRIEF" in os.environ else LEASES
    profile = (100 * MS, *leases, *NEVER_LONGER)
    for message in (
        DaemonHello(floor),
        Configure(1, 7_654, (), *profile, (), (Votes((1,), (1,)),)),
        Fence(ballot),
    ):
        channel.send(GUARD.encode(message))
    while True:
        progress.advance(clock.raw_ns())
        if not select.select([channel], [], [], 0.02)[0]:
            continue
        packet = channel.recv(65_536)
        if not packet:
            return
        report = GUARD.decode(packet)
        if isinstance(report, FenceRefused):
            time.sleep(0.05)
            channel.send(GUARD.encode(Fence(ballot)))
        elif isinstance(report, Fenced):
            channel.send(GUARD.encode(TakeOffice(ballot, ())))
        elif isinstance(report, Office) or (isinstance(report, NodeBack) and not report.lease):
            page = PageReader(SETTINGS.runtime / "guard.page").read()
            if page is not None and not page.lease:
                lease = page.lease_closed + 1
                channel.send(GUARD.encode(OpenLease(ballot, 1, lease, 1)))
        elif isinstance(report, LeaseOpened):
            progress.advance(clock.raw_ns())


def host() -> int:
    progress = Progress(SETTINGS.runtime / "progress.page")
    progress.begin(Role.HOST)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    note = SETTINGS.runtime / "worker"
    if not note.exists():
        waiting = "import signal, sys; signal.signal(10, lambda *_: sys.exit(23)); signal.pause()"
        worker = subprocess.Popen([sys.executable, "-c", waiting])
        note.write_text(str(worker.pid))
    while True:
        progress.advance(clock.raw_ns())
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit({"keeper": keeper, "daemon": daemon, "host": host}[sys.argv[1]]())
