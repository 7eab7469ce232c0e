"""``keeper.sock``: questions to a keeper. It never blocks; who breaks the protocol is dropped."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from leitwolf.keeper.reaper import Reaper
from leitwolf.wire.keeper import (
    KEEPER,
    Accepted,
    Declined,
    ExitAnswer,
    ExitQuery,
    GiveWay,
    RestartKeeper,
)
from leitwolf.wire.layout import LayoutError

__all__ = ["Control", "ask_to_give_way"]

_QUESTION_BYTES_MAX = 256
_CLIENTS_MAX = 16
_ANSWER_S = 1.0


class Control:
    """Listener and connections.

    Args:
        path: of the socket; one that is there is replaced.
        reaper: knows how processes ended.
        restart: called when the keeper is to replace its program.
        give_way: called when it is to end for another one; tells whether it will.

    Raises:
        OSError: the socket cannot be made.
    """

    def __init__(
        self,
        path: Path,
        reaper: Reaper,
        restart: Callable[[], None],
        give_way: Callable[[], bool],
    ) -> None:
        self._reaper = reaper
        self._restart = restart
        self._give_way = give_way
        self._clients: dict[int, socket.socket] = {}
        self._listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        self._listener.bind(str(fresh))
        fresh.chmod(0o600)
        self._listener.listen(_CLIENTS_MAX)
        fresh.rename(path)

    def descriptors(self) -> list[int]:
        """Return what to poll for reading."""
        return [self._listener.fileno(), *self._clients]

    def serve(self, descriptor: int) -> None:
        """Do what a readable descriptor asks for."""
        if descriptor == self._listener.fileno():
            self._accept()
            return
        client = self._clients.get(descriptor)
        if client is None:
            return
        try:
            packet = client.recv(_QUESTION_BYTES_MAX)
            if not packet:
                raise ConnectionResetError
            client.send(KEEPER.encode(self._answer(KEEPER.decode(packet))))
        except BlockingIOError:
            return
        except (OSError, LayoutError):
            del self._clients[descriptor]
            client.close()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return  # it gave up
        client.setblocking(False)
        if len(self._clients) >= _CLIENTS_MAX:
            client.close()
            return
        self._clients[client.fileno()] = client

    def _answer(self, question: object) -> ExitAnswer | Accepted | Declined:
        if isinstance(question, ExitQuery):
            self._reaper.reap()
            found = self._reaper.status(question.process, question.started)
            if found is None:
                return ExitAnswer(question.process, known=False, code=-1, signal=0)
            return ExitAnswer(question.process, known=True, code=found.code, signal=found.signal)
        if isinstance(question, RestartKeeper):
            self._restart()
            return Accepted()
        if isinstance(question, GiveWay):
            return Accepted() if self._give_way() else Declined()
        raise LayoutError(f"{type(question).__name__} is no question")

    def close(self) -> None:
        """Close everything; the name stays for the next keeper to replace."""
        for client in self._clients.values():
            client.close()
        self._clients = {}
        self._listener.close()


def ask_to_give_way(path: Path) -> bool | None:
    """Ask the keeper that listens there to end for this one.

    Returns:
        Whether it will; None: nobody answers, as it has just begun, or ended.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as channel:
        channel.settimeout(_ANSWER_S)
        try:
            channel.connect(str(path))
            channel.send(KEEPER.encode(GiveWay()))
            return isinstance(KEEPER.decode(channel.recv(_QUESTION_BYTES_MAX)), Accepted)
        except (OSError, LayoutError):
            return None
