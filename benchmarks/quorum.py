"""The other kinds of quorum: a shared disk, two nodes and a witness."""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.cluster import ClusterError
from lab.disk import DISK_BYTES, shared_disk
from lab.world import CLIENT

from benchmarks.commit import timed_changes
from benchmarks.failover import power_losses
from benchmarks.rows import Row, median, percentile
from benchmarks.stage import GROUP, OTHER, Stage, say
from leitwolf.core.lease.profile import PROFILES
from leitwolf.model.commands import TransferLeader
from leitwolf.model.errors import LeitwolfError
from leitwolf.model.ids import NodeId
from leitwolf.model.views import QuorumView

__all__ = ["disk_alone", "disk_commits", "owner_losses", "quorum_moves", "witness", "witnessed"]

_WAIT_S = 30.0
_WRITES = 400
_WRITE_GOAL_MS, _COMMIT_GOAL_MS = 0.3, 1.0
"""The goal: p50 of 1 ms where a write takes 0.3; so the cluster may add 0.7 to any disk's write."""
_EXTRA_MS = 100
_MOVE_GOAL_MS = 50
_WITNESS_PORT = 6475
_DISARMED_S = 2.0
"""A witness that was needed for the round before is armed no more by then: armed, it makes who
challenges it wait for its silence as well."""
_NAME = "bench"


# --- a shared disk -------------------------------------------------------------------------------


@contextmanager
def disk_alone(stage: Stage) -> Iterator[Path]:
    """Let a block device in memory be the quorum, alone."""
    with shared_disk(stage.world) as device:
        _leitwolf(stage, "quorum", "disk", "format", str(device))
        _leitwolf(stage, "quorum", "set", "disk", str(device))
        _await_votes(stage, 1)
        yield device


def _leitwolf(stage: Stage, *words: str) -> str:
    done = stage.cluster.command(stage.world.nodes[0], *words)
    if done.returncode:
        raise RuntimeError(f"leitwolf {' '.join(words)}: {done.stderr.strip()}")
    return str(done.stdout)


def _await_votes(stage: Stage, votes: int) -> None:
    """Wait until one configuration with so many votes is in force."""

    def settled(view: QuorumView) -> bool:
        return not view.joint and view.votes == votes

    deadline = time.monotonic() + _WAIT_S
    while not settled(stage.client(stage.world.nodes[0]).quorum()):
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {_WAIT_S:g} s for {votes} votes")
        time.sleep(0.02)


def _write_times(device: Path) -> list[float]:
    """Return how long a write of 4 KiB past every cache takes, ms, at the end of the device."""
    times = []
    descriptor = os.open(device, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    try:
        with mmap.mmap(-1, 4096) as buffer:
            for _ in range(_WRITES):
                begun = time.perf_counter()
                os.pwrite(descriptor, buffer, DISK_BYTES - 4096)
                times.append((time.perf_counter() - begun) * 1000)
    finally:
        os.close(descriptor)
    return times


def disk_commits(stage: Stage, device: Path, count: int) -> list[Row]:
    """Commit one change after the other where the disk alone decides."""
    stage.calm()
    write = median(_write_times(device))
    took = timed_changes(stage, count)
    write = median([write, median(_write_times(device))])
    goal = _COMMIT_GOAL_MS - _WRITE_GOAL_MS + write
    note = f"goal: {_COMMIT_GOAL_MS - _WRITE_GOAL_MS:g} ms and one O_DIRECT write, here {write:.3f}"
    say(f"  disk alone: p50 {median(took):.2f} ms, an O_DIRECT write {write:.3f} ms")
    return [
        Row("O_DIRECT write of the quorum disk, p50", write, "ms", note="a loop device in memory"),
        Row("commit at the API, disk alone, p50", median(took), "ms", goal, peer=write, note=note),
        Row("commit at the API, disk alone, p99", percentile(took, 99), "ms", peer=write),
    ]


def owner_losses(stage: Stage, rounds: int) -> list[Row]:
    """Cut the power of the node that owns the disk and the group."""
    stage.calm()
    members = stage.client(stage.leader()).quorum().members
    silence_ms = max(member.silence_ms for member in members if member.kind == "disk")
    say(f"  T_d is {silence_ms:.0f} ms")
    title = f"disk alone, T_d {silence_ms:.0f} ms: power loss of its owner"
    return power_losses(stage, rounds, leader=True, title=title, goal_ms=silence_ms + _EXTRA_MS)


def quorum_moves(stage: Stage, rounds: int) -> list[Row]:
    """Hand the disk over from node to node, while clients ask both groups.

    Where another node was quicker than the one that was named, it is counted and asked again.
    """
    took: list[float] = []
    lost, quicker = 0.0, 0
    numbers = {node.name: node.id for node in stage.status().nodes}
    while len(took) < rounds:
        stage.calm()
        stage.forget()
        leader = stage.leader()
        nodes = [node for node in stage.world.nodes if node != leader]
        milliseconds = _hand_over(stage, leader, nodes[len(took) % len(nodes)], numbers)
        if milliseconds is not None:
            took.append(milliseconds)
        else:
            quicker += 1
            if quicker > rounds:
                raise RuntimeError(f"{quicker} times another node was quicker than the one named")
        time.sleep(0.2)
        for group in (GROUP, OTHER):
            outages = stage.probers[group].outages()
            lost = max([lost, *(one.milliseconds for one in outages)])
    say(f"  quorum move: {', '.join(f'{one:.0f}' for one in took)} ms; longest outage {lost:.0f}")
    note = f"worst {max(took):.0f}; until the next owner's first entry is applied there"
    if quicker:
        note += f"; {quicker} times another node was quicker"
    return [
        Row("quorum move, disk alone", median(took), "ms", _MOVE_GOAL_MS, note=note),
        Row("quorum move, disk alone: outage of a group, worst", lost, "ms", 0),
    ]


def _hand_over(
    stage: Stage, leader: str, successor: str, numbers: dict[str, NodeId]
) -> float | None:
    """Return how long (ms) it takes from the command until the successor's first entry is there.

    None: another node was elected.
    """
    client = stage.client(successor)
    index = stage.status(leader).index
    ended: list[tuple[float, bool]] = []

    def wait() -> None:
        after = index
        while lines := client.log(after, wait_s=5):
            for line in lines:
                if line.code == "elected":
                    ended.append((time.perf_counter(), line.by == successor))
                    return
            after = lines[-1].index

    waiter = threading.Thread(target=wait)
    waiter.start()
    time.sleep(0.05)  # it asks by now
    begun = time.perf_counter()
    stage.client(leader).command(TransferLeader(node=numbers[successor]))
    waiter.join()
    if not ended:
        raise RuntimeError(f"{successor} does not lead")
    at, leads = ended[0]
    return (at - begun) * 1000 if leads else None


# --- two nodes and a witness ---------------------------------------------------------------------


@contextmanager
def witness(stage: Stage) -> Iterator[None]:
    """Serve a witness on the machine of the clients, and let it vote."""
    state = stage.world.folder / "witness"
    serve = [sys.executable, "-m", "leitwolf.cli", "witness"]
    environment = stage.cluster.environment(CLIENT)
    host = "10.77.2.100"
    location = f"witness://{host}:{_WITNESS_PORT}/{_NAME}"
    made = stage.world.run(CLIENT, [*serve, "token", _NAME, "--state", str(state)])
    token = made.stdout.rpartition("token = ")[2].strip()
    listen = f"{host}:{_WITNESS_PORT}"
    log = (stage.world.folder / "witness.log").open("ab")
    process = stage.world.spawn(
        CLIENT,
        [*serve, "serve", "--listen", listen, "--state", str(state)],
        env=environment,
        stdout=log,
        stderr=log,
    )
    try:
        for node in stage.world.nodes:
            config = Path(stage.cluster.environment(node)["LEITWOLF_CONFIG"]) / "witness.ini"
            config.write_text(f"[{location}]\ntoken = {token}\n")
            config.chmod(0o600)
        _again(lambda: _leitwolf(stage, "quorum", "set", "witness", location))
        _await_votes(stage, 3)
        yield
    finally:
        stage.world.kill(process)
        log.close()


def _again(action: Callable[[], object]) -> None:
    """Do something until it works: the witness is not up at once."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            action()
        except (LeitwolfError, RuntimeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def witnessed(stage: Stage, rounds: int) -> list[Row]:
    """Cut the power of the leader of two nodes, which owns the group."""
    title = "two nodes and a witness: power loss of the leader"
    goal_ms = PROFILES[stage.cluster.profile].promise_ms + _EXTRA_MS
    return power_losses(
        stage, rounds, leader=True, title=title, goal_ms=goal_ms, settle_s=_DISARMED_S
    )
