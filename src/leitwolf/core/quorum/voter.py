"""The promising half: what an acceptor answers to candidates.

Rules:

- R1: only a ballot above the promised one is promised. R2: only to a candidate whose log is not
  behind the own one. R4: the promise is durable before it is told.
- L3: the own guard is asked first (``Fence``); it refuses while it is bound to another owner (R5).
  When it answers, R1 and R2 are checked again: promise or log may have moved meanwhile. Without a
  guard there is no promise; what was asked of a guard that went away is void.
- A pre-probe commits nobody to anything.
- Who was started to join only promises nothing until it heard a leader.
"""

from __future__ import annotations

from dataclasses import dataclass

from leitwolf.core.messages import (
    Prepare,
    PreProbe,
    PreProbeReply,
    Promised,
    Refused,
)
from leitwolf.core.quorum.standing import Standing
from leitwolf.wire.ballot import Ballot, Key
from leitwolf.wire.guard import Fence, Fenced, FenceRefused

__all__ = ["Voter"]


@dataclass(frozen=True, slots=True)
class _Asked:
    ballot: Ballot
    key: Key


class Voter:
    """Promises ballots to candidates on other nodes."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._asked: dict[int, _Asked] = {}
        """By candidate: what the guard was asked for; a newer question replaces an older one."""

    def guard_lost(self) -> None:
        """Unanswered fences are void."""
        self._asked.clear()

    def probe(self, node: int, message: PreProbe, *, leading: bool) -> None:
        """Say whether a candidacy of ``node`` would be welcome now."""
        standing = self._standing
        reply = PreProbeReply(
            round=message.round,
            willing=not leading and self._willing(node, message.key),
            promised=max(standing.promised, standing.page().floor),
            key=standing.log.last,
        )
        standing.send(node, reply)

    def _willing(self, node: int, key: Key) -> bool:
        standing, page = self._standing, self._standing.page()
        if standing.join_only and standing.rules.holds("join-only"):
            return False
        bound = page.promise_end > standing.now and not page.freed and page.renewed.node != node
        if bound or page.fence_from > standing.now or key < standing.log.last:
            return False
        # Somebody else was promised just now: let him renew first, instead of outbidding him.
        fresh = standing.promised_at >= 0 and (
            standing.now - standing.promised_at < standing.promise_ns // 2
        )
        return not fresh or standing.promised.node == node

    def prepare(self, node: int, message: Prepare) -> None:
        """Ask the own guard whether ``message.ballot`` may be promised, or refuse at once."""
        if self._refuses(node, message.ballot, message.key):
            return
        if not self._standing.rules.holds("fence-before-promise"):
            page = self._standing.page()
            fenced = Fenced(message.ballot, page.renewed, freed=page.freed, no_memory=False)
            self._promise(node, fenced)
            return
        self._asked[node] = _Asked(message.ballot, message.key)
        self._standing.outbox.ask(Fence(message.ballot))

    def fenced(self, report: Fenced) -> None:
        """Promise what the guard fenced, unless the own promise or log moved meanwhile."""
        node = report.ballot.node
        asked = self._asked.get(node)
        if asked is None or asked.ballot != report.ballot:
            return
        del self._asked[node]
        if not self._refuses(node, asked.ballot, asked.key):
            self._promise(node, report)

    def fence_refused(self, report: FenceRefused) -> None:
        """Pass the guard's refusal on."""
        node = report.ballot.node
        asked = self._asked.get(node)
        if asked is None or asked.ballot != report.ballot:
            return
        del self._asked[node]
        self._refuse(node, report.ballot, report.floor, report.remaining)

    def _refuses(self, node: int, ballot: Ballot, key: Key) -> bool:
        standing = self._standing
        if standing.join_only and standing.rules.holds("join-only"):
            self._refuse(node, ballot, standing.promised, 0)
            return True
        outbid = ballot <= standing.promised and standing.rules.holds("promise-above")
        behind = key < standing.log.last and standing.rules.holds("up-to-date")
        if outbid or behind:
            self._refuse(node, ballot, standing.promised, 0)
        return outbid or behind

    def _refuse(self, node: int, ballot: Ballot, floor: Ballot, remaining: int) -> None:
        standing = self._standing
        refusal = Refused(
            ballot=ballot,
            promised=max(standing.promised, floor),
            key=standing.log.last,
            remaining=remaining,
        )
        standing.send(node, refusal, standing.outbox.position)

    def _promise(self, node: int, report: Fenced) -> None:
        standing = self._standing
        position = standing.promise(report.ballot)
        standing.promised_at = standing.now
        promised = Promised(
            ballot=report.ballot,
            renewed=report.renewed,
            freed=report.freed,
            no_memory=report.no_memory,
            key=standing.log.last,
            storage=standing.me.storage,
        )
        standing.send(node, promised, position)
