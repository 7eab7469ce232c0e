"""State of every link to every node: probes once a second, and whatever else comes in.

A link is up while something authentic came in on it within ``UP_NS`` or 3 H, whichever is longer.
It decides nothing about leases; it tells people and placement which networks work.
"""

from __future__ import annotations

from dataclasses import dataclass

from leitwolf.core.lease.effects import SendPeer
from leitwolf.core.lease.ledger import NEVER, Ledger
from leitwolf.wire.guard import Configure, LinkReport, LinkState
from leitwolf.wire.heartbeat import Probe, ProbeReply

__all__ = ["Links"]

PROBE_NS = 1_000_000_000
"""All pairs check each link once a second: state only, so the cost must stay negligible."""
UP_NS = 3 * PROBE_NS
"""Two probes in a row may be lost."""


@dataclass(slots=True)
class _Link:
    heard: int = -1
    round_trip: int = -1
    up: bool = False


class Links:
    """Links between this node and each other one. Instants are RAW ns of this node."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._links: dict[tuple[int, int], _Link] = {}
        self._next = ledger.raw
        self._look_at = ledger.raw
        """Nothing is due before this instant: traffic on a link only puts off its end."""
        self._window = UP_NS

    def configure(self, configuration: Configure) -> None:
        """Keep what is known of the links that remain; a link needs an address on both sides."""
        former = self._links
        self._links = {
            (peer.node, link): former.get((peer.node, link), _Link())
            for peer in configuration.peers
            for link, pair in enumerate(zip(configuration.addresses, peer.addresses, strict=False))
            if all(pair)
        }
        self._window = max(UP_NS, 3 * configuration.heartbeat)
        if self._links.keys() != former.keys():
            self._next = self._ledger.raw
        self._look_at = self._first_due()

    def heard(self, node: int, link: int) -> None:
        """Something authentic came in."""
        state = self._links.get((node, link))
        if state is None:
            return
        state.heard = self._ledger.raw
        if not state.up:
            state.up = True
            self._report()

    def reply(self, node: int, link: int, message: ProbeReply) -> None:
        """Take the round trip from the answer to an own probe."""
        state = self._links.get((node, link))
        age = self._ledger.raw - message.sent
        if state and message.incarnation == self._ledger.incarnation and 0 <= age <= self._window:
            state.round_trip = age

    def due(self) -> None:
        """Report links that went down; once a second probe and report all."""
        ledger = self._ledger
        if ledger.raw < self._look_at:
            return
        down = [link for link in self._links.values() if link.up and self._age(link) > self._window]
        for link in down:
            link.up = False
        probing = ledger.raw >= self._next
        if probing:
            self._next = ledger.raw + PROBE_NS
            for node, number in self._links:
                ledger.emit(SendPeer(node, Probe(ledger.raw, ledger.incarnation), number))
        if probing or down:
            self._report()
        self._look_at = self._first_due()

    def deadline(self) -> int:
        """Return the instant at which :meth:`due` is to be called at the latest."""
        return self._look_at if self._links else NEVER

    def _first_due(self) -> int:
        """Return when :meth:`due` has something to do if nothing comes in until then."""
        down = [link.heard + self._window + 1 for link in self._links.values() if link.up]
        return min([self._next, *down])

    def _age(self, link: _Link) -> int:
        return self._ledger.raw - link.heard

    def _report(self) -> None:
        if not self._links:
            return
        self._ledger.tell(
            LinkReport(
                tuple(
                    LinkState(
                        node=node,
                        link=number,
                        up=link.up,
                        age=self._age(link) if link.heard >= 0 else -1,
                        round_trip=link.round_trip,
                    )
                    for (node, number), link in self._links.items()
                )
            )
        )
