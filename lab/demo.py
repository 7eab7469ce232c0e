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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab.cluster import ClusterError, LabCluster, all_up
from lab.observer import Observer
from lab.privileges import LabUnavailable, ensure_privileges, is_user_namespace
from lab.prober import Outage, Prober
from lab.shell import open_shell
from lab.world import World

VIP, VIP6, PORT = "10.77.2.200", "fd77:2::c8", 8080
GROUP = "web"
_CALM_S = 20.0
_UNTOLD = "no entry of the log is about it"


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
        faults: tuple[tuple[str, Callable[[str], Callable[[], object]], str], ...] = (
            ("planned move", self._move, _UNTOLD),
            ("power loss of the owner", self._power_loss, _UNTOLD),
            ("freeze of the owner, then thaw", self._freeze, _UNTOLD),
            ("split of the interconnect, then heal", self._split, _UNTOLD),
            ("kill of the daemon alone", self._kill_daemon, "a new daemon adopted what runs"),
            ("kill of the web server", self._kill_server, _UNTOLD),
        )
        return [self._try(*fault) for fault in faults]

    def _try(self, name: str, fault: Callable[[str], Callable[[], object]], quiet: str) -> Result:
        """Inject a fault; ``quiet``: what happened if no entry of the log is about the group."""
        owner = self.cluster.owner(GROUP)
        begun = self._newest()
        self.prober.outages()
        self.observer.report()
        say(f"{name}: {GROUP} is on {owner} ...")
        mend = fault(owner)
        back = self.prober.wait_for_answers(count=50, timeout_s=_CALM_S)
        mend()
        well = self._calm()
        outages = self.prober.outages()
        doubles = self.observer.two_owners_ms()
        result = Result(
            fault=name,
            ok=back and well and doubles == 0 and not _lasting(outages),
            outage_ms=round(max((outage.milliseconds for outage in outages), default=0.0), 1),
            two_owners_ms=round(doubles, 1),
            owner=self.cluster.owner(GROUP),
            why=self._why(begun, quiet),
        )
        say(
            f"  outage {result.outage_ms:.0f} ms, now on {result.owner}, "
            f"two owners {doubles:.0f} ms; {result.why}"
        )
        return result

    def _calm(self) -> bool:
        """Wait until all nodes are members again and the group is online and answers."""

        def good(view: dict[str, object]) -> bool:
            groups = {item["id"]: item for item in view["groups"]}  # type: ignore[attr-defined]
            return all_up(len(self.world.nodes))(view) and groups[GROUP]["status"] == "online"

        deadline = time.monotonic() + _CALM_S
        while True:
            for node in self.cluster.revive():
                say(f"  {node} could not prove in time that all is stopped there, and reboots")
            try:
                self.cluster.wait(self.world.nodes[0], good, "everything to be well", 1.0)
                break
            except ClusterError as error:
                if time.monotonic() > deadline:
                    say(f"  {error}")
                    return False
        return self.prober.wait_for_answers(count=50, timeout_s=_CALM_S)

    def _newest(self) -> int:
        """Return the index of the newest entry that any node knows."""
        return max(int(self.cluster.status(node)["index"]) for node in self.world.nodes)

    def _why(self, after: int, quiet: str) -> str:
        """Return what the log says about the group since an entry."""
        first = self.world.nodes[0]
        done = self.cluster.command(first, "log", "--json", f"--after={after}")
        groups = self.cluster.status(first)["groups"]
        placed = next(str(item["reason"]) for item in groups if item["id"] == GROUP)
        return story([json.loads(line) for line in done.stdout.splitlines()], placed, quiet)

    # --- faults ----------------------------------------------------------------------------------

    def _other(self, owner: str) -> str:
        return next(node for node in self.world.nodes if node != owner)

    def _once_taken_over(self, owner: str, mend: Callable[[], object]) -> Callable[[], object]:
        """Return a repair that waits for the takeover: mended earlier, there would be none."""

        def late() -> object:
            others = [node for node in self.world.nodes if node != owner]
            deadline = time.monotonic() + _CALM_S
            while self.cluster.owner(GROUP, others) == owner and time.monotonic() < deadline:
                time.sleep(0.05)
            self.prober.wait_for_answers(count=50, timeout_s=_CALM_S)
            return mend()

        return late

    def _move(self, owner: str) -> Callable[[], object]:
        self.cluster.ask(owner, "group", "move", GROUP)
        return lambda: None

    def _power_loss(self, owner: str) -> Callable[[], object]:
        self.world.power_off(owner)
        return self._once_taken_over(owner, lambda: self.cluster.boot(owner))

    def _freeze(self, owner: str) -> Callable[[], object]:
        self.world.freeze(owner)
        return self._once_taken_over(owner, lambda: self.world.thaw(owner))

    def _split(self, owner: str) -> Callable[[], object]:
        self.world.cut(owner, ["ic0"])
        return self._once_taken_over(owner, lambda: self.world.heal(owner, ["ic0"]))

    def _kill(self, owner: str, module: str) -> None:
        pattern = f"pkill -9 -f '{module}'"
        self.world.run(owner, ["sh", "-c", pattern], check=False)

    def _kill_daemon(self, owner: str) -> Callable[[], object]:
        self._kill(owner, "[l]eitwolf.daemon.main")
        return lambda: None

    def _kill_server(self, owner: str) -> Callable[[], object]:
        self._kill(owner, f"[w]ebserver.py {PORT}")
        return lambda: None


def story(lines: Sequence[Mapping[str, Any]], placed: str, quiet: str) -> str:
    """Return what happened to the group, by the lines of a timeline.

    Args:
        lines: since the fault, oldest first.
        placed: why the group is where it is; counts if it was placed since.
        quiet: what happened if no line is about the group.
    """
    failed, restarted = "", ""
    for line in lines:
        for event in line["events"]:
            kind, _, rest = event.partition(" ")
            if kind == "GroupPlaced" and f"group={GROUP} " in rest:
                return placed
            if kind != "ResourceMoved" or f"resource={GROUP}-" not in rest:
                continue
            if "state=failed" in rest:
                failed = failed or line["because"]
            elif failed and "state=online-pending" in rest:
                restarted = ", restarted in place"
    return f"{failed}{restarted}" if failed else f"nothing moved: {quiet}"


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
    server = Path(__file__).with_name("webserver.py")
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
        f"{sys.executable} -S -E {server} {PORT}",
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
    """Run the demo; 0 only if the service came back each time and two owners were never seen."""
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
        say("as an ordinary user: no real-time scheduling, no cgroups, profile virtual")
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
