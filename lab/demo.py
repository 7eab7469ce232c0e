"""``./run demo``: three real nodes in namespaces, every fault, and what a client saw.

With ``--shell`` the cluster stays up and a shell opens in which every ``leitwolf`` command and
``fault kill|freeze|thaw|cut|heal|boot NODE`` work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lab.cluster import ClusterError, LabCluster, all_up, is_leitwolf, runs_module
from lab.findings import Finding, adopted, ran_on, replaced, story, taken_over
from lab.observer import Observer
from lab.privileges import LabUnavailable, ensure_privileges, is_user_namespace
from lab.prober import Outage, Prober
from lab.processes import kill, state_of
from lab.shell import open_shell
from lab.stalls import STALL_MS
from lab.world import World
from leitwolf.model.errors import LeitwolfError

VIP, VIP6, PORT = "10.77.2.200", "fd77:2::c8", 8080
GROUP = "web"
_SERVER = Path(__file__).with_name("webserver.py")
_DAEMON, _WEB = "daemon", "web server"
_CALM_S = 20.0
_LOOK_S = 0.1
_is_daemon = partial(runs_module, "leitwolf.daemon.main")

Injected = tuple[Callable[[], object], Callable[[str], Finding]]
"""How a fault is mended; and how to find out afterwards whether it happened, by who owns then."""
Fault = Callable[[str], Injected]
"""Breaks something of the owner."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one fault."""

    fault: str
    ok: bool
    outage_ms: float
    two_owners_ms: float
    owner: str
    why: str


def say(text: str) -> None:
    """Tell the person in front of the terminal."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


class Demo:
    """The cluster, its client and its observer."""

    def __init__(self, cluster: LabCluster, prober: Prober, observer: Observer) -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.prober = prober
        self.observer = observer

    def run(self) -> list[Result]:
        """Inject one fault after another."""
        faults: tuple[tuple[str, Fault], ...] = (
            ("planned move", self._move),
            ("power loss of the owner", self._power_loss),
            ("freeze of the owner, then thaw", self._freeze),
            ("split of the interconnect, then heal", self._split),
            ("kill of the daemon alone", self._kill_daemon),
            ("kill of the web server", self._kill_server),
        )
        results = []
        for fault in faults:
            result = self._try(*fault)
            if not result.ok and not result.two_owners_ms and self.prober.stall_ms() > STALL_MS:
                say("  this machine stood still meanwhile: once more")
                result = self._try(*fault)
            results.append(result)
        return results

    def _try(self, name: str, fault: Fault) -> Result:
        """Inject a fault, mend it, and tell what became of it."""
        owner = self._owner()
        if not owner:
            raise ClusterError(f"nobody owns {GROUP}")
        begun = self._newest()
        self.prober.outages()
        self.prober.stall_ms()
        self.observer.report()
        say(f"{name}: {GROUP} is on {owner} ...")
        mend, find = fault(owner)
        back = self.prober.wait_for_answers(count=20, timeout_s=_CALM_S)
        mend()
        well = self._calm()
        outages = self.prober.outages()
        doubles = self.observer.two_owners_ms()
        now = self._owner()
        found = find(now)
        told = self._told(begun) if found.ok else ""
        result = Result(
            fault=name,
            ok=back and well and found.ok and doubles == 0 and not _lasting(outages),
            outage_ms=round(max((outage.milliseconds for outage in outages), default=0.0), 1),
            two_owners_ms=round(doubles, 1),
            owner=now,
            why=told or found.text,
        )
        say(
            f"  outage {result.outage_ms:.0f} ms, now on {result.owner}, "
            f"two owners {doubles:.0f} ms; {result.why}"
        )
        return result

    def _calm(self) -> bool:
        """Wait until all nodes are members again and the group is online and answers."""

        def good(view: dict[str, Any]) -> bool:
            return all_up(len(self.world.nodes))(view) and any(
                group["id"] == GROUP and group["status"] == "online" for group in view["groups"]
            )

        deadline = time.monotonic() + _CALM_S
        while True:
            for node in self.cluster.revive():
                say(f"  {node} could not prove in time that all is stopped there, and reboots")
            try:
                for asked in self.world.nodes:
                    self.cluster.wait(asked, good, "everything to be well", 1.0)
                self._demand_votes()
                break
            except ClusterError as error:
                if time.monotonic() > deadline:
                    say(f"  {error}")
                    return False
                time.sleep(_LOOK_S)
        return self.prober.wait_for_answers(count=50, timeout_s=_CALM_S)

    def _demand_votes(self) -> None:
        """With two votes of three one of the nodes is needed: it is not to be the next victim."""
        try:
            view = self.cluster.client(self.world.nodes[0]).quorum()
        except LeitwolfError as error:
            raise ClusterError(f"the votes are not told: {error}") from error
        if view.joint or sum(one.voting for one in view.members) < len(self.world.nodes):
            raise ClusterError("some node did not get its vote back")

    def _newest(self) -> int:
        """Return the index of the newest entry that any node knows; one that reboots knows none."""
        known = [0]
        for node in self.world.nodes:
            with suppress(ClusterError):
                known.append(int(self.cluster.status(node)["index"]))
        return max(known)

    def _owner(self) -> str:
        """Return who owns the group, '' if nobody does for long; for a moment nobody may lead."""
        deadline = time.monotonic() + _CALM_S
        while not (owner := self.cluster.owner(GROUP)) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        return owner

    def _told(self, after: int) -> str:
        """Return what the log says about the group since an entry."""
        first = self.world.nodes[0]
        done = self.cluster.command(first, "log", "--json", f"--after={after}")
        groups = self.cluster.status(first)["groups"]
        placed = next((str(item["reason"]) for item in groups if item["id"] == GROUP), "")
        return story(GROUP, [json.loads(line) for line in done.stdout.splitlines()], placed)

    # --- faults ----------------------------------------------------------------------------------

    def _once_taken_over(self, owner: str, mend: Callable[[], object]) -> Callable[[], object]:
        """Return a repair that waits for the takeover: mended earlier, there would be none."""

        def late() -> object:
            others = [node for node in self.world.nodes if node != owner]
            deadline = time.monotonic() + _CALM_S
            not_yet = (owner, "")  # for a moment nobody leads
            while self.cluster.owner(GROUP, others) in not_yet and time.monotonic() < deadline:
                time.sleep(0.05)
            self.prober.wait_for_answers(count=20, timeout_s=_CALM_S)
            return mend()

        return late

    def _move(self, owner: str) -> Injected:
        try:
            self.cluster.ask(owner, "group", "move", GROUP)
        except ClusterError as error:  # the finding tells what became of it
            say(f"  {error}")
        return lambda: None, partial(taken_over, GROUP, owner)

    def _power_loss(self, owner: str) -> Injected:
        self.world.power_off(owner)
        mend = self._once_taken_over(owner, lambda: self.cluster.boot(owner))
        return mend, partial(taken_over, GROUP, owner)

    def _freeze(self, owner: str) -> Injected:
        """Stop Leitwolf alone: its service runs on, and only the kernel closes the addresses."""
        servers, running = self._servers(owner), list[int]()
        self.world.freeze(owner, is_leitwolf)

        def thaw() -> None:
            running.extend(pid for pid in servers if state_of(pid) in {"R", "S", "D"})
            self.world.thaw(owner)

        def find(now: str) -> Finding:
            return ran_on(taken_over(GROUP, owner, now), _WEB, running)

        return self._once_taken_over(owner, thaw), find

    def _split(self, owner: str) -> Injected:
        self.world.cut(owner, ["ic0"])
        mend = self._once_taken_over(owner, lambda: self.world.heal(owner, ["ic0"]))
        return mend, partial(taken_over, GROUP, owner)

    def _servers(self, node: str) -> list[int]:
        return self.cluster.processes(node, _is_server) if node else []

    def _kill(self, owner: str, what: str, belongs: Callable[[Sequence[str]], bool]) -> Injected:
        """Kill processes of a node; mended it is once others run in their place."""
        former = self.cluster.processes(owner, belongs)
        ended = kill(former, _CALM_S)

        def found(now: str) -> Finding:
            running = self.cluster.processes(now, belongs) if now else []
            return replaced(what, former, ended, running)

        def mend() -> None:
            deadline = time.monotonic() + _CALM_S
            while ended and not found(owner).ok and time.monotonic() < deadline:
                time.sleep(0.05)

        return mend, found

    def _kill_daemon(self, owner: str) -> Injected:
        servers = self._servers(owner)
        mend, found = self._kill(owner, _DAEMON, _is_daemon)
        # What runs now answered for its node: all of them had to say that all is well.
        return mend, lambda now: adopted(found(owner), _WEB, servers, self._servers(now))

    def _kill_server(self, owner: str) -> Injected:
        return self._kill(owner, _WEB, _is_server)


def _is_server(argv: Sequence[str]) -> bool:
    return list(argv[-2:]) == [str(_SERVER), str(PORT)]


def _lasting(outages: list[Outage]) -> bool:
    return bool(outages) and outages[-1].end == 0


def _table(results: list[Result]) -> str:
    rows = [("fault", "ok", "outage", "two owners", "owner", "why")]
    rows.extend(
        (
            item.fault,
            "yes" if item.ok else "NO",
            f"{item.outage_ms:.0f} ms",
            f"{item.two_owners_ms:.0f} ms",
            item.owner,
            item.why,
        )
        for item in results
    )
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _build(cluster: LabCluster) -> None:
    begun = time.monotonic()
    cluster.form(lambda text: say(f"  {text}"))
    cluster.ask(
        cluster.world.nodes[0],
        "group",
        "add",
        GROUP,
        "--address",
        f"{VIP}/24",
        "--address",
        f"{VIP6}/64",
        "--restarts=3",
        "--run",
        f"{sys.executable} -S -E {_SERVER} {PORT}",
        f"--check-tcp={VIP}:{PORT}",
    )
    say(f"  group {GROUP} is online at {VIP} and {VIP6}, {time.monotonic() - begun:.1f} s in all")


def _demonstrate(cluster: LabCluster) -> list[Result]:
    world = cluster.world
    with (
        Prober(world, VIP, PORT, kind="http", interval_us=5000) as prober,
        Observer(world, [VIP, VIP6]) as observer,
    ):
        prober.wait_for_answers(count=50)
        return Demo(cluster, prober, observer).run()


def _profile() -> str:
    """Return the profile to ask for: without real time the node chooses by itself."""
    return "virtual" if is_user_namespace() else ""


def main() -> int:
    """Run the demo; 0 only if all faults happened, all were survived and two owners never seen."""
    parser = argparse.ArgumentParser(prog="./run demo", description=__doc__)
    parser.add_argument("--shell", action="store_true", help="leave it up and open a shell")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    options = parser.parse_args()
    try:
        ensure_privileges()
    except LabUnavailable as error:
        say(str(error))
        return 3
    if is_user_namespace():
        say(
            "as an ordinary user: PID namespaces instead of cgroups, no real-time scheduling, "
            "profile virtual"
        )
    cluster: LabCluster | None = None
    try:
        with World(3) as world:
            cluster = LabCluster(world, _profile())
            say("building three nodes and a client in namespaces ...")
            _build(cluster)
            if options.shell:
                return open_shell(cluster)
            results = _demonstrate(cluster)
            profile = cluster.profile
    except (LabUnavailable, ClusterError, subprocess.TimeoutExpired) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; everything is removed")
        return 130
    finally:
        if cluster is not None:
            cluster.close()
    good = all(result.ok for result in results)
    if options.json:
        report = {
            "ok": good,
            "profile": profile,
            "faults": [asdict(result) for result in results],
        }
        print(json.dumps(report))  # noqa: T201
    else:
        say("")
        print(f"profile {profile}\n{_table(results)}")  # noqa: T201
    return 0 if good else 1


if __name__ == "__main__":
    # What a shell inside needs to find this checkout again.
    os.environ.setdefault("LEITWOLF_DEMO", str(Path(__file__).parents[1]))
    sys.exit(main())
