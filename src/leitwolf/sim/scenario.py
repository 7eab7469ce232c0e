"""One simulated run: a time of faults (safety), then healing and a demand for service (liveness)."""

from __future__ import annotations

from dataclasses import dataclass

from leitwolf.core.lease.profile import PROFILES
from leitwolf.core.policy import group_status
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.errors import LeitwolfError
from leitwolf.model.ids import GroupStatus, NodeId, Wish
from leitwolf.model.state import State
from leitwolf.sim.checks import Violation
from leitwolf.sim.faults import SECOND, Faults
from leitwolf.sim.world import World

__all__ = ["Outcome", "simulate"]

_SETTLE_S = 25
"""Seconds after the last fault within which everything must be well: machines boot for 3 s, streams
are made anew, a resource that failed is restarted, an unstoppable node reboots first."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run."""

    seed: int
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


def simulate(
    seed: int,
    *,
    nodes: int = 5,
    groups: int = 3,
    profile: str = "default",
    chaos_s: float = 30,
    rules: Rules = ALL_RULES,
    liveness: bool = True,
) -> Outcome:
    """Run one world.

    Args:
        seed: decides everything.
        nodes: machines.
        groups: groups with an address and a process.
        profile: timing profile.
        chaos_s: simulated seconds of faults.
        rules: switched off to see whether the checkers notice.
        liveness: heal at the end and demand that everything works.
    """
    world = World(
        seed=seed, nodes=nodes, groups=groups, profile=profile, rules=rules
    )
    violation = ""
    try:
        _run(world, chaos_s=chaos_s, liveness=liveness, profile=profile)
    except Violation as error:
        violation = str(error)
    except LeitwolfError as error:
        violation = f"{type(error).__name__}: {error}"
    except Exception as error:  # noqa: BLE001  # whatever a core raises is a finding of this seed
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "?"
        violation = f"{type(error).__name__} at {place}: {error}"
    return Outcome(
        seed=seed,
        violation=violation,
        simulated_s=world.now / 1e9,
        steps=world.steps,
        elections=world.checker.elections,
        committed=world.checker.committed,
        starts=world.checker.starts,
        trace=tuple(world.trace),
    )


def _run(world: World, *, chaos_s: float, liveness: bool, profile: str) -> None:
    for node in world.nodes.values():
        delay = world.entropy.between(0, 300_000_000)
        world.later(delay, node.power_on)
    world.run_until(3 * SECOND)
    _demand_service(world, "after the start")
    faults = Faults(world)
    faults.start()
    world.run_until(world.now + int(chaos_s * SECOND))
    faults.stop()
    if not liveness:
        return
    start = world.now
    budget = 10 * (PROFILES[profile].run + PROFILES[profile].promise) + 4 * SECOND
    world.run_until(start + budget)
    if not any(node.core is not None and node.core.in_charge for node in world.nodes.values()):
        world.fail("I9: no leader within ten election times after the last fault")
    world.run_until(start + max(budget, _SETTLE_S * SECOND))
    _demand_service(world, "after the last fault")


def _usable(state: State) -> list[NodeId]:
    return [node.id for node in state.nodes.values() if not node.paused]


def _demand_service(world: World, when: str) -> None:
    """Every group that can be online is, and the nodes agree about it (I8, I9)."""
    leaders = [n for n in world.nodes.values() if n.core is not None and n.core.in_charge]
    if len(leaders) != 1 or leaders[0].core is None:
        world.fail(f"I9: {len(leaders)} leaders {when}")
        return
    state = leaders[0].core.state
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
