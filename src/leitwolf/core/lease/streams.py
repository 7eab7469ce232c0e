"""Could the others decide without the leader, while it cannot with them? Standard library only.

Heartbeats may pass where the streams of the daemons do not: another port, another protocol. Such a
leader keeps its lease, every guard stays bound to it (R5), and nothing is ever decided. So each
guard says in its acks with whom its daemon has no stream (*apart*), and the guard in office gives
up when both hold for a while:

- with the nodes whose daemons it has streams with, it is no quorum: it can commit nothing;
- there are voters that all have streams with a quorum *of each other*: the most up-to-date of
  them wins whatever the rest does, since none of its quorum knows more than it does (R2).

When the whole network is slow or dead, the second does not hold, and the leader stays: its leases
keep the groups running. A stream counts when both of its ends say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from leitwolf.wire.guard import Votes

__all__ = ["PATIENCE_NS", "stranded"]

PATIENCE_NS = 1_000_000_000
"""Ends of streams notice a silence up to so much apart, pauses between calls included."""


def stranded(me: int, active: Sequence[Votes], apart: Mapping[int, Iterable[int]]) -> bool:
    """Tell whether the others could commit without ``me``, which can commit nothing with them.

    Args:
        me: the node in office.
        active: the active configurations.
        apart: for every node that was heard lately, ``me`` included, the nodes with which its
            daemon has no stream.
    """
    strangers = {node: frozenset(others) for node, others in apart.items()}
    linked = {
        node: {
            other
            for other in strangers
            if other not in strangers[node] and node not in strangers[other]
        }
        for node in strangers
    }
    if _quorum(active, linked[me] | {me}):
        return False
    able = {node for votes in active for node in votes.nodes} & linked.keys() - {me}
    while able:
        weak = {node for node in able if not _quorum(active, linked[node] & able | {node})}
        if not weak:
            return True
        able -= weak
    return False


def _quorum(active: Sequence[Votes], nodes: set[int]) -> bool:
    """Return whether the nodes are a quorum of every active configuration."""
    return all(
        2 * sum(weight for node, weight in pairs if node in nodes) > sum(votes.weights)
        for votes in active
        for pairs in [zip(votes.nodes, votes.weights, strict=True)]
    )
