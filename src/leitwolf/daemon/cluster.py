"""A node of a formed cluster: the pure core, and everything that it needs of the machine.

Rules:

- All events go through :meth:`Cluster.feed`, one at a time; what arrives meanwhile waits.
- The executor keeps the order of effects; the writer thread makes the log durable.
- Progress is shown in the shared page only while the loop turns and the disk keeps up (L12).

What this does not guarantee: anything in time. A late daemon loses its office, not its groups.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from leitwolf.core.effects import (
    Durable,
    Event,
    FromGuard,
    FromHost,
    FromPeer,
    GuardLost,
    HostLost,
    PeerLost,
    PeerMessage,
    PeerUp,
    Request,
    Tick,
)
from leitwolf.core.executor import Batch, Executor
from leitwolf.core.membership.roster import interconnects
from leitwolf.core.node import Node
from leitwolf.daemon.bootstrap import Bootstrap
from leitwolf.daemon.packets import PacketLink
from leitwolf.daemon.timeline import Timeline
from leitwolf.daemon.writer import LogWriter
from leitwolf.model.commands import Answer, Command
from leitwolf.model.errors import RequestTimeout
from leitwolf.model.ids import NodeId
from leitwolf.model.log import Entry
from leitwolf.model.observations import HostOrder, HostReport
from leitwolf.model.quorum import AcceptorId
from leitwolf.peers.admission import OnJoin
from leitwolf.peers.frames import Code, Hello, Rejection
from leitwolf.peers.identity import load_contexts
from leitwolf.peers.marks import Marks
from leitwolf.peers.streams import PeerCallbacks, PeerCodec, PeerNetwork
from leitwolf.store import LocalRecorder, QuorumLog
from leitwolf.system.clock import raw_ns
from leitwolf.system.page import PageReader
from leitwolf.system.progress import Progress
from leitwolf.system.settings import Settings
from leitwolf.wire.guard import (
    GUARD,
    GuardCommand,
    LeaseClosed,
    LinkReport,
    LinkState,
    Recorded,
)
from leitwolf.wire.page import LeasePage

__all__ = ["Cluster", "state_folder"]

log = structlog.get_logger()

_PROGRESS_S = 0.02
_ORDERS = msgspec.msgpack.Encoder()
_REPORTS: msgspec.msgpack.Decoder[HostReport] = msgspec.msgpack.Decoder(HostReport)
_MESSAGES: msgspec.msgpack.Decoder[PeerMessage] = msgspec.msgpack.Decoder(PeerMessage)


class Cluster:
    """One node, running."""

    def __init__(
        self,
        *,
        settings: Settings,
        bootstrap: Bootstrap,
        store: QuorumLog,
        progress: Progress,
        on_join: OnJoin,
        on_evicted: Callable[[str], None],
    ) -> None:
        """Continue from the log.

        Args:
            settings: directories.
            bootstrap: who this node is.
            store: the open quorum log.
            progress: the shared page, with the daemon's slot taken.
            on_join: admits a joiner (coroutine function).
            on_evicted: told when the cluster goes on without this node.
        """
        self.settings = settings
        self.bootstrap = bootstrap
        self.store = store
        self.links: dict[tuple[int, int], LinkState] = {}
        self.rejections: dict[int, tuple[str, str]] = {}
        self.recorder = LocalRecorder(settings.state / "recorder")
        self.progress = progress
        self._on_evicted = on_evicted
        self._page = PageReader(settings.runtime / "guard.page")
        self.node = Node(
            me=AcceptorId(NodeId(bootstrap.node), bootstrap.storage),
            loaded=store.loaded,
            page=self._page.read,
            now=raw_ns(),
        )
        self.timeline = Timeline(store.history)
        self.timeline.restored(self.node.state.index)
        self.executor = Executor(_Outlets(self))
        self.writer = LogWriter(store, self._durable)
        self._events: deque[Event] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._serial = 0
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._was_member = False
        self.guard = PacketLink(
            settings.runtime / "guard.sock",
            on_up=lambda: None,
            on_packet=lambda packet: self._from_guard(packet),
            on_lost=lambda: self.feed(GuardLost()),
        )
        self.host = PacketLink(
            settings.runtime / "host.sock",
            on_up=lambda: None,
            on_packet=lambda packet: self.feed(FromHost(report=_REPORTS.decode(packet))),
            on_lost=lambda: self.feed(HostLost()),
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
                on_up=lambda node: self.feed(PeerUp(node=node)),
                on_lost=lambda node: self.feed(PeerLost(node=node)),
                on_rejected=self._rejected,
                on_join=on_join,
                admitted=self._admitted,
                examine=self._examine,
                hello=self._hello,
            ),
        )
        self._configured: tuple[tuple[str, ...], dict[int, tuple[str, ...]]] | None = None

    # --- running ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until cancelled, or until something that must not happen happens."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._configure_peers()
                tasks.create_task(self.peers.run())
                tasks.create_task(self.guard.run())
                tasks.create_task(self.host.run())
                tasks.create_task(self._show_progress())
                self.feed(Tick(wall=time.time_ns()))
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self.writer.stop()
            self.store.close()
            self.recorder.close()

    async def _show_progress(self) -> None:
        while True:
            self.progress.advance(raw_ns(), extra=self.writer.unsynced_since)
            await asyncio.sleep(_PROGRESS_S)

    def feed(self, event: Event) -> None:
        """Let the core take an event; one that comes from within waits its turn."""
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events:
                self._step(self._events.popleft())
        finally:
            self._busy = False
        self._schedule()

    def _step(self, event: Event) -> None:
        # A ProtocolError of a peer's message goes to its stream, which ends.
        effects = self.node.step(raw_ns(), event)
        self.executor.submit(effects)
        batch = self.executor.next_batch()
        if batch is not None:
            self.writer.submit(batch)
        self._configure_peers()

    def _durable(self, batch: Batch) -> None:
        self.executor.synced(batch.position)
        following = self.executor.next_batch()
        if following is not None:
            self.writer.submit(following)
        self.feed(Durable(position=batch.position))

    def _schedule(self) -> None:
        delay_s = max(0.0005, (self.node.deadline() - raw_ns()) / 1e9)
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(delay_s, lambda: self.feed(Tick(wall=time.time_ns())))

    # --- guard and host --------------------------------------------------------------------------

    def _from_guard(self, packet: bytes) -> None:
        report = GUARD.decode(packet)
        match report:
            case LinkReport():
                self._links(report)
            case Recorded():
                self.record(f"guard: {report.code}: {report.detail}")
            case LeaseClosed():
                self.record(f"run-lease over ({report.reason}): everything here is stopped")
                self.feed(FromGuard(report=report))
            case _:
                self.feed(FromGuard(report=report))

    def _links(self, report: LinkReport) -> None:
        for link in report.links:
            former = self.links.get((link.node, link.link))
            self.links[link.node, link.link] = link
            if former is None or former.up != link.up:
                (self.peers.link_up if link.up else self.peers.link_down)(link.node, link.link)

    def record(self, text: str) -> None:
        """Write a line that survives also where no entry can be written."""
        self.recorder.append(time.time_ns(), text)
        log.info(text)

    def page(self) -> LeasePage | None:
        """Return the guard's page as it is now."""
        return self._page.read()

    # --- peers -----------------------------------------------------------------------------------

    def _from_peer(self, node: int, message: PeerMessage) -> None:
        self.feed(FromPeer(node=node, message=message))

    def _configure_peers(self) -> None:
        state, me = self.node.foreseen, self.node.me
        own = self.node.acquainted.get(me)
        if own is None:
            addresses = self.bootstrap.addresses
            peers = {peer.node: peer.addresses for peer in self.bootstrap.peers}
            if self._was_member or state.nodes:
                self._gone()
                return
        else:
            self._was_member = True
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

    def _gone(self) -> None:
        """The log says that this node is no member: it left or was evicted."""
        if self._was_member:
            self._was_member = False
            self._on_evicted("this node is no member any more")

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
        quorum = self.node.quorum
        return Hello(
            cluster=self.bootstrap.cluster,
            node=self.bootstrap.node,
            storage=self.bootstrap.storage,
            promised=quorum.promised,
            last=quorum.last_key,
            chain=b"",
        )

    def _examine(self, hello: Hello) -> Rejection | None:
        known = self.node.state.nodes.get(hello.node)
        if known is not None and known.storage != hello.storage:
            return Rejection(
                code=Code.STORAGE_UNKNOWN,
                text=f"{known.name} came with another storage: its state was wiped or replaced",
                hint=f"evict it (leitwolf node evict {known.name}) and join it again",
            )
        return self.marks.examine(hello)

    def _rejected(self, node: int, code: str, text: str) -> None:
        if self.rejections.get(node, ("", ""))[0] != code:
            self.record(f"node {node} rejects this node: {text} [{code}]")
        self.rejections[node] = (code, text)
        voters = {acceptor.id.node for acceptor in self.node.quorum.config.acceptors}
        strangers = {
            NodeId(other)
            for other, (reason, _) in self.rejections.items()
            if reason == Code.NOT_ADMITTED and other not in self.node.connected
        }
        # One node may lag behind the log; a majority that does not know this node has removed it.
        if self._was_member and 2 * len(strangers & voters) > len(voters - {self.node.me}):
            self._was_member = False
            self._on_evicted(text)

    # --- requests --------------------------------------------------------------------------------

    async def request(self, command: Command, by: str, timeout_s: float) -> Answer:
        """Have the leader do something.

        Raises:
            RequestTimeout: no answer in time; it may still be done.
        """
        self._serial += 1
        number = self._serial
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[number] = answered
        self.feed(Request(id=number, command=command, by=by, wall=time.time_ns()))
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


class _Outlets:
    """Where the effects of the core go."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def send(self, node: int, message: PeerMessage) -> None:
        self._cluster.peers.send(node, message)

    def ask_guard(self, command: GuardCommand) -> None:
        self._cluster.guard.send(GUARD.encode(command))

    def applied(self, entries: tuple[Entry, ...]) -> None:
        self._cluster.applied(entries)

    def order_host(self, order: HostOrder) -> None:
        self._cluster.host.send(_ORDERS.encode(order))

    def reply(self, request: int, answer: Answer) -> None:
        self._cluster.replied(request, answer)


def state_folder(settings: Settings) -> Path:
    """Return where the quorum log of this node is."""
    return settings.state / "quorum"
