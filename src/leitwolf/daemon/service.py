"""The service facade: what the API asks of this daemon, in a cluster or in none yet."""

from __future__ import annotations

import asyncio
import platform
import shutil
import time
from collections.abc import AsyncIterator

import msgspec
import structlog

from leitwolf.core.lease.profile import PROFILES
from leitwolf.core.membership.roster import interconnects
from leitwolf.core.policy import why
from leitwolf.daemon import forming, views
from leitwolf.daemon.bootstrap import Bootstrap, load_bootstrap, set_bootstrap_aside
from leitwolf.daemon.cluster import Cluster, state_folder
from leitwolf.daemon.keys import rekey_command
from leitwolf.daemon.networks import choose_networks, own_addresses
from leitwolf.model.commands import AddNode, Answer, Command, IssueToken
from leitwolf.model.errors import (
    Conflict,
    InvalidConfig,
    LeitwolfError,
    NotFound,
    StorageError,
)
from leitwolf.model.ids import GroupId
from leitwolf.model.limits import TOKEN_LIFETIME_S_MAX
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
)
from leitwolf.peers import DEFAULT_PORT
from leitwolf.peers.frames import Code, JoinedMember, JoinGrant, JoinRequest, Rejection
from leitwolf.peers.identity import fingerprint_of_pem, load_identity
from leitwolf.peers.token import JoinToken, digest, format_token, new_secret, parse_token
from leitwolf.store import QuorumLog, StoreIdentity, quarantine
from leitwolf.system.clock import raw_ns
from leitwolf.system.interfaces import interface_addresses
from leitwolf.system.progress import Flag, Progress, Role
from leitwolf.system.settings import Settings
from leitwolf.wire.guard import GUARD, StopEverything

__all__ = ["DaemonService"]

log = structlog.get_logger()

_TOKEN_ADDRESSES_MAX = 16
_STOP_S = 30.0
_ADVICE_NOT_FORMED = "this node is in no cluster: leitwolf init, or leitwolf join TOKEN"


class DaemonService:
    """One daemon, formed or not."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        """Prepare; :meth:`run` does the work."""
        self._settings = settings
        self._progress = progress
        self._cluster: Cluster | None = None
        self._changed = asyncio.Event()
        self._forming = asyncio.Lock()
        self._token_seen: dict[str, float] = {}
        self._leaving = ""
        self._fault: StorageError | None = None

    # --- running ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the cluster whenever there is one, until cancelled."""
        while True:
            self._changed.clear()
            bootstrap = load_bootstrap(self._settings.state)
            if bootstrap is None:
                await self._wait_unformed()
                continue
            try:
                store = self._open(bootstrap)
            except StorageError as error:
                # The node must not vote; it stays up so that people learn why and what to do.
                log.critical("no quorum log", error=error.text, code=error.code, hint=error.hint)
                self._fault = error
                await self._wait_unformed()
                if self._leaving:
                    self._set_aside(self._leaving)
                    self._leaving = ""
                self._fault = None
                continue
            await self._run_cluster(bootstrap, store)

    def _open(self, bootstrap: Bootstrap) -> QuorumLog:
        identity = StoreIdentity(
            cluster=bootstrap.cluster, node=bootstrap.node, storage=bootstrap.storage
        )
        store = QuorumLog.open(state_folder(self._settings), identity)
        for note in store.notes:
            log.warning("quorum log repaired", note=note)
        return store

    async def _wait_unformed(self) -> None:
        while not self._changed.is_set():
            self._progress.advance(raw_ns())
            try:
                async with asyncio.timeout(0.1):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _run_cluster(self, bootstrap: Bootstrap, store: QuorumLog) -> None:
        self._cluster = Cluster(
            settings=self._settings,
            bootstrap=bootstrap,
            store=store,
            progress=self._progress,
            on_join=self._admit,
            on_evicted=self._evicted,
        )
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
        if self._leaving:
            self._set_aside(self._leaving)
            self._leaving = ""

    def _evicted(self, reason: str) -> None:
        """The cluster goes on without this node: stop everything, set the state aside."""
        if self._cluster is not None and not self._leaving:
            self._cluster.record(f"out of the cluster: {reason}")
            self._cluster.guard.send(GUARD.encode(StopEverything("evicted")))
            self._leaving = reason
            asyncio.get_running_loop().call_later(1.0, self._changed.set)

    def _set_aside(self, reason: str) -> None:
        folder = quarantine(state_folder(self._settings))
        set_bootstrap_aside(self._settings.state, folder)
        pki = self._settings.config / "pki"
        if pki.exists():
            shutil.move(pki, folder / "pki")
        log.warning("cluster state set aside", folder=str(folder), reason=reason)

    async def drain(self) -> None:
        """Move the groups away for an orderly stop; bounded."""
        cluster = self._cluster
        if cluster is not None:
            await forming.drain(cluster, _STOP_S)

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
            return StatusView(
                formed=False,
                cluster="",
                uuid="",
                node=platform.node(),
                profile="",
                leader="",
                quorum=False,
                fresh=False,
                index=0,
                advice=self._fault_advice() or _ADVICE_NOT_FORMED,
            )
        stopped = tuple(
            StoppedView(at_wall=line.at_wall_ns, text=line.text)
            for line in cluster.recorder.read()[-10:]
        )
        view = views.status_view(
            cluster.node,
            links=cluster.links,
            fresh=self._fresh(cluster),
            proof=self._proof(),
            stopped=stopped,
        )
        return view if not view.quorum else msgspec.structs.replace(view, stopped=())

    def _proof(self) -> ProofView:
        flags = self._progress.slot(Role.GUARD).flags
        return ProofView(
            address=bool(flags & Flag.GATE), process=bool(flags & Flag.WATCHDOG), data=False
        )

    def _fault_advice(self) -> str:
        fault = self._fault
        return f"{fault.text} [{fault.code}] {fault.hint}" if fault is not None else ""

    def _fresh(self, cluster: Cluster) -> bool:
        """Return whether the state was read at the leader, under its lease."""
        page = cluster.page()
        return cluster.node.in_charge and page is not None and raw_ns() < page.leader_end

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
        )

    def why(self, group: str) -> ExplanationView:
        """Explain where a group is and why."""
        cluster = self._formed()
        explained = why(cluster.node.state, cluster.timeline.lookup, GroupId(group))
        if explained is None:
            names = ", ".join(cluster.node.state.groups) or "none"
            raise NotFound(f"there is no group {group!r}; groups are: {names}")
        causes = []
        for reason in explained.reasons:
            change = cluster.timeline.lookup(reason.index)
            if change is not None:
                causes.append(views.log_line(cluster.node.state, reason.index, change))
        return ExplanationView(
            group=group,
            summary=explained.summary,
            lines=explained.lines[1:],
            waits_for=explained.waits_for,
            causes=tuple(causes),
        )

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
        if answer.refusal is None:
            await cluster.timeline.wait_beyond(answer.index - 1, min(timeout_s, 1.0))
        return answer

    async def token(self, lifetime_s: int, by: str) -> str:
        """Return a new one-time join token."""
        if not 0 < lifetime_s <= TOKEN_LIFETIME_S_MAX:
            raise InvalidConfig(
                f"lifetime = {lifetime_s} s, allowed is 1..{TOKEN_LIFETIME_S_MAX}",
                field="lifetime",
            )
        cluster = self._formed()
        secret = new_secret()
        command = IssueToken(digest=digest(secret), lifetime_s=lifetime_s)
        answer = await self.command(command, by, 30)
        if answer.refusal is not None:
            refusal = answer.refusal
            raise LeitwolfError(refusal.text, code=refusal.code, hint=refusal.hint)
        state = cluster.node.state
        identity = load_identity(self._settings.config)
        nodes = sorted(state.nodes.values(), key=lambda node: node.id != cluster.node.me)
        links = interconnects(state)
        addresses = [
            node.addresses[name] for node in nodes for name in links if name in node.addresses
        ]
        return format_token(
            JoinToken(
                cluster=state.uuid,
                name=state.name,
                port=state.port,
                addresses=tuple(addresses[:_TOKEN_ADDRESSES_MAX]),
                authority=fingerprint_of_pem(identity.authority_certificate),
                secret=secret,
            )
        )

    async def rekey(self, by: str) -> Answer:
        """Replace the heartbeat key of all guards."""
        return await self.command(rekey_command(self._formed().keys), by, 30)

    async def destroy(self) -> None:
        """Set the state of this node aside."""
        if self._fault is not None:
            self._leaving = "destroyed by the operator: the quorum log was unusable"
            self._changed.set()
            return
        cluster = self._formed()
        me, nodes = cluster.node.me, cluster.node.state.nodes.values()
        others = [node.name for node in nodes if node.id != me]
        if others and cluster.node.leader:
            raise Conflict(
                f"this node is a member together with {', '.join(others)}",
                hint="leitwolf leave",
                code="still-a-member",
            )
        self._evicted("destroyed by the operator")

    # --- forming and joining ---------------------------------------------------------------------

    async def form(self, request: InitRequest) -> ClusterSetup:
        """Form a cluster of one."""
        async with self._forming:
            self._refuse_second()
            profile = request.profile or self._best_profile()
            self._check_profile(profile)
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

    def _refuse_second(self) -> None:
        if self._cluster is not None or load_bootstrap(self._settings.state) is not None:
            raise Conflict(
                "this node is in a cluster already",
                code="already-in-a-cluster",
                hint="leitwolf leave, or leitwolf destroy",
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
            self._refuse_second()
            token = parse_token(request.token)
            lines: asyncio.Queue[str | None] = asyncio.Queue()
            name = request.node_name or platform.node()
            joining = asyncio.ensure_future(
                forming.join(self._settings, token, name, lines.put_nowait)
            )
            joining.add_done_callback(lambda _: lines.put_nowait(None))
            while (line := await lines.get()) is not None:
                yield line
            bootstrap, grant = await joining
            yield "waiting for the log of the cluster"
            yield await self._started(bootstrap, grant.profile, grant.addresses)

    async def _admit(self, request: JoinRequest, caller: str) -> JoinGrant | Rejection:
        """Admit a joiner: check its token, commit it, issue its certificate."""
        cluster = self._formed()
        state = cluster.node.state
        token = digest(request.secret)
        refusal = self._token_refusal(cluster, token)
        if refusal is not None:
            return refusal
        identity = load_identity(self._settings.config)
        certificate = await asyncio.to_thread(forming.issue, identity, request)
        networks = [(network.name, network.subnets) for network in state.networks.values()]
        addresses = forming.addresses_on(networks, request.addresses)
        if not any(name in addresses for name in interconnects(state)):
            return Rejection(
                code=Code.NOT_ADMITTED,
                text=f"{request.name} has no address on an interconnect of {state.name}",
                hint=", ".join(f"{name}: {' '.join(subnets)}" for name, subnets in networks),
            )
        command = AddNode(
            name=request.name,
            uuid=request.uuid,
            storage=request.storage,
            addresses=addresses,
            fingerprint=fingerprint_of_pem(certificate),
            token=token,
        )
        try:
            answer = await self.command(command, f"join from {caller}", 9)
        except LeitwolfError as error:
            return Rejection(code=Code.NO_QUORUM, text=error.text, hint=error.hint)
        if answer.refusal is not None:
            refused = answer.refusal
            code = Code.NO_QUORUM if refused.retryable else refused.code
            return Rejection(code=code, text=refused.text, hint=refused.hint)
        state = cluster.node.state
        return JoinGrant(
            node=int(answer.data["node"]),
            cluster=state.uuid,
            cluster_name=state.name,
            port=state.port,
            profile=state.profile,
            certificate=certificate,
            authority_certificate=identity.authority_certificate,
            authority_key=identity.authority_key,
            heartbeat_keys=identity.heartbeat_keys,
            links=tuple(interconnects(state)),
            addresses=addresses,
            members=tuple(
                JoinedMember(
                    node=node.id,
                    name=node.name,
                    addresses=node.addresses,
                    fingerprint=node.fingerprint,
                )
                for node in state.nodes.values()
                if node.uuid != request.uuid
            ),
        )

    def _token_refusal(self, cluster: Cluster, token: str) -> Rejection | None:
        """Check a token by the clock of this node alone: its life began when it was seen here."""
        known = cluster.node.state.tokens.get(token)
        if known is None:
            return Rejection(
                code=Code.TOKEN_USED,
                text="the token was used already, withdrawn, or was never issued here",
                hint="make a new one: leitwolf token",
            )
        change = cluster.timeline.lookup(known.issued)
        age_ns = cluster.node.cluster_time(raw_ns()) - (change.time if change else 0)
        if age_ns > known.lifetime_s * 1_000_000_000:
            return Rejection(
                code=Code.TOKEN_EXPIRED,
                text=f"the token expired: it was good for {known.lifetime_s} s",
                hint="make a new one: leitwolf token",
            )
        return None
