"""Disasters after which an operator forces a quorum, rightly or wrongly, and what he does later."""

from __future__ import annotations

from leitwolf.core.histories import Verdict, judge
from leitwolf.model.commands import ForceQuorum
from leitwolf.model.ids import NodeId
from leitwolf.sim.entropy import Entropy
from leitwolf.sim.network import MILLISECOND
from leitwolf.sim.node import SimNode
from leitwolf.sim.world import World
from leitwolf.wire.lineage import Lineage

__all__ = ["Forcing"]

_REQUESTS = 1 << 30
_PAUSE_NS = 6_000 * MILLISECOND
"""Between two disasters: nodes give way, learn and vote."""
_WRONG_PER_THOUSAND = 300
"""How often those who were declared dead live behind a cut."""


class Forcing:
    """Declares machines dead and forces the others; in the end decides between histories."""

    def __init__(self, world: World, entropy: Entropy) -> None:
        """Draw from ``entropy``. Who is declared dead may come back: two histories run at once."""
        self._world = world
        self._entropy = entropy
        self._requests = _REQUESTS
        self._over = 0

    def disaster(self, node: SimNode) -> None:
        """All but a minority are gone, with all witnesses; ``node`` is forced with the rest."""
        world, entropy = self._world, self._entropy
        if world.now < self._over:
            return
        world.checker.truthful = False
        others = [other for other in world.nodes.values() if other is not node]
        spared = entropy.between(0, max(0, (len(world.nodes) - 1) // 2 - 1))
        named = [node, *others[:spared]]
        gone = others[spared:]
        wrong = entropy.chance(_WRONG_PER_THOUSAND)
        fate = "cut off" if wrong else "dead"
        world.note(0, "disaster", f"{[one.id for one in gone]} are {fate}")
        for one in gone:
            if wrong:
                for other in named:
                    world.network.cut(one.id, other.id)
                    world.network.cut(other.id, one.id)
            else:
                one.power_off("disaster")
        for witness in world.witnesses.values():
            witness.unreached.update(world.nodes)
        world.refresh_streams()
        numbers = tuple(NodeId(one.id) for one in named)
        for at_ms in (entropy.between(3_300, 4_500), entropy.between(9_000, 12_000)):
            world.later(at_ms * MILLISECOND, self._force, node, numbers)
        lasts = entropy.between(7_000, 20_000) * MILLISECOND
        self._over = world.now + lasts + _PAUSE_NS
        world.later(lasts, self._back, gone)

    def _force(self, node: SimNode, nodes: tuple[NodeId, ...]) -> None:
        self._requests += 1
        command = ForceQuorum(nodes=nodes, others_down=True)
        self._world.ask(node.id, self._requests, command)

    def _back(self, gone: list[SimNode]) -> None:
        self._world.network.heal()
        for witness in self._world.witnesses.values():
            witness.unreached.clear()
        for node in gone:
            node.power_on()
        self._world.refresh_streams()

    def reconcile(self) -> None:
        """Keep one history; give up those that parted from it, and forces that got stuck."""
        kept = self._kept()
        if kept is None:
            return
        for node in self._world.nodes.values():
            if node.daemon.core is None or node.lineage == kept.lineage:
                continue
            verdict = judge(node.id, node.daemon.shown, kept.id, kept.daemon.shown)
            if verdict is not Verdict.SAME:
                node.give_way(kept.lineage)

    def _kept(self) -> SimNode | None:
        """Return a node of the history to keep: one that is led, of many nodes, forced last."""

        def worth(node: SimNode) -> tuple[bool, int, int, Lineage]:
            core = node.daemon.core
            led = core is not None and core.in_charge
            peers = sum(other.lineage == node.lineage for other in self._world.nodes.values())
            return led, peers, len(node.lineage), node.lineage

        able = [node for node in self._world.nodes.values() if node.daemon.shown.established]
        return max(able, key=worth, default=None)
