"""The product in a world: starts real nodes, forms a cluster, and does to it what users do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import msgspec

from lab.processes import argv_of, members_of
from lab.world import World
from leitwolf.client import Client
from leitwolf.model.errors import LeitwolfError

__all__ = ["ClusterError", "LabCluster", "all_up", "is_leitwolf", "runs_module"]

RUNTIME = "/run/leitwolf"
_READY_S = 60.0
_COMMAND_S = 90.0
"""A command waits for a minute for its outcome and then says so."""


class ClusterError(Exception):
    """The cluster did not do what was asked; says what it answered."""


def runs_module(name: str, argv: Sequence[str]) -> bool:
    """Return whether a command line is that of a module of Python, or of one below it.

    Other programs may have a word of it in their paths.
    """
    return any(
        option == "-m" and f"{module}.".startswith(f"{name}.") for option, module in pairwise(argv)
    )


def is_leitwolf(_: int, argv: Sequence[str]) -> bool:
    """Return whether a process is one of Leitwolf's own; what it keeps running is not."""
    return runs_module("leitwolf", argv)


class LabCluster:
    """Leitwolf on the nodes of a world.

    Args:
        world: where; its nodes are switched on by :meth:`boot`.
        profile: timing profile, '' for the best that the machine holds.
    """

    def __init__(self, world: World, profile: str = "") -> None:
        self.world = world
        self.profile = profile
        self._logs: list[IO[bytes]] = []

    # --- nodes -----------------------------------------------------------------------------------

    def environment(self, node: str) -> dict[str, str]:
        """Return the environment of a node: own directories, nothing of the real machine."""
        folder = self.world.folder / node
        source = Path(__file__).parents[1] / "src"
        return {
            "LEITWOLF_RUNTIME": RUNTIME,
            "LEITWOLF_STATE": str(folder / "state"),
            "LEITWOLF_CONFIG": str(folder / "config"),
            "LEITWOLF_WATCHDOG": "none",
            "LEITWOLF_FENCE": "namespace",
            "PYTHONPATH": str(source),
        }

    def log_of(self, node: str) -> Path:
        """Return where a node's processes write what they say."""
        return self.world.folder / f"{node}.log"

    def boot(self, node: str) -> None:
        """Switch a node on and start Leitwolf there."""
        self.world.start(node)
        self.run(node)

    def run(self, node: str) -> None:
        """Start Leitwolf on a node that is on."""
        output = self.log_of(node).open("ab")
        self._logs.append(output)
        self.world.spawn(
            node,
            [sys.executable, "-m", "leitwolf.cli", "run"],
            env=self.environment(node),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )

    def revive(self, but: Collection[str] = ()) -> list[str]:
        """Boot the nodes that fenced themselves, as real machines do, ``but`` these; return which.

        A process that cannot be killed holds its dead machine until it can.
        """
        fenced = [
            node
            for node in self.world.nodes
            if node not in but and self.world.pid(node) and not self.world.alive(node)
        ]
        for node in fenced:
            self.world.power_off(node)
            self.boot(node)
        return fenced

    def close(self) -> None:
        """Close what this object opened; the nodes end with their world."""
        for output in self._logs:
            output.close()

    # --- commands --------------------------------------------------------------------------------

    def ask(self, node: str, *arguments: str, timeout_s: float = _COMMAND_S) -> Any:
        """Run a ``leitwolf`` command with ``--json`` on a node and return what it says.

        Raises:
            ClusterError: it failed; has its text.
        """
        done = self.command(node, *arguments, "--json", timeout_s=timeout_s)
        problem = f"leitwolf {' '.join(arguments)}: {done.stdout}{done.stderr}"
        if done.returncode not in (0, 6, 10):
            raise ClusterError(problem)
        try:
            said = json.loads(done.stdout)
        except json.JSONDecodeError as error:
            raise ClusterError(problem) from error
        if done.returncode == 6 and "error" in said:  # else it shows a state without a quorum
            raise ClusterError(problem)
        return said

    def command(
        self, node: str, *arguments: str, timeout_s: float = _COMMAND_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a ``leitwolf`` command on a node as a user would."""
        process = self.world.spawn(
            node,
            [sys.executable, "-m", "leitwolf.cli", *arguments],
            env=self.environment(node),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except BaseException:
            self.world.kill(process)
            process.communicate()
            raise
        return subprocess.CompletedProcess(list(arguments), process.returncode, output, errors)

    def client(self, node: str) -> Client:
        """Return the API of a node, without the start of a command."""
        return Client(Path(f"/proc/{self.world.pid(node)}/root{RUNTIME}"))

    def status(self, node: str) -> dict[str, Any]:
        """Return the cluster as a node sees it.

        Raises:
            ClusterError: it does not answer.
        """
        try:
            view: dict[str, Any] = msgspec.to_builtins(self.client(node).status())
        except LeitwolfError as error:
            raise ClusterError(f"{node}: {error}") from error
        return view

    def processes(self, node: str, belongs: Callable[[Sequence[str]], bool]) -> list[int]:
        """Return the processes of a node, as seen from here, whose command lines belong."""
        return [pid for pid in members_of(self.world.pid(node)) if belongs(argv_of(pid))]

    # --- forming ---------------------------------------------------------------------------------

    def form(self, progress: Callable[[str], None] = lambda _: None) -> None:
        """Switch all nodes on, form a cluster on the first and join the others."""
        for node in self.world.nodes:
            self.boot(node)
        first, *others = self.world.nodes
        self._wait_daemon(first)
        interconnects = [
            f"--interconnect={network.name}"
            for network in self.world.networks
            if network.name.startswith("ic")
        ]
        options = [f"--profile={self.profile}"] if self.profile else []
        setup = self.ask(first, "init", "--name=lab", *interconnects, "--client=client0", *options)
        self.profile = setup["profile"]
        progress(f"{first} formed the cluster, profile {self.profile}")
        for node in others:
            self._wait_daemon(node)
            self._join(first, node)
            progress(f"{node} joined")
        whole = all_up(len(self.world.nodes))
        self.wait(first, lambda view: not self.revive() and whole(view), "all nodes to be up")

    def _join(self, first: str, node: str) -> None:
        """Let a node join; one that stalls while it does is asked again."""
        deadline = time.monotonic() + _READY_S
        while True:
            done = self.command(node, "join", self.ask(first, "token")["token"])
            if not done.returncode or self.status(node)["formed"]:
                return
            if time.monotonic() > deadline:
                raise ClusterError(f"{node} does not join: {done.stdout}{done.stderr}")

    def _wait_daemon(self, node: str) -> None:
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                self.status(node)
            except ClusterError as error:
                if time.monotonic() > deadline:
                    said = self.log_of(node).read_text()
                    raise ClusterError(f"{node} does not start:\n{said}") from error
            else:
                return
            time.sleep(0.02)

    def wait(
        self,
        node: str,
        wanted: Callable[[dict[str, Any]], bool],
        what: str,
        timeout_s: float = 30,
    ) -> dict[str, Any]:
        """Wait until the status of a node is as wanted and return it.

        Raises:
            ClusterError: it is not in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                view = self.status(node)
            except ClusterError as error:
                view = {"error": str(error)}
            if "error" not in view and wanted(view):
                return view
            if time.monotonic() > deadline:
                raise ClusterError(f"waited {timeout_s:g} s for {what}: {json.dumps(view)}")
            time.sleep(0.05)

    def owner(self, group: str, nodes: Iterable[str] = ()) -> str:
        """Return who owns a group by the first node that knows a leader, '' if nobody."""
        for node in nodes or self.world.nodes:
            if not self.world.pid(node):
                continue
            try:
                view = self.status(node)
            except ClusterError:
                continue
            if view["quorum"]:
                for item in view["groups"]:
                    if item["id"] == group:
                        return str(item["owner"])
        return ""


def all_up(count: int) -> Callable[[dict[str, Any]], bool]:
    """Return a condition: so many members are up and connected."""

    def wanted(view: dict[str, Any]) -> bool:
        good = [
            node
            for node in view["nodes"]
            if node["up"]
            and node["connected"]
            and node["standing"] == "member"
            and not node["reason"]  # it has its vote again
        ]
        return view["quorum"] and len(good) == count

    return wanted
