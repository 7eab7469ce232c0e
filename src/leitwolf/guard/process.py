"""The guard process: one poll loop that drives the lease machine.

Rules
- Every pass drains all datagrams before it acts on time, so that own late timers accuse nobody;
  what time demands of this node itself (an ended lease) comes first nevertheless: the machine
  begins every step with it.
- Effects are executed in their order. Nothing in the loop blocks: arming and stopping have threads
  of their own, clients are queued, sockets do not wait. What is to be armed is handed over at the
  end of the pass, so that the other thread does not contend for the interpreter with it.
- The watchdog is fed only by a pass that is timely while nothing is overdue.
- An error that nobody foresaw stops everything on this node, then ends the process.

Theory of operation. The keeper forks this process and starts it anew at its death; page and
configuration on the tmpfs, and the gate in the kernel, are what the next one goes on with.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path

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
    Tick,
    WritePage,
)
from leitwolf.guard.arming import Arming
from leitwolf.guard.channels import Arrival, Clients, Kind
from leitwolf.guard.datagrams import Datagrams
from leitwolf.guard.equipment import Equipment, read_keys
from leitwolf.guard.memory import recall, remember
from leitwolf.guard.stalls import Stalls
from leitwolf.guard.stopper import Stopper
from leitwolf.guard.warmup import warm_up
from leitwolf.system import clock, realtime
from leitwolf.system.page import PageWriter, require_volatile
from leitwolf.system.pidfd import ProcessHandle
from leitwolf.system.progress import Flag, Progress, Role
from leitwolf.system.selffence import FenceRefused, self_fence
from leitwolf.system.settings import Settings
from leitwolf.system.timer import Timer
from leitwolf.system.watchdog import NoWatchdog, Watchdog, open_watchdog, timeout_s
from leitwolf.wire.guard import (
    GUARD,
    Attest,
    Configure,
    DaemonHello,
    GuardHello,
    GuardReport,
    HostStopped,
    LeaseClosed,
    LeaseOpened,
    Recorded,
    StopEverything,
)
from leitwolf.wire.page import LeasePage

__all__ = ["GuardProcess"]

_SWITCH_INTERVAL_S = 0.0005
"""A pass needs the interpreter's lock after each of its system calls; 5 ms each would add up."""
_PASS_NS = 50_000_000
"""Longest time between two passes: shows progress, also when the machine wants nothing."""
_TIMELY_NS = 100_000_000
"""A pass later than this does not feed the watchdog; the next timely one does."""
_RECORDS_MAX = 256
"""Lines kept for a daemon that is not there."""
_KEEPER_AGAIN_NS = 1_000_000_000
_FAILED_STOP_S = 2.0
"""After an unforeseen error: time to stop everything before the process ends."""
_EXIT_FAILED = 70


class GuardProcess:
    """One life of the guard.

    Args:
        settings: of the node.
        keeper: process that started this one, 0: nobody watches over it.

    Raises:
        OSError: runtime directory or sockets cannot be used; EAGAIN: another guard lives.
    """

    def __init__(self, settings: Settings, keeper: int) -> None:
        self._settings = settings
        runtime = settings.runtime
        if settings.volatile == "yes":
            require_volatile(runtime)
        self._lock = _take_lock(runtime / "guard.lock")
        self._progress = Progress(runtime / "progress.page")
        self._progress.begin(Role.GUARD)
        self._flags = Flag(0)
        self._records: deque[Recorded] = deque(maxlen=_RECORDS_MAX)
        self._epoll = select.epoll()
        self._timer = Timer()
        self._signals, waker = socket.socketpair()
        self._signals.setblocking(False)
        waker.setblocking(False)
        self._waker = waker
        self._term = self._handover = self._stopping = False
        self._shown = 0
        self._rebooting = ""
        self._watchdog: Watchdog = NoWatchdog("not configured yet")
        self._watchdog_run = 0
        self._keeper: ProcessHandle | None = None
        self._keeper_look_at = 0
        self._boot_id = clock.boot_id()
        self._writer = PageWriter(runtime / "guard.page")
        self._incarnation = int.from_bytes(os.urandom(8), "big") >> 1 | 1
        found = self._writer.read(self._boot_id)
        self._remembers = found is not None
        now = clock.now()
        self._machine = LeaseMachine(
            boot_id=self._boot_id, incarnation=self._incarnation, page=found, now=now
        )
        self._stalls = Stalls(now.raw)
        self._due = now.raw
        self._equipment = Equipment(settings, self._record)
        self._arming: Arming | None = self._equipment.arming(found, now)
        self._to_arm: list[ArmGate] = []
        self._stopper: Stopper = self._equipment.stopper()
        greeting = GUARD.encode(GuardHello(self._incarnation, self._remembers))
        self._clients = Clients(runtime / "guard.sock", self._epoll, greeting)
        self._datagrams = Datagrams(self._epoll)
        self._watch_keeper(keeper)

    # --- life ------------------------------------------------------------------------------------

    def run(self) -> int:
        """Guard this node until the keeper says otherwise; return the exit code."""
        try:
            self._begin()
            while not self._finished():
                self._pass(self._epoll.poll())
        except Exception as error:
            self._emergency(error)
            raise
        return self._end()

    def _begin(self) -> None:
        wanted = self._settings.realtime == "auto"
        got = realtime.enter(realtime.GUARD_PRIORITY, wanted=wanted, threads=True)
        # What a helper thread parses must not keep heartbeats waiting for the interpreter's lock.
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._flags |= Flag.REALTIME if got.scheduled else Flag(0)
        self._flags |= Flag.LOCKED if got.locked else Flag(0)
        self._flags |= Flag.GATE if self._arming is not None else Flag(0)
        for problem in got.problems:
            self._record("no-realtime", problem)
        self._watch_signals()
        # Threads inherit the scheduling only when they are made after it.
        self._stopper.start()
        self._epoll.register(self._stopper.descriptor, select.EPOLLIN)
        if self._arming is not None:
            self._arming.start()
            self._epoll.register(self._arming.descriptor, select.EPOLLIN)
        self._epoll.register(self._timer.descriptor, select.EPOLLIN)
        self._epoll.register(self._signals, select.EPOLLIN)
        self._execute(self._machine.start(clock.now()))
        if self._remembers:
            former = recall(self._settings.runtime / "guard.configuration", self._boot_id)
            if former is not None:
                self._command(former)
        warm_up()
        self._progress.mark(self._flags)
        self._record("guard-started", f"incarnation {self._incarnation:x}")
        self._due = clock.raw_ns() + _PASS_NS
        self._timer.set(1)

    def _watch_signals(self) -> None:
        def order(number: int, _: object) -> None:
            self._term = self._term or number == signal.SIGTERM
            self._handover = self._handover or number == signal.SIGHUP

        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, order)
        signal.signal(signal.SIGHUP, order)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def _finished(self) -> bool:
        """Tell whether this process may end: handing over, or everything is stopped."""
        if self._handover:
            return True
        return self._term and self._machine.page.lease == 0 and not self._stopping

    def _end(self) -> int:
        if not self._handover:
            # Nothing runs here any more: the only case in which the watchdog may be stopped.
            self._watchdog.close()
        self._clients.close()
        self._datagrams.close()
        self._stopper.end()
        if self._arming is not None:
            self._arming.stop()
        return 0

    def _emergency(self, error: Exception) -> None:
        """Stop everything after an error that nobody foresaw; the next guard attests it."""
        page = self._machine.page._replace(gate=False)
        self._writer.write(page)
        if self._arming is not None:
            self._arming.disarm()
        self._stopper.stop(StopAll(page.lease, f"guard-failed: {error!r}", 0))
        until = time.monotonic() + _FAILED_STOP_S
        while time.monotonic() < until:
            select.select([self._stopper.descriptor], [], [], until - time.monotonic())
            if any(isinstance(result, Stopped) for result in self._stopper.results()):
                return
        raise TimeoutError("not everything could be stopped after an error") from error

    # --- one pass --------------------------------------------------------------------------------

    def _pass(self, events: list[tuple[int, int]]) -> None:
        begun = clock.raw_ns()
        late = max(0, begun - self._due)
        self._stalls.note(begun, late)
        for sender, link, message in self._datagrams.receive(begun):
            self._step(Heard(sender, link, message))
        for descriptor, mask in events:
            self._serve(descriptor, mask)
        self._collect({descriptor for descriptor, _ in events})
        if self._term and self._machine.page.gate:
            self._step(Commanded(StopEverything("stopped")))
        now = clock.raw_ns()
        for address in self._datagrams.maintain(now):
            self._record("link-bound", address)
        for news in (self._datagrams.strangers.news(now), self._datagrams.news(now)):
            if news is not None:
                self._tell(news)
        self._look_for_keeper(now)
        deadline = self._machine.deadline()
        if now >= deadline:
            self._tick()
            deadline = self._machine.deadline()
            now = clock.raw_ns()
        self._show(now)
        self._feed(now, late, deadline)
        due = min(deadline, now + _PASS_NS)
        binding = self._datagrams.deadline()
        self._due = min(due, binding) if binding else due
        self._timer.set(self._due - now)
        self._hand_over_arming()

    def _hand_over_arming(self) -> None:
        if self._arming is not None:
            for request in self._to_arm:
                self._arming.arm(request)
        self._to_arm.clear()

    def _tick(self) -> None:
        self._step(Tick(self._progress.effective(Role.DAEMON)))

    def _serve(self, descriptor: int, mask: int) -> None:
        if descriptor == self._clients.listening:
            self._clients.accept()
        elif descriptor in self._clients:
            if mask & select.EPOLLOUT:
                self._clients.flush(descriptor)
            if mask & ~select.EPOLLOUT:
                for arrival in self._clients.receive(descriptor):
                    self._arrive(arrival)
        elif descriptor == self._signals.fileno():
            self._signals.recv(4096)
        elif self._keeper is not None and descriptor == self._keeper.descriptor:
            self._lose_keeper()

    def _collect(self, ready: set[int]) -> None:
        """Take what the threads have to say."""
        for stopped in self._stopper.results() if self._stopper.descriptor in ready else ():
            if isinstance(stopped, Recorded):
                self._tell(stopped)
            else:
                self._stopping = False
                self._step(stopped)
                if self._machine.page.lease == 0:
                    self._rebooting = ""
        if self._arming is None or self._arming.descriptor not in ready:
            return
        for armed in self._arming.results():
            if isinstance(armed, Armed):
                self._step(armed)
            else:
                self._tell(armed)

    def _show(self, now: int) -> None:
        """Show progress, in the slot always and in the page often enough for the host (L7)."""
        page = self._machine.page
        if now - self._shown >= (page.heartbeat or _PASS_NS) // 2:
            self._write(page)
        self._progress.advance(now, self._stalls.recent, self._stalls.peak)

    def _write(self, page: LeasePage) -> None:
        self._shown = clock.raw_ns()
        self._writer.write(page._replace(progress=self._shown))

    # --- the machine -----------------------------------------------------------------------------

    def _step(self, event: LeaseEvent) -> None:
        self._execute(self._machine.step(clock.now(), event))

    def _execute(self, effects: list[LeaseEffect]) -> None:
        for effect in effects:
            match effect:
                case WritePage():
                    self._write(effect.page)
                case SendPeer():
                    self._datagrams.send(clock.raw_ns(), effect.node, effect.message, effect.link)
                case Tell():
                    self._tell(effect.report)
                case ArmGate():
                    self._to_arm.append(effect)
                case Disarm():
                    self._to_arm.clear()
                    if self._arming is not None:
                        self._arming.disarm()
                case StopAll():
                    self._stopping = True
                    self._record("stopping", f"lease {effect.lease}: {effect.reason}")
                    self._stopper.stop(effect)
                case Reboot():
                    self._reboot(effect.reason)

    def _reboot(self, reason: str) -> None:
        """End this node: it cannot prove that it stopped.

        Where that is refused this process goes on without feeding the watchdog, until the stop is
        confirmed after all. It must not end: its successor would feed the watchdog again.
        """
        self._rebooting = reason
        self._record("self-fence", reason)
        try:
            self_fence(self._settings.fence, reason)
        except FenceRefused as error:
            self._record("self-fence-refused", str(error))

    # --- clients ---------------------------------------------------------------------------------

    def _arrive(self, arrival: Arrival) -> None:
        command = arrival.command
        if command is None:
            self._record("client-gone", f"{arrival.kind.value}: {arrival.reason}")
            if arrival.kind is Kind.DAEMON:
                self._step(DaemonGone())
        elif arrival.kind is Kind.HOST:
            if isinstance(command, HostStopped):
                self._stopper.hurry()
        elif isinstance(command, DaemonHello):
            self._step(DaemonSeen())
            self._step(Commanded(command))
            self._tell(self._datagrams.counts())
            while self._records:
                self._send(Kind.DAEMON, self._records.popleft())
        else:
            self._command(command)
            if isinstance(command, Configure):
                remember(self._settings.runtime / "guard.configuration", self._boot_id, command)

    def _command(self, command: object) -> None:
        if isinstance(command, Configure):
            # Before the machine knows it: what it sends at once, a release, must have a way out.
            self._open_links(command)
        self._step(Commanded(command))  # type: ignore[arg-type]  # decoded by GUARD
        if isinstance(command, Configure):
            self._set_watchdog(command)

    def _open_links(self, configuration: Configure) -> None:
        try:
            keys = read_keys(self._settings.config)
        except (OSError, ValueError) as error:
            self._record("no-heartbeat-key", str(error))
        else:
            self._datagrams.configure(configuration, keys, clock.raw_ns())

    def _set_watchdog(self, configuration: Configure) -> None:
        if configuration.run != self._watchdog_run:
            self._watchdog_run = configuration.run
            if isinstance(self._watchdog, NoWatchdog):
                self._watchdog = open_watchdog(self._settings.watchdog)
            in_force = self._watchdog.set_timeout(timeout_s(configuration.run))
            problem = self._watchdog.problem
            self._record(
                "no-watchdog" if problem else "watchdog", problem or f"timeout {in_force} s"
            )
            self._flags |= Flag(0) if problem else Flag.WATCHDOG
            self._progress.mark(self._flags)

    def _tell(self, report: GuardReport) -> None:
        """Tell the daemon, and of its lease the host too; lines are kept for the next daemon."""
        if isinstance(report, GuardHello):
            return  # every connection began with it
        if isinstance(report, (LeaseOpened, LeaseClosed, Attest)):
            self._send(Kind.HOST, report)
        if not self._send(Kind.DAEMON, report) and isinstance(report, Recorded):
            self._records.append(report)

    def _send(self, kind: Kind, report: GuardReport) -> bool:
        client = self._clients.client(kind)
        if client is None:
            return False
        if self._clients.send(client, GUARD.encode(report)):
            return True
        for arrival in self._clients.lose(client, "does not read"):
            self._arrive(arrival)
        return False

    def _record(self, code: str, detail: str) -> None:
        self._tell(Recorded(clock.raw_ns(), code, detail))

    # --- watchdog and keeper ---------------------------------------------------------------------

    def _feed(self, now: int, late: int, deadline: int) -> None:
        overdue = deadline < now - _TIMELY_NS
        if late <= _TIMELY_NS and not overdue and not self._rebooting:
            self._watchdog.feed()

    def _watch_keeper(self, keeper: int) -> None:
        if keeper <= 0:
            return
        try:
            self._keeper = ProcessHandle(keeper)
        except ProcessLookupError:
            return
        self._epoll.register(self._keeper.descriptor, select.EPOLLIN)

    def _lose_keeper(self) -> None:
        """Go on without it: systemd or the host starts another, which adopts this process."""
        if self._keeper is None:
            return
        self._epoll.unregister(self._keeper.descriptor)
        self._record("keeper-gone", f"process {self._keeper.process}")
        self._keeper.close()
        self._keeper = None

    def _look_for_keeper(self, now: int) -> None:
        if self._keeper is not None or now < self._keeper_look_at:
            return
        self._keeper_look_at = now + _KEEPER_AGAIN_NS
        slot = self._progress.slot(Role.KEEPER)
        self._keeper = ProcessHandle.adopt(slot.process, slot.started)
        if self._keeper is not None:
            self._epoll.register(self._keeper.descriptor, select.EPOLLIN)


def _take_lock(path: Path) -> int:
    """Return the descriptor of a lock that the kernel gives up when this process is gone (L9).

    A keeper that is killed between forking a guard and that guard's naming itself in its slot has
    a successor that knows of no guard, and starts another one.

    Raises:
        BlockingIOError: another guard has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
