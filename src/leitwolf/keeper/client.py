"""Asking the keeper, for hosts. Blocks at most for its timeout. Standard library only."""

from __future__ import annotations

import socket
from pathlib import Path

from leitwolf.wire.keeper import KEEPER, ExitAnswer, ExitQuery, KeeperMessage, RestartKeeper
from leitwolf.wire.layout import LayoutError

__all__ = ["exit_status", "restart_keeper"]

_ANSWER_BYTES_MAX = 256


def exit_status(
    path: Path, process: int, started: int = 0, timeout_s: float = 1.0
) -> ExitAnswer | None:
    """Return how a process ended that the keeper inherited, None: nobody knows.

    Args:
        path: ``keeper.sock`` of the runtime directory.
        process: its id.
        started: its start in clock ticks after boot, 0: unknown.
        timeout_s: longest wait for the keeper.
    """
    answer = _ask(path, ExitQuery(process, started), timeout_s)
    return answer if isinstance(answer, ExitAnswer) and answer.known else None


def restart_keeper(path: Path, timeout_s: float = 1.0) -> bool:
    """Have the keeper replace its program; tell whether it will."""
    return _ask(path, RestartKeeper(), timeout_s) is not None


def _ask(path: Path, question: KeeperMessage, timeout_s: float) -> KeeperMessage | None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            channel.settimeout(timeout_s)
            channel.connect(str(path))
            channel.send(KEEPER.encode(question))
            answer: KeeperMessage = KEEPER.decode(channel.recv(_ANSWER_BYTES_MAX))
    except (OSError, LayoutError):
        return None  # no keeper, or one of another version: nobody knows
    return answer
