"""Which node reaches which disk or witness: told by each to all, before anybody needs it. Pure.

Rules:

- Only what a node saw itself is told: whether its last call of a disk or witness succeeded, and
  what silence its calls ask for.
- It is told when it changes, and to each node that comes within reach. It is shown to people;
  nothing is decided by it.

What this does not guarantee: that a path which was there a few seconds ago is there when it is
needed.
"""

from __future__ import annotations

from collections.abc import Iterable

from leitwolf.core.lease.profile import MILLISECOND
from leitwolf.core.quorum.passive import Passive
from leitwolf.model.ids import NodeId
from leitwolf.model.observations import PathReport, PathState

__all__ = ["Paths"]


class Paths:
    """What this node and the others said of their ways to disks and witnesses."""

    def __init__(self) -> None:
        self.own: tuple[PathState, ...] = ()
        self.others: dict[NodeId, tuple[PathState, ...]] = {}
        """By node, of those within reach."""

    def note(self, passives: Iterable[Passive], wall_base: int) -> PathReport | None:
        """Take in what the own calls showed; return what is to be told, None: nothing new.

        Args:
            passives: the disks and witnesses in use.
            wall_base: what turns RAW into wall-clock time, ns.
        """
        own = []
        known = {path.storage: path for path in self.own}
        for passive in passives:
            if passive.reached_since < 0:
                continue
            storage, fault = passive.acceptor.id.storage, passive.fault
            former = known.get(storage)
            since = passive.reached_since + wall_base
            if former is not None and bool(former.fault) == bool(fault):
                fault, since = former.fault, former.since_wall
            silence_ms = passive.asks // MILLISECOND
            own.append(
                PathState(storage=storage, fault=fault, since_wall=since, silence_ms=silence_ms)
            )
        if tuple(own) == self.own:
            return None
        self.own = tuple(own)
        return PathReport(paths=self.own)

    def heard(self, node: NodeId, report: PathReport) -> None:
        """Take in what another node said."""
        self.others[node] = report.paths

    def lost(self, node: NodeId) -> None:
        """A node is not within reach any more: what it said is old."""
        self.others.pop(node, None)
