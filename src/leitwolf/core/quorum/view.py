"""What the node core reads of the quorum core; nothing here changes anything."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from leitwolf.core.quorum.candidate import Candidate, Phase
from leitwolf.core.quorum.leadership import Leadership
from leitwolf.core.quorum.passive import Passive
from leitwolf.core.quorum.standing import Standing
from leitwolf.core.rules import Rules
from leitwolf.model.ids import NodeId
from leitwolf.model.log import Entry
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.wire.ballot import NO_KEY, Ballot, Key
from leitwolf.wire.lineage import Lineage

__all__ = ["PeerProgress", "QuorumView", "Role"]


class Role(StrEnum):
    """What a node is beside being an acceptor."""

    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class PeerProgress:
    """How far another node is, as its leader knows."""

    match: int
    """Confirmed durable up to here."""
    heard: int
    """Instant at which its daemon said something last, -1: never in this term."""


class QuorumView:
    """The readable half of :class:`leitwolf.core.quorum.machine.QuorumCore`."""

    _standing: Standing
    _candidate: Candidate
    _leadership: Leadership | None

    @property
    def role(self) -> Role:
        """What this node is now."""
        if self._leadership is not None:
            return Role.LEADER
        campaign = self._candidate.campaign
        if campaign is not None and campaign.phase != Phase.PROBE:
            return Role.CANDIDATE
        return Role.FOLLOWER

    def office_lasts(self, now: int) -> bool:
        """Return whether this node leads under a valid lease: what it knows is the newest."""
        leadership, page = self._leadership, self._standing.page()
        return leadership is not None and page.office == leadership.ballot and page.leader_end > now

    @property
    def ballot(self) -> Ballot:
        """Ballot of the own office or campaign, else of the leader that is followed."""
        if self._leadership is not None:
            return self._leadership.ballot
        campaign = self._candidate.campaign
        if campaign is not None and campaign.phase != Phase.PROBE:
            return campaign.ballot
        return self._standing.leader

    @property
    def leader(self) -> int:
        """Node that leads as far as is known here, 0: none."""
        return self._standing.leader.node

    @property
    def promised(self) -> Ballot:
        """Highest ballot promised (perhaps not durable yet)."""
        return self._standing.promised

    @property
    def written(self) -> Ballot:
        """Highest ballot written or begun to write: promises are written when they are made.

        But for that of a forced history whose first entry is not durable: nobody acts by it yet,
        and a guard that knew it would help nobody in the former history, to which a crash returns.
        """
        standing = self._standing
        return standing.promised if standing.begun else standing.unforced

    @property
    def commit(self) -> int:
        """Index up to which entries are known to be committed."""
        return self._standing.commit

    @property
    def named_commit(self) -> int:
        """Highest commit index that a live leader named since the start, -1: none did."""
        return self._standing.named_commit

    @property
    def last_key(self) -> Key:
        """Key of the last entry."""
        return self._standing.log.last

    @property
    def config(self) -> QuorumConfig:
        """Configuration in force: appended, perhaps not committed."""
        return self._standing.config

    @property
    def config_committed(self) -> bool:
        """Whether the configuration in force is committed."""
        return self._standing.log.config_index <= self._standing.commit

    @property
    def passives(self) -> tuple[Passive, ...]:
        """The disks and witnesses in use, to be read only."""
        return tuple(self._standing.passives.values())

    @property
    def sought(self) -> int:
        """Passive acceptor that is to be armed, for a change of the quorum waits for it; 0."""
        return self._standing.sought

    @property
    def me(self) -> AcceptorId:
        """This acceptor."""
        return self._standing.me

    @property
    def rules(self) -> Rules:
        """The rules that hold."""
        return self._standing.rules

    def nonce(self) -> int:
        """Return a number (64 bits) that no other process and no other call returns."""
        return self._standing.nonce()

    @property
    def lineage(self) -> Lineage:
        """Of the history that this node is in."""
        return self._standing.lineage

    @property
    def join_only(self) -> bool:
        """Whether this node neither leads nor promises until it heard a leader."""
        return self._standing.join_only

    @property
    def passive_acceptors(self) -> tuple[Acceptor, ...]:
        """Disks and witnesses of the configuration in force."""
        return tuple(passive.acceptor for passive in self._standing.passives.values())

    def moving_stamps(self, now: int, since: int) -> list[str]:
        """Return where disks and witnesses are at which another node shows that it lives.

        Args:
            now: RAW ns.
            since: two readings after it that differ are such a sign, whatever stands there; so is
                an armed stamp that binds candidates.
        """
        passives = self._standing.passives.values()
        read = [one for one in passives if one.looked_at >= 0 and not one.fault]
        moving = [one for one in read if one.free_at() > now or one.moved_from >= since]
        return sorted(one.acceptor.location for one in moving)

    def unread(self, since: int) -> list[str]:
        """Return where disks and witnesses are that neither answered since an instant nor fail."""
        passives = self._standing.passives.values()
        return sorted(
            one.acceptor.location for one in passives if one.looked_at < since and not one.fault
        )

    @property
    def witness_faults(self) -> dict[int, str]:
        """Why disks and witnesses did not do what this node asked of them last."""
        passives = self._standing.passives
        return {node: passive.fault for node, passive in passives.items() if passive.fault}

    @property
    def ready_witnesses(self) -> frozenset[NodeId]:
        """Disks and witnesses that could vote now, as far as this leader's lease is concerned."""
        passives = self._standing.passives
        return frozenset(NodeId(node) for node, passive in passives.items() if passive.ready)

    @property
    def witnesses(self) -> frozenset[int]:
        """Disks and witnesses that did what was asked of them last."""
        return frozenset(self._standing.connected & self._standing.passives.keys())

    @property
    def connected(self) -> set[NodeId]:
        """Nodes whose stream is up."""
        passives = self._standing.passives.keys()
        return {NodeId(node) for node in self._standing.connected - passives}

    @property
    def log(self) -> tuple[Entry, ...]:
        """Entries since the snapshot."""
        log = self._standing.log
        return log.after(log.snapshot.last.index if log.snapshot is not None else 0)

    @property
    def progress(self) -> dict[int, PeerProgress]:
        """Of each other node, while this one leads."""
        if self._leadership is None:
            return {}
        return {
            node: PeerProgress(progress.match, progress.heard)
            for node, progress in self._leadership.progress.items()
        }

    def match(self, node: int, storage: str = "") -> int:
        """Return up to where ``node`` is durable, while this one leads; 0: not known.

        Args:
            node: the node.
            storage: what another storage of the node confirmed does not count; '': whichever.
        """
        leadership = self._leadership
        progress = leadership.progress.get(node) if leadership is not None else None
        if progress is None or storage not in ("", progress.storage):
            return 0
        return progress.match

    @property
    def durable_index(self) -> int:
        """Index up to which entries are durable on this node."""
        return self._standing.outbox.durable_index

    def durable_at(self, node: int) -> int:
        """Return up to where ``node``, this one included, is durable, while this one leads."""
        return self.durable_index if node == self._standing.me.node else self.match(node)

    def key_at(self, index: int) -> Key:
        """Return the key of the entry at ``index``, which must be in the log."""
        return self._standing.log.key_at(index)

    def holds(self, key: Key) -> bool:
        """Return whether the log goes on from this key; False if that is compacted."""
        return self._standing.log.ballot_at(key.index) == key.ballot

    def key_within(self, epoch: int) -> Key:
        """Return the key of the newest entry of this epoch or an earlier one.

        NO_KEY where that is compacted: then nobody knows.
        """
        log = self._standing.log
        if log.last.ballot.epoch <= epoch:
            return log.last
        held = (one for one in reversed(log.after(log.base.index)) if one.ballot.epoch <= epoch)
        newest = next(held, None)
        if newest is not None:
            return Key(newest.ballot, newest.index)
        return log.base if log.base.ballot.epoch <= epoch else NO_KEY

    @property
    def forced_position(self) -> int:
        """Position at which the entry that forced a history here is durable, 0: it is."""
        return self._standing.forced_at

    def entries_after(self, index: int) -> tuple[Entry, ...]:
        """Return all entries behind ``index``, committed or not."""
        return self._standing.log.after(index)

    def config_at(self, index: int) -> QuorumConfig:
        """Return the configuration in force when the log ended at ``index``."""
        return self._standing.log.config_at(index)
