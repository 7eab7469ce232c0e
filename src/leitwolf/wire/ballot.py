"""Ballots, keys and instants: the smallest words that every process shares.

Standard library only: the guard imports this module.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NO_BALLOT", "NO_KEY", "Ballot", "Key", "Now", "lease_id", "successor"]


class Ballot(NamedTuple):
    """One term of office; it has exactly one possible owner, the node inside it.

    Ordered by epoch, round, node. The epoch changes only by force.
    """

    epoch: int
    round: int
    node: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.round}.n{self.node}"


NO_BALLOT = Ballot(0, 0, 0)


class Key(NamedTuple):
    """How up to date a log is: ballot and index of its last entry, ordered."""

    ballot: Ballot
    index: int  # type: ignore[assignment]  # the word of the field; tuple.index is not used


NO_KEY = Key(NO_BALLOT, 0)


class Now(NamedTuple):
    """One reading of the clocks of a node, in nanoseconds.

    ``raw`` is CLOCK_MONOTONIC_RAW, by which all leases run; ``boot`` is CLOCK_BOOTTIME, which
    goes on during suspend. Their difference moves only when the machine slept (rule L1).
    """

    raw: int
    boot: int


def successor(ballot: Ballot) -> Ballot:
    """Return the lowest ballot above every one of this ballot's epoch and round."""
    return Ballot(ballot.epoch, ballot.round + 1, 0)


def lease_id(epoch: int, index: int, serial: int) -> int:
    """Return the id of a run-lease, above every id that an earlier leader gave out.

    Args:
        epoch: epoch of the leader's ballot, 0..4095.
        index: index of the last entry in the leader's log, 0..2**40-1; a later leader's is higher.
        serial: counts the leases opened at this index, 0..2047.

    Raises:
        ValueError: a part is out of its range.
    """
    if not (0 <= epoch < 1 << 12 and 0 <= index < 1 << 40 and 0 <= serial < 1 << 11):
        raise ValueError(f"lease id out of range: epoch {epoch}, index {index}, serial {serial}")
    return epoch << 51 | index << 11 | serial
