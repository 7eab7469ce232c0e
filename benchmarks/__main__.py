"""``python -m benchmarks [--quick] [--json] [--only WORD]``: measure, and say what was reached."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from lab.cluster import ClusterError
from lab.privileges import LabUnavailable, ensure_privileges

from benchmarks import commit, cost, failover, longlog, quorum
from benchmarks.rows import Row, table
from benchmarks.stage import Stage, say
from leitwolf.model.errors import LeitwolfError

__all__ = ["main"]

Part = tuple[str, Callable[[Stage], list[Row]]]


def _unwatched_parts(*, quick: bool) -> list[Part]:
    """Return what is measured before probers and observer begin to take their third of a core."""
    crowds = (1, 4) if quick else (4, 6)
    return [
        ("status", lambda stage: cost.status_command(stage, 5 if quick else 20)),
        ("idle", lambda stage: cost.idle(stage, 20)),
        ("commit", lambda stage: commit.commits(stage, 300 if quick else 2_000)),
        ("crowd", lambda stage: commit.crowds(stage, *crowds)),
    ]


def _parts(*, quick: bool) -> list[Part]:
    """Return what is measured on the default profile, in this order."""
    few, rounds = (3, 3) if quick else (10, 10)
    moves = 5 if quick else 20
    return [
        ("move", lambda stage: failover.planned_moves(stage, moves)),
        ("power", lambda stage: failover.power_losses(stage, rounds, leader=False)),
        ("power-leader", lambda stage: failover.power_losses(stage, rounds, leader=True)),
        ("freeze", lambda stage: failover.freezes(stage, few)),
        ("partition", lambda stage: failover.partitions(stage, few)),
        ("start-long", lambda stage: failover.cold_start(stage, 1 if quick else 3, long_log=True)),
        ("load", lambda stage: cost.load(stage, 30 if quick else 600)),
        ("kill", lambda stage: failover.killed_parts(stage, 1 if quick else 10)),
        ("process", lambda stage: failover.killed_process(stage, moves)),
    ]


def _fast_parts(*, quick: bool) -> list[Part]:
    few, rounds = (2, 3) if quick else (10, 10)
    return [
        ("power", lambda stage: failover.power_losses(stage, rounds, leader=False)),
        ("power-leader", lambda stage: failover.power_losses(stage, rounds, leader=True)),
        ("freeze", lambda stage: failover.freezes(stage, few)),
        ("partition", lambda stage: failover.partitions(stage, few)),
    ]


@contextmanager
def _tolerant(rows: list[Row], what: str) -> Iterator[None]:
    """What could not be measured is a row without a value; everything else is still measured."""
    try:
        yield
    except (LeitwolfError, OSError, RuntimeError, ClusterError) as error:
        say(f"{what}: {error}")
        rows.append(Row(what, float("nan"), "", 0, note=str(error)[:120]))


def _measure(stage: Stage, parts: Sequence[Part], only: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    for name, part in parts:
        if only and name not in only:
            continue
        begun = time.monotonic()
        with _tolerant(rows, name):
            rows += part(stage)
        say(f"{name}: {time.monotonic() - begun:.0f} s")
    return rows


def _named(parts: Sequence[Part]) -> set[str]:
    return {name for name, _ in parts}


def _start(only: Sequence[str], *, quick: bool) -> list[Row]:
    """Measure the start of nodes that have done nothing yet: the others leave a long log behind."""
    if only and "start" not in only:
        return []
    with Stage("default") as stage:
        stage.watch()
        rounds = 3 if quick else 10
        return _measure(stage, [("start", lambda s: failover.cold_start(s, rounds))], only)


def _usual(only: Sequence[str], *, quick: bool) -> list[Row]:
    unwatched, parts = _unwatched_parts(quick=quick), _parts(quick=quick)
    if only and not _named([*unwatched, *parts]) & set(only):
        return []
    with Stage("default") as stage:
        say(f"three nodes are up, profile {stage.cluster.profile}")
        rows = _measure(stage, unwatched, only)
        if not only or _named(parts) & set(only):
            stage.watch()
        return rows + _measure(stage, parts, only)


def _fast(only: Sequence[str], *, quick: bool) -> list[Row]:
    parts = _fast_parts(quick=quick)
    if only and not _named(parts) & set(only):
        return []
    with Stage("fast") as stage:
        say("three nodes are up, profile fast")
        stage.watch()
        return _measure(stage, parts, only)


def _disk(only: Sequence[str], *, quick: bool) -> list[Row]:
    """Measure the quorum of a shared disk alone."""
    rounds = 3 if quick else 10
    if only and not {"disk", "disk-owner", "quorum-move"} & set(only):
        return []
    with Stage("default") as stage, quorum.disk_alone(stage) as device:
        say("three nodes and a disk that decides alone")
        count = 300 if quick else 2_000
        rows = _measure(stage, [("disk", lambda s: quorum.disk_commits(s, device, count))], only)
        stage.watch()
        parts: list[Part] = [
            ("quorum-move", lambda s: quorum.quorum_moves(s, 5 if quick else 20)),
            ("disk-owner", lambda s: quorum.owner_losses(s, rounds)),
        ]
        return rows + _measure(stage, parts, only)


def _witness(only: Sequence[str], *, quick: bool) -> list[Row]:
    """Measure two nodes and a witness."""
    if only and "witness" not in only:
        return []
    with Stage("default", nodes=2) as stage, quorum.witness(stage):
        say("two nodes and a witness")
        stage.watch()
        rounds = 3 if quick else 10
        return _measure(stage, [("witness", lambda s: quorum.witnessed(s, rounds))], only)


def _eight(only: Sequence[str], *, quick: bool) -> list[Row]:
    """Measure eight nodes that do nothing."""
    if only and "eight" not in only:
        return []
    with Stage("default", nodes=8) as stage:
        say("eight nodes are up")
        seconds = 20 if quick else 60
        return _measure(stage, [("eight", lambda s: cost.stable(s, seconds))], only)


def _long_log(only: Sequence[str], *, quick: bool) -> list[Row]:
    """Measure a node that has a long past."""
    if only and "log" not in only:
        return []
    begun = time.monotonic()
    rows = longlog.long_log(500_000, 2) if quick else longlog.long_log(1_000_000, 5)
    say(f"log: {time.monotonic() - begun:.0f} s")
    return rows


def _run(only: Sequence[str], *, quick: bool) -> list[Row]:
    rows: list[Row] = []
    if not only or "simulator" in only:
        rows += cost.simulator(3 if quick else 10)
    stages = {
        "start": _start,
        "three nodes": _usual,
        "profile fast": _fast,
        "shared disk": _disk,
        "witness": _witness,
        "eight nodes": _eight,
        "long log": _long_log,
    }
    for what, measure in stages.items():
        with _tolerant(rows, what):
            rows += measure(only, quick=quick)
    return rows


def main() -> int:
    """Measure; 0 whatever was reached, for figures are read by people."""
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, at most 5 minutes")
    parser.add_argument("--json", action="store_true", help="print a list of objects on stdout")
    parser.add_argument("--only", action="append", default=[], help="one part; repeat for more")
    options = parser.parse_args()
    try:
        ensure_privileges()
    except LabUnavailable as error:
        say(str(error))
        return 3
    begun = time.monotonic()
    rows = _run(options.only, quick=options.quick)
    say(f"{time.monotonic() - begun:.0f} s in all")
    print(json.dumps([row.document() for row in rows], indent=1) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
