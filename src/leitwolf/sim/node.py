"""One simulated machine: guard, daemon and host around a kernel and a disk, each failing apart.

The guard runs the real :class:`LeaseMachine`, the daemon the real :class:`Node` behind the real
:class:`Executor`; the host keeps the rules of the real one. What is modelled is only what the machine
would do: time passing, effects taking a while, processes standing still in the midst of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from leitwolf.core.effects import (
    Applied,
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
from leitwolf.core.lease import (
    Armed,
    ArmGate,
    Commanded,
    DaemonGone,
    DaemonSeen,
    Disarm,
    Heard,
    LeaseEffect,
    LeaseEvent,
    LeaseMachine,
    Reboot,
    SendPeer,
    StopAll,
    Stopped,
    Tell,
    WritePage,
)
from leitwolf.core.lease import Tick as GuardTick
from leitwolf.core.node import Node
from leitwolf.model.commands import Answer, Command
from leitwolf.model.errors import ProtocolError
from leitwolf.model.ids import NodeId, ResourceState
from leitwolf.model.log import Entry
from leitwolf.model.observations import GroupAttested, HostOrder, HostReport
from leitwolf.model.quorum import AcceptorId
from leitwolf.sim.host import SimHost
from leitwolf.sim.kernel import Cell, Kernel
from leitwolf.sim.network import MICROSECOND, MILLISECOND
from leitwolf.sim.process import Process
from leitwolf.sim.storage import Storage
from leitwolf.wire.ballot import NO_BALLOT, Now
from leitwolf.wire.guard import GuardCommand, GuardHello, LeaseClosed, LeaseOpened
from leitwolf.wire.heartbeat import PeerMessage as GuardMessage
from leitwolf.wire.page import LeasePage

if TYPE_CHECKING:
    from leitwolf.sim.world import World

__all__ = ["SimNode"]

_ARM_SHARE = 0.85
_GUARD_BACK_NS = 6 * MILLISECOND
_DAEMON_BACK_NS = 250 * MILLISECOND
_HOST_BACK_NS = 200 * MILLISECOND
_GRACE_NS = 100 * MILLISECOND
"""A guard or host that runs again needs this long to kill what has no lease any more (K and the
killing itself). Before that, and while neither runs, plain processes may outlive the lease: only a
watchdog could stop them; their addresses are shut by the kernel (I4)."""
_BOOT_NS = 3_000 * MILLISECOND
_WATCH_NS = 50 * MILLISECOND


class SimNode:
    """A machine with its processes."""

    def __init__(self, world: World, node: int, storage: Storage) -> None:
        """Prepare a machine that is off."""
        self.world = world
        self.id = node
        self.storage = storage
        self.entropy = world.entropy.split()
        self.rate = self.entropy.between(-world.rate_ppm_max, world.rate_ppm_max)
        self._raw_base = self.entropy.between(10**9, 10**12)
        self.boots = 0
        self.powered = False
        self.kernel = Kernel(boot_id=bytes(16))
        self.guard = Process("guard", lambda: world.now)
        self.daemon = Process("daemon", lambda: world.now)
        self.host = Process("host", lambda: world.now)
        self.machine: LeaseMachine | None = None
        self.core: Node | None = None
        self.executor: Executor | None = None
        self.sim_host: SimHost | None = None
        self.streams: set[int] = set()
        self.disk_slow_until = 0
        self.frozen = False
        self._frozen_lives: list[tuple[Process, int]] = []
        self._guard_tick = 0
        self._daemon_tick = 0
        self._unsynced_since = 0
        self._guard_at = 0
        self._daemon_held_at = 0
        self._channels: dict[str, int] = {}

    # --- clocks ----------------------------------------------------------------------------------

    def raw(self) -> int:
        """Return CLOCK_MONOTONIC_RAW of this machine, ns."""
        now = self.world.now
        return self._raw_base + now + now * self.rate // 1_000_000 - self.kernel.slept

    def clocks(self) -> Now:
        """Return both clocks."""
        raw = self.raw()
        return Now(raw, raw + self.kernel.slept + 7)

    def true_time(self, raw: int) -> int:
        """Return the true time at which this machine's clock shows ``raw``."""
        ahead = raw - self.raw()
        return self.world.now + ahead * 1_000_000 // (1_000_000 + self.rate)

    # --- what the checkers read ------------------------------------------------------------------

    def active_cells(self) -> list[Cell]:
        """Return what answers from here or runs here at this moment."""
        if not self.powered:
            return []
        now = self.world.now
        gate_open = self.kernel.gate_present and self.kernel.gate_until > now
        watchers = [p.runs_since for p in (self.guard, self.host) if p.running]
        watched = bool(watchers) and now - min(watchers) > _GRACE_NS
        return [
            cell
            for cell in self.kernel.cells.values()
            if (gate_open if cell.address else watched)
        ]

    def leader_until(self) -> int:
        """Return the true time at which this node's leader lease ends, -1: it has none."""
        page = self.kernel.page
        if not self.powered or page is None or page.office == NO_BALLOT:
            return -1
        return self.true_time(page.leader_end)

    # --- power -----------------------------------------------------------------------------------

    def power_on(self) -> None:
        """Boot: a new boot id, no page, nothing runs; then the keeper starts everything."""
        if self.powered:
            return
        self.powered = True
        self.boots += 1
        boot_id = self.id.to_bytes(8, "big") + self.boots.to_bytes(8, "big")
        self.kernel = Kernel(boot_id=boot_id)
        self._raw_base = self.entropy.between(10**9, 10**12) - self.world.now
        self.start_guard()
        self.start_host()
        self.start_daemon()

    def power_off(self, why: str) -> None:
        """All processes die at once; the disk keeps what was durable, and perhaps more."""
        if not self.powered:
            return
        self.world.note(self.id, "power", f"off: {why}")
        self.powered = False
        self.frozen = False
        for process in (self.guard, self.daemon, self.host):
            process.kill()
        self.machine, self.core, self.executor, self.sim_host = None, None, None, None
        self.storage.crash(self.entropy)
        self.kernel = Kernel(boot_id=bytes(16))
        self.world.daemon_died(self.id)

    def reboot(self, why: str) -> None:
        """Power off, and come back after booting."""
        self.power_off(why)
        self.world.later(_BOOT_NS, self.power_on)

    def freeze(self) -> None:
        """Every process of the machine stands still, the resources too; the kernel goes on."""
        if self.frozen or not self.powered:
            return
        self.world.note(self.id, "freeze", "everything")
        self.frozen = True
        self._daemon_held_at = self.raw()
        processes = (self.guard, self.daemon, self.host)
        self._frozen_lives = [(process, process.hold()) for process in processes]

    def thaw(self) -> None:
        """Everything goes on, in some order."""
        if not self.frozen:
            return
        self.world.note(self.id, "freeze", "thawed")
        self.frozen = False
        self.world.checker.active()
        held = self._frozen_lives
        first = self.entropy.between(0, len(held) - 1)
        for process, life in (*held[first:], *held[:first]):
            process.release(life)

    # --- guard -----------------------------------------------------------------------------------

    def start_guard(self) -> None:
        """Start a guard; it finds the page of its predecessor, if that is there."""
        if not self.powered or self.guard.alive:
            return
        self.guard.start()
        self.machine = LeaseMachine(
            boot_id=self.kernel.boot_id,
            incarnation=self.entropy.bits() >> 2,
            page=self.kernel.page,
            now=self.clocks(),
            rules=self.world.rules,
        )
        self.world.note(self.id, "guard", "started" if self.kernel.page else "started, no memory")
        self._guard_effects(self.machine.start(self.clocks()))
        self._greet()

    def kill_guard(self, *, page: bool) -> None:
        """Kill the guard (``page``: and lose its page); the keeper starts another."""
        if not self.guard.alive:
            return
        self.world.note(self.id, "guard", "killed" + (" with its page" if page else ""))
        self.guard.kill()
        self.machine = None
        if page:
            self.kernel.page = None
        if self.core is not None:
            self._core_later(MICROSECOND * 100, GuardLost())
        self.world.later(_GUARD_BACK_NS, self.start_guard)

    def _greet(self) -> None:
        """Connect guard and daemon, when both live."""
        if self.machine is None or self.core is None:
            return
        hello = GuardHello(self.machine.page.incarnation, self.kernel.page is not None)
        self.guard_event(DaemonSeen())
        self._core_later(MICROSECOND * 50, FromGuard(report=hello))

    def guard_event(self, event: LeaseEvent) -> None:
        """Let the guard take an event now (or when it runs again)."""
        life = self.guard.life
        self.guard.deliver(life, lambda: self._guard_step(event))

    def _guard_step(self, event: LeaseEvent) -> None:
        if self.machine is None:
            return
        self._guard_at = self.raw()
        self._guard_effects(self.machine.step(self.clocks(), event))

    def _guard_effects(self, effects: list[LeaseEffect]) -> None:
        life = self.guard.life
        for effect in effects:
            if not self.guard.alive or self.guard.life != life:
                return
            if self.world.crash_now(self.id, "guard"):
                self.kill_guard(page=False)
                return
            self._guard_effect(effect)
        self._schedule_guard()

    def _guard_effect(self, effect: LeaseEffect) -> None:
        world = self.world
        match effect:
            case WritePage():
                self.kernel.page = effect.page
                world.checker.leases()
            case SendPeer():
                world.send_guard(self.id, effect.node, effect.message, effect.link)
            case Tell():
                self._tell_daemon(effect)
            case ArmGate():
                self._arm(effect)
            case Disarm():
                self.kernel.gate_present = False
            case StopAll():
                self._stop_all(effect)
            case Reboot():
                world.later(0, lambda: self.reboot(effect.reason))

    def _tell_daemon(self, effect: Tell) -> None:
        report = effect.report
        match report:
            case LeaseOpened():
                self.world.checker.lease_opened(self.id, self.boots, report.lease)
                self.world.note(self.id, "guard", f"lease {report.lease:x} open")
            case LeaseClosed():
                self.world.checker.lease_closed(self.id, self.boots, report.lease)
                self.world.note(
                    self.id, "guard", f"lease {report.lease:x} closed: {report.reason}"
                )
            case _:
                pass
        self._core_later(self.entropy.between(20, 150) * MICROSECOND, FromGuard(report=report))

    def _arm(self, effect: ArmGate) -> None:
        """The helper thread computes, then the kernel acts; it may stand still in between."""
        begun = self.raw()
        remaining = effect.until - begun
        duration = int(remaining * _ARM_SHARE)
        life = self.guard.life
        takes = self.entropy.between(40, 250) * MICROSECOND
        if self.world.entropy.chance(self.world.slow_arm_per_thousand):
            takes = self.entropy.between(10, 300) * MILLISECOND

        def act() -> None:
            kernel, now = self.kernel, self.world.now
            alive = kernel.gate_present and kernel.gate_until > now
            accepted = duration > 0 and (alive if effect.renewal else not alive)
            if accepted:
                kernel.gate_present = True
                kernel.gate_until = now + duration
            done = self.raw()
            late = done - begun > remaining // 10 and self.world.rules.holds("arm-in-time")
            if accepted and late:
                kernel.gate_present = False
                accepted = False
            self.world.checker.active()
            self.guard_event(Armed(effect.lease, effect.until, begun, done, accepted))

        self.world.later(takes, lambda: self.guard.deliver(life, act))

    def _stop_all(self, effect: StopAll) -> None:
        life = self.guard.life
        takes = self.entropy.between(MILLISECOND // 2, 12 * MILLISECOND)
        if self.entropy.chance(self.world.slow_kill_per_thousand):
            takes += 10_000 * MILLISECOND

        def act() -> None:
            for resource in list(self.kernel.cells):
                cell = self.kernel.cells.pop(resource)
                report = msgspec.structs.replace(
                    cell.report, state=ResourceState.FAILED, code="killed", text="killed"
                )
                self._core_later(MILLISECOND, FromHost(report=report))
            self.guard_event(Stopped(effect.lease))

        self.world.later(takes, lambda: self.guard.deliver(life, act))

    def _schedule_guard(self) -> None:
        if self.machine is None:
            return
        at = self.true_time(self.machine.deadline())
        at = max(at, self.world.now + 20 * MICROSECOND) + self.entropy.between(5, 400) * MICROSECOND
        self._guard_tick += 1
        tick, life = self._guard_tick, self.guard.life

        def fire() -> None:
            if tick == self._guard_tick:
                self._guard_step(GuardTick(self._daemon_progress()))

        self.world.at(at, lambda: self.guard.deliver(life, fire))

    def _daemon_progress(self) -> int:
        if not self.daemon.alive:
            return 0
        if self.daemon.holds:
            return self._daemon_held_at
        return self._unsynced_since or self.raw()

    def stall(self, process: Process, duration: int) -> None:
        """One process stands still for a while."""
        if not process.running:
            return
        self.world.note(self.id, process.name, f"stalls for {duration / MILLISECOND:.0f} ms")
        if process is self.daemon:
            self._daemon_held_at = self.raw()
        life = process.hold()
        self.world.later(duration, lambda: process.release(life))

    def page_now(self) -> LeasePage | None:
        """Return the page as host and daemon read it, with the guard's progress in it."""
        page = self.kernel.page
        if page is None:
            return None
        fresh = self.raw() if self.guard.running else self._guard_at
        return page if page.progress == fresh else _with_progress(page, fresh)

    # --- daemon ----------------------------------------------------------------------------------

    def start_daemon(self) -> None:
        """Start a daemon from what its disk holds."""
        if not self.powered or self.daemon.alive:
            return
        self.daemon.start()
        self._unsynced_since = 0
        self.core = Node(
            me=AcceptorId(NodeId(self.id), self.storage.name),
            loaded=self.storage.load(),
            page=self.page_now,
            now=self.raw(),
            rules=self.world.rules,
        )
        self.executor = Executor(_Outlets(self))
        self.world.note(self.id, "daemon", f"started at entry {self.core.state.index}")
        self._greet()
        if self.sim_host is not None:
            self._core_later(MILLISECOND, FromHost(report=self.sim_host.inventory()))
        self.world.daemon_came(self.id)
        self.core_event(Tick(wall=self.world.wall()))

    def kill_daemon(self) -> None:
        """Kill the daemon; the keeper starts another."""
        if not self.daemon.alive:
            return
        self.world.note(self.id, "daemon", "killed")
        self.daemon.kill()
        self.core, self.executor = None, None
        self.storage.crash(self.entropy)
        self.guard_event(DaemonGone())
        self.world.daemon_died(self.id)
        self.world.later(_DAEMON_BACK_NS, self.start_daemon)

    def core_event(self, event: Event) -> None:
        """Let the daemon take an event now (or when it runs again)."""
        life = self.daemon.life
        self.daemon.deliver(life, lambda: self._core_step(event))

    def in_order(self, channel: str, delay: int) -> int:
        """Return when something sent on a channel of this machine arrives: never overtaking."""
        arrival = max(self.world.now + delay, self._channels.get(channel, 0) + 1)
        self._channels[channel] = arrival
        return arrival

    def _core_later(self, delay: int, event: Event) -> None:
        life = self.daemon.life
        at = self.in_order(type(event).__name__, delay)
        self.world.at(at, lambda: self.daemon.deliver(life, lambda: self._core_step(event)))

    def _core_step(self, event: Event) -> None:
        core, executor = self.core, self.executor
        if core is None or executor is None:
            return
        led = core.governor.ballot if core.governor else NO_BALLOT
        try:
            effects = core.step(self.raw(), event)
        except ProtocolError as error:
            self.world.note(self.id, "daemon", f"protocol error: {error}")
            raise
        leads = core.governor.ballot if core.governor else NO_BALLOT
        if core.in_charge and leads != self.world.seen_ballots.get(self.id):
            self.world.seen_ballots[self.id] = leads
            log = {entry.index: entry for entry in core.quorum.log}
            base = min(log) - 1 if log else core.state.index
            self.world.checker.elected(self.id, log, base)
            self.world.note(self.id, "daemon", f"in charge by {leads}")
        elif led != leads and leads == NO_BALLOT:
            self.world.note(self.id, "daemon", f"out of office {led}")
        if self.world.crash_now(self.id, "daemon"):
            self.kill_daemon()
            return
        executor.submit(effects)
        self._write_next()
        self._schedule_daemon()

    def _write_next(self) -> None:
        executor = self.executor
        batch = executor.next_batch() if executor else None
        if batch is None:
            return
        self.storage.write(batch.records)
        self._unsynced_since = self.raw()
        takes = self.entropy.between(200, 2_000) * MICROSECOND
        if self.world.now < self.disk_slow_until:
            takes = self.entropy.between(20, 900) * MILLISECOND
        life = self.daemon.life
        self.world.later(takes, lambda: self.daemon.deliver(life, lambda: self._synced(batch)))

    def _synced(self, batch: Batch) -> None:
        if self.executor is None:
            return
        if batch.snapshot is not None:
            self.storage.save_snapshot(batch.snapshot.snapshot, reset=batch.snapshot.reset)
        self.storage.sync()
        self._unsynced_since = 0
        self.executor.synced(batch.position)
        self._core_step(Durable(position=batch.position))

    def _schedule_daemon(self) -> None:
        if self.core is None:
            return
        at = self.true_time(self.core.deadline())
        at = max(at, self.world.now + 500 * MICROSECOND)
        at += self.entropy.between(10, 800) * MICROSECOND
        self._daemon_tick += 1
        tick, life = self._daemon_tick, self.daemon.life

        def fire() -> None:
            if tick == self._daemon_tick:
                self._core_step(Tick(wall=self.world.wall()))

        self.world.at(at, lambda: self.daemon.deliver(life, fire))

    def peer_up(self, node: int) -> None:
        """A stream to another daemon is up."""
        self.streams.add(node)
        self.core_event(PeerUp(node=node))

    def peer_lost(self, node: int) -> None:
        """The stream to another daemon is gone."""
        if node in self.streams:
            self.streams.discard(node)
            self.core_event(PeerLost(node=node))

    def peer_message(self, node: int, message: PeerMessage) -> None:
        """A message of another daemon arrived."""
        if node in self.streams:
            self.core_event(FromPeer(node=node, message=message))

    def request(self, number: int, command: Command) -> None:
        """An operator asks this node for something."""
        wall = self.world.wall()
        self.core_event(Request(id=number, command=command, by="operator", wall=wall))

    # --- host ------------------------------------------------------------------------------------

    def start_host(self) -> None:
        """Start a host, which adopts what runs."""
        if not self.powered or self.host.alive:
            return
        self.host.start()
        life = self.host.life

        def later(delay: int, work: Callable[[], None]) -> None:
            self.world.later(delay, lambda: self.host.deliver(life, work))

        self.sim_host = SimHost(
            kernel=self.kernel,
            page=self.page_now,
            raw=self.raw,
            later=later,
            tell=self._host_tells,
            started=lambda cell: self.world.checker.started(self.id, cell),
            entropy=self.entropy,
            rules=self.world.rules,
        )
        self._core_later(MILLISECOND, FromHost(report=self.sim_host.inventory()))
        later(_WATCH_NS, lambda: self._watch(life))

    def _watch(self, life: int) -> None:
        if self.sim_host is None or self.host.life != life:
            return
        over = self.true_time(self.sim_host.watch()) + MICROSECOND
        soon = self.world.now + _WATCH_NS
        at = over if self.world.now < over < soon else soon
        self.world.at(at, lambda: self.host.deliver(life, lambda: self._watch(life)))

    def kill_host(self) -> None:
        """Kill the host; what it runs goes on, and the keeper starts another."""
        if not self.host.alive:
            return
        self.world.note(self.id, "host", "killed")
        self.host.kill()
        self.sim_host = None
        self._core_later(MICROSECOND * 100, HostLost())
        self.world.later(_HOST_BACK_NS, self.start_host)

    def _host_tells(self, report: HostReport) -> None:
        if isinstance(report, GroupAttested):
            self.world.checker.attested(self.id, report.group, report.generation)
        self._core_later(self.entropy.between(20, 200) * MICROSECOND, FromHost(report=report))

    def host_order(self, order: HostOrder) -> None:
        """The daemon orders something."""
        life, sim_host = self.host.life, self.sim_host
        if sim_host is None:
            return
        at = self.in_order("to-host", self.entropy.between(20, 200) * MICROSECOND)
        self.world.at(at, lambda: self.host.deliver(life, lambda: sim_host.order(order)))


class _Outlets:
    """Where the effects of a simulated daemon go."""

    def __init__(self, node: SimNode) -> None:
        self._node = node

    def send(self, node: int, message: PeerMessage) -> None:
        self._node.world.send_daemon(self._node.id, node, message)

    def ask_guard(self, command: GuardCommand) -> None:
        node = self._node
        delay = node.entropy.between(20, 150) * MICROSECOND
        life = node.guard.life
        node.world.at(
            node.in_order("to-guard", delay),
            lambda: node.guard.deliver(life, lambda: node.guard_event(Commanded(command))),
        )

    def applied(self, entries: tuple[Entry, ...]) -> None:
        node = self._node
        if node.core is not None:
            node.world.applied(node, Applied(entries=entries))

    def order_host(self, order: HostOrder) -> None:
        self._node.host_order(order)

    def reply(self, request: int, answer: Answer) -> None:
        self._node.world.replied(request, answer)


def _with_progress(page: LeasePage, progress: int) -> LeasePage:
    values = {name: getattr(page, name) for name in LeasePage.__slots__}
    values["progress"] = progress
    return LeasePage(**values)


def heard(node: SimNode, sender: int, link: int, message: GuardMessage) -> None:
    """Deliver a datagram to a guard."""
    life = node.guard.life
    node.guard.deliver(life, lambda: node.guard_event(Heard(sender, link, message)))
