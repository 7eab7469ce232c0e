"""The product on virtual machines: installed as administrators do, and watched from outside."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from lab.child import MeasuringProcess
from tests.vm.machines import NETS, NODES, MachineError, Machines
from tests.vm.watcher import Sighting, Watcher

__all__ = [
    "GROUP",
    "RESTARTS",
    "ROLES",
    "ROOT",
    "RUN_S",
    "UNIT",
    "VIP",
    "Cluster",
    "Seen",
    "eventually",
]

ROOT = Path(__file__).parents[2]
UNIT = "leitwolf.service"
GROUP, VIP, PORT = "web", "10.77.2.200", 7000
HOST, HOST_PORT = "10.77.2.1", 7001
PROFILE = "wan"
RESTARTS = 100
"""In place: what is meant to move a group are the faults of whole machines."""
RUN_S = 5.0
"""R of the profile."""
ROLES = ("keeper", "guard", "daemon", "host")
_SERVICE = "/opt/service.py"
_OBSERVE_US, _WINDOW_US = 10_000, 500_000


class Seen:
    """What was seen from outside during one fault."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.two_owners_ms = 0.0
        self.sightings: list[Sighting] = []

    def of(self, kind: str) -> list[Sighting]:
        """Return what ``runs``, or what ``answers``, in the order of the beginnings."""
        return sorted(
            (one for one in self.sightings if one.kind == kind), key=lambda one: one.first
        )

    def overlap_s(self, kind: str) -> float:
        """Return for how long two processes were seen at once, s: the longest."""
        found = self.of(kind)
        pairs = [(a, b) for n, a in enumerate(found) for b in found[n + 1 :]]
        return max((min(a.last, b.last) - max(a.first, b.first) for a, b in pairs), default=0.0)

    def outage_s(self) -> float:
        """Return the longest time without an answer at the virtual address, s."""
        found = self.of("answers")
        between = [b.first - a.last for a, b in itertools.pairwise(found)]
        return max([one.gap for one in found] + between, default=float("inf"))


class Cluster:
    """Three machines with Leitwolf.

    Args:
        machines: the lab.
    """

    def __init__(self, machines: Machines) -> None:
        self.machines = machines
        self._watcher = Watcher(machines.enter(), (HOST, HOST_PORT), (VIP, PORT))
        self._observer = MeasuringProcess(
            machines.enter(),
            ROOT / "lab" / "observer.py",
            [f"br-{NETS['clients']}", VIP, str(_OBSERVE_US), str(_WINDOW_US)],
        )

    # --- installing and forming ------------------------------------------------------------------

    def install(self, folder: Path) -> None:
        """Install on every machine, as a package would: files, the group, the unit enabled."""
        subprocess.run(
            [ROOT / "install", "--root", folder / "root"],
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            check=True,
            capture_output=True,
        )
        self.archive = folder / "leitwolf.tar.gz"
        subprocess.run(["tar", "-C", folder / "root", "-czf", self.archive, "."], check=True)
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._put, NODES))
        self.machines.everywhere(f"systemctl enable --now {UNIT}", 120)

    def _put(self, node: int) -> None:
        self.machines.call("put", str(node), str(self.archive), "/root/leitwolf.tar.gz")
        self.machines.call("put", str(node), str(ROOT / "install"), "/root/install")
        self.machines.call("put", str(node), str(Path(__file__).with_name("service.py")), _SERVICE)
        self.unpack(node)

    def unpack(self, node: int) -> None:
        """Put the installed files in their places."""
        self.machines.sh(
            node,
            "tar -C / --no-same-owner -xf /root/leitwolf.tar.gz && systemctl daemon-reload && "
            "(getent group leitwolf || groupadd --system leitwolf)",
            120,
        )

    def form(self) -> None:
        """Form the cluster, join the others, and bring the group online."""
        self.machines.sh(
            1, "leitwolf init --name vm --interconnect ic0 --interconnect st0 --client cl0 "
            f"--profile {PROFILE}",
        )  # fmt: skip
        tokens = self.machines.sh(1, "leitwolf token && leitwolf token").split()
        for node, token in zip(NODES[1:], tokens, strict=True):
            self.machines.sh(node, f"leitwolf join {token}", 120)
        self.machines.sh(
            1,
            f"leitwolf group add {GROUP} --address {VIP}/24 --restarts {RESTARTS} "
            f"--run '/usr/bin/python3 {_SERVICE} {PORT} {HOST}:{HOST_PORT}'",
            120,
        )

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._watcher.__enter__()
        self._observer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Cease."""
        self._observer.__exit__(None, None, None)
        self._watcher.__exit__(None, None, None)

    # --- what is known ---------------------------------------------------------------------------

    def status(self, node: int) -> dict[str, Any]:
        """Return the cluster as a node sees it.

        Raises:
            MachineError: the machine, or its daemon, does not answer.
        """
        text = self.machines.sh(
            node,
            "curl -sf -m 5 --unix-socket /run/leitwolf/api.sock http://leitwolf/v1/status",
            6,
        )
        view: dict[str, Any] = json.loads(text)
        return view

    def until(
        self,
        wanted: Callable[[dict[str, Any]], bool],
        what: str,
        nodes: tuple[int, ...] = NODES,
        timeout_s: float = 90,
    ) -> dict[str, Any]:
        """Wait until one of the nodes answers as wanted.

        Raises:
            AssertionError: none does in time.
        """
        deadline = time.monotonic() + timeout_s
        last: dict[int, Any] = {}
        while time.monotonic() < deadline:
            for node in nodes:
                try:
                    last[node] = self.status(node)
                except MachineError as error:
                    last[node] = str(error)
                    continue
                if wanted(last[node]):
                    return last[node]
            time.sleep(0.2)
        raise AssertionError(f"waited {timeout_s:g} s for {what}: {json.dumps(last)}")

    def owner(self) -> int:
        """Return the node on which the group is online."""
        view = self.until(lambda view: view["quorum"], "a quorum")
        return number(group(view)["owner"])

    def until_online(self, *, on: int = 0, not_on: int = 0, timeout_s: float = 90) -> int:
        """Wait until the group is online on (or not on) a node; return where."""

        def good(view: dict[str, Any]) -> bool:
            found = group(view)
            owner = number(found["owner"])
            return bool(
                view["quorum"]
                and found["status"] == "online"
                and owner == (on or owner)
                and owner != not_on
            )

        asked = tuple(node for node in NODES if node != not_on)
        view = self.until(good, f"{GROUP} to be online", asked, timeout_s)
        return number(group(view)["owner"])

    def calm(self) -> None:
        """Wait until all nodes are up and the group is online."""

        def whole(view: dict[str, Any]) -> bool:
            return bool(view["quorum"]) and all(
                one["up"]
                and one["connected"]
                and not one["paused"]
                and one["standing"] == "member"
                and all(link["up"] for link in one["links"])
                for one in view["nodes"]
            )

        with ThreadPoolExecutor() as pool:
            views = pool.map(
                lambda node: self.until(whole, "all nodes to be up", (node,), 180), NODES
            )
            newest = max(view["index"] for view in views)
        self.until(lambda view: view["index"] >= newest, f"entry {newest}", (1,))
        self.until_online()

    def place(self, node: int) -> None:
        """Have a node own the group, and answer: its program takes a while to start."""
        self.calm()
        if self.owner() != node:
            self.machines.sh(node, f"leitwolf group move {GROUP} node{node}", 90)

        def answers() -> bool:
            found = self._watcher.sightings()
            return any((one.kind, one.node) == ("answers", f"node{node}") for one in found)

        eventually(answers, f"answers of node{node}")

    @contextmanager
    def watch(self) -> Iterator[Seen]:
        """Watch from outside while something happens."""
        self._observer.report()
        self._watcher.sightings()
        seen = Seen()
        yield seen
        seen.sightings = self._watcher.sightings()
        report = self._observer.report()
        seen.two_owners_ms = max((one["two_owners_ms"] for one in report.values()), default=0.0)

    # --- a node ----------------------------------------------------------------------------------

    def unit(self, node: int, *names: str) -> dict[str, str]:
        """Return properties of the unit."""
        text = self.machines.sh(node, f"systemctl show -p {','.join(names)} {UNIT}")
        found = dict(line.partition("=")[::2] for line in text.splitlines())
        return {name: found[name] for name in names}

    def pids(self, node: int) -> dict[str, int]:
        """Return processes: Leitwolf's own by role, from the page they share, and ``service``.

        0: there is none.
        """
        text = self.machines.sh(
            node,
            "if [ -e /run/leitwolf/progress.page ]; then "
            "od -An -v -td8 -w256 -N1024 /run/leitwolf/progress.page; "
            "else printf '0\\n0\\n0\\n0\\n'; fi; "
            f"pgrep -f '^/usr/bin/python3 {_SERVICE}' || echo 0",
            10,
        )
        numbers = [int(line.split()[0]) for line in text.splitlines()]
        return dict(zip((*ROLES, "service"), numbers, strict=True))

    def until_replaced(self, node: int, role: str, former: int, timeout_s: float = 120) -> None:
        """Wait until another process has a role, and has made its first pass."""
        counter = 2 + 32 * ROLES.index(role)
        look = f"od -An -v -td8 -j{8 * counter} -N8 /run/leitwolf/progress.page"
        eventually(
            lambda: (
                self.pids(node)[role] not in (0, former) and int(self.machines.sh(node, look)) > 0
            ),
            f"another {role}",
            timeout_s,
        )

    def journal(self, node: int, options: str = "-b") -> str:
        """Return what the unit said, and what systemd said about it."""
        return self.machines.sh(node, f"journalctl -u {UNIT} --no-pager -o cat {options}")


def group(view: dict[str, Any]) -> dict[str, Any]:
    """Return the group of a status; one that is not known is owned by nobody."""
    nothing = {"owner": "", "status": "", "phase": ""}
    return next((one for one in view["groups"] if one["id"] == GROUP), nothing)


def number(name: str) -> int:
    """Return the number of a node, 0: it is none."""
    return int(name.removeprefix("node") or 0)


def eventually(wanted: Callable[[], object], what: str, timeout_s: float = 30) -> None:
    """Wait until something is true; a machine that does not answer is asked again.

    Raises:
        AssertionError: it is not in time.
    """
    deadline = time.monotonic() + timeout_s
    trouble = ""
    while time.monotonic() < deadline:
        try:
            if wanted():
                return
        except MachineError as error:
            trouble = str(error)
        time.sleep(0.2)
    raise AssertionError(f"waited {timeout_s:g} s for {what}; {trouble}")
