"""Leaders of other histories: forced quorum makes a new one out of an old one (L11).

Rules:
    A guard has a part in one history only. A heartbeat of another one is never answered: it renews,
    grants and refuses nothing. If it is of a history that was forced out of the own one, every
    lease here is closed before anything else, and stays closed while that leader is heard.

Theory of operation:
    A history is known by its lineage, not by its epoch: two parts of a cluster that were both
    forced have the same epoch and must not take each other's heartbeats for those of their leader.
    Then nothing is closed, since nobody can know which of them is to give way; people are told.

What this does not guarantee:
    That the other history will last. Whether this node gives up its log for it is for its daemon
    to find out; until then the guard goes on closing for R after the last such heartbeat.
"""

from __future__ import annotations

from leitwolf.core.lease.ledger import Ledger
from leitwolf.core.lease.office import Incumbent
from leitwolf.core.lease.runlease import RunLease
from leitwolf.wire.ballot import Ballot
from leitwolf.wire.guard import HistoryHeard, OfficeLost
from leitwolf.wire.heartbeat import Heartbeat
from leitwolf.wire.lineage import Lineage, continues

__all__ = ["Histories"]


class Histories:
    """What this guard hears of other histories. Instants are RAW ns of this node."""

    def __init__(self, ledger: Ledger, runlease: RunLease, office: Incumbent) -> None:
        self._ledger = ledger
        self._runlease = runlease
        self._office = office
        self._lineage: Lineage = ()
        self._superseded_until = 0
        self._told: dict[Lineage, int] = {}
        """When the daemon was told of a history last."""

    def configure(self, lineage: Lineage) -> None:
        """Be in this history; what superseded the former one does not count any more."""
        if lineage != self._lineage:
            self._lineage = lineage
            self._superseded_until = 0
            self._told.clear()

    def admits(self, sender: int, message: Heartbeat) -> bool:
        """Return whether a heartbeat is of the own history, and the own history still counts."""
        ledger = self._ledger
        if not ledger.rules.holds("lineage"):
            return True
        mine, theirs = self._lineage, message.lineage
        if mine != theirs and not ledger.rules.holds("lineage-nonce"):
            mine, theirs = (0,) * len(mine), (0,) * len(theirs)
        if mine == theirs:
            return ledger.raw >= self._superseded_until
        forced = continues(theirs, mine)
        if forced and not ledger.rules.holds("close-before-answer"):
            return True
        if forced:
            self._superseded_until = ledger.raw + ledger.awaited(ledger.page.run)
            self._runlease.close("superseded")
            self._office.end("superseded")
        self._tell(sender, message.lineage, closed=forced)
        return False

    def superseded(self, ballot: Ballot) -> bool:
        """Refuse office in a history that was superseded; return whether it was refused."""
        ledger = self._ledger
        if ledger.raw >= self._superseded_until:
            return False
        ledger.tell(OfficeLost(ballot, ledger.page.floor, "superseded"))
        return True

    def _tell(self, sender: int, lineage: Lineage, *, closed: bool) -> None:
        ledger = self._ledger
        at = self._told.get(lineage)
        if at is not None and ledger.raw < at + ledger.page.promise:
            return
        fresh = {one: at for one, at in self._told.items() if ledger.raw < at + ledger.page.promise}
        self._told = {**fresh, lineage: ledger.raw}
        ledger.tell(HistoryHeard(sender, lineage, closed))
