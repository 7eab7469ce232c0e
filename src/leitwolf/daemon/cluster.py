"""A node of a formed cluster: the pure core, and everything that it needs of the machine.

Rules:

- All events go through :meth:`Cluster.feed`, one at a time; what arrives meanwhile waits.
- The executor keeps the order of effects; the writer thread makes the log durable.
- Progress is shown in the shared page only while the loop turns and the disk keeps up (L12).

What this does not guarantee: anything in time. A late daemon loses its office, not its groups.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from operator import is_

import msgspec

from leitwolf.core.effects import (
    CallWitness,
    Durable,
    Event,
    FromGuard,
    FromHost,
    FromPeer,
    FromWitness,
    GuardLost,
    HostLost,
    PeerLost,
    PeerMessage,
    PeerUp,
    Request,
    SaveSnapshot,
    Tick,
    Write,
)
from leitwolf.core.executor import Batch, Executor
from leitwolf.core.intake import Intake
from leitwolf.core.membership import guard_configuration
from leitwolf.core.membership.roster import interconnects
from leitwolf.core.messages import Appended, Promised
from leitwolf.core.node import Node
from leitwolf.core.quorum.predicate import witnesses
from leitwolf.daemon.bootstrap import Bootstrap
from leitwolf.daemon.giving_way import is_prevented, prevent
from leitwolf.daemon.heard import Heard
from leitwolf.daemon.histories import Histories
from leitwolf.daemon.house import House
from leitwolf.daemon.keys import KeyFile, rekey_command
from leitwolf.daemon.notes import Notes
from leitwolf.daemon.outlets import Outlets
from leitwolf.daemon.packets import PacketLink
from leitwolf.daemon.pulse import Pulse
from leitwolf.daemon.rejections import Rejections
from leitwolf.daemon.shown import Shown
from leitwolf.daemon.timeline import Timeline
from leitwolf.daemon.witnesses import Witnesses, used_by
from leitwolf.daemon.writer import LogWriter
from leitwolf.model.commands import Answer, Command
from leitwolf.model.errors import ProtocolError, RequestTimeout
from leitwolf.model.events import NodeRemoved
from leitwolf.model.history import HistoryStanding
from leitwolf.model.ids import NodeId, NodeStatus
from leitwolf.model.log import Entry
from leitwolf.model.observations import HostReport, ResourceReport
from leitwolf.model.quorum import AcceptorId
from leitwolf.model.state import Node as MemberNode
from leitwolf.peers.admission import OnJoin
from leitwolf.peers.frames import Hello, Rejection
from leitwolf.peers.identity import load_contexts
from leitwolf.peers.marks import Marks
from leitwolf.peers.streams import PeerCallbacks, PeerCodec, PeerNetwork
from leitwolf.store import LocalRecorder, QuorumLog
from leitwolf.system.clock import raw_ns
from leitwolf.system.diary import log
from leitwolf.system.page import PageReader
from leitwolf.system.progress import Progress
from leitwolf.system.settings import Settings
from leitwolf.wire.guard import (
    GUARD,
    Attest,
    DaemonHello,
    DatagramReport,
    GuardCommand,
    HistoryHeard,
    LeaseClosed,
    LinkReport,
    LinkState,
    Recorded,
    RosterReport,
    StrangersReport,
)
from leitwolf.wire.lineage import describe
from leitwolf.wire.page import LeasePage

__all__ = ["Cluster"]

_LEFT, _REMOVED = "it left the cluster", "it was removed from the cluster"
_REPORTS: msgspec.msgpack.Decoder[HostReport] = msgspec.msgpack.Decoder(HostReport)
_MESSAGES: msgspec.msgpack.Decoder[PeerMessage] = msgspec.msgpack.Decoder(PeerMessage)


class Cluster:
    """One node, running."""

    _parting = _REMOVED
    """Why this node is out, should it be."""
    _busy = False
    """A step is under way."""
    _members: dict[int, MemberNode] | None = None
    """Nodes of the state that was applied last; a table is copied when it changes."""

    def __init__(
        self,
        *,
        settings: Settings,
        bootstrap: Bootstrap,
        store: QuorumLog,
        progress: Progress,
        on_join: OnJoin,
        on_evicted: Callable[[str], None],
        on_locked_out: Callable[[str, str], None],
        on_superseded: Callable[[HistoryStanding, str], None],
    ) -> None:
        """Continue from the log.

        Args:
            settings: directories.
            bootstrap: who this node is.
            store: the open quorum log.
            progress: the shared page, with the daemon's slot taken.
            on_join: admits a joiner (coroutine function).
            on_evicted: told when the cluster goes on without this node, with the reason.
            on_locked_out: told code and text when peers refuse this storage for good.
            on_superseded: told of a history to give way to, and why.
        """
        self.settings = settings
        self.bootstrap = bootstrap
        self.store = store
        self.links: dict[tuple[int, int], LinkState] = {}
        self.heard = Heard(self.record)
        self.recorder = LocalRecorder(settings.state / "recorder")
        self.progress = progress
        self.keys = KeyFile(settings.config)
        self._keys_seen: tuple[bytes, ...] = ()
        self._rekey_wanted = asyncio.Event()
        self._on_evicted = on_evicted
        self._page = PageReader(settings.runtime / "guard.page")
        self._pages: tuple[LeasePage | None, ...] = ()
        """The page as the step under way sees it, once it was asked for."""
        self.node = self._core()
        self.timeline = Timeline(store.history)
        self.timeline.restored(self.node.state.index)
        self.executor = Executor(Outlets(self))
        self.writer = LogWriter(store, self._durable)
        self._intake = Intake()
        self._events: deque[Event] = deque()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pulse = Pulse(show=self._show_progress, wake=self._tick)
        # Far from those of earlier lives: the leader may still answer one of their requests.
        self._serial = int.from_bytes(os.urandom(5)) << 20
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._submitted = 0
        self._greeted = False
        """The guard that is connected was sent the hello."""
        self._notes = Notes()
        self.house = House(self.node, self.recorder, progress, self.tell)
        self._shown = self._writing = Shown.of(self.node, store)
        self._arranged: tuple[object, ...] = ()
        self._configured: tuple[tuple[str, ...], dict[int, tuple[str, ...]]] | None = None
        self._rejections = Rejections(
            self.node,
            bootstrap,
            record=self.record,
            on_removed=self._removed,
            on_locked_out=on_locked_out,
        )
        self._connect(on_join, on_superseded)

    def _core(self) -> Node:
        bootstrap = self.bootstrap
        return Node(
            me=AcceptorId(NodeId(bootstrap.node), bootstrap.storage),
            loaded=self.store.loaded,
            page=self._page_seen,
            now=raw_ns(),
            boot=int.from_bytes(os.urandom(8)),
            lineage=bootstrap.lineage,
            join_only=is_prevented(self.settings.state),
        )

    def _connect(
        self, on_join: OnJoin, on_superseded: Callable[[HistoryStanding, str], None]
    ) -> None:
        """Make the connections to guard, host and peers; they begin to work in :meth:`run`."""
        settings, bootstrap = self.settings, self.bootstrap
        self.guard = PacketLink(
            settings.runtime / "guard.sock",
            on_up=self._guard_up,
            on_packet=self._from_guard,
            on_lost=lambda: self.feed(GuardLost()),
        )
        self.host = PacketLink(
            settings.runtime / "host.sock",
            on_up=lambda: None,
            on_packet=self._from_host,
            on_lost=lambda: self.feed(HostLost()),
        )
        self.witnesses = Witnesses(
            cluster=bootstrap.cluster,
            node=bootstrap.node,
            config=settings.config,
            on_end=self.feed,
        )
        self.marks = Marks()
        self.peers = PeerNetwork(
            node=bootstrap.node,
            cluster=bootstrap.cluster,
            port=bootstrap.port,
            contexts=load_contexts(settings.config),
            codec=PeerCodec(encode=msgspec.msgpack.encode, decode=_MESSAGES.decode),
            callbacks=PeerCallbacks(
                on_message=self._from_peer,
                on_up=self._peer_up,
                on_lost=lambda node: self.feed(PeerLost(node=node)),
                on_rejected=self._rejections.theirs,
                on_refused=self._rejections.ours,
                on_join=on_join,
                admitted=self._admitted,
                examine=self._examine,
                hello=self._hello,
            ),
        )
        self.histories = Histories(
            self.node,
            shown=lambda: self._shown.history,
            feed=self.feed,
            tell=self.tell,
            record=self.record,
            give_way=on_superseded,
            examine_again=self.peers.examine_again,
            joined=lambda: prevent(self.settings.state, on=False),
        )

    # --- running ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled, or until something that must not happen happens."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._configure_peers()
                tasks.create_task(self._until_broken())
                tasks.create_task(self.peers.run())
                tasks.create_task(self.guard.run())
                tasks.create_task(self.host.run())
                tasks.create_task(self._rekey_when_wanted())
                tasks.create_task(self.house.keep())
                self._pulse.start()
        finally:
            self._pulse.stop()
            self.writer.stop()
            self.witnesses.stop()
            self.store.close()
            self.recorder.close()

    async def _until_broken(self) -> None:
        """Raise what broke the core, wherever it was noticed."""
        await self._broken

    def _fail(self, error: BaseException) -> None:
        if not self._broken.done():
            self._broken.set_exception(error)

    def _show_progress(self, now: int) -> None:
        self.progress.advance(now, extra=self.writer.unsynced_since)

    def _tick(self) -> None:
        self.feed(Tick(wall=time.time_ns()))

    def feed(self, event: Event) -> None:
        """Let the core take an event; one that comes from within waits its turn."""
        self._events.append(event)
        self._work()

    def _work(self) -> None:
        """Let the core take all events, then the requests that are due, until nothing is left."""
        if self._busy:
            return
        self._busy = True
        try:
            while (event := self._next()) is not None:
                self._step(event)
        except ProtocolError:  # of a peer: its stream ends by it, nothing else does
            raise
        except BaseException as error:
            # Whoever fed this event might live on with the error; this node must not.
            self._fail(error)
            raise
        finally:
            self._busy = False
        self._pulse.want(self.node.deadline())

    def _next(self) -> Event | None:
        if self._events:
            return self._events.popleft()
        return self._intake.take(self.node, writing=self.executor.writing)

    def _page_seen(self) -> LeasePage | None:
        """Return the guard's page, the same one throughout a step: it costs as much as a send."""
        if not self._pages:
            self._pages = (self._page.believed(),)
        return self._pages[0]

    def _step(self, event: Event) -> None:
        self._pages = ()
        # A ProtocolError of a peer's message goes to its stream, which ends.
        effects = self.node.step(raw_ns(), event)
        for effect in effects:
            if isinstance(effect, Write | SaveSnapshot):
                self._submitted = effect.position
        self.executor.submit(effects)
        self._write_next()
        if self.node.state.index > self.timeline.applied:
            self.timeline.restored(self.node.state.index)
        self._configure_peers()
        self._follow_keys()
        self.witnesses.follow(self.node)
        if isinstance(event, FromWitness):
            quorum = self.node.quorum
            used = witnesses(quorum.config)
            for news in self._notes.faults(quorum.witness_faults, used, quorum.witnesses):
                self.record(news)
        self.histories.follow()

    def _write_next(self) -> None:
        batch = self.executor.next_batch()
        if batch is None:
            return
        if batch.position == self._submitted:
            # Nothing waits behind this batch: when it is durable, all that the core holds is.
            self._writing = Shown.of(self.node, self.store)
        self.writer.submit(batch)

    def _durable(self, batch: Batch) -> None:
        # The writer rests: position and chain are those of this batch.
        lineage = self._shown.history.lineage
        self._shown = msgspec.structs.replace(
            self._writing, position=self.store.position, chain=self.store.chain
        )
        if self._shown.history.lineage != lineage:
            self.record(f"this node is in another history: {describe(self._shown.history.lineage)}")
            self.peers.renew()
        self.executor.synced(batch.position)
        self._write_next()
        self.feed(Durable(position=batch.position))

    # --- guard and host --------------------------------------------------------------------------

    def _guard_up(self) -> None:
        self._greeted = False

    def ask_guard(self, command: GuardCommand) -> None:
        """Tell the guard something; dropped before the hello, by which it knows its daemon."""
        self._greeted = self._greeted or isinstance(command, DaemonHello)
        if self._greeted:
            self.guard.send(GUARD.encode(command))

    def call_witness(self, call: CallWitness) -> None:
        """Call a shared disk or a witness; one that is not used any more is not called."""
        used = used_by(self.node)
        self.witnesses.keep(used)
        for acceptor in used:
            if acceptor.id == call.acceptor:
                self.witnesses.call(acceptor, call)

    def _from_guard(self, packet: bytes) -> None:
        report = GUARD.decode(packet)
        match report:
            case LinkReport():
                self._links(report)
                self.feed(FromGuard(report=report))
            case HistoryHeard():
                self.histories.heard(report)
            case RosterReport() | StrangersReport() | DatagramReport():
                self.heard.take(report)
            case Recorded():
                self.record(f"guard: {report.code}: {report.detail}")
            case LeaseClosed():
                for line in self._notes.ending(report, self.node.state, self.node.me):
                    self.record(line)
                self.feed(FromGuard(report=report))
            case Attest():
                if done := self._notes.ended(report.lease):
                    self.record(done)
                self.feed(FromGuard(report=report))
            case _:
                self.feed(FromGuard(report=report))

    def _from_host(self, packet: bytes) -> None:
        report = _REPORTS.decode(packet)
        if isinstance(report, ResourceReport) and (news := self._notes.news(report)):
            self.record(news)
        self.feed(FromHost(report=report))

    def _links(self, report: LinkReport) -> None:
        for link in report.links:
            former = self.links.get((link.node, link.link))
            self.links[link.node, link.link] = link
            if former is None or former.up != link.up:
                (self.peers.link_up if link.up else self.peers.link_down)(link.node, link.link)

    def record(self, text: str) -> None:
        """Write a line that survives also where no entry can be written."""
        self.recorder.append(time.time_ns(), text)
        self.house.untold = True
        log.info(text)

    def page(self) -> LeasePage | None:
        """Return the guard's page as it is now, without leases of before a sleep (L1)."""
        return self._page.believed()

    # --- heartbeat keys --------------------------------------------------------------------------

    def _follow_keys(self) -> None:
        """Let the guard read its keys anew when the log changed them."""
        state = self.node.state
        if state.keys is self._keys_seen:
            return
        self._keys_seen = state.keys
        if self.keys.follow(state):
            configuration = guard_configuration(
                state, self.node.quorum.config, self.node.me, history=self.node.history
            )
            if configuration is not None:
                self.ask_guard(configuration)

    async def _rekey_when_wanted(self) -> None:
        """Replace the key that a removed node still has."""
        while True:
            await self._rekey_wanted.wait()
            self._rekey_wanted.clear()
            await self.tell(rekey_command(self.keys), 30, by="policy")

    # --- peers -----------------------------------------------------------------------------------

    def _from_peer(self, node: int, message: PeerMessage) -> None:
        match message:
            case Promised():
                self.marks.note(message.storage, message.ballot, message.key)
            case Appended():
                held = min(message.match, self.node.quorum.commit)
                self.marks.note(message.storage, message.ballot, held=held)
            case _:
                pass
        self.feed(FromPeer(node=node, message=message))

    def _configure_peers(self) -> None:
        state, me = self.node.foreseen, self.node.me
        committed = self.node.state
        arranged = (committed.nodes, state.nodes, state.networks)
        if self._configured is not None and all(map(is_, arranged, self._arranged)):
            return
        self._arranged = arranged
        if committed.node_serial >= me and me not in committed.nodes:
            self._on_evicted(self._parting)
            return
        own = committed.nodes.get(me)
        if own is not None and own.status is NodeStatus.LEAVING and not own.evicted:
            self._parting = _LEFT
        self.marks.forget({node.storage for node in self.node.acquainted.values()})
        own = self.node.acquainted.get(me)
        if own is None:
            addresses = self.bootstrap.addresses
            peers = {peer.node: peer.addresses for peer in self.bootstrap.peers}
        else:
            names = interconnects(state)
            addresses = tuple(own.addresses.get(name, "") for name in names)
            peers = {
                node.id: tuple(node.addresses.get(name, "") for name in names)
                for node in self.node.acquainted.values()
                if node.id != me
            }
        if (addresses, peers) != self._configured:
            self._configured = (addresses, peers)
            self.peers.configure(addresses, peers)

    def _admitted(self, fingerprint: str) -> int | None:
        for node in self.node.acquainted.values():
            if node.fingerprint == fingerprint:
                return node.id
        if not self.node.state.nodes:
            for peer in self.bootstrap.peers:
                if peer.fingerprint == fingerprint:
                    return peer.node
        return None

    def _hello(self) -> Hello:
        """Show what is durable; what is only being written might be forgotten in a crash."""
        shown = self._shown
        return Hello(
            cluster=self.bootstrap.cluster,
            node=self.bootstrap.node,
            storage=self.bootstrap.storage,
            promised=shown.promised,
            last=shown.last,
            position=shown.position,
            chain=shown.chain,
            history=shown.history,
            replaces=self.bootstrap.replaces,
        )

    def _examine(self, hello: Hello) -> Rejection | None:
        return self.histories.examine(hello) or self.marks.examine(hello)

    def _removed(self) -> None:
        self._on_evicted(f"its peers do not know it any more: {self._parting}")

    def _peer_up(self, node: int) -> None:
        self._rejections.connected(node)
        self.feed(PeerUp(node=node, history=self.peers.history(node)))

    # --- requests --------------------------------------------------------------------------------

    async def request(
        self, command: Command, by: str, timeout_s: float, unchanged_since: int = -1
    ) -> Answer:
        """Have the leader do something.

        Raises:
            RequestTimeout: no answer in time; it may still be done.
        """
        self._serial += 1
        number = self._serial
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[number] = answered
        request = Request(
            id=number,
            command=command,
            by=by,
            wall=time.time_ns(),
            unchanged_since=unchanged_since,
        )
        self._intake.put(request)
        self._work()
        try:
            async with asyncio.timeout(timeout_s):
                return await answered
        except TimeoutError as error:
            raise RequestTimeout(
                f"no answer within {timeout_s:g} s; the request may still be done",
                hint="look at the state before asking again: leitwolf status",
            ) from error
        finally:
            self._answers.pop(number, None)

    def replied(self, request: int, answer: Answer) -> None:
        """Hand an answer to who waits for it."""
        waiting = self._answers.get(request)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def applied(self, entries: tuple[Entry, ...]) -> None:
        """Entries were committed."""
        self.timeline.add(entries)
        former, self._members = self._members, self.node.state.nodes
        if former is self._members:
            return
        for entry in entries:
            change = self.timeline.lookup(entry.index)
            removed = change is not None and any(
                isinstance(event, NodeRemoved) for event in change.events
            )
            if removed and self.node.in_charge:
                self._rekey_wanted.set()

    def addresses_of_others(self) -> tuple[str, ...]:
        """Return where the other nodes are, on the interconnects."""
        peers = self._configured[1] if self._configured is not None else {}
        return tuple(address for links in peers.values() for address in links if address)

    async def tell(self, command: Command, timeout_s: float = 10, *, by: str = "daemon") -> bool:
        """Have the leader do something for this node itself; return whether it was done."""
        try:
            answer = await self.request(command, f"{by}@{self.bootstrap.name}", timeout_s)
        except RequestTimeout as error:
            log.warning("not answered", command=type(command).__name__, error=error.text)
            return False
        if answer.refusal is not None:
            log.warning("refused", command=type(command).__name__, text=answer.refusal.text)
        return answer.refusal is None
