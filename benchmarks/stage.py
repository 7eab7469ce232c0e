"""Where the cluster is measured: a world of nodes, two groups, a prober for each."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from lab.cluster import ClusterError, LabCluster, all_up
from lab.observer import Observer
from lab.prober import Prober
from lab.processes import numbered
from lab.world import World

from leitwolf.client import Client
from leitwolf.model.commands import AddGroup, Command, MoveGroup, NewResource
from leitwolf.model.errors import LeitwolfError
from leitwolf.model.ids import GroupId, NodeId, ResourceId
from leitwolf.model.views import StatusView
from leitwolf.system.progress import Progress, Role, Slot

__all__ = ["ADDRESSES", "PORT", "Stage", "say"]

PORT = 7
GROUP, OTHER = "one", "two"
ADDRESSES = {GROUP: "10.77.2.200", OTHER: "10.77.2.201"}
_LAB = Path(__file__).parents[1] / "lab"
_CALM_S = 30.0


def say(text: str) -> None:
    """Tell the person in front of the terminal."""
    print(text, file=sys.stderr, flush=True)


class Stage:
    """A formed cluster with the groups ``one`` (under test) and ``two`` (a bystander).

    Nobody watches it at first: probers and observer take a third of a core.
    """

    def __init__(self, profile: str = "", nodes: int = 3) -> None:
        self._stack = ExitStack()
        self.world = World(nodes)
        self.cluster = LabCluster(self.world, profile)
        self.probers: dict[str, Prober] = {}
        self._observer: Observer | None = None

    def __enter__(self) -> Self:
        try:
            self._stack.enter_context(self.world)
            self._stack.callback(self.cluster.close)
            self.cluster.form()
            for node in self.world.nodes:
                self.echo(node)
            for group, address in ADDRESSES.items():
                self.add_group(group, address)
            self.calm()
        except BaseException:
            self._stack.close()
            raise
        return self

    def watch(self) -> None:
        """Let clients ask both addresses from now on, and an observer see who owns them."""
        if self._observer is None:
            for group, address in ADDRESSES.items():
                prober = Prober(self.world, address, PORT)
                self.probers[group] = self._stack.enter_context(prober)
            observer = Observer(self.world, list(ADDRESSES.values()))
            self._observer = self._stack.enter_context(observer)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    # --- what there is ---------------------------------------------------------------------------

    def inside(self, node: str, path: str) -> Path:
        """Return a path of a node as this process can open it."""
        return Path(f"/proc/{self.world.pid(node)}/root{path}")

    def client(self, node: str) -> Client:
        """Return the API of a node, without the start of a command."""
        return self.cluster.client(node)

    def status(self, node: str = "") -> StatusView:
        """Return the cluster as one node sees it."""
        return self.client(node or self.world.nodes[0]).status()

    @property
    def observer(self) -> Observer:
        """The observer outside the nodes."""
        if self._observer is None:
            raise RuntimeError("this stage is not watched")
        return self._observer

    def leader(self) -> str:
        """Return the name of the node in office."""
        return self.status().leader

    def owner(self, group: str) -> str:
        """Return the name of the node that owns a group."""
        return next(item.owner for item in self.status().groups if item.id == group)

    def slot(self, node: str, role: Role) -> Slot:
        """Return what a process of a node says of itself; its pid is the node's."""
        page = Progress(self.inside(node, "/run/leitwolf/progress.page"))
        try:
            return page.slot(role)
        finally:
            page.close()

    def pid(self, node: str, role: Role) -> int:
        """Return the pid, as seen from here, of one of a node's four processes."""
        pid = numbered(self.world.pid(node), self.slot(node, role).process)
        if not pid:
            raise RuntimeError(f"no {role.name.lower()} runs on {node}")
        return pid

    # --- what is done ----------------------------------------------------------------------------

    def echo(self, node: str) -> subprocess.Popen[Any]:
        """Answer datagrams on a node, whoever has the address; no business of Leitwolf's."""
        argv = [sys.executable, "-S", "-E", str(_LAB / "echo.py"), str(PORT), node]
        process = self.world.spawn(node, argv, stdout=subprocess.PIPE)
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"no echo on {node}")
        return process

    def command(self, command: Command) -> int:
        """Have something done, again while the cluster says that it may be repeated."""
        deadline = time.monotonic() + _CALM_S
        while True:
            try:
                return self.client(self.world.nodes[0]).command(command).index
            except LeitwolfError as error:
                if not error.retryable or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def add_group(self, name: str, address: str) -> None:
        """Make a group that has only an address."""
        parameters = {"address": f"{address}/24"}
        resource = NewResource(
            resource=ResourceId(f"{name}-ip"), type="ip_address", parameters=parameters
        )
        self.command(AddGroup(group=GroupId(name), resources=(resource,)))

    def move(self, group: str, node: str) -> None:
        """Move a group if it is not there, and wait until it is online there."""
        status = self.status()
        number = next(item.id for item in status.nodes if item.name == node)
        if self.owner(group) != node:
            self.command(MoveGroup(group=GroupId(group), node=NodeId(number)))
        self.wait(
            lambda view: any(
                item.id == group and item.owner == node and item.status == "online"
                for item in view.groups
            ),
            f"{group} to be on {node}",
        )

    def place(self, *, on_leader: bool) -> str:
        """Put the two groups on two nodes; return the owner of the one under test."""
        leader = self.leader()
        follower = next(node for node in self.world.nodes if node != leader)
        owner, other = (leader, follower) if on_leader else (follower, leader)
        self.move(GROUP, owner)
        self.move(OTHER, other)
        return owner

    def wait(self, wanted: Callable[[StatusView], bool], what: str, node: str = "") -> StatusView:
        """Wait until the status of a node is as wanted.

        Raises:
            ClusterError: it is not in time.
        """
        deadline = time.monotonic() + _CALM_S
        while True:
            said = ""
            try:
                view = self.status(node)
                if wanted(view):
                    return view
                said = str(view)
            except (LeitwolfError, OSError) as error:
                said = str(error)
            if time.monotonic() > deadline:
                raise ClusterError(f"waited {_CALM_S:g} s for {what}: {said}")
            time.sleep(0.02)

    def calm(self) -> None:
        """Wait until all nodes are members with a lease and both groups answer."""
        everybody = all_up(len(self.world.nodes))

        def good(view: StatusView) -> bool:
            return everybody(msgspec.to_builtins(view)) and all(
                item.status == "online" for item in view.groups
            )

        for node in self.world.nodes:
            self.wait(good, "everything to be well", node)
        for group, prober in self.probers.items():
            if not prober.wait_for_answers(count=100):
                raise ClusterError(f"{group} does not answer")

    def forget(self) -> None:
        """Forget what was measured up to now."""
        for prober in self.probers.values():
            prober.outages()
        self.observer.report()

    def boot(self, node: str) -> None:
        """Switch a node on again, with its echo."""
        self.cluster.boot(node)
        self.echo(node)
