"""Witnesses of a world, each a process of its own, that fall silent and speak again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from lab.world import CLIENT
from tests.integration.membership_support import Members
from tests.integration.witness_support import ROOT, Witness, ended, moto, wait_for

__all__ = ["PLACES", "Place", "breaking", "engine"]

_S3_PORT, _ETCD_PORT = 9000, 2379
_MEMORY = Path("/dev/shm")
_PRIORITY = -15
"""A witness has a machine of its own: what a busy one does to it is not what is tested."""
_BUCKET = """
import sys, time, urllib.request
request = urllib.request.Request(sys.argv[1], method="PUT", data=b"")
for attempt in range(600):
    try:
        urllib.request.urlopen(request, timeout=5).close()
        break
    except OSError:
        time.sleep(0.1)
"""
_BREAK = """
import signal, sys
from tests.integration.witness_support import Proxy
host, at, behind = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with Proxy(behind, host=host, at=at) as proxy:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
    print("listens", flush=True)
    while True:
        broken = signal.sigwait({signal.SIGUSR1, signal.SIGUSR2}) == signal.SIGUSR1
        proxy.fault = "no-conditions" if broken else ""
"""
_HOLD = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


class Place:
    """Where a witness is.

    Attributes:
        location: as ``leitwolf quorum set witness`` takes it.
        lose: from now on it answers nobody.
        find: it answers again.
    """

    def __init__(
        self, location: str, lose: Callable[[], object], find: Callable[[], object]
    ) -> None:
        self.location = location
        self.lose = lose
        self.find = find


def _allow(members: Members, section: str, **secrets: str) -> None:
    """Tell all nodes the secrets of a location."""
    lines = [f"[{section}]", *(f"{name} = {value}" for name, value in secrets.items())]
    for node in members.world.nodes:
        path = Path(members.lab.environment(node)["LEITWOLF_CONFIG"]) / "witness.ini"
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)


@contextmanager
def _daemon(members: Members) -> Iterator[Place]:
    """``leitwolf witness serve`` on the clients' machine."""
    world = members.world
    folder = Path(tempfile.mkdtemp(prefix="leitwolf-witness-", dir=_MEMORY))
    witness = Witness(folder / "state", world.address(CLIENT), world.enter_network(CLIENT))
    location = witness.location("lab")
    _allow(members, location, token=witness.token("lab"))
    witness.start()
    try:
        os.setpriority(os.PRIO_PROCESS, witness.pid, _PRIORITY)
        wait_for(lambda: _fit(members, location), "the witness")
        yield Place(
            location,
            lambda: witness.send(signal.SIGSTOP),
            lambda: witness.send(signal.SIGCONT),
        )
    finally:
        witness.stop(signal.SIGKILL)
        shutil.rmtree(folder)


@contextmanager
def _store(members: Members) -> Iterator[Place]:
    """An S3 of moto on the clients' machine."""
    world = members.world
    host, enter = world.address(CLIENT), world.enter_network(CLIENT)
    url = f"http://{host}:{_S3_PORT}"
    _allow(members, "s3://quorum/lab", access_key_id="lab", secret_access_key="lab")
    with moto(host, _S3_PORT, enter) as server:
        os.setpriority(os.PRIO_PROCESS, server.pid, _PRIORITY)
        make = [*enter, sys.executable, "-S", "-E", "-c", _BUCKET, f"{url}/quorum"]
        subprocess.run(make, check=True, timeout=60)
        yield Place(
            f"s3://quorum/lab?endpoint={url}&region=us-east-1",
            lambda: server.send_signal(signal.SIGSTOP),
            lambda: server.send_signal(signal.SIGCONT),
        )


@contextmanager
def breaking(members: Members) -> Iterator[Place]:
    """An S3 that ignores conditions from ``lose`` to ``find``."""
    world = members.world
    host, enter = world.address(CLIENT), world.enter_network(CLIENT)
    with _store(members) as place:
        words = [host, str(_S3_PORT + 1), str(_S3_PORT)]
        proxy = subprocess.Popen(
            [*enter, sys.executable, "-c", _BREAK, *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            stdout=subprocess.PIPE,
        )
        with proxy, ended(proxy):
            assert proxy.stdout is not None
            assert proxy.stdout.readline() == b"listens\n"
            yield Place(
                place.location.replace(f":{_S3_PORT}", f":{_S3_PORT + 1}"),
                lambda: proxy.send_signal(signal.SIGUSR1),
                lambda: proxy.send_signal(signal.SIGUSR2),
            )


@contextmanager
def engine(members: Members) -> Iterator[Place]:
    """An etcd of one member on the clients' machine; its disk is memory."""
    world = members.world
    host, enter = world.address(CLIENT), world.enter_network(CLIENT)
    data = Path(tempfile.mkdtemp(prefix="leitwolf-etcd-", dir=_MEMORY))
    url, location = f"http://{host}:{_ETCD_PORT}", f"etcd://{host}:{_ETCD_PORT}/lab"
    server = subprocess.Popen(
        [
            *enter,
            "etcd",
            f"--data-dir={data}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            "--listen-peer-urls=http://127.0.0.1:2380",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with ended(server):
            os.setpriority(os.PRIO_PROCESS, server.pid, _PRIORITY)
            wait_for(lambda: _fit(members, location), "etcd")
            yield Place(
                location,
                lambda: server.send_signal(signal.SIGSTOP),
                lambda: server.send_signal(signal.SIGCONT),
            )
    finally:
        shutil.rmtree(data)


@contextmanager
def _share(members: Members) -> Iterator[Place]:
    """A folder that all see. It falls silent when a machine dies that holds the file's lock."""
    folder = members.world.folder / "share"
    folder.mkdir(exist_ok=True)
    holders: list[subprocess.Popen[bytes]] = []

    def hold() -> None:
        holder = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _HOLD, str(folder / "witness")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"

    def release() -> None:
        while holders:
            holders.pop().communicate()

    try:
        yield Place(f"share:{folder}/witness?local=yes", hold, release)
    finally:
        release()


def _fit(members: Members, location: str) -> bool:
    return members.lab.command("n1", "witness", "test", location).returncode == 0


PLACES: Mapping[str, Callable[[Members], AbstractContextManager[Place]]] = {
    "daemon": _daemon,
    "etcd": engine,
    "s3": _store,
    "share": _share,
}
