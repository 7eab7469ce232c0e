"""The invariants, checked at every step of a simulated run.

========  =========================================================================================
I1, I2    every applied entry equals what was first applied at its index; an elected leader's log
          holds every entry that was ever applied anywhere; a request answered with an index stays
I3        at any instant at most one leader lease is valid
I4        at any instant a group is active on at most one node
I5        past the end of a run-lease nothing of it is active on a node that is not frozen
I8        the operator's wishes are those of the last answered commands (compared at the end)
I9        once the faults stop a leader is elected and every group is online in time (liveness mode)
I11       a closed lease id never opens again; an attested generation never starts again
========  =========================================================================================

An address is active while it is on the node and the kernel's gate is open, whatever is frozen; a
process is active while it exists and is not frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from leitwolf.model.errors import InvariantError
from leitwolf.model.log import Entry
from leitwolf.sim.kernel import Cell
from leitwolf.state import digest

__all__ = ["Checker", "NodeLike", "Violation"]

_DIGEST_EVERY = 16
"""State hashes are compared at every so many entries: they cost more than all else."""


class Violation(InvariantError):
    """The simulated cluster broke an invariant."""


class NodeLike(Protocol):
    """What the checkers look at; the simulated node provides it."""

    id: int

    def active_cells(self) -> list[Cell]:
        """Return what answers from there or runs there at this moment."""

    def leader_until(self) -> int:
        """Return the true time at which its leader lease ends, -1: it has none."""


class Checker:
    """Observes all nodes of one world."""

    def __init__(self, now: Callable[[], int]) -> None:
        """``now`` is true time, ns."""
        self._now = now
        self._nodes: dict[int, NodeLike] = {}
        self._entries: dict[int, tuple[object, bytes]] = {}
        self._digests: dict[int, str] = {}
        self._closed_leases: set[tuple[int, int, int]] = set()
        self._attested: dict[tuple[int, str], int] = {}
        self.committed = 0
        self.elections = 0
        self.starts = 0

    def add(self, node: NodeLike) -> None:
        """Observe one more node."""
        self._nodes[node.id] = node

    def _fail(self, text: str) -> None:
        raise Violation(text)

    # --- log -------------------------------------------------------------------------------------

    def applied(self, node: int, entries: tuple[Entry, ...], state: object) -> None:
        """A node folded committed entries (I1, I2)."""
        for entry in entries:
            mine = (entry.ballot, entry.payload)
            first = self._entries.setdefault(entry.index, mine)
            if first != mine:
                self._fail(
                    f"I1: n{node} applied {entry.ballot} at {entry.index}, first was {first[0]}"
                )
            self.committed = max(self.committed, entry.index)
        last = entries[-1].index
        if last % _DIGEST_EVERY == 0:
            mine_digest = digest(state)  # type: ignore[arg-type]  # the State of the node
            if self._digests.setdefault(last, mine_digest) != mine_digest:
                self._fail(f"I1: n{node} has another state at {last} than others")

    def elected(self, node: int, log: dict[int, Entry], base: int) -> None:
        """A node took office with this log (I1: leader completeness)."""
        self.elections += 1
        for index in range(base + 1, self.committed + 1):
            have = log.get(index)
            want = self._entries.get(index)
            if want is not None and (have is None or (have.ballot, have.payload) != want):
                self._fail(f"I1: n{node} leads without committed entry {index}")

    def answered(self, index: int) -> None:
        """A request was answered: its entry is committed for ever (I2)."""
        if index > self.committed:
            self._fail(f"I2: answered with entry {index}, committed up to {self.committed}")

    # --- leases ----------------------------------------------------------------------------------

    def leases(self) -> None:
        """At most one leader lease is valid now (I3)."""
        now = self._now()
        valid = [node.id for node in self._nodes.values() if node.leader_until() > now]
        if len(valid) > 1:
            self._fail(f"I3: leader leases of nodes {valid} are valid at once")

    def active(self) -> None:
        """No group is active on two nodes (I4)."""
        owners: dict[str, int] = {}
        for node in self._nodes.values():
            for cell in node.active_cells():
                owner = owners.setdefault(cell.order.group, node.id)
                if owner != node.id:
                    here = f"{cell.order.resource} generation {cell.order.generation}"
                    self._fail(f"I4: {cell.order.group} is active on n{owner} and n{node.id}: {here}")

    def lease_over(self, node: NodeLike, lease: int) -> None:
        """A run-lease ended on a node that is not frozen: nothing of it may be active (I5)."""
        for cell in node.active_cells():
            if cell.order.lease <= lease:
                self._fail(
                    f"I5: {cell.order.resource} is active on n{node.id} past lease {lease:x}"
                )

    def lease_closed(self, node: int, boot: int, lease: int) -> None:
        """Note that a lease id is closed for ever."""
        self._closed_leases.add((node, boot, lease))

    def lease_opened(self, node: int, boot: int, lease: int) -> None:
        """A lease was opened (I11)."""
        if (node, boot, lease) in self._closed_leases:
            self._fail(f"I11: n{node} opened lease {lease:x} again")

    # --- host ------------------------------------------------------------------------------------

    def attested(self, node: int, group: str, generation: int) -> None:
        """A host attested a generation: nothing of it runs there, now or ever (I11)."""
        known = self._attested.get((node, group), 0)
        self._attested[node, group] = max(known, generation)
        for cell in self._nodes[node].active_cells():
            if cell.order.group == group and cell.order.generation <= generation:
                self._fail(f"I11: n{node} attested {group} {generation} while it runs")

    def started(self, node: int, cell: Cell) -> None:
        """A host started something (I4, I11)."""
        self.starts += 1
        if cell.order.generation <= self._attested.get((node, cell.order.group), 0):
            self._fail(
                f"I11: n{node} starts {cell.order.resource} of attested generation "
                f"{cell.order.generation}"
            )
        self.active()
