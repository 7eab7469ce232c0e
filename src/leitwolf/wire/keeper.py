"""What the host of a node, or the next keeper, asks a keeper.

Channel: SOCK_SEQPACKET on ``keeper.sock`` in the runtime directory, one message per packet, each
question answered by one answer. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

from leitwolf.wire.layout import Registry

__all__ = [
    "KEEPER",
    "Accepted",
    "Declined",
    "ExitAnswer",
    "ExitQuery",
    "GiveWay",
    "KeeperMessage",
    "RestartKeeper",
]

KEEPER = Registry()


@KEEPER.message(1)
@dataclass(frozen=True, slots=True)
class ExitQuery:
    """How did the process end that my predecessor started? The keeper inherited and reaped it."""

    process: int
    started: int
    """Clock ticks after boot, which tell two processes of one id apart; 0: whichever was last."""


@KEEPER.message(2)
@dataclass(frozen=True, slots=True)
class RestartKeeper:
    """Replace your program by the installed one; nothing else is restarted."""


@KEEPER.message(3)
@dataclass(frozen=True, slots=True)
class GiveWay:
    """I was started by the service manager and you were not: end, and leave me what runs."""


@KEEPER.message(32)
@dataclass(frozen=True, slots=True)
class ExitAnswer:
    """Answer to :class:`ExitQuery`."""

    process: int
    known: bool
    code: int
    """Exit code, -1 when a signal ended it or nothing is known."""
    signal: int
    """Signal that ended it, 0: none."""


@KEEPER.message(33)
@dataclass(frozen=True, slots=True)
class Accepted:
    """The order will be carried out."""


@KEEPER.message(34)
@dataclass(frozen=True, slots=True)
class Declined:
    """The order will not be carried out."""


KeeperMessage = ExitQuery | RestartKeeper | GiveWay | ExitAnswer | Accepted | Declined
