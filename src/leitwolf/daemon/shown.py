"""What a hello shows of the storage of this node."""

from __future__ import annotations

import msgspec

from leitwolf.core.node import Node
from leitwolf.model.history import HistoryStanding
from leitwolf.store import QuorumLog
from leitwolf.wire.ballot import Ballot, Key

__all__ = ["Shown"]


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """Promise, last entry, number and chain of the records, as they were at one moment."""

    promised: Ballot
    last: Key
    position: int
    chain: bytes
    history: HistoryStanding

    @classmethod
    def of(cls, node: Node, store: QuorumLog) -> Shown:
        """Return what the core and the log hold now."""
        quorum = node.quorum
        return cls(
            promised=quorum.promised,
            last=quorum.last_key,
            position=store.position,
            chain=store.chain,
            history=node.history,
        )
