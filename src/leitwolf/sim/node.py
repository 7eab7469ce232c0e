"""One simulated machine: clocks, kernel and disk; keeper, guard, daemon and host fail apart.

The guard runs the real :class:`LeaseMachine`, the daemon the real :class:`Node` behind the real
:class:`Executor`; the host keeps the rules of the real one. What is modelled is only what the
machine would do: time passing, effects taking a while, processes standing still in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from leitwolf.model.log import Entry
from leitwolf.model.quorum import Acceptor, QuorumConfig
from leitwolf.sim.daemon import SimDaemon
from leitwolf.sim.guard import SimGuard
from leitwolf.sim.host import HostProcess
from leitwolf.sim.keeper import SimKeeper
from leitwolf.sim.kernel import Cell, Kernel
from leitwolf.sim.network import MILLISECOND
from leitwolf.sim.process import Process
from leitwolf.sim.storage import Storage
from leitwolf.wire.ballot import NO_BALLOT, Ballot, Now
from leitwolf.wire.lineage import Lineage, describe
from leitwolf.wire.page import LeasePage
from leitwolf.wire.permit import believed

if TYPE_CHECKING:
    from leitwolf.sim.world import World

__all__ = ["SimNode"]

_GRACE_NS = 100 * MILLISECOND
"""A guard or host that runs again needs this long to kill what has no lease any more (K and the
killing itself). Before that, and while neither runs, plain processes may outlive the lease: only a
watchdog could stop them; their addresses are shut by the kernel (I4)."""
_ANEW_NS = 300 * MILLISECOND
"""A log is set aside, and guard and host begin anew."""
_BOOT_NS = 3_000 * MILLISECOND
_RATE_PPM_MAX = 1_000


def _voters(config: QuorumConfig) -> tuple[tuple[Acceptor, ...], ...]:
    return (config.acceptors,) if config.former is None else (config.acceptors, config.former)


class SimNode:
    """A machine with its processes."""

    def __init__(self, world: World, node: int, storage: Storage) -> None:
        """Prepare a machine that is off."""
        self.world = world
        self.id = node
        self.storage = storage
        self.entropy = world.entropy.split()
        self.rate = self.entropy.choice(
            [-_RATE_PPM_MAX, _RATE_PPM_MAX, self.entropy.between(-_RATE_PPM_MAX, _RATE_PPM_MAX)]
        )
        """Error of its clock in parts per million: often at the very bound of A3."""
        self._raw_base = self.entropy.between(10**9, 10**12)
        self.boots = 0
        self.powered = False
        self.kernel = Kernel(boot_id=bytes(16))
        self.guard = SimGuard(self)
        self.daemon = SimDaemon(self)
        self.host = HostProcess(self)
        self.keeper = SimKeeper(self)
        self.home: Lineage = ()
        """History for which it set its log aside, with nothing of it in the new one yet."""
        self.replaces: tuple[str, ...] = ()
        """The storages that it set aside, then and before: another history may know only those."""
        self.join_only = False
        """Its next daemons are to join only, until one did."""
        self._lineage: Lineage = ()
        self.disk_slow_until = 0
        self.disk_slow_ms = (20, 900)
        """Least and most that a write takes while the disk is slow."""
        self.disk_fails = False
        self.frozen = False
        self.run_end = 0
        """True time at which the newest run-lease of this boot ends."""
        self._unaware = False
        """It woke up and its guard did not run since: the kernel's lease stood still, too, and may
        last longer than the guard meant. Only inhibiting suspend closes that gap (L1)."""
        self._asleep_at = -1
        self._held: list[tuple[Process, int]] = []
        self._to_begin: list[Callable[[], None]] = []
        """Starts under way when everything stood still: they go on with all others."""
        self._channels: dict[str, int] = {}

    @property
    def kept(self) -> tuple[Process, Process, Process]:
        """Guard, host and daemon, as the keeper starts them."""
        return (self.guard, self.host, self.daemon)

    @property
    def processes(self) -> tuple[Process, Process, Process, Process]:
        """Guard, daemon, host and keeper."""
        return (self.guard, self.daemon, self.host, self.keeper)

    # --- clocks ----------------------------------------------------------------------------------

    def raw(self) -> int:
        """Return CLOCK_MONOTONIC_RAW of this machine, ns."""
        now = self.world.now if self._asleep_at < 0 else self._asleep_at
        return self._raw_base + now + now * self.rate // 1_000_000 - self.kernel.slept

    def clocks(self) -> Now:
        """Return both clocks."""
        raw = self.raw()
        return Now(raw, raw + self.kernel.slept + 7)

    def true_time(self, raw: int) -> int:
        """Return the true time at which this machine's clock shows ``raw``."""
        ahead = raw - self.raw()
        return self.world.now + ahead * 1_000_000 // (1_000_000 + self.rate)

    def in_order(self, channel: str, delay: int) -> int:
        """Return when something sent on a channel of this machine arrives: never overtaking."""
        arrival = max(self.world.now + delay, self._channels.get(channel, 0) + 1)
        self._channels[channel] = arrival
        return arrival

    # --- what the checkers read ------------------------------------------------------------------

    @property
    def lineage(self) -> Lineage:
        """Return the history that its daemon is in, or was in last."""
        if self.daemon.core is not None:
            self._lineage = self.daemon.core.quorum.lineage
        return self._lineage

    def lease_open(self) -> int:
        """Return the id of the run-lease under which the gate of the page is open, 0: none."""
        page = self.kernel.page
        return page.lease if page is not None and page.gate else 0

    def active_cells(self) -> list[Cell]:
        """Return what answers from here or runs here at this moment."""
        kernel = self.kernel
        if not kernel.cells or self._asleep_at >= 0:
            return []
        now = self.world.now
        open_now = kernel.gate_present and kernel.gate_until > now and not self._unaware
        watched = self.guard.runs_for(now, _GRACE_NS) or self.host.runs_for(now, _GRACE_NS)
        return [cell for cell in kernel.cells.values() if (open_now if cell.address else watched)]

    def leader_until(self) -> int:
        """Return the true time at which this node's leader lease ends, -1: it has none.

        It has what a reader of its page believes; while the machine sleeps nobody reads.
        """
        page = self.page_read()
        if not self.powered or page is None or page.office == NO_BALLOT or self._asleep_at >= 0:
            return -1
        return self.true_time(page.leader_end)

    def may_vote_from(self, leader: int) -> int:
        """Return the earliest true time at which this node may help another than ``leader``."""
        page = self.kernel.page
        if not self.powered or page is None:
            # A guard without memory waits as long (R5).
            return self.world.now + self.guard.promise_ns
        instant = page.fence_from
        if page.renewed.node == leader and not page.freed:
            instant = max(instant, page.promise_end)
        return self.true_time(instant)

    def configurations(self) -> tuple[tuple[Acceptor, ...], ...]:
        """Return the voters by which somebody could win without this node's knowing.

        During a change of the quorum that is who voted before it: who knows of the change needs
        them as well as the new ones.
        """
        if self.daemon.core is None:
            return ()
        config = self.daemon.core.quorum.config
        return (config.acceptors,) if config.former is None else (config.former,)

    def counted_by(self) -> tuple[tuple[Acceptor, ...], ...]:
        """Return the same, as they were before the step of its daemon that is under way."""
        return _voters(self.daemon.config)

    def promised(self) -> Ballot:
        """Return the highest ballot that it promised durably."""
        return self.storage.promised

    def holds(self, entry: Entry, storage: str) -> bool:
        """Return whether ``storage`` is its disk and holds ``entry`` durably."""
        return storage == self.storage.name and self.storage.holds(entry)

    def page_read(self) -> LeasePage | None:
        """Return the page as everybody but the guard believes it (L1)."""
        page = self.kernel.page
        if page is None or not self.world.rules.holds("slept"):
            return page
        return believed(page, self.clocks())

    def noticed(self) -> None:
        """The guard ran: if the machine slept, it shut the gate."""
        self._unaware = False

    def page_now(self) -> LeasePage | None:
        """Return the page as the host reads it, with the guard's progress in it."""
        page = self.kernel.page
        return None if page is None else self.guard.with_progress(page)

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
        self.run_end = 0
        self.keeper.boot()

    def power_off(self, why: str) -> None:
        """All processes die at once; the disk keeps what was durable, and perhaps more."""
        if not self.powered:
            return
        self.world.note(self.id, "power", f"off: {why}")
        self.powered = False
        self.frozen = False
        self._asleep_at = -1
        self._unaware = False
        self._to_begin = []
        for process in self.processes:
            process.kill()
        self.guard.forget()
        self.daemon.forget()
        self.host.forget()
        self.storage.crash(self.entropy)
        self.kernel = Kernel(boot_id=bytes(16))
        self.world.daemon_died(self.id)

    def reboot(self, why: str) -> None:
        """Power off, and come back after booting."""
        self.power_off(why)
        self.world.later(_BOOT_NS, self.power_on)

    def give_way(self, lineage: Lineage) -> None:
        """Stop everything, set the log aside, and begin anew in a history that was forced.

        As the real daemon: guard and host forget what was, and nothing runs when they begin. All of
        them are ended for that; without a keeper that starts others it is put off.
        """
        if not self.powered or not self.keeper.running or lineage in (self.lineage, self.home):
            return
        self.world.note(self.id, "heal", f"gives way to {describe(lineage)}")
        self.kernel.cells.clear()
        self.kernel.closed.clear()
        self.kernel.gate_present = False
        for process in (self.daemon, self.host):
            process.kill()
        self.daemon.forget()
        self.host.forget()
        self.world.daemon_died(self.id)
        self.guard.perish(page=True)
        self.run_end = 0
        self.replaces = (*self.replaces, self.storage.name)
        self.storage = Storage(f"{self.storage.name}+")
        self.home = lineage
        self.keeper.ended(self.host, _ANEW_NS)
        self.keeper.ended(self.daemon, _ANEW_NS)

    # --- standing still --------------------------------------------------------------------------

    def freeze(self) -> None:
        """Every process of the machine stands still, the resources too; the kernel goes on."""
        if self.frozen or not self.powered:
            return
        self.world.note(self.id, "freeze", "everything")
        self.frozen = True
        self.daemon.held_at = self.raw()
        self._held = [(process, process.hold()) for process in self.processes]

    def can_start(self, begin: Callable[[], None]) -> bool:
        """Return whether a process can start now; on a machine that stands still it does later.

        Args:
            begin: starts it, called when the machine goes on.
        """
        if self.frozen:
            self._to_begin.append(begin)
        return self.powered and not self.frozen

    def thaw(self) -> None:
        """Everything goes on, in some order."""
        if not self.frozen:
            return
        self.frozen = False
        if self._asleep_at >= 0:
            self._wake()
        else:
            self.world.note(self.id, "freeze", "thawed")
        self.world.checker.active()
        held, self._held = self._held, []
        first = self.entropy.between(0, len(held) - 1)
        for process, life in (*held[first:], *held[:first]):
            process.release(life)
        waiting, self._to_begin = self._to_begin, []
        for begin in waiting:
            begin()

    def suspend(self) -> None:
        """The machine sleeps: RAW stands still with everything else, BOOTTIME goes on."""
        if self.frozen or not self.powered:
            return
        self.freeze()
        self.world.note(self.id, "suspend", "asleep")
        self._asleep_at = self.world.now

    def _wake(self) -> None:
        before = self.raw()
        slept = self.world.now - self._asleep_at
        self._asleep_at = -1
        self.kernel.slept += self.raw() - before
        self.kernel.gate_until += slept
        self._unaware = True
        self.world.note(self.id, "suspend", f"awake after {slept / MILLISECOND:.0f} ms")

    def stall(self, process: Process, duration: int) -> None:
        """One process stands still for a while."""
        if not process.running:
            return
        self.world.note(self.id, process.name, f"stalls for {duration / MILLISECOND:.0f} ms")
        if process is self.daemon:
            self.daemon.held_at = self.raw()
        life = process.hold()
        self.world.later(duration, process.release, life)
