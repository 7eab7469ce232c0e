"""The thread that writes and syncs the quorum log, so that a slow disk never stops the loop."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable

from leitwolf.core.effects import SaveSnapshot
from leitwolf.core.executor import Batch
from leitwolf.model.errors import DiskFull, LeitwolfError
from leitwolf.store import QuorumLog
from leitwolf.system.diary import log

__all__ = ["LogWriter"]

_EXIT_STORAGE = 8


class LogWriter:
    """Writes one batch after another; each is durable before it is reported.

    A write or sync that fails ends the process at once (A2): what was written may be lost, and
    only the recovery at the next start can tell. The guard and the resources go on meanwhile. An
    own snapshot for which there is no space is no such failure: the log holds what it would.
    """

    def __init__(self, store: QuorumLog, on_durable: Callable[[Batch], None]) -> None:
        """Start the thread; ``on_durable`` runs in the event loop that is running now."""
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._on_durable = on_durable
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._begun = 0
        self._thread = threading.Thread(target=self._run, name="quorum-log", daemon=True)
        self._thread.start()

    @property
    def unsynced_since(self) -> int:
        """Instant (RAW ns) at which the write under way began, 0: none is."""
        return self._begun

    def submit(self, batch: Batch) -> None:
        """Write a batch; only one is under way at a time."""
        self._begun = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        self._queue.put(batch)

    def stop(self) -> None:
        """Finish what is under way and end the thread."""
        self._queue.put(None)
        self._thread.join(10)

    def _run(self) -> None:
        while (batch := self._queue.get()) is not None:
            try:
                if batch.records:
                    self._store.write(batch.records)
                    self._store.sync()
                if batch.snapshot is not None:
                    self._save(batch.snapshot)
            except (LeitwolfError, OSError) as error:
                log.critical("the quorum log cannot be written; this daemon ends", error=str(error))
                os._exit(_EXIT_STORAGE)
            self._loop.call_soon_threadsafe(self._done, batch)

    def _save(self, wanted: SaveSnapshot) -> None:
        """Save a snapshot; without space for an own one the entries that it covers stay.

        Raises:
            StorageError: it cannot be saved; a leader's, also for want of space, as it replaces
                entries that are not here.
        """
        try:
            self._store.save_snapshot(wanted.snapshot, reset=wanted.reset)
        except DiskFull as error:
            if wanted.reset:
                raise
            log.warning("no snapshot yet", error=error.text, code=error.code, hint=error.hint)

    def _done(self, batch: Batch) -> None:
        self._begun = 0
        self._on_durable(batch)
