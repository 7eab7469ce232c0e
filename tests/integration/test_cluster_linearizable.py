"""Real daemons under faults: what clients read, write and swap has an order that explains it."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from lab.cluster import RUNTIME, ClusterError, LabCluster
from lab.world import World
from tests.effort import part
from tests.integration.fault_support import process_of
from tests.linearizable import Kind, Operation, unexplained

from leitwolf.client import Client
from leitwolf.model.commands import AddGroup, ChangeResource, NewResource
from leitwolf.model.errors import LeitwolfError
from leitwolf.model.ids import GroupId, ResourceId, Wish
from leitwolf.model.views import StatusView
from leitwolf.system.progress import Role

pytestmark = pytest.mark.root

NODES = ("n1", "n2", "n3")
REGISTER = ResourceId("register-app")
NOT_DONE = {"no-quorum", "not-leader", "not-ready", "overload", "not-in-a-cluster"}
FIRST = 10_000
"""The register is how long a program that never runs would sleep; every write has its own value."""
SECONDS = part(40, least=15)
_BACK_S = 30.0


class Clients:
    """Threads that use the API of the nodes, and write down what they see."""

    def __init__(self, cluster: LabCluster, seed: int) -> None:
        self.history: list[Operation] = []
        self.failed: list[BaseException] = []
        self._cluster = cluster
        self._seed = seed
        self._values = itertools.count(FIRST + 1)
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        for number in range(count):
            thread = threading.Thread(target=self._run, args=(random.Random(self._seed + number),))
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, source: random.Random) -> None:
        seen: StatusView | None = None
        try:
            while not self._over.is_set():
                if seen is None or source.random() < 0.5:
                    seen = self.read(source) or seen
                else:
                    self._change(source, seen, swap=source.random() < 0.5)
                time.sleep(source.random() * 0.1)
        except BaseException as error:  # the test fails with it
            self.failed.append(error)
            raise

    def _client(self, node: str, since: int | None = None) -> Client:
        pid = self._cluster.world.pid(node)
        return Client(Path(f"/proc/{pid}/root{RUNTIME}"), timeout_s=3, unchanged_since=since)

    def read(self, source: random.Random) -> StatusView | None:
        """Read where somebody says that what he shows is fresh; None: nobody does."""
        for node in source.sample(NODES, len(NODES)):
            called = time.monotonic_ns()
            try:
                view = self._client(node).status()
            except LeitwolfError:
                continue
            if view.fresh:
                returned = time.monotonic_ns()
                self.history.append(Operation(Kind.READ, called, returned, value_of(view)))
                return view
        return None

    def _change(self, source: random.Random, seen: StatusView, *, swap: bool) -> None:
        value, node = next(self._values), source.choice(NODES)
        kind = Kind.SWAP if swap else Kind.WRITE
        client = self._client(node, seen.index if swap else None)
        called, returned, done = time.monotonic_ns(), None, True
        try:
            client.command(ChangeResource(resource=REGISTER, parameters=command(value)), 2)
            returned = time.monotonic_ns()
        except LeitwolfError as error:
            if error.code in NOT_DONE:
                return
            done = error.code != "changed-meanwhile"
            if not done:
                returned = time.monotonic_ns()
            elif not error.retryable:
                raise
        expected = value_of(seen)
        self.history.append(Operation(kind, called, returned, value, expected, done))


def command(value: int) -> dict[str, str]:
    return {"command": f"/bin/sleep {value}"}


def value_of(view: StatusView) -> int:
    (found,) = [item for group in view.groups for item in group.resources if item.id == REGISTER]
    return int(found.parameters["command"].rpartition(" ")[2])


@pytest.fixture
def cluster() -> Iterator[LabCluster]:
    """Three nodes that are a cluster."""
    with World(3) as world:
        made = LabCluster(world)
        try:
            made.form()
            yield made
        finally:
            made.close()


def has_register(clients: Clients) -> bool:
    """Return whether the register is there, as a node knows that is up to date."""
    for node in NODES:
        with suppress(LeitwolfError):
            view = clients._client(node).status()
            if view.fresh:
                return bool(view.groups)
    return False


def leader(cluster: LabCluster, clients: Clients) -> str:
    """Wait until somebody says who leads; who fenced itself meanwhile reboots."""
    view = None
    while view is None:
        cluster.revive()
        view = clients.read(random.Random(0))
    return view.leader


def daemon_of(cluster: LabCluster, node: str) -> int:
    """Wait for a node's daemon: it was just booted, killed, or fenced itself; return its pid."""
    deadline = time.monotonic() + _BACK_S
    while time.monotonic() < deadline:
        cluster.revive()
        with suppress(ClusterError):
            return process_of(cluster.world, node, Role.DAEMON)
        time.sleep(0.05)
    return process_of(cluster.world, node, Role.DAEMON)


def faults(cluster: LabCluster, clients: Clients, source: random.Random, seconds: float) -> None:
    """One fault after another, mostly at the leader; everything is mended again."""
    world, end = cluster.world, time.monotonic() + seconds
    kinds = ["kill", "cut", "freeze", "power"]
    source.shuffle(kinds)
    for kind in itertools.cycle(kinds):
        if time.monotonic() > end:
            return
        node = source.choice([leader(cluster, clients), source.choice(NODES)])
        daemon = daemon_of(cluster, node)
        match kind:
            case "kill":
                os.kill(daemon, signal.SIGKILL)
            case "cut":
                world.cut(node)
                time.sleep(source.uniform(0.2, 2))
                cluster.revive()  # who fenced itself meanwhile has new cables
                world.heal(node)
            case "freeze":
                world.freeze(node)
                time.sleep(source.uniform(0.1, 1.5))
                world.thaw(node)
            case _:
                world.power_off(node)
                time.sleep(source.uniform(0, 1))
                cluster.boot(node)
        time.sleep(source.uniform(0.5, 2))


@pytest.mark.timeout(200)
def test_what_clients_see_is_linearizable(cluster: LabCluster) -> None:
    """Daemons are killed, nodes cut off, frozen and switched off while four clients work."""
    seed = int(os.environ.get("LEITWOLF_SEED", str(time.time_ns() % 1_000_000)))
    print(f"seed {seed}: LEITWOLF_SEED={seed} ./run test {__file__}")
    resource = NewResource(resource=REGISTER, type="process", parameters=command(FIRST))
    clients = Clients(cluster, seed)
    added = AddGroup(group=GroupId("register"), resources=(resource,), wish=Wish.OFFLINE)
    while not has_register(clients):
        with suppress(LeitwolfError):
            clients._client("n1").command(added)
    clients.start(4)
    try:
        faults(cluster, clients, random.Random(seed), SECONDS)
        time.sleep(3)
    finally:
        clients.stop()
    leader(cluster, clients)
    assert not clients.failed
    history = clients.history
    lost = unexplained(history, FIRST)
    text = "\n".join(map(str, sorted(history, key=lambda one: one.called)))
    assert not lost, f"{text}\nnone of these can follow:\n" + "\n".join(map(str, lost))
    done = [one for one in history if one.returned is not None]
    print(f"{len(history)} operations, {len(history) - len(done)} of unknown outcome")
    assert sum(one.kind is Kind.READ for one in done) > 50
    assert sum(one.kind is Kind.SWAP and one.done for one in done) > 5
