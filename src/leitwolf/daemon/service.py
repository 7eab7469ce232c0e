"""The service facade: what the API asks of this daemon, in a cluster or in none yet."""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import AsyncIterator, Callable

import msgspec

from leitwolf.daemon import forming, giving_way, views
from leitwolf.daemon.admission import admit, new_token
from leitwolf.daemon.aside import unformed_advice
from leitwolf.daemon.bootstrap import Bootstrap, load_bootstrap
from leitwolf.daemon.cluster import Cluster
from leitwolf.daemon.joined import shortcomings
from leitwolf.daemon.kept import written_down
from leitwolf.daemon.keys import rekey_command
from leitwolf.daemon.lifecycle import PASSING, Lifecycle
from leitwolf.daemon.link_views import told_of
from leitwolf.daemon.network_views import network_views
from leitwolf.daemon.networks import Machine, OwnSide, own_addresses
from leitwolf.daemon.rejoining import invitation
from leitwolf.daemon.restoring import (
    REPLACED,
    advice_of,
    begin_restore,
    save_backup,
    save_restore,
)
from leitwolf.model.commands import Answer, Command
from leitwolf.model.errors import (
    Conflict,
    InvalidConfig,
    RequestTimeout,
    UnavailableError,
)
from leitwolf.model.networks import choose_networks
from leitwolf.model.views import (
    ClusterSetup,
    ExplanationView,
    InitRequest,
    JoinRequestView,
    LogLine,
    MachineView,
    NetworkView,
    ProofView,
    QuorumView,
    StatusView,
    StoppedView,
    StrangerView,
)
from leitwolf.peers import DEFAULT_PORT
from leitwolf.peers.frames import JoinGrant, JoinRequest, Rejection
from leitwolf.system.clock import now, raw_ns
from leitwolf.system.interfaces import interface_addresses, lasting
from leitwolf.system.progress import Flag, Progress, Role, Slot
from leitwolf.system.settings import Settings
from leitwolf.wire.permit import leads

__all__ = ["DaemonService"]

_POLL_S = 0.005
_NOT_READY_S = 2.0
"""A leader that was just elected is in charge when its first entry is on a quorum of disks."""
_GUARD_S = 10.0
"""The guard starts together with this daemon, and is quicker."""
_ASIDE_S = 60.0
"""Everything is stopped and set aside meanwhile."""


def _not_ready(answer: Answer) -> bool:
    return answer.refusal is not None and answer.refusal.code == "not-ready"


class DaemonService:
    """One daemon, formed or not."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        """Prepare; ``life.run`` does the work."""
        self._settings = settings
        self._progress = progress
        self._forming = asyncio.Lock()
        self._joins: set[asyncio.Future[ClusterSetup]] = set()
        """The event loop itself would forget them."""
        self._machine = Machine()
        self.life = Lifecycle(settings, progress, self._admit)

    # --- reading ---------------------------------------------------------------------------------

    def status(self) -> StatusView:
        """Return the cluster as this node sees it."""
        cluster = self.life.cluster
        if cluster is None:
            known = self.life.bootstrap
            ending = "giving-way" if self.life.giving_way else ""
            ending = "leaving" if self.life.leaving else ending
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
                fault=self.life.fault.code if self.life.fault is not None else ending,
                advice=self._fault_advice() or self._advice(),
                machine=self._got(),
            )
        stopped = tuple(
            StoppedView(at_wall=line.at_wall_ns, text=line.text)
            for line in cluster.recorder.read()[-10:]
        )
        page, instant = cluster.page(), now()
        view = views.status_view(
            cluster.node,
            links=cluster.links,
            streams=cluster.peers.links(),
            sides=self._sides(cluster),
            fresh=cluster.node.in_charge and leads(page, instant),
            leased=views.has_lease(page, instant.raw),
            proof=self._proof(),
            stopped=stopped,
        )
        strangers = tuple(
            StrangerView(address=one.address, count=one.count) for one in cluster.heard.strangers
        )
        stopped = () if view.quorum else stopped
        kept = giving_way.notice(self._settings.state)
        told = (*cluster.histories.notices(), *((kept,) if kept is not None else ()))
        return msgspec.structs.replace(
            view,
            machine=self._got(),
            stopped=stopped,
            strangers=strangers,
            findings=(*told, *view.findings),
        )

    def _sides(self, cluster: Cluster) -> dict[str, OwnSide]:
        networks = cluster.node.state.networks.values()
        return self._machine.sides((item.name, item.subnets) for item in networks)

    def networks(self) -> tuple[NetworkView, ...]:
        """Return the networks with all links of all pairs of nodes."""
        cluster = self.life.formed()
        node = cluster.node
        return network_views(
            node.state,
            node.me,
            cluster.links,
            self._sides(cluster),
            told_of(node.paths, node.me),
            every_pair=True,
        )

    def _proof(self) -> ProofView:
        flags = self._progress.slot(Role.GUARD).flags
        return ProofView(
            address=bool(flags & Flag.GATE), process=bool(flags & Flag.WATCHDOG), data=False
        )

    def _got(self) -> MachineView | None:
        guard, host = self._progress.slot(Role.GUARD), self._progress.slot(Role.HOST)
        if not (guard.counter and host.counter):
            return None
        return MachineView(
            user=os.geteuid(),
            realtime=bool(guard.flags & Flag.REALTIME),
            realtime_wanted=self._settings.realtime == "auto",
            cgroups=bool(host.flags & Flag.CGROUPS),
            watchdog=self._settings.watchdog,
            watched=bool(guard.flags & Flag.WATCHDOG),
        )

    def _advice(self) -> str:
        why = self.life.leaving or self.life.giving_way
        if why:
            return f"everything here is being stopped: {why}{self.life.stuck}"
        return unformed_advice(self._settings)

    def _fault_advice(self) -> str:
        fault = self.life.fault
        return f"{fault.text} [{fault.code}]\n  -> {fault.hint}" if fault is not None else ""

    def quorum(self) -> QuorumView:
        """Return who promised what."""
        cluster = self.life.formed()
        guard = self._progress.slot(Role.GUARD)
        view = views.quorum_view(
            cluster.node,
            cluster.page(),
            raw_ns(),
            worst_stall=guard.peak,
            realtime=bool(guard.flags & Flag.REALTIME),
            roster=cluster.heard.roster,
        )
        dropped = cluster.heard.dropped(cluster.peers.counters)
        return msgspec.structs.replace(view, dropped=dropped)

    def why(self, group: str) -> ExplanationView:
        """Explain where a group is and why."""
        cluster = self.life.formed()
        return views.explanation(cluster.node.state, cluster.timeline.lookup, group)

    def log(self, after: int, limit: int) -> list[LogLine]:
        """Return lines of the timeline."""
        cluster = self.life.formed()
        state = cluster.node.state
        return [
            views.log_line(state, index, change)
            for index, change in cluster.timeline.lines(after, limit)
        ]

    async def wait_beyond(self, index: int, timeout_s: float) -> int:
        """Wait until something above ``index`` is applied."""
        return await self.life.formed().timeline.wait_beyond(index, timeout_s)

    # --- changing --------------------------------------------------------------------------------

    async def command(
        self, command: Command, by: str, timeout_s: float, unchanged_since: int = -1
    ) -> Answer:
        """Have the leader do something, and see it applied here too."""
        cluster = self.life.formed()
        who = f"{by}@{cluster.bootstrap.name}"
        answer = await cluster.request(command, who, timeout_s, unchanged_since)
        until = asyncio.get_running_loop().time() + min(timeout_s, _NOT_READY_S)
        while _not_ready(answer) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_POLL_S)  # nothing was done, so asking again is safe
            answer = await cluster.request(command, who, timeout_s, unchanged_since)
        if answer.refusal is None:
            await cluster.timeline.wait_beyond(answer.index - 1, min(timeout_s, 1.0))
        return answer

    async def token(self, lifetime_s: int, by: str) -> str:
        """Return a new one-time join token."""
        return await new_token(self.life.formed(), lifetime_s, by, self.command)

    async def rekey(self, by: str) -> Answer:
        """Replace the heartbeat key of all guards."""
        return await self.command(rekey_command(self.life.formed().keys), by, 30)

    async def give_up(self, by: str) -> None:
        """Give up the history of this node for the one that it hears."""
        cluster = self.life.formed()
        other = cluster.histories.alternative()
        if other is None:
            raise Conflict(
                "no other history is heard here for which this one could be given up",
                code="nothing-to-give-up",
                hint="leitwolf status says what is heard; a forced quorum that is not reached: "
                "leitwolf force again, naming all nodes that are to go on",
            )
        self.life.give_way(other, f"given up by {by}@{cluster.bootstrap.name}")

    async def prevent(self, by: str, *, on: bool) -> None:
        """Let this node join only, or not, from now on."""
        cluster = self.life.formed()
        if on and cluster.node.leader and views.has_lease(cluster.page(), raw_ns()):
            raise Conflict(
                "this node hears a leader: it has joined",
                code="quorum-exists",
                hint="it takes effect on a node without a quorum",
            )
        with written_down("that this node is to join only", self._settings.state):
            giving_way.prevent(self._settings.state, on=on)
        cluster.record(f"{by} {'prevents' if on else 'allows'} that this node makes a leader")
        self.life.changed.set()

    async def destroy(self) -> None:
        """Set the state of this node aside."""
        reason = "destroyed by the operator"
        if self.life.fault is not None:
            reason += f": {self.life.fault.text}"
        else:
            self.life.formed()
            self._refuse_member()
        self.life.leave(reason)

    def _refuse_member(self) -> None:
        """Refuse to end a membership by which others live."""
        cluster = self.life.cluster
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
            votes = request.votes or "dynamic"
            if votes not in ("dynamic", "strict"):
                text = f"votes = {votes!r}, allowed is 'dynamic' or 'strict'"
                raise InvalidConfig(text, field="votes")
            guard = await self._guard()
            profile, why = request.profile, ""
            if not profile:
                profile, why = forming.best_profile(guard)
            forming.verify_profile(profile, guard)
            addresses = interface_addresses()
            networks = choose_networks(lasting(addresses), request.interconnect, request.client)
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
            setup = await self._started(formed, profile, own)
            return msgspec.structs.replace(setup, profile_reason=why)

    async def _guard(self) -> Slot:
        """Return what the guard shows of this machine, once it shows anything."""
        deadline = time.monotonic() + _GUARD_S
        while not (found := self._progress.slot(Role.GUARD)).counter:
            if time.monotonic() > deadline:
                raise UnavailableError(
                    "the guard of this node does not run yet", code="no-guard", hint="ask again"
                )
            await asyncio.sleep(_POLL_S)
        return found

    async def _started(
        self, bootstrap: Bootstrap, profile: str, networks: dict[str, str]
    ) -> ClusterSetup:
        self.life.changed.set()
        deadline = time.monotonic() + 10
        while self.life.cluster is None and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        while self.life.cluster is not None and time.monotonic() < deadline:
            node = self.life.cluster.node
            # What is missing for safety is told by the votes that there are with this node.
            if node.leader and views.votes_settled(node.state, node.me):
                break
            await asyncio.sleep(0.005)
        state = self.life.cluster.node.state if self.life.cluster is not None else None
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
        return await save_backup(self.life.formed(), by, self.command)

    async def restore(self, data: bytes, node_name: str, *, replace: bool) -> ClusterSetup:
        """Make a cluster of one from a backup file."""
        async with self._forming:
            node = node_name or platform.node()
            pending = await asyncio.to_thread(begin_restore, data, node=node, wall=time.time_ns())
            profile = pending.backup().content().profile
            forming.verify_profile(profile, self._progress.slot(Role.GUARD))
            if replace:
                self._refuse_member()
            else:
                self._refuse_second(hint="leitwolf restore FILE --replace sets it aside")
            await asyncio.to_thread(save_restore, self._settings, pending)
            if self.life.cluster is not None:
                self.life.evicted(REPLACED)
            else:
                if self.life.fault is not None:
                    self.life.fault, self.life.leaving = None, REPLACED
                self.life.changed.set()
            deadline = time.monotonic() + _ASIDE_S
            while (known := self.life.bootstrap) is None or known.cluster != pending.cluster:
                await asyncio.sleep(_POLL_S)
                if self.life.fault is not None and known is None:
                    raise self.life.fault
                if time.monotonic() > deadline:
                    text = f"not restored after {_ASIDE_S:g} s; it goes on"
                    raise RequestTimeout(text, hint="leitwolf status")
            setup = await self._started(known, profile, pending.addresses)
            return msgspec.structs.replace(setup, advice=advice_of(pending))

    def _refuse_second(self, hint: str = "leitwolf leave, or leitwolf destroy") -> None:
        if self.life.fault is not None:
            raise self.life.fault
        self.life.refuse_second_end()
        if self.life.cluster is not None or load_bootstrap(self._settings.state) is not None:
            raise Conflict(
                "this node is in a cluster already", code="already-in-a-cluster", hint=hint
            )

    async def join(self, request: JoinRequestView) -> AsyncIterator[str | ClusterSetup]:
        """Join a cluster, telling progress; begun, it goes on also when nobody listens any more."""
        lines: asyncio.Queue[str | None] = asyncio.Queue()
        joining = asyncio.ensure_future(self._join(request, lines.put_nowait))
        self._joins.add(joining)
        joining.add_done_callback(self._joins.discard)
        joining.add_done_callback(lambda _: lines.put_nowait(None))
        while (line := await lines.get()) is not None:
            yield line
        yield await joining

    async def _join(self, request: JoinRequestView, tell: Callable[[str], None]) -> ClusterSetup:
        async with self._forming:
            fault = self.life.fault
            again = request.again and fault is not None and fault.code not in PASSING
            if not again:
                self._refuse_second()
            known = self.life.bootstrap.name if again and self.life.bootstrap is not None else ""
            name = request.node_name or known or platform.node()
            vacate = self._leave_faulty if again else None
            token, place = invitation(self._settings, self.life.bootstrap, request, name, vacate)
            guard = await self._guard()
            joined = await forming.join(self._settings, token, name, guard, tell, place)
            tell("waiting for the log of the cluster, and a place among those that vote")
            grant = joined.grant
            setup = await self._started(joined.bootstrap, grant.profile, grant.addresses)
            lines = self._shortcomings(joined)
            return msgspec.structs.replace(setup, advice="\n".join([*lines, setup.advice]).strip())

    def _shortcomings(self, joined: forming.Joined) -> list[str]:
        """Return what this node lacks after a join that was waited for."""
        cluster = self.life.cluster
        if cluster is None:
            return ["this node does not take part yet: leitwolf status says why"]
        heard = {node for (node, _), link in cluster.links.items() if link.up}
        node = cluster.node
        return shortcomings(node.state, node.me, joined.unanswered, heard)

    async def _leave_faulty(self) -> None:
        """Set an unusable state aside and wait until that is done."""
        await self.destroy()
        deadline = time.monotonic() + _ASIDE_S
        while self.life.leaving:
            await asyncio.sleep(_POLL_S)
            if time.monotonic() > deadline:
                text = f"what is here is not set aside yet{self.life.stuck}"
                raise RequestTimeout(text, hint="ask again: leitwolf rejoin")

    async def _admit(self, request: JoinRequest, caller: str) -> JoinGrant | Rejection:
        return await admit(self.life.formed(), request, caller, self.command)
