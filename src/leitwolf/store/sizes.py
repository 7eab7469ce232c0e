"""How much space the store takes, each limit with its reason."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StoreSizes"]

_DAY_NS = 86_400 * 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSizes:
    """Sizes of one log; the defaults are meant for a cluster's log."""

    segment_bytes: int = 4 << 20
    """A segment: some thousand entries; zeroing the next one takes the disk about 10 ms."""
    reserve_bytes: int = 64 << 10
    """End of a segment kept for promises, truncations and commit hints when the disk is full:
    a node must still be able to step down and to vote. About a hundred batches."""
    history_bytes: int = 64 << 20
    """Segments kept behind what a restart needs, for `why` and `log`."""
    history_age_ns: int = 90 * _DAY_NS
    """Age, against the newest write, at which such a segment goes."""
