"""The service facade: what the API asks of this daemon, in a cluster or in none yet."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import AsyncIterator

import msgspec

from leitwolf.core.lease.profile import PROFILES
from leitwolf.daemon import forming, giving_way, views
from leitwolf.daemon.admission import admit, new_token
from leitwolf.daemon.aside import set_aside, unformed_advice
from leitwolf.daemon.bootstrap import Bootstrap, load_bootstrap
from leitwolf.daemon.cluster import Cluster, state_folder
from leitwolf.daemon.departure import (
    Lockout,
    forget_departure,
    load_lockout,
    save_lockout,
    way_back,
)
from leitwolf.daemon.fresh import begin_anew, has_memories
from leitwolf.daemon.keys import rekey_command
from leitwolf.daemon.networks import choose_networks, own_addresses
from leitwolf.daemon.rejoining import invitation
from leitwolf.daemon.restoring import (
    REPLACED,
    advice_of,
    begin_restore,
    carry_on,
    load_restore,
    save_backup,
    save_restore,
)
from leitwolf.model.commands import Answer, Command
from leitwolf.model.errors import (
    Conflict,
    DiskFull,
    InvalidConfig,
    LeitwolfError,
    RequestTimeout,
    StorageError,
)
from leitwolf.model.history import HistoryStanding
from leitwolf.model.views import (
    ClusterSetup,
    ExplanationView,
    InitRequest,
    JoinRequestView,
    LogLine,
    ProofView,
    QuorumView,
    StatusView,
    StoppedView,
    StrangerView,
)
from leitwolf.peers import DEFAULT_PORT
from leitwolf.peers.frames import JoinGrant, JoinRequest, Rejection
from leitwolf.store import QuorumLog, StoreIdentity
from leitwolf.system.clock import now, raw_ns
from leitwolf.system.diary import log
from leitwolf.system.interfaces import interface_addresses
from leitwolf.system.progress import Flag, Progress, Role
from leitwolf.system.settings import Settings
from leitwolf.wire.guard import GUARD, StopEverything
from leitwolf.wire.permit import leads

__all__ = ["DaemonService"]

_STOP_S = 30.0
_HAND_OVER_S = 2.0
"""The keeper kills a daemon that is to be replaced after 5 s."""
_STOP_EVERYTHING_S = 10.0
_STOP_AGAIN_S = 0.3
_REASON_CHARACTERS_MAX = 100
_POLL_S = 0.005
_NOT_READY_S = 2.0
"""A leader that was just elected is in charge when its first entry is on a quorum of disks."""
_SETTLING_S = 1.0
_STARTING_S = 0.1
_RETRY_S = 2.0
_PASSING = frozenset({"disk-full", "storage-io", "sync-failed", "log-busy", "storage"})
"""Faults of the disk, not of the log: tried again until they are over."""
_DAMAGED = frozenset({"log-corrupt", "no-log", "foreign-storage", "bootstrap-damaged"})
"""Faults after which this storage is of no use: the node comes back with another one."""
_RESTORE_S = 60.0
"""Everything is stopped and set aside meanwhile."""


def _not_ready(answer: Answer) -> bool:
    return answer.refusal is not None and answer.refusal.code == "not-ready"


class DaemonService:
    """One daemon, formed or not."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        """Prepare; :meth:`run` does the work."""
        self._settings = settings
        self._progress = progress
        self._cluster: Cluster | None = None
        self._changed = asyncio.Event()
        self._forming = asyncio.Lock()
        self._bootstrap: Bootstrap | None = None
        self._stuck = ""
        self._leaving = ""
        """Why the state is to be set aside, '': it is not."""
        self._ending: asyncio.Future[None] | None = None
        self._fault: StorageError | None = None

    # --- running ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the cluster whenever there is one, until cancelled."""
        while True:
            if (self._leaving and not await self._left()) or not await self._gave_way():
                await self._wait(_RETRY_S)
                continue
            self._changed.clear()
            try:
                self._bootstrap = load_bootstrap(self._settings.state)
                pending = load_restore(self._settings.state)
                if pending is not None:
                    if self._bootstrap is None:
                        await self._forget_cluster()
                    self._leaving = await carry_on(self._settings, pending, self._bootstrap)
                    continue
                if self._bootstrap is None:
                    await self._forget_cluster()
                    await self._wait()
                    continue
                store = self._open(self._bootstrap)
            except (StorageError, msgspec.DecodeError) as error:
                await self._wait_faulty(error)
                continue
            await self._run_cluster(self._bootstrap, store)

    async def _forget_cluster(self) -> None:
        """Have guard and host forget a cluster whose state is gone."""
        if has_memories(self._settings):
            log.critical("the state of this node is gone: everything here is being stopped")
            await asyncio.to_thread(begin_anew, self._settings, self._progress)

    async def _wait_faulty(self, error: StorageError | msgspec.DecodeError) -> None:
        """Stay up without taking part, so that people learn why and what to do."""
        name = self._bootstrap.name if self._bootstrap is not None else platform.node()
        if isinstance(error, msgspec.DecodeError):
            text = f"bootstrap.json in {self._settings.state} is damaged: {error}"
            error = StorageError(text, code="bootstrap-damaged")
        if error.code in _DAMAGED or error.code.startswith("identity-"):
            error.hint = way_back(name)
        if self._fault is None or self._fault.text != error.text:
            log.critical("no part taken", error=error.text, code=error.code, hint=error.hint)
        self._fault = error
        await self._wait(_RETRY_S if error.code in _PASSING else None)
        if self._changed.is_set():
            self._fault = None

    def _open(self, bootstrap: Bootstrap) -> QuorumLog:
        locked = load_lockout(self._settings.state, bootstrap.storage)
        if locked is not None:
            raise locked.error(bootstrap.name)
        identity = StoreIdentity(
            cluster=bootstrap.cluster, node=bootstrap.node, storage=bootstrap.storage
        )
        store = QuorumLog.open(state_folder(self._settings), identity)
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
        while not self._changed.is_set() and time.monotonic() < deadline:
            self._progress.advance(raw_ns())
            try:
                async with asyncio.timeout(0.1):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def settled(self) -> None:
        """Wait until there is a leader and groups had time to start, or there is no cluster here.

        Not for long: without a quorum there is none, and people want to be told so.
        """
        deadline = time.monotonic() + _SETTLING_S
        while self._cluster is not None and time.monotonic() < deadline:
            if self._cluster.node.leader:
                await asyncio.sleep(_STARTING_S)
                return
            await asyncio.sleep(_POLL_S)

    async def _run_cluster(self, bootstrap: Bootstrap, store: QuorumLog) -> None:
        try:
            self._cluster = Cluster(
                settings=self._settings,
                bootstrap=bootstrap,
                store=store,
                progress=self._progress,
                on_join=self._admit,
                on_evicted=self._evicted,
                on_locked_out=self._locked_out,
                on_superseded=self._superseded,
            )
        except LeitwolfError as error:
            store.close()
            await self._wait_faulty(StorageError(error.text, code=error.code, hint=error.hint))
            return
        self._fault = None
        forget_departure(self._settings.state)
        running = asyncio.ensure_future(self._cluster.run())
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({running, changed}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            changed.cancel()
            running.cancel()
            await asyncio.gather(running, changed, return_exceptions=True)
            self._cluster = None

    def _evicted(self, reason: str) -> None:
        """The cluster goes on without this node: stop everything, set the state aside."""
        if self._cluster is not None and not self._ending:
            self._leaving = reason
            self._end(f"out of the cluster: {reason}")

    def _locked_out(self, code: str, text: str) -> None:
        """Never vote again with this storage; what it holds stays for people to look at."""
        cluster = self._cluster
        if cluster is None or self._ending:
            return
        storage = cluster.bootstrap.storage
        save_lockout(
            self._settings.state,
            Lockout(
                storage=storage,
                code=code,
                text=text,
                at_wall=time.time_ns(),
                addresses=cluster.addresses_of_others(),
            ),
        )
        self._end(f"locked out: {text}")

    def _superseded(self, history: HistoryStanding, reason: str) -> None:
        """Others forced a quorum: stop everything, go on in their history with an empty log."""
        cluster = self._cluster
        if cluster is not None and not self._ending:
            giving_way.intend(
                self._settings.state, cluster.bootstrap, cluster.node, history, reason
            )
            self._end(f"gives way: {reason}")

    async def _gave_way(self) -> bool:
        """Finish giving way, if that was begun; return whether nothing of it is left to do."""
        state = self._settings.state
        try:
            giving = giving_way.pending(state)
            if giving is not None:
                self._changed.clear()
                await asyncio.to_thread(begin_anew, self._settings, self._progress)
                folder = state_folder(self._settings)
                await asyncio.to_thread(giving_way.finish, state, folder, giving)
                log.warning("gave way", reason=giving.reason, entries=giving.entries)
        except (LeitwolfError, OSError) as error:
            log.critical("has not given way yet", error=str(error))
            return False
        return True

    def _end(self, line: str) -> None:
        """Stop everything here, then take no part any more."""
        if self._cluster is not None:
            self._cluster.record(line)
            self._ending = asyncio.ensure_future(self._stop_everything(self._cluster, line))

    async def _stop_everything(self, cluster: Cluster, line: str) -> None:
        """Have the guard stop all; it kills what does not end, so this takes a moment at most."""
        deadline = time.monotonic() + _STOP_EVERYTHING_S
        while time.monotonic() < deadline:
            cluster.guard.send(GUARD.encode(StopEverything(line[:_REASON_CHARACTERS_MAX])))
            await asyncio.sleep(_STOP_AGAIN_S)
            page = cluster.page()
            if page is None or not page.lease:
                break
        self._ending = None
        self._changed.set()

    async def _left(self) -> bool:
        """Stop everything here and set the state aside; return whether that is done."""
        self._changed.clear()
        try:
            await asyncio.to_thread(begin_anew, self._settings, self._progress)
            name = self._bootstrap.cluster_name if self._bootstrap is not None else ""
            set_aside(self._settings, name, self._leaving)
        except (LeitwolfError, OSError) as error:
            # The node stays out meanwhile: there is no cluster here to take part in.
            log.critical("not out of the cluster yet", error=str(error))
            self._stuck = f" (not done yet: {error})"
            return False
        self._leaving = self._stuck = ""
        self._fault = None
        return True

    async def drain(self) -> None:
        """Move the groups away for an orderly stop; bounded."""
        cluster = self._cluster
        if cluster is not None:
            cluster.house.stopping = True
            await forming.drain(cluster, _STOP_S)

    async def hand_over(self) -> None:
        """Give up leadership before this daemon is replaced; the groups stay."""
        cluster = self._cluster
        if cluster is not None:
            await forming.hand_over(cluster, _HAND_OVER_S)

    def _formed(self) -> Cluster:
        if self._fault is not None:
            raise self._fault
        if self._cluster is None:
            raise Conflict(
                "this node is in no cluster",
                code="not-in-a-cluster",
                hint="leitwolf init, or leitwolf join TOKEN",
            )
        return self._cluster

    # --- reading ---------------------------------------------------------------------------------

    def status(self) -> StatusView:
        """Return the cluster as this node sees it."""
        cluster = self._cluster
        if cluster is None:
            known, leaving = self._bootstrap, "leaving" if self._leaving else ""
            return StatusView(
                formed=False,
                cluster=known.cluster_name if known is not None else "",
                uuid=known.cluster if known is not None else "",
                node=known.name if known is not None else platform.node(),
                profile="",
                leader="",
                quorum=False,
                fresh=False,
                index=0,
                fault=self._fault.code if self._fault is not None else leaving,
                advice=self._fault_advice() or self._advice(),
            )
        stopped = tuple(
            StoppedView(at_wall=line.at_wall_ns, text=line.text)
            for line in cluster.recorder.read()[-10:]
        )
        view = views.status_view(
            cluster.node,
            links=cluster.links,
            fresh=self._fresh(cluster),
            leased=self._leased(cluster),
            proof=self._proof(),
            stopped=stopped,
        )
        strangers = tuple(
            StrangerView(address=one.address, count=one.count) for one in cluster.strangers
        )
        stopped = () if view.quorum else stopped
        kept = giving_way.set_aside(self._settings.state)
        told = (*cluster.histories.notices(), *((kept,) if kept is not None else ()))
        return msgspec.structs.replace(
            view, stopped=stopped, strangers=strangers, findings=(*told, *view.findings)
        )

    def _leased(self, cluster: Cluster) -> bool:
        """Return whether the run-lease of this node lasts: it hears a leader, and is heard."""
        page = cluster.page()
        return page is not None and page.lease != 0 and raw_ns() < page.lease_end

    def _proof(self) -> ProofView:
        flags = self._progress.slot(Role.GUARD).flags
        return ProofView(
            address=bool(flags & Flag.GATE), process=bool(flags & Flag.WATCHDOG), data=False
        )

    def _advice(self) -> str:
        if self._leaving:
            return f"everything here is being stopped: {self._leaving}{self._stuck}"
        return unformed_advice(self._settings)

    def _fault_advice(self) -> str:
        fault = self._fault
        return f"{fault.text} [{fault.code}]\n  -> {fault.hint}" if fault is not None else ""

    def _fresh(self, cluster: Cluster) -> bool:
        """Return whether the state was read at the leader, under its lease."""
        page = cluster.page()
        return cluster.node.in_charge and leads(page, now())

    def quorum(self) -> QuorumView:
        """Return who promised what."""
        cluster = self._formed()
        guard = self._progress.slot(Role.GUARD)
        return views.quorum_view(
            cluster.node,
            cluster.page(),
            raw_ns(),
            worst_stall=guard.peak,
            realtime=bool(guard.flags & Flag.REALTIME),
            roster=cluster.roster,
        )

    def why(self, group: str) -> ExplanationView:
        """Explain where a group is and why."""
        cluster = self._formed()
        return views.explanation(cluster.node.state, cluster.timeline.lookup, group)

    def log(self, after: int, limit: int) -> list[LogLine]:
        """Return lines of the timeline."""
        cluster = self._formed()
        state = cluster.node.state
        return [
            views.log_line(state, index, change)
            for index, change in cluster.timeline.lines(after, limit)
        ]

    async def wait_beyond(self, index: int, timeout_s: float) -> int:
        """Wait until something above ``index`` is applied."""
        return await self._formed().timeline.wait_beyond(index, timeout_s)

    # --- changing --------------------------------------------------------------------------------

    async def command(self, command: Command, by: str, timeout_s: float) -> Answer:
        """Have the leader do something, and see it applied here too."""
        cluster = self._formed()
        who = f"{by}@{cluster.bootstrap.name}"
        answer = await cluster.request(command, who, timeout_s)
        until = asyncio.get_running_loop().time() + min(timeout_s, _NOT_READY_S)
        while _not_ready(answer) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_POLL_S)  # nothing was done, so asking again is safe
            answer = await cluster.request(command, who, timeout_s)
        if answer.refusal is None:
            await cluster.timeline.wait_beyond(answer.index - 1, min(timeout_s, 1.0))
        return answer

    async def token(self, lifetime_s: int, by: str) -> str:
        """Return a new one-time join token."""
        return await new_token(self._formed(), lifetime_s, by, self.command)

    async def rekey(self, by: str) -> Answer:
        """Replace the heartbeat key of all guards."""
        return await self.command(rekey_command(self._formed().keys), by, 30)

    async def give_up(self, by: str) -> None:
        """Give up the history of this node for the one that it hears."""
        cluster = self._formed()
        other = cluster.histories.alternative()
        if other is None:
            raise Conflict(
                "no other history is heard here for which this one could be given up",
                code="nothing-to-give-up",
                hint="leitwolf status says what is heard",
            )
        self._superseded(other, f"given up by {by}@{cluster.bootstrap.name}")

    async def prevent(self, by: str, *, on: bool) -> None:
        """Let this node join only, or not, from now on."""
        cluster = self._formed()
        if on and cluster.node.leader and self._leased(cluster):
            raise Conflict(
                "this node hears a leader: it has joined",
                code="quorum-exists",
                hint="it takes effect on a node without a quorum",
            )
        giving_way.prevent(self._settings.state, on=on)
        cluster.record(f"{by} {'prevents' if on else 'allows'} that this node makes a leader")
        self._changed.set()

    async def destroy(self) -> None:
        """Set the state of this node aside."""
        if self._fault is not None:
            self._leaving = f"destroyed by the operator: {self._fault.text}"
            self._changed.set()
            return
        self._formed()
        self._refuse_member()
        self._evicted("destroyed by the operator")

    def _refuse_member(self) -> None:
        """Refuse to end a membership by which others live."""
        cluster = self._cluster
        if cluster is None:
            return
        me, nodes = cluster.node.me, cluster.node.state.nodes.values()
        others = [node.name for node in nodes if node.id != me]
        if others and cluster.node.leader:
            raise Conflict(
                f"this node is a member together with {', '.join(others)}",
                hint="leitwolf leave",
                code="still-a-member",
            )

    # --- forming and joining ---------------------------------------------------------------------

    async def form(self, request: InitRequest) -> ClusterSetup:
        """Form a cluster of one."""
        async with self._forming:
            self._refuse_second()
            profile = request.profile or self._best_profile()
            self._check_profile(profile)
            votes = request.votes or "dynamic"
            if votes not in ("dynamic", "strict"):
                text = f"votes = {votes!r}, allowed is 'dynamic' or 'strict'"
                raise InvalidConfig(text, field="votes")
            addresses = interface_addresses()
            networks = choose_networks(addresses, request.interconnect, request.client)
            own = own_addresses(addresses, [(item.name, item.subnets) for item in networks])
            formed = await asyncio.to_thread(
                forming.form,
                self._settings,
                name=request.name or "leitwolf",
                node_name=request.node_name or platform.node(),
                profile=profile,
                port=request.port or DEFAULT_PORT,
                networks=networks,
                addresses=own,
                dynamic=votes == "dynamic",
            )
            return await self._started(formed, profile, own)

    async def _started(
        self, bootstrap: Bootstrap, profile: str, networks: dict[str, str]
    ) -> ClusterSetup:
        self._changed.set()
        deadline = time.monotonic() + 10
        while self._cluster is None and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        while self._cluster is not None and time.monotonic() < deadline:
            if self._cluster.node.leader and self._cluster.node.state.nodes:
                break
            await asyncio.sleep(0.005)
        state = self._cluster.node.state if self._cluster is not None else None
        return ClusterSetup(
            cluster=bootstrap.cluster_name,
            uuid=bootstrap.cluster,
            node=bootstrap.name,
            node_id=bootstrap.node,
            profile=profile,
            networks=networks,
            advice=views.advice(state) if state is not None else "",
        )

    async def backup(self, by: str) -> bytes:
        """Return the state of the cluster as a backup file."""
        return await save_backup(self._formed(), by, self.command)

    async def restore(self, data: bytes, node_name: str, *, replace: bool) -> ClusterSetup:
        """Make a cluster of one from a backup file."""
        async with self._forming:
            node = node_name or platform.node()
            pending = await asyncio.to_thread(begin_restore, data, node=node, wall=time.time_ns())
            profile = pending.backup().content().profile
            self._check_profile(profile)
            if replace:
                self._refuse_member()
            else:
                self._refuse_second(hint="leitwolf restore FILE --replace sets it aside")
            await asyncio.to_thread(save_restore, self._settings, pending)
            if self._cluster is not None:
                self._evicted(REPLACED)
            else:
                if self._fault is not None:
                    self._fault, self._leaving = None, REPLACED
                self._changed.set()
            deadline = time.monotonic() + _RESTORE_S
            while (known := self._bootstrap) is None or known.cluster != pending.cluster:
                await asyncio.sleep(_POLL_S)
                if self._fault is not None and known is None:
                    raise self._fault
                if time.monotonic() > deadline:
                    text = f"not restored after {_RESTORE_S:g} s; it goes on"
                    raise RequestTimeout(text, hint="leitwolf status")
            setup = await self._started(known, profile, pending.addresses)
            return msgspec.structs.replace(setup, advice=advice_of(pending))

    def _refuse_second(self, hint: str = "leitwolf leave, or leitwolf destroy") -> None:
        if self._fault is not None:
            raise self._fault
        if self._cluster is not None or load_bootstrap(self._settings.state) is not None:
            raise Conflict(
                "this node is in a cluster already", code="already-in-a-cluster", hint=hint
            )

    def _best_profile(self) -> str:
        realtime = bool(self._progress.slot(Role.GUARD).flags & Flag.REALTIME)
        return "default" if realtime else "virtual"

    def _check_profile(self, profile: str) -> None:
        if profile not in PROFILES:
            raise InvalidConfig(
                f"profile = {profile!r}, possible are {', '.join(PROFILES)}", field="profile"
            )
        forming.verify_profile(profile, self._progress.slot(Role.GUARD))

    async def join(self, request: JoinRequestView) -> AsyncIterator[str | ClusterSetup]:
        """Join a cluster, telling progress."""
        async with self._forming:
            fault = self._fault
            again = request.again and fault is not None and fault.code not in _PASSING
            if not again:
                self._refuse_second()
            known = self._bootstrap.name if again and self._bootstrap is not None else ""
            name = request.node_name or known or platform.node()
            vacate = self._leave_faulty if again else None
            token, place = invitation(self._settings, self._bootstrap, request, name, vacate)
            lines: asyncio.Queue[str | None] = asyncio.Queue()
            joining = asyncio.ensure_future(
                forming.join(self._settings, token, name, lines.put_nowait, place)
            )
            joining.add_done_callback(lambda _: lines.put_nowait(None))
            while (line := await lines.get()) is not None:
                yield line
            bootstrap, grant = await joining
            yield "waiting for the log of the cluster"
            yield await self._started(bootstrap, grant.profile, grant.addresses)

    async def _leave_faulty(self) -> None:
        """Set an unusable state aside and wait until that is done."""
        await self.destroy()
        deadline = time.monotonic() + _STOP_EVERYTHING_S
        while self._leaving:
            await asyncio.sleep(_POLL_S)
            if time.monotonic() > deadline:
                text = f"what is here is not set aside yet{self._stuck}"
                raise RequestTimeout(text, hint="ask again: leitwolf rejoin")

    async def _admit(self, request: JoinRequest, caller: str) -> JoinGrant | Rejection:
        return await admit(self._formed(), request, caller, self.command)
