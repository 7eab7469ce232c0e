"""A cluster of five real nodes for tests of faults, with a client and an observer outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from lab.cluster import RUNTIME, ClusterError, LabCluster, all_up
from lab.observer import Observer
from lab.prober import Outage, Prober
from lab.processes import numbered
from lab.stalls import STALL_MS
from lab.world import SWITCH, World
from tests.integration.stall_support import NOT_NOW, TwoOwners

from leitwolf.client import Client
from leitwolf.model.errors import LeitwolfError
from leitwolf.model.views import LogLine
from leitwolf.system.progress import Progress, Role

__all__ = [
    "CALM_S",
    "GROUP",
    "PORT",
    "SOON_MS",
    "VIP",
    "VIP6",
    "Calm",
    "Watch",
    "given_up",
    "links_up",
    "named",
    "process_of",
]

VIP, VIP6, PORT, GROUP = "10.77.2.200", "fd77:2::200", 7000, "web"
LAB = Path(__file__).parents[2] / "lab"
T = TypeVar("T")
CALM_S = 30.0
"""What is waited for comes by then, also on a machine that is slow and stands still at times."""
_LOOK_S, _LASTS_S = 0.02, 1.5
_ELSEWHERE = {"moved-elsewhere", "another-leads"}
"""Who stalls while it is to own or to lead loses that to another node, and is asked again."""
_WAS_DONE = {"group-exists", "resource-exists", "unknown-group"}
"""What a command is told that was done before, without that it could be told so."""
SOON_MS = 5_000.0
"""No outage is longer, on a machine that is busy with others too: leases end well within it.

Whether something moved is told by the generation, and how fast that is by the benchmarks.
"""


def named(view: dict[str, Any], name: str = GROUP) -> dict[str, Any]:
    """Return a group of a status; a daemon that starts has none yet, and shows it nowhere."""
    none = {"id": name, "owner": "", "status": "", "generation": -1, "resources": [], "wish": ""}
    return next((item for item in view["groups"] if item["id"] == name), none)


def given_up(name: str) -> Callable[[dict[str, Any]], bool]:
    """Return a condition: a group is failed and stays so; for a moment it is before it moves."""
    since = 0.0

    def lasts(view: dict[str, Any]) -> bool:
        nonlocal since
        now, failed = time.monotonic(), named(view, name)["status"] == "failed"
        since = (since or now) if failed else 0.0
        return failed and now - since > _LASTS_S

    return lasts


def links_up(view: dict[str, Any], node: str, *up: bool) -> bool:
    """Return whether a status has all nodes up, and the links of this one so, sorted."""
    links = [link["up"] for line in view["nodes"] if line["name"] == node for link in line["links"]]
    return sorted(links) == list(up) and all(line["up"] for line in view["nodes"])


def process_of(world: World, node: str, role: Role) -> int:
    """Return the process that has a role on a node, as seen from here."""
    page = Path(f"/proc/{world.pid(node)}/root{RUNTIME}/progress.page")
    pid = numbered(world.pid(node), Progress(page).slot(role).process)
    if not pid:
        raise ClusterError(f"{node} has no {role.name.lower()}")
    return pid


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
        return self.moves == times or self.stall_ms > STALL_MS

    def answers_again(self, timeout_s: float = CALM_S) -> bool:
        """Wait until the address answers; say whether."""
        return self._prober.wait_for_answers(count=30, timeout_s=timeout_s)

    def finish(self) -> None:
        """Take the results."""
        self.outages = self._prober.outages()
        while self.outages and not self.outages[-1].end:  # one answer is late just now
            if not self.answers_again():
                raise ClusterError("the address does not answer any more")
            self.outages = [*self.outages[:-1], *self._prober.outages()]
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
        self._spared: set[str] = set()

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

    @contextmanager
    def sparing(self, *nodes: str) -> Iterator[None]:
        """Leave these nodes dead if they fence themselves: that is what is looked at."""
        former, self._spared = self._spared, self._spared | set(nodes)
        try:
            yield
        finally:
            self._spared = former

    def wait_for(self, wanted: Callable[[], T | None], what: str, timeout_s: float = CALM_S) -> T:
        """Wait until something is found, and return it.

        Who fenced itself meanwhile, because it stood still for too long, reboots.
        """
        deadline, problem = time.monotonic() + timeout_s, ""
        while True:
            try:
                found = wanted()
            except ClusterError as error:
                problem = str(error)
            else:
                if found:
                    return found
                problem = f"{found!r}"
            if time.monotonic() > deadline:
                raise ClusterError(f"waited {timeout_s:g} s for {what}: {problem}")
            self.cluster.revive(self._spared)
            time.sleep(_LOOK_S)

    def on(self, *but: str) -> list[str]:
        """Return the nodes that are on, ``but`` these."""
        return [node for node in self.world.nodes if self.world.pid(node) and node not in but]

    def group(self, name: str = GROUP, node: str = "") -> dict[str, Any]:
        """Return a group that is there."""

        def found() -> dict[str, Any]:
            view = self.status(node)
            return named(view, name) if name in [item["id"] for item in view["groups"]] else {}

        return self.wait_for(found, f"{name} in a status")

    def _led(self) -> dict[str, Any]:
        """Return the status of the first node that has a quorum and knows a leader."""

        def found() -> dict[str, Any]:
            for node in self.on():
                with suppress(ClusterError):
                    view = self.status(node)
                    if view["quorum"] and view["leader"]:
                        return view
            return {}

        return self.wait_for(found, "a leader")

    def owner(self, name: str = GROUP) -> str:
        """Return the owner of a group, by the first node that has a quorum."""
        return str(named(self._led(), name)["owner"])

    def leader(self) -> str:
        """Return the leader."""
        return str(self._led()["leader"])

    def other(self, *nodes: str) -> str:
        """Return a node that is on and none of these."""
        return self.on(*nodes)[0]

    def until(
        self, wanted: Callable[[dict[str, Any]], bool], what: str, timeout_s: float = CALM_S
    ) -> dict[str, Any]:
        """Wait for a status, asked on any node that is on."""
        return self.until_seen("", wanted, what, timeout_s)

    def until_seen(
        self,
        node: str,
        wanted: Callable[[dict[str, Any]], object],
        what: str,
        timeout_s: float = CALM_S,
    ) -> dict[str, Any]:
        """Wait for a status of a certain node ('': the first that is on), see :meth:`wait_for`."""
        view: dict[str, Any] = {}

        def found() -> dict[str, Any]:
            view.clear()
            view.update(self.status(node or self.on()[0]))
            return view if wanted(view) else {}

        try:
            return dict(self.wait_for(found, what, timeout_s))
        except ClusterError as error:
            raise ClusterError(f"{error}\n{json.dumps(view)}") from error

    def until_online(self, owner: str = "", name: str = GROUP, timeout_s: float = CALM_S) -> None:
        """Wait until a group is online (on ``owner``)."""

        def good(view: dict[str, Any]) -> bool:
            group = named(view, name)
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
        self.until(whole, "all nodes to be up")
        newest = self.newest()  # one that was away has a leader before all entries
        self._undo(self.until(lambda view: view["index"] >= newest, f"entry {newest}"))
        self.until_online()
        if not self._prober.wait_for_answers(count=30, timeout_s=CALM_S):
            raise ClusterError("the address does not answer")

    def _undo(self, view: dict[str, Any]) -> None:
        """Take back what a test that failed has ordered, and left so."""
        group = named(view)
        for node in view["nodes"]:
            if node["paused"]:
                self.do("node", "resume", node["name"])
        if group["wish"] != "online":
            self.do("group", "online", GROUP, "--no-wait")
        for resource in group["resources"]:
            if resource["wish"] != "online":
                self.do("resource", "online", resource["id"], "--no-wait")
        if group["status"] == "failed":
            self.do("group", "recover", GROUP, "--no-wait")

    def until_status(self, name: str, status: str) -> dict[str, Any]:
        """Wait until a group has a status; return the group."""
        view = self.until(lambda view: named(view, name)["status"] == status, f"{name} {status}")
        return named(view, name)

    def until_exit(self, code: int) -> None:
        """Wait until the command ``status`` ends with a code."""

        def found() -> bool:
            return self.cluster.command("n1", "status").returncode == code

        self.wait_for(found, f"status to end with {code}")

    def until_gone(self, owner: str) -> str:
        """Wait until a group left ``owner`` and is online elsewhere; return its new owner."""

        def gone(view: dict[str, Any]) -> bool:
            group = named(view)
            return group["owner"] not in ("", owner) and group["status"] == "online"

        what = f"{GROUP} to leave {owner}"
        with self.sparing(owner):
            view = self.until_seen(self.other(owner), gone, what)
        return str(named(view)["owner"])

    def do(self, *words: str, node: str = "n1") -> Any:
        """Have a command done: one that cannot be done just now is asked for again.

        Raises:
            ClusterError: it is refused, or it cannot be done for long; has what it said.
        """
        deadline, again = time.monotonic() + CALM_S, False
        while True:
            try:
                done = self.cluster.command(node, *words, "--json")
            except subprocess.TimeoutExpired as error:
                raise ClusterError(f"leitwolf {' '.join(words)} hangs") from error
            said = _said(done.stdout)
            code = said.get("code", "") if isinstance(said, dict) and "error" in said else ""
            if done.returncode in (0, 10) or (again and code in _WAS_DONE):
                return said
            later = done.returncode in NOT_NOW or code in _ELSEWHERE
            if time.monotonic() > deadline or not (later or not self.world.alive(node)):
                raise ClusterError(f"leitwolf {' '.join(words)}: {done.stdout}{done.stderr}")
            self.cluster.revive(self._spared)
            again = True
            time.sleep(0.1)

    def add_group(self, name: str, *options: str) -> None:
        """Add a group without waiting; a test that failed may have left it."""
        if name in [item["id"] for item in self._led()["groups"]]:
            self.do("group", "remove", name, "--force")
        self.do("group", "add", name, *options, "--no-wait")

    def place(self, owner: str) -> None:
        """Have a node own the group."""
        if self.owner() != owner:
            self.do("group", "move", GROUP, owner, node=owner)

    def lead(self, leader: str) -> None:
        """Have a node lead."""
        deadline = time.monotonic() + CALM_S
        while self.leader() != leader:
            if time.monotonic() > deadline:
                raise ClusterError(f"{leader} does not lead")
            self.do("node", "lead", leader, node=leader)

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Watch client and observer while something happens; afterwards all is calm again."""
        self._prober.outages()
        self._prober.stall_ms()
        self._observer.report()
        watch = Watch(self._prober, self._observer)
        leader = self.leader()
        before, newest = self.group(node=leader)["generation"], self.newest()
        try:
            try:
                yield watch
            finally:
                self.mend()
            self.settle()
            time.sleep(0.3)  # what comes too late, as a second outage, shall be seen
            watch.finish()
        except Exception as error:
            if self._observer.two_owners_ms():  # whatever else failed, this is worse
                raise TwoOwners(f"two owners, and {error}") from error
            raise
        leader = self.leader()
        watch.moves = self.group(node=leader)["generation"] - before
        [lines] = self.wait_for(lambda: [self._log(leader, newest)], "the log")
        watch.story = "\n".join(f"{one.index} {one.by} {one.because} {one.events}" for one in lines)

    def _log(self, node: str, after: int) -> list[LogLine]:
        try:
            return self.client(node).log(after=after)
        except LeitwolfError as error:
            raise ClusterError(error.text) from error

    def pid(self, node: str, role: Role) -> int:
        """Return the process that has a role on a node, as seen from here."""
        return self.wait_for(lambda: process_of(self.world, node, role), f"{role.name} of {node}")

    def server(self, node: str, name: str = f"{LAB / 'echo.py'} {PORT}") -> int:
        """Wait for the one process of a group on a node; return its pid inside that machine."""

        def found() -> int:
            [pid, *more] = self.servers(node, name) or [0]
            return 0 if more else pid

        return self.wait_for(found, f"one {name} on {node}")

    def servers(self, node: str, name: str) -> list[int]:
        """Return the processes of a command on a node, by their pids inside that machine."""
        found = self.world.run(node, ["pgrep", "-f", name], check=False).stdout
        return [int(pid) for pid in found.split()]

    def has_other(self, node: str, role: Role, former: int) -> bool:
        """Return whether another process than ``former`` has a role."""
        try:
            return process_of(self.world, node, role) != former
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

    def ports(self, node: str) -> list[str]:
        """Return the names of the switch's ends of a node's cables."""
        links = self.world.run(SWITCH, ["ip", "-o", "link"]).stdout.splitlines()
        names = [line.split(":")[1].split("@")[0].strip() for line in links]
        return [name for name in names if name.startswith(f"{node}-")]

    def gate(self, node: str) -> str:
        """Return the rules of a node's gate, '' when it is not there."""
        return self.world.run(node, ["nft", "list", "ruleset"], check=False).stdout

    def newest(self) -> int:
        """Return the index of the newest entry."""
        return int(self.wait_for(lambda: self.status(self.leader()), "the leader")["index"])

    def until_told(self, word: str, after: int, timeout_s: float = CALM_S) -> str:
        """Wait until the timeline has a line with a word after an entry; return the line."""

        def found() -> str:
            done = self.cluster.command(self.leader(), "log", "--json", f"--after={after}")
            return next((line for line in done.stdout.splitlines() if word in line), "")

        return self.wait_for(found, f"{word!r} after entry {after}", timeout_s)

    def refusal(self, *arguments: str, node: str = "n1", code: int = 2) -> dict[str, str]:
        """Return what a command that must be refused with this exit code says."""
        done = self.ended(*arguments, "--json", node=node, code=code)
        answer: dict[str, str] = json.loads(done.stdout)
        return answer

    def ended(
        self, *arguments: str, node: str = "n1", code: int
    ) -> subprocess.CompletedProcess[str]:
        """Return a command that must end with this code, asked again while it cannot be done."""

        def found() -> subprocess.CompletedProcess[str] | None:
            done = self.cluster.command(node, *arguments)
            if done.returncode == code:
                return done
            if done.returncode in NOT_NOW or not self.world.alive(node):
                return None
            said = f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}"
            raise AssertionError(said)

        return self.wait_for(found, f"{arguments} to end with {code}")


def _said(text: str) -> Any:
    """Return what a command printed as JSON, {}: nothing of that."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {}
