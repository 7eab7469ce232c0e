"""The leading half: replication to all others, and what is committed.

Rules:

- A leader appends and sends in the same step; its own copy counts only when it is durable here.
- An entry is committed when it has the leader's own ballot and a quorum of every active
  configuration holds it durably; with it all entries before it are.
- Nothing is proposed before the first entry of the term, and one change of the configuration at a
  time, none before that entry committed.

Theory of operation: entries gather in the log during a step; :meth:`flush`, called when the step's
effects are taken, sends each node what it lacks, so that a step costs one message per node however
many entries it proposed. The commit index travels with entries, and alone when there are none: at
once if somebody is to act on what committed, else some milliseconds later.
"""

from __future__ import annotations

from collections.abc import Collection
from operator import is_

import msgspec

from leitwolf.core.lease.profile import MILLISECOND
from leitwolf.core.messages import (
    Append,
    Appended,
    Gap,
    InstallSnapshot,
    SnapshotInstalled,
)
from leitwolf.core.quorum.predicate import agreed, contenders, member_nodes, voters
from leitwolf.core.quorum.progress import Progress, Stage
from leitwolf.core.quorum.reconfigure import verify_change
from leitwolf.core.quorum.standing import NEVER, Standing
from leitwolf.model.errors import Conflict, NotLeader, check
from leitwolf.model.ids import NodeId
from leitwolf.model.limits import APPEND_BYTES_MAX, SNAPSHOT_CHUNK_BYTES
from leitwolf.model.log import Entry
from leitwolf.model.quorum import AcceptorId, QuorumConfig
from leitwolf.wire.ballot import Ballot

__all__ = ["Leadership"]

_NOTICE_NS = 10 * MILLISECOND
"""A commit on which nobody acts waits so long for entries to travel with: it saves every follower
one wakeup of two where changes follow each other, and nobody sees the difference where not."""


class Leadership:
    """One term of office in ``ballot``."""

    def __init__(self, standing: Standing, ballot: Ballot) -> None:
        self._standing = standing
        self.ballot = ballot
        self.first = 0
        """Index of the first entry of this term, 0: not appended yet."""
        self.progress: dict[int, Progress] = {}
        self._urgent = 0
        """Index of the last entry on which somebody acts when it is committed."""
        self._followed: tuple[object, ...] = (None, None, None)
        """What :meth:`_follow_config` saw last; all of it is replaced when it changes."""
        self._votes_of: QuorumConfig | None = None
        self._without: frozenset[int] = frozenset()
        standing.backed = 0
        self._follow_config()

    # --- proposals -------------------------------------------------------------------------------

    def begin(self, payload: bytes, config: QuorumConfig | None) -> int:
        """Append the first entry of the term and return its index."""
        check(self.first == 0, f"the term of {self.ballot} began already")
        self.first = self._urgent = self._append(payload, config)
        return self.first

    def propose(self, payload: bytes, config: QuorumConfig | None, *, urgent: bool) -> int:
        """Append an entry and return its index; ``urgent``: other nodes act on its commit.

        Raises:
            NotLeader: the first entry of the term is not appended yet.
            Conflict: a change of the configuration is under way, or the term is too young for one.
            InvalidConfig: ``config`` may not follow the one in force.
        """
        if self.first == 0 and self._standing.rules.holds("noop-first"):
            raise NotLeader("elected, but the first entry of the term is not appended yet")
        if config is not None:
            if self._standing.commit < self.first:
                raise Conflict("the first entry of the term is not committed yet")
            if not self.config_committed:
                raise Conflict("another change of the configuration is under way")
            verify_change(self._standing.log.config, config, self._standing.rules)
        index = self._append(payload, config)
        if urgent or config is not None:
            self._urgent = index
        return index

    @property
    def config_committed(self) -> bool:
        """Whether the configuration in force is committed."""
        return self._standing.log.config_index <= self._standing.commit

    def _append(self, payload: bytes, config: QuorumConfig | None) -> int:
        standing = self._standing
        index = standing.log.last.index + 1
        entry = Entry(index=index, ballot=self.ballot, payload=payload, config=config)
        standing.append(entry)
        if config is not None:
            self._follow_config()
        return index

    def _follow_config(self) -> None:
        """Feed exactly those nodes that the configuration names, except this one."""
        standing = self._standing
        basis = (standing.log.config, self.config_committed, standing.passives)
        if all(map(is_, basis, self._followed)):
            return
        self._followed = basis
        nodes = set(member_nodes(standing.log.config)) - {standing.me.node}
        nodes |= standing.passives.keys()
        for node in nodes - self.progress.keys():
            self.progress[node] = Progress(next=standing.log.last.index + 1)
        if self.config_committed:
            for node in self.progress.keys() - nodes:
                del self.progress[node]

    def _voteless(self) -> frozenset[int]:
        """Return the acceptors without a vote; a learner is to get one, and must catch up."""
        config = self._standing.config
        if config is not self._votes_of:
            self._votes_of = config
            able = {acceptor.id.node for acceptor in (*config.acceptors, *(config.former or ()))}
            self._without = frozenset(able - {identity.node for identity in voters(config)})
        return self._without

    # --- what others say -------------------------------------------------------------------------

    def heard(self, node: int) -> None:
        """Note that ``node`` said something."""
        if node in self.progress:
            self.progress[node].heard = self._standing.now

    def peer_up(self, node: int) -> None:
        """Begin anew on a new stream."""
        if node in self.progress:
            progress = self.progress[node]
            progress.probe(progress.match or self._standing.log.last.index)

    def appended(self, node: int, message: Appended) -> None:
        """Count a confirmation."""
        progress = self.progress.get(node)
        if progress is None or message.ballot != self.ballot:
            return
        check(message.match <= self._standing.log.last.index, f"node {node} confirmed too much")
        progress.matched(message.match, message.storage, self._standing.now)
        self.commit()

    def gap(self, node: int, message: Gap) -> None:
        """Go back to where the logs may agree; late and repeated answers change nothing."""
        progress = self.progress.get(node)
        if progress is None or message.ballot != self.ballot or message.hint + 1 >= progress.next:
            return
        if progress.stage == Stage.PROBE or (
            progress.stage == Stage.STREAM and message.hint >= progress.match
        ):
            progress.probe(message.hint)

    def installed(self, node: int, message: SnapshotInstalled) -> None:
        """Go on with the next chunk, or with entries behind the snapshot."""
        progress = self.progress.get(node)
        if progress is None or message.ballot != self.ballot:
            return
        if message.installed:
            progress.matched(message.last.index, message.storage, self._standing.now)
            self.commit()
        elif progress.stage == Stage.SNAPSHOT and progress.snapshot == message.last:
            progress.offset, progress.waiting = message.received, False

    # --- commit ----------------------------------------------------------------------------------

    def commit(self) -> None:
        """Commit what a quorum of every active configuration holds."""
        standing, log = self._standing, self._standing.log
        matches = self._matches()
        standing.backed = self._backed(matches)
        for index in sorted(set(matches.values()), reverse=True):
            if index <= standing.commit:
                return
            own = log.ballot_at(index) == self.ballot
            if not own and standing.rules.holds("own-ballot-commit"):
                return
            have = {identity for identity, match in matches.items() if match >= index}
            if agreed(standing.config, have, standing.rules):
                standing.advance(index)
                return

    def _backed(self, matches: dict[AcceptorId, int]) -> int:
        """Return up to which entry those who hold it are a quorum with all witnesses."""
        standing = self._standing
        witnesses = {passive.acceptor.id for passive in standing.passives.values()}
        if not witnesses:
            return 0
        for index in sorted(set(matches.values()), reverse=True):
            have = {identity for identity, match in matches.items() if match >= index}
            if agreed(standing.config, have | witnesses, standing.rules):
                return index
        return 0

    def _matches(self) -> dict[AcceptorId, int]:
        standing = self._standing
        durable = standing.outbox.durable_index
        if not standing.rules.holds("leader-durable-counts"):
            durable = standing.log.last.index
        matches = {standing.me: durable}
        for node, progress in self.progress.items():
            passive = standing.passives.get(node)
            if passive is None or not passive.distrusted:
                matches[AcceptorId(NodeId(node), progress.storage)] = progress.match
        return matches

    @property
    def removed(self) -> bool:
        """Whether this node lost its place by a committed, final configuration."""
        config = self._standing.log.config
        return (
            self.config_committed
            and config.former is None
            and self._standing.me not in {acceptor.id for acceptor in config.acceptors}
        )

    # --- feeding ---------------------------------------------------------------------------------

    def tick(self) -> None:
        """Send anew what was not answered for the length of a promise."""
        standing = self._standing
        for progress in self.progress.values():
            overdue_at = progress.overdue_at(standing.promise_ns)
            if 0 <= overdue_at <= standing.now:
                progress.probe(progress.match or progress.next - 1)

    def deadline(self) -> int:
        """Return when an unanswered message is overdue, or a notice due."""
        at = NEVER
        for node, progress in self.progress.items():
            if node in self._standing.connected:
                overdue = progress.overdue_at(self._standing.promise_ns)
                at = min(at, overdue) if overdue >= 0 else at
                at = min(at, progress.notice_at) if progress.notice_at >= 0 else at
        return at

    def flush(self) -> None:
        """Send every connected node what it lacks, as far as it may be sent now."""
        standing = self._standing
        for node in sorted(self.progress.keys() & standing.connected - standing.passives.keys()):
            self.feed(node)
        self._follow_config()

    def feed(self, node: int, *, prompt: bool = False) -> None:
        """Send ``node`` what it lacks; ``prompt``: an empty append at least."""
        log = self._standing.log
        progress = self.progress.get(node)
        if progress is None or self.first == 0:
            return
        while progress.ready() and (prompt or not self._told(progress)):
            if progress.stage == Stage.SNAPSHOT or progress.next <= log.base.index:
                self._feed_snapshot(node, progress)
                return
            entries = log.batch(progress.next, APPEND_BYTES_MAX)
            if not prompt and self._may_wait(node, progress, entries):
                return
            quiet = progress.stage == Stage.STREAM and not entries and not prompt
            self._send_append(node, progress, entries, quiet=quiet)
            prompt = False

    def _told(self, progress: Progress) -> bool:
        """Return whether a node has been sent all entries, and the commit of them all."""
        standing = self._standing
        return (
            progress.stage is Stage.STREAM
            and progress.next > standing.log.last.index
            and progress.commit_sent >= min(standing.commit, progress.next - 1)
        )

    def _may_wait(self, node: int, progress: Progress, entries: tuple[Entry, ...]) -> bool:
        """Return whether what is to be told may wait for something urgent to travel with.

        Notices of commits may, and entries for a node that never votes, if nobody acts on them.
        """
        if progress.stage != Stage.STREAM or self._urgent > progress.commit_sent:
            return False
        if entries and node not in self._voteless():
            return False
        if progress.notice_at < 0:
            progress.notice_at = self._standing.now + _NOTICE_NS
        return self._standing.now < progress.notice_at

    def _send_append(
        self, node: int, progress: Progress, entries: tuple[Entry, ...], *, quiet: bool
    ) -> None:
        standing = self._standing
        previous = standing.log.key_at(progress.next - 1)
        message = Append(
            ballot=self.ballot,
            previous=previous,
            entries=entries,
            commit=standing.commit,
            quiet=quiet,
        )
        # The own promise is durable since before the election: nothing to wait for.
        standing.send(node, message)
        last = previous.index + len(entries)
        progress.appended(last, len(entries), standing.commit, standing.now)

    def _feed_snapshot(self, node: int, progress: Progress) -> None:
        standing = self._standing
        snapshot = standing.log.snapshot
        if progress.stage != Stage.SNAPSHOT:
            check(snapshot is not None, "entries are compacted, but there is no snapshot")
            if snapshot is None:
                return
            progress.begin_snapshot(snapshot.last, msgspec.msgpack.encode(snapshot))
        end = progress.offset + SNAPSHOT_CHUNK_BYTES
        message = InstallSnapshot(
            ballot=self.ballot,
            last=progress.snapshot,
            offset=progress.offset,
            data=progress.chunks[progress.offset : end],
            done=end >= len(progress.chunks),
        )
        standing.send(node, message)
        progress.waiting, progress.sent = True, standing.now

    # --- handing over ----------------------------------------------------------------------------

    def voting_nodes(self) -> set[int]:
        """Return the nodes that may lead by the configuration in force."""
        return {identity.node for identity in contenders(self._standing.log.config)}

    def successor(self, blind: Collection[int] = ()) -> int:
        """Return the connected voter that is most up to date, 0: none; ``blind``: those last."""
        standing = self._standing
        nodes = self.voting_nodes()
        able = [
            (node not in blind, progress.match, -node)
            for node, progress in self.progress.items()
            if node in nodes and node in standing.connected
        ]
        return -max(able)[2] if able else 0
