"""The thread that writes the quorum log: what it survives, and what ends the daemon."""

from __future__ import annotations

import asyncio
import os
from hashlib import sha256
from typing import cast

import pytest

from leitwolf.core.effects import SaveSnapshot
from leitwolf.core.executor import Batch
from leitwolf.daemon.writer import LogWriter
from leitwolf.model.errors import DiskFull, StorageError
from leitwolf.model.ids import NodeId
from leitwolf.model.log import Snapshot
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.store import QuorumLog
from leitwolf.wire.ballot import Ballot, Key

SNAPSHOT = Snapshot(
    last=Key(Ballot(0, 1, 1), 7),
    config=QuorumConfig(acceptors=(Acceptor(id=AcceptorId(NodeId(1), "disk")),)),
    state=b"state",
    state_hash=sha256(b"state").hexdigest(),
)


class Store:
    """A log whose snapshots fail."""

    def __init__(self, error: StorageError) -> None:
        self.error = error

    def save_snapshot(self, _snapshot: Snapshot, *, reset: bool) -> None:
        del reset
        raise self.error


def outcome(error: StorageError, *, reset: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what became of a batch with a snapshot: it is durable, or the daemon ends."""

    async def scene() -> str:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str] = loop.create_future()

        def note(text: str) -> None:
            if not ended.done():
                ended.set_result(text)

        def exit_process(status: int) -> None:
            loop.call_soon_threadsafe(note, f"exit {status}")

        monkeypatch.setattr(os, "_exit", exit_process)
        writer = LogWriter(cast("QuorumLog", Store(error)), lambda _: note("durable"))
        saved = SaveSnapshot(position=1, snapshot=SNAPSHOT, reset=reset)
        writer.submit(Batch(position=1, snapshot=saved))
        try:
            return await asyncio.wait_for(ended, 30)
        finally:
            writer.stop()

    return asyncio.run(scene())


def test_full_disk_costs_an_own_snapshot_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each start of the daemon would try it again and end: the log still holds its entries."""
    assert outcome(DiskFull("full"), reset=False, monkeypatch=monkeypatch) == "durable"


def test_snapshot_of_the_leader_must_be_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands for entries that this node never had."""
    assert outcome(DiskFull("full"), reset=True, monkeypatch=monkeypatch) == "exit 8"


def test_snapshot_that_fails_otherwise_ends_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is on the disk then is not known (A2)."""
    assert outcome(StorageError("io"), reset=False, monkeypatch=monkeypatch) == "exit 8"
