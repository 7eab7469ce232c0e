"""What stands on a passive acceptor: a shared disk, or an object with conditional writes.

A passive acceptor cannot decide anything. The proposer executes the acceptor's half of the protocol
on it (Disk Paxos: Gafni and Lamport 2003; ranked registers). Two shapes cover all of them:

- a **disk**: one *block* per node, written by that node alone, and two *regions* per node, one of
  which holds a snapshot and the entries behind it (raw device, shared file, iSCSI LUN);
- an **object**: one value that everybody reads and replaces by compare-and-swap (share, S3,
  witness daemon, etcd). In mode *tag* it names the key of the newest entry, in mode *full* it holds
  the snapshot and the entries as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from leitwolf.model.ids import NO_NODE, NodeId
from leitwolf.model.log import Entry, Snapshot
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY, Ballot, Key

__all__ = [
    "LASTING_FAULTS",
    "NO_BLOCK",
    "ROLLED_BACK",
    "WITNESS_ID_MIN",
    "CasObject",
    "DiskBlock",
    "Region",
    "WitnessMode",
    "is_evicted",
    "is_witness",
]

ROLLED_BACK = "witness-rolled-back"
"""Code of the fault of a disk or witness that was restored from an older copy."""
LASTING_FAULTS = frozenset(
    {ROLLED_BACK, "witness-damaged", "witness-foreign", "witness-unfit", "witness-unformatted"}
)
"""Codes of faults that do not pass by themselves: it is to be replaced, or repaired if unfit."""
WITNESS_ID_MIN = 60_000
"""Acceptors that are no nodes have ids from here on; nodes never reach it."""


def is_witness(node: int) -> bool:
    """Return whether an acceptor's id is that of a witness or disk, not of a node."""
    return node >= WITNESS_ID_MIN


class WitnessMode(StrEnum):
    """What an object holds."""

    TAG = "tag"
    """Only the key of the newest entry: a candidate that lacks it is refused."""
    FULL = "full"
    """Snapshot and entries too: a candidate that lacks something copies it."""


class _Item(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class DiskBlock(_Item, frozen=True, kw_only=True):
    """What one node says on a shared disk; both copies hold the same."""

    node: NodeId
    boot: int
    """Random number of the process that wrote it (64 bits): a stamp counts within one process."""
    sequence: int
    """Grows with every write of this block: of two whole copies the higher one is newer."""
    promised: Ballot = NO_BALLOT
    accepted: Ballot = NO_BALLOT
    """Ballot of the leader that wrote the region; NO_BALLOT: there is none."""
    region: int = 0
    """Which of the node's two regions counts, 0 or 1."""
    generation: int = 0
    """Number of the region's content: what an earlier use left in it does not count."""
    key: Key = NO_KEY
    """Last entry known to be in the region; more may follow, less is corruption."""
    commit: int = 0
    stamp: int = 0
    """Grows with every renewal; while it moves, its armed writer lives."""
    armed: bool = False
    """The writer derives a lease from this disk: challengers wait until the stamp stood still."""
    silence: int = 0
    """For how long (ns) it must stand still, whatever a challenger's own profile says."""
    released: bool = False
    """The writer gave its ballot up: nobody need wait for it."""
    evicted: tuple[int, ...] = ()
    """Numbers of nodes that were members once and are none any more, as the writer led last."""
    distrusted: bool = False
    """The writer found that this disk forgot something: nobody counts it any more."""

    def names_as(self, other: DiskBlock) -> bool:
        """Return whether it names the same content of the same region as an earlier one did.

        The generation alone is not enough: who died before its block was written gives it again.
        """
        mine = (self.accepted, self.region, self.generation)
        return mine == (other.accepted, other.region, other.generation)


NO_BLOCK = DiskBlock(node=NO_NODE, boot=0, sequence=0)
"""Of a node that never wrote: it promised nothing and holds nothing."""


def is_evicted(node: int, blocks: Iterable[DiskBlock]) -> bool:
    """Return whether the newest leader that wrote there says that a node is no member any more."""
    newest = max(blocks, key=lambda block: block.accepted, default=NO_BLOCK)
    return node in newest.evicted


class Region(_Item, frozen=True, kw_only=True):
    """Content of a region, as far as it is whole: a log from its beginning."""

    accepted: Ballot
    snapshot: Snapshot | None = None
    entries: tuple[Entry, ...] = ()


class CasObject(_Item, frozen=True, kw_only=True):
    """The value of an object acceptor."""

    cluster: str
    """UUID of the cluster; an object of another one is never touched."""
    storage: str
    """UUID of the object: a new one forgot its promises and is another acceptor."""
    mode: WitnessMode
    promised: Ballot = NO_BALLOT
    accepted: Ballot = NO_BALLOT
    key: Key = NO_KEY
    """Newest entry accepted here; ``entries`` end with it in mode full."""
    commit: int = 0
    holder: Ballot = NO_BALLOT
    """Ballot whose owner renews here."""
    stamp: int = 0
    armed: bool = False
    silence: int = 0
    """For how long (ns) an armed stamp must stand still, whatever a challenger's profile says."""
    released: bool = False
    distrusted: bool = False
    """Somebody found that this object forgot something: nobody counts it any more."""
    nonce: int = 0
    """Of the writer, random for each write (64 bits): after a lost reply it tells whose it is."""
    snapshot: Snapshot | None = None
    entries: tuple[Entry, ...] = ()
