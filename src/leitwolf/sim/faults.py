"""Faults, drawn from the seed: what may go wrong on machines, disks and networks.

A *mix* says how often which kind is drawn; runs that look for one thing use a mix of their own.
"""

from __future__ import annotations

from collections.abc import Callable

from leitwolf.sim.forcing import Forcing
from leitwolf.sim.network import MILLISECOND
from leitwolf.sim.node import SimNode
from leitwolf.sim.operators import Operators
from leitwolf.sim.witness import SharedDisk
from leitwolf.sim.world import World

__all__ = ["MIXES", "SECOND", "Faults"]

SECOND = 1_000 * MILLISECOND

_ALL = {
    "power": 10,
    "freeze": 10,
    "suspend": 3,
    "partition": 8,
    "cut-one": 8,
    "one-way": 6,
    "noise": 6,
    "kill-guard": 8,
    "kill-guard-and-page": 3,
    "kill-daemon": 8,
    "kill-host": 6,
    "kill-keeper": 5,
    "stall-guard": 6,
    "stall-daemon": 6,
    "stall-host": 4,
    "stall-keeper": 4,
    "slow-disk": 5,
    "failing-disk": 3,
    "kill-resource": 6,
    "slow-arming": 2,
    "unkillable": 1,
    "crashes": 3,
    "operator": 20,
    "members": 2,
}
_SHARED = {"lose-path": 8, "slow-shared": 6, "lose-replies": 6}
_CLIENTS = {kind: weight for kind, weight in _ALL.items() if kind not in ("operator", "members")}
MIXES: dict[str, dict[str, int]] = {
    "all": _ALL,
    "network": {"partition": 6, "cut-one": 4, "one-way": 6, "noise": 8, "operator": 6},
    "machines": {"power": 6, "freeze": 6, "suspend": 2, "partition": 2, "operator": 6},
    "guards": {
        "kill-guard": 8,
        "kill-guard-and-page": 8,
        "kill-keeper": 3,
        "stall-guard": 8,
        "stall-keeper": 3,
        "noise": 4,
        "partition": 4,
        "one-way": 4,
        "operator": 4,
    },
    "daemons": {
        "kill-daemon": 8,
        "kill-keeper": 3,
        "stall-daemon": 6,
        "stall-keeper": 3,
        "slow-disk": 6,
        "failing-disk": 4,
        "crashes": 4,
        "partition": 4,
        "one-way": 4,
        "operator": 20,
    },
    "hosts": {
        "kill-host": 6,
        "kill-keeper": 4,
        "stall-host": 6,
        "stall-keeper": 3,
        "kill-resource": 4,
        "freeze": 4,
        "slow-arming": 4,
        "operator": 20,
    },
    "crashes": {
        "crashes": 10,
        "power": 6,
        "failing-disk": 4,
        "slow-disk": 4,
        "partition": 3,
        "one-way": 3,
        "operator": 20,
    },
    "clients": _CLIENTS,
    "shared-clients": {**_CLIENTS, **_SHARED},
    "blackouts": {"blackout": 10, "slow-disk": 6, "operator": 30},
    "streams": {"cut-streams": 10, "partition": 2, "kill-daemon": 2, "noise": 2, "operator": 10},
    "profiles": {
        "profile": 10,
        "power": 4,
        "partition": 5,
        "kill-guard-and-page": 4,
        "kill-daemon": 4,
        "slow-disk": 3,
    },
    "sleep": {"suspend": 6, "operator": 4},
    "members": {
        "members": 10,
        "power": 4,
        "partition": 6,
        "one-way": 3,
        "kill-guard": 3,
        "kill-daemon": 5,
        "operator": 4,
    },
    "shared": {**_ALL, **_SHARED},
    "rotten": {**_ALL, **_SHARED, "rot": 10},
    "damaged": {**_ALL, **_SHARED, "rot": 6, "rot-region": 6, "ruin": 2},
    "stale": {**_ALL, **_SHARED, "stale-reads": 10},
    "quorums": {**_ALL, **_SHARED, "quorum": 20, "members": 6},
    "votes": {
        "power": 12,
        "votes": 10,
        "partition": 8,
        "cut-one": 4,
        "one-way": 4,
        "kill-guard": 4,
        "kill-daemon": 8,
        "stall-daemon": 6,
        "cut-streams": 4,
        "slow-disk": 2,
        "crashes": 4,
        "members": 2,
        "operator": 6,
        **_SHARED,
    },
    "forced": {
        "force": 20,
        "power": 1,
        "partition": 1,
        "one-way": 1,
        "kill-guard": 3,
        "kill-daemon": 5,
        "stall-daemon": 2,
        "slow-disk": 3,
        "crashes": 3,
        "operator": 12,
    },
    "none": {},
}
"""Weights of the kinds of faults, by the name of the mix."""

_CRASH_PER_MILLION = {"guard": 2_000, "daemon": 10_000, "host": 100_000}
"""Each dies about as often: guards have some five times the effects of daemons, and more than a
hundred times those of hosts."""


class Faults:
    """Injects one fault after another until told to stop."""

    def __init__(self, world: World, mix: str, spares: int) -> None:
        """Draw from a stream of its own; ``spares``: machines that operators may let in."""
        self._world = world
        self._entropy = world.entropy.split()
        self._operators = Operators(world, self._entropy.split(), spares)
        self.forcing = Forcing(world, self._entropy)
        self._on = False
        self._kinds: dict[str, Callable[[SimNode], None]] = {
            "power": self._power,
            "blackout": self._blackout,
            "freeze": self._freeze,
            "suspend": self._suspend,
            "partition": self._partition,
            "cut-one": self._cut_one,
            "one-way": self._isolate_oneway,
            "noise": self._noise,
            "cut-streams": self._cut_streams,
            "kill-guard": lambda node: node.guard.perish(page=False),
            "kill-guard-and-page": lambda node: node.guard.perish(page=True),
            "kill-daemon": lambda node: node.daemon.perish(),
            "kill-host": lambda node: node.host.perish(),
            "kill-keeper": lambda node: node.keeper.perish(),
            "stall-guard": lambda node: self._stall(node, "guard", 1_500),
            "stall-daemon": lambda node: self._stall(node, "daemon", 3_000),
            "stall-host": lambda node: self._stall(node, "host", 3_000),
            "stall-keeper": lambda node: self._stall(node, "keeper", 3_000),
            "slow-disk": self._slow_disk,
            "failing-disk": self._failing_disk,
            "kill-resource": self._kill_resource,
            "slow-arming": lambda _: self._world_wide("slow_arm_per_thousand", 100, 2_000),
            "unkillable": lambda _: self._world_wide("slow_kill_per_thousand", 300, 3_000),
            "crashes": self._crashes,
            "lose-path": self._lose_path,
            "slow-shared": self._slow_shared,
            "lose-replies": self._lose_replies,
            "rot": self._rot,
            "rot-region": self._rot_region,
            "ruin": self._ruin,
            "stale-reads": self._stale_reads,
            "operator": self._operators.ask,
            "members": self._operators.change_members,
            "profile": self._operators.change_profile,
            "quorum": self._operators.change_quorum,
            "votes": self._operators.change_votes,
            "force": self.forcing.disaster,
        }
        self._mix = MIXES[mix]

    def start(self) -> None:
        """Begin."""
        self._on = bool(self._mix)
        self._next()

    def stop(self) -> None:
        """Stop injecting, mend everything that does not mend itself."""
        self._on = self._operators.on = False
        world = self._world
        world.note(0, "faults", "over; everything heals")
        world.crash_per_million = {}
        world.slow_arm_per_thousand = world.slow_kill_per_thousand = 0
        world.network.heal()
        for witness in world.witnesses.values():
            witness.unreached.clear()
            witness.slow_until = witness.lose_per_thousand = witness.stale_per_thousand = 0
        for node in list(world.nodes.values()):
            node.thaw()
            node.disk_slow_until, node.disk_fails = 0, False
            node.power_on()
            node.keeper.begin()
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
        drawn = self._entropy.between(1, sum(self._mix.values()))
        for kind, weight in self._mix.items():
            drawn -= weight
            if drawn <= 0:
                node = self._entropy.choice(list(self._world.nodes.values()))
                self._kinds[kind](self._entropy.choice([node, self._important()]))
                break
        self._next()

    def _important(self) -> SimNode:
        """Return the leader, if there is one: faults there matter most."""
        leaders = self._world.leaders()
        return leaders[0] if leaders else self._entropy.choice(list(self._world.nodes.values()))

    def _later(self, low_ms: int, high_ms: int, work: Callable[[], None]) -> None:
        self._world.later(self._entropy.between(low_ms, high_ms) * MILLISECOND, work)

    # --- machines --------------------------------------------------------------------------------

    def _power(self, node: SimNode) -> None:
        node.power_off("fault")
        self._later(100, 6_000, node.power_on)

    def _blackout(self, _: SimNode) -> None:
        """Cut the power of all machines within moments of the next commit: disks alone remember."""

        def dark() -> None:
            for node in list(self._world.nodes.values()):
                node.power_off("blackout")
                self._later(100, 400, node.power_on)

        def committed() -> None:
            self._world.later(self._entropy.between(0, MILLISECOND), dark)

        self._world.after_commit = committed

    def _freeze(self, node: SimNode) -> None:
        node.freeze()
        self._later(20, self._entropy.choice([100, 600, 3_000]), node.thaw)

    def _suspend(self, node: SimNode) -> None:
        node.suspend()
        self._later(20, self._entropy.choice([100, 600, 3_000]), node.thaw)

    def _stall(self, node: SimNode, name: str, longest_ms: int) -> None:
        process = next(process for process in node.processes if process.name == name)
        node.stall(process, self._entropy.between(5, longest_ms) * MILLISECOND)

    def _slow_disk(self, node: SimNode) -> None:
        node.disk_slow_until = self._world.now + self._entropy.between(100, 4_000) * MILLISECOND

    def _failing_disk(self, node: SimNode) -> None:
        node.disk_fails = True

    def _kill_resource(self, node: SimNode) -> None:
        cells = list(node.kernel.cells)
        if cells and node.host.work is not None and node.host.running:
            node.host.do(node.host.work.fail, self._entropy.choice(cells))

    def _crashes(self, _: SimNode) -> None:
        world = self._world
        world.crash_per_million = _CRASH_PER_MILLION
        self._later(100, 3_000, lambda: setattr(world, "crash_per_million", {}))

    def _world_wide(self, setting: str, value: int, longest_ms: int) -> None:
        setattr(self._world, setting, value)
        self._later(100, longest_ms, lambda: setattr(self._world, setting, 0))

    # --- shared disks and objects ----------------------------------------------------------------

    def _lose_path(self, node: SimNode) -> None:
        """One node, or now and then all, cannot reach what is shared."""
        nodes = list(self._world.nodes) if self._entropy.chance(200) else [node.id]
        self._world.note(0, "shared", f"{nodes} lose their path")
        for witness in self._world.witnesses.values():
            witness.unreached.update(nodes)

        def mend() -> None:
            for witness in self._world.witnesses.values():
                witness.unreached.difference_update(nodes)

        self._later(30, 3_000, mend)

    def _slow_shared(self, _: SimNode) -> None:
        for witness in self._world.witnesses.values():
            duration = self._entropy.between(50, 2_000) * MILLISECOND
            witness.slow_until = self._world.now + duration

    def _lose_replies(self, _: SimNode) -> None:
        self._for_a_while("lose_per_thousand", 0)

    def _rot(self, _: SimNode) -> None:
        for witness in self._world.witnesses.values():
            if isinstance(witness, SharedDisk):
                witness.rot(self._entropy.between(0, 1))

    def _rot_region(self, node: SimNode) -> None:
        for witness in self._world.witnesses.values():
            if isinstance(witness, SharedDisk):
                self._world.note(0, "shared", f"the region of n{node.id} rots")
                witness.rot_region(node.id)

    def _ruin(self, node: SimNode) -> None:
        """Both copies of a block are lost: the disk counts for nobody any more."""
        for witness in self._world.witnesses.values():
            if isinstance(witness, SharedDisk):
                self._world.note(0, "shared", f"both copies of the block of n{node.id} rot")
                witness.ruin(node.id)

    def _stale_reads(self, _: SimNode) -> None:
        self._for_a_while("stale_per_thousand", 1)

    def _for_a_while(self, chance: str, least: int) -> None:
        def be(per_thousand: int) -> None:
            for witness in self._world.witnesses.values():
                setattr(witness, chance, per_thousand)

        be(self._entropy.between(least, 500))
        self._later(50, 2_000, lambda: be(0))

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

    def _cut_streams(self, node: SimNode) -> None:
        """Break the streams of a node to some others; its heartbeats pass."""
        spared = self._entropy.between(0, 2)
        self._world.note(node.id, "network", "streams cut")
        for other in list(self._world.nodes)[spared:]:
            if other != node.id:
                self._world.network.cut_stream(node.id, other)
        self._world.refresh_streams()
        self._heal_later()

    def _noise(self, _: SimNode) -> None:
        network = self._world.network
        network.loss_per_thousand = self._entropy.between(0, 300)
        network.double_per_thousand = self._entropy.between(0, 200)
        network.slow_per_thousand = self._entropy.between(0, 200)
        self._heal_later()
