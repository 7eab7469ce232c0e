"""What this acceptor promised, holds and knows: shared by the parts of the quorum core.

Rules:

- ``promised`` never goes back, and every change of it is written in the same step (R4).
- ``commit`` never goes back; entries up to it are never truncated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from leitwolf.core.effects import Effect
from leitwolf.core.messages import Prepare, PreProbe, QuorumMessage
from leitwolf.core.quorum.log import Log
from leitwolf.core.quorum.memory import Memory
from leitwolf.core.quorum.outbox import Outbox
from leitwolf.core.quorum.predicate import agreed, contenders, member_nodes
from leitwolf.core.quorum.signals import Committed, Restored, Signal
from leitwolf.core.rules import Rules
from leitwolf.model.errors import check
from leitwolf.model.limits import COMMIT_HINT_ENTRIES
from leitwolf.model.log import (
    CommitRecord,
    Entry,
    EntryRecord,
    ForcedRecord,
    Loaded,
    PromisedRecord,
    Snapshot,
    TruncateRecord,
    WitnessRecord,
)
from leitwolf.model.quorum import AcceptorId, QuorumConfig
from leitwolf.wire.ballot import NO_BALLOT, NO_KEY, Ballot, Key
from leitwolf.wire.lineage import Lineage
from leitwolf.wire.page import LeasePage

if TYPE_CHECKING:
    from leitwolf.core.quorum.passive import Passive

__all__ = ["NEVER", "Standing"]

NEVER = (1 << 63) - 1
"""An instant that does not come."""


class Standing:
    """State of this acceptor, and the way out of a step."""

    def __init__(
        self,
        *,
        me: AcceptorId,
        loaded: Loaded,
        config: QuorumConfig,
        page: Callable[[], LeasePage],
        promise_ns: int,
        rank_delay_ns: int,
        now: int,
        rules: Rules,
        boot: int = 0,
        snapshot: Callable[[], Snapshot | None] = lambda: None,
        evicted: Callable[[], tuple[int, ...]] = tuple,
        lineage: Lineage = (),
        join_only: bool = False,
    ) -> None:
        self.me = me
        self.lineage = lineage
        """Of the history that this acceptor is in; ballots have as many forces for their epoch."""
        self.join_only = join_only
        """Nobody is helped to lead, this node included, until a leader is heard."""
        self.boot = boot
        """Random number of this process: what it writes to a disk is told from a former one's."""
        self._fold = snapshot
        self.evicted = evicted
        """Numbers of nodes that were members, and are none as far as is committed."""
        self._nonces = self._calls = 0
        self.passives: dict[int, Passive] = {}
        """The passive acceptors of the configuration in force, by id."""
        self._memories = {record.storage: record for record in loaded.witnesses}
        self.replies: list[tuple[int, int, QuorumMessage]] = []
        """Answers of passive acceptors: position that they wait for, acceptor, message."""
        self.sought = 0
        """Voting acceptor that is to be armed, for a change of the quorum waits for it; 0: none."""
        self.backed = 0
        """In office: up to which entry those who hold it are a quorum with all witnesses."""
        self.thin = False
        """The guard in office says that acks alone hardly renew its lease."""
        self.page = page
        self.promise_ns = self.silence_ns = promise_ns
        """P, and the longest silence of a disk or witness that R bears (L14)."""
        self.rank_delay_ns = rank_delay_ns
        self.rules = rules
        self.now = now
        self.log = Log(loaded, config)
        self.outbox = Outbox(self.log.last.index)
        self.signals: list[Signal] = []
        self.connected: set[int] = set()
        self.promised = max(loaded.promised, self.log.last.ballot)
        self.promised_at = -1
        """When a candidate was promised last in this process, -1: never."""
        self.leader = NO_BALLOT
        """Ballot of the leader that this node follows (or is)."""
        covered = loaded.snapshot.last.index if loaded.snapshot else 0
        self.commit = max(covered, min(loaded.commit, self.log.last.index))
        self._hinted = self.commit
        self._at_append = rules.holds("config-at-append")
        self._judged: QuorumConfig | None = None
        self._may_campaign = False
        """What :attr:`may_campaign` found in the configuration judged last."""
        self.forced_at = 0
        """Position at which the entry that forced a history here is durable."""
        self.unforced = NO_BALLOT
        """What was promised before that entry."""
        self.named_commit = -1
        """Highest commit index that a live leader named since the start, -1: none did."""

    # --- configuration ---------------------------------------------------------------------------

    @property
    def config(self) -> QuorumConfig:
        """The configuration in force: of the last entry that has one, committed or not."""
        return self.log.config if self._at_append else self.log.config_at(self.commit)

    def agreed(self, have: set[AcceptorId]) -> bool:
        """Return whether ``have`` is a quorum of every active configuration."""
        return agreed(self.config, have, self.rules)

    @property
    def may_campaign(self) -> bool:
        """Whether this acceptor may become leader.

        Not before its log holds the first entry of its history: it says who votes there. Who forced
        it does not before that entry is durable: else its guard would be fenced for a history that
        a crash takes back, and help nobody in the former one any more.
        """
        if self.join_only and self.rules.holds("join-only"):
            return False
        if not self.begun:
            return False
        begun = self.log.last.ballot.epoch == len(self.lineage)
        if not begun and self.rules.holds("forced-entry-first"):
            return False
        config = self.config
        if config is not self._judged:
            self._judged, self._may_campaign = config, self.me in contenders(config)
        return self._may_campaign

    @property
    def begun(self) -> bool:
        """Whether the first entry of a history that was forced here is durable."""
        return self.outbox.durable_position >= self.forced_at

    @property
    def lonely(self) -> bool:
        """Whether a node of the configuration is not within reach: it may be forced somewhere."""
        nodes = member_nodes(self.config)
        return not self.connected.issuperset(node for node in nodes if node != self.me.node)

    def nodes_suffice(self, *, connected: bool) -> bool:
        """Return whether nodes alone are a quorum; ``connected``: only those within reach."""
        config = self.config
        acceptors = (*config.acceptors, *(config.former or ()))
        within = self.connected | {self.me.node}
        return self.agreed(
            {
                acceptor.id
                for acceptor in acceptors
                if acceptor.kind == "node" and (not connected or acceptor.id.node in within)
            }
        )

    # --- promises and entries --------------------------------------------------------------------

    def promise(self, ballot: Ballot) -> int:
        """Promise ``ballot`` and return the position at which that is durable."""
        if self.rules.holds("promise-above"):
            check(ballot > self.promised, f"promise {ballot} at {self.promised}")
        self.promised = ballot
        if ballot > self.leader:
            self.leader = NO_BALLOT
        return self.outbox.record(PromisedRecord(ballot=ballot))

    def force(self, lineage: Lineage, payload: bytes, config: QuorumConfig) -> int:
        """Append the first entry of a new history and return its index; its ballot is promised."""
        ballot = Ballot(len(lineage), 1, self.me.node)
        check(ballot > self.promised, f"forced in {ballot}, promised {self.promised}")
        index = self.log.last.index + 1
        self.unforced = self.promised
        self.forced_at = self.append(
            Entry(index=index, ballot=ballot, payload=payload, config=config)
        )
        self.lineage, self.promised, self.leader = lineage, ballot, NO_BALLOT
        return index

    def obey(self, lineage: Lineage) -> int:
        """Be in a history that another node forced; return the position of its durability."""
        ballot = Ballot(len(lineage), 0, 0)
        check(ballot > self.promised, f"forced into {ballot}, promised {self.promised}")
        self.lineage, self.promised, self.leader = lineage, ballot, NO_BALLOT
        return self.outbox.record(ForcedRecord(ballot=ballot, lineage=lineage))

    def append(self, *entries: Entry) -> int:
        """Append entries and return the position at which they are durable."""
        self.log.extend(entries)
        return self.outbox.record(*(EntryRecord(entry=entry) for entry in entries))

    def merge(self, entries: tuple[Entry, ...]) -> None:
        """Take over entries that follow something which the log holds; drop what contradicts."""
        log = self.log
        for number, entry in enumerate(entries):
            if entry.index <= log.base.index or log.ballot_at(entry.index) == entry.ballot:
                continue
            rest = entries[number:]
            if entry.index <= log.last.index:
                if not self.rules.holds("truncate-conflict"):
                    rest = tuple(item for item in rest if item.index > log.last.index)
                else:
                    self.truncate(entry.index)
            self.append(*rest)
            return

    def adopt(self, snapshot: Snapshot | None, entries: tuple[Entry, ...]) -> int:
        """Take over a whole log that a passive acceptor holds, if it is newer than the own one.

        What is committed here must be a part of it (:meth:`refutes`).

        Returns:
            The position at which it is durable; 0: nothing was to be done.
        """
        log = self.log
        newest = Key(entries[-1].ballot, entries[-1].index) if entries else None
        if snapshot is not None:
            newest = newest or snapshot.last
            known = snapshot.last.index < log.base.index
            known = known or log.ballot_at(snapshot.last.index) == snapshot.last.ballot
        else:
            known = True
        if newest is None or newest <= log.last:
            return 0
        if snapshot is not None and not known:
            self.restore(snapshot)
        self.merge(entries)
        return self.outbox.position

    def refutes(self, snapshot: Snapshot | None, entries: tuple[Entry, ...]) -> bool:
        """Return whether what a passive acceptor holds contradicts what is committed here.

        Its writer was replaced before it committed that, and a later leader committed something
        else, of an earlier ballot, while the acceptor was away. Entries of that leader itself would
        be newer than all that stands there: this log still lacks them, and cannot win (R2).

        Raises:
            InvariantError: what is committed here and what was committed there differ.
        """
        log = self.log
        newest = Key(entries[-1].ballot, entries[-1].index) if entries else NO_KEY
        if newest <= log.last or not self.rules.holds("committed-stays"):
            return False
        if snapshot is not None and log.base.index <= snapshot.last.index <= self.commit:
            same = log.ballot_at(snapshot.last.index) == snapshot.last.ballot
            check(same, f"{snapshot.last} is committed on a disk or witness, and not here")
        known = [entry for entry in entries if log.base.index <= entry.index <= self.commit]
        wrong = any(log.ballot_at(entry.index) != entry.ballot for entry in known)
        # Before the base ballots are not known, but none is above its own.
        return wrong or newest.index < log.base.index

    def snapshot(self) -> Snapshot | None:
        """Return a snapshot from which the log can be continued: as new as there is one."""
        return self._fold() or self.log.snapshot

    def memory(self, storage: str) -> Memory:
        """Return what is remembered of a passive acceptor."""
        kept = self.rules.holds("witness-record")
        return Memory(storage, self._memories.get(storage) if kept else None)

    def remember(self, record: WitnessRecord) -> None:
        """Write down what is known to stand on a passive acceptor."""
        self._memories[record.storage] = record
        self.outbox.record(record)

    def call_serial(self) -> int:
        """Return a number that no other call of a passive acceptor of this process carries."""
        self._calls += 1
        return self._calls

    def nonce(self) -> int:
        """Return a number (64 bits) that no other write of this or another process carries."""
        self._nonces += 1
        return (self.boot + self._nonces * 0x9E3779B97F4A7C15) % (1 << 64)

    def truncate(self, index: int) -> None:
        """Drop entries from ``index`` on; none of them may be committed."""
        check(index > self.commit, f"truncate at {index}, committed up to {self.commit}")
        self.log.truncate(index)
        self.outbox.truncated(index)
        self.outbox.record(TruncateRecord(index=index))

    def restore(self, snapshot: Snapshot) -> int:
        """Replace the log by a snapshot of the leader; return the position of its durability."""
        check(snapshot.last.index > self.commit, f"snapshot {snapshot.last} at {self.commit}")
        position = self.outbox.save(snapshot, snapshot.last.index, reset=True)
        self.log.reset(snapshot)
        self.commit = snapshot.last.index
        self._hinted = self.commit
        self.signals.append(Restored(snapshot=snapshot))
        return position

    def advance(self, commit: int) -> None:
        """Raise the commit index to ``commit`` and hand out what it covers."""
        if commit <= self.commit:
            return
        check(commit <= self.log.last.index, f"commit {commit} behind {self.log.last}")
        entries = self.log.span(self.commit + 1, commit)
        self.commit = commit
        self.signals.append(Committed(entries=entries))

    # --- the way out -----------------------------------------------------------------------------

    def send(self, node: int, message: QuorumMessage, after: int = 0) -> None:
        """Send a message; replies of an acceptor name the position that they rest on (R4)."""
        if not self.rules.holds("durable-before-reply"):
            after = 0
        if node in self.passives:
            if isinstance(message, PreProbe | Prepare):
                self.passives[node].ask(message, after)
            return
        self.outbox.send(node, message, after)

    def answer(self, node: int, message: QuorumMessage, after: int = 0) -> None:
        """Take the answer of a passive acceptor, once the log is durable up to ``after``."""
        self.replies.append((after, node, message))

    def take_replies(self) -> list[tuple[int, QuorumMessage]]:
        """Return the answers of passive acceptors that need not wait any more."""
        durable = self.outbox.durable_position
        ready = [(node, message) for after, node, message in self.replies if after <= durable]
        self.replies = [reply for reply in self.replies if reply[0] > durable]
        return ready

    def take_effects(self) -> list[Effect]:
        """Return the effects of the step; now and then a write carries a commit hint."""
        if self.outbox.writing and self.commit >= self._hinted + COMMIT_HINT_ENTRIES:
            self._hinted = self.commit
            self.outbox.record(CommitRecord(index=self.commit))
        return self.outbox.take(self.log.last.index)
