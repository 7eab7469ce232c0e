"""The quorum core of one node: Raft's replication with owned ballots.

Rules: R1-R5 and L3, L4, L8, L13 of the quorum rules; each part names those that it keeps.

Theory of operation: every input goes to the half that it concerns: :class:`Voter` (promises),
:class:`Candidate` (campaigns), :class:`Replica` (follows a leader) or :class:`Leadership` (leads).
They share one :class:`Standing` (promise, log, commit index) and write their effects and signals
into it. A node always is an acceptor; it leads or campaigns beside that, and stops as soon as its
own promise is above its ballot.

The caller executes the effects in the order that :mod:`leitwolf.core.executor` keeps, and answers
the signals: ``MayLead`` by asking the guard for office, ``Elected`` by :meth:`QuorumCore.begin`.
Messages may be lost, repeated or come late; guard and peers may vanish at any time.

What this does not guarantee: that the leader still leads (a read needs its lease, which the guard
keeps), nor any timeliness. Safety of the log does not depend on time.

L13: a leader that is refused by a minority because of a higher promise there (its daemon says so,
or its guard: ``OfficeLost``, reason ``refused``) prepares a round above it without waiting if its
lease is valid. To its own node that is a short step down (reason ``raised``) followed by
``MayLead`` in the higher round; guards refuse no higher round of the owner whom they are bound to,
so lease and roster go on. Without a valid lease it steps down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from leitwolf.core.effects import Effect
from leitwolf.core.lease.profile import MILLISECOND, Profile
from leitwolf.core.messages import (
    Append,
    Appended,
    Gap,
    InstallSnapshot,
    Prepare,
    PreProbe,
    PreProbeReply,
    Promised,
    QuorumMessage,
    Refused,
    SnapshotInstalled,
    TransferOffice,
    verify_sender,
)
from leitwolf.core.quorum.candidate import Candidate, Phase
from leitwolf.core.quorum.cas import CasAcceptor
from leitwolf.core.quorum.disk import DiskAcceptor
from leitwolf.core.quorum.leadership import Leadership
from leitwolf.core.quorum.predicate import witnesses
from leitwolf.core.quorum.replica import Replica
from leitwolf.core.quorum.signals import Elected, Signal, SteppedDown, TransferFailed
from leitwolf.core.quorum.standing import NEVER, Standing
from leitwolf.core.quorum.view import QuorumView, Role
from leitwolf.core.quorum.voter import Voter
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.errors import NotLeader, check
from leitwolf.model.log import Loaded, Snapshot
from leitwolf.model.quorum import AcceptorId, QuorumConfig
from leitwolf.ports.witness import WitnessResult
from leitwolf.wire.ballot import Ballot
from leitwolf.wire.guard import (
    BackDropped,
    BackingThin,
    Fenced,
    FenceRefused,
    GuardHello,
    GuardReport,
    Office,
    OfficeLost,
    Release,
    Released,
)
from leitwolf.wire.lineage import Lineage
from leitwolf.wire.page import LeasePage

__all__ = ["QuorumCore"]


@dataclass(slots=True)
class _Transfer:
    node: int
    index: int
    """The successor must hold entries up to here before the ballot is released."""
    deadline: int
    asked: bool = False
    """The guard was asked to release."""


class QuorumCore(QuorumView):
    """Consensus of one node, without clock, disk and network."""

    def __init__(
        self,
        *,
        me: AcceptorId,
        loaded: Loaded,
        config: QuorumConfig,
        page: Callable[[], LeasePage],
        promise_ns: int,
        rank_delay_ns: int = 5 * MILLISECOND,
        now: int,
        rules: Rules = ALL_RULES,
        boot: int = 0,
        snapshot: Callable[[], Snapshot | None] = lambda: None,
        evicted: Callable[[], tuple[int, ...]] = tuple,
        lineage: Lineage = (),
        join_only: bool = False,
    ) -> None:
        """Continue from what the log holds; what it holds as committed is not signalled again.

        Args:
            me: this node with its storage.
            loaded: contents of the quorum log.
            config: configuration in force where neither entry nor snapshot says so.
            page: reads the guard's page, an empty one while there is none.
            promise_ns: P.
            rank_delay_ns: by how much a candidate of lower rank waits longer.
            now: CLOCK_MONOTONIC_RAW in ns.
            rules: switched off one by one in tests.
            boot: random number of this process (64 bits), written to disks and witnesses.
            snapshot: makes a snapshot of what is committed, for disks and witnesses.
            evicted: numbers of nodes that ceased to be members, as far as is committed.
            lineage: of the history that this node is in.
            join_only: neither lead nor promise until a leader is heard.
        """
        self._standing = Standing(
            me=me,
            loaded=loaded,
            config=config,
            page=page,
            promise_ns=promise_ns,
            rank_delay_ns=rank_delay_ns,
            now=now,
            rules=rules,
            boot=boot,
            snapshot=snapshot,
            evicted=evicted,
            lineage=lineage,
            join_only=join_only,
        )
        self._leadership: Leadership | None = None
        self._passives_of: QuorumConfig | None = None
        self._follow_witnesses()
        self._voter = Voter(self._standing)
        self._replica = Replica(self._standing)
        self._candidate = Candidate(self._standing)
        self._transfer: _Transfer | None = None
        self._guard_doubtful = False

    def seek(self, node: int) -> None:
        """Keep this passive acceptor armed: a change of the quorum waits until it is; 0: none."""
        self._standing.sought = node

    def set_profile(self, profile: Profile) -> None:
        """Count by another profile from now on: that of the cluster changed."""
        self._standing.promise_ns = profile.promise
        self._standing.silence_ns = profile.silence

    def deadline(self) -> int:
        """Return the instant at which :meth:`tick` is needed at the latest."""
        leadership = self._leadership
        at = min((one.deadline() for one in self._standing.passives.values()), default=NEVER)
        if leadership is None:
            return min(at, self._candidate.deadline(), self._replica.deadline())
        at = min(at, leadership.deadline(), self._replica.deadline())
        if self._transfer is not None:
            at = min(at, self._transfer.deadline)
        if self._guard_doubtful:
            at = min(at, self._standing.now + self._standing.rank_delay_ns)
        return at

    # --- inputs: time, peers ---------------------------------------------------------------------

    def tick(self, now: int) -> None:
        """Let time pass."""
        self._standing.now = now
        self._release_held()
        leadership = self._leadership
        if leadership is None:
            self._candidate.tick()
            return
        leadership.tick()
        if self._guard_doubtful:
            self._watch_office()
        transfer = self._transfer
        if transfer is not None and now >= transfer.deadline:
            self._transfer = None
            if transfer.asked:
                self._step_down("not-released")
            else:
                failed = TransferFailed(node=transfer.node, reason="not-caught-up")
                self._standing.signals.append(failed)

    def peer_up(self, now: int, node: int) -> None:
        """A stream to ``node`` is up."""
        self._standing.now = now
        self._standing.connected.add(node)
        if self._leadership is not None:
            self._leadership.peer_up(node)
        self._candidate.peer_up(node)

    def peer_lost(self, now: int, node: int) -> None:
        """The stream to ``node`` is gone, and what was under way on it."""
        self._standing.now = now
        self._standing.connected.discard(node)

    def receive(self, now: int, node: int, message: QuorumMessage) -> None:
        """Take in a message of ``node``.

        Raises:
            ProtocolError: it breaks the protocol; nothing changed.
        """
        self._standing.now = now
        verify_sender(node, message)
        leadership = self._leadership
        if leadership is not None:
            leadership.heard(node)
        match message:
            case Append() | InstallSnapshot():
                self._from_leader(node, message)
            case PreProbe():
                self._voter.probe(node, message, leading=leadership is not None)
                if leadership is not None:
                    leadership.feed(node, prompt=True)
            case Prepare():
                self._voter.prepare(node, message)
                self._yield_to(self._standing.promised)
            case PreProbeReply():
                self._candidate.probed(node, message)
            case Promised():
                self._candidate.promised(node, message)
            case Refused():
                self._refused(node, message)
            case TransferOffice():
                self._take_over(message)
            case _:
                self._replicated(node, message)

    def witness(
        self, now: int, node: int, serial: int, started: int, result: WitnessResult
    ) -> None:
        """Take in how a call of the passive acceptor ``node`` ended; ``started``: RAW ns."""
        self._standing.now = now
        passive = self._standing.passives.get(node)
        if passive is not None:
            passive.result(serial, started, result)
        self._take_replies()

    def _take_replies(self) -> None:
        """Take in what passive acceptors answer, as if nodes had sent it."""
        while replies := self._standing.take_replies():
            for node, message in replies:
                match message:
                    case PreProbeReply():
                        self._candidate.probed(node, message)
                    case Promised():
                        self._candidate.promised(node, message)
                    case Refused():
                        self._refused(node, message)
                    case Appended():
                        self._replicated(node, message)
                    case _:
                        check(False, f"a passive acceptor said {type(message).__name__}")

    def _follow_witnesses(self) -> None:
        """Use exactly the passive acceptors of the configuration in force."""
        standing = self._standing
        if standing.config is self._passives_of:
            return
        self._passives_of = standing.config
        former = standing.passives
        standing.passives = {}
        for acceptor in witnesses(standing.config):
            known = former.pop(acceptor.id.node, None)
            if known is None or known.acceptor.id != acceptor.id:
                kind = DiskAcceptor if acceptor.kind == "disk" else CasAcceptor
                known = kind(standing, acceptor)
                if self._leadership is not None:
                    known.lead(self._leadership.ballot)
            known.acceptor = acceptor
            standing.passives[acceptor.id.node] = known
        standing.connected -= former.keys()

    def _replicated(self, node: int, message: Appended | Gap | SnapshotInstalled) -> None:
        leadership = self._leadership
        if leadership is None:
            return
        match message:
            case Appended():
                leadership.appended(node, message)
            case Gap():
                leadership.gap(node, message)
            case SnapshotInstalled():
                leadership.installed(node, message)
        self._after_commit(leadership)

    def _from_leader(self, node: int, message: Append | InstallSnapshot) -> None:
        replica = self._replica
        if not replica.admits(node, message.ballot) or replica.must_wait(node, message):
            return
        self._follow(message.ballot)
        if isinstance(message, Append):
            replica.append(node, message)
        else:
            replica.install(node, message)

    def _release_held(self) -> None:
        """Take in what waited for the own guard to know its ballot."""
        for node, message in self._replica.released():
            self._from_leader(node, message)

    def _follow(self, ballot: Ballot) -> None:
        self._yield_to(ballot)
        if ballot != self._standing.leader:
            self._candidate.leader_seen()
        if self._candidate.campaign is not None and self.role == Role.FOLLOWER:
            self._candidate.campaign = None
        self._replica.follow(ballot)

    def _refused(self, node: int, message: Refused) -> None:
        self._candidate.refused(node, message)
        leadership = self._leadership
        if (
            leadership is None
            or message.ballot != leadership.ballot
            or message.promised <= leadership.ballot
        ):
            return
        if self.office_lasts(self._standing.now):
            self._step_down("raised")
            self._candidate.start(at_once=True, raised=leadership.ballot)
        else:
            self._step_down("outbid")

    def _take_over(self, message: TransferOffice) -> None:
        standing = self._standing
        newest = message.ballot >= standing.promised
        if newest and standing.may_campaign and self.role == Role.FOLLOWER:
            self._candidate.called(message.successor)

    # --- inputs: guard ---------------------------------------------------------------------------

    def guard(self, now: int, report: GuardReport) -> None:
        """Take in what the own guard says."""
        self._standing.now = now
        if self._guard_doubtful and self._leadership is not None:
            self._watch_office()
        self._guard_doubtful = False
        match report:
            case Fenced():
                self._candidate.fenced(report)
                self._voter.fenced(report)
                self._yield_to(self._standing.promised)
            case FenceRefused():
                self._candidate.fence_refused(report)
                self._voter.fence_refused(report)
            case Office():
                self._office(report.ballot)
            case OfficeLost():
                self._office_lost(report)
            case Released():
                self._released(report.ballot)
            case GuardHello():
                self._replica.guard_lost()
            case BackingThin():
                leads = self._leadership is not None and self._leadership.ballot == report.ballot
                self._standing.thin = leads and report.thin
            case BackDropped():
                passive = self._standing.passives.get(report.acceptor)
                if passive is not None and passive.ballot == report.ballot:
                    passive.dropped()
            case _:
                pass  # Freed only wakes: deadline() looks at the page anew

    def guard_lost(self, now: int) -> None:
        """The connection to the guard is gone: what it was asked is void."""
        self._standing.now = now
        self._voter.guard_lost()
        self._replica.guard_lost()
        campaign = self._candidate.campaign
        if campaign is not None and campaign.phase != Phase.PROBE:
            self._candidate.abandon("guard-lost")
        if self._transfer is not None and self._transfer.asked:
            self._step_down("guard-lost")
        self._guard_doubtful = True

    def _watch_office(self) -> None:
        """Go on without a guard only while its page says that the office lasts."""
        if not self.office_lasts(self._standing.now):
            self._step_down("guard-lost")

    def _office(self, ballot: Ballot) -> None:
        standing, campaign = self._standing, self._candidate.campaign
        if self._leadership is not None and self._leadership.ballot == ballot:
            return
        if campaign is None or campaign.phase != Phase.OFFICE or campaign.ballot != ballot:
            standing.outbox.ask(Release(ballot))
            return
        check(standing.promised == ballot, f"office in {ballot}, promised {standing.promised}")
        self._candidate.won()
        standing.leader = ballot
        self._leadership = Leadership(standing, ballot)
        for passive in standing.passives.values():
            passive.lead(ballot)
        self._guard_doubtful = False
        standing.signals.append(Elected(ballot=ballot))

    def _office_lost(self, report: OfficeLost) -> None:
        ballot = report.ballot
        self._candidate.note(report.floor)
        campaign = self._candidate.campaign
        if self._leadership is not None and self._leadership.ballot == ballot:
            if report.reason == "refused":
                self._step_down("raised")
                self._candidate.start(at_once=True, raised=ballot)
                return
            self._step_down("office-lost")
        elif campaign is not None and campaign.ballot == ballot:
            self._candidate.abandon("office-lost")

    def _released(self, ballot: Ballot) -> None:
        standing, leadership, transfer = self._standing, self._leadership, self._transfer
        if leadership is None or leadership.ballot != ballot:
            return
        if transfer is None:
            self._step_down("released")
            return
        # Entries go first, so the successor is not behind; nobody is to wait for one that is gone.
        leadership.flush()
        for node in sorted(standing.connected) if transfer.node in standing.connected else ():
            standing.send(node, TransferOffice(ballot=ballot, successor=transfer.node))
        self._step_down("transferred")

    # --- inputs: disk, proposals -----------------------------------------------------------------

    def durable(self, now: int, position: int) -> None:
        """The log is durable up to ``position``."""
        self._standing.now = now
        self._standing.outbox.durable(position)
        self._candidate.durable()
        self._take_replies()
        if self._leadership is not None:
            self._leadership.commit()
            self._after_commit(self._leadership)

    def begin(self, now: int, payload: bytes, config: QuorumConfig | None = None) -> None:
        """Append the first entry of the term, in answer to ``Elected``.

        Raises:
            NotLeader: this node is not in office (any more).
        """
        self._standing.now = now
        self._in_office().begin(payload, config)

    def propose(
        self, now: int, payload: bytes, config: QuorumConfig | None = None, *, urgent: bool = True
    ) -> int:
        """Append an entry and return its index; ``Committed`` tells when it is safe.

        Not ``urgent``: other nodes may learn a little later that it is committed.

        Raises:
            NotLeader: this node is not in office, or its term did not begin.
            Conflict: a change of the configuration is under way, or the term is too young for one.
            InvalidConfig: ``config`` may not follow the one in force.
        """
        self._standing.now = now
        return self._in_office().propose(payload, config, urgent=urgent)

    def transfer(self, now: int, node: int, blind: Collection[int] = ()) -> None:
        """Hand leadership over to ``node`` (0: the most up-to-date voter within reach).

        Ends in ``SteppedDown`` (reason ``transferred``) or ``TransferFailed``; while one is under
        way another is ignored, as is one to this node. ``blind``: chosen only if nobody else is.

        Raises:
            NotLeader: this node is not in office.
        """
        standing = self._standing
        standing.now = now
        leadership = self._in_office()
        if self._transfer is not None or node == standing.me.node:
            return
        target, reason = node or leadership.successor(blind), ""
        if target == 0 or target not in leadership.voting_nodes():
            reason = "no-voter"
        elif target not in standing.connected:
            reason = "not-connected"
        if reason:
            standing.signals.append(TransferFailed(node=target, reason=reason))
            return
        deadline = now + standing.promise_ns
        self._transfer = _Transfer(target, standing.log.last.index, deadline)
        self._release_when_caught_up(leadership)

    def force(self, now: int, lineage: Lineage, payload: bytes, config: QuorumConfig) -> int:
        """Begin a new history with this entry, by order of the operator; return its index."""
        check(self._leadership is None, "a leader forces nothing")
        self._standing.now = now
        self._candidate.leave_history()
        return self._standing.force(lineage, payload, config)

    def obey(self, now: int, lineage: Lineage) -> None:
        """Be in a history that another node forced, whose first entry is to come from there."""
        check(self._leadership is None, "a leader obeys nobody")
        self._standing.now = now
        self._candidate.leave_history()
        self._standing.obey(lineage)

    def look(self, now: int) -> None:
        """Look at all disks and witnesses, if it is time to, whether this node may lead or not."""
        self._standing.now = now
        for passive in self._standing.passives.values():
            passive.watch()

    def joined(self) -> None:
        """A leader was heard: who was to join only has joined."""
        self._standing.join_only = False

    def compact(self, now: int, snapshot: Snapshot) -> None:
        """Store an own snapshot and drop entries far behind it."""
        standing = self._standing
        standing.now = now
        check(snapshot.last.index <= standing.commit, "a snapshot covers committed entries only")
        standing.outbox.save(snapshot, standing.log.last.index, reset=False)
        standing.log.compact(snapshot)

    # --- outputs ---------------------------------------------------------------------------------

    def take_effects(self) -> list[Effect]:
        """Return the effects since the last call, in order; replication is sent here."""
        self._follow_witnesses()
        # A disk or witness that is called at all is waited for; to send to nodes takes a while.
        for passive in self._standing.passives.values():
            passive.work()
        if self._leadership is not None:
            self._leadership.flush()
        return self._standing.take_effects()

    def take_signals(self) -> list[Signal]:
        """Return the signals since the last call, in order."""
        signals, self._standing.signals = self._standing.signals, []
        return signals

    # --- inside ----------------------------------------------------------------------------------

    def _in_office(self) -> Leadership:
        if self._leadership is None:
            known = f"node {self.leader} leads" if self.leader else "no leader is known"
            raise NotLeader(f"this node does not lead; {known}")
        return self._leadership

    def _after_commit(self, leadership: Leadership) -> None:
        if leadership.first and self._standing.commit >= leadership.first and leadership.removed:
            self._step_down("removed")
            return
        self._release_when_caught_up(leadership)

    def _release_when_caught_up(self, leadership: Leadership) -> None:
        transfer = self._transfer
        if transfer is None or transfer.asked:
            return
        # What was promised to somebody is answered before: its commit may need this node's own log.
        if min(self.match(transfer.node), self._standing.commit) >= transfer.index:
            transfer.asked = True
            transfer.deadline = self._standing.now + self._standing.promise_ns
            self._standing.outbox.ask(Release(leadership.ballot))

    def _yield_to(self, ballot: Ballot) -> None:
        """Stop leading and campaigning below ``ballot``."""
        if self._leadership is not None and self._leadership.ballot < ballot:
            self._step_down("outbid")
        campaign = self._candidate.campaign
        if (
            campaign is not None
            and campaign.phase in (Phase.PREPARE, Phase.OFFICE)
            and campaign.ballot < ballot
        ):
            self._candidate.abandon("outbid")

    def _step_down(self, reason: str) -> None:
        leadership = self._leadership
        if leadership is None:
            return
        standing = self._standing
        if reason == "removed":
            leadership.flush()
        self._leadership = None
        self._transfer = None
        standing.thin, standing.sought = False, 0
        for passive in standing.passives.values():
            passive.leave(released=reason in ("transferred", "released"))
        standing.leader = max(standing.leader, leadership.ballot)
        standing.signals.append(SteppedDown(ballot=leadership.ballot, reason=reason))
        if reason in ("transferred", "released", "not-released", "removed"):
            self._candidate.pause(standing.promise_ns)
        if reason in ("removed", "outbid"):
            standing.outbox.ask(Release(leadership.ballot))
