"""What becomes of this node: in a cluster or in none, locked out, giving way, leaving.

Rules:

- One thing at a time: :meth:`Lifecycle.run` goes on only when what was begun is done, also after a
  crash: what is to be done stands in files of the state directory. What only the log or the peers
  say, they say again.
- Whoever is out of a cluster stops everything first and sets its state aside afterwards.
- A fault of the log keeps the daemon up without a part in the cluster, so that people learn why.
"""

from __future__ import annotations

import asyncio
import platform
import time

from leitwolf.daemon import forming, giving_way
from leitwolf.daemon.aside import set_aside
from leitwolf.daemon.bootstrap import Bootstrap, load_bootstrap
from leitwolf.daemon.cluster import Cluster
from leitwolf.daemon.departure import (
    Departure,
    Lockout,
    forget_departure,
    load_departure,
    load_lockout,
    save_departure,
    save_lockout,
    way_back,
)
from leitwolf.daemon.drain import drain, hand_over
from leitwolf.daemon.fresh import begin_anew, has_memories
from leitwolf.daemon.kept import written_down
from leitwolf.daemon.restoring import carry_on, load_restore
from leitwolf.model.errors import Conflict, DiskFull, LeitwolfError, StorageError
from leitwolf.model.history import HistoryStanding
from leitwolf.peers.admission import OnJoin
from leitwolf.store import QuorumLog, StoreIdentity
from leitwolf.system.clock import raw_ns
from leitwolf.system.diary import log
from leitwolf.system.progress import Flag, Progress
from leitwolf.system.settings import Settings
from leitwolf.wire.guard import GUARD, StopEverything

__all__ = ["PASSING", "Lifecycle"]

_HAND_OVER_S = 2.0
"""The keeper kills a daemon that is to be replaced after 5 s."""
_STOP_EVERYTHING_S = 10.0
_STOP_AGAIN_S = 0.3
_REASON_CHARACTERS_MAX = 100
_POLL_S = 0.005
_SETTLING_S = 1.0
_STARTING_S = 0.1
_RETRY_S = 2.0
PASSING = frozenset({"disk-full", "storage-io", "sync-failed", "log-busy", "storage"})
"""Faults of the disk, not of the log: tried again until they are over."""
_DAMAGED = frozenset(
    {"log-corrupt", "no-log", "foreign-storage", "bootstrap-damaged", "lockout-damaged"}
)
"""Faults after which this storage is of no use: the node comes back with another one."""


class Lifecycle:
    """One node's way through its clusters; what it is now can be read at any time."""

    def __init__(self, settings: Settings, progress: Progress, on_join: OnJoin) -> None:
        """Prepare; :meth:`run` does the work. ``on_join`` decides about nodes that want to join."""
        self._settings = settings
        self._progress = progress
        self._on_join = on_join
        self.cluster: Cluster | None = None
        """The cluster that this node takes part in."""
        self.bootstrap: Bootstrap | None = None
        """Of the state on disk."""
        self.fault: StorageError | None = None
        """Why no part is taken in the cluster whose state is here."""
        gone = load_departure(settings.state)
        self.leaving = gone.reason if gone is not None and not gone.folder else ""
        """Why the state is to be set aside, '': it is not."""
        self.giving_way = ""
        """Why the log is to be set aside for another history, '': it is not."""
        self.stuck = ""
        """Why that is not done yet."""
        self.changed = asyncio.Event()
        """Something is to be looked at anew."""
        self._ending: asyncio.Future[None] | None = None
        """Everything here is being stopped; the cluster is left after that."""
        self._giving: giving_way.GivingWay | None = None
        """What is to be done, while it could not be written down."""
        self._lockout: Lockout | None = None
        """Also where its file could not be written."""

    async def run(self) -> None:
        """Run the cluster whenever there is one, until cancelled."""
        while True:
            if (self.leaving and not await self._left()) or not await self._gave_way():
                await self._wait(_RETRY_S)
                continue
            self.changed.clear()
            try:
                self.bootstrap = load_bootstrap(self._settings.state)
                pending = load_restore(self._settings.state)
                if pending is not None:
                    if self.bootstrap is None:
                        await self._forget_cluster()
                    self.leaving = await carry_on(self._settings, pending, self.bootstrap)
                    continue
                if self.bootstrap is None:
                    self.fault = None
                    await self._forget_cluster()
                    await self._wait()
                    continue
                store = self._open(self.bootstrap)
            except StorageError as error:
                await self._wait_faulty(error)
                continue
            await self._run_cluster(self.bootstrap, store)

    async def _forget_cluster(self) -> None:
        """Have guard and host forget a cluster whose state is gone."""
        if has_memories(self._settings):
            log.critical("the state of this node is gone: everything here is being stopped")
            await asyncio.to_thread(begin_anew, self._settings, self._progress)

    async def _wait_faulty(self, error: StorageError) -> None:
        """Stay up without taking part, so that people learn why and what to do."""
        name = self.bootstrap.name if self.bootstrap is not None else platform.node()
        if error.code in _DAMAGED or error.code.startswith("identity-"):
            error.hint = way_back(name)
        if self.fault is None or self.fault.text != error.text:
            log.critical("no part taken", error=error.text, code=error.code, hint=error.hint)
        self.fault = error
        await self._wait(_RETRY_S if error.code in PASSING else None)
        if self.changed.is_set():
            self.fault = None

    def _open(self, bootstrap: Bootstrap) -> QuorumLog:
        locked = self._lockout
        if locked is None or locked.storage != bootstrap.storage:
            locked = load_lockout(self._settings.state, bootstrap.storage)
        if locked is not None:
            raise locked.error(bootstrap.name)
        identity = StoreIdentity(
            cluster=bootstrap.cluster, node=bootstrap.node, storage=bootstrap.storage
        )
        store = QuorumLog.open(self._settings.quorum_log, identity)
        if store.short_of_space:
            store.close()
            raise DiskFull(
                f"no space for the quorum log in {self._settings.state}",
                hint="free space there; this node takes part again by itself",
            )
        for note in store.notes:
            log.warning("quorum log repaired", note=note)
        return store

    async def _wait(self, at_most_s: float | None = None) -> None:
        """Wait until something is to be done."""
        deadline = time.monotonic() + (at_most_s if at_most_s is not None else float("inf"))
        while not self.changed.is_set() and time.monotonic() < deadline:
            self._progress.advance(raw_ns())
            try:
                async with asyncio.timeout(0.1):
                    await self.changed.wait()
            except TimeoutError:
                continue

    async def settled(self) -> None:
        """Wait until there is a leader and groups had time to start, or there is no cluster here.

        Not for long: without a quorum there is none, and people want to be told so.
        """
        deadline = time.monotonic() + _SETTLING_S
        while self.cluster is not None and time.monotonic() < deadline:
            if self.cluster.node.leader:
                await asyncio.sleep(_STARTING_S)
                return
            await asyncio.sleep(_POLL_S)

    async def _run_cluster(self, bootstrap: Bootstrap, store: QuorumLog) -> None:
        try:
            with written_down("that this node takes part", self._settings.state):
                # A storage that votes is never asked for again, as one that is still empty.
                forming.forget_joining(self._settings.state)
                forget_departure(self._settings.state)
            self.cluster = Cluster(
                settings=self._settings,
                bootstrap=bootstrap,
                store=store,
                progress=self._progress,
                on_join=self._on_join,
                on_evicted=self.evicted,
                on_locked_out=self._locked_out,
                on_superseded=self.superseded,
            )
        except LeitwolfError as error:
            store.close()
            await self._wait_faulty(StorageError(error.text, code=error.code, hint=error.hint))
            return
        self.fault = None
        running = asyncio.ensure_future(self.cluster.run())
        changed = asyncio.ensure_future(self.changed.wait())
        try:
            await asyncio.wait({running, changed}, return_when=asyncio.FIRST_COMPLETED)
            if self._ending is not None:
                await asyncio.wait({running, self._ending}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            changed.cancel()
            running.cancel()
            await asyncio.gather(running, changed, return_exceptions=True)
            if self._ending is not None:
                self._ending.cancel()
            self.cluster = self._ending = None

    def evicted(self, reason: str) -> None:
        """The cluster goes on without this node: stop everything, set the state aside."""
        if self.cluster is None or self._ending is not None:
            return
        try:
            self.leave(reason)
        except StorageError as error:  # whoever says that it is out says so again after a crash
            self.cluster.record(error.text)
            self._leave(reason)

    def leave(self, reason: str) -> None:
        """Stop everything and set the state aside, from now on also after a crash.

        Raises:
            Conflict: ``ending-already``, for another reason.
            StorageError: ``storage-io``: it cannot be written down; nothing was begun.
        """
        if self.leaving:
            return
        self.refuse_second_end()
        gone = Departure(cluster=self._cluster_name(), reason=reason, at_wall=time.time_ns())
        with written_down("the end of this node", self._settings.state):
            save_departure(self._settings.state, gone)
        self._leave(reason)

    def refuse_second_end(self) -> None:
        """Refuse to begin anything while this node ends what it did.

        Raises:
            Conflict: ``ending-already``.
        """
        if self._ending is not None or self.leaving or self.giving_way:
            raise Conflict(
                "this node is ending what it does already",
                code="ending-already",
                hint="leitwolf status; then ask again",
            )

    def _cluster_name(self) -> str:
        """Return the name of the cluster that is left, for people."""
        if self.bootstrap is not None:
            return self.bootstrap.cluster_name
        gone = load_departure(self._settings.state)
        return gone.cluster if gone is not None else ""

    def _leave(self, reason: str) -> None:
        self.leaving = reason
        if self.cluster is None:
            self.changed.set()
        else:
            self._end(f"out of the cluster: {reason}")

    def _locked_out(self, code: str, text: str) -> None:
        """Never vote again with this storage; what it holds stays for people to look at."""
        cluster = self.cluster
        if cluster is None or self._ending is not None:
            return
        self._lockout = Lockout(
            storage=cluster.bootstrap.storage,
            code=code,
            text=text,
            at_wall=time.time_ns(),
            addresses=cluster.addresses_of_others(),
        )
        try:
            save_lockout(self._settings.state, self._lockout)
        except OSError as error:  # kept until this daemon ends; the peers tell the next one again
            cluster.record(f"the lock-out cannot be written down: {error}")
        self._end(f"locked out: {text}")

    def superseded(self, history: HistoryStanding, reason: str) -> None:
        """Others forced a quorum: stop everything, go on in their history with an empty log."""
        cluster = self.cluster
        if cluster is None or self._ending is not None:
            return
        try:
            self.give_way(history, reason)
        except StorageError as error:  # everything stops all the same; written before it is done
            cluster.record(error.text)
            self._giving = giving_way.plan(cluster.bootstrap, cluster.node, history, reason)
            self._end(f"gives way: {reason}")

    def give_way(self, history: HistoryStanding, reason: str) -> None:
        """Stop everything and give way to a history, from now on also after a crash.

        Raises:
            Conflict: ``ending-already``, or this node is in no cluster.
            StorageError: ``storage-io``: it cannot be written down; nothing was begun.
        """
        cluster = self.formed()
        self.refuse_second_end()
        giving = giving_way.plan(cluster.bootstrap, cluster.node, history, reason)
        with written_down("the end of this node", self._settings.state):
            giving_way.intend(self._settings.state, giving)
        self._end(f"gives way: {reason}")

    async def _gave_way(self) -> bool:
        """Finish giving way, if that was begun; return whether nothing of it is left to do."""
        state = self._settings.state
        try:
            if self._giving is not None:
                self.giving_way = self._giving.reason
                giving_way.intend(state, self._giving)
                self._giving = None
            giving = giving_way.pending(state)
            if giving is not None:
                self.giving_way = giving.reason
                self.changed.clear()
                await asyncio.to_thread(begin_anew, self._settings, self._progress)
                folder = self._settings.quorum_log
                await asyncio.to_thread(giving_way.finish, state, folder, giving)
                log.warning("gave way", reason=giving.reason, entries=giving.entries)
        except (LeitwolfError, OSError) as error:
            log.critical("has not given way yet", error=str(error))
            self.giving_way = self.giving_way or "it was begun"
            self.stuck = _not_yet(error)
            return False
        self.giving_way = self.stuck = ""
        return True

    def _end(self, line: str) -> None:
        """Stop everything here, then take no part any more."""
        if self.cluster is not None:
            self.cluster.record(line)
            self._ending = asyncio.ensure_future(self._stop_everything(self.cluster, line))

    async def _stop_everything(self, cluster: Cluster, line: str) -> None:
        """Have the guard stop all; it kills what does not end, so this takes a moment at most."""
        deadline = time.monotonic() + _STOP_EVERYTHING_S
        try:
            while time.monotonic() < deadline:
                cluster.guard.send(GUARD.encode(StopEverything(line[:_REASON_CHARACTERS_MAX])))
                await asyncio.sleep(_STOP_AGAIN_S)
                page = cluster.page()
                if page is None or not page.lease:
                    break
        finally:
            self.changed.set()

    async def _left(self) -> bool:
        """Stop everything here and set the state aside; return whether that is done."""
        self.changed.clear()
        try:
            await asyncio.to_thread(begin_anew, self._settings, self._progress)
            set_aside(self._settings, self._cluster_name(), self.leaving)
        except (LeitwolfError, OSError) as error:
            # The node stays out meanwhile: there is no cluster here to take part in.
            log.critical("not out of the cluster yet", error=str(error))
            self.stuck = _not_yet(error)
            return False
        self.leaving = self.stuck = ""
        self.fault = None
        return True

    async def drain(self) -> None:
        """Move groups away, stop the rest in order; bounded by their stop timeouts."""
        cluster = self.cluster
        if cluster is None:
            return
        cluster.house.stopping = True
        self._progress.mark(Flag.DRAINS)
        try:
            await drain(cluster)
        finally:
            self._progress.mark(Flag(0))

    async def hand_over(self) -> None:
        """Give up leadership before this daemon is replaced; the groups stay."""
        cluster = self.cluster
        if cluster is not None:
            await hand_over(cluster, _HAND_OVER_S)

    def formed(self) -> Cluster:
        """Return the cluster that this node takes part in.

        Raises:
            StorageError: its state cannot be used.
            Conflict: there is none.
        """
        if self.fault is not None:
            raise self.fault
        if self.cluster is None:
            raise Conflict(
                "this node is in no cluster",
                code="not-in-a-cluster",
                hint="leitwolf init, or leitwolf join TOKEN",
            )
        return self.cluster


def _not_yet(error: LeitwolfError | OSError) -> str:
    hint = error.hint if isinstance(error, LeitwolfError) else ""
    return f" (not done yet: {error}{'; ' + hint if hint else ''})"
