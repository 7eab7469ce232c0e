"""Passive acceptors as the quorum core needs them; implemented on the machine and by the simulator.

Calls block; a driver makes them one at a time per acceptor, in a thread of its own. A failure is
a :class:`leitwolf.model.errors.WitnessError`. After one, what was written may have happened, may
happen later, or never (A4): the core decides nothing by it.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from leitwolf.model.log import Entry, Snapshot
from leitwolf.model.witness import CasObject, DiskBlock, Region
from leitwolf.wire.ballot import Ballot

__all__ = [
    "Cas",
    "CasFound",
    "CasGet",
    "CasPut",
    "CasWritten",
    "DiskCall",
    "DiskResult",
    "QuorumDisk",
    "RegionRead",
    "RegionWrite",
    "RemovableCas",
    "Versioned",
    "WitnessCall",
    "WitnessFault",
    "WitnessResult",
]


class RegionWrite(msgspec.Struct, frozen=True, kw_only=True):
    """Entries for the own region: behind what is there, or as a new content (``fresh``)."""

    region: int
    generation: int
    accepted: Ballot
    """Ballot of the leader that writes."""
    fresh: bool
    """Begin the region anew with ``snapshot`` and ``entries``; else append ``entries`` only."""
    entries: tuple[Entry, ...]
    snapshot: Snapshot | None = None


class RegionRead(msgspec.Struct, frozen=True, kw_only=True):
    """Read the region that a block names, and then all blocks again, whatever ``read`` says.

    Less than ``block.key`` is corruption, unless the block names another content by then.
    """

    block: DiskBlock


class DiskCall(msgspec.Struct, frozen=True, kw_only=True):
    """Up to five steps, in this order, each durable before the next begins."""

    write: RegionWrite | None = None
    block: DiskBlock | None = None
    """Written as copy A, flushed, then as copy B, flushed. Its ``sequence`` is raised above the one
    on the disk if need be."""
    fence: tuple[int, ...] = ()
    """Nodes whose right to write ends, what they have on its way included; one that is still a
    member gets it again when it opens the disk anew. Nothing where the disk cannot do that."""
    known: int = 0
    """Sequence of the own block that the caller knows to stand there. If a whole copy has less,
    the fault is ``witness-rolled-back`` and ``block`` is not written over the proof."""
    region: RegionRead | None = None
    read: bool = False
    """Read the blocks of all nodes."""


class DiskResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a :class:`DiskCall` found."""

    blocks: tuple[DiskBlock, ...] = ()
    """Of every node that ever wrote one, if ``read`` or ``region``."""
    region: Region | None = None
    """None: not asked for, or its block names another content by now, so what was read may be of
    both."""
    unfenced: str = ""
    """Why the disk cannot keep a node from writing, '': it can."""
    full: bool = False
    """Nothing of the call was done; begin the other region: there was no room for ``write``, or an
    earlier call failed so that there is nothing to append to, or that the region which ``write``
    would begin anew is named by the block on the disk already."""


class QuorumDisk(Protocol):
    """A formatted shared disk, opened for one node."""

    def call(self, call: DiskCall) -> DiskResult:
        """Do the steps of ``call``.

        Raises:
            WitnessError: the disk is gone, slow beyond its limit, holds something else, or what it
                holds is damaged.
        """
        ...

    def close(self) -> None:
        """Release the device; writes nothing."""
        ...


class Versioned(msgspec.Struct, frozen=True, kw_only=True):
    """A value with the version that a conditional write of it must name."""

    data: bytes
    version: str


class Cas(Protocol):
    """One value with compare-and-swap, by whatever is behind it.

    A version never comes again, also not with the same bytes or after a removal.
    """

    def get(self) -> Versioned | None:
        """Return the newest value, None: there is none. Never a stale one.

        Raises:
            WitnessError: nobody answers, or access is denied.
        """
        ...

    def put(self, data: bytes, expected: str | None) -> str | None:
        """Replace the value if its version still is ``expected`` (None: there is no value yet).

        Returns:
            The new version; None when somebody else wrote meanwhile: nothing changed.

        Raises:
            WitnessError: the reply was lost or refused; the write may have happened.
        """
        ...

    def close(self) -> None:
        """Release connections and locks."""
        ...


class CasGet(msgspec.Struct, frozen=True, kw_only=True):
    """Read the object."""


class CasPut(msgspec.Struct, frozen=True, kw_only=True):
    """Replace the object if its version still is ``expected``."""

    value: CasObject
    expected: str


class CasFound(msgspec.Struct, frozen=True, kw_only=True):
    """The object and its version."""

    value: CasObject
    version: str


class CasWritten(msgspec.Struct, frozen=True, kw_only=True):
    """The version that was written; '': somebody else wrote meanwhile."""

    version: str


class WitnessFault(msgspec.Struct, frozen=True, kw_only=True):
    """The call failed with a :class:`leitwolf.model.errors.WitnessError` of this code and text."""

    code: str
    text: str


WitnessCall = DiskCall | CasGet | CasPut
WitnessResult = DiskResult | CasFound | CasWritten | WitnessFault


class RemovableCas(Cas, Protocol):
    """What back-ends offer besides: needed for scratch values and by administrators."""

    def remove(self) -> None:
        """Remove the value, whatever its version is; there may be none.

        Raises:
            WitnessError: as for ``put``.
        """
        ...
