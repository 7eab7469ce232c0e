"""Whom this node heard last: before a quorum is forced, silence must be certain (L11)."""

from __future__ import annotations

from leitwolf.core.lease.profile import MILLISECOND
from leitwolf.model.ids import NodeId
from leitwolf.wire.guard import LinkReport

__all__ = ["SILENCE_NS", "Ears"]

SILENCE_NS = 3_200 * MILLISECOND
"""A living guard answers a probe each second; two of them may be lost on the way."""


class Ears:
    """Signs of life of other nodes: streams, messages, attempts to connect, guards. RAW ns."""

    def __init__(self) -> None:
        self._heard: dict[NodeId, int] = {}
        self._streams: set[NodeId] = set()

    def note(self, now: int, node: int) -> None:
        """``node`` said something, whatever it was."""
        self._heard[NodeId(node)] = now

    def stream(self, now: int, node: int, *, up: bool) -> None:
        """A stream to ``node`` is up, or no more."""
        self.note(now, node)
        (self._streams.add if up else self._streams.discard)(NodeId(node))

    def links(self, now: int, report: LinkReport) -> None:
        """The guard told when it heard which node on which link."""
        for link in report.links:
            if link.age >= 0:
                node = NodeId(link.node)
                self._heard[node] = max(self._heard.get(node, 0), now - link.age)

    def silent_for(self, now: int, node: NodeId) -> int:
        """Return for how long (ns) nothing was heard of ``node``, -1: nothing ever was."""
        if node in self._streams:
            return 0
        return now - self._heard[node] if node in self._heard else -1

    def heard(self, now: int, within: int) -> set[NodeId]:
        """Return the nodes that gave a sign of life within the last ``within`` ns."""
        return {node for node in self._heard if 0 <= self.silent_for(now, node) <= within}
