"""What a user would take instead: what keepalived and Pacemaker need, beside our rows.

They were measured once, not in this run, and each row says so in its note: Debian 12, two cores,
November 2026, medians of five runs; nodes in namespaces and a prober as here, outage defined as
here (``docs/performance.md``, "Peers"). keepalived 2.2.7 advertises every 0.1 s (every 0.02 s it
takes over by mistake beside busy loops) and has no quorum; Pacemaker 2.1.5 runs on corosync 3.1.7
with a token of 300 ms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.rows import Row

__all__ = [
    "CRASH",
    "FROZEN_AGAIN",
    "FROZEN_TWO",
    "MOVE",
    "PARTITION",
    "PARTITION_AGAIN",
    "PARTITION_TWO",
    "START",
    "Peer",
    "beside",
]


@dataclass(frozen=True, slots=True)
class Peer:
    """A figure of a peer: of the one that is named first, in the unit of the row."""

    value: float
    who: str


CRASH = Peer(295, "keepalived; Pacemaker 773")
PARTITION = Peer(290, "keepalived, all networks cut; Pacemaker 1138")
PARTITION_TWO = Peer(1070, "Pacemaker, median")
PARTITION_AGAIN = Peer(5438, "keepalived, all networks cut, worst; Pacemaker 0")
FROZEN_TWO = Peer(8506, "Pacemaker, frozen for 10 s, median; keepalived 9690")
FROZEN_AGAIN = Peer(1410, "Pacemaker, worst")
MOVE = Peer(62, "keepalived; Pacemaker 97")
START = Peer(0.39, "keepalived, which forms no quorum; Pacemaker 25.2")


def beside(row: Row, peer: Peer) -> Row:
    """Return a row with what a peer needs, and who that is in the note."""
    said = f"peer, not in this run: {peer.who}"
    return replace(row, peer=peer.value, note=f"{row.note}; {said}" if row.note else said)
