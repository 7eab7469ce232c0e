"""The quorum core: owned ballots, weighted joint quorums, replication, reconfiguration, snapshots.

Sans-I/O: :class:`QuorumCore` takes inputs and hands out effects and signals. See
:mod:`leitwolf.core.quorum.machine` for its rules.
"""

from __future__ import annotations

from leitwolf.core.quorum.machine import QuorumCore
from leitwolf.core.quorum.predicate import agreed, is_quorum, voters
from leitwolf.core.quorum.reconfigure import verify_change
from leitwolf.core.quorum.signals import (
    Behind,
    Committed,
    Elected,
    LeaderSeen,
    MayLead,
    Restored,
    Signal,
    SteppedDown,
    TransferFailed,
)
from leitwolf.core.quorum.view import PeerProgress, Role

__all__ = [
    "Behind",
    "Committed",
    "Elected",
    "LeaderSeen",
    "MayLead",
    "PeerProgress",
    "QuorumCore",
    "Restored",
    "Role",
    "Signal",
    "SteppedDown",
    "TransferFailed",
    "agreed",
    "is_quorum",
    "verify_change",
    "voters",
]
