"""Which node reaches which disk or witness, and hears which other node: told by each to all. Pure.

Rules:

- Only what a node saw itself is told: whether its last call of a disk or witness succeeded, what
  silence its calls ask for, and what its guard hears on each interconnect. So a link between two
  nodes is told by both, each for its own ears.
- It is told when it changes (links at most each 250 ms), and to each node that comes within reach.
  It is shown to people, and who lacks a way that it would need is not handed the office
  (:mod:`leitwolf.core.membership.ways`); no safety rests on it.
- What a node said is forgotten when it is out of reach, even if its stream only changed; so who
  comes within reach is asked, too.

What this does not guarantee: that a path which was there a few seconds ago is there when it is
needed.
"""

from __future__ import annotations

from collections.abc import Iterable

from leitwolf.core.lease.profile import MILLISECOND
from leitwolf.core.membership.roster import interconnects
from leitwolf.core.quorum.passive import Passive
from leitwolf.model.ids import NodeId
from leitwolf.model.limits import LINKS_TOLD_MAX
from leitwolf.model.observations import LinkHeard, PathReport, PathState
from leitwolf.model.state import State
from leitwolf.wire.guard import LinkReport

__all__ = ["Paths"]

_QUIET_NS = 250 * MILLISECOND
"""When a switch dies, links to all nodes change one after the other. What changed meanwhile goes
with the next report of the guard, which comes once a second."""
_FIRST_NS = 3_000 * MILLISECOND
"""A guard that starts has heard nobody yet: it is believed when that lasts as long as a link that
was up takes to go down."""


class Paths:
    """What this node and the others said of their ways to disks, witnesses and each other."""

    def __init__(self) -> None:
        self.own: tuple[PathState, ...] = ()
        self.others: dict[NodeId, tuple[PathState, ...]] = {}
        """By node, of those within reach."""
        self.links: tuple[LinkHeard, ...] = ()
        """Whom this node hears, by network and node."""
        self.links_told: dict[NodeId, tuple[LinkHeard, ...]] = {}
        """Whom the others hear: by node, of those within reach."""
        self._told: tuple[LinkHeard, ...] = ()
        self._quiet_until = 0
        self._awaited: dict[tuple[str, NodeId], int] = {}
        """Links on which the guard heard nothing yet, and since when (RAW ns) it says so."""

    # --- own -------------------------------------------------------------------------------------

    def note(self, passives: Iterable[Passive], wall_base: int) -> PathReport | None:
        """Take in what the own calls showed; return what is to be told, None: nothing new.

        Args:
            passives: the disks and witnesses in use.
            wall_base: what turns RAW into wall-clock time, ns.
        """
        own = []
        known = {path.storage: path for path in self.own}
        for passive in passives:
            if passive.reached_since < 0:
                continue
            storage, fault = passive.acceptor.id.storage, passive.fault
            former = known.get(storage)
            since = passive.reached_since + wall_base
            if former is not None and bool(former.fault) == bool(fault):
                since = former.since_wall
                if former.fault.partition(": ")[0] == fault.partition(": ")[0]:
                    fault = former.fault  # in other words perhaps, which is nothing new
            silence_ms = passive.asks // MILLISECOND
            own.append(
                PathState(storage=storage, fault=fault, since_wall=since, silence_ms=silence_ms)
            )
        if tuple(own) == self.own:
            return None
        self.own = tuple(own)
        return self.report()

    def hear(self, now: int, report: LinkReport, state: State, wall_base: int) -> PathReport | None:
        """Take in what the own guard hears; return what is to be told, None: nothing now.

        Args:
            now: RAW ns.
            report: all links.
            state: by whose interconnects the guard numbers them.
            wall_base: what turns RAW into wall-clock time, ns.
        """
        names = interconnects(state)
        known = {(one.network, one.node): one for one in self.links}
        own, awaited = [], {}
        for link in report.links:
            if link.link >= len(names):
                continue  # of a network that was removed just now
            key = network, node = names[link.link], NodeId(link.node)
            one = known.get(key)
            if one is None or one.heard != link.up:
                if not link.up and link.age < 0:
                    awaited[key] = self._awaited.get(key, now)
                    if now - awaited[key] < _FIRST_NS:
                        continue
                last = 0 if link.age < 0 else now - link.age + wall_base
                since = now + wall_base if link.up else last
                one = LinkHeard(network=network, node=node, heard=link.up, since_wall=since)
            own.append(one)
        self._awaited = awaited
        self.links = tuple(sorted(own, key=lambda one: (one.network, one.node))[:LINKS_TOLD_MAX])
        if self.links == self._told or now < self._quiet_until:
            return None
        self._quiet_until = now + _QUIET_NS
        return self.report()

    def deaf(self) -> PathReport | None:
        """Forget whom the own guard hears: it is gone. Return what is to be told, if anything."""
        self.links, self._awaited = (), {}
        return self.report() if self._told else None

    def report(self) -> PathReport:
        """Return what is to be told to all."""
        self._told = self.links
        return PathReport(paths=self.own, links=self.links)

    def greeting(self) -> PathReport:
        """Return what is to be told to a node that came within reach."""
        return PathReport(paths=self.own, links=self.links, asks=True)

    # --- others ----------------------------------------------------------------------------------

    def heard(self, node: NodeId, report: PathReport) -> PathReport | None:
        """Take in what another node said; return what it is to be answered, None: nothing."""
        self.others[node] = report.paths
        self.links_told[node] = report.links[:LINKS_TOLD_MAX]
        return PathReport(paths=self.own, links=self.links) if report.asks else None

    def lost(self, node: NodeId) -> None:
        """A node is not within reach any more: what it said is old."""
        self.others.pop(node, None)
        self.links_told.pop(node, None)
