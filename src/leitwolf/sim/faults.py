"""Faults, drawn from the seed: what may go wrong on machines, disks and networks."""

from __future__ import annotations

from collections.abc import Callable

from leitwolf.model.commands import (
    ChangeGroup,
    Command,
    MoveGroup,
    PauseNode,
    RecoverGroup,
    WishGroup,
    WishResource,
)
from leitwolf.model.ids import GroupId, NodeId, ResourceId, Wish
from leitwolf.sim.network import MILLISECOND
from leitwolf.sim.node import SimNode
from leitwolf.sim.world import World

__all__ = ["Faults"]

SECOND = 1_000 * MILLISECOND


class Faults:
    """Injects one fault after another until told to stop."""

    def __init__(self, world: World) -> None:
        """Draw from a stream of its own."""
        self._world = world
        self._entropy = world.entropy.split()
        self._on = False
        self._request = 0
        self._kinds: tuple[tuple[int, Callable[[SimNode], None]], ...] = (
            (10, self._power),
            (10, self._freeze),
            (8, self._partition),
            (8, self._cut_one),
            (6, self._isolate_oneway),
            (6, self._noise),
            (8, lambda node: node.kill_guard(page=False)),
            (3, lambda node: node.kill_guard(page=True)),
            (8, lambda node: node.kill_daemon()),
            (6, lambda node: node.kill_host()),
            (6, self._stall_guard),
            (6, self._stall_daemon),
            (4, self._stall_host),
            (5, self._slow_disk),
            (6, self._kill_resource),
            (2, self._slow_arming),
            (1, self._unkillable),
            (3, self._crashy),
            (20, self._operator),
        )

    def start(self) -> None:
        """Begin."""
        self._on = True
        self._next()

    def stop(self) -> None:
        """Stop injecting, mend everything that does not mend itself."""
        self._on = False
        world = self._world
        world.note(0, "faults", "over; everything heals")
        world.crash_per_million = 0
        world.slow_arm_per_thousand = world.slow_kill_per_thousand = 0
        world.network.heal()
        for node in world.nodes.values():
            node.thaw()
            node.disk_slow_until = 0
            node.power_on()
        world.refresh_streams()

    def _next(self) -> None:
        if not self._on:
            return
        pause = self._entropy.between(20, 1_500) * MILLISECOND
        if self._entropy.chance(150):
            pause = self._entropy.between(0, 30) * MILLISECOND
        self._world.later(pause, self._inject)

    def _inject(self) -> None:
        if not self._on:
            return
        total = sum(weight for weight, _ in self._kinds)
        drawn = self._entropy.between(1, total)
        for weight, fault in self._kinds:
            drawn -= weight
            if drawn <= 0:
                node = self._entropy.choice(list(self._world.nodes.values()))
                fault(self._entropy.choice([node, self._important()]))
                break
        self._next()

    def _important(self) -> SimNode:
        """Return the leader, if there is one: faults there matter most."""
        for node in self._world.nodes.values():
            if node.core is not None and node.core.in_charge:
                return node
        return self._entropy.choice(list(self._world.nodes.values()))

    def _later(self, low_ms: int, high_ms: int, work: Callable[[], None]) -> None:
        self._world.later(self._entropy.between(low_ms, high_ms) * MILLISECOND, work)

    # --- machines --------------------------------------------------------------------------------

    def _power(self, node: SimNode) -> None:
        node.power_off("fault")
        self._later(100, 6_000, node.power_on)

    def _freeze(self, node: SimNode) -> None:
        node.freeze()
        longest = self._entropy.choice([100, 600, 3_000])
        self._later(20, longest, node.thaw)

    def _stall_guard(self, node: SimNode) -> None:
        node.stall(node.guard, self._entropy.between(5, 1_500) * MILLISECOND)

    def _stall_daemon(self, node: SimNode) -> None:
        node.stall(node.daemon, self._entropy.between(5, 3_000) * MILLISECOND)

    def _stall_host(self, node: SimNode) -> None:
        node.stall(node.host, self._entropy.between(5, 3_000) * MILLISECOND)

    def _slow_disk(self, node: SimNode) -> None:
        node.disk_slow_until = self._world.now + self._entropy.between(100, 4_000) * MILLISECOND

    def _kill_resource(self, node: SimNode) -> None:
        cells = list(node.kernel.cells)
        if cells and node.sim_host is not None and node.host.running:
            node.sim_host.fail(self._entropy.choice(cells))

    def _slow_arming(self, _: SimNode) -> None:
        world = self._world
        world.slow_arm_per_thousand = 100
        self._later(100, 2_000, lambda: setattr(world, "slow_arm_per_thousand", 0))

    def _unkillable(self, _: SimNode) -> None:
        world = self._world
        world.slow_kill_per_thousand = 300
        self._later(100, 3_000, lambda: setattr(world, "slow_kill_per_thousand", 0))

    def _crashy(self, _: SimNode) -> None:
        world = self._world
        world.crash_per_million = 2_000
        self._later(100, 3_000, lambda: setattr(world, "crash_per_million", 0))

    # --- network ---------------------------------------------------------------------------------

    def _heal_later(self) -> None:
        def heal() -> None:
            self._world.note(0, "network", "heals")
            self._world.network.heal()
            self._world.refresh_streams()

        self._later(50, self._entropy.choice([400, 1_500, 5_000]), heal)

    def _partition(self, _: SimNode) -> None:
        nodes = list(self._world.nodes)
        side = {node for node in nodes if self._entropy.chance(500)}
        self._world.note(0, "network", f"split {sorted(side)} from the rest")
        for one in nodes:
            for other in nodes:
                if (one in side) != (other in side):
                    self._world.network.cut(one, other)
        self._world.refresh_streams()
        self._heal_later()

    def _cut_one(self, node: SimNode) -> None:
        link = self._entropy.between(-1, self._world.network.links - 1)
        self._world.note(node.id, "network", f"cut off on link {link}")
        for other in self._world.nodes:
            if other != node.id:
                self._world.network.cut(node.id, other, link)
                self._world.network.cut(other, node.id, link)
        self._world.refresh_streams()
        self._heal_later()

    def _isolate_oneway(self, node: SimNode) -> None:
        hears = self._entropy.chance(500)
        self._world.note(node.id, "network", "hears nobody" if hears else "is heard by nobody")
        for other in self._world.nodes:
            if other != node.id:
                pair = (other, node.id) if hears else (node.id, other)
                self._world.network.cut(*pair)
        self._world.refresh_streams()
        self._heal_later()

    def _noise(self, _: SimNode) -> None:
        network = self._world.network
        network.loss_per_thousand = self._entropy.between(0, 300)
        network.double_per_thousand = self._entropy.between(0, 200)
        network.slow_per_thousand = self._entropy.between(0, 200)
        self._heal_later()

    # --- operators -------------------------------------------------------------------------------

    def _command(self) -> Command:
        entropy, world = self._entropy, self._world
        states = [node.core.state for node in world.nodes.values() if node.core is not None]
        groups = sorted(states[0].groups) if states else ["g1"]
        group = GroupId(entropy.choice(groups))
        node = NodeId(entropy.choice(list(world.nodes)))
        wish = Wish.OFFLINE if entropy.chance(300) else Wish.ONLINE
        commands: tuple[Command, ...] = (
            MoveGroup(group=group, node=node),
            MoveGroup(group=group, node=NodeId(0)),
            WishGroup(group=group, wish=wish),
            WishResource(resource=ResourceId(f"{group}-app"), wish=wish),
            ChangeGroup(group=group, restart_threshold=entropy.between(0, 5)),
            RecoverGroup(group=group),
            PauseNode(node=node, paused=entropy.chance(300), drain=entropy.chance(500)),
        )
        return entropy.choice(commands)

    def _operator(self, node: SimNode) -> None:
        self._request += 1
        number = self._request
        self._world.ask(node.id, number, self._command())
