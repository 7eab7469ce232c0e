"""The keeper process: spawns, reaps and restarts guard, daemon and host; nothing else.

Rules
- One keeper per runtime directory (a lock). Another one ends at once, unless the service manager
  started it and not the one that has the lock: then that one gives way. Who is not known to the
  service manager could not be stopped, reloaded or watched by it.
- A new guard starts only when the old one's descriptor says that it is gone (L9). One that is
  killed and does not end within two seconds cannot be replaced: the node fences itself.
- What lives is adopted, by process id and start time in the progress page; nothing is restarted
  because its keeper was.
- A process hangs when its counter stands still while the keeper itself runs.

Theory of operation. One thread, one poll loop. Orderly stop and reload are lists of steps, each
carried on by the passes of the loop; supervision goes on meanwhile.

What this does not guarantee. How a process ended is known only of children and of orphans that
came to this process as subreaper; after the death of a keeper the orphans of its children go to
the init of the machine.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from leitwolf.guard import main as guard_main
from leitwolf.keeper.children import Child, Limits
from leitwolf.keeper.control import Control, ask_to_give_way
from leitwolf.keeper.reaper import Reaper
from leitwolf.system import clock, containment, realtime
from leitwolf.system.notify import VARIABLES, Notifier
from leitwolf.system.page import PageReader, require_volatile
from leitwolf.system.progress import Flag, Progress, Role
from leitwolf.system.selffence import FenceRefused, self_fence
from leitwolf.system.settings import Settings

__all__ = ["RELOAD_VARIABLE", "Keeper", "KeeperRunning"]

RELOAD_VARIABLE = "LEITWOLF_KEEPER_RELOAD"
"""Set for the program that replaces this one when it is to replace the others as well."""

_MILLISECOND = 1_000_000
_SECOND = 1_000_000_000
_LOOK = 100 * _MILLISECOND
_GUARD_LIMITS = Limits(progress=2 * _SECOND, start=5 * _SECOND, patience=5)
_OTHERS_LIMITS = Limits(progress=10 * _SECOND, start=60 * _SECOND, patience=1)
"""A daemon without progress loses its office after 2 P; killing it is for what never comes back.
One that reads a long log at its start is not hanging."""
_GUARD_DEATH = 2 * _SECOND
_DAEMON_STOP = 60 * _SECOND
"""Before and after its groups move away or stop. That is not counted: it takes as long as their
stop timeouts, which the daemon knows; one that hangs meanwhile is killed for that."""
_GUARD_STOP = 30 * _SECOND
_HOST_STOP = 10 * _SECOND
_REPLACE = 5 * _SECOND
_GIVE_WAY = 10 * _SECOND
_GIVE_WAY_LOOK_S = 0.05
_EXTEND_S = 30
_LOCK, _SOCKET = "keeper.lock", "keeper.sock"
_PR_SET_CHILD_SUBREAPER = 36
_EXIT_FAILED = 70
_LINE_BYTES_MAX = 2_048
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class KeeperRunning(RuntimeError):
    """Another keeper has the lock of this runtime directory."""

    code = "keeper-running"


class Keeper:
    """One life of the keeper.

    Args:
        settings: of the node.
        programs: command lines of daemon and host, and of this process (its program is replaced
            by it); tests give others.

    Raises:
        KeeperRunning: there is one.
        ContainmentUnavailable: what runs here could not be contained.
        OSError: the runtime directory cannot be used.
    """

    def __init__(
        self, settings: Settings, programs: Mapping[Role, Sequence[str]] | None = None
    ) -> None:
        self._settings = settings
        runtime = settings.runtime
        runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
        if settings.volatile == "yes":
            require_volatile(runtime)
        # Nothing may run where nothing can be killed; and guards are forked with it imported.
        containment.find(settings)
        self._notifier = Notifier(os.environ)
        self._lock = self._take_office(runtime)
        self._programs = programs or {
            Role.KEEPER: (sys.executable, "-m", "leitwolf.keeper.main"),
            Role.DAEMON: (sys.executable, "-m", "leitwolf.daemon.main"),
            Role.HOST: (sys.executable, "-m", "leitwolf.host.main"),
        }
        self._progress = Progress(runtime / "progress.page")
        self._progress.begin(Role.KEEPER)
        self._reaper = Reaper()
        self._control = Control(
            runtime / _SOCKET, self._reaper, self._order_restart, self._give_way
        )
        self._signals, self._waker = socket.socketpair()
        self._signals.setblocking(False)
        self._waker.setblocking(False)
        self._orders: set[int] = set()
        self._restart = False
        self._ready = False
        self._phase: list[Role] = []
        """Roles still to be stopped; empty: no stop was ordered."""
        self._phase_began = 0
        self._stopping = False
        self._signalled: int = 0
        self._replacing: list[Role] = []
        self._replaced = 0
        self._notified = 0
        self._extended = 0
        self._exit: int | None = None
        self._children = {
            role: Child(role, self._progress, spawn, limits)
            for role, spawn, limits in (
                (Role.GUARD, self._fork_guard, _GUARD_LIMITS),
                (Role.DAEMON, self._spawn_daemon, _OTHERS_LIMITS),
                (Role.HOST, self._spawn_host, _OTHERS_LIMITS),
            )
        }

    # --- life ------------------------------------------------------------------------------------

    def _take_office(self, runtime: Path) -> int:
        """Return the descriptor of the lock, once whoever has it gave way.

        Raises:
            KeeperRunning: it did not.
        """
        until = clock.raw_ns() + _GIVE_WAY
        while True:
            try:
                return _take_lock(runtime / _LOCK)
            except KeeperRunning:
                if not self._notifier.managed or clock.raw_ns() > until:
                    raise
                if ask_to_give_way(runtime / _SOCKET) is False:
                    raise
            time.sleep(_GIVE_WAY_LOOK_S)

    def run(self) -> int:
        """Keep the node until an orderly stop is done; return the exit code."""
        library = ctypes.CDLL(None, use_errno=True)
        if library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            self._say(f"no subreaper: {os.strerror(ctypes.get_errno())}")
        gc.collect()  # once, for the guards as well: they are forks of this process
        got = realtime.enter(realtime.KEEPER_PRIORITY, wanted=self._settings.realtime == "auto")
        for problem in got.problems:
            self._say(problem)
        self._progress.mark(
            (Flag.REALTIME if got.scheduled else Flag(0)) | (Flag.LOCKED if got.locked else Flag(0))
        )
        self._watch_signals()
        now = clock.raw_ns()
        for child in self._children.values():
            if child.adopt(now) and child.handle is not None:
                self._say(f"{child.name} {child.handle.process} adopted")
        if os.environ.pop(RELOAD_VARIABLE, ""):
            self._replacing = [Role.DAEMON, Role.HOST, Role.GUARD]
        while self._exit is None:
            self._pass(clock.raw_ns())
        self._control.close()
        return self._exit

    def _watch_signals(self) -> None:
        def order(number: int, _: object) -> None:
            self._orders.add(number)

        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, order)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _pass(self, now: int) -> None:
        self._obey(now)
        self._reaper.reap()
        for child in self._children.values():
            self._supervise(child, now)
        if self._stopping:
            self._stop(now)
        elif self._replacing:
            self._replace(now)
        self._progress.advance(now)
        self._notify(now)
        if self._restart and self._exit is None:
            self._become(reload=False)
        if self._exit is None:
            self._wait(now)

    def _wait(self, now: int) -> None:
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        for descriptor in self._control.descriptors():
            poll.register(descriptor, select.POLLIN)
        until = now + _LOOK
        for child in self._children.values():
            if child.handle is not None:
                poll.register(child.handle.descriptor, select.POLLIN)
            elif child.wanted:
                until = min(until, child.deadline())
        pause_ms = max(0, -(-(until - now) // _MILLISECOND))
        for descriptor, _ in poll.poll(pause_ms):
            if descriptor == self._signals.fileno():
                self._signals.recv(4096)
            elif descriptor in self._control.descriptors():
                self._control.serve(descriptor)

    # --- supervision -----------------------------------------------------------------------------

    def _supervise(self, child: Child, now: int) -> None:
        process = child.ended(now)
        if process:
            status = self._reaper.status(process)
            how = "" if status is None else f" (code {status.code}, signal {status.signal})"
            self._say(f"{child.name} {process} ended{how}")
        if child.start_due(now):
            self._start(child, now)
        if child.hangs(now):
            self._say(f"{child.name} makes no progress: killed")
            child.kill(now)
        if child.role is Role.GUARD and child.hopeless and now - child.hopeless > _GUARD_DEATH:
            # Without a guard nothing here may run, and a second one must not start (L9).
            self._say("the guard cannot be killed: this node fences itself")
            self._exit = _EXIT_FAILED
            try:
                self_fence(self._settings.fence, "the guard cannot be killed")
            except FenceRefused as error:
                self._say(str(error))

    def _start(self, child: Child, now: int) -> None:
        try:
            process = child.start(now)
        except OSError as error:
            self._say(f"{child.name} cannot be started: {error}")
            child.postpone(now)
            return
        self._say(f"{child.name} {process} started")

    def _fork_guard(self) -> int:
        keeper = os.getpid()
        gc.freeze()
        process = os.fork()
        if process:
            return process
        code = _EXIT_FAILED
        try:
            signal.set_wakeup_fd(-1)
            for number in (*_SIGNALS, signal.SIGPIPE):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            self._close_all()
            code = guard_main.serve(self._settings, keeper)
        finally:
            os._exit(code)

    def _close_all(self) -> None:
        """Close, in the guard, what belongs to the keeper."""
        self._control.close()
        self._signals.close()
        self._waker.close()
        os.close(self._lock)
        for child in self._children.values():
            if child.handle is not None:
                child.handle.close()

    def _spawn_daemon(self) -> int:
        return self._spawn(self._programs[Role.DAEMON])

    def _spawn_host(self) -> int:
        return self._spawn(self._programs[Role.HOST])

    def _spawn(self, program: Sequence[str]) -> int:
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in (*VARIABLES, RELOAD_VARIABLE)
        }
        environment.update(self._settings.environment())
        return os.posix_spawn(
            program[0],
            list(program),
            environment,
            setsid=True,
            setsigmask=(),
            setsigdef=(*_SIGNALS, signal.SIGPIPE),
        )

    # --- orders ----------------------------------------------------------------------------------

    def _order_restart(self) -> None:
        self._restart = True

    def _give_way(self) -> bool:
        """End for a keeper of the service manager, which adopts what this one leaves."""
        if self._notifier.managed or self._stopping or self._replacing:
            return False
        self._say("giving way to the keeper of the service manager")
        self._exit = 0
        return True

    def _obey(self, now: int) -> None:
        orders, self._orders = self._orders, set()
        if orders & {signal.SIGTERM, signal.SIGINT} and not self._stopping:
            self._stopping = True
            self._replacing = []
            self._notifier.stopping("groups move away or stop in order")
            self._say("stopping")
            self._enter([Role.DAEMON, Role.GUARD, Role.HOST], now)
        elif signal.SIGHUP in orders and not self._stopping:
            self._notifier.reloading()
            self._become(reload=True)

    def _become(self, *, reload: bool) -> None:
        """Replace this program by the installed one; the process and its children stay.

        The lock itself is given up and taken again: a keeper that comes between finds all alive
        and adopts it, and this one ends.
        """
        self._say("replacing the keeper")
        environment = {**os.environ, **self._settings.environment()}
        environment.pop(RELOAD_VARIABLE, None)
        if reload:
            environment[RELOAD_VARIABLE] = "1"
        # What comes before the new program listens waits for it instead of ending it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        command = self._programs[Role.KEEPER]
        if self._settings.realtime == "auto":
            # Loading a program takes 60 ms; in real time nothing else had this processor meanwhile.
            realtime.take_precedence(heirs=False)
        os.execve(command[0], list(command), environment)  # noqa: S606  # no shell is wanted

    def _enter(self, phase: list[Role], now: int) -> None:
        """Go on to the next role to be stopped."""
        self._phase, self._phase_began, self._signalled = phase, now, 0
        if not phase:
            self._exit = 0
        elif phase[0] is not Role.GUARD:
            self._children[phase[0]].wanted = False

    def _stop(self, now: int) -> None:
        """Carry on the orderly stop: groups away, everything stopped and attested, host ended."""
        if not self._phase:
            return
        child = self._children[self._phase[0]]
        took = now - self._phase_began
        if child.role is Role.GUARD:
            self._stop_guard(child, now, took)
            return
        if child.handle is None:
            self._enter(self._phase[1:], now)
            return
        self._signal(child, signal.SIGTERM)
        if child.drains():
            self._phase_began = now
        elif took > (_DAEMON_STOP if child.role is Role.DAEMON else _HOST_STOP):
            self._say(f"{child.name} did not stop in {took // _SECOND} s: killed")
            child.kill(now)

    def _stop_guard(self, child: Child, now: int, took: int) -> None:
        """Have the guard stop everything; one that dies meanwhile is restarted and told again."""
        if child.handle is not None:
            if child.ready:
                self._signal(child, signal.SIGTERM)
                child.wanted = False
        elif self._nothing_runs():
            self._enter(self._phase[1:], now)
        else:
            child.wanted = True
            child.forgive()
        if took > _GUARD_STOP:
            self._say("the guard could not confirm that everything is stopped")
            self._exit = _EXIT_FAILED

    def _nothing_runs(self) -> bool:
        """Tell whether the guard's page says that no lease is open or being closed."""
        page = PageReader(self._settings.runtime / "guard.page").read()
        return page is None or page.lease == 0

    def _signal(self, child: Child, number: int) -> None:
        """Signal a process once."""
        if child.handle is not None and self._signalled != child.handle.process:
            self._signalled = child.handle.process
            child.handle.send(number)

    def _replace(self, now: int) -> None:
        """Carry on a reload: one process after the other ends and starts again, nothing stops."""
        child = self._children[self._replacing[0]]
        if not self._replaced:
            self._phase_began = now
            self._replaced = child.handle.process if child.handle is not None else -1
            # The host ends at SIGTERM and leaves everything running; for the others that is the
            # order to stop, and SIGHUP the one to hand over.
            self._signal(child, signal.SIGTERM if child.role is Role.HOST else signal.SIGHUP)
            return
        if child.handle is not None and child.handle.process == self._replaced:
            if now - self._phase_began > _REPLACE:
                child.kill(now)
            return
        child.forgive()
        if child.ready:
            self._say(f"{child.name} replaced")
            self._replacing = self._replacing[1:]
            self._replaced = self._signalled = 0
            self._ready = bool(self._replacing) and self._ready

    # --- words -----------------------------------------------------------------------------------

    def _notify(self, now: int) -> None:
        up = self._children[Role.GUARD].ready and self._children[Role.DAEMON].ready
        if up and not self._ready and not self._stopping and not self._replacing:
            told = self._notifier.ready("guard and daemon are up")
            self._ready = told or not self._notifier.managed  # its socket may be full: once more
        starts = not self._ready and not self._stopping
        loads = starts and any(child.loads(now) for child in self._children.values())
        # Once a stop takes longer than the unit says, systemd is to be told so until its end.
        if (loads or self._stopping) and now - self._extended > _SECOND:
            self._extended = now
            self._notifier.extend(_EXTEND_S)
        if self._notifier.watchdog_ms and now - self._notified > (
            self._notifier.watchdog_ms * _MILLISECOND // 3
        ):
            self._notified = now
            self._notifier.watchdog()

    def _say(self, text: str) -> None:
        """Write a line to stderr if it can take one: this process never waits for a log."""
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        if any(event & select.POLLOUT for _, event in poll.poll(0)):
            os.write(2, f"leitwolf keeper: {text}\n".encode()[:_LINE_BYTES_MAX])


def _take_lock(path: Path) -> int:
    """Return the descriptor of the lock file, locked as long as this process has this program.

    A record lock: children do not inherit it.

    Raises:
        KeeperRunning: another process has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        raise KeeperRunning(f"another keeper runs for this runtime directory ({path})") from None
    return descriptor
