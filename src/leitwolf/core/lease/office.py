"""The guard in office: renews the promises of all nodes, holds the leader lease, grants run-leases.

Rules:
    In office only while the floor is the ballot (L4). Every H the own promise is renewed, written,
    and then heartbeats go out (L2). The leader lease is the latest instant up to which acceptors
    that are a quorum of every active configuration confirmed their promise, counted from when the
    confirmed heartbeat was begun. Run-leases are granted only under it (L5).

Theory of operation:
    Office ends when the floor rises, another node outbids it, the machine slept, no quorum
    renewed for P, or it is released: by order, because the daemon is gone, because it made no
    progress for 2 P (L12), or because it has streams with no quorum while others have some with a
    quorum of each other (``streams``). A guard that finds its predecessor in office releases what
    that one held. Whatever ends it also lifts the floor above the ballot, so that no
    ballot is held twice: its roster would be forgotten. The own run-lease lives on until its end,
    which is where the leader lease was, and the next leader may continue it.

    A heartbeat can only echo the ack to the one before it, so what it grants is H older than
    need be. Therefore every ack is followed by its grant at once: R then has to cover H once
    between the death of a leader and the first grant of the next, as the profile counts it.

    A released ballot grants nothing and counts no ack from that moment on. The release is told
    to all every H until their promises would have ended anyway.

What this does not guarantee:
    That the ballot was won: the daemon says so.
"""

from __future__ import annotations

from leitwolf.core.lease.acceptor import Acceptor
from leitwolf.core.lease.effects import SendPeer
from leitwolf.core.lease.ledger import NEVER, PROMISE_NS_MAX, LeaseError, Ledger
from leitwolf.core.lease.roster import NO_GRANT, Grant, Member, Roster, quorum_end
from leitwolf.core.lease.runlease import RunLease
from leitwolf.core.lease.streams import PATIENCE_NS, stranded
from leitwolf.wire.ballot import NO_BALLOT, Ballot, successor
from leitwolf.wire.guard import (
    Back,
    BackDropped,
    BackingThin,
    Configure,
    Exclude,
    Office,
    OfficeLost,
    OpenLease,
    Released,
    TakeOffice,
)
from leitwolf.wire.heartbeat import Ack, Heartbeat, Outbid

__all__ = ["Incumbent"]

_REPORT_NS = 1_000_000_000


class Incumbent:
    """Office of this guard, when it has one. Instants are RAW ns of this node."""

    def __init__(self, ledger: Ledger, acceptor: Acceptor, runlease: RunLease) -> None:
        self._ledger = ledger
        self._acceptor = acceptor
        self._runlease = runlease
        self._ballot = NO_BALLOT
        self._roster = Roster(ledger, NO_BALLOT, frozenset())
        self._barred: tuple[int, ...] = ()
        self._since = 0
        self._next = NEVER
        self._led = False
        self._progress = 0
        self._stranded_since = NEVER
        self._released = NO_BALLOT
        self._released_until = 0
        self._backing: dict[int, int] = {}
        """By passive acceptor: until when its newest confirmed renewal counts (L2)."""
        self._thin = False
        self._report_at = 0

    # --- reading ---------------------------------------------------------------------------------

    @property
    def leading(self) -> bool:
        """Whether the leader lease is valid now (L2)."""
        return self._ballot != NO_BALLOT and self._ledger.raw < self._ledger.page.leader_end

    def deadline(self) -> int:
        """Return the instant at which something is to be done here at the latest."""
        if self._ballot == NO_BALLOT:
            return self._next
        return min(
            self._next,
            self._ends_at(),
            self._patience_ends(),
            *self._roster.deadline(but=self._self()),
        )

    def _self(self) -> int:
        return self._configuration().node

    def _configuration(self) -> Configure:
        configuration = self._ledger.configuration
        if configuration is None:
            raise LeaseError("in office without a configuration")
        return configuration

    def _ends_at(self) -> int:
        """Return when office ends for want of a quorum: P after the start, then with the lease."""
        page = self._ledger.page
        return page.leader_end if self._led else self._since + page.promise

    def _patience_ends(self) -> int:
        """Return when a daemon without progress counts as gone (L12)."""
        if not self._ledger.rules.holds("daemon-progress"):
            return NEVER
        return self._progress + 2 * self._ledger.page.promise

    # --- beginning and end -----------------------------------------------------------------------

    def take(self, command: TakeOffice) -> None:
        """Take office; answers Office, or OfficeLost with the reason."""
        ledger = self._ledger
        ballot = command.ballot
        if ballot == self._ballot:
            ledger.tell(Office(ballot, self._barred))
            return
        refusal = self._refusal(ballot)
        if refusal:
            ledger.tell(OfficeLost(ballot, ledger.page.floor, refusal))
            return
        self._ballot, self._since, self._led = ballot, ledger.raw, False
        self._stranded_since = NEVER
        self._released = NO_BALLOT
        self._progress = max(self._progress, ledger.raw)
        self._barred = command.barred
        self._backing, self._thin = {}, False
        self._roster = Roster(ledger, ballot, frozenset(command.barred))
        self._follow_members()
        ledger.change(office=ballot, leader_end=0, drift=ledger.drift)
        self._runlease.cut(ledger.raw + ledger.held(ledger.page.promise))
        ledger.tell(Office(ballot, command.barred))
        page = ledger.page
        if self._runlease.valid or not page.lease:
            self._roster.own(self._roster.members[self._self()], page.lease)
        self._beat()

    def _refusal(self, ballot: Ballot) -> str:
        ledger = self._ledger
        configuration = ledger.configuration
        if configuration is None:
            return "not-configured"
        if ballot.node != configuration.node:
            return "not-owner"
        if not self._acceptor.awake or ledger.raw < ledger.page.fence_from:
            return "no-memory"
        if not ledger.rules.holds("office-floor"):
            return ""
        if ledger.page.floor != ballot:
            return "floor"
        return "promised" if self._acceptor.binding(configuration.node) else ""

    def check(self) -> None:
        """End the office when the floor left its ballot (L4); call before anything is told."""
        if self._ballot == NO_BALLOT:
            return
        ledger = self._ledger
        if self._ballot != ledger.page.floor and ledger.rules.holds("office-floor"):
            self.end("floor")

    def end(self, reason: str, floor: Ballot = NO_BALLOT) -> None:
        """Leave office, if in it, and say why; ``floor``: the higher ballot heard of."""
        ballot = self._ballot
        if ballot == NO_BALLOT:
            return
        self._leave()
        page = self._ledger.page
        self._ledger.tell(OfficeLost(ballot, max(page.floor, floor), reason))

    def _leave(self) -> None:
        page = self._ledger.page
        floor = max(page.floor, successor(self._ballot))
        self._ballot, self._next = NO_BALLOT, NEVER
        self._ledger.change(office=NO_BALLOT, leader_end=0, floor=floor)

    def release(self, ballot: Ballot) -> None:
        """Give up a ballot of this node for ever (L8); answers Released."""
        ledger = self._ledger
        held = ballot == self._ballot and ballot != NO_BALLOT
        if not held:
            if ledger.configuration is not None and ballot.node == self._self():
                self._acceptor.follow(successor(ballot))
                self.check()
            ledger.tell(Released(ballot))
            return
        self._free()
        ledger.tell(Released(ballot))

    def inherit(self, ballot: Ballot) -> None:
        """Release what the predecessor of this guard held (L8): nobody counts or grants in it.

        The next leader then continues the leases, the own one included, before they end.
        """
        ledger = self._ledger
        self._released = ballot
        self._released_until = ledger.raw + ledger.awaited(ledger.page.promise)
        self._acceptor.free(ballot)

    def abandon(self, reason: str) -> None:
        """Release the office, if in it, because nobody decides here any more (L12)."""
        ballot = self._ballot
        if ballot == NO_BALLOT:
            return
        self._free()
        self._ledger.tell(OfficeLost(ballot, self._ledger.page.floor, reason))

    def _free(self) -> None:
        ledger = self._ledger
        self._released = self._ballot
        self._progress = ledger.raw  # without the rule below, not again before 2 P
        self._released_until = ledger.raw + ledger.awaited(ledger.page.promise)
        if ledger.rules.holds("release-stops-counting"):
            self._leave()
            self._acceptor.free(self._released)
        self._tell_released()

    # --- passing of time -------------------------------------------------------------------------

    def progress(self, instant: int) -> None:
        """The daemon's last progress, RAW ns."""
        self._progress = max(self._progress, min(instant, self._ledger.raw))

    def overdue(self) -> None:
        """Do what comes before everything else: expired lease, horizons."""
        if self._ballot == NO_BALLOT:
            return
        if self._ledger.raw >= self._ends_at():
            self.end("no-quorum")
        else:
            self._roster.overdue(but=self._self())

    def due(self) -> None:
        """Send what is due; without progress of the daemon, release instead (L12)."""
        ledger = self._ledger
        if self._ballot != NO_BALLOT and ledger.raw >= self._patience_ends():
            self.abandon("daemon-stalled")
        if self._ballot != NO_BALLOT and ledger.raw >= self._next and self._is_stranded():
            self.abandon("daemon-stranded")
        if ledger.raw < self._next:
            return
        if self._ballot != NO_BALLOT:
            self._beat()
        else:
            self._tell_released()

    def _is_stranded(self) -> bool:
        """Tell whether others could decide, but not this node, for longer than a hiccup takes."""
        ledger = self._ledger
        members = [m for m in self._roster.members.values() if m.promise_end > ledger.raw]
        own = self._self()
        apart = {m.node: ledger.apart if m.node == own else m.apart for m in members}
        quiet = not ledger.apart and not any(apart.values())
        if quiet or not ledger.rules.holds("leader-has-streams"):
            self._stranded_since = NEVER
            return False
        active = self._configuration().configurations
        if not stranded(own, active, {own: ledger.apart, **apart}):
            self._stranded_since = NEVER
            return False
        self._stranded_since = min(self._stranded_since, ledger.raw)
        waited = ledger.raw - self._stranded_since
        return waited >= max(PATIENCE_NS, 2 * ledger.page.promise)

    def _beat(self, only: int | None = None) -> None:
        """Renew the own promise, then send heartbeats to all, or to one node out of turn."""
        ledger = self._ledger
        ballot, page, sent = self._ballot, ledger.page, ledger.raw
        if only is None:
            self._next = sent + page.heartbeat
        own = self._roster.members[self._self()]
        if ledger.rules.holds("renew-self-first"):
            self._acceptor.renew(ballot, page.promise, heard=False)
        own.promise_end = max(own.promise_end, sent + ledger.held(page.promise))
        self._evaluate()
        for member in self._roster.members.values():
            led = member is not own and member.node not in self._configuration().unled
            if led and only in (None, member.node):
                grant = self._roster.grant(member) if self._may_grant() else NO_GRANT
                self._send(member.node, ballot, grant, promise=page.promise)
        if sent >= self._report_at:
            self._report_at = sent + _REPORT_NS
            ledger.tell(self._roster.report(own.node))

    def _tell_released(self) -> None:
        ledger = self._ledger
        page = ledger.page
        configuration = self._configuration()
        if self._released == NO_BALLOT or ledger.raw >= self._released_until:
            self._next = NEVER
            return
        self._next = ledger.raw + page.heartbeat
        for peer in configuration.peers:
            if peer.node not in configuration.unled:
                self._send(peer.node, self._released, NO_GRANT, released=True)

    def _send(
        self,
        node: int,
        ballot: Ballot,
        grant: Grant,
        *,
        promise: int = 0,
        released: bool = False,
        link: int = -1,
    ) -> None:
        ledger = self._ledger
        heartbeat = Heartbeat(
            ballot=ballot,
            sent=ledger.raw,
            incarnation=ledger.incarnation,
            promise=promise,
            released=released,
            grant=grant.grant,
            opened=grant.opened,
            run=grant.run,
            echo=grant.echo,
            echo_incarnation=grant.echo_incarnation,
            lineage=self._configuration().lineage,
        )
        ledger.emit(SendPeer(node, heartbeat, link))

    def _may_grant(self) -> bool:
        return self.leading or not self._ledger.rules.holds("grant-under-lease")

    def _grant_at_once(self, member: Member, link: int = -1) -> None:
        """Grant what the newest ack of a node allows, without asking for another."""
        if member.granting and not member.pending and member.sent > member.echoed:
            self._send(member.node, self._ballot, self._roster.grant(member), link=link)

    # --- leader lease ----------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Evaluate the leader lease (L2), and let the own run-lease follow it (L5)."""
        ledger = self._ledger
        active = self._configuration().configurations
        if not ledger.rules.holds("joint-lease"):
            active = active[:1]
        ends = {member.node: member.promise_end for member in self._roster.members.values()}
        self._watch_backing(min((quorum_end(votes, ends) for votes in active), default=0))
        end = min((quorum_end(votes, {**ends, **self._backing}) for votes in active), default=0)
        if end != ledger.page.leader_end:
            ledger.change(leader_end=end, drift=ledger.drift)
        if self.leading:
            self._led = True
            self._follow_lease()

    def _watch_backing(self, end: int) -> None:
        """Tell when nodes alone renew too late: acks are missing for two heartbeats."""
        ledger = self._ledger
        active = self._configuration().configurations
        if not any(acceptor not in self._roster.members for v in active for acceptor in v.nodes):
            return
        page = ledger.page
        thin = end < ledger.raw + ledger.held(page.promise) - 5 * page.heartbeat // 2
        if thin != self._thin:
            self._thin = thin
            ledger.tell(BackingThin(self._ballot, thin))

    def back(self, command: Back) -> None:
        """Count a renewal that a passive acceptor confirmed, or count that acceptor no more."""
        ledger = self._ledger
        if command.ballot != self._ballot or self._ballot == NO_BALLOT:
            return
        if not command.duration:
            self._backing.pop(command.acceptor, None)
            self._evaluate()
            ledger.tell(BackDropped(self._ballot, command.acceptor))
            return
        if not self._since <= command.start <= ledger.raw or command.duration > PROMISE_NS_MAX:
            return
        led = self._may_grant()
        end = command.start + ledger.held(command.duration)
        self._backing[command.acceptor] = max(end, self._backing.get(command.acceptor, 0))
        self._evaluate()
        if not led and self._may_grant():
            for member in self._roster.members.values():
                self._grant_at_once(member)

    def _follow_lease(self) -> None:
        ledger = self._ledger
        own = self._roster.members[self._self()]
        end = ledger.page.leader_end
        if not own.granting:
            return
        if own.pending:
            if self._runlease.open(own.lease, own.index, end):
                self._roster.own(own, own.lease)
        elif own.lease == ledger.page.lease:
            self._runlease.prolong(end)

    # --- messages and orders ---------------------------------------------------------------------

    def ack(self, sender: int, link: int, message: Ack) -> None:
        """Count a confirmation of an own heartbeat of this office; drop everything else (L2)."""
        ledger = self._ledger
        member = self._roster.members.get(sender)
        if (
            member is None
            or sender == self._self()
            or self._ballot == NO_BALLOT
            or message.ballot != self._ballot
            or message.heartbeat_incarnation != ledger.incarnation
            or not self._since <= message.heartbeat_sent <= ledger.raw
            or not 0 < message.promise <= PROMISE_NS_MAX
        ):
            return
        start = message.heartbeat_sent if ledger.rules.holds("lease-from-send") else ledger.raw
        end = start + ledger.held(message.promise)
        led = self._may_grant()
        if end > member.promise_end:  # not another copy, by another link
            member.promise_end = end
            self._evaluate()
        self._roster.learn(member, message)
        if led:
            self._grant_at_once(member, link)
        elif self._may_grant():
            for other in self._roster.members.values():
                self._grant_at_once(other)

    def outbid(self, sender: int, message: Outbid) -> None:
        """A node promised a higher ballot: this office cannot last.

        ``refused`` instead of ``outbid``: the leader lease is valid, so nobody else can be in
        office, and the daemon may go above that floor at once (L13).
        """
        known = sender in self._roster.members
        ledger = self._ledger
        if not self._led and ledger.raw < self._since + ledger.page.heartbeat:
            return  # acks to the first heartbeat are under way; the second one is refused again
        if known and message.ballot == self._ballot < message.floor:
            self.end("refused" if self.leading else "outbid", message.floor)

    def configure(self) -> None:
        """Follow a new configuration."""
        if self._ballot != NO_BALLOT:
            self._follow_members()
            self._evaluate()
        elif self._released != NO_BALLOT:
            self._tell_released()

    def _follow_members(self) -> None:
        configuration = self._configuration()
        self._roster.configure({configuration.node, *(peer.node for peer in configuration.peers)})

    def exclude(self, command: Exclude) -> None:
        """Take a node off the roster (L6)."""
        member = self._ordered(command.ballot, command.node)
        if member is not None:
            self._roster.exclude(member)

    def open(self, command: OpenLease) -> None:
        """Put a node on the roster with a new lease id, and tell it at once (L5)."""
        ledger = self._ledger
        member = self._ordered(command.ballot, command.node)
        if member is None:
            return
        own = command.node == self._self()
        closed = max(member.lease, ledger.page.lease_closed if own else 0)
        if command.lease <= closed or command.index <= 0:
            ledger.record("open-refused", f"node {command.node}: lease {command.lease}")
            return
        self._roster.open(member, command.lease, command.index)
        if own:
            self._evaluate()
        else:
            self._beat(only=command.node)

    def _ordered(self, ballot: Ballot, node: int) -> Member | None:
        """Return the member that an order of the daemon is about, if it is about this office."""
        if self._ballot == NO_BALLOT or ballot != self._ballot:
            return None
        return self._roster.members.get(node)

    def own_stopped(self, lease: int) -> None:
        """This node's own lease was given up: tell the daemon as for any other node."""
        if self._ballot == NO_BALLOT:
            return
        own = self._roster.members[self._self()]
        if own.lease == lease and not own.pending and not own.away:
            self._roster.strike(own, attested=True)
        if not own.pending:
            self._roster.own(own, 0)
        else:
            self._evaluate()
