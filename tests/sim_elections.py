"""Directed runs for the rules of elections and of the log, as in :mod:`tests.sim_scenes`."""

from __future__ import annotations

from collections.abc import Callable

from tests.sim_calm import (
    MS,
    SECOND,
    ask,
    asks_its_guard,
    calm,
    followers,
    isolate,
    leader,
    log_end,
    mend,
    phase,
    reach,
    slow_disk,
    waits_for_its_guard,
    watch,
)

from leitwolf.core.effects import Tick
from leitwolf.core.quorum.candidate import Phase
from leitwolf.core.rules import Rules
from leitwolf.model.commands import ChangeGroup, TransferLeader
from leitwolf.model.ids import GroupId, NodeId


def candidate_helps_another(seed: int, rules: Rules) -> None:
    """A candidate promises a higher ballot between asking for promises and taking office.

    The leader hands over to ``late``, whose daemon stalls; so ``early`` campaigns. Its guard stalls
    before the request of ``late`` reaches it, and goes on when the promise of the third is there.
    """
    world = calm(seed, rules)
    ask(world, leader(world), TransferLeader(node=NodeId(3)))
    world.run_until(world.now + SECOND)
    leading = leader(world)
    early, late = followers(world)
    late_life = late.daemon.hold()
    ask(world, leading, TransferLeader(node=NodeId(late.id)))
    world.run_until(world.now + 3 * MS)
    isolate(world, late, but=(early,))
    reach(world, lambda: phase(early) is Phase.PREPARE, SECOND)
    slow_disk(leading, 40, 60)
    reach(world, lambda: asks_its_guard(leading), 20 * MS)
    guard_life = early.guard.hold()
    late.daemon.release(late_life)
    reach(world, lambda: phase(early) is Phase.OFFICE, 200 * MS)
    world.run_until(world.now + MS)
    early.guard.release(guard_life)
    early.stall(early.daemon, 10 * MS)
    watch(world, SECOND)


def leader_without_quorum_grants(seed: int, rules: Rules) -> None:
    """Of two that win one after the other the first reaches one node only, which runs a group.

    The leader hands over to ``second``, whose daemon stalls; so ``first`` is elected, and cut off.
    """
    world = calm(seed, rules, nodes=5)
    leading = leader(world)
    *others, second = followers(world)
    life = second.daemon.hold()
    ask(world, leading, TransferLeader(node=NodeId(second.id)))
    reach(world, lambda: any(phase(node) is Phase.OFFICE for node in others), SECOND)
    first = next(node for node in others if phase(node) is Phase.OFFICE)
    held = next(node for node in others if node is not first and node.kernel.cells)
    isolate(world, first, but=(held,))
    isolate(world, held, but=(first,))
    second.daemon.release(life)
    watch(world, SECOND)


def promise_is_overtaken(seed: int, rules: Rules) -> None:
    """A guard's consent to a ballot arrives when its daemon follows a higher one already.

    The guard of ``third`` stalls from before it is asked for the ballot of ``chosen``, who does not
    win, until the daemon has heard of the next leader. The daemon lacks an entry: else it would
    refuse ``chosen`` because of what that leader appended. The floor of the guard still keeps it
    from accepting anything in that ballot; seen is a promise that goes back.
    """
    world = calm(seed, rules)
    leading = leader(world)
    chosen, third = followers(world)
    isolate(world, third)
    world.run_until(world.now + 50 * MS)
    ask(world, leading, ChangeGroup(group=GroupId("g1"), restart_threshold=5))
    world.run_until(world.now + 800 * MS)  # its streams are gone

    ask(world, leading, TransferLeader(node=NodeId(chosen.id)))
    reach(world, lambda: phase(chosen) is Phase.FENCE, SECOND)
    leading_life = leading.daemon.hold()
    guard_life = third.guard.hold()
    mend(world)
    isolate(world, third, but=(chosen,))
    reach(world, lambda: asks_its_guard(third), 200 * MS)
    isolate(world, third)
    reach(world, lambda: phase(chosen) is not Phase.PREPARE, SECOND)
    leading.daemon.release(leading_life)
    reach(world, lambda: bool(world.leaders()), 3 * SECOND)

    mend(world)
    reach(world, lambda: waits_for_its_guard(third), 2 * SECOND)
    third.stall(third.daemon, 5 * MS)
    third.daemon.take(Tick(wall=world.wall()))  # due by then; it may run before the guard is heard
    world.run_until(world.now + 4 * MS)
    third.guard.release(guard_life)
    world.run_until(world.now + SECOND)


def candidate_lacks_an_entry(seed: int, rules: Rules) -> None:
    """A node to which the leader handed over acts on that late, when it lacks what committed since.

    Its daemon stalls from before the hand-over until the next leader is dead. Meanwhile nobody
    hears it, so it gets nothing but heartbeats.
    """
    world = calm(seed, rules)
    leading = leader(world)
    other, late = followers(world)
    life = late.daemon.hold()
    ask(world, leading, TransferLeader(node=NodeId(late.id)))
    world.run_until(world.now + 3 * MS)
    for node in (leading, other):
        world.network.cut(late.id, node.id)
    world.refresh_streams()
    reach(world, lambda: other in world.leaders(), 2 * SECOND)
    world.run_until(world.now + 800 * MS)
    ask(world, other, ChangeGroup(group=GroupId("g1"), restart_threshold=5))
    world.run_until(world.now + 50 * MS)
    other.power_off("test")
    mend(world)
    world.run_until(world.now + 150 * MS)
    late.daemon.release(life)
    world.run_until(world.now + 2 * SECOND)


def old_entry_is_overwritten(seed: int, rules: Rules) -> None:
    """Figure 8 of the Raft paper: copies of an entry of an earlier ballot prove nothing.

    ``first`` leaves an entry on two disks, ``second`` one of a higher ballot on its own only. Then
    one of the two with the older entry leads, and copies it to a third; its own entry does not
    reach its disk before the power fails, so that ``second`` can win and overwrite.
    """
    world = calm(seed, rules, nodes=5)
    first = leader(world)
    mate, *rest = followers(world)
    for node in rest:
        isolate(world, node, but=tuple(rest))
    newest = log_end(first)
    ask(world, first, ChangeGroup(group=GroupId("g1"), restart_threshold=5))
    reach(world, lambda: log_end(mate) > newest, 20 * MS)
    world.run_until(world.now + 5 * MS)
    reach(world, lambda: any(phase(node) is Phase.OFFICE for node in rest), 2 * SECOND)
    second = next(node for node in rest if phase(node) is Phase.OFFICE)
    isolate(world, second)
    world.run_until(world.now + 20 * MS)

    third, fifth = (node for node in rest if node is not second)
    mend(world)
    isolate(world, second)
    isolate(world, fifth)
    pair = (first, mate)
    reach(world, lambda: any(phase(node) is Phase.OFFICE for node in pair), 5 * SECOND)
    again = next(node for node in pair if phase(node) is Phase.OFFICE)
    slow_disk(again, 300, 400)
    world.run_until(world.now + 40 * MS)

    again.power_off("test")
    mend(world)
    for node in (third, *pair):
        if node is not again:
            isolate(world, node)
    again.disk_slow_until = 0
    again.power_on()
    world.run_until(world.now + 4 * SECOND)
    mend(world)
    world.run_until(world.now + 4 * SECOND)


ELECTIONS: dict[str, Callable[[int, Rules], None]] = {
    "office-floor": candidate_helps_another,
    "grant-under-lease": leader_without_quorum_grants,
    "promise-above": promise_is_overtaken,
    "up-to-date": candidate_lacks_an_entry,
    "own-ballot-commit": old_entry_is_overwritten,
}
"""Rule -> the situation in which it acts."""
