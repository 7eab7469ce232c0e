"""What the log adds up to so far, one record after the other.

The same code runs when records are written, when a log is read after a start, and when its history
is read; so what was refused before it was written cannot be found later, except through damage.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from leitwolf.model.errors import StorageError
from leitwolf.model.log import WitnessRecord
from leitwolf.store.record import NO_CHAIN, Kind
from leitwolf.store.segment import SegmentHeader, SnapshotReference
from leitwolf.wire.ballot import NO_BALLOT, Ballot
from leitwolf.wire.lineage import Lineage

__all__ = ["Contradiction", "Head"]

_WITNESSES_KEPT = 2
"""During a change there are two; they have to fit into the header of a segment."""


class Contradiction(StorageError):
    """A record does not fit to what stands before it."""

    code = "contradiction"


@dataclass(slots=True, kw_only=True)
class Head:
    """Position, chain and sums at the end of the records seen so far."""

    position: int = 0
    chain: bytes = NO_CHAIN
    promised: Ballot = NO_BALLOT
    commit: int = 0
    last_index: int = 0
    snapshots: tuple[SnapshotReference, ...] = ()
    witnesses: tuple[WitnessRecord, ...] = ()
    lineage: Lineage = ()

    @classmethod
    def at(cls, header: SegmentHeader) -> Head:
        """Return the head at the beginning of a segment."""
        return cls(
            position=header.position,
            chain=header.chain,
            promised=header.promised,
            commit=header.commit,
            last_index=header.last_index,
            snapshots=header.snapshots,
            witnesses=header.witnesses,
            lineage=header.lineage,
        )

    def copy(self) -> Head:
        """Return an independent copy."""
        return Head(
            position=self.position,
            chain=self.chain,
            promised=self.promised,
            commit=self.commit,
            last_index=self.last_index,
            snapshots=self.snapshots,
            witnesses=self.witnesses,
            lineage=self.lineage,
        )

    def take(self, kind: Kind, ballot: Ballot, index: int, payload: bytes) -> None:
        """Add what a record says. Position and chain are the caller's.

        Raises:
            Contradiction: it does not fit; the head is unchanged.
        """
        if kind is Kind.ENTRY:
            _demand(index == self.last_index + 1, f"entry {index} follows entry {self.last_index}")
            self.last_index = index
            self.promised = max(self.promised, ballot)  # R3
        elif kind is Kind.PROMISED:
            _demand(ballot >= self.promised, f"promise {ballot} is below {self.promised}")
            self.promised = ballot
        elif kind is Kind.TRUNCATE:
            _demand(index > self.commit, f"truncation at {index}, committed is {self.commit}")
            self.last_index = min(self.last_index, index - 1)
        elif kind is Kind.COMMIT:
            _demand(index <= self.last_index, f"commit {index}, last entry is {self.last_index}")
            self.commit = max(self.commit, index)
        elif kind is Kind.WITNESS:
            self._take_witness(payload)
        elif kind is Kind.FORCED:
            self._take_lineage(ballot, payload)
        else:
            self._take_snapshot(payload)

    def _take_witness(self, payload: bytes) -> None:
        try:
            record = msgspec.msgpack.decode(payload, type=WitnessRecord)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Contradiction(f"record of a witness: {error}") from error
        others = (known for known in self.witnesses if known.storage != record.storage)
        self.witnesses = (*others, record)[-_WITNESSES_KEPT:]

    def _take_lineage(self, ballot: Ballot, payload: bytes) -> None:
        try:
            lineage = msgspec.msgpack.decode(payload, type=Lineage)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Contradiction(f"lineage of a history: {error}") from error
        _demand(len(lineage) == ballot.epoch, f"history of {len(lineage)} forces at {ballot}")
        _demand(ballot >= self.promised, f"forced at {ballot}, promised is {self.promised}")
        self.promised, self.lineage = ballot, lineage

    def _take_snapshot(self, payload: bytes) -> None:
        try:
            reference = msgspec.msgpack.decode(payload, type=SnapshotReference)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Contradiction(f"snapshot reference: {error}") from error
        index = reference.last.index
        if reference.reset:
            self.snapshots = (reference,)
            self.last_index = self.commit = index
        else:
            _demand(index <= self.last_index, f"snapshot {index}, last is {self.last_index}")
            self.snapshots = (*self.snapshots[-1:], reference)
            self.commit = max(self.commit, index)
        self.promised = max(self.promised, reference.last.ballot)


def _demand(condition: bool, text: str) -> None:
    if not condition:
        raise Contradiction(text)
