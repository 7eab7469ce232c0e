"""Three real nodes that are a cluster, and a fourth that joins, leaves, breaks and comes back."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lab.cluster import RUNTIME, LabCluster
from lab.processes import members_of, parents
from lab.world import World

from leitwolf.client import Client
from leitwolf.model.errors import LeitwolfError
from leitwolf.model.views import (
    ClusterSetup,
    InitRequest,
    JoinRequestView,
    NodeLine,
    QuorumView,
    StatusView,
)

__all__ = ["GUEST", "MEMBERS", "NODES", "PORT", "VIP", "Members", "formed"]

MEMBERS, GUEST = ("n1", "n2", "n3"), "n4"
NODES = (*MEMBERS, GUEST)
VIP, PORT = "10.77.2.200", 7000
_LAB = Path(__file__).parents[2] / "lab"
CLOCK = """\
import os, platform, time

def shifted(real, by):
    def read():
        return real() - by * os.path.exists(f"{os.path.dirname(__file__)}/{platform.node()}")
    return read

time.time, time.time_ns = shifted(time.time, YEAR_S), shifted(time.time_ns, YEAR_S * 10**9)
"""
"""Read by every Python of a node: a file of its name sets its wall clock back by a year."""
YEAR_S = 365 * 86_400
V = TypeVar("V", StatusView, QuorumView)
_WAIT_S = 20.0
_SETTLED_S = 30.0


class _Clocks(LabCluster):
    """Nodes whose wall clocks can be set back while they run."""

    def environment(self, node: str) -> dict[str, str]:
        """Return the environment of a node."""
        found = super().environment(node)
        folder = self.world.folder / "clocks"
        if not folder.exists():
            folder.mkdir()
            patch = CLOCK.replace("YEAR_S", str(YEAR_S))
            (folder / "sitecustomize.py").write_text(patch)
        return found | {"PYTHONPATH": f"{folder}:{found['PYTHONPATH']}"}


@contextmanager
def formed(votes: str = "", *, welcome: bool = False, clocks: bool = False) -> Iterator[Members]:
    """Have a cluster of three with a group online, and a fourth node that is in none.

    Args:
        votes: as of ``leitwolf init``.
        welcome: the fourth node is in the cluster, too.
        clocks: wall clocks can be set back.
    """
    with World(len(NODES)) as world:
        members = Members(world)
        if clocks:
            members.lab = _Clocks(world)
        try:
            members.form(votes)
            members.serve()
            if welcome:
                members.welcome()
            yield members
        finally:
            members.lab.close()


class Members:
    """A cluster of three nodes and a fourth one, asked through its API.

    Args:
        world: of four nodes.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.lab = LabCluster(world)

    # --- forming ---------------------------------------------------------------------------------

    def form(self, votes: str = "") -> None:
        """Make n1, n2 and n3 a cluster; n4 runs in none; ``votes``: as of ``leitwolf init``."""
        for node in NODES:
            self.lab.boot(node)
        for node in NODES:
            self.until(node, lambda view: not view.formed, "the daemon")
        request = InitRequest(name="lab", interconnect=("ic0",), client=("client0",), votes=votes)
        self.client("n1").form(request)
        for node in MEMBERS[1:]:
            self.join(node)
        self.settle()

    def settle(self) -> StatusView:
        """Wait until all three members are up, vote, nobody else is there, and n1 knows it all.

        A node that was cut off has a leader again before it has the entries that it missed.
        """

        def good(view: StatusView) -> bool:
            members = [
                node
                for node in view.nodes
                if node.standing == "member" and node.up and not node.reason
            ]
            return view.quorum and len(members) == len(view.nodes) == len(MEMBERS)

        leader = self.until("n1", good, "three members").leader
        newest = self.status(leader).index
        return self.until(
            "n1", lambda view: good(view) and view.index >= newest, f"three members and {newest}"
        )

    # --- asking ----------------------------------------------------------------------------------

    def client(self, node: str) -> Client:
        """Return a client of a node's daemon, which sees the caller as root."""
        return Client(Path(f"/proc/{self.world.pid(node)}/root{RUNTIME}"), timeout_s=30)

    def status(self, node: str = "n1") -> StatusView:
        """Return the cluster as a node sees it."""
        return self.client(node).status()

    def until(
        self,
        node: str,
        wanted: Callable[[StatusView], bool],
        what: str,
        timeout_s: float = _WAIT_S,
    ) -> StatusView:
        """Wait until a node's status is as wanted."""
        return self._until(node, lambda: self.status(node), wanted, what, timeout_s)

    def until_quorum(
        self,
        node: str,
        wanted: Callable[[QuorumView], object],
        what: str,
        timeout_s: float = _SETTLED_S,
    ) -> QuorumView:
        """Wait until a node's view of the quorum is as wanted; '' for who leads meanwhile."""

        def ask() -> QuorumView:
            return self.client(node or self.leader()).quorum()

        return self._until(node or "n1", ask, wanted, what, timeout_s)

    def _until(
        self,
        node: str,
        ask: Callable[[], V],
        wanted: Callable[[V], object],
        what: str,
        timeout_s: float,
    ) -> V:
        deadline, view = time.monotonic() + timeout_s, None
        while time.monotonic() < deadline:
            try:
                view = ask()
            except LeitwolfError:
                time.sleep(0.05)
                continue
            if wanted(view):
                return view
            time.sleep(0.03)
        raise AssertionError(
            f"{what} on {node}: {view}\n{self.lab.log_of(node).read_text()[-3000:]}"
        )

    def until_votes(self, votes: int, acceptors: int = 0, node: str = "n1") -> QuorumView:
        """Wait until one configuration with so many votes and acceptors (0: any) is in force."""

        def settled(view: QuorumView) -> bool:
            voting = sum(member.voting for member in view.members)
            return not view.joint and view.votes == votes and voting == (acceptors or voting)

        return self.until_quorum(node, settled, f"{votes} votes")

    def until_online(self, node: str, without: Collection[str] = ()) -> StatusView:
        """Wait until a node sees a quorum and all groups online, none on one of ``without``."""

        def good(view: StatusView) -> bool:
            return view.quorum and all(
                group.status == "online" and group.owner not in without for group in view.groups
            )

        return self.until(node, good, "the group online")

    def member(self, name: str, asked: str = "n1") -> NodeLine | None:
        """Return a node as another sees it."""
        return next((item for item in self.status(asked).nodes if item.name == name), None)

    def leader(self) -> str:
        """Return who leads."""
        return self.until("n1", lambda view: view.quorum, "a leader").leader

    def owner(self, asked: str = "n1") -> str:
        """Return the owner of the group."""
        return next(item.owner for item in self.status(asked).groups if item.id == "web")

    def generation(self) -> int:
        """Return the generation of the group."""
        return next(item.generation for item in self.status().groups if item.id == "web")

    def keys(self) -> dict[str, bytes]:
        """Return the heartbeat keys of every member, as its guard reads them."""
        key = Path("config", "pki", "heartbeat.key")
        return {node: (self.world.folder / node / key).read_bytes() for node in MEMBERS}

    def unopened(self) -> dict[str, int]:
        """Return how many heartbeats every member had no key for."""
        views = {node: self.client(node).quorum().dropped for node in MEMBERS}
        return {node: view.datagrams["foreign-key"] for node, view in views.items() if view}

    def until_links(self, node: str, networks: Collection[str]) -> None:
        """Wait until a node hears all others on exactly these networks."""

        def heard(view: StatusView) -> bool:
            others = [other for other in view.nodes if not other.here]
            return all(
                {link.network for link in other.links if link.up} == set(networks)
                for other in others
            )

        self.until(node, heard, f"links on {networks}")

    def log_text(self, node: str = "n1", last: int = 400) -> str:
        """Return the newest lines of the timeline as text."""
        index = self.status(node).index
        lines = self.client(node).log(max(0, index - last))
        return "\n".join(f"{item.by} {item.code} {item.because} {item.events}" for item in lines)

    def run(self, *words: str | Path, node: str = "n1") -> str:
        """Run a command, which must succeed; return what it prints."""
        done = self.lab.command(node, *map(str, words))
        assert done.returncode == 0, done.stderr + done.stdout
        return str(done.stdout)

    # --- coming and going ------------------------------------------------------------------------

    def join(self, node: str, *, again: bool = False, name: str = "", token: str = "") -> list[str]:
        """Let a node join; return what it said meanwhile."""
        token = token or self.client("n1").token(60)
        said = []
        request = JoinRequestView(token=token, node_name=name, again=again)
        for item in self.client(node).join(request):
            if isinstance(item, ClusterSetup):
                self.until(node, lambda view: view.quorum, "the leader")
            else:
                said.append(item)
        return said

    def until_member(self, node: str = GUEST) -> None:
        """Wait until a node is a full member and up."""

        def good(view: StatusView) -> bool:
            return any(
                item.name == node
                and item.standing == "member"
                and item.up
                and item.connected
                and not item.reason
                for item in view.nodes
            )

        self.until("n1", good, f"{node} to be a member")

    def welcome(self) -> None:
        """Have the fourth node in the cluster, whatever it was."""
        if self.member(GUEST) is None or not self.status(GUEST).formed:
            self.dismiss()
            self.join(GUEST)
        self.until_member()

    def dismiss(self) -> None:
        """Have the fourth node outside, running, in no cluster, and unknown to the others."""
        self.evict(GUEST)
        if not self.world.pid(GUEST):
            self.lab.boot(GUEST)
        elif not self.alive(GUEST):
            self.lab.run(GUEST)
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            try:
                view = self.status(GUEST)
                if not view.formed and not view.fault:
                    return
                if view.fault:
                    self.client(GUEST).destroy()
            except LeitwolfError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{GUEST} does not leave: {self.status(GUEST)}")

    def evict(self, node: str) -> None:
        """Evict a node and wait until it is gone; nothing happens when it is no member."""
        known = self.member(node)
        if known is None:
            return
        self.run("node", "evict", node, "--timeout", "20")

    @contextmanager
    def year_back(self, node: str) -> Iterator[None]:
        """Set the wall clock of a node back by a year, while it runs."""
        mark = self.world.folder / "clocks" / node
        mark.touch()
        try:
            yield
        finally:
            mark.unlink()

    # --- processes -------------------------------------------------------------------------------

    def keepers(self, node: str) -> list[int]:
        """Return the pids of a node's keeper and guard, which share a command line."""
        found = []
        for pid in members_of(self.world.pid(node)):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if (b"leitwolf.cli" in words and b"run" in words) or b"leitwolf.keeper.main" in words:
                found.append(pid)
        above = parents()  # the guard is a fork of the keeper, and numbers wrap around
        return sorted(found, key=lambda pid: above.get(pid, 0) in found)

    def alive(self, node: str) -> bool:
        """Return whether Leitwolf runs on a node."""
        return bool(self.world.pid(node) and self.keepers(node))

    def signal(self, node: str, number: int) -> None:
        """Send a signal to a node's keeper."""
        os.kill(self.keepers(node)[0], number)

    def stop(self, node: str, timeout_s: float = 40) -> None:
        """Stop Leitwolf in order on a node."""
        self.signal(node, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while self.alive(node):
            assert time.monotonic() < deadline, self.lab.log_of(node).read_text()[-3000:]
            time.sleep(0.03)

    def state(self, node: str) -> Path:
        """Return a node's state directory."""
        return self.world.folder / node / "state"

    def serve(self) -> None:
        """Have a group online that answers on the virtual address."""
        command = f"{sys.executable} -S -E {_LAB / 'echo.py'} {PORT} web"
        self.run("group", "add", "web", "--address", f"{VIP}/24", "--run", command)

    def copy_state(self, node: str, target: Path) -> None:
        """Copy a state directory as a backup would."""
        shutil.copytree(self.state(node), target)

    def restore_state(self, node: str, source: Path) -> None:
        """Put a copy back."""
        shutil.rmtree(self.state(node))
        shutil.copytree(source, self.state(node))
