"""The daemon of a simulated node: the real node core behind the real executor.

It may die before any effect that the executor lets go, and before a write or a sync begins. What it
did before stays done, or under way: messages, orders, records that may or may not reach the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leitwolf.core.effects import (
    Applied,
    CallWitness,
    Durable,
    Event,
    FromPeer,
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
from leitwolf.core.lease import Commanded
from leitwolf.core.node import Node
from leitwolf.core.quorum.predicate import witnesses
from leitwolf.model.commands import Answer, Command
from leitwolf.model.history import HistoryStanding
from leitwolf.model.ids import NodeId
from leitwolf.model.log import Entry
from leitwolf.model.observations import HostOrder
from leitwolf.model.quorum import AcceptorId, QuorumConfig
from leitwolf.sim.network import MICROSECOND, MILLISECOND
from leitwolf.sim.process import Process
from leitwolf.sim.witness import build_witness
from leitwolf.wire.ballot import NO_BALLOT
from leitwolf.wire.guard import GuardCommand

if TYPE_CHECKING:
    from leitwolf.sim.node import SimNode

__all__ = ["SimDaemon"]

_BACK_NS = 250 * MILLISECOND
_TICK_LATE_NS = 800 * MICROSECOND


class SimDaemon(Process):
    """The daemon process of one machine."""

    back_ns = _BACK_NS

    def __init__(self, node: SimNode) -> None:
        super().__init__("daemon", lambda: node.world.now, node.world.crash_now)
        self._node = node
        self._world = node.world
        self._entropy = node.entropy
        self.core: Node | None = None
        self.streams: set[int] = set()
        self.config = QuorumConfig(acceptors=())
        """Quorum configuration before the newest step: by which that one counted."""
        self.shown = HistoryStanding()
        """In which history its disk says that it is: what handshakes tell."""
        self._writing = HistoryStanding()
        self._submitted = 0
        self.held_at = 0
        """RAW at which it stood still last."""
        self._executor: Executor | None = None
        self._intake = Intake()
        self._unsynced_since = 0
        self._alarm = -1
        self._alarm_for = 0
        """Deadline of the core for which a tick is scheduled at true time ``_alarm``."""
        self._led = NO_BALLOT

    def begin(self) -> None:
        """Start a daemon from what its disk holds."""
        node, world = self._node, self._world
        if self.alive or not node.can_start(self.begin):
            return
        self.start()
        self._unsynced_since, self._alarm, self._led = 0, -1, NO_BALLOT
        self.streams.clear()
        self.core = Node(
            me=AcceptorId(NodeId(node.id), node.storage.name),
            loaded=node.storage.load(),
            page=node.page_read,
            now=node.raw(),
            snapshot_entries=world.snapshot_entries,
            rules=world.rules,
            boot=self._entropy.bits(),
            lineage=node.home,
            join_only=node.join_only,
        )
        self.shown = self._writing = self.core.history
        self._submitted = 0
        self._executor = Executor(self)
        self._intake = Intake()
        world.note(node.id, "daemon", f"started at entry {self.core.state.index}")
        node.guard.greet()
        node.host.greet()
        world.daemon_came(node.id)
        self.take(Tick(wall=world.wall()))

    def forget(self) -> None:
        """The process is gone with all that it knew."""
        self.core, self._executor = None, None

    def perish(self, why: str = "killed") -> None:
        """Die; the keeper starts another."""
        node = self._node
        if not self.alive:
            return
        self._world.note(node.id, "daemon", why)
        self.kill()
        self.forget()
        node.storage.crash(self._entropy)
        node.guard.daemon_gone()
        self._world.daemon_died(node.id)
        node.keeper.ended(self)

    def progress(self) -> int:
        """Return what the progress page shows of it: RAW ns, 0: it is dead."""
        if not self.alive:
            return 0
        if self.holds:
            return self.held_at
        return self._unsynced_since or self._node.raw()

    # --- events ----------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """Take an event now (or when this process runs again)."""
        if self.running:
            self.do(self._step, event)
        else:
            self.deliver(self.life, self._step, event)

    def take_later(self, delay: int, event: Event) -> None:
        """Take an event after a delay, if this life still goes on then; never overtaking."""
        if self.core is None:
            return
        life = self.life
        at = self._node.in_order(type(event).__name__, delay)
        self._world.at(at, self.deliver, life, self._step, event)

    def _step(self, event: Event | None) -> None:
        """Let the core take an event, then the requests that are due."""
        while event is not None:
            self._take(event)
            core, executor = self.core, self._executor
            event = None
            if core is not None and executor is not None:
                event = self._intake.take(core, writing=executor.writing)

    def _take(self, event: Event) -> None:
        core, executor = self.core, self._executor
        if core is None or executor is None:
            return
        node = self._node
        self.config = core.quorum.config
        effects = core.step(self._node.raw(), event)
        self._note_office(core)
        for effect in effects:
            match effect:
                case Write() | SaveSnapshot():
                    self._submitted = effect.position
                case Applied():  # committed, whether or not it lives to publish it
                    self._world.checker.applied(
                        node.id, effect.entries, core.state, core.quorum.ballot
                    )
        executor.submit(effects)
        node.join_only = core.quorum.join_only
        if core.in_charge:
            self._world.checker.read(self._node, core.state.index)
        self._write_next()
        self._schedule()

    def _note_office(self, core: Node) -> None:
        node, world = self._node, self._world
        leads = core.governor.ballot if core.governor is not None else NO_BALLOT
        if core.in_charge and leads != self._led:
            self._led = leads
            world.checker.elected(node.id, core.quorum)
            world.note(node.id, "daemon", f"in charge by {leads}")
            world.later(0, world.refresh_streams)
        elif leads == NO_BALLOT and self._led != NO_BALLOT:
            self._led = NO_BALLOT
            world.note(node.id, "daemon", "out of office")

    def _schedule(self) -> None:
        """Wake up when the core wants to; a tick that is due before does it, too."""
        node, world = self._node, self._world
        if self.core is None:
            return
        deadline = self.core.deadline()
        if world.now <= self._alarm and self._alarm_for <= deadline:
            return
        at = max(node.true_time(deadline), world.now + 500 * MICROSECOND)
        if world.now <= self._alarm <= at + _TICK_LATE_NS:
            return
        at += self._entropy.between(10 * MICROSECOND, _TICK_LATE_NS)
        self._alarm, self._alarm_for = at, deadline
        life = self.life
        world.at(at, self.deliver, life, self._ring, at)

    def _ring(self, at: int) -> None:
        if at != self._alarm or self.core is None:
            return
        self._alarm = -1
        if self._node.raw() < self.core.deadline():
            self._schedule()
        else:
            self._step(Tick(wall=self._world.wall()))

    # --- disk ------------------------------------------------------------------------------------

    def _write_next(self) -> None:
        node, world = self._node, self._world
        batch = self._executor.next_batch() if self._executor else None
        if batch is None:
            return
        self.about_to("write")
        if batch.position == self._submitted and self.core is not None:
            self._writing = self.core.history
        world.checker.written(node, batch.records)
        node.storage.write(batch.records)
        self._unsynced_since = node.raw()
        takes = self._entropy.between(200, 2_000) * MICROSECOND
        if world.now < node.disk_slow_until:
            takes = self._entropy.between(*node.disk_slow_ms) * MILLISECOND
        life = self.life
        world.later(takes, self.deliver, life, self._synced, batch)

    def _synced(self, batch: Batch) -> None:
        node, executor = self._node, self._executor
        if executor is None:
            return
        if node.disk_fails:
            # Never retried: what of it reached the disk, only the next start will tell (A2).
            node.disk_fails = False
            executor.failed()
            self.perish("ends: its disk failed a sync")
            return
        self.about_to("sync")
        if batch.snapshot is not None:
            node.storage.save_snapshot(batch.snapshot.snapshot, reset=batch.snapshot.reset)
        node.storage.sync()
        self._unsynced_since = 0
        executor.synced(batch.position)
        if self.shown != self._writing:
            former, self.shown = self.shown, self._writing
            self._world.history_shown(node.id, anew=former.lineage != self.shown.lineage)
        self._step(Durable(position=batch.position))

    # --- peers, operators ------------------------------------------------------------------------

    def peer_up(self, node: int, history: HistoryStanding) -> None:
        """A stream to another daemon is up."""
        self.streams.add(node)
        self.take(PeerUp(node=node, history=history))

    def peer_lost(self, node: int) -> None:
        """The stream to another daemon is gone."""
        if node in self.streams:
            self.streams.discard(node)
            self.take(PeerLost(node=node))

    def peer_message(self, node: int, message: PeerMessage) -> None:
        """A message of another daemon arrived."""
        if node in self.streams:
            self.take(FromPeer(node=node, message=message))

    def request(self, number: int, command: Command, unchanged_since: int) -> None:
        """An operator asks this node for something."""
        request = Request(
            id=number,
            command=command,
            by="operator",
            wall=self._world.wall(),
            unchanged_since=unchanged_since,
        )
        self.deliver(self.life, self._accept, request)

    def _accept(self, request: Request) -> None:
        core, executor = self.core, self._executor
        if core is not None and executor is not None:
            self._intake.put(request)
            self._step(self._intake.take(core, writing=executor.writing))

    # --- what the executor lets go ---------------------------------------------------------------

    def ask_guard(self, command: GuardCommand) -> None:
        """Send a command to the own guard."""
        self.about_to("ask its guard")
        node, guard = self._node, self._node.guard
        life = guard.life
        at = node.in_order("to-guard", self._entropy.between(20, 150) * MICROSECOND)
        event = Commanded(command)
        self._world.at(at, guard.deliver, life, guard.take, event)

    def call_witness(self, call: CallWitness) -> None:
        """Call a shared disk or object."""
        self.about_to("call a witness")
        world, core = self._world, self.core
        if core is None:
            return
        for acceptor in witnesses(core.quorum.config):
            if acceptor.id == call.acceptor and acceptor.id not in world.witnesses:
                world.witnesses[acceptor.id] = build_witness(world, acceptor)
        world.witnesses[call.acceptor].call(self._node, call)

    def send(self, node: int, message: PeerMessage) -> None:
        """Send to another daemon."""
        self.about_to("send")
        self._world.send_daemon(self._node.id, node, message)

    def applied(self, _: tuple[Entry, ...]) -> None:
        """Publish what was committed."""
        self.about_to("publish")
        self._world.published(self._node)

    def order_host(self, order: HostOrder) -> None:
        """Order the own host."""
        self.about_to("order its host")
        self._node.host.order_later(order)

    def reply(self, request: int, answer: Answer) -> None:
        """Answer an operator."""
        self.about_to("answer")
        self._world.replied(self._node.id, request, answer)
