"""The invariants, checked in every simulated run: at every step, I8 and I9 at its end.

========  =========================================================================================
I1        every applied entry equals what was first applied at its index; an elected leader's log
          holds every entry that was committed under an older ballot than its own. (One that took
          office while it slept learns of it late: meanwhile newer ballots may have gone on.)
I2        a request answered with an index stays; what is committed is on the disks of a quorum of
          every configuration in force; a leader with a valid lease shows all that is committed
I3        at any instant at most one leader lease is valid
I4        at any instant a group is active on at most one node
I5        past the end of a run-lease nothing of it is active on a node that is not frozen
I6        nothing starts on a node but what a committed entry placed there, in that generation
I8        what was answered to an operator holds at the end, unless changed by a later entry
I9        once the faults stop a leader is elected and every group is online in time
I11       a closed lease id never opens again; an attested generation never starts again
I12       a valid leader lease is covered by promises of a quorum of every configuration in force
I13       what a node promises only rises; its guard acknowledges nothing below what is durable
========  =========================================================================================

I10 is seen in directed runs (``tests/sim/test_scenarios.py``, ``test_situations.py``), and that a
cluster which cannot know its newest configuration says who knows more (the rest of I6). I7 is about
shared data in groups, which there is none of yet.

When a quorum was forced all of this holds within each history. Between two, I4 holds only if the
operator was right (:attr:`Checker.truthful`); and always a guard has closed the leases of a former
history before it answers a leader of the next one (L11).

An address is active while it is on the node and the kernel's gate is open, whatever is frozen; a
process is active while it exists and is not frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from leitwolf.core.quorum.view import QuorumView
from leitwolf.model.errors import InvariantError
from leitwolf.model.events import GroupPlaced, GroupWished, NodePaused, ResourceWished
from leitwolf.model.log import Entry, PromisedRecord, Record
from leitwolf.model.quorum import Acceptor, AcceptorId
from leitwolf.model.state import State
from leitwolf.sim.kernel import Cell
from leitwolf.state import decode_change, digest
from leitwolf.wire.ballot import NO_BALLOT, Ballot
from leitwolf.wire.lineage import Lineage

__all__ = ["Checker", "NodeLike", "Violation"]

_LATE_NS = 15_000_000
"""A stop that could not be confirmed ends in a reboot at the end of the lease, and what was killed
by then is seen as dead a little later."""
_DIGEST_EVERY = 16
"""State hashes are compared at every so many entries: they cost more than all else."""


@dataclass(slots=True)
class _Book:
    """What was committed in one history; it begins as a copy of the one it was forced out of."""

    entries: dict[int, tuple[Ballot, bytes]] = field(default_factory=dict)
    under: dict[int, Ballot] = field(default_factory=dict)
    """The ballot of the leader that committed an entry."""
    digests: dict[int, str] = field(default_factory=dict)
    placed: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """By group and generation: the node on which it was placed, and the entry that did it."""
    committed: int = 0

    def note(self, entry: Entry) -> None:
        """Note what a committed entry places."""
        for event in decode_change(entry.payload).events:
            if isinstance(event, GroupPlaced):
                self.placed[event.group, event.generation] = (event.node, entry.index)


class Violation(InvariantError):
    """The simulated cluster broke an invariant."""


class NodeLike(Protocol):
    """What the checkers look at; the simulated node provides it."""

    id: int

    @property
    def lineage(self) -> Lineage:
        """Return the history that it is in, as far as its daemon said."""

    def active_cells(self) -> list[Cell]:
        """Return what answers from there or runs there at this moment."""

    @property
    def run_end(self) -> int:
        """True time at which its newest run-lease ends."""

    def leader_until(self) -> int:
        """Return the true time at which its leader lease ends, -1: it has none."""

    def may_vote_from(self, leader: int) -> int:
        """Return the earliest true time at which it may help another than ``leader``."""

    def configurations(self) -> tuple[tuple[Acceptor, ...], ...]:
        """Return the voters by which it decides, of each configuration in force."""

    def counted_by(self) -> tuple[tuple[Acceptor, ...], ...]:
        """Return the same, as they were before the step of its daemon that is under way."""

    def promised(self) -> Ballot:
        """Return the highest ballot that it promised durably."""

    def lease_open(self) -> int:
        """Return the id of its run-lease while its gate is open, 0: it is shut."""

    def holds(self, entry: Entry, storage: str) -> bool:
        """Return whether ``storage`` is its disk and holds ``entry`` durably."""


class Checker:
    """Observes all nodes of one world."""

    def __init__(
        self,
        now: Callable[[], int],
        bound_until: Callable[[AcceptorId, int], int] = lambda *_: 0,
        holds_at: Callable[[AcceptorId, Entry], bool] = lambda *_: False,
    ) -> None:
        """Observe nobody yet.

        Args:
            now: true time, ns.
            bound_until: true time before which a passive acceptor helps nobody but a leader.
            holds_at: whether a passive acceptor holds an entry.
        """
        self._now = now
        self._bound_until = bound_until
        self._holds_at = holds_at
        self._nodes: dict[int, NodeLike] = {}
        self._books: dict[Lineage, _Book] = {(): _Book()}
        self.truthful = True
        """Who was declared down is down and stays so: nothing runs in two histories."""
        self._closed_leases: set[tuple[int, int, int]] = set()
        self._attested: dict[tuple[Lineage, int, str], int] = {}
        self.elections = 0
        self.starts = 0

    def add(self, node: NodeLike) -> None:
        """Observe one more node."""
        self._nodes[node.id] = node

    def _fail(self, text: str) -> None:
        raise Violation(text)

    @property
    def committed(self) -> int:
        """Highest index that was committed in the history that was forced last."""
        return self._books[max(self._books, key=len)].committed

    @property
    def histories(self) -> int:
        """How many histories there were."""
        return len(self._books)

    def _book(self, lineage: Lineage, fork: int) -> _Book:
        """Return the book of a history; a new one shares what was committed up to ``fork``."""
        book = self._books.get(lineage)
        if book is None:
            former = self._book(lineage[:-1], fork)
            entries = {index: entry for index, entry in former.entries.items() if index <= fork}
            book = self._books[lineage] = _Book(
                entries, dict(former.under), committed=min(former.committed, fork)
            )
            book.placed = {key: one for key, one in former.placed.items() if one[1] <= fork}
        return book

    # --- log -------------------------------------------------------------------------------------

    def applied(
        self, node: int, entries: tuple[Entry, ...], state: State, ballot: Ballot = NO_BALLOT
    ) -> None:
        """A node folded committed entries (I1, I2); ``ballot``: under which it leads or follows."""
        lineage = self._nodes[node].lineage if node else ()
        book = self._book(lineage, entries[0].index - 1)
        for entry in entries:
            mine = (entry.ballot, entry.payload)
            first = book.entries.get(entry.index)
            if first is None:
                book.entries[entry.index] = mine
                book.note(entry)
            elif first != mine:
                self._fail(
                    f"I1: n{node} applied {entry.ballot} at {entry.index}, first was {first[0]}"
                )
            former = entry.ballot.epoch < len(
                lineage
            )  # it may have been committed before the force
            if entry.index > book.committed and node and not former:
                self._demand_durable(self._nodes[node], entry)
                book.under[entry.index] = ballot
            book.committed = max(book.committed, entry.index)
        last = entries[-1].index
        if last % _DIGEST_EVERY == 0 and state.index == last:  # one step may apply more than these
            mine_digest = digest(state)
            if book.digests.setdefault(last, mine_digest) != mine_digest:
                self._fail(f"I1: n{node} has another state at {last} than others")

    def _demand_durable(self, leader: NodeLike, entry: Entry) -> None:
        """Whoever applies an entry first counted a quorum of every configuration for it (I2)."""
        for acceptors in leader.counted_by():
            total = sum(acceptor.weight for acceptor in acceptors)
            held = 0
            for acceptor in acceptors:
                voter = self._nodes.get(acceptor.id.node)
                if acceptor.kind != "node":
                    holds = self._holds_at(acceptor.id, entry)
                else:
                    holds = voter is not None and voter.holds(entry, acceptor.id.storage)
                held += acceptor.weight * holds
            if 2 * held <= total:
                self._fail(
                    f"I2: n{leader.id} committed entry {entry.index}, "
                    f"but only {held} of {total} votes hold it durably"
                )

    def read(self, node: NodeLike, index: int) -> None:
        """A daemon in charge shows its state as of ``index``: fresh under a valid lease (I2)."""
        committed = self._books.get(node.lineage, _Book()).committed
        if index < committed and node.leader_until() > self._now():
            self._fail(f"I2: n{node.id} shows entry {index} as newest, {committed} is")

    def elected(self, node: int, quorum: QuorumView) -> None:
        """A node took office (I1: its log is complete)."""
        self.elections += 1
        log = {entry.index: entry for entry in quorum.log}
        base = min(log) - 1 if log else quorum.commit
        book = self._books.get(quorum.lineage, _Book())
        for index in range(base + 1, book.committed + 1):
            have = log.get(index)
            want = book.entries.get(index)
            if book.under.get(index, NO_BALLOT) >= quorum.ballot:
                continue
            if want is not None and (have is None or (have.ballot, have.payload) != want):
                self._fail(f"I1: n{node} leads without committed entry {index}")

    def answered(self, index: int) -> None:
        """A request was answered: its entry is committed for ever (I2), in one history."""
        committed = max(book.committed for book in self._books.values())
        if index > committed:
            self._fail(f"I2: answered with entry {index}, committed up to {committed}")

    def wishes(self, state: State) -> None:
        """The wishes of operators, folded here from what was committed, stand in the state (I8)."""
        wished: dict[str, object] = {}
        entries = self._books.get(state.lineage, _Book()).entries
        for index in range(1, state.index + 1):
            known = entries.get(index)
            for event in decode_change(known[1]).events if known else ():
                if isinstance(event, GroupWished) and event.group in state.groups:
                    wished[f"group {event.group}"] = event.wish
                elif isinstance(event, ResourceWished) and event.resource in state.resources:
                    wished[f"resource {event.resource}"] = event.wish
                elif isinstance(event, NodePaused) and event.node in state.nodes:
                    wished[f"node {event.node}"] = event.paused
        have: dict[str, object] = {f"group {g.id}": g.wish for g in state.groups.values()}
        have |= {f"resource {r.id}": r.wish for r in state.resources.values()}
        have |= {f"node {n.id}": n.paused for n in state.nodes.values()}
        for name, wish in wished.items():
            if have[name] != wish:
                self._fail(f"I8: {name} is {have[name]}, the operator wished {wish}")

    # --- leases ----------------------------------------------------------------------------------

    def leases(self, node: NodeLike) -> None:
        """The leader lease of a node changed: it alone is valid (I3), and it is covered (I12)."""
        now, until = self._now(), node.leader_until()
        if until <= now:
            return
        for other in self._nodes.values():
            same = other is not node and other.lineage == node.lineage
            if same and other.leader_until() > now:
                self._fail(f"I3: leader leases of n{node.id} and n{other.id} are valid at once")
        for acceptors in node.configurations():
            total = sum(acceptor.weight for acceptor in acceptors)
            bound = 0
            for acceptor in acceptors:
                voter = self._nodes.get(acceptor.id.node)
                if acceptor.kind != "node":
                    helps_at = self._bound_until(acceptor.id, node.id)
                elif voter is None or voter.lineage != node.lineage:
                    helps_at = until  # it never votes in this history again
                else:
                    helps_at = voter.may_vote_from(node.id)
                if helps_at >= until:
                    bound += acceptor.weight
            if 2 * bound <= total:
                self._fail(f"I12: n{node.id} leads, but only {bound} of {total} votes are bound")

    def acknowledged(self, node: NodeLike, ballot: Ballot) -> None:
        """A guard acknowledges a heartbeat (I13, L11)."""
        lease = node.lease_open()
        if lease and lease >> 51 < ballot.epoch:
            self._fail(f"L11: n{node.id} answers {ballot} with lease {lease:x} of before open")
        promised = node.promised()
        if ballot < promised and ballot.epoch == promised.epoch:
            self._fail(f"I13: n{node.id} acknowledges {ballot}, but promised {node.promised()}")

    def written(self, node: NodeLike, records: tuple[Record, ...]) -> None:
        """A daemon writes, with everything before it durable: its promises only rise (I13)."""
        promised = node.promised()
        for record in records:
            if isinstance(record, PromisedRecord):
                if record.ballot < promised:
                    self._fail(f"I13: n{node.id} promises {record.ballot} after {promised}")
                promised = record.ballot

    def active(self) -> None:
        """No group is active on two nodes (I4), nothing without a lease (I5)."""
        owners: dict[tuple[Lineage, str], int] = {}
        now = self._now()
        for node in self._nodes.values():
            cells = node.active_cells()
            if cells and now > node.run_end + _LATE_NS:
                self._fail(f"I5: {cells[0].order.resource} is active on n{node.id} without a lease")
            for cell in cells:
                history = () if self.truthful else node.lineage
                owner = owners.setdefault((history, cell.order.group), node.id)
                if owner != node.id:
                    here = f"{cell.order.resource} generation {cell.order.generation}"
                    self._fail(
                        f"I4: {cell.order.group} is active on n{owner} and n{node.id}: {here}"
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
        mark = (self._nodes[node].lineage, node, group)
        self._attested[mark] = max(self._attested.get(mark, 0), generation)
        for cell in self._nodes[node].active_cells():
            if cell.order.group == group and cell.order.generation <= generation:
                self._fail(f"I11: n{node} attested {group} {generation} while it runs")

    def _placed_on(self, lineage: Lineage, group: str, generation: int) -> int:
        """Return the node on which a generation was placed, 0: none.

        Until something of its own is committed a history is the one before it.
        """
        while lineage and lineage not in self._books:
            lineage = lineage[:-1]
        node, _ = self._books[lineage].placed.get((group, generation), (0, 0))
        return node

    def started(self, node: int, cell: Cell) -> None:
        """A host started something (I4, I6, I11)."""
        self.starts += 1
        lineage = self._nodes[node].lineage
        if self._placed_on(lineage, cell.order.group, cell.order.generation) != node:
            self._fail(
                f"I6: n{node} starts {cell.order.resource} of generation {cell.order.generation}, "
                "which no committed entry placed there"
            )
        mark = (lineage, node, str(cell.order.group))
        if cell.order.generation <= self._attested.get(mark, 0):
            self._fail(
                f"I11: n{node} starts {cell.order.resource} of attested generation "
                f"{cell.order.generation}"
            )
        self.active()
