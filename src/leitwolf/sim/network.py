"""The simulated network: datagrams between guards, streams between daemons, cuts and heals.

A cut is directed, so that asymmetric partitions exist. Datagrams are lost, doubled, delayed and
reordered. Streams deliver in order while they live; a cut ends them after a while, with whatever
was under way lost.
"""

from __future__ import annotations

from leitwolf.sim.entropy import Entropy

__all__ = ["Network"]

MICROSECOND = 1_000
MILLISECOND = 1_000_000


class Network:
    """Delays and cuts between ``nodes`` on ``links`` interconnects."""

    def __init__(self, entropy: Entropy, links: int) -> None:
        """Begin whole, with calm delays."""
        self._entropy = entropy
        self.links = links
        self._cuts: set[tuple[int, int, int]] = set()
        self._streams_cut: set[tuple[int, int]] = set()
        self.loss_per_thousand = 0
        self.double_per_thousand = 0
        self.slow_per_thousand = 0
        self._stream_until: dict[tuple[int, int], int] = {}

    def cut(self, source: int, target: int, link: int = -1) -> None:
        """Let nothing pass from ``source`` to ``target`` on a link (-1: on every one)."""
        for number in range(self.links) if link < 0 else (link,):
            self._cuts.add((source, target, number))

    def cut_stream(self, one: int, other: int) -> None:
        """Let no stream pass between two nodes; datagrams do."""
        self._streams_cut |= {(one, other), (other, one)}

    def heal(self) -> None:
        """Mend every cut and calm down."""
        self._cuts.clear()
        self._streams_cut.clear()
        self.loss_per_thousand = self.double_per_thousand = self.slow_per_thousand = 0

    def passes(self, source: int, target: int, link: int) -> bool:
        """Tell whether a link carries from ``source`` to ``target``."""
        return (source, target, link) not in self._cuts

    def connected(self, one: int, other: int) -> bool:
        """Tell whether some link carries both ways, streams too."""
        return (one, other) not in self._streams_cut and any(
            self.passes(one, other, link) and self.passes(other, one, link)
            for link in range(self.links)
        )

    def _delay(self) -> int:
        entropy = self._entropy
        if entropy.chance(self.slow_per_thousand):
            return entropy.between(5 * MILLISECOND, 400 * MILLISECOND)
        return entropy.between(60 * MICROSECOND, 900 * MICROSECOND)

    def datagram(self, source: int, target: int, link: int) -> list[int]:
        """Return the delays after which copies of a datagram arrive: none, one or two."""
        if (source, target, link) in self._cuts:
            return []
        if self.loss_per_thousand and self._entropy.chance(self.loss_per_thousand):
            return []
        delays = [self._delay()]
        if self.double_per_thousand and self._entropy.chance(self.double_per_thousand):
            delays.append(self._delay())
        return delays

    def stream(self, source: int, target: int, now: int) -> int:
        """Return when a message sent now arrives; never before an earlier one."""
        arrival = max(now + self._delay(), self._stream_until.get((source, target), 0) + 1)
        self._stream_until[(source, target)] = arrival
        return arrival

    def stream_broke(self, one: int, other: int) -> None:
        """Forget the order of a stream that ended."""
        self._stream_until.pop((one, other), None)
        self._stream_until.pop((other, one), None)
