"""From fork to exec: how a program is started inside a cell. Standard library only.

Rules:
- Between fork and exec only code of this package runs, and it enters the cell first, asks for the
  permission second, and executes third.
- The starter learns the outcome over a pipe that the exec closes: no byte means that it runs.
- The program inherits nothing but its output: default signals, nothing blocked, its own session,
  SCHED_OTHER, nice 0 at least, no protection from the out-of-memory killer, umask 022, stdin from
  /dev/null. Nothing limits what it may become (``no_new_privs`` stays off).

Call it from a process without other threads: the child runs Python code.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import select
import signal
import struct
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn

__all__ = [
    "START_SECONDS",
    "Child",
    "Program",
    "SpawnRefused",
    "Stage",
    "become",
    "close_all_but",
    "fork_child",
    "redirect",
    "report_failure",
    "restore_signals",
    "silence",
]

START_SECONDS: Final = 5.0
"""A child that has neither executed nor failed by then is killed (its cell may be frozen)."""

_REFUSED_CODE, _FAILED_CODE = 126, 127
_OUTCOME = struct.Struct("=ii")
_TEXT_BYTES_MAX = 3500
"""Together with the outcome below PIPE_BUF, so one write holds it."""
_FIRST_FREE = 3


class Child(NamedTuple):
    """A child process that the caller must reap."""

    pid: int
    pidfd: int
    """Descriptor that becomes readable at its end; the caller closes it."""


class SpawnRefused(OSError):
    """The permission was gone when the child asked for it: nothing was executed."""

    def __init__(self) -> None:
        super().__init__(errno.ECANCELED, "not permitted to run any more")


class Stage(enum.IntEnum):
    """How far a child came before it failed."""

    ENTER = 1
    PERMITTED = 2
    SETUP = 3
    EXECUTE = 4
    BROKEN = 5


@dataclass(frozen=True, slots=True)
class Program:
    """What to execute, and as whom."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    """The whole environment; its PATH finds the program."""
    directory: str
    """Working directory; empty: the root."""
    user: int | None
    """Numeric; None, as for the group: that of this process."""
    group: int | None
    groups: Iterable[int]
    """Supplementary groups, set by root when user or group is given."""
    output: int
    """Descriptor for standard output and error."""


def fork_child(name: str, main: Callable[[int], NoReturn]) -> Child:
    """Fork, run ``main`` in the child and wait until its descriptor is closed.

    Args:
        name: of the program, for errors.
        main: runs in the child with all signals blocked and the write end of the pipe.

    Raises:
        SpawnRefused: the child was refused.
        OSError: it failed; ETIMEDOUT: it did neither within :data:`START_SECONDS`.
    """
    reading, writing = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _run(main, writing)
    except OSError:
        os.close(reading)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(writing)
    try:
        pidfd = os.pidfd_open(pid)
        outcome = _await_outcome(reading)
    finally:
        os.close(reading)
    if outcome == b"":
        return Child(pid, pidfd)
    if outcome is None:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    _reap(pid, pidfd)
    if outcome is None:
        raise TimeoutError(errno.ETIMEDOUT, "the child did not execute in time", name)
    raise _failure(name, outcome)


def _run(main: Callable[[int], NoReturn], writing: int) -> NoReturn:
    try:
        main(writing)
    except BaseException:  # noqa: BLE001  # whatever it is, this process must not go on as its parent
        report_failure(writing, Stage.BROKEN, 0, traceback.format_exc())
    os._exit(_FAILED_CODE)


def _await_outcome(reading: int) -> bytes | None:
    """Return what the child says, nothing when it executed, None when time is over."""
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    if not poll.poll(START_SECONDS * 1000):
        return None
    return os.read(reading, select.PIPE_BUF)


def _reap(pid: int, pidfd: int) -> None:
    """Wait for a child that is about to end; one that hangs in the kernel is left to the keeper."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if poll.poll(START_SECONDS * 1000):
        os.waitpid(pid, 0)
    os.close(pidfd)


def _failure(name: str, outcome: bytes) -> OSError:
    stage, number = _OUTCOME.unpack_from(outcome)
    if stage == Stage.PERMITTED:
        return SpawnRefused()
    if stage == Stage.EXECUTE:
        return OSError(number, os.strerror(number), name)
    text = outcome[_OUTCOME.size :].decode(errors="replace")
    return OSError(number or errno.EPROTO, f"{name} not started: {text}")


def report_failure(writing: int, stage: Stage, number: int, text: str) -> None:
    """Tell the starter that it failed."""
    os.write(writing, _OUTCOME.pack(stage, number) + text.encode()[-_TEXT_BYTES_MAX:])


def become(
    program: Program, writing: int, enter: Callable[[], None], permitted: Callable[[], bool]
) -> NoReturn:
    """Enter the cell, ask for the permission, and execute the program.

    Args:
        program: what to execute.
        writing: where to report a failure; closed by the exec.
        enter: moves this process into the cell.
        permitted: read after that, whatever happened before does not count.
    """
    stage = Stage.ENTER
    try:
        os.setsid()
        enter()
        stage = Stage.PERMITTED
        if not permitted():
            report_failure(writing, stage, 0, "")
            os._exit(_REFUSED_CODE)
        stage = Stage.SETUP
        _set_up(program, writing)
        stage = Stage.EXECUTE
        restore_signals()
        os.execvpe(program.argv[0], list(program.argv), dict(program.environment))  # noqa: S606
    except OSError as error:
        broken = Stage.SETUP if stage == Stage.PERMITTED else stage
        report_failure(writing, broken, error.errno or errno.EPROTO, str(error))
    os._exit(_FAILED_CODE)


def _set_up(program: Program, writing: int) -> None:
    if int(_read("/proc/self/oom_score_adj")) < 0:
        _write("/proc/self/oom_score_adj", b"0")
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    if os.getpriority(os.PRIO_PROCESS, 0) < 0:
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    os.umask(0o022)
    redirect(program.output)
    close_all_but({0, 1, 2, writing})
    if os.geteuid() == 0 and (program.user is not None or program.group is not None):
        os.setgroups(list(program.groups))
    if program.group is not None:
        os.setresgid(program.group, program.group, program.group)
    if program.user is not None:
        os.setresuid(program.user, program.user, program.user)
    os.chdir(program.directory or "/")


def redirect(output: int) -> None:
    """Make standard output and error of this process ``output``, and its input empty."""
    spare = fcntl.fcntl(output, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (spare, 1), (spare, 2)):
        if source == target:
            os.set_inheritable(target, True)
        else:
            os.dup2(source, target)
    os.close(spare)
    if nothing >= _FIRST_FREE:
        os.close(nothing)


def silence() -> None:
    """Let go of this process's standard streams."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    redirect(nothing)
    if nothing >= _FIRST_FREE:
        os.close(nothing)


def close_all_but(kept: set[int], listing: str | int = "/proc/self/fd") -> None:
    """Close every descriptor of this process that is not kept.

    Args:
        kept: stay open.
        listing: the directory that lists them: its path, or a descriptor of it, for who has
            another /proc by now.
    """
    for number in map(int, os.listdir(listing)):  # noqa: PTH208  # numbers
        if number not in kept:
            try:
                os.close(number)
            except OSError as error:
                # The listing shows its own descriptor, which is closed by now.
                if error.errno != errno.EBADF:
                    raise


def restore_signals() -> None:
    """Give every signal its default meaning, and block none."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
