"""What it costs: idle CPU and memory, a command, the simulator; and false alarms under load."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.rows import Row, median
from benchmarks.stage import GROUP, OTHER, Stage, say
from leitwolf.sim.scenario import Setting, simulate
from leitwolf.system.progress import Role

__all__ = ["idle", "load", "simulator", "stable", "status_command"]

_TICKS = os.sysconf("SC_CLK_TCK")
_RSS_GOALS_MIB = {Role.GUARD: 24, Role.DAEMON: 60, Role.HOST: 48}
_BUSY = "while True: pass"


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(item for item in status.splitlines() if item.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def _shares(stage: Stage, seconds: float) -> dict[tuple[str, Role], float]:
    """Return the share of a core that each of the four processes of every node takes."""
    pids = {(node, role): stage.pid(node, role) for node in stage.world.nodes for role in Role}
    before = {key: _ticks(pid) for key, pid in pids.items()}
    begun = time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - begun
    return {key: (_ticks(pid) - before[key]) / _TICKS / elapsed for key, pid in pids.items()}


def idle(stage: Stage, seconds: float) -> list[Row]:
    """Measure the four processes of every node while nothing happens."""
    stage.calm()
    share = _shares(stage, seconds)
    pids = {(node, role): stage.pid(node, role) for node, role in share}
    memory = {key: _rss_mib(pid) for key, pid in pids.items()}
    by_role = {role: max(share[node, role] for node in stage.world.nodes) * 100 for role in Role}
    note = ", ".join(f"{role.name.lower()} {value:.2f}" for role, value in by_role.items())
    worst = max(sum(share[node, role] for role in Role) * 100 for node in stage.world.nodes)
    say(f"  idle: {worst:.2f} % of a core on the busiest node ({note})")
    rows = [Row("idle CPU of the busiest node", worst, "% of a core", 3, note=note)]
    for role in (Role.DAEMON, Role.HOST, Role.GUARD, Role.KEEPER):
        most = max(memory[node, role] for node in stage.world.nodes)
        goal = _RSS_GOALS_MIB.get(role)
        rows.append(Row(f"memory (RSS) of the {role.name.lower()}", most, "MiB", goal))
    return rows


def stable(stage: Stage, seconds: float) -> list[Row]:
    """Leave many nodes alone: nothing may fail over, nobody may be elected."""
    stage.calm()
    first = stage.world.nodes[0]
    before = stage.status(first)
    ballot = stage.client(first).quorum().ballot
    share = _shares(stage, seconds)
    stage.calm()
    after = stage.status(first)
    former = {group.id: group.generation for group in before.groups}
    failovers = sum(group.generation - former[group.id] for group in after.groups)
    elections = int(stage.client(first).quorum().ballot != ballot)
    by_node = {node: sum(share[node, role] for role in Role) * 100 for node in stage.world.nodes}
    others = median([value for node, value in by_node.items() if node != after.leader])
    count, note = len(by_node), f"{seconds:g} s"
    say(f"  {count} nodes: {failovers} failovers, {elections} elections")
    return [
        Row(f"{count} nodes, idle: false failovers", failovers, "", 0, note=note),
        Row(f"{count} nodes, idle: elections", elections, "", 0, note=note),
        Row(f"{count} nodes, idle CPU of the leader", by_node[after.leader], "% of a core"),
        Row(f"{count} nodes, idle CPU of another node, median", others, "% of a core"),
    ]


def status_command(stage: Stage, rounds: int) -> list[Row]:
    """Time ``leitwolf status`` as a whole process on a node."""
    took = []
    for _ in range(rounds):
        begun = time.monotonic()
        done = stage.cluster.command(stage.world.nodes[1], "status")
        took.append((time.monotonic() - begun) * 1000)
        if done.returncode:
            raise RuntimeError(done.stderr)
    note = "entering the namespaces included"
    return [Row("leitwolf status, start to end", median(took), "ms", 250, note=note)]


def simulator(runs: int) -> list[Row]:
    """Run seeds of the simulator on one core: 5 nodes, default profile, all faults."""
    simulated, violations = 0.0, 0
    begun = time.process_time()
    for seed in range(runs):
        outcome = simulate(seed, Setting(nodes=5))
        simulated += outcome.simulated_s
        violations += not outcome.ok
    factor = simulated / (time.process_time() - begun)
    say(f"  simulator: {factor:.1f} x, {violations} violations")
    note = f"{runs} runs, {simulated / runs:.0f} simulated seconds each; CPU time"
    return [
        Row("simulator, 5 nodes, all faults", factor, "x", 50, at_least=True, note=note),
        Row("simulator: violations", violations, "", 0),
    ]


def load(stage: Stage, seconds: float) -> list[Row]:
    """Count what fails over by mistake beside four busy loops per core."""
    stage.calm()
    stage.forget()
    before = {group.id: group.generation for group in stage.status().groups}
    count = 4 * (os.cpu_count() or 1)
    loops = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        time.sleep(seconds)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    stage.calm()
    after = {group.id: group.generation for group in stage.status().groups}
    failovers = sum(after[group] - before[group] for group in before)
    lost = max(
        (
            outage.milliseconds
            for group in (GROUP, OTHER)
            for outage in stage.probers[group].outages()
        ),
        default=0.0,
    )
    minutes = f"{seconds / 60:.1f} minutes, {count} busy loops"
    say(f"  load: {failovers} failovers, longest silence {lost:.1f} ms")
    return [
        Row("false failovers under load", failovers, "", 0, note=minutes),
        Row("longest silence under load", lost, "ms", None, note="the echo server waits as well"),
    ]
