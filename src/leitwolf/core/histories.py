"""How two nodes stand to each other when quorum was forced: one history, one of two, or apart.

Rules:

- Nodes of one history talk. Between two histories nothing passes but what a force needs, and that
  only while one of them is not established: to bring a named node into a history that was just
  forced, or to force again with nodes that are in another one.
- A history counts against others only when it is *established*: its first entry is committed. Else
  a force that got stuck half way would stop a cluster that lives.
- Who is in a history out of which an established one was forced gives way, by itself. Two that were
  forced apart refuse each other until the operator decides.

Both sides judge by the same facts (their hellos) and come to verdicts that fit together.
"""

from __future__ import annotations

from enum import StrEnum

from leitwolf.core.quorum import QuorumCore
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.history import HistoryStanding
from leitwolf.wire.ballot import Key
from leitwolf.wire.lineage import Lineage, continues, shared

__all__ = ["Verdict", "comparable", "follows", "judge"]


class Verdict(StrEnum):
    """What one node has to do with another."""

    SAME = "same"
    ORDERED = "ordered"
    """One is to follow the other into its history: nothing but the order passes."""
    BEHIND = "history-behind"
    """This node gives way to the other's history."""
    SUPERSEDED = "history-superseded"
    """The other one gives way."""
    UNFINISHED = "force-unfinished"
    """A force got stuck: its history is not established, and the other node was not named in it, or
    is in one that got stuck, too. Nothing but forces passes."""
    APART = "two-forced-halves"
    """Two forced histories, neither of which continues the other; one at least is established."""


def judge(
    me: int, own: HistoryStanding, node: int, other: HistoryStanding, rules: Rules = ALL_RULES
) -> Verdict:
    """Return how this node (``me``) stands to ``node``."""
    mine, theirs = own.lineage, other.lineage
    if not rules.holds("lineage-nonce"):
        mine, theirs = (0,) * len(mine), (0,) * len(theirs)
    if mine == theirs or not rules.holds("lineage"):
        return Verdict.SAME
    if continues(theirs, mine):
        if not other.established:
            return Verdict.ORDERED if me in other.named else Verdict.UNFINISHED
        return Verdict.BEHIND
    if continues(mine, theirs):
        if not own.established:
            return Verdict.ORDERED if node in own.named else Verdict.UNFINISHED
        return Verdict.SUPERSEDED
    return Verdict.APART if own.established or other.established else Verdict.UNFINISHED


def follows(lineage: Lineage, history: HistoryStanding) -> bool:
    """Return whether a node in ``history`` may be ordered into the history of ``lineage``.

    Out of its own one it was forced, or its own is one that got stuck.
    """
    if continues(lineage, history.lineage):
        return True
    return not history.established and len(lineage) > len(history.lineage)


def comparable(quorum: QuorumCore, own: HistoryStanding, lineage: Lineage) -> Key:
    """Return the key up to which this node holds what counts, for who forces in another history.

    Where a force got stuck here and nothing came of it, its first entry does not count.
    """
    key = quorum.key_within(shared(own.lineage, lineage))
    count = quorum.last_key.index - key.index
    if own.established or not key.index or not count:
        return quorum.last_key
    epochs = {entry.ballot.epoch for entry in quorum.entries_after(key.index)}
    return key if len(epochs) == count else quorum.last_key
