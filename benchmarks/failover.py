"""Outages at the client: power loss, freeze, partition, moves, killed processes, first start."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from lab.processes import argv_of, members_of

from benchmarks import peers
from benchmarks.rows import Row, median
from benchmarks.stage import GROUP, OTHER, Stage, say
from leitwolf.core.lease.profile import PROFILES
from leitwolf.model.commands import AddGroup, NewResource, RecoverGroup, TransferLeader
from leitwolf.model.ids import GroupId, ResourceId
from leitwolf.system.progress import Role

__all__ = [
    "cold_start",
    "freezes",
    "killed_parts",
    "killed_process",
    "partitions",
    "planned_moves",
    "power_losses",
]

_BACK_S = 20.0
_AFTER_HEAL_S = 3.0
"""How long is looked for a second outage."""
_SHORT_S = 0.4
"""A move and its echoes are over by then."""
_DEATHS_IN_A_ROW, _FORGIVEN_S = 4, 11
"""A guard that dies for the sixth time within 10 s each is started later and later, by design."""
_AFTER_KILL_S = 1.0
"""How long is looked for an outage once a killed process is back: every lease is over by then."""
_RESTART_S = 10.0


class _Round:
    """What one injection did to both groups."""

    def __init__(self, stage: Stage) -> None:
        self.outage_ms = _longest(stage, GROUP)
        self.other_ms = _longest(stage, OTHER)
        self.two_owners_ms = stage.observer.two_owners_ms()


def _longest(stage: Stage, group: str) -> float:
    """Return the longest outage since the last look; one that lasts counts as endless."""
    outages = stage.probers[group].outages()
    if any(not outage.end for outage in outages):
        return float("inf")
    return max((outage.milliseconds for outage in outages), default=0.0)


def _inject(stage: Stage, fault: Callable[[], object], *, lasts_s: float = 0.0) -> _Round:
    """Break something and wait until the group answers again.

    ``lasts_s``: so long may the owner still answer by right.
    """
    stage.calm()
    time.sleep(0.3)  # heartbeats fall at any phase of their interval
    stage.forget()
    fault()
    time.sleep(lasts_s)
    stage.probers[GROUP].wait_for_answers(count=100, timeout_s=_BACK_S)
    return _Round(stage)


def power_losses(
    stage: Stage,
    rounds: int,
    *,
    leader: bool,
    title: str = "",
    goal_ms: float = 0,
    settle_s: float = 0,
) -> list[Row]:
    """Cut the power of an owner that leads, or does not.

    Args:
        stage: where.
        rounds: how often.
        leader: it leads.
        title: what the rows are called, '' for this: power loss of such an owner.
        goal_ms: 0 for P + 40 (of a leader) or R + 30.
        settle_s: how long the cluster is left alone before each.
    """
    profile = PROFILES[stage.cluster.profile]
    goal = goal_ms or (profile.promise_ms + 40 if leader else profile.run_ms + 30)
    who = "leader" if leader else "non-leader"
    title = title or f"power loss of a {who} owner"
    outages, others, doubles = [], [], []
    for number in range(rounds):
        owner = stage.place(on_leader=leader)
        time.sleep(settle_s)
        done = _inject(stage, lambda owner=owner: stage.world.power_off(owner))  # type: ignore[misc]
        say(f"  {title} {number + 1}/{rounds}: {done.outage_ms:.0f} ms")
        outages.append(done.outage_ms)
        others.append(done.other_ms)
        doubles.append(done.two_owners_ms)
        stage.boot(owner)
        if not leader:
            # Whoever leads remembers which nodes come and go: their votes return later each time.
            stage.command(TransferLeader())
        stage.calm()
    name = f"{title}, {profile.name}"
    worst = f"worst {max(outages):.0f}"
    return [
        peers.beside(Row(f"{name}: outage", median(outages), "ms", goal, note=worst), peers.CRASH),
        Row(f"{name}: outage of another group, worst", max(others), "ms", 0),
        Row(f"{name}: two owners, worst", max(doubles), "ms", 0),
    ]


def _isolation(
    stage: Stage,
    rounds: int,
    what: str,
    fault: Callable[[str], object],
    heal: Callable[[str], object],
) -> tuple[Row, Row, Row]:
    """Take an owner out without its knowledge, let it back, and look for what should not be.

    Returns:
        The outage, the time with two owners, the second outage.
    """
    profile = PROFILES[stage.cluster.profile]
    outages, doubles, second = [], [], []
    for number in range(rounds):
        owner = stage.place(on_leader=bool(number % 2))
        until_s = 2 * profile.run_ms / 1000
        done = _inject(stage, lambda owner=owner: fault(owner), lasts_s=until_s)  # type: ignore[misc]
        heal(owner)
        time.sleep(_AFTER_HEAL_S)
        after = _Round(stage)
        outages.append(done.outage_ms)
        doubles.append(done.two_owners_ms + after.two_owners_ms)
        second.append(after.outage_ms)
        say(f"  {what} {number + 1}/{rounds}: {done.outage_ms:.0f} ms")
        stage.calm()
    goal = profile.run_ms + 30
    note = f"worst {max(outages):.0f}; every other owner leads"
    name = f"{what} of the owner, {profile.name}"
    return (
        Row(f"{name}: outage", median(outages), "ms", goal, note=note),
        Row(f"{name}: two owners, worst", max(doubles), "ms", 0),
        Row(f"{name}: second outage, worst", max(second), "ms", 0),
    )


def freezes(stage: Stage, rounds: int) -> list[Row]:
    """Stop every process of the owner (SIGSTOP), and thaw it.

    The peers show no outage to compare: their frozen owner answers on, and is the second one.
    """
    world = stage.world
    outage, doubles, second = _isolation(stage, rounds, "freeze", world.freeze, world.thaw)
    return [
        outage,
        peers.beside(doubles, peers.FROZEN_TWO),
        peers.beside(second, peers.FROZEN_AGAIN),
    ]


def partitions(stage: Stage, rounds: int) -> list[Row]:
    """Cut the interconnect of the owner, which keeps the network of its clients, and heal it."""
    outage, doubles, second = _isolation(
        stage,
        rounds,
        "partition",
        lambda owner: stage.world.cut(owner, ["ic0"]),
        lambda owner: stage.world.heal(owner, ["ic0"]),
    )
    return [
        peers.beside(outage, peers.PARTITION),
        peers.beside(doubles, peers.PARTITION_TWO),
        peers.beside(second, peers.PARTITION_AGAIN),
    ]


def planned_moves(stage: Stage, rounds: int) -> list[Row]:
    """Move a group that has only an address from node to node."""
    outages = []
    nodes = stage.world.nodes
    stage.calm()
    for _ in range(rounds):
        owner = stage.owner(GROUP)
        stage.forget()
        stage.move(GROUP, nodes[(nodes.index(owner) + 1) % len(nodes)])
        time.sleep(_SHORT_S)
        outages.append(_longest(stage, GROUP))
    say(f"  planned moves: {', '.join(f'{outage:.0f}' for outage in outages)} ms")
    name, note = "planned move of an address: outage", f"worst {max(outages):.0f}"
    return [peers.beside(Row(name, median(outages), "ms", 10, note=note), peers.MOVE)]


def cold_start(stage: Stage, rounds: int, *, long_log: bool = False) -> list[Row]:
    """Start Leitwolf on three formed nodes at once, until the address answers.

    With a ``long_log`` behind them it is only told how long that takes.
    """
    took: list[float] = []
    entries = stage.status().index
    for number in range(rounds):
        stage.calm()
        for node in stage.world.nodes:
            stage.world.power_off(node)
        for node in stage.world.nodes:
            stage.world.start(node)
            stage.echo(node)
        stage.probers[GROUP].outages()
        begun = time.monotonic_ns()
        for node in stage.world.nodes:
            stage.cluster.run(node)
        stage.probers[GROUP].wait_for_answers(count=20, timeout_s=_BACK_S)
        ended = [outage.end for outage in stage.probers[GROUP].outages() if outage.end > begun]
        took.append((min(ended) - begun) / 1e9 if ended else float("inf"))
        say(f"  start of three nodes {number + 1}/{rounds}: {took[-1]:.2f} s")
    name = "three formed nodes started until the address answers"
    note = f"worst {max(took):.2f}; {entries} entries behind them"
    if long_log:
        return [Row(f"{name}, long log", median(took), "s", note=note)]
    return [peers.beside(Row(name, median(took), "s", 2, note=note), peers.START)]


# --- killed processes ----------------------------------------------------------------------------

_APP = "app"


def _process(stage: Stage) -> Path:
    """Have a process that notes when it begins; return its diary."""
    diary = stage.world.folder / "begun"
    if diary.exists():
        return diary
    script = stage.world.folder / "app.sh"
    script.write_text(
        f"#!/bin/sh\necho $$ $(cut -d' ' -f1 /proc/uptime) $(date +%s%N) >> {diary}\n"
    )
    with script.open("a") as output:
        output.write("exec sleep 100000\n")
    script.chmod(0o755)
    resource = NewResource(
        resource=ResourceId(_APP), type="process", parameters={"command": str(script)}
    )
    group = AddGroup(group=GroupId(_APP), resources=(resource,), restart_threshold=1000)
    stage.command(group)
    stage.calm()
    return diary


def _births(diary: Path) -> list[int]:
    """Return when the process began, wall clock ns."""
    return [int(line.split()[2]) for line in diary.read_text().splitlines()]


def _kill(stage: Stage, node: str, role: Role) -> float:
    """Kill one of Leitwolf's processes; return how long (s) it takes until another is ready."""
    former = stage.slot(node, role)
    os.kill(stage.pid(node, role), signal.SIGKILL)
    begun = time.monotonic()
    while True:
        slot = stage.slot(node, role)
        took = time.monotonic() - begun
        if (slot.process, slot.started) != (former.process, former.started) and slot.counter:
            return took
        if took > _BACK_S:
            raise RuntimeError(f"no {role.name.lower()} came back within {_BACK_S:g} s")
        time.sleep(0.01)


def killed_parts(stage: Stage, rounds: int) -> list[Row]:
    """Kill each of the four processes of an owner; nothing may notice."""
    diary = _process(stage)
    owner = stage.owner(_APP)
    stage.move(GROUP, owner)
    rows = []
    for role in Role:
        outages, back, restarts = [], [], 0
        for number in range(rounds):
            if number and number % _DEATHS_IN_A_ROW == 0:
                time.sleep(_FORGIVEN_S)
            stage.calm()
            stage.forget()
            before = len(_births(diary))
            back.append(_kill(stage, owner, role))
            time.sleep(_AFTER_KILL_S)
            outages.append(_longest(stage, GROUP))
            restarts += len(_births(diary)) - before
        name = f"{role.name.lower()} killed"
        note = f"another one is ready within {max(back):.1f} s"
        say(f"  {name}: {max(outages):.0f} ms, {restarts} restarts, {note}")
        rows.append(Row(f"{name}: outage, worst", max(outages), "ms", 0, note=note))
        rows.append(Row(f"{name}: managed processes restarted", restarts, "", 0))
    return rows


def killed_process(stage: Stage, rounds: int) -> list[Row]:
    """Kill a managed process; it is begun again.

    Each time as if it were the first: a process that failed before waits, longer and longer.
    """
    diary = _process(stage)
    owner = stage.owner(_APP)
    took = []
    for _ in range(rounds):
        stage.calm()
        stage.command(RecoverGroup(group=GroupId(_APP)))
        found = [
            pid
            for pid in members_of(stage.world.pid(owner))
            if argv_of(pid)[:2] == ["sleep", "100000"]
        ]
        killed = time.time_ns()
        os.kill(found[0], signal.SIGKILL)
        deadline = time.monotonic() + _RESTART_S
        while (born := _births(diary)[-1]) < killed and time.monotonic() < deadline:
            time.sleep(0.005)
        took.append((born - killed) / 1e6 if born > killed else float("inf"))
    say(f"  killed process: {', '.join(f'{one:.0f}' for one in took)} ms")
    note = f"worst {max(took):.0f}"
    return [Row("managed process killed: restart begun", median(took), "ms", 50, note=note)]
