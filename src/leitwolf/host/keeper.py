"""What the host wants from the keeper: exit statuses of what it adopted, and that there is one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from leitwolf.resources import ExitStatus
from leitwolf.system.diary import log
from leitwolf.system.pidfd import ProcessHandle
from leitwolf.system.progress import Progress, Role, Slot
from leitwolf.wire.keeper import KEEPER, ExitAnswer, ExitQuery
from leitwolf.wire.layout import LayoutError

__all__ = ["ANSWER_TIMEOUT_S", "REVIVE_AFTER_S", "exit_status", "watch_keeper"]

ANSWER_TIMEOUT_S = 1.0
"""The status is for people; a failed resource does not wait longer for it."""
REVIVE_AFTER_S = 1.0
"""systemd restarts a killed keeper within 100 ms; only then it is the host's turn."""
_LOOK_S = 1.0
_ANSWER_BYTES_MAX = 256


async def exit_status(path: Path, pid: int, started: int) -> ExitStatus:
    """Ask the keeper how an adopted process ended: as the subreaper it has reaped it.

    Args:
        path: the keeper's socket.
        pid: of the process.
        started: its start in clock ticks after boot; 0: not known.

    Returns:
        ``ExitStatus()`` (unknown) when no keeper answers in ANSWER_TIMEOUT_S or it does not know.
    """
    loop = asyncio.get_running_loop()
    kinds = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_UNIX, kinds) as channel:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await loop.sock_connect(channel, str(path))
                await loop.sock_sendall(channel, KEEPER.encode(ExitQuery(pid, started)))
                answer = KEEPER.decode(await loop.sock_recv(channel, _ANSWER_BYTES_MAX))
        except (OSError, LayoutError):  # TimeoutError is one: no keeper, or a hanging one
            return ExitStatus()
    if not isinstance(answer, ExitAnswer) or not answer.known:
        return ExitStatus()
    return ExitStatus(answer.code, answer.signal)


async def watch_keeper(progress: Progress, revive: Callable[[], int]) -> None:
    """See to it that there is a keeper; never returns.

    Args:
        progress: its slot names the keeper.
        revive: starts a keeper, which ends at once when another has the lock; returns its process;
            raises OSError where none can be made, which is tried again.
    """
    loop = asyncio.get_running_loop()
    while True:
        slot = progress.slot(Role.KEEPER)
        keeper = ProcessHandle.adopt(slot.process, slot.started)
        if keeper is not None:
            ended = loop.create_future()
            loop.add_reader(keeper.descriptor, _set, ended)
            try:
                await ended
            finally:
                loop.remove_reader(keeper.descriptor)
                keeper.close()
        elif not slot.process:
            await asyncio.sleep(_LOOK_S)  # none was here yet: a host that somebody runs by hand
            continue
        await asyncio.sleep(REVIVE_AFTER_S)
        if progress.slot(Role.KEEPER) == slot:
            try:
                started = revive()
            except OSError as error:  # of memory or processes there are too few now: tried again
                log.critical("no keeper can be started", error=str(error))
                continue
            await _until_up(progress, slot, started)


async def _until_up(progress: Progress, former: Slot, process: int) -> None:
    """Wait until there is a keeper, or the one that was started ended without being it.

    On a busy machine a start takes seconds; starting another meanwhile makes it take more.
    """
    try:
        started = ProcessHandle(process)
    except ProcessLookupError:
        return
    try:
        while progress.slot(Role.KEEPER) == former and not started.ended():
            await asyncio.sleep(_LOOK_S)
    finally:
        started.close()


def _set(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
