"""``python -m benchmarks [--quick] [--json] [--only WORD]``: measure, and say what was reached."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

from lab.privileges import LabUnavailable, ensure_privileges

from benchmarks import commit, cost, failover
from benchmarks.rows import Row, table
from benchmarks.stage import Stage, say
from leitwolf.model.errors import LeitwolfError

__all__ = ["main"]

Part = tuple[str, Callable[[Stage], list[Row]]]


def _parts(*, quick: bool) -> list[Part]:
    """Return what is measured on the default profile, in this order."""
    few, rounds = (3, 3) if quick else (10, 10)
    moves = 5 if quick else 20
    return [
        ("status", lambda stage: cost.status_command(stage, moves)),
        ("idle", lambda stage: cost.idle(stage, 20)),
        ("move", lambda stage: failover.planned_moves(stage, moves)),
        ("power", lambda stage: failover.power_losses(stage, rounds, leader=False)),
        ("power-leader", lambda stage: failover.power_losses(stage, rounds, leader=True)),
        ("freeze", lambda stage: failover.freezes(stage, few)),
        ("partition", lambda stage: failover.partitions(stage, few)),
        ("commit", lambda stage: commit.commits(stage, 300 if quick else 2_000)),
        ("start", lambda stage: failover.cold_start(stage, few)),
        ("load", lambda stage: cost.load(stage, 30 if quick else 600)),
        ("kill", lambda stage: failover.killed_parts(stage, 1 if quick else 3)),
        ("process", lambda stage: failover.killed_process(stage, moves)),
    ]


def _fast_parts(*, quick: bool) -> list[Part]:
    rounds = 3 if quick else 10
    return [
        ("power", lambda stage: failover.power_losses(stage, rounds, leader=False)),
        ("power-leader", lambda stage: failover.power_losses(stage, rounds, leader=True)),
    ]


def _measure(stage: Stage, parts: Sequence[Part], only: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    for name, part in parts:
        if only and name not in only:
            continue
        begun = time.monotonic()
        try:
            rows += part(stage)
        except (LeitwolfError, OSError, RuntimeError) as error:
            say(f"  {name}: {error}")
            rows.append(Row(name, float("nan"), "", 0, note=str(error)[:80]))
        say(f"{name}: {time.monotonic() - begun:.0f} s")
    return rows


def _run(only: Sequence[str], *, quick: bool) -> list[Row]:
    rows: list[Row] = []
    if not only or "simulator" in only:
        rows += cost.simulator(3 if quick else 10)
    with Stage("default") as stage:
        say(f"three nodes are up, profile {stage.cluster.profile}")
        rows += _measure(stage, _parts(quick=quick), only)
    if only and not {"power", "power-leader"} & set(only):
        return rows
    try:
        with Stage("fast") as stage:
            say("three nodes are up, profile fast")
            rows += _measure(stage, _fast_parts(quick=quick), only)
    except Exception as error:  # noqa: BLE001  # a machine may refuse the profile; said in the row
        say(f"profile fast: {error}")
        rows.append(Row("profile fast", float("nan"), "", None, note=str(error)[:120]))
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
