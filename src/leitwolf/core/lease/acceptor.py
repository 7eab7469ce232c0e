"""The promises of this node: it is the keeper of them, the daemon only asks (L3, R5).

Rules:
    A heartbeat is answered only in a ballot at or above the floor, which it raises. A promise to
    one owner runs for P, stretched by the rates of clocks, and keeps this node from helping
    another. Everything stands in the page before anybody hears of it.

Theory of operation:
    ``floor`` only rises. ``renewed`` is the highest ballot ever renewed here, ``promise_end`` the
    end of the promise made with it. A release frees the promise and leaves the mark ``freed``
    until another ballot is renewed: the former leader's own run-lease may outlast a promise that
    was freed, so the next leader must not take it for one that ran out. The daemon is told at once:
    the former leader's lease is as short as the promise, and the next one should continue it.

    A guard that finds no page has forgotten all of it. It answers nothing until its daemon told
    the highest ballot that it wrote or began to write (that is what ``fence_from = NEVER`` in the
    page means), fences nothing for P after its start, and says "no memory" for P + R.

What this does not guarantee:
    That the daemon persists its promise before it answers; that is the quorum core's part.
"""

from __future__ import annotations

from leitwolf.core.lease.ledger import NEVER, Ledger
from leitwolf.wire.ballot import NO_BALLOT, Ballot, successor
from leitwolf.wire.guard import Fenced, FenceRefused, Freed

__all__ = ["Acceptor"]

_ASK_AGAIN_NS = 100_000_000
"""What a guard that does not know its profile yet answers as the remaining time."""


class Acceptor:
    """Promises of this node. Instants are RAW ns of this node."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._started = ledger.raw
        self._told: Ballot | None = None

    @property
    def awake(self) -> bool:
        """Whether this guard knows what its node promised, so that it may answer."""
        return self._ledger.page.fence_from != NEVER

    @property
    def no_memory(self) -> bool:
        """Whether the page was lost less than P + R ago."""
        return self._ledger.raw < self._ledger.page.forgot_until

    def learn(self, written: Ballot | None) -> None:
        """Take the daemon's ``written`` (None: only the configuration came) as the floor (L3)."""
        ledger = self._ledger
        if written is not None:
            self._told = written
            self.follow(written)
        if self.awake or self._told is None or ledger.configuration is None:
            return
        promise = ledger.configuration.promise_longest
        run = ledger.configuration.run_longest
        wait = ledger.awaited(promise) if ledger.rules.holds("restart-wait") else 0
        ledger.change(
            fence_from=self._started + wait,
            forgot_until=self._started + ledger.awaited(promise) + ledger.awaited(run),
        )

    def renew(self, ballot: Ballot, promise: int, *, heard: bool) -> bool:
        """Promise the owner of ``ballot`` not to help others for ``promise`` ns.

        Args:
            ballot: the owner's.
            promise: as long as the owner asks.
            heard: it asks by a heartbeat, which is noted too.

        Returns:
            Whether the ballot is at or above the floor; if not, nothing changed.
        """
        ledger = self._ledger
        page = ledger.page
        if ballot < page.floor and ledger.rules.holds("floor"):
            return False
        end = ledger.raw + ledger.awaited(promise)
        if ballot == page.renewed and not page.freed:
            end = max(end, page.promise_end)
        ledger.change(
            floor=max(page.floor, ballot),
            renewed=ballot,
            promise_end=end,
            freed=page.freed and ballot == page.renewed,
            heard=ballot if heard else page.heard,
            heard_at=ledger.raw if heard else page.heard_at,
        )
        return True

    def free(self, ballot: Ballot) -> None:
        """The owner released ``ballot``: the promise made to it, and only that, is void (L8)."""
        page = self._ledger.page
        if page.renewed == ballot and not page.freed:
            self._ledger.change(freed=True, floor=max(page.floor, successor(ballot)))
            self._ledger.tell(Freed(ballot))

    def follow(self, ballot: Ballot) -> None:
        """Raise the floor to ``ballot``: always safe, it only refuses more."""
        if ballot > self._ledger.page.floor:
            self._ledger.change(floor=ballot)

    def binding(self, node: int) -> int:
        """Return how long (ns) this node is still bound to an owner other than ``node``; or 0."""
        page = self._ledger.page
        if page.freed or page.renewed == NO_BALLOT or page.renewed.node == node:  # L13
            return 0
        return max(0, page.promise_end - self._ledger.raw)

    def fence(self, ballot: Ballot) -> Fenced | FenceRefused:
        """Answer whether this node may promise ``ballot``, and raise the floor if so."""
        ledger = self._ledger
        page = ledger.page
        remaining = _ASK_AGAIN_NS
        if self.awake:
            remaining = max(0, page.fence_from - ledger.raw)
            if ledger.rules.holds("promise-while-renewed"):
                remaining = max(remaining, self.binding(ballot.node))
        if remaining or ballot < page.floor:
            return FenceRefused(ballot, page.renewed, page.floor, remaining)
        ledger.change(floor=ballot)
        freed = page.freed and ledger.rules.holds("freed-mark")
        return Fenced(ballot, page.renewed, freed, self.no_memory)
