"""One simulated run: faults (safety), then healing and a demand for service (liveness)."""

from __future__ import annotations

from dataclasses import dataclass, field

from leitwolf.core.lease.profile import PROFILES
from leitwolf.core.policy import group_status
from leitwolf.core.rules import Rules
from leitwolf.model.errors import LeitwolfError
from leitwolf.model.ids import GroupStatus, NodeId, NodeStatus, Wish
from leitwolf.model.state import State
from leitwolf.sim.checks import Violation
from leitwolf.sim.faults import MIXES, SECOND, Faults
from leitwolf.sim.world import World

__all__ = ["MIXES", "Outcome", "Setting", "demand_service", "simulate"]

_SETTLE_S = 25
"""Seconds after the last fault within which everything must be well: machines boot for 3 s, streams
are made anew, a resource that failed is restarted, an unstoppable node reboots first."""
_BOOT_NS = 4 * SECOND
"""A machine that boots and its daemon's first look at the log."""
_STAY_WELL_NS = 2 * SECOND
_DECISIONS = 6
"""Every 2 s the operator looks which histories there are, and gives up all but one."""
_SNAPSHOT_ENTRIES = 40
"""Few enough that nodes which were away need a snapshot."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run is like, beside its seed."""

    nodes: int = 5
    spares: int = 0
    """Machines that may be let in, and out, while it runs."""
    groups: int = 3
    """Each with an address and a process."""
    links: int = 2
    profile: str = "default"
    chaos_s: float = 30
    """Simulated seconds of faults."""
    quorum: str = "majority"
    """Kind of quorum, see :data:`leitwolf.sim.forming.QUORUMS`."""
    dynamic: bool = False
    """Votes follow who is there."""
    mix: str = "all"
    """Which faults, see :data:`leitwolf.sim.faults.MIXES`."""
    without: frozenset[str] = field(default_factory=frozenset)
    """Rules that are switched off, to see whether the checkers notice."""
    liveness: bool = True
    """Heal at the end and demand that everything works."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run."""

    seed: int
    setting: Setting
    violation: str
    simulated_s: float
    steps: int
    elections: int
    committed: int
    starts: int
    trace: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """No invariant broke."""
        return not self.violation


def simulate(seed: int, setting: Setting | None = None) -> Outcome:
    """Run one world; the seed and the setting decide everything."""
    setting = setting or Setting()
    world = World(
        seed=seed,
        nodes=setting.nodes,
        groups=setting.groups,
        links=setting.links,
        profile=setting.profile,
        quorum=setting.quorum,
        dynamic=setting.dynamic,
        snapshot_entries=_SNAPSHOT_ENTRIES,
        rules=Rules(setting.without),
    )
    violation = ""
    try:
        _run(world, setting)
    except Violation as error:
        violation = str(error)
    except LeitwolfError as error:
        violation = f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001  # whatever a core raises is a finding of this seed
        violation = f"{type(error).__name__} at {_place(error)}: {error}"
    return Outcome(
        seed=seed,
        setting=setting,
        violation=violation,
        simulated_s=world.now / 1e9,
        steps=world.steps,
        elections=world.checker.elections,
        committed=world.checker.committed,
        starts=world.checker.starts,
        trace=tuple(world.trace),
    )


def _place(error: Exception) -> str:
    """Return where an error was raised."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    return f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "?"


def _run(world: World, setting: Setting) -> None:
    for node in world.nodes.values():
        world.later(world.entropy.between(0, 300_000_000), node.power_on)
    profile = PROFILES[setting.profile]
    world.run_until(3 * SECOND + 4 * profile.run)
    demand_service(world, "after the start")
    faults = Faults(world, setting.mix, setting.spares)
    faults.start()
    world.run_until(world.now + int(setting.chaos_s * SECOND))
    faults.stop()
    if not setting.liveness:
        return
    if world.checker.histories > 1:
        for _ in range(_DECISIONS):
            world.run_until(world.now + 2 * SECOND)
            faults.forcing.reconcile()
    start = world.now
    budget = 10 * (profile.run + profile.promise) + _BOOT_NS
    while not world.leaders():
        if world.now >= start + budget:
            world.fail("I9: no leader within ten election times after the last fault")
        world.run_until(world.now + SECOND // 4)
    _settle(world, start + max(budget, _SETTLE_S * SECOND))


def _settle(world: World, until: int) -> None:
    """Let time pass until everything is well; then, or at the latest ``until``, it must stay so.

    A process that stands still is a fault that lasts: all may look well until others notice.
    """
    while world.now < until and _stalled(world):
        world.run_until(min(until, world.now + SECOND // 4))
    while world.now < until:
        try:
            demand_service(world, "while settling")
        except Violation as violation:
            if not str(violation).startswith("I9"):
                raise
            world.run_until(min(until, world.now + SECOND))
        else:
            world.run_until(world.now + _STAY_WELL_NS)
            break
    demand_service(world, "after the last fault")


def _stalled(world: World) -> bool:
    return any(process.holds for node in world.nodes.values() for process in node.processes)


def _usable(state: State) -> list[NodeId]:
    return [node.id for node in state.nodes.values() if not node.paused]


def demand_service(world: World, when: str) -> None:
    """Every group that can be online is, and the nodes agree about it (I8, I9)."""
    leaders = world.leaders()
    core = leaders[0].daemon.core if leaders else None
    if len(leaders) != 1 or core is None:
        world.fail(f"I9: {len(leaders)} leaders {when}")
        return
    state = core.state
    world.checker.wishes(state)
    for node in state.nodes.values():
        if node.status is not NodeStatus.MEMBER:
            world.fail(f"I9: {node.name} is still {node.status} {when}")
        machine = world.nodes[node.id]
        if machine.powered and not node.up and not node.paused:
            world.fail(f"I9: {node.name} runs but holds no lease {when}")
    if not _usable(state):
        return
    for group in state.groups.values():
        status = group_status(state, group.id)
        if group.wish == Wish.OFFLINE or group.failed_at >= 0:
            continue
        wanted = [
            resource
            for resource in state.resources.values()
            if resource.group == group.id and resource.wish == Wish.ONLINE
        ]
        if len(wanted) == 2 and status != GroupStatus.ONLINE:
            world.fail(f"I9: {group.id} is {status} {when}: {group.cause.text}")
        owner = world.nodes.get(group.owner)
        running = {cell.order.resource for cell in owner.active_cells()} if owner else set()
        for resource in wanted:
            if len(wanted) == 2 and resource.id not in running:
                world.fail(f"I9: {resource.id} does not run on n{group.owner} {when}")
