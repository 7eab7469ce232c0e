"""Ids and enumerations that occur everywhere."""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

__all__ = [
    "NO_NODE",
    "GroupId",
    "GroupPhase",
    "GroupStatus",
    "NetworkRole",
    "NodeId",
    "NodeStatus",
    "PairState",
    "ResourceId",
    "ResourceState",
    "Wish",
]

NodeId = NewType("NodeId", int)
"""Number of a node, 1..65535, given by the log when it joins and never given again."""
GroupId = NewType("GroupId", str)
"""Name of a group, unique in the cluster."""
ResourceId = NewType("ResourceId", str)
"""Name of a resource, unique in the cluster."""

NO_NODE = NodeId(0)


class Wish(StrEnum):
    """What the operator wants; survives every restart and leader change (I8)."""

    ONLINE = "online"
    OFFLINE = "offline"


class ResourceState(StrEnum):
    """State of a resource."""

    OFFLINE = "offline"
    ONLINE_PENDING = "online-pending"
    ONLINE = "online"
    OFFLINE_PENDING = "offline-pending"
    FAILED = "failed"


class GroupStatus(StrEnum):
    """State of a group, computed from its resources."""

    ONLINE = "online"
    OFFLINE = "offline"
    PENDING = "pending"
    PARTIAL = "partially-online"
    FAILED = "failed"


class GroupPhase(StrEnum):
    """What the owner of a group may do."""

    STOPPED = "stopped"
    """Nobody owns it; nothing runs."""
    ACTIVE = "active"
    """The owner may run its resources under the current generation."""
    CLOSING = "closing"
    """The owner stops everything and then attests the generation; nothing starts."""


class NodeStatus(StrEnum):
    """Standing of a node in the configuration (not whether it is up)."""

    LEARNER = "learner"
    MEMBER = "member"
    LEAVING = "leaving"


class PairState(StrEnum):
    """How the link between two nodes on one interconnect is, as both of them say."""

    UP = "up"
    DOWN = "down"
    ONE_WAY = "one-way"
    UNKNOWN = "unknown"


class NetworkRole(StrEnum):
    """What a network carries."""

    INTERCONNECT = "interconnect"
    CLIENT = "client"
    BOTH = "both"
