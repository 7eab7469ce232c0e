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
from lab.processes import state_of
from tests.integration.guard_support import Node, nodes
from tests.integration.kernel_support import catches, eventually

from leitwolf.system import clock
from leitwolf.system.progress import Role
from leitwolf.wire.keeper import KEEPER, Accepted, ExitAnswer, ExitQuery, RestartKeeper

pytestmark = pytest.mark.root

CHILDREN = (Role.GUARD, Role.DAEMON, Role.HOST)


@pytest.fixture
def node() -> Iterator[Node]:
    """A node whose daemon is in office, with a lease and an address that answers."""
    with nodes("k") as (one,):
        start(one)
        until_up(one)
        one.add_address()
        assert eventually(one.reachable)
        yield one


def start(node: Node) -> subprocess.Popen[bytes]:
    return node.start(sys.executable, "-m", "tests.integration.played_node", "keeper")


def until_up(node: Node) -> None:
    """Wait for all four processes and for a lease."""
    for role in (Role.KEEPER, *CHILDREN):
        node.process(role)
    eventually(node.open_page)


def living(node: Node) -> dict[Role, int]:
    return {role: node.progress.slot(role).process for role in CHILDREN}


def lease(node: Node) -> int:
    page = node.open_page()
    return page.lease if page is not None else 0


def lease_end(node: Node) -> int:
    page = node.open_page()
    return page.lease_end if page is not None else 0


def renewed(node: Node) -> bool:
    """See the lease prolonged: somebody is in office (again)."""
    end = lease_end(node)
    return eventually(lambda: lease_end(node) > end)


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
    before, end = living(node), lease_end(node)
    with Outage(node) as outage:
        for role in CHILDREN:
            node.replaced(role, node.kill(role))
            assert renewed(node)
            assert node.reachable()
        eventually(lambda: clock.raw_ns() > end)
        assert node.reachable(), "it is prolonged in the kernel, too"
    assert outage.seen == 0
    assert all(living(node)[role] != before[role] for role in CHILDREN)


def test_a_hanging_guard_is_replaced_only_after_its_death() -> None:
    """SIGSTOP: no progress for two seconds, killed, replaced; the lease that ran out is closed."""
    with nodes("h") as (node,):
        node.environment |= {"PLAYED_BRIEF": "yes"}
        start(node)
        until_up(node)
        guard = node.kill(Role.GUARD, signal.SIGSTOP)
        outer = node.outer(guard)
        eventually(lambda: state_of(outer) in "TX")
        page = node.page()
        assert page is not None
        node.replaced(Role.GUARD, guard)
        assert node.outer(guard) == 0
        eventually(lambda: lease(node) > max(page.lease, page.lease_closed))
        assert f"guard {guard} ended" in node.log()


def test_a_second_keeper_refuses(node: Node) -> None:
    """The lock decides: exit code 4, a coded line, and nothing is touched."""
    before = living(node)
    second = node.start(sys.executable, "-m", "leitwolf.keeper.main")
    assert second.wait(60) == 4
    assert "keeper-running" in node.log()
    assert living(node) == before


def test_a_keeper_of_the_service_manager_replaces_one_that_it_does_not_know(node: Node) -> None:
    """The host revived one before systemd's was up: the first gives way, nothing is restarted."""
    before = living(node)
    former = node.started[0]
    with Outage(node) as outage, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = str(node.base / "notify")
        manager.bind(address)
        manager.settimeout(60)
        node.environment |= {"NOTIFY_SOCKET": address}
        second = start(node)
        assert former.wait(60) == 0
        assert manager.recv(1_000).startswith(b"READY=1")
        assert living(node) == before
        third = node.start(sys.executable, "-m", "leitwolf.keeper.main")
        assert third.wait(60) == 4, "managed ones do not displace each other"
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
        assert renewed(node)
    assert outage.seen == 0
    assert node.reachable()


def test_a_host_can_revive_the_keeper() -> None:
    """``revive`` starts a keeper that outlives who called it, and names its process."""
    with nodes("r") as (node,):
        program = (
            "import os, leitwolf.keeper.main as main, leitwolf.system.settings as settings\n"
            "print('revived', main.revive(settings.Settings.load(os.environ)))"
        )
        assert node.start(sys.executable, "-c", program).wait(60) == 0
        slot = eventually(lambda: s if (s := node.progress.slot(Role.KEEPER)).counter else None)
        assert node.outer(slot.process)
        assert f"revived {slot.process}\n" in node.log()


def ask(node: Node, question: object) -> object:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.settimeout(30)
        channel.connect(str(node.settings.runtime / "keeper.sock"))
        channel.send(KEEPER.encode(question))
        return KEEPER.decode(channel.recv(256))


def test_the_keeper_knows_how_an_inherited_process_ended(node: Node) -> None:
    """The host dies, its process later: the next host can ask for the exit status."""
    worker = int((node.settings.runtime / "worker").read_text())
    node.replaced(Role.HOST, node.kill(Role.HOST))
    unknown = ExitAnswer(worker, known=False, code=-1, signal=0)
    assert ask(node, ExitQuery(worker, 0)) == unknown
    outer = node.outer(worker)
    eventually(lambda: catches(outer, signal.SIGUSR1))
    os.kill(outer, signal.SIGUSR1)
    ended = ExitAnswer(worker, known=True, code=23, signal=0)
    eventually(lambda: ask(node, ExitQuery(worker, 0)) == ended)
    assert ask(node, ExitQuery(worker, 1)) == unknown, "another process of that id"


def test_sigterm_stops_in_order_and_exits_with_0(node: Node) -> None:
    """Daemon first, then everything stopped and attested by the guard, then the host."""
    keeper = node.started[0]
    os.kill(node.process(Role.KEEPER), signal.SIGTERM)
    assert keeper.wait(60) == 0
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
        eventually(lambda: "guard replaced" in node.log(), 60.0)
        assert renewed(node)
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


class Manager:
    """A service manager. It hears on a thread: its socket is short, what finds it full is lost."""

    def __init__(self, address: str) -> None:
        self.heard: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(0.1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def _hear(self) -> None:
        while True:
            try:
                self.heard.append(self._socket.recv(1_000))
            except TimeoutError:
                if self._over.is_set():
                    return

    def hears(self, word: bytes) -> int:
        """Wait for a message that begins with a word; return its place."""

        def places() -> list[int]:
            return [at for at, one in enumerate(self.heard) if one.startswith(word)]

        return eventually(places, 60.0)[0]

    def end(self) -> list[bytes]:
        """Return all that it heard, once nothing more comes."""
        self._over.set()
        self._thread.join()
        return self.heard

    def close(self) -> None:
        self.end()
        self._socket.close()


@contextlib.contextmanager
def managed(**environment: str) -> Iterator[tuple[Node, Manager]]:
    """A node, and who hears what it tells its service manager."""
    with nodes("n") as (node,):
        address = str(node.base / "notify")
        node.environment |= {"NOTIFY_SOCKET": address, **environment}
        with contextlib.closing(Manager(address)) as manager:
            yield node, manager


EXTEND = b"EXTEND_TIMEOUT_USEC=30000000"


def test_systemd_is_told() -> None:
    """READY once guard and daemon are up, WATCHDOG from then on, STOPPING at the stop."""
    with managed(WATCHDOG_USEC="300000") as (node, manager):
        keeper = start(node)
        manager.hears(b"READY=1")
        assert node.progress.slot(Role.GUARD).counter
        assert node.progress.slot(Role.DAEMON).counter
        manager.hears(b"WATCHDOG=1")
        os.kill(node.process(Role.KEEPER), signal.SIGTERM)
        manager.hears(b"STOPPING=1")
        assert keeper.wait(60) == 0


def test_systemd_is_told_once_it_listens_again(node: Node) -> None:
    """Its socket is full while guard and daemon come up: READY is sent when there is room."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = str(node.base / "notify")
        manager.bind(address)
        manager.settimeout(60)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others:
            others.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    others.sendto(b"OTHERS=1", address)
        node.environment |= {"NOTIFY_SOCKET": address}
        former = node.started[0]
        start(node)  # finds both up
        assert former.wait(60) == 0
        eventually(lambda: node.process(Role.KEEPER) not in (0, former.pid), 60.0)
        time.sleep(0.5)
        while (said := manager.recv(1_000)) == b"OTHERS=1":
            pass
        assert said.startswith(b"READY=1")


def test_systemd_is_told_of_a_slow_start() -> None:
    """A daemon that takes 13 s to load: the start may take longer, and READY comes all the same."""
    with managed(PLAYED_LOADING_S="13") as (node, manager):
        start(node)
        ready = manager.hears(b"READY=1")
        assert set(manager.heard[:ready]) == {EXTEND}


def test_a_daemon_that_drains_is_not_killed_and_systemd_is_told() -> None:
    """It may take as long as groups need to stop, which is longer than the unit gives."""
    with managed(PLAYED_STOP_S="4", PLAYED_DRAINING_S="6") as (node, manager):
        keeper = start(node)
        manager.hears(b"READY=1")
        os.kill(node.process(Role.KEEPER), signal.SIGTERM)
        stopping = manager.hears(b"STOPPING=1")
        assert keeper.wait(60) == 0
        told = manager.end()[stopping + 1 :]
        assert len(told) > 1, "once a second, or as often as the machine lets it"
        assert set(told) == {EXTEND}
        assert "did not stop" not in node.log()
