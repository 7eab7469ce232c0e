"""All runs of two nodes and a shared acceptor with leases: at most one leader lease is valid.

To the events of :mod:`tests.explore.quorum_model` comes time, in steps of H. A node does what is
due before time passes, unless it is frozen; a step of a disk may be late; a budget bounds both.
A message arrives within its step of time or never.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.explore.engine import State, Step
from tests.explore.lease_node import H, LeaseNode
from tests.explore.quorum_model import Bounds, QuorumModel
from tests.explore.quorum_node import NOW


@dataclass(frozen=True)
class LeaseBounds(Bounds):
    """How far a search with time goes."""

    beats: int = 6
    """Steps of H after node 1 leads and its first entry is committed."""
    freezes: int = 1
    """How often a node stands still, for as long as it likes."""
    lates: int = 1
    """How often time passes although a disk has something to do."""


class LeaseModel(QuorumModel):
    """States have one more number: the time."""

    timeless = False
    kind = LeaseNode
    bounds: LeaseBounds

    def initial(self) -> State:
        self._beats = 1 << 30
        others = frozenset(range(2, self.bounds.nodes + 1))
        state = (*super().initial(), 0, others, 0, 0)
        while not (self._watched.values[state[3]].committed and self._leads(state, 1)):
            steps = self.steps(state)
            state = next(step.state for step in steps if not step.label.endswith("thaws"))
        self._beats = state[6] + self.bounds.beats
        return (*state[:7], frozenset(), self.bounds.freezes, self.bounds.lates)

    def _leads(self, state: State, number: int) -> bool:
        return self._fact(state, number).leads_until > NOW + state[6] * H

    def steps(self, state: State) -> Iterator[Step]:
        beat, frozen, freezes, lates = state[6:]
        self.now = NOW + beat * H
        busy = late = False
        for number in range(1, self.bounds.nodes + 1):
            if number in frozen:
                thawed = (*state[:7], frozen - {number}, *state[8:])
                yield Step(f"n{number} thaws", thawed)
                continue
            facts = self._fact(state, number)
            due = facts.wakes_at <= self.now
            busy |= due or facts.unsynced >= 0 or (facts.calls and facts.step is None)
            late |= facts.step is not None
            yield from self._of_node(state, number)
            if due:
                yield self._after(state, number, ("wake",), "wakes")
            if freezes:
                still = (*state[:7], frozen | {number}, freezes - 1, lates)
                yield Step(f"n{number} freezes", still)
        if beat < self._beats and not busy and (lates or not late):
            later = (state[0], 0, *state[2:6], beat + 1, *state[7:9], lates - late)
            yield Step(f"time passes: {beat + 1}", later)

    def _happens(self, state, number, event):
        state, broken = super()._happens(state, number, event)
        leading = [n for n in range(1, self.bounds.nodes + 1) if self._leads(state, n)]
        if not broken and len(leading) > 1:
            broken = f"the leader leases of nodes {leading} are valid at once"
        return state, broken
