"""A real host process in a network namespace, with a guard and a daemon played by the test."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from tests.integration.kernel_support import eventually, ip

from leitwolf.model.ids import GroupId, ResourceId
from leitwolf.model.observations import (
    CloseGroup,
    GroupAttested,
    HostOrder,
    HostReport,
    Inventory,
    ResourceReport,
    StartResource,
    StopResource,
)
from leitwolf.system import clock
from leitwolf.system.gate import Gate
from leitwolf.system.page import PageWriter
from leitwolf.wire.page import LeasePage

T = TypeVar("T")
PATIENCE_S = 30.0
LEASE = 7
MS = 1_000_000
_UNIFIED = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
_CLONE_NEWNET = 0x40000000


def unified() -> Path:
    """Return where cgroup version 2 is mounted; skips the test where it is not."""
    for path in _UNIFIED:
        if (path / "cgroup.procs").exists():
            return path
    pytest.skip("no cgroup version 2")


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Run ``work`` in a thread that has entered a network namespace; sockets stay there."""
    result: list[Any] = []

    def run() -> None:
        with Path(f"/run/netns/{namespace}").open() as file:
            assert ctypes.CDLL(None).setns(file.fileno(), _CLONE_NEWNET) == 0
        try:
            result.append(work())
        except BaseException as error:  # noqa: BLE001  # raised again by the caller
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


class FakeGuard:
    """Writes a page that permits everything under one lease, until told otherwise."""

    def __init__(self, path: Path) -> None:
        self._writer = PageWriter(path)
        self._boot = clock.boot_id()
        self._over = threading.Event()
        self.changes: dict[str, Any] = {}
        self.lease_ms = 20_000
        """From each renewal on; a machine that stands still does not end it."""
        self.pass_once()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def pass_once(self) -> None:
        now = clock.now()
        page = LeasePage(
            boot_id=self._boot,
            lease=LEASE,
            lease_end=now.raw + self.lease_ms * MS,
            drift=now.boot - now.raw,
            gate=True,
            progress=now.raw,
            configured=True,
            heartbeat=5_000 * MS,
            promise=15_000 * MS,
            run=20_000 * MS,
            kill=60 * MS,
        )
        self._writer.write(page._replace(**self.changes))

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self.pass_once()

    def stop(self, lease_ms: int = 0) -> None:
        """Renew for the last time."""
        if not self._over.is_set():
            self._over.set()
            self._thread.join()
            self.lease_ms = lease_ms
            self.pass_once()
            self._writer.close()


class FakeDaemon:
    """The daemon's end of ``host.sock``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket()
        self.reports: list[HostReport] = []

    def connect(self) -> Inventory:
        first = eventually(self._greeting)
        assert isinstance(first, Inventory)
        return first

    def _greeting(self) -> HostReport | None:
        """Connect; a child that a killed host just forked may hold its socket for a moment."""
        self._socket.close()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(PATIENCE_S)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)
        try:
            self._socket.connect(str(self._path))
            return self.receive()
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
            return None

    def receive(self) -> HostReport:
        data = self._socket.recv(4 << 20)
        assert data, "the host closed the connection"
        report = msgspec.msgpack.decode(data, type=HostReport)
        self.reports.append(report)
        return report

    def send(self, order: HostOrder) -> None:
        self._socket.send(msgspec.msgpack.encode(order))

    def state(self, resource: str, *states: str) -> ResourceReport:
        """Receive until the resource is in one of the states."""
        while True:
            report = self.receive()
            if isinstance(report, ResourceReport) and report.resource == resource:
                if report.state in states:
                    return report
                assert report.state != "failed", f"{report.code}: {report.text}"

    def hung_up(self) -> None:
        """Receive what there is until the host has closed the connection."""
        while True:
            try:
                data = self._socket.recv(4 << 20)
            except ConnectionResetError:
                return
            if not data:
                return

    def note(self, resource: str, code: str) -> ResourceReport:
        """Receive until a report of the resource has this code."""
        while True:
            report = self.receive()
            if (
                isinstance(report, ResourceReport)
                and report.resource == resource
                and report.code == code
            ):
                return report

    def attested(self) -> GroupAttested:
        while True:
            report = self.receive()
            if isinstance(report, GroupAttested):
                return report

    def close(self) -> None:
        self._socket.close()


class HostNode:
    """One node: namespace, directories, cgroup, host process, guard and daemon."""

    def __init__(self, folder: Path, name: str) -> None:
        self.namespace = f"lwh{os.getpid()}{name}"
        self.runtime, self.state = folder / "run", folder / "state"
        self.runtime.mkdir()
        self.state.mkdir()
        self.cgroup = unified() / f"leitwolf-test-{os.getpid()}-{name}"
        self.cgroup.mkdir()
        ip("netns", "add", self.namespace)
        ip("-n", self.namespace, "link", "set", "lo", "up")
        self.guard = FakeGuard(self.runtime / "guard.page")
        self.process: subprocess.Popen[bytes] | None = None
        self.containment = "cgroup"
        self.daemons: list[FakeDaemon] = []

    def install_gate(self) -> None:
        def install() -> None:
            with Gate() as gate:
                gate.install()
                assert gate.arm(60_000, LEASE, renewal=False)

        inside(self.namespace, install)

    def environment(self) -> dict[str, str]:
        return os.environ | {
            "LEITWOLF_RUNTIME": str(self.runtime),
            "LEITWOLF_STATE": str(self.state),
            "LEITWOLF_CONFIG": str(self.state),
            "LEITWOLF_CGROUP": str(self.cgroup) if self.containment == "cgroup" else "",
            "LEITWOLF_CONTAINMENT": self.containment,
        }

    def command(self) -> list[str]:
        network = f"--net=/run/netns/{self.namespace}"
        return ["nsenter", network, sys.executable, "-m", "leitwolf.host.main"]

    def start(self) -> FakeDaemon:
        self.process = subprocess.Popen(self.command(), env=self.environment())
        return self.daemon()

    def start_under_keeper(self) -> FakeDaemon:
        """Start the host as the child of a process that reaps what it leaves."""
        script = str(Path(__file__).with_name("host_keeper.py"))
        self.process = subprocess.Popen(
            [sys.executable, script, str(self.runtime / "keeper.sock"), *self.command()],
            env=self.environment() | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")},
            stdin=subprocess.PIPE,
        )
        return self.daemon()

    def tell_keeper(self, word: str) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n".encode())
        self.process.stdin.flush()

    def daemon(self) -> FakeDaemon:
        daemon = FakeDaemon(self.runtime / "host.sock")
        self.daemons.append(daemon)
        self.inventory = daemon.connect()
        return daemon

    def crash(self) -> None:
        """Kill the host as a power cut of that process alone would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def terminate(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE_S)

    def record(self, resource: str) -> dict[str, Any]:
        return msgspec.json.decode((self.runtime / "host" / f"{resource}.json").read_bytes())

    def pid(self, resource: str) -> int:
        return int(self.record(resource)["memory"]["pid"])

    def remove(self) -> None:
        for daemon in self.daemons:
            daemon.close()
        if self.process is not None and self.process.poll() is None:
            if self.process.stdin is not None:
                self.process.stdin.close()  # ends the host, too
                self.process.wait(PATIENCE_S)
            self.process.kill()
            self.process.wait()
        self.guard.stop()
        for kill in sorted(self.cgroup.rglob("cgroup.kill")):
            kill.write_text("1")
        eventually(lambda: "populated 0" in (self.cgroup / "cgroup.events").read_text())
        for directory, _, _ in sorted(os.walk(self.cgroup), reverse=True):
            Path(directory).rmdir()
        ip("netns", "del", self.namespace)
        shutil.rmtree(self.runtime)


@contextlib.contextmanager
def host_node(folder: Path, name: str = "a") -> Iterator[HostNode]:
    folder.mkdir(exist_ok=True)
    node = HostNode(folder, name)
    try:
        yield node
    finally:
        node.remove()


def start_order(resource: str, type_name: str, /, **given: Any) -> StartResource:
    values: dict[str, Any] = {"lease": LEASE, "generation": 1, "attempt": 1, "group": "web"}
    values |= {key: given.pop(key) for key in list(given) if key in StartResource.__struct_fields__}
    return StartResource(
        resource=ResourceId(resource),
        type=type_name,
        parameters={name: str(value) for name, value in given.items()},
        **values,
    )


def process_order(resource: str, command: str, **given: Any) -> StartResource:
    return start_order(resource, "process", command=command, **given)


def stop_order(resource: str, generation: int = 1) -> StopResource:
    return StopResource(resource=ResourceId(resource), group=GroupId("web"), generation=generation)


def close_order(generation: int = 1) -> CloseGroup:
    return CloseGroup(group=GroupId("web"), generation=generation)


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status[status.rindex(")") + 2] not in "ZX"
