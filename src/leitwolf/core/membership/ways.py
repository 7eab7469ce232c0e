"""What follows of the ways to disks and witnesses that nodes told of: who lacks which. Pure.

What a node told is seconds old: it looks every 5 s. A node that told nothing yet lacks nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from leitwolf.model.ids import NodeId
from leitwolf.model.observations import PathState
from leitwolf.model.quorum import Acceptor

__all__ = ["CHECKS", "advice", "blind", "since", "to"]

CHECKS = {"disk": "quorum disk check", "object": "witness test"}
"""Commands that look closer, by the kind of the acceptor."""


def to(
    acceptor: Acceptor, told: Mapping[NodeId, Iterable[PathState]]
) -> list[tuple[NodeId, PathState]]:
    """Return what each node told of its way to a disk or witness, by node."""
    return [
        (node, path)
        for node in sorted(told)
        for path in told[node]
        if path.storage == acceptor.id.storage
    ]


def blind(
    acceptors: Iterable[Acceptor], told: Mapping[NodeId, Iterable[PathState]]
) -> dict[NodeId, frozenset[NodeId]]:
    """Return which of these disks and witnesses a node does not reach, or refuses, by node."""
    found: dict[NodeId, frozenset[NodeId]] = {}
    for acceptor in acceptors:
        for node, path in to(acceptor, told):
            if path.fault:
                found[node] = found.get(node, frozenset()) | {acceptor.id.node}
    return found


def since(path: PathState) -> str:
    """Return for people since when a node reaches a disk or witness, or does not."""
    return datetime.fromtimestamp(path.since_wall / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def advice(who: str, kind: str, where: str) -> str:
    """Say what to do about a disk or witness of this kind that a node does not reach."""
    return f"on {who}: leitwolf {CHECKS[kind]} {where}; another way to it: leitwolf quorum relocate"
