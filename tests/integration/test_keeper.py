"""A real keeper with a real guard: restart, adoption, stop and reload, without outage."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Self

import pytest
from tests.integration.guard_support import Node, nodes
from tests.integration.kernel_support import eventually

from leitwolf.system.progress import Role
from leitwolf.wire.keeper import KEEPER, Accepted, ExitAnswer, ExitQuery, RestartKeeper

pytestmark = pytest.mark.root

CHILDREN = (Role.GUARD, Role.DAEMON, Role.HOST)


@pytest.fixture
def node() -> Iterator[Node]:
    """A node whose daemon is in office, with a lease and an address that answers."""
    with nodes("k") as (one,):
        start(one)
        eventually(one.open_page)
        one.add_address()
        assert eventually(one.reachable)
        yield one


def start(node: Node) -> subprocess.Popen[bytes]:
    return node.start(sys.executable, "-m", "tests.integration.played_node", "keeper")


def living(node: Node) -> dict[Role, int]:
    return {role: node.progress.slot(role).process for role in CHILDREN}


def lease(node: Node) -> int:
    page = node.open_page()
    return page.lease if page is not None else 0


class Outage:
    """Watches the gate in the page while something happens."""

    def __init__(self, node: Node) -> None:
        self.seen = 0
        self._node = node
        self._lease = lease(node)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.seen += lease(self._node) != self._lease

    def __enter__(self) -> Self:
        assert self._lease
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_killed_children_come_back_and_nothing_is_stopped(node: Node) -> None:
    """Guard, daemon and host killed one after the other: each is back, the lease goes on."""
    before = living(node)
    with Outage(node) as outage:
        for role in CHILDREN:
            began = time.monotonic()
            former = node.kill(role)
            node.replaced(role, former)
            assert time.monotonic() - began < 5
            time.sleep(2.0)
            assert node.reachable()
    assert outage.seen == 0
    assert all(living(node)[role] != before[role] for role in CHILDREN)


def test_a_hanging_guard_is_replaced_only_after_its_death(node: Node) -> None:
    """SIGSTOP: no progress for two seconds, killed, replaced; the lease that ran out is closed."""
    former = lease(node)
    guard = node.kill(Role.GUARD, signal.SIGSTOP)
    node.replaced(Role.GUARD, guard)
    assert node.outer(guard) == 0
    eventually(lambda: lease(node) > former)
    assert f"guard {guard} ended" in node.log()


def test_a_second_keeper_refuses(node: Node) -> None:
    """The lock decides: exit code 4, a coded line, and nothing is touched."""
    before = living(node)
    second = node.start(sys.executable, "-m", "leitwolf.keeper.main")
    assert second.wait(20) == 4
    assert "keeper-running" in node.log()
    assert living(node) == before


def test_a_keeper_of_the_service_manager_replaces_one_that_it_does_not_know(node: Node) -> None:
    """The host revived one before systemd's was up: the first gives way, nothing is restarted."""
    before = living(node)
    former = node.started[0]
    with Outage(node) as outage, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = str(node.base / "notify")
        manager.bind(address)
        manager.settimeout(20)
        node.environment |= {"NOTIFY_SOCKET": address}
        second = start(node)
        assert former.wait(20) == 0
        assert manager.recv(1_000).startswith(b"READY=1")
        assert living(node) == before
        third = node.start(sys.executable, "-m", "leitwolf.keeper.main")
        assert third.wait(20) == 4, "managed ones do not displace each other"
        assert second.poll() is None
        time.sleep(1.0)
    assert outage.seen == 0
    assert living(node) == before


def test_the_next_keeper_adopts_what_lives(node: Node) -> None:
    """SIGKILL of the keeper: guard, daemon and host go on, and the next one supervises them."""
    before = living(node)
    with Outage(node) as outage:
        node.kill(Role.KEEPER)
        time.sleep(0.5)
        start(node)
        eventually(lambda: node.log().count("adopted") == 3)
        assert living(node) == before
        time.sleep(1.0)
        node.replaced(Role.GUARD, node.kill(Role.GUARD))
        time.sleep(1.0)
    assert outage.seen == 0
    assert node.reachable()


def test_a_host_can_revive_the_keeper() -> None:
    """``revive`` starts a keeper that outlives who called it, and names its process."""
    with nodes("r") as (node,):
        program = (
            "import os, leitwolf.keeper.main as main, leitwolf.system.settings as settings\n"
            "print('revived', main.revive(settings.Settings.load(os.environ)))"
        )
        assert node.start(sys.executable, "-c", program).wait(20) == 0
        slot = eventually(lambda: s if (s := node.progress.slot(Role.KEEPER)).counter else None)
        assert node.outer(slot.process)
        assert f"revived {slot.process}\n" in node.log()


def ask(node: Node, question: object) -> object:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.settimeout(10)
        channel.connect(str(node.settings.runtime / "keeper.sock"))
        channel.send(KEEPER.encode(question))
        return KEEPER.decode(channel.recv(256))


def test_the_keeper_knows_how_an_inherited_process_ended(node: Node) -> None:
    """The host dies, its process later: the next host can ask for the exit status."""
    worker = int((node.settings.runtime / "worker").read_text())
    node.replaced(Role.HOST, node.kill(Role.HOST))
    unknown = ExitAnswer(worker, known=False, code=-1, signal=0)
    assert ask(node, ExitQuery(worker, 0)) == unknown
    os.kill(node.outer(worker), signal.SIGUSR1)
    ended = ExitAnswer(worker, known=True, code=23, signal=0)
    eventually(lambda: ask(node, ExitQuery(worker, 0)) == ended)
    assert ask(node, ExitQuery(worker, 1)) == unknown, "another process of that id"


def test_sigterm_stops_in_order_and_exits_with_0(node: Node) -> None:
    """Daemon first, then everything stopped and attested by the guard, then the host."""
    keeper = node.started[0]
    os.kill(node.process(Role.KEEPER), signal.SIGTERM)
    assert keeper.wait(30) == 0
    page = node.page()
    assert page is not None
    assert page.lease == 0
    assert page.lease_closed > 0
    assert not node.reachable()
    order = [line.split()[2] for line in node.log().splitlines() if " ended" in line]
    assert order[-3:] == ["daemon", "guard", "host"]


def test_sighup_replaces_all_four_without_outage(node: Node) -> None:
    """Reload: the keeper keeps its process, the others are new, the lease goes on; READY again."""
    before = living(node)
    with Outage(node) as outage:
        keeper = node.process(Role.KEEPER)
        os.kill(keeper, signal.SIGHUP)
        eventually(lambda: "guard replaced" in node.log(), 30.0)
        time.sleep(2.0)
    assert outage.seen == 0
    assert node.process(Role.KEEPER) == keeper
    assert all(living(node)[role] != before[role] for role in CHILDREN)
    assert node.reachable()


def test_the_keeper_restarts_itself_when_asked(node: Node) -> None:
    """RestartKeeper replaces the keeper's program only."""
    before = living(node)
    assert ask(node, RestartKeeper()) == Accepted()
    eventually(lambda: node.log().count("adopted") == 3)
    assert living(node) == before


@contextlib.contextmanager
def managed(timeout_s: float, **environment: str) -> Iterator[tuple[Node, socket.socket]]:
    """A node, and the socket on which a service manager hears what it tells."""
    with nodes("n") as (node,), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = str(node.base / "notify")
        manager.bind(address)
        manager.settimeout(timeout_s)
        node.environment |= {"NOTIFY_SOCKET": address, **environment}
        yield node, manager


def test_systemd_is_told() -> None:
    """READY once guard and daemon are up, WATCHDOG from then on, STOPPING at the stop."""
    with managed(20, WATCHDOG_USEC="300000") as (node, manager):
        keeper = start(node)
        heard: list[bytes] = []

        def hears(line: bytes) -> None:
            while not any(line in message for message in heard):
                heard.append(manager.recv(1_000))

        hears(b"READY=1")
        assert node.progress.slot(Role.GUARD).counter
        assert node.progress.slot(Role.DAEMON).counter
        hears(b"WATCHDOG=1")
        os.kill(node.process(Role.KEEPER), signal.SIGTERM)
        hears(b"STOPPING=1")
        assert keeper.wait(30) == 0


def test_systemd_is_told_of_a_slow_start() -> None:
    """A daemon that takes 13 s to load: the start may take longer, and READY comes all the same."""
    with managed(60, PLAYED_LOADING_S="13") as (node, manager):
        node.start(sys.executable, "-m", "tests.integration.played_node", "keeper")
        heard = [manager.recv(1_000)]
        while not heard[-1].startswith(b"READY=1"):
            heard.append(manager.recv(1_000))
    assert set(heard[:-1]) == {b"EXTEND_TIMEOUT_USEC=30000000"}


def test_a_daemon_that_drains_is_not_killed_and_systemd_is_told() -> None:
    """It may take as long as groups need to stop, which is longer than the unit gives."""
    with managed(20, PLAYED_STOP_S="1", PLAYED_DRAINING_S="5") as (node, manager):
        keeper = start(node)
        heard = [manager.recv(1_000)]
        while not heard[-1].startswith(b"READY=1"):
            heard.append(manager.recv(1_000))
        os.kill(node.process(Role.KEEPER), signal.SIGTERM)
        assert manager.recv(1_000).startswith(b"STOPPING=1")
        told = [manager.recv(1_000) for _ in range(4)]
        assert keeper.wait(30) == 0
        assert set(told) == {b"EXTEND_TIMEOUT_USEC=30000000"}
        assert "did not stop" not in node.log()
