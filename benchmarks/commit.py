"""A change through the API until it is committed, beside etcd on the same disks."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.rows import Row, median, percentile
from benchmarks.stage import Stage, say

__all__ = ["commits"]

_WARM = 50
_NODES = 3
_READY_S = 20.0
_RATIO = 1.5 / 1.2
"""The goal: p50 of 1.5 ms where etcd needs 1.2."""


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


def _leitwolf(stage: Stage, count: int) -> list[float]:
    connection = _Unix(stage.inside(stage.leader(), "/run/leitwolf/api.sock"))

    def change(number: int) -> None:
        body = {"kind": "ChangeGroup", "group": "one", "retry_period_s": 3_600 + number % 100}
        _post(connection, "/v1/command", json.dumps(body).encode())

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


def _etcd(folder: Path, count: int) -> list[float]:
    """Time changes at the leader of three etcd members on loopback."""
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
        connection = http.client.HTTPConnection("127.0.0.1", _etcd_leader(clients))
        key = base64.b64encode(b"one").decode()

        def change(number: int) -> None:
            value = base64.b64encode(str(number).encode()).decode()
            _post(connection, "/v3/kv/put", json.dumps({"key": key, "value": value}).encode())

        return _timed(change, count)
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


def commits(stage: Stage, count: int) -> list[Row]:
    """Commit one change after the other at the leader's API; etcd does the same."""
    stage.calm()
    ours = _leitwolf(stage, count)
    theirs: list[float] = []
    note = "no etcd here (package etcd-server)"
    if shutil.which("etcd"):
        with tempfile.TemporaryDirectory(prefix="leitwolf-etcd-", dir=stage.world.folder) as folder:
            theirs = _etcd(Path(folder), count)
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
