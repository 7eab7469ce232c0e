"""What this acceptor promised, holds and knows: shared by the parts of the quorum core.

Rules:

- ``promised`` never goes back, and every change of it is written in the same step (R4).
- ``commit`` never goes back; entries up to it are never truncated.
"""

from __future__ import annotations

from collections.abc import Callable

from leitwolf.core.effects import Effect
from leitwolf.core.messages import QuorumMessage
from leitwolf.core.quorum.log import Log
from leitwolf.core.quorum.outbox import Outbox
from leitwolf.core.quorum.predicate import agreed, voters
from leitwolf.core.quorum.signals import Committed, Restored, Signal
from leitwolf.core.rules import Rules
from leitwolf.model.errors import check
from leitwolf.model.limits import COMMIT_HINT_ENTRIES
from leitwolf.model.log import (
    CommitRecord,
    Entry,
    EntryRecord,
    Loaded,
    PromisedRecord,
    Snapshot,
    TruncateRecord,
)
from leitwolf.model.quorum import AcceptorId, QuorumConfig
from leitwolf.wire.ballot import NO_BALLOT, Ballot
from leitwolf.wire.page import LeasePage

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
    ) -> None:
        self.me = me
        self.page = page
        self.promise_ns = promise_ns
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

        A node without a vote may lead only for acceptors that are no nodes (disks, witnesses).
        """
        config = self.config
        if config is not self._judged:
            self._judged, self._may_campaign = config, self._has_say(config)
        return self._may_campaign

    def _has_say(self, config: QuorumConfig) -> bool:
        if self.me in voters(config):
            return True
        acceptors = (*config.acceptors, *(config.former or ()))
        if self.me not in {acceptor.id for acceptor in acceptors}:
            return False
        return any(acceptor.kind != "node" and acceptor.weight > 0 for acceptor in acceptors)

    # --- promises and entries --------------------------------------------------------------------

    def promise(self, ballot: Ballot) -> int:
        """Promise ``ballot`` and return the position at which that is durable."""
        if self.rules.holds("promise-above"):
            check(ballot > self.promised, f"promise {ballot} at {self.promised}")
        self.promised = ballot
        if ballot > self.leader:
            self.leader = NO_BALLOT
        return self.outbox.record(PromisedRecord(ballot=ballot))

    def append(self, *entries: Entry) -> int:
        """Append entries and return the position at which they are durable."""
        self.log.extend(entries)
        return self.outbox.record(*(EntryRecord(entry=entry) for entry in entries))

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
        self.outbox.send(node, message, after)

    def take_effects(self) -> list[Effect]:
        """Return the effects of the step; now and then a write carries a commit hint."""
        if self.outbox.writing and self.commit >= self._hinted + COMMIT_HINT_ENTRIES:
            self._hinted = self.commit
            self.outbox.record(CommitRecord(index=self.commit))
        return self.outbox.take(self.log.last.index)
