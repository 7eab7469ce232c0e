"""Who holds which run-lease of this ballot, and since when certainly none (L5, L6).

Rules:
    A grant goes out only to an id on the roster and moves the *horizon* of its node: the instant,
    by this clock, at which the lease is over whatever the node does. A node is *away* when its
    horizon passed, when it attests the very lease on the roster, or when it acks without a lease.

Theory of operation:
    A grant counts from ``sent`` of an ack that came in here at ``received``, so the lease that it
    makes ends before ``received`` + R, stretched by the rates. What leaders of lower ballots
    granted ends before the start of this office + R, stretched: their leader leases were over, or
    released, before a quorum promised this ballot, and a grant counts from something that its
    sender had received by then. That is the first horizon of every node.

    An ack without a lease, of a guard that has its memory, proves more. Its floor is this ballot,
    so it takes nothing from lower ones, neither a grant nor an OPEN. Its page says "no lease",
    which is written only after everything under the last one was confirmed stopped (``runlease``).
    In this ballot it gets one only from here, so unless an OPEN of ours may be under way
    (``pending``), it holds none and its groups may move at once. A guard that loses its page after
    that ack does not matter: it has no lease either, and messages under way name the incarnation
    of its predecessor. A guard that lost its page *before* the ack says "no memory" for P + R:
    then only the horizon counts.

What this does not guarantee:
    That grants are sent under a valid leader lease; ``office`` asks for them only then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from leitwolf.core.lease.ledger import Ledger
from leitwolf.wire.ballot import Ballot
from leitwolf.wire.guard import NodeAway, NodeBack, RosterReport, Standing, Votes
from leitwolf.wire.heartbeat import Ack

__all__ = ["NO_GRANT", "Grant", "Member", "Roster", "quorum_end"]

_INCARNATIONS_MAX = 8
"""Former incarnations of one guard that are remembered, to drop what they still have under way."""


def quorum_end(votes: Votes, ends: dict[int, int]) -> int:
    """Return the latest instant up to which promises of a quorum run; 0: there is none.

    Args:
        votes: one active configuration; a quorum has 2 * sum of weights > total.
        ends: end of the newest confirmed promise of each node; missing: none.
    """
    total = sum(votes.weights)
    pairs = zip(votes.nodes, votes.weights, strict=True)
    backing = [(ends.get(node, 0), weight) for node, weight in pairs]
    backing.sort(reverse=True)
    weight_sum = 0
    for end, weight in backing:
        weight_sum += weight
        if 2 * weight_sum > total:
            return end
    return 0


class Grant(NamedTuple):
    """The part of a heartbeat that is about the receiver's run-lease."""

    grant: int = 0
    opened: int = 0
    run: int = 0
    echo: int = 0
    echo_incarnation: int = 0


NO_GRANT = Grant()


@dataclass(slots=True)
class Member:
    """What the guard in office knows of one node, itself included."""

    node: int
    horizon: int
    """No lease of this node outlasts it (own RAW ns)."""
    barred: bool = False
    """Not admitted by the lease that it reports; returns by OPEN only."""
    lease: int = 0
    """Id on the roster; 0: was never on it."""
    granting: bool = False
    pending: bool = False
    """The lease was offered by OPEN, and the node did not report it yet."""
    index: int = 0
    """F of the OPEN."""
    excluded: bool = False
    away: bool = False
    incarnation: int | None = None
    former: list[int] = field(default_factory=list)
    sent: int = -1
    """``sent`` of the newest ack, by the node's clock."""
    received: int = 0
    echoed: int = -1
    """``sent`` of the ack from which it was granted last."""
    promise_end: int = 0
    """e of L2: end of the newest promise that it confirmed."""
    told: int | None = None
    """Incarnation of which the daemon knows that it needs an OPEN."""
    apart: tuple[int, ...] = ()
    """Nodes with which its daemon has no stream, by its newest ack."""


class Roster:
    """The roster of one ballot. Instants are RAW ns of this node."""

    def __init__(self, ledger: Ledger, ballot: Ballot, barred: frozenset[int]) -> None:
        self._ledger = ledger
        self._ballot = ballot
        self._barred = barred
        self.members: dict[int, Member] = {}

    def configure(self, nodes: set[int]) -> None:
        """Follow the configuration: new nodes begin unknown, removed ones are forgotten."""
        horizon = self._ledger.raw + self._wait()
        former = self.members
        self.members = {
            node: former.get(node) or Member(node, horizon, barred=node in self._barred)
            for node in sorted(nodes)
        }

    def _wait(self) -> int:
        ledger = self._ledger
        duration = ledger.page.promise
        if ledger.configuration is not None and ledger.rules.holds("horizon"):
            duration = ledger.configuration.run_longest
        return ledger.awaited(duration)

    def report(self, own: int) -> RosterReport:
        """Return how all nodes stand, for people; ``own``: this node, whose lease the page has."""
        page = self._ledger.page
        return RosterReport(
            self._ballot,
            self._ledger.raw,
            tuple(
                Standing(
                    node=member.node,
                    promise_end=member.promise_end,
                    horizon=page.lease_end if member.node == own else member.horizon,
                    lease=0 if member.away else member.lease,
                )
                for member in self.members.values()
            ),
        )

    # --- granting --------------------------------------------------------------------------------

    def grant(self, member: Member) -> Grant:
        """Return what to grant to a node in a heartbeat sent now, and move its horizon."""
        if not member.granting or member.incarnation is None:
            return NO_GRANT
        if not member.excluded:
            member.horizon = max(member.horizon, member.received + self._wait())
        member.echoed = member.sent
        return Grant(
            grant=member.lease,
            opened=member.index if member.pending else 0,
            run=self._ledger.page.run,
            echo=member.sent,
            echo_incarnation=member.incarnation,
        )

    def open(self, member: Member, lease: int, index: int) -> None:
        """Put a node on the roster with a new lease id."""
        member.lease, member.index = lease, index
        member.granting = member.pending = True
        member.barred = member.excluded = member.away = False
        member.told = None

    def exclude(self, member: Member) -> None:
        """Grant nothing more; the horizon, or a proof, ends it."""
        if self._ledger.rules.holds("exclude-stops-grants"):
            member.granting = False
        member.excluded = member.barred = True
        if member.away:
            self._tell_away(member, attested=False)

    # --- learning --------------------------------------------------------------------------------

    def learn(self, member: Member, ack: Ack) -> None:
        """Take what the newest ack of a node says about its lease; older ones say nothing."""
        restarted = member.incarnation not in (None, ack.incarnation)
        if ack.incarnation in member.former:
            return
        if restarted and member.incarnation is not None:
            member.former = [*member.former, member.incarnation][-_INCARNATIONS_MAX:]
            member.sent = member.echoed = -1
        if ack.sent <= member.sent:
            return
        member.incarnation, member.sent, member.received = (
            ack.incarnation,
            ack.sent,
            self._ledger.raw,
        )
        member.apart = ack.apart
        if not self._attests(member, ack):
            self._compare(member, ack, restarted=restarted)
        if ack.lease == 0 and not member.granting and (member.away or not member.lease):
            self._tell_back(member)

    def _attests(self, member: Member, ack: Ack) -> bool:
        if not ack.attested or not member.lease or member.away:
            return False
        if ack.attested != member.lease and self._ledger.rules.holds("attest-ballot"):
            return False
        self.strike(member, attested=True)
        return True

    def _compare(self, member: Member, ack: Ack, *, restarted: bool) -> None:
        """Compare the lease that a node reports with the one on the roster."""
        if member.pending:
            if ack.lease == member.lease:
                member.pending = False
                if member.granting:
                    self._tell(member)
            elif restarted:
                # It may have opened the lease, and lost it with its page: never offer it again.
                member.granting = False
        elif ack.lease == 0:
            member.granting = False
            if not ack.no_memory and not member.away:
                self.strike(member, attested=False)
        elif member.lease:
            if ack.lease != member.lease:
                member.granting = False
            elif restarted and member.granting:
                self._tell(member)
        elif not member.barred and not member.away:
            member.lease, member.granting = ack.lease, True
            self._tell(member)

    # --- striking off ----------------------------------------------------------------------------

    def overdue(self, but: int) -> None:
        """Strike off every node whose horizon passed, except node ``but``: this one."""
        for member in self.members.values():
            if member.node != but and not member.away and self._ledger.raw >= member.horizon:
                self.strike(member, attested=False)

    def deadline(self, but: int) -> list[int]:
        """Return the horizons to come."""
        return [m.horizon for m in self.members.values() if m.node != but and not m.away]

    def strike(self, member: Member, *, attested: bool) -> None:
        """The node holds no lease any more: off the roster until the next OPEN."""
        member.away, member.told = True, None
        if not member.excluded or self._ledger.rules.holds("exclude-stops-grants"):
            member.granting = False
        self._tell_away(member, attested=attested)

    def own(self, member: Member, lease: int) -> None:
        """Take this node's own lease (0: none) onto the roster, at the start or after its end."""
        if lease and not member.barred:
            member.lease, member.granting, member.pending = lease, True, False
            self._tell(member)
        elif not lease:
            self._tell_back(member)

    def _tell_away(self, member: Member, *, attested: bool) -> None:
        self._ledger.tell(NodeAway(self._ballot, member.node, member.lease, attested))

    def _tell_back(self, member: Member) -> None:
        incarnation = self._ledger.incarnation if member.incarnation is None else member.incarnation
        if member.told != incarnation:
            member.told = incarnation
            self._ledger.tell(NodeBack(self._ballot, member.node, incarnation, 0))

    def _tell(self, member: Member) -> None:
        incarnation = self._ledger.incarnation if member.incarnation is None else member.incarnation
        self._ledger.tell(NodeBack(self._ballot, member.node, incarnation, member.lease))
