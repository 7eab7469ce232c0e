"""What was seen of a passive acceptor, against one that is restored from an older copy.

Rules:

- Whatever stands on a disk or object only grows: the sequence of every block, the stamp, the
  promise and the key of an object. One that shows less than this node saw there has forgotten
  promises or entries. It is never counted again; the configuration knows it by its storage, so only
  another formatting, which has another one, takes its place.
- What matters of it is in the own log, too, so that this outlives a restart.

Theory of operation: a block or an object that was confirmed or read is durable there (A2). All
writers raise the numbers (the disk's adapter raises a sequence above the one that stands there), so
a smaller one can only come from a copy that was made before.

What this does not guarantee: that anybody notices. Who did not see what a copy lacks cannot miss
it; an owner that is down when its disk is restored is not asked by the others.
"""

from __future__ import annotations

from collections.abc import Mapping

from leitwolf.model.log import WitnessRecord
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY, Ballot, Key

__all__ = ["Memory"]


class Memory:
    """The most that this node ever saw of one passive acceptor."""

    def __init__(self, storage: str, former: WitnessRecord | None) -> None:
        """Begin with what an earlier life wrote down, if it did."""
        self._storage = storage
        self._sequences = dict(former.sequences) if former is not None else {}
        self._promised = former.promised if former is not None else NO_BALLOT
        self._key = former.key if former is not None else NO_KEY

    def lost(
        self, sequences: Mapping[int, int], promised: Ballot = NO_BALLOT, key: Key = NO_KEY
    ) -> str:
        """Return in words what is not there any more; '': all that was there is.

        Args:
            sequences: by node, of the blocks that stand there; of an object its stamp, by 0.
            promised: of an object.
            key: of an object.
        """
        for node, known in self._sequences.items():
            shown = sequences.get(node, 0)
            if shown < known:
                what = f"block {known} of node {node}" if node else f"renewal {known}"
                return f"{what} stood there, now it is {shown}"
        if promised < self._promised:
            return f"ballot {self._promised} was promised there, now it is {promised}"
        if key < self._key:
            return f"entry {self._key.index} stood there, now it is {key.index}"
        return ""

    def note(
        self, sequences: Mapping[int, int], promised: Ballot = NO_BALLOT, key: Key = NO_KEY
    ) -> None:
        """Take in what is known to stand there."""
        for node, shown in sequences.items():
            self._sequences[node] = max(shown, self._sequences.get(node, 0))
        self._promised = max(promised, self._promised)
        self._key = max(key, self._key)

    def signs(self, me: int) -> object:
        """Return what others than ``me`` wrote there last: it changes when they write again.

        None: whatever stands there this node wrote itself.
        """
        if self._promised.node == me:
            return None
        others = {node: shown for node, shown in self._sequences.items() if node != me}
        return others, self._promised, self._key

    def sequence(self, node: int) -> int:
        """Return the sequence of a node's block that is known to stand there, 0: of none."""
        return self._sequences.get(node, 0)

    def record(self) -> WitnessRecord:
        """Return all of it as a record of the log."""
        return WitnessRecord(
            storage=self._storage,
            sequences=tuple(sorted(self._sequences.items())),
            promised=self._promised,
            key=self._key,
        )
