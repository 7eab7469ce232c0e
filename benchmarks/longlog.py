"""A node whose quorum log has seen a million changes: how large it is, how long a start takes."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.rows import Row, median
from benchmarks.stage import GROUP, Stage, say
from leitwolf.daemon.bootstrap import load_bootstrap
from leitwolf.model.events import Cause, Change, GroupChanged
from leitwolf.model.ids import GroupId
from leitwolf.model.limits import SNAPSHOT_ENTRIES
from leitwolf.model.log import CommitRecord, Entry, EntryRecord, Loaded, Snapshot
from leitwolf.model.state import State
from leitwolf.model.views import StatusView
from leitwolf.state import decode, digest, encode, encode_change, fold
from leitwolf.store import QuorumLog, StoreIdentity
from leitwolf.system.settings import Settings
from leitwolf.wire.ballot import Key

__all__ = ["long_log"]

_TOGETHER = 1_000
"""Entries in one write: nobody waits for an answer here."""
_RESTART_GOAL_S = 2
_SIZE_GOAL_MIB = 100
"""History of 64 MiB, what a restart reads (entries of two snapshots), a segment and its spare."""
_SECOND = 1_000_000_000


def _size_mib(folder: Path) -> float:
    """Return the space that the files of a log take."""
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir()) / (1 << 20)


def _folded(loaded: Loaded) -> State:
    state = decode(loaded.snapshot.state) if loaded.snapshot is not None else State()
    for entry in loaded.entries:
        state = fold(state, entry)
    return state


def _snapshot(state: State, key: Key) -> Snapshot:
    if state.quorum is None:
        raise RuntimeError("the log has no quorum configuration")
    return Snapshot(last=key, config=state.quorum, state=encode(state), state_hash=digest(state))


class _Writer:
    """Writes the log of a node that is off, as its daemon would: entries, hints, snapshots."""

    def __init__(self, log: QuorumLog) -> None:
        self._log = log
        self.state = _folded(log.loaded)
        self._ballot = log.loaded.promised
        last = log.loaded.snapshot
        self._snapshot_at = last.last.index if last is not None else 0

    def add(self, count: int) -> None:
        """Append so many changes."""
        records: list[EntryRecord | CommitRecord] = []
        for number in range(count):
            state = self.state
            change = Change(
                events=(
                    GroupChanged(
                        group=GroupId(GROUP), retry_period_s=3_600 + (state.index + 1) % 1_000
                    ),
                ),
                because=Cause(code="command", text=f"change group {GROUP}"),
                by="root@n1",
                time=state.time + _SECOND,
                wall=state.time + _SECOND,
            )
            entry = Entry(index=state.index + 1, ballot=self._ballot, payload=encode_change(change))
            self.state = fold(state, entry)
            records.append(EntryRecord(entry=entry))
            if len(records) >= _TOGETHER or number == count - 1:
                self._write([*records, CommitRecord(index=entry.index)])
                records.clear()

    def fill_up(self) -> None:
        """Append what makes a restart longest: all that fits before the next snapshot."""
        self.add(self._snapshot_at + SNAPSHOT_ENTRIES - 1 - self.state.index)

    def _write(self, records: list[EntryRecord | CommitRecord]) -> None:
        self._log.write(records)
        self._log.sync()
        index = self.state.index
        if index >= self._snapshot_at + SNAPSHOT_ENTRIES:
            self._snapshot_at = index
            self._log.save_snapshot(_snapshot(self.state, Key(self._ballot, index)), reset=False)


def _start(stage: Stage, node: str, index: int) -> float:
    """Switch a node on; return how long (s) Leitwolf needs until all groups are online."""
    stage.world.start(node)
    stage.echo(node)
    begun = time.monotonic()
    stage.cluster.run(node)

    def ready(view: StatusView) -> bool:
        return (
            view.fresh
            and view.index >= index
            and all(group.status == "online" for group in view.groups)
        )

    stage.wait(ready, "the node that was restarted", node)
    return time.monotonic() - begun


def _restarts(stage: Stage, node: str, rounds: int, index: int) -> list[float]:
    took = []
    for _ in range(rounds):
        took.append(_start(stage, node, index))
        stage.world.power_off(node)
    return took


def long_log(changes: int, rounds: int) -> list[Row]:
    """Fill the log of a cluster of one while it is off; start the node before and after."""
    with Stage("default", nodes=1) as stage:
        [node] = stage.world.nodes
        stage.world.power_off(node)
        short = median(_restarts(stage, node, rounds, 1))
        settings = Settings.load(stage.cluster.environment(node))
        begun = time.monotonic()
        half, whole, index = _fill(settings, changes)
        say(f"  {changes} changes in {time.monotonic() - begun:.0f} s: {half:.0f}, {whole:.0f} MiB")
        took = median(_restarts(stage, node, rounds, index))
        say(f"  restart {took:.2f} s, with a short log {short:.2f} s")
    what = f"log of {changes:,} changes"
    how = f"written by the store in batches of {_TOGETHER}, snapshots as the daemon takes them"
    worst = f"{SNAPSHOT_ENTRIES - 1} entries behind the snapshot; peer: with a short log"
    return [
        Row(f"{what}: size", whole, "MiB", _SIZE_GOAL_MIB, note=f"after half {half:.1f}; {how}"),
        Row(
            f"{what}: restart of the node until its groups are online",
            took,
            "s",
            _RESTART_GOAL_S,
            peer=short,
            note=worst,
        ),
    ]


def _fill(settings: Settings, changes: int) -> tuple[float, float, int]:
    """Return the size (MiB) after half of the changes and after all, and the last index."""
    known = load_bootstrap(settings.state)
    if known is None:
        raise RuntimeError("the node is in no cluster")
    identity = StoreIdentity(cluster=known.cluster, node=known.node, storage=known.storage)
    folder = settings.quorum_log
    log = QuorumLog.open(folder, identity)
    try:
        writer = _Writer(log)
        writer.add(changes // 2)
        half = _size_mib(folder)
        writer.add(changes - changes // 2)
        writer.fill_up()
        return half, _size_mib(folder), writer.state.index
    finally:
        log.close()
