"""Real nodes that are a cluster, and who watches from outside.

Three, and a fourth that joins, leaves, breaks and comes back; or two.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self, TypeVar

from lab.cluster import RUNTIME, LabCluster
from lab.observer import Observer
from lab.processes import argv_of, members_of, parents
from lab.world import World
from tests.integration.patience_support import LATER, LOOK_S, Patient
from tests.integration.stall_support import NOT_NOW, TwoOwners

from leitwolf.client import Client
from leitwolf.model.errors import LeitwolfError
from leitwolf.model.views import (
    ClusterSetup,
    GroupView,
    InitRequest,
    JoinRequestView,
    NodeLine,
    QuorumView,
    StatusView,
)

__all__ = [
    "GUEST",
    "MEMBERS",
    "NODES",
    "PAIR",
    "PORT",
    "VIP",
    "Members",
    "Outside",
    "formed",
]

MEMBERS, GUEST = ("n1", "n2", "n3"), "n4"
NODES = (*MEMBERS, GUEST)
PAIR = ("n1", "n2")
VIP, PORT = "10.77.2.200", 7000
_SERVER = Path(__file__).parents[2] / "lab" / "echo.py"
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
_WAIT_S = 30.0
_SETTLED_S = 30.0
_WATCH_S = 0.2
"""So long the observer's questions are without an answer when nobody owns the address."""


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
def formed(
    votes: str = "", *, welcome: bool = False, pair: bool = False, clocks: bool = False
) -> Iterator[Members]:
    """Have a cluster of three with a group online, and a fourth node that is in none.

    Args:
        votes: as of ``leitwolf init``.
        welcome: the fourth node is in the cluster, too.
        pair: two nodes instead, and nobody else.
        clocks: wall clocks can be set back.
    """
    with World(len(PAIR if pair else NODES)) as world:
        members = Members(world, PAIR if pair else MEMBERS)
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
    """A cluster, asked through its API.

    Args:
        world: of the founders, and of those that join later.
        founders: who form the cluster.
    """

    def __init__(self, world: World, founders: tuple[str, ...] = MEMBERS) -> None:
        self.world = world
        self.lab = LabCluster(world)
        self._founders = founders
        self._holes: set[tuple[str, str]] = set()

    # --- forming ---------------------------------------------------------------------------------

    def form(self, votes: str = "") -> None:
        """Make the founders a cluster; others run in none; ``votes``: as of ``leitwolf init``."""
        for node in self.world.nodes:
            self.lab.boot(node)
        for node in self.world.nodes:
            self.until(node, lambda view: not view.formed, "the daemon")
        request = InitRequest(name="lab", interconnect=("ic0",), client=("client0",), votes=votes)
        self.client("n1").form(request)
        for node in self._founders[1:]:
            self.join(node)
        self.settle()

    def settle(self, count: int = 0) -> StatusView:
        """Wait until all members are up, vote, nobody else is there, and n1 knows it all.

        ``count``: of the members; 0: those that formed the cluster.

        A node that was cut off has a leader again before it has the entries that it missed.
        """

        def good(view: StatusView) -> bool:
            members = [
                node
                for node in view.nodes
                if node.standing == "member" and node.up and not node.reason
            ]
            return view.quorum and len(members) == len(view.nodes) == count

        count = count or len(self._founders)
        leader = self.until("n1", good, f"{count} members", _SETTLED_S).leader
        newest = self.until(leader, lambda view: view.quorum, "itself as the leader").index
        return self.until(
            "n1", lambda view: good(view) and view.index >= newest, f"the members and {newest}"
        )

    def gather(self) -> StatusView:
        """Have every node on, all members in touch with each other, and the group online."""
        self.mend()
        self.revive()
        for node in self.world.nodes:
            if not self.world.pid(node):
                self.lab.boot(node)
        known = self.until("n1", lambda view: view.formed, "the daemon").nodes
        self.settle(len(known))
        for node in self.world.nodes:  # one that is up may not answer yet
            self.until(node, lambda view: view.quorum or not view.formed, "a leader, or no cluster")
        return self.until_online("n1")

    def use_nodes(self) -> str:
        """Gather, and have nodes alone vote, each of them; return who leads."""
        leader = self.gather().leader
        if self.client(leader).quorum().witness is not None:
            self.run("quorum", "set", "nodes", node=leader)

        def alone(view: QuorumView) -> bool:
            return not view.joint and all(one.kind == "node" and one.weight for one in view.members)

        return self.until_quorum("", alone, "nodes alone").leader

    # --- asking ----------------------------------------------------------------------------------

    def runtime(self, node: str) -> Path:
        """Return a node's runtime directory; it changes when the node boots."""
        return Path(f"/proc/{self.world.pid(node)}/root{RUNTIME}")

    def revive(self) -> None:
        """Boot who could not prove its stop in time and fenced itself; splits stay."""
        fenced = self.lab.revive()
        for node, address in self._holes:
            if node in fenced:
                self._hole("add", node, address)

    def client(self, node: str) -> Client:
        """Return a client of a node's daemon, which sees the caller as root.

        It asks for a while again what is refused for a moment only.
        """
        return Patient(lambda: self.runtime(node), self.revive)

    def _impatient(self, node: str) -> Client:
        return Client(self.runtime(node), timeout_s=30)

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
        return self._until(node, self._impatient_status(node), wanted, what, timeout_s)

    def _impatient_status(self, node: str) -> Callable[[], StatusView]:
        return lambda: self._impatient(node).status()

    def until_quorum(
        self,
        node: str,
        wanted: Callable[[QuorumView], object],
        what: str,
        timeout_s: float = _SETTLED_S,
    ) -> QuorumView:
        """Wait until a node's view of the quorum is as wanted; '' for who leads meanwhile."""

        def ask() -> QuorumView:
            return self._impatient(node or self.leader()).quorum()

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
                if wanted(view):
                    return view
            except LeitwolfError:
                pass
            self.revive()
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
        view = self.until(asked, lambda view: view.formed, "the daemon")
        return next((item for item in view.nodes if item.name == name), None)

    def leader(self, asked: str = "n1") -> str:
        """Return who leads."""
        return self.until(asked, lambda view: view.quorum, "a leader").leader

    def group(self, name: str = "web", asked: str = "n1") -> GroupView:
        """Wait until a node sees a leader, and an owner of a group; return the group."""

        def found(view: StatusView) -> list[GroupView]:
            return [item for item in view.groups if item.id == name and item.owner]

        view = self.until(asked, lambda view: view.quorum and bool(found(view)), f"{name} owned")
        return found(view)[0]

    def owner(self, asked: str = "n1") -> str:
        """Return the owner of the group."""
        return self.group(asked=asked).owner

    def generation(self, group: str = "web") -> int:
        """Return the generation of a group."""
        return self.group(group).generation

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

    def run(self, *words: str | Path, node: str = "n1", done: str = "") -> str:
        """Run a command, which must succeed; return what it prints. See :meth:`insist`."""
        return str(self.insist(*words, node=node, done=done).stdout)

    def insist(
        self, *words: str | Path, node: str = "n1", done: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command, which must succeed, again where it is refused for a moment only.

        ``done``: with this code one is refused that was done before, while nobody could tell.
        """
        deadline, unknown = time.monotonic() + _WAIT_S, False
        while True:
            ended = self.lab.command(node, *map(str, words))
            if ended.returncode == 0 or (unknown and done and f"[{done}]" in ended.stderr):
                return ended
            later = ended.returncode in NOT_NOW or not self.world.alive(node)
            if not later or time.monotonic() > deadline:
                raise AssertionError(ended.stderr + ended.stdout)
            unknown = True
            self.revive()
            time.sleep(LOOK_S)

    # --- coming and going ------------------------------------------------------------------------

    def join(self, node: str, *, again: bool = False, name: str = "", token: str = "") -> list[str]:
        """Let a node join; return what it said meanwhile."""
        token = token or self.client("n1").token(600)
        request = JoinRequestView(token=token, node_name=name, again=again)
        deadline, unknown = time.monotonic() + _WAIT_S, False
        while True:  # one token, one node: it is granted the same again
            said = []
            try:
                for item in self.client(node).join(request):
                    if isinstance(item, ClusterSetup):
                        self.until(node, lambda view: view.quorum, "the leader")
                    else:
                        said.append(item)
            except LeitwolfError as error:
                if unknown and error.code == "already-in-a-cluster":
                    return said
                if error.code not in LATER or time.monotonic() > deadline:
                    raise
                unknown = True
                self.revive()
                time.sleep(LOOK_S)
            else:
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
        self.revive()
        self.evict(GUEST)
        if not self.world.pid(GUEST):
            self.lab.boot(GUEST)
        elif not self.alive(GUEST):
            self.lab.run(GUEST)
        deadline = time.monotonic() + _WAIT_S
        while time.monotonic() < deadline:
            try:
                view = self._impatient(GUEST).status()
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
        if self.member(node) is not None:
            self.run("node", "evict", node, "--timeout", "20", done="not-found")

    @contextmanager
    def year_back(self, node: str) -> Iterator[None]:
        """Set the wall clock of a node back by a year, while it runs."""
        mark = self.world.folder / "clocks" / node
        mark.touch()
        try:
            yield
        finally:
            mark.unlink()

    # --- apart -----------------------------------------------------------------------------------

    def split(self, one: Collection[str], other: Collection[str]) -> None:
        """Let nothing pass on the interconnect between two sides."""
        for here, there in ((one, other), (other, one)):
            for node in here:
                for peer in there:
                    self._hole("add", node, self.world.address(peer, "ic0"))
                    self._holes.add((node, self.world.address(peer, "ic0")))

    def mend(self) -> None:
        """Undo all splits; a node that was off meanwhile has forgotten its part."""
        for node, address in self._holes:
            if self.world.alive(node):
                self._hole("del", node, address, check=False)
        self._holes.clear()

    def _hole(self, word: str, node: str, address: str, *, check: bool = True) -> None:
        self.world.run(node, ["ip", "route", word, "blackhole", f"{address}/32"], check=check)

    # --- the group -------------------------------------------------------------------------------

    def place(self, node: str, group: str = "web") -> None:
        """Have a node own a group."""
        words = ("group", "move", group, node)
        self._order(lambda: self.group(group, node).owner == node, "moved-elsewhere", node, *words)

    def lead(self, node: str) -> None:
        """Have a node lead."""
        self._order(lambda: self.leader() == node, "another-leads", "n1", "node", "lead", node)

    def _order(self, good: Callable[[], bool], other: str, node: str, *words: str) -> None:
        """Run a command until it is so: another node may win, when the right one stalls."""
        deadline = time.monotonic() + _WAIT_S
        while not good():
            done = self.lab.command(node, *words)
            later = done.returncode in (0, *NOT_NOW) or other in done.stderr
            if not later or time.monotonic() > deadline:
                raise AssertionError(done.stderr)

    def holds(self, node: str) -> str:
        """Return what of the group is on a node, whatever its daemon believes; '': nothing."""
        inside = members_of(self.world.pid(node))
        server = [pid for pid in inside if str(_SERVER) in argv_of(pid)]
        routes = ""
        with suppress(OSError):  # it has just fenced itself
            routes = Path(f"/proc/{self.world.pid(node)}/net/fib_trie").read_text()
        return " ".join(["process"] * len(server) + ["address"] * (f"{VIP}\n" in routes))

    def until_idle(self, *nodes: str) -> None:
        """Wait until nodes have no quorum, and neither process nor address of the group."""
        for node in nodes:
            self.until(
                node,
                lambda view, node=node: not view.quorum and not self.holds(node),
                "no quorum and nothing of the group",
            )

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
        """Send a signal to a node's keeper, whose guard runs: before it would not be understood."""
        deadline = time.monotonic() + _WAIT_S
        while len(found := self.keepers(node)) < 2:
            assert time.monotonic() < deadline, self.lab.log_of(node).read_text()[-3000:]
            self.revive()
            time.sleep(0.03)
        os.kill(found[0], number)

    def stop(self, node: str, timeout_s: float = 90) -> None:
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
        command = f"{sys.executable} -S -E {_SERVER} {PORT} web"
        self.run("group", "add", "web", "--address", f"{VIP}/24", "--run", command)

    def copy_state(self, node: str, target: Path) -> None:
        """Copy a state directory as a backup would."""
        shutil.copytree(self.state(node), target)

    def restore_state(self, node: str, source: Path) -> None:
        """Put a copy back."""
        shutil.rmtree(self.state(node))
        shutil.copytree(source, self.state(node))


class Outside:
    """What a machine outside sees of the virtual address; a context manager.

    Attributes:
        two_owners_ms: for how long two nodes answered for it, in all.
    """

    def __init__(self, members: Members) -> None:
        self._observer = Observer(members.world, [VIP])
        self._names = {members.world.mac(node): node for node in members.world.nodes}
        self.two_owners_ms = 0.0

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._observer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """End it; what was seen in the meantime counts, and more than any other failure."""
        try:
            self._look()
        finally:
            self._observer.__exit__(*error)
        if error[0] is not None and self.two_owners_ms:
            raise TwoOwners(f"two owners, and {error[1]}")

    def _look(self) -> list[str]:
        """Return who answered since the last look, in the order of their last answers."""
        owners: list[tuple[int, str]] = []
        for seen in self._observer.report().values():
            self.two_owners_ms += seen["two_owners_ms"]
            owners += [(last, self._names[mac]) for _, last, mac in seen["owners"]]
        return [name for _, name in sorted(owners)]

    def owners(self, seconds: float = _WATCH_S) -> list[str]:
        """Return who answers for the address from now on, for a while."""
        self._look()
        time.sleep(seconds)
        return self._look()

    def until_owner(self, *nodes: str) -> str:
        """Wait until one of these nodes, and nobody else, answers; return which; none: nobody."""
        deadline, owners = time.monotonic() + _WAIT_S, {""}
        while time.monotonic() < deadline:
            owners = set(self.owners())
            if not owners and not nodes:
                return ""
            if len(owners) == 1 and owners <= set(nodes):
                return owners.pop()
        raise AssertionError(f"{owners} answer for {VIP}, not one of {nodes}")
