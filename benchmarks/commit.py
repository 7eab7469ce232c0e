"""Changes through the API until they are committed, beside etcd on the same disks."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.crowd import changes_per_second
from benchmarks.rows import Row, median, percentile
from benchmarks.stage import Stage, say

__all__ = ["commits", "crowds", "timed_changes"]

_WARM = 50
_NODES = 3
_READY_S = 20.0
_RATIO = 1.5 / 1.2
"""The goal: p50 of 1.5 ms where etcd needs 1.2."""
_CLIENTS = 64
_SHARE = 0.5
"""The goal with many clients: half of etcd's throughput."""
_SOCKET = "/run/leitwolf/api.sock"
_PUT = "/v3/kv/put"
_NO_ETCD = "no etcd here (package etcd-server)"


class _Unix(http.client.HTTPConnection):
    """A connection that is kept, as a client that makes many changes keeps it."""

    def __init__(self, path: Path) -> None:
        super().__init__("leitwolf")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


def _post(connection: http.client.HTTPConnection, path: str, body: bytes) -> None:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"{path}: {response.status} {answer[:200]!r}")


def _timed(change: Callable[[int], None], count: int) -> list[float]:
    """Return how long each change took, ms."""
    took = []
    for number in range(-_WARM, count):
        begun = time.perf_counter()
        change(number)
        if number >= 0:
            took.append((time.perf_counter() - begun) * 1000)
    return took


def _change(number: int) -> bytes:
    """Return a change of a group that is one: the value is always another than before."""
    body = {"kind": "ChangeGroup", "group": "one", "retry_period_s": 3_600 + number % 50_000}
    return json.dumps(body).encode()


def _put(key: str, number: int) -> bytes:
    """Return what etcd's gateway takes for a change of one value."""
    value = base64.b64encode(str(number).encode()).decode()
    return json.dumps({"key": base64.b64encode(key.encode()).decode(), "value": value}).encode()


def timed_changes(stage: Stage, count: int) -> list[float]:
    """Return how long each of ``count`` changes at the leader's API took, ms."""
    connection = _Unix(stage.inside(stage.leader(), _SOCKET))

    def change(number: int) -> None:
        _post(connection, "/v1/command", _change(number + _WARM))

    try:
        return _timed(change, count)
    finally:
        connection.close()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def _etcd(stage: Stage) -> Iterator[int]:
    """Run three etcd members on loopback, on the disk of the nodes; yield the leader's port."""
    with tempfile.TemporaryDirectory(prefix="leitwolf-etcd-", dir=stage.world.folder) as folder:
        yield from _members(Path(folder))


def _members(folder: Path) -> Iterator[int]:
    ports = _free_ports(2 * _NODES)
    clients, peers = ports[:_NODES], ports[_NODES:]
    cluster = ",".join(f"m{i}=http://127.0.0.1:{port}" for i, port in enumerate(peers))
    members = [
        subprocess.Popen(
            [
                "etcd",
                f"--name=m{i}",
                f"--data-dir={folder / f'm{i}'}",
                f"--listen-client-urls=http://127.0.0.1:{clients[i]}",
                f"--advertise-client-urls=http://127.0.0.1:{clients[i]}",
                f"--listen-peer-urls=http://127.0.0.1:{peers[i]}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peers[i]}",
                f"--initial-cluster={cluster}",
                "--initial-cluster-state=new",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for i in range(_NODES)
    ]
    try:
        yield _etcd_leader(clients)
    finally:
        for member in members:
            member.kill()
            member.wait()


def _etcd_leader(ports: list[int]) -> int:
    """Return the client port of the leader once there is one."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        for port in ports:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            try:
                connection.request("POST", "/v3/maintenance/status", b"{}")
                status = json.loads(connection.getresponse().read())
            except (OSError, ValueError, http.client.HTTPException):
                continue
            finally:
                connection.close()
            if status.get("leader") and status["leader"] == status["header"]["member_id"]:
                return port
        time.sleep(0.05)
    raise RuntimeError("etcd elects no leader")


def _timed_puts(port: int, count: int) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        return _timed(lambda number: _post(connection, _PUT, _put("one", number)), count)
    finally:
        connection.close()


def commits(stage: Stage, count: int) -> list[Row]:
    """Commit one change after the other at the leader's API; etcd does the same."""
    stage.calm()
    ours = timed_changes(stage, count)
    theirs: list[float] = []
    note = _NO_ETCD
    if shutil.which("etcd"):
        with _etcd(stage) as port:
            theirs = _timed_puts(port, count)
        note = f"{count} changes, one after the other; etcd by its JSON gateway"
    rows = []
    for name, percent in (("p50", 50.0), ("p99", 99.0)):
        own = median(ours) if percent == 50 else percentile(ours, percent)
        peer = percentile(theirs, percent) if theirs else None
        goal = None
        if percent == 50:
            goal = peer * _RATIO if peer else 1.5
        rows.append(
            Row(f"commit at the API, 3 nodes, {name}", own, "ms", goal, peer=peer, note=note)
        )
        say(f"  commit {name}: {own:.2f} ms, etcd {peer or float('nan'):.2f} ms")
    return rows


# --- many clients --------------------------------------------------------------------------------


def _http(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _our_crowd(stage: Stage, seconds: float) -> float:
    path = stage.inside(stage.leader(), _SOCKET)

    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(path))
        return connection

    numbers = []

    def request(number: int) -> bytes:
        numbers.append(number)
        return _http("/v1/command", _change(number))

    before = stage.status(stage.leader()).index
    speed = changes_per_second(connect, request, clients=_CLIENTS, seconds=seconds)
    entries = stage.status(stage.leader()).index - before
    if entries < len(numbers) - _CLIENTS:
        raise RuntimeError(f"{len(numbers)} changes made only {entries} entries")
    return speed


def _their_crowd(port: int, seconds: float) -> float:
    def connect() -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    return changes_per_second(
        connect,
        lambda number: _http(_PUT, _put(f"key-{number % _CLIENTS}", number)),
        clients=_CLIENTS,
        seconds=seconds,
    )


def crowds(stage: Stage, rounds: int, seconds: float) -> list[Row]:
    """Let 64 clients change something at the leader as fast as they can; etcd in turn with it."""
    stage.calm()
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        ours.append(_our_crowd(stage, seconds))
        if shutil.which("etcd"):
            with _etcd(stage) as port:
                theirs.append(_their_crowd(port, seconds))
        peer = f"{theirs[-1]:.0f}" if theirs else "-"
        say(f"  {_CLIENTS} clients {number + 1}/{rounds}: {ours[-1]:.0f} per second, etcd {peer}")
    peak = median(theirs) if theirs else None
    note = f"{rounds} x {seconds:g} s, in turn; etcd by its JSON gateway" if theirs else _NO_ETCD
    return [
        Row(
            f"commits at the API, 3 nodes, {_CLIENTS} clients",
            median(ours),
            "1/s",
            peak * _SHARE if peak else None,
            at_least=True,
            peer=peak,
            note=note,
        )
    ]
