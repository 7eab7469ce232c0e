"""The electing half: when this node campaigns, and how a ballot is won.

Phases of a campaign::

    probe    would a quorum promise me a ballot?          nobody is committed to anything
    fence    may this node itself promise it?             its own guard answers (L4)
    prepare  the own promise is written, all are asked    a quorum of promises: MayLead
    office   the guard takes office                       Elected

Rules:

- A candidate obeys its own promise like any other's: own guard first, then durable, then the rest.
- A ballot is used for one campaign only: it is durable before anybody else hears of it.
- No randomness: ballots are owned, so two candidates never tie; who waits how long follows from the
  rank, the position among the voters rotated behind the last leader.

What this does not guarantee: that a campaign succeeds. It ends by a deadline and is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from leitwolf.core.messages import (
    Prepare,
    PreProbe,
    PreProbeReply,
    Promised,
    Refused,
)
from leitwolf.core.quorum.predicate import contenders
from leitwolf.core.quorum.signals import Behind, MayLead, SteppedDown
from leitwolf.core.quorum.standing import NEVER, Standing
from leitwolf.model.ids import NodeId
from leitwolf.model.quorum import AcceptorId, QuorumConfig
from leitwolf.model.witness import is_witness
from leitwolf.wire.ballot import NO_BALLOT, Ballot, Key
from leitwolf.wire.guard import Fence, Fenced, FenceRefused, Release

__all__ = ["Campaign", "Candidate", "Phase"]

_BACKOFF_DOUBLINGS_MAX = 6
"""Beyond that the length of a promise limits the pause anyway."""


class Phase(StrEnum):
    """How far a campaign is."""

    PROBE = "probe"
    FENCE = "fence"
    PREPARE = "prepare"
    OFFICE = "office"


@dataclass(slots=True)
class Campaign:
    """One attempt to become leader."""

    phase: Phase
    serial: int
    deadline: int
    ballot: Ballot = NO_BALLOT
    position: int = 0
    """Write that makes the own promise durable."""
    own: Promised | None = None
    willing: set[AcceptorId] = field(default_factory=set)
    refusing: set[int] = field(default_factory=set)
    """Nodes that will not change their mind within this campaign."""
    promises: dict[int, Promised] = field(default_factory=dict)
    postponed: set[int] = field(default_factory=set)
    """Nodes whose guard is still bound for a moment."""
    resend_at: int = NEVER
    raised: Ballot = NO_BALLOT
    """Office that this node holds while it prepares a round above it (L13)."""


class Candidate:
    """Campaigns when its time has come."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self.campaign: Campaign | None = None
        self._serial = 0
        self._attempts = 0
        self._retry_at = 0
        self._started_at = standing.now
        self._leader_seen_at = -1
        self._seen = NO_BALLOT
        """Highest ballot heard of, in the own epoch."""
        self._freed = NO_BALLOT
        self._freed_at = 0
        self._ranked: tuple[QuorumConfig, int, int] | None = None
        """Configuration, last leader and the rank that follows from them."""

    # --- when ------------------------------------------------------------------------------------

    def rank(self) -> int:
        """Return the position among those who may lead, rotated behind the last leader."""
        standing, page = self._standing, self._standing.page()
        config = standing.config
        leader = max(standing.leader, standing.log.last.ballot, page.heard, page.renewed).node
        known = self._ranked
        if known is not None and known[0] is config and known[1] == leader:
            return known[2]
        nodes = {identity.node for identity in contenders(config)} | {standing.me.node}
        order = sorted(nodes, key=lambda node: (node <= leader, node))
        rank = order.index(standing.me.node)
        self._ranked = config, leader, rank
        return rank

    def campaign_at(self) -> int:
        """Return when this node campaigns if nothing is heard until then."""
        standing, page = self._standing, self._standing.page()
        if not standing.may_campaign:
            return NEVER
        promise = standing.promise_ns
        if page.freed:
            if page.renewed != self._freed:
                self._freed, self._freed_at = page.renewed, standing.now
            # Whom the leader handed over to goes first.
            begin = self._freed_at + 2 * standing.rank_delay_ns
        else:
            begin = max(page.promise_end, self._started_at + promise)
            if page.heard_at:
                begin = max(begin, page.heard_at + promise)
        if self._leader_seen_at >= 0:
            begin = max(begin, self._leader_seen_at + promise)
        if standing.promised_at >= 0 and standing.promised.node != standing.me.node:
            begin = max(begin, standing.promised_at + promise // 2)
        begin = max(begin, page.fence_from)
        if standing.passives and not standing.nodes_suffice(connected=True):
            voting = [one for one in standing.passives.values() if one.acceptor.weight]
            begin = max([begin, *(one.free_at() for one in voting)])
        return max(begin + self.rank() * standing.rank_delay_ns, self._retry_at)

    def deadline(self) -> int:
        """Return when :meth:`tick` is needed."""
        standing, campaign = self._standing, self.campaign
        if campaign is not None:
            return min(campaign.deadline, campaign.resend_at)
        watch = self._watch_at()
        if watch <= standing.now:
            watch = min(one.watch_at() for one in standing.passives.values())
        at = min(self.campaign_at(), watch)
        if at == NEVER:
            return NEVER
        # Every heartbeat moves that instant on, and the guard tells of a release (``Freed``): it is
        # enough to look at the page when it would be time.
        return min(at, standing.now + standing.promise_ns)

    def tick(self) -> None:
        """Begin, repeat or give up."""
        standing, campaign = self._standing, self.campaign
        if campaign is None:
            if standing.now >= self._watch_at():
                for passive in standing.passives.values():
                    passive.watch()
            if standing.now >= self.campaign_at():
                self.start()
        elif standing.now >= campaign.deadline:
            self.abandon("timeout")
        elif standing.now >= campaign.resend_at:
            campaign.resend_at = NEVER
            if campaign.phase == Phase.FENCE:
                standing.outbox.ask(Fence(campaign.ballot))
            elif campaign.phase == Phase.PREPARE:
                for node in sorted(campaign.postponed):
                    self._prepare(node)
                campaign.postponed.clear()

    def _watch_at(self) -> int:
        """Return when to look at disks and witnesses: a heartbeat is late by a quarter."""
        standing, page = self._standing, self._standing.page()
        if not standing.passives or not standing.may_campaign:
            return NEVER
        return page.heard_at + page.heartbeat + page.heartbeat // 4

    def pause(self, duration: int) -> None:
        """Do not campaign for ``duration`` ns."""
        self._retry_at = max(self._retry_at, self._standing.now + duration)

    def called(self, successor: int) -> None:
        """A leader handed over: begin at once, or let its successor go first."""
        standing = self._standing
        if successor == standing.me.node:
            self.start(at_once=True)
        else:
            self._drop()
            self.pause(standing.promise_ns // 2)

    def leader_seen(self) -> None:
        """Somebody leads: an own campaign is over, and the next one begins without pauses."""
        self._leader_seen_at = self._standing.now
        self._attempts = 0
        self._retry_at = 0

    def note(self, ballot: Ballot) -> None:
        """Remember a ballot that the next own one must be above."""
        standing = self._standing
        epoch = max(standing.promised, standing.log.last.ballot).epoch
        if ballot.epoch == epoch:
            self._seen = max(self._seen, ballot)

    # --- campaign --------------------------------------------------------------------------------

    def start(self, *, at_once: bool = False, raised: Ballot = NO_BALLOT) -> None:
        """Begin a campaign; ``at_once``: without asking whether it is welcome."""
        standing = self._standing
        self._serial += 1
        self.campaign = Campaign(
            phase=Phase.PROBE,
            serial=self._serial,
            deadline=standing.now + standing.promise_ns // 2,
            raised=raised,
        )
        if at_once:
            self._fence(self.campaign)
            return
        self.campaign.willing.add(standing.me)
        for node in self._others():
            self._probe(node)
        self._count_willing(self.campaign)

    def peer_up(self, node: int) -> None:
        """Ask a node that came within reach."""
        campaign = self.campaign
        if campaign is None or node not in self._others():
            return
        if campaign.phase == Phase.PROBE:
            self._probe(node)
        elif campaign.phase == Phase.PREPARE and node not in campaign.promises:
            self._prepare(node)

    def probed(self, node: int, message: PreProbeReply) -> None:
        """Count an answer to a pre-probe."""
        campaign = self.campaign
        self.note(message.promised)
        if campaign is None or campaign.phase != Phase.PROBE or message.round != campaign.serial:
            return
        if message.key > self._standing.log.last:
            self._behind(node, message.key)
        if message.willing:
            campaign.willing.update(self._identities({node}))
            self._count_willing(campaign)
        else:
            self._count_refusing(campaign, node)

    def _count_willing(self, campaign: Campaign) -> None:
        if self._standing.agreed(campaign.willing):
            self._fence(campaign)

    def _fence(self, campaign: Campaign) -> None:
        standing = self._standing
        highest = max(standing.promised, standing.log.last.ballot)
        self.note(standing.page().floor)
        highest = max(highest, self._seen)
        campaign.ballot = Ballot(highest.epoch, highest.round + 1, standing.me.node)
        campaign.phase = Phase.FENCE
        campaign.deadline = standing.now + standing.promise_ns
        campaign.refusing.clear()
        if standing.rules.holds("candidate-own-promise"):
            standing.outbox.ask(Fence(campaign.ballot))
            return
        page = standing.page()
        self.fenced(Fenced(campaign.ballot, page.renewed, freed=page.freed, no_memory=False))

    def fenced(self, report: Fenced) -> None:
        """Write the own promise, and ask the others as soon as it is durable."""
        standing, campaign = self._standing, self.campaign
        if campaign is None or campaign.phase != Phase.FENCE or report.ballot != campaign.ballot:
            return
        if campaign.ballot <= standing.promised:
            self.abandon("outbid")
            return
        campaign.position = standing.promise(campaign.ballot)
        standing.promised_at = standing.now
        campaign.own = Promised(
            ballot=campaign.ballot,
            renewed=report.renewed,
            freed=report.freed,
            no_memory=report.no_memory,
            key=standing.log.last,
            storage=standing.me.storage,
        )
        campaign.phase = Phase.PREPARE
        campaign.resend_at = NEVER
        for node in self._others():
            self._prepare(node)

    def fence_refused(self, report: FenceRefused) -> None:
        """Ask again when the own guard is free, or give up when it knows a higher ballot."""
        standing, campaign = self._standing, self.campaign
        if campaign is None or campaign.phase != Phase.FENCE or report.ballot != campaign.ballot:
            return
        self.note(report.floor)
        if report.remaining > 0 and report.floor < campaign.ballot:
            campaign.resend_at = standing.now + min(report.remaining, standing.rank_delay_ns)
        else:
            self.abandon("outbid")

    def durable(self) -> None:
        """Count the own promise when it is durable."""
        standing, campaign = self._standing, self.campaign
        if (
            campaign is not None
            and campaign.phase == Phase.PREPARE
            and campaign.own is not None
            and standing.outbox.durable_position >= campaign.position
        ):
            campaign.promises[standing.me.node] = campaign.own
            self._count_promises(campaign)

    def promised(self, node: int, message: Promised) -> None:
        """Count a promise."""
        campaign = self.campaign
        if (
            campaign is None
            or campaign.phase not in (Phase.PREPARE, Phase.OFFICE)
            or message.ballot != campaign.ballot
        ):
            return
        campaign.promises[node] = message
        self._count_promises(campaign)

    def _count_promises(self, campaign: Campaign) -> None:
        standing = self._standing
        have = {
            AcceptorId(NodeId(node), promised.storage)
            for node, promised in campaign.promises.items()
        }
        own = standing.me.node in campaign.promises
        if not standing.may_campaign and standing.rules.holds("removed-never-leads"):
            self.abandon("removed")  # as it learned from a disk that it adopted
            return
        if campaign.phase == Phase.PREPARE and own and standing.agreed(have):
            campaign.phase = Phase.OFFICE
            campaign.deadline = standing.now + standing.promise_ns
            campaign.resend_at = NEVER
            report = tuple(campaign.promises[node] for node in sorted(campaign.promises))
            standing.signals.append(MayLead(ballot=campaign.ballot, report=report))

    def refused(self, node: int, message: Refused) -> None:
        """Ask again later, or do without this node."""
        standing, campaign = self._standing, self.campaign
        self.note(message.promised)
        if campaign is None or campaign.phase != Phase.PREPARE or message.ballot != campaign.ballot:
            return
        if message.key > standing.log.last:
            self._behind(node, message.key)
            self._count_refusing(campaign, node)
        elif message.promised > campaign.ballot:
            self._count_refusing(campaign, node)
        elif message.remaining > 0:
            campaign.postponed.add(node)
            at = standing.now + min(message.remaining, standing.rank_delay_ns)
            campaign.resend_at = min(campaign.resend_at, at)

    def _behind(self, node: int, key: Key) -> None:
        """Name who has what this log lacks: of a witness, which holds a key alone, its writer."""
        writer = key.ballot.node
        holder = writer if is_witness(node) and writer != self._standing.me.node else node
        self._standing.signals.append(Behind(node=holder, key=key))

    def _count_refusing(self, campaign: Campaign, node: int) -> None:
        campaign.refusing.add(node)
        nodes = {
            standing_node
            for standing_node in self._others()
            if standing_node not in campaign.refusing
        }
        if not self._standing.agreed(self._identities(nodes | {self._standing.me.node})):
            self.abandon("refused")

    def abandon(self, reason: str) -> None:
        """End the campaign; the next one comes after a pause that grows with every attempt."""
        standing, campaign = self._standing, self.campaign
        if campaign is None:
            return
        self._drop()
        self._attempts += 1
        doublings = min(self._attempts, _BACKOFF_DOUBLINGS_MAX)
        pause = standing.rank_delay_ns * (self.rank() + 1) << doublings
        self.pause(min(pause, standing.promise_ns))
        if campaign.phase == Phase.OFFICE:
            standing.signals.append(SteppedDown(ballot=campaign.ballot, reason=reason))
            standing.outbox.ask(Release(campaign.ballot))
        if campaign.raised != NO_BALLOT:
            standing.outbox.ask(Release(campaign.raised))

    def _drop(self) -> None:
        """Campaign no more, and ask no disk or witness."""
        self.campaign = None
        for passive in self._standing.passives.values():
            passive.cancel()

    def won(self) -> None:
        """The guard is in office: the campaign is over."""
        self.campaign = None
        self._attempts = 0

    def leave_history(self) -> None:
        """Ballots heard of in a former history mean nothing in the next one."""
        self.abandon("forced")
        self._attempts = self._retry_at = 0
        self._seen = NO_BALLOT

    def _probe(self, node: int) -> None:
        key = self._standing.log.last
        self._standing.send(node, PreProbe(round=self._serial, key=key))

    def _prepare(self, node: int) -> None:
        campaign = self.campaign
        if campaign is not None:
            message = Prepare(ballot=campaign.ballot, key=self._standing.log.last)
            self._standing.send(node, message, campaign.position)

    def _others(self) -> tuple[int, ...]:
        config = self._standing.config
        acceptors = (*config.acceptors, *(config.former or ()))
        nodes = {acceptor.id.node for acceptor in acceptors}
        return tuple(sorted(nodes - {self._standing.me.node}))

    def _identities(self, nodes: set[int]) -> set[AcceptorId]:
        config = self._standing.config
        acceptors = (*config.acceptors, *(config.former or ()))
        return {acceptor.id for acceptor in acceptors if acceptor.id.node in nodes}
