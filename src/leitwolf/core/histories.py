"""How two nodes stand to each other when quorum was forced: one history, one of two, or apart.

Rules:

- Nodes of one history talk; nobody else does, but for the order that brings a named node into a
  history that was just forced.
- A history counts against others only when it is *established*: its first entry is committed. Else
  a force that got stuck half way would stop a cluster that lives.
- Who is in a history out of which an established one was forced gives way, by itself. Two that were
  forced apart refuse each other until the operator decides.

Both sides judge by the same facts (their hellos) and come to verdicts that fit together.
"""

from __future__ import annotations

from enum import StrEnum

from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.history import HistoryStanding
from leitwolf.wire.lineage import continues

__all__ = ["Verdict", "judge"]


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
    """One of the histories is not established, and the other node was not named in it."""
    APART = "two-forced-halves"
    """Two forced histories of which neither continues the other."""


def judge(
    me: int, own: HistoryStanding, node: int, other: HistoryStanding, rules: Rules = ALL_RULES
) -> Verdict:
    """Return how this node (``me``) stands to ``node``."""
    if own.lineage == other.lineage or not rules.holds("lineage"):
        return Verdict.SAME
    if continues(other.lineage, own.lineage):
        if not other.established:
            return Verdict.ORDERED if me in other.named else Verdict.UNFINISHED
        return Verdict.BEHIND
    if continues(own.lineage, other.lineage):
        if not own.established:
            return Verdict.ORDERED if node in own.named else Verdict.UNFINISHED
        return Verdict.SUPERSEDED
    return Verdict.APART
