"""A cluster of five real nodes for tests of faults, with a client and an observer outside."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from lab.cluster import RUNTIME, ClusterError, LabCluster, all_up
from lab.observer import Observer
from lab.prober import Outage, Prober
from lab.processes import numbered
from lab.world import World

from leitwolf.client import Client
from leitwolf.model.errors import LeitwolfError
from leitwolf.system.progress import Progress, Role

__all__ = ["GROUP", "PORT", "SOON_MS", "VIP", "VIP6", "Calm", "Watch", "process_of"]

VIP, VIP6, PORT, GROUP = "10.77.2.200", "fd77:2::200", 7000, "web"
LAB = Path(__file__).parents[2] / "lab"
_CALM_S = 30.0
_LEAD_TRIES = 5
SOON_MS = 5_000.0
"""No outage is longer, on a machine that is busy with others too: leases end well within it.

Whether something moved is told by the generation, and how fast that is by the benchmarks.
"""


def process_of(world: World, node: str, role: Role) -> int:
    """Return the process that has a role on a node, as seen from here."""
    page = Path(f"/proc/{world.pid(node)}/root{RUNTIME}/progress.page")
    pid = numbered(world.pid(node), Progress(page).slot(role).process)
    if not pid:
        raise ClusterError(f"{node} has no {role.name.lower()}")
    return pid


_STALL_MS = 150
"""Two heartbeats of the profile default are late by then: a node counts as lost before long."""


class Watch:
    """What client and observer saw during one fault."""

    def __init__(self, prober: Prober, observer: Observer) -> None:
        self._prober = prober
        self._observer = observer
        self.outages: list[Outage] = []
        self.two_owners_ms = 0.0
        self.moves = 0
        """How often the group began anew somewhere."""
        self.stall_ms = 0.0
        """How long the machine stood still at most."""
        self.story = ""
        """What the timeline says about it, for who reads of a failure."""

    def moved(self, times: int) -> bool:
        """Return whether the group began anew so often.

        A machine that stood still for too long moved it once more, and rightly so.
        """
        return self.moves == times or self.stall_ms > _STALL_MS

    def answers_again(self, timeout_s: float = 10.0) -> bool:
        """Wait until the address answers; say whether."""
        return self._prober.wait_for_answers(count=30, timeout_s=timeout_s)

    def finish(self) -> None:
        """Take the results."""
        self.outages = self._prober.outages()
        self.two_owners_ms = self._observer.two_owners_ms()
        self.stall_ms = self._prober.stall_ms()

    @property
    def outage_ms(self) -> float:
        """The longest outage."""
        return max((outage.milliseconds for outage in self.outages), default=0.0)


class Calm:
    """The cluster, and how it gets calm again between two faults.

    Args:
        cluster: formed, with the group online.
        prober: asks the address.
        observer: watches its owners.
    """

    def __init__(self, cluster: LabCluster, prober: Prober, observer: Observer) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self._prober = prober
        self._observer = observer

    def client(self, node: str = "") -> Client:
        """Return a client of a node's daemon that asks from here, as a command takes a while."""
        runtime = Path(f"/proc/{self.world.pid(node or self.world.nodes[0])}/root{RUNTIME}")
        return Client(runtime, timeout_s=10)

    def status(self, node: str = "") -> dict[str, Any]:
        """Return the cluster as a node sees it."""
        try:
            view = self.client(node).status()
        except LeitwolfError as error:
            raise ClusterError(error.text) from error
        found: dict[str, Any] = msgspec.to_builtins(view)
        return found

    def group(self, name: str = GROUP, node: str = "") -> dict[str, Any]:
        """Return a group."""
        return next(item for item in self.status(node)["groups"] if item["id"] == name)

    def owner(self, name: str = GROUP) -> str:
        """Return the owner of a group, by the first node that has a quorum."""
        for node in self.world.nodes:
            if self.world.pid(node):
                view = self.status(node)
                if view["quorum"]:
                    return next(str(one["owner"]) for one in view["groups"] if one["id"] == name)
        return ""

    def leader(self) -> str:
        """Return the leader."""
        for node in self.world.nodes:
            if self.world.pid(node):
                view = self.status(node)
                if view["quorum"] and view["leader"]:
                    return str(view["leader"])
        raise ClusterError("nobody knows a leader")

    def other(self, *nodes: str) -> str:
        """Return a node that is none of these."""
        return next(node for node in self.world.nodes if node not in nodes)

    def until(
        self, wanted: Callable[[dict[str, Any]], bool], what: str, timeout_s: float = _CALM_S
    ) -> dict[str, Any]:
        """Wait for a status, asked on any node that is on."""
        node = next(node for node in self.world.nodes if self.world.pid(node))
        return self.until_seen(node, wanted, what, timeout_s)

    def until_seen(
        self,
        node: str,
        wanted: Callable[[dict[str, Any]], bool],
        what: str,
        timeout_s: float = _CALM_S,
    ) -> dict[str, Any]:
        """Wait for a status of a certain node."""
        deadline = time.monotonic() + timeout_s
        view: dict[str, Any] = {}
        while time.monotonic() < deadline:
            try:
                view = self.status(node)
            except ClusterError as error:
                view = {"error": str(error)}
                self.cluster.revive()
            if "error" not in view and wanted(view):
                return view
            time.sleep(0.02)
        raise ClusterError(f"waited {timeout_s:g} s for {what}: {json.dumps(view)}")

    def until_online(self, owner: str = "", name: str = GROUP, timeout_s: float = _CALM_S) -> None:
        """Wait until a group is online (on ``owner``)."""

        def good(view: dict[str, Any]) -> bool:
            group = next(item for item in view["groups"] if item["id"] == name)
            return group["status"] == "online" and owner in ("", group["owner"])

        self.until(good, f"{name} to be online", timeout_s)

    def mend(self) -> None:
        """Thaw and connect every machine, so that a failed test leaves the others a chance."""
        for node in self.world.nodes:
            if self.world.alive(node):
                self.world.thaw(node)
                self.world.heal(node)

    def settle(self) -> None:
        """Wait until all nodes are up and the group is online and answers."""
        for node in self.world.nodes:
            if not self.world.pid(node):
                self.cluster.boot(node)

        def whole(view: dict[str, Any]) -> bool:
            return all_up(len(self.world.nodes))(view) and not self.cluster.revive()

        self.cluster.revive()  # one that is thawed too late to prove its stop fences itself
        leader = str(self.until(whole, "all nodes to be up")["leader"])
        newest = self.status(leader)["index"]  # one that was away has a leader before all entries
        self.until(lambda view: view["index"] >= newest, f"entry {newest}")
        self.until_online()
        if not self._prober.wait_for_answers(count=30, timeout_s=_CALM_S):
            raise ClusterError("the address does not answer")

    def until_gone(self, owner: str) -> str:
        """Wait until a group left ``owner`` and is online elsewhere; return its new owner."""
        asker = self.other(owner)

        def gone(view: dict[str, Any]) -> bool:
            group = next(item for item in view["groups"] if item["id"] == GROUP)
            return group["owner"] not in ("", owner) and group["status"] == "online"

        view = self.until_seen(asker, gone, f"{GROUP} to leave {owner}", _CALM_S)
        return next(str(item["owner"]) for item in view["groups"] if item["id"] == GROUP)

    def place(self, owner: str) -> None:
        """Have a node own the group."""
        if self.owner() != owner:
            self.cluster.ask(owner, "group", "move", GROUP, owner)

    def lead(self, leader: str) -> None:
        """Have a node lead; another one may win in between, so it is asked again."""
        for _ in range(_LEAD_TRIES):
            if self.leader() == leader:
                return
            try:
                self.cluster.ask(leader, "node", "lead", leader)
            except ClusterError as error:
                if "another-leads" not in str(error):
                    raise
            time.sleep(0.5)
        raise ClusterError(f"{leader} does not lead")

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Watch client and observer while something happens; afterwards all is calm again."""
        self._prober.outages()
        self._prober.stall_ms()
        self._observer.report()
        watch = Watch(self._prober, self._observer)
        leader = self.leader()
        before, newest = self.group(node=leader)["generation"], self.status(leader)["index"]
        try:
            yield watch
        finally:
            self.mend()
        self.settle()
        time.sleep(0.3)  # what comes too late, as a second outage, shall be seen
        watch.finish()
        leader = self.leader()
        watch.moves = self.group(node=leader)["generation"] - before
        lines = self.client(leader).log(after=newest)
        watch.story = "\n".join(f"{one.index} {one.by} {one.because} {one.events}" for one in lines)

    def pid(self, node: str, role: Role) -> int:
        """Return the process that has a role on a node, as seen from here."""
        return process_of(self.world, node, role)

    def has_other(self, node: str, role: Role, former: int) -> bool:
        """Return whether another process than ``former`` has a role."""
        try:
            return self.pid(node, role) != former
        except ClusterError:
            return False

    def roles(self, node: str, *roles: Role) -> Callable[[int, object], bool]:
        """Return a condition for :meth:`lab.world.World.freeze`: the processes of these roles."""
        chosen = {self.pid(node, role) for role in roles}
        return lambda pid, _: pid in chosen

    def kill(self, node: str, *roles: Role) -> None:
        """Kill processes of a node, all at once."""
        for pid in [self.pid(node, role) for role in roles]:
            os.kill(pid, signal.SIGKILL)

    def newest(self) -> int:
        """Return the index of the newest entry."""
        return int(self.status(self.leader())["index"])

    def until_told(self, word: str, after: int, timeout_s: float = _CALM_S) -> str:
        """Wait until the timeline has a line with a word after an entry; return the line."""
        deadline = time.monotonic() + timeout_s
        while True:
            done = self.cluster.command(self.leader(), "log", "--json", f"--after={after}")
            for line in done.stdout.splitlines():
                if word in line:
                    return line
            if time.monotonic() > deadline:
                raise ClusterError(f"no {word!r} after entry {after}: {done.stdout}")
            time.sleep(0.1)

    def refusal(self, *arguments: str, node: str = "n1", code: int = 2) -> dict[str, str]:
        """Return what a command that must be refused with this exit code says."""
        done = self.cluster.command(node, *arguments, "--json")
        if done.returncode != code:
            raise ClusterError(f"{arguments} ended with {done.returncode}: {done.stdout}")
        answer: dict[str, str] = json.loads(done.stdout)
        return answer
