"""Containment for ordinary users: each cell is a PID namespace, which dies with its init.

Rules:
- A cell is recorded before anything foreign runs in it: the permission is read after that, so
  who kills all recorded cells after closing the gate leaves nothing behind (L7, see
  :mod:`leitwolf.system.containment`).
- A process is named by pid, start time and boot, so that a reused pid is never killed.
- A record is a file of its own for life, since its init writes to it once more: the next guide of
  a cell takes none that a dead one had not put in place yet. One that cannot be understood is an
  error: no cell counts as empty for it.
- A cell ends when its last process ends, not when the first program does: one that goes to the
  background stays in its cell, and the next program started in the cell joins it.
- Who joins holds the lock of the record until its program is there; the init ends only with that
  lock, and notes it in the record before: no program joins a cell that kills it by ending.

Theory of operation. ``spawn`` forks the *guide*, the child that the caller gets: it unshares (with
a user namespace of its own where this user must), forks the *init* (pid 1 inside), records both,
forks the program as its own child, passes signals on to it and its exit status back. The init only
waits: orphans come to it, and it ends when nobody is left. SIGKILL to it, from outside, makes the
kernel kill all of the namespace and refuse every further fork; it counts as ended when the last
one is dead. Inside a user namespace the cell has a /proc of its own, where the machine permits.

What this does not guarantee: a program sees other pids than its caller does. User and group cannot
be changed without root. A guide that is killed takes no program with it.

Standard library only: the guard imports this.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from leitwolf.system.containment import ContainmentUnavailable, cell_file_name, cells_in
from leitwolf.system.launch import (
    Child,
    Program,
    Stage,
    become,
    close_all_but,
    fork_child,
    report_failure,
    silence,
)
from leitwolf.system.pidfd import ProcessHandle, start_time

__all__ = ["PidNamespaceContainment"]

_NEW_MOUNTS: Final = 0x00020000
_NEW_USER: Final = 0x10000000
_NEW_PIDS: Final = 0x20000000
_MOUNT_PRIVATE: Final = 1 << 18
_MOUNT_SAFE: Final = 2 | 4 | 8
"""nosuid, nodev, noexec."""
_PASSED_ON = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
"""All that a process can wait for: whatever may be named as the signal to stop a program."""
_LAST_POLL_SECONDS: Final = 0.2
"""How often an init without children looks whether a program that joined is still there."""
_ENDING_MS: Final = 1000
"""How long an init may take from its last system call to its end."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_BOOT_FORM: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DRAFT: Final = ".draft"
_SHARED = ("user", "mnt", "pid")
_INIT, _GUIDE = "init", "guide"
_ENDING = "ending"
"""Line of a record whose init has looked for the last time."""

_libc = ctypes.CDLL(None, use_errno=True)


class _Known(NamedTuple):
    """A process of a cell as its record names it."""

    role: str
    pid: int
    started: int


class PidNamespaceContainment:
    """One PID namespace per cell.

    Args:
        directory: for the records; made when it is not there, on a tmpfs.
    """

    kind = "pidns"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def prepare(self) -> None:
        """Make the directory, and try a namespace.

        Raises:
            ContainmentUnavailable: the machine lets this user make none.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)

        def main(writing: int) -> NoReturn:
            _attempt(writing, _unshare)
            os._exit(0)

        try:
            child = fork_child("unshare", main)
        except OSError as error:
            raise ContainmentUnavailable(
                error.errno,
                "this machine lets this user make no PID namespaces (sysctl "
                "user.max_user_namespaces, or a rule of AppArmor or seccomp): use cgroups",
            ) from error
        os.waitpid(child.pid, 0)
        os.close(child.pidfd)

    def spawn(self, cell: str, program: Program, permitted: Callable[[], bool]) -> Child:
        """Start a program in a cell, see :meth:`leitwolf.system.containment.Containment.spawn`.

        The pid is that of the guide, which is outside of the cell.
        """
        record = self._record(cell)
        init = self._init(cell)
        if init is not None:
            joined = init
            try:
                return fork_child(
                    program.argv[0],
                    lambda writing: _join(joined, record, program, writing, permitted),
                )
            except OSError as error:
                # The cell was about to end: so it can neither be entered nor forked in.
                if error.errno not in (errno.ESRCH, errno.ENOMEM) or not init.wait(_ENDING_MS):
                    raise
            finally:
                init.close()
        return fork_child(
            program.argv[0], lambda writing: _guide(record, program, writing, permitted)
        )

    def cells(self) -> list[str]:
        """Return the names of the recorded cells, ended ones included until they are removed."""
        return cells_in(self.directory)

    def processes(self, cell: str) -> list[int]:
        """Return the pids of the cell: its living guides first, then those in the namespace."""
        found: list[int] = []
        namespace = ""
        inits: set[int] = set()
        for known in self._known(cell):
            handle = ProcessHandle.adopt(known.pid, known.started)
            if handle is None:
                continue
            handle.close()
            if known.role == _INIT:
                inits.add(known.pid)
                namespace = _namespace(known.pid, "pid")
            else:
                found.append(known.pid)
        if namespace:
            every = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
            found += [
                pid for pid in every if pid not in inits and _namespace(pid, "pid") == namespace
            ]
        return found

    def close(self, cell: str) -> None:
        """Nothing: a namespace whose init is killed cannot fork any more."""

    def kill(self, cell: str) -> None:
        """Kill the init, and with it the cell; and the guides, which have the dead to reap."""
        for known in self._known(cell):
            handle = ProcessHandle.adopt(known.pid, known.started)
            if handle is not None:
                handle.send(signal.SIGKILL)
                handle.close()

    def empty(self, cell: str) -> bool:
        """Tell whether the init has ended, which it does after all others."""
        init = self._init(cell)
        if init is None:
            return True
        init.close()
        return False

    def remove(self, cell: str) -> None:
        """Delete the record of an empty cell."""
        if not self.empty(cell):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), cell)
        _remove_drafts(self._record(cell))
        self._record(cell).unlink(missing_ok=True)

    def _record(self, cell: str) -> Path:
        return self.directory / cell_file_name(cell)

    def _known(self, cell: str) -> list[_Known]:
        """Return what the record names, inits first; nothing when it is of another boot.

        Raises:
            OSError: EBADMSG: it is no record, so nobody knows what runs in the cell.
        """
        record = self._record(cell)
        try:
            found = _understood(record.read_text())
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise OSError(errno.EBADMSG, f"no record of a cell ({error})", str(record)) from error
        return sorted(found, key=lambda one: one.role != _INIT)

    def _init(self, cell: str) -> ProcessHandle | None:
        for known in self._known(cell):
            if known.role == _INIT:
                return ProcessHandle.adopt(known.pid, known.started)
        return None


def _understood(text: str) -> list[_Known]:
    """Return what a record names, nothing when it is of another boot.

    Raises:
        ValueError: no guide wrote that.
    """
    boot, *lines = text.splitlines() or [""]
    if not _BOOT_FORM.fullmatch(boot):
        raise ValueError(f"no boot: {boot!r}")
    if boot != _BOOT.read_text().strip():
        return []
    parts = (line.split() for line in lines if line != _ENDING)
    found = [_Known(role, int(pid), int(started)) for role, pid, started in parts]
    roles = [known.role for known in found]
    if roles.count(_INIT) != 1 or not {_INIT, _GUIDE}.issuperset(roles):
        raise ValueError(f"roles are {roles}")
    return found


def _remove_drafts(record: Path) -> None:
    """Delete what guides of this cell did not put in place: they died, or are to fail now."""
    for path in record.parent.glob(f"{record.name}.*{_DRAFT}"):
        if path.name[len(record.name) + 1 : -len(_DRAFT)].isdigit():  # else of another cell
            path.unlink(missing_ok=True)


# --- in the children -----------------------------------------------------------------------------


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _attempt(writing: int, action: Callable[[], None]) -> None:
    try:
        action()
    except OSError as error:
        report_failure(writing, Stage.ENTER, error.errno or errno.EPROTO, str(error))
        os._exit(1)


def _unshare() -> None:
    """Have the next children of this process in a new PID namespace."""
    try:
        _call("unshare", _NEW_PIDS)
    except PermissionError:
        user, group = os.geteuid(), os.getegid()
        _call("unshare", _NEW_USER | _NEW_PIDS | _NEW_MOUNTS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _line(role: str, pid: int) -> str:
    return f"{role} {pid} {start_time(pid)}\n"


def _guide(record: Path, program: Program, writing: int, permitted: Callable[[], bool]) -> NoReturn:
    """Make the cell and run the program in it."""
    # Read while /proc still shows this process.
    listing = _descriptors()
    boot, own = _BOOT.read_text().strip(), _line(_GUIDE, os.getpid())
    outside = _namespace(os.getpid(), "user")
    life_reading, life_writing = os.pipe()
    ready_reading, ready_writing = os.pipe()
    _attempt(writing, _unshare)
    mounts = _namespace(os.getpid(), "user") != outside
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    _remove_drafts(record)
    draft = record.with_name(f"{record.name}.{os.getpid()}{_DRAFT}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
    ledger = os.open(draft, flags, 0o600)
    init = os.fork()
    if init == 0:
        _init_main(life_reading, ready_writing, ledger, mounts)
    os.close(ready_writing)
    os.close(life_reading)
    if os.read(ready_reading, 1) != b"1":
        report_failure(writing, Stage.ENTER, errno.EPROTO, "the init of the cell died")
        os._exit(1)
    os.close(ready_reading)
    # The new /proc does not show the init by its outer pid; the old one, still open, does.
    os.fchdir(proc)
    started = int(Path(f"{init}/stat").read_bytes().rpartition(b")")[2].split()[19])
    os.close(proc)
    os.chdir("/")
    os.write(ledger, f"{boot}\n{_INIT} {init} {started}\n{own}".encode())
    os.close(ledger)
    draft.replace(record)
    _run(program, writing, permitted, listing, {life_writing})


def _join(
    init: ProcessHandle,
    record: Path,
    program: Program,
    writing: int,
    permitted: Callable[[], bool],
) -> NoReturn:
    """Run the program in a cell that is there already."""
    listing = _descriptors()
    own = _line(_GUIDE, os.getpid())
    flags = {"user": _NEW_USER, "mnt": _NEW_MOUNTS, "pid": _NEW_PIDS}
    wanted = 0
    for name in _SHARED:
        theirs = _namespace(init.process, name)
        if theirs != _namespace(os.getpid(), name):
            wanted |= flags[name]

    def enter() -> None:
        # Open, and so locked, until this process and its program have closed all files.
        ledger = os.open(record, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        fcntl.flock(ledger, fcntl.LOCK_SH)
        if _ENDING in os.pread(ledger, os.fstat(ledger).st_size, 0).decode().splitlines():
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        os.write(ledger, own.encode())
        _call("setns", init.descriptor, wanted)

    _attempt(writing, enter)
    _run(program, writing, permitted, listing, set())


def _descriptors() -> int:
    return os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _run(
    program: Program,
    writing: int,
    permitted: Callable[[], bool],
    listing: int,
    life_writing: set[int],
) -> NoReturn:
    """Fork the program, pass signals on to it, and end as it ends.

    The end of this process closes ``life_writing``, which tells the init that it may look whether
    anybody is left.
    """
    try:
        command = os.fork()
    except OSError as error:
        report_failure(writing, Stage.ENTER, error.errno or errno.EPROTO, str(error))
        os._exit(1)
    if command == 0:
        # The exec closes life_writing here, or the exit does.
        become(program, writing, lambda: None, permitted)
    close_all_but({0, 1, 2, *life_writing}, listing)
    silence()
    os.setsid()
    while True:
        received = signal.sigwaitinfo(_PASSED_ON)
        # That of the kernel, about the program itself, is not for the program.
        if received.si_signo != signal.SIGCHLD or received.si_code <= 0:
            os.kill(command, received.si_signo)
        if received.si_signo != signal.SIGCHLD:
            continue
        ended, status = os.waitpid(command, os.WNOHANG)
        if ended:
            _end_as(status)


def _end_as(status: int) -> NoReturn:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _init_main(life_reading: int, ready_writing: int, ledger: int, mounts: bool) -> NoReturn:
    """Be pid 1: wait until the guide has ended, then until nobody is left."""
    try:
        if mounts:
            _mount_proc()
        close_all_but({life_reading, ready_writing, ledger})
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            if number not in (life_reading, ready_writing, ledger, nothing):
                os.dup2(nothing, number)
        os.setsid()
        os.chdir("/")
        os.write(ready_writing, b"1")
        os.close(ready_writing)
        os.read(life_reading, 1)
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                if _concluded(ledger):
                    os._exit(0)
                time.sleep(_LAST_POLL_SECONDS)
    finally:
        os._exit(1)


def _concluded(ledger: int) -> bool:
    """Tell whether nobody is left and nobody is about to join; then that is noted, and locked."""
    if not _alone():
        return False
    try:
        fcntl.flock(ledger, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if _alone():
        os.write(ledger, f"{_ENDING}\n".encode())
        return True
    fcntl.flock(ledger, fcntl.LOCK_UN)
    return False


def _alone() -> bool:
    """Tell whether this process is the only one of its namespace."""
    try:
        os.kill(-1, 0)
    except ProcessLookupError:
        return True
    return False


def _mount_proc() -> None:
    """Give the cell a /proc that shows its own processes, where the machine permits it."""
    try:
        _call("mount", b"none", b"/proc", None, _MOUNT_PRIVATE, None)
        _call("mount", b"proc", b"/proc", b"proc", _MOUNT_SAFE, None)
    except PermissionError:
        # Inside a container whose own /proc is partly hidden: the cell sees the outer one.
        return


def _namespace(pid: int, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{name}")  # noqa: PTH115  # no file behind it
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return ""  # gone, or another user's
