"""Real guard processes in namespaces: leases, the kernel's gate, heartbeats, stalls and deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from lab.processes import state_of
from tests.integration.guard_support import (
    BRIEF,
    CALM,
    LONG,
    Daemon,
    Leases,
    Node,
    configuration,
    connect,
    nodes,
)
from tests.integration.kernel_support import eventually

from leitwolf.system import clock
from leitwolf.system.progress import Flag, Role
from leitwolf.wire.ballot import Ballot
from leitwolf.wire.guard import (
    GUARD,
    Attest,
    HostHello,
    LeaseClosed,
    LeaseOpened,
    LinkReport,
    NodeAway,
    NodeBack,
    OfficeLost,
    OpenLease,
    PeerNode,
    Recorded,
    StopEverything,
)

pytestmark = pytest.mark.root

BALLOT = Ballot(1, 2, 1)
LEASE = 1 << 51 | 5


@pytest.fixture
def node() -> Iterator[Node]:
    with nodes("g") as (one,):
        start(one)
        yield one


def start(node: Node) -> None:
    node.start(sys.executable, "-m", "leitwolf.guard.main")


def leading(node: Node, leases: Leases = CALM) -> Daemon:
    """A daemon in office alone, with its own lease open and a virtual address that answers."""
    daemon = Daemon(node)
    daemon.configure(leases=leases)
    daemon.lead(BALLOT)
    daemon.open_own(BALLOT, LEASE)
    node.add_address()
    assert daemon.until(node.reachable)
    return daemon


def lease_end(node: Node) -> int:
    """Return the end of the open lease (RAW ns), 0: none is open."""
    page = node.open_page()
    return page.lease_end if page is not None else 0


def freeze(node: Node) -> None:
    """Stop the guard, and wait until it stands still."""
    guard = node.outer(node.kill(Role.GUARD, signal.SIGSTOP))
    eventually(lambda: state_of(guard) == "T")


def outlasts(node: Node, daemon: Daemon) -> bool:
    """See the lease go on beyond the end that it has now: it was renewed, in the kernel too."""
    end = lease_end(node)

    def over() -> bool:
        assert lease_end(node), "it ended"
        return clock.raw_ns() > end

    return daemon.until(over) and node.reachable()


def silent_in_time(node: Node) -> bool:
    """Tell whether the address of a frozen guard is silent at the end of its lease."""
    page = node.page()
    assert page is not None
    assert page.gate, "a frozen guard writes nothing: only the kernel acts"
    eventually(lambda: clock.raw_ns() > page.lease_end)
    return not node.reachable()


def test_the_address_answers_while_the_lease_runs_and_a_stop_is_attested(node: Node) -> None:
    """Open: the kernel lets the address answer. StopEverything: address gone, lease attested."""
    daemon = leading(node)
    assert outlasts(node, daemon)
    assert Flag.GATE in node.progress.slot(Role.GUARD).flags
    daemon.send(StopEverything("test"))
    daemon.expect(LeaseClosed, lease=LEASE)
    daemon.expect(Attest, lease=LEASE)
    page = node.page()
    assert page is not None
    assert (page.lease, page.lease_closed, page.gate) == (0, LEASE, False)
    assert not node.reachable()


def test_the_kernel_shuts_the_address_of_a_frozen_guard(node: Node) -> None:
    """SIGSTOP: the address stops answering without anybody's help; thawed, the guard stops all."""
    daemon = leading(node)
    freeze(node)
    assert silent_in_time(node)
    node.kill(Role.GUARD, signal.SIGCONT)
    daemon.expect(LeaseClosed, lease=LEASE)
    daemon.expect(Attest, lease=LEASE)
    assert not node.reachable()
    assert node.progress.slot(Role.GUARD).peak > 500_000_000, "it saw its own stall"


def test_the_next_guard_goes_on_with_the_lease(node: Node) -> None:
    """SIGKILL and a new guard: page, configuration and gate are there, nothing is stopped."""
    daemon = leading(node, LONG)
    former = node.kill(Role.GUARD)
    start(node)
    node.replaced(Role.GUARD, former)
    page = node.open_page()
    assert page is not None
    assert page.lease == LEASE
    daemon.close()
    heir = Daemon(node, BALLOT)
    assert heir.hello.remembers
    heir.expect(LeaseOpened, lease=LEASE)
    ballot = Ballot(1, 3, 1)
    heir.send(configuration(leases=LONG))
    heir.lead(ballot)
    heir.until(lambda: lease_end(node) > page.lease_end)
    assert outlasts(node, heir)
    page = node.page()
    assert page is not None
    assert page.lease == LEASE
    assert not any(isinstance(report, LeaseClosed) for report in heir.reports)


def test_a_guard_without_its_page_stops_everything(node: Node) -> None:
    """The page is lost: what may run is not known, so the address goes and no lease is open."""
    leading(node)
    os.kill(node.process(Role.GUARD), signal.SIGKILL)
    (node.settings.runtime / "guard.page").unlink()
    former = node.progress.slot(Role.GUARD).process
    start(node)
    node.replaced(Role.GUARD, former)
    daemon = Daemon(node, BALLOT)
    assert not daemon.hello.remembers
    eventually(lambda: not node.reachable())
    assert node.open_page() is None


def test_rules_deleted_by_others_are_rebuilt(node: Node) -> None:
    """``nft flush ruleset``: the gate comes back with its address, armed, and it is recorded."""
    daemon = leading(node)
    node.run("nft", "flush", "ruleset")
    daemon.expect(Recorded, code="gate-rebuilt")
    assert daemon.until(node.reachable)
    daemon.during(1.0, lambda: node.open_page() is not None)
    freeze(node)
    assert silent_in_time(node)
    node.kill(Role.GUARD, signal.SIGCONT)


def test_a_silent_daemon_costs_the_office_and_then_the_lease(node: Node) -> None:
    """A daemon that hangs (no progress) is no leader: office released, lease ends, attested."""
    daemon = leading(node)
    daemon.send(configuration(leases=BRIEF))
    time.sleep(3.0)
    lost = daemon.expect(OfficeLost, ballot=BALLOT)
    assert lost.reason == "daemon-stalled"
    daemon.expect(Attest, lease=LEASE)


def test_the_processes_of_a_cell_are_killed_with_the_lease(node: Node) -> None:
    """What runs in a cell is gone before the stop is attested, without any host."""
    program = """
import os, sys, time
from leitwolf.system.containment import Program, find
from leitwolf.system.settings import Settings
cells = find(Settings.load(os.environ))
cells.prepare()
out = os.open("/dev/null", os.O_WRONLY)
sleeping = Program(argv=["sleep", "1000"], environment=dict(os.environ), directory="/",
                   user=None, group=None, groups=(), output=out)
child = cells.spawn("web", sleeping, lambda: True)
os.waitpid(child.pid, 0)
"""
    daemon = leading(node)
    node.start(sys.executable, "-c", program)
    daemon.until(lambda: node.run("pgrep", "-x", "sleep", check=False) == 0)
    daemon.send(StopEverything("test"))
    daemon.expect(Attest, lease=LEASE)
    assert node.run("pgrep", "-x", "sleep", check=False) == 1


def test_an_error_that_nobody_foresaw_stops_everything(node: Node) -> None:
    """A daemon that contradicts itself: the guard stops all, then ends; the next one attests."""
    daemon = leading(node)
    former = node.progress.slot(Role.GUARD).process
    daemon.send(configuration(node=2))
    assert node.started[0].wait(20) == 70
    page = node.page()
    assert page is not None
    assert (page.lease, page.gate) == (LEASE, False)
    assert not node.reachable()
    start(node)
    node.replaced(Role.GUARD, former)
    eventually(lambda: (p := node.page()) is not None and p.lease_closed == LEASE)
    assert "configured as node 2" in node.log()


def test_sigterm_stops_everything_before_the_guard_ends(node: Node) -> None:
    """The keeper's order to stop: attested, address gone, exit code 0."""
    daemon = leading(node)
    node.kill(Role.GUARD, signal.SIGTERM)
    assert node.started[0].wait(20) == 0
    page = node.page()
    assert page is not None
    assert (page.lease, page.lease_closed) == (0, LEASE)
    assert not node.reachable()
    daemon.close()


def test_broken_clients_are_dropped_and_others_served(node: Node) -> None:
    """Garbage, a silent hello and a client that never reads cost only themselves."""
    daemon = leading(node)
    for packet in (b"\xff\xff", GUARD.encode(StopEverything("nobody said hello"))):
        channel, _ = connect(node)
        channel.send(packet)
        eventually(lambda channel=channel: readable(channel) == b"")
        channel.close()
    channel, _ = connect(node)
    channel.send(GUARD.encode(HostHello(1)))
    daemon.during(1.0, lambda: node.open_page() is not None)
    daemon.send(StopEverything("test"))
    daemon.expect(Attest, lease=LEASE)
    said = []
    eventually(lambda: said.append(readable(channel)) or GUARD.encode(Attest(LEASE)) in said)
    channel.close()


def readable(channel: object) -> bytes | None:
    """Return the next packet, b"" at the end, None when nothing came."""
    try:
        return channel.recv(65_536)  # type: ignore[attr-defined]
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""


def wire(one: Node, two: Node, third: int) -> None:
    """Connect two nodes by a cable."""
    space = ["nsenter", "-t", str(one.first), "-n"]
    subprocess.run(
        [*space, "ip", "link", "add", f"c{third}", "type", "veth", "peer", "name", f"c{third}",
         "netns", str(two.first)],
        check=True,
    )  # fmt: skip
    for number, node in ((1, one), (2, two)):
        node.run("ip", "address", "add", f"10.9.{third}.{number}/24", "dev", f"c{third}")
        node.run("ip", "link", "set", f"c{third}", "up")


def pair(one: Node, two: Node) -> tuple[Daemon, Daemon]:
    """Two guards on two cables; only node 1 votes."""
    ends = [tuple(f"10.9.{third}.{number}" for third in (1, 2)) for number in (1, 2)]
    first, second = Daemon(one), Daemon(two, Ballot(1, 1, 1))
    first.configure(1, ends[0], (PeerNode(2, ends[1]),), (1, 0))
    second.configure(2, ends[1], (PeerNode(1, ends[0]),), (1, 0))
    return first, second


def links_up(daemon: Daemon) -> list[bool]:
    """Return the states of the links as the guard reported them last."""
    for report in reversed(daemon.reports):
        if isinstance(report, LinkReport):
            return [state.up for state in report.links]
    return []


def test_two_guards_hold_leases_over_two_links() -> None:
    """A lease over UDP: survives the loss of one link, ends with both, and comes back anew."""
    with nodes("a", "b") as (one, two):
        for third in (1, 2):
            wire(one, two, third)
        start(one)
        start(two)
        first, second = pair(one, two)
        first.lead(BALLOT)
        first.expect(NodeBack, node=2)
        first.send(OpenLease(BALLOT, 2, LEASE, 1))

        def both(condition: object) -> None:
            def look() -> bool:
                first.pump()
                second.pump()
                return condition()  # type: ignore[operator]

            eventually(look)

        def goes_on_beyond(end: int) -> bool:
            assert lease_end(two), "it ended"
            return clock.raw_ns() > end

        both(lambda: any(isinstance(r, LeaseOpened) for r in second.reports))
        one.run("ip", "link", "delete", "c1")
        end = lease_end(two)
        both(lambda: goes_on_beyond(end))
        both(lambda: links_up(first) == [False, True])
        first.reports.clear()
        one.run("ip", "link", "set", "c2", "down")
        both(lambda: any(isinstance(r, NodeAway) and r.node == 2 for r in first.reports))
        page = two.page()
        assert page is not None
        over = not page.gate or clock.raw_ns() > page.lease_end
        assert over, "who waits outlasts who holds"
        both(lambda: any(isinstance(r, Attest) for r in second.reports))
        one.run("ip", "link", "set", "c2", "up")
        wire(one, two, 1)
        first.reports.clear()
        both(lambda: any(isinstance(r, NodeBack) and r.lease == 0 for r in first.reports))
        first.send(OpenLease(BALLOT, 2, LEASE + 1, 1))
        both(lambda: (p := two.open_page()) is not None and p.lease == LEASE + 1)
