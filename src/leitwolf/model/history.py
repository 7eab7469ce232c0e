"""In which history a node is, as nodes tell each other."""

from __future__ import annotations

import msgspec

from leitwolf.wire.lineage import Lineage

__all__ = ["HistoryStanding"]


class HistoryStanding(msgspec.Struct, frozen=True, kw_only=True):
    """In which history a node is."""

    lineage: Lineage = ()
    established: bool = True
    """The first entry of the history is known to be committed."""
    named: tuple[int, ...] = ()
    """While it is not: the nodes that are to go on, where they are known."""
    forced: int = 0
    """Index of the first entry of the history; 0: nobody ever forced anything, or not known."""
