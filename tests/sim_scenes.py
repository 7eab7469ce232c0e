"""Directed runs for the rules of guards, daemons and hosts.

A calm world is brought into the one situation in which a rule acts.

Only what can really happen brings it about: processes die, stall and freeze, machines lose power,
disks are slow, links are cut, datagrams come late or twice. A run is over when the situation is;
the checkers of the simulator, or the core itself, say what broke.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from tests.sim_calm import (
    MS,
    SECOND,
    ask,
    calm,
    followers,
    isolate,
    leader,
    lease,
    mend,
    reach,
    watch,
)

from leitwolf.core.lease import LeaseEffect, SendPeer, held
from leitwolf.core.messages import TransferOffice
from leitwolf.core.rules import Rules
from leitwolf.model.commands import ChangeCluster, EvictNode, MoveGroup
from leitwolf.model.ids import NodeId
from leitwolf.model.observations import CloseGroup
from leitwolf.sim.scenario import demand_service
from leitwolf.wire.heartbeat import Ack


def old_order_comes_late(seed: int, rules: Rules) -> None:
    """A start of a generation that moved away reaches the host again."""
    world = calm(seed, rules)
    node, other = followers(world)
    order = next(cell.order for cell in node.kernel.cells.values() if cell.address)
    world.ask(leader(world).id, 1, MoveGroup(group=order.group, node=NodeId(other.id)))
    world.run_until(world.now + SECOND)
    page = node.kernel.page
    assert page is not None
    node.host.order_later(msgspec.structs.replace(order, lease=page.lease))
    world.run_until(world.now + SECOND)


def close_comes_early(seed: int, rules: Rules) -> None:
    """A group is to be attested while it runs."""
    world = calm(seed, rules)
    node = followers(world)[0]
    order = next(iter(node.kernel.cells.values())).order
    node.host.order_later(CloseGroup(group=order.group, generation=order.generation))
    world.run_until(world.now + SECOND)


def machine_sleeps(seed: int, rules: Rules) -> None:
    """A follower sleeps for a while and goes on."""
    world = calm(seed, rules)
    node = followers(world)[seed % 2]
    node.suspend()
    world.run_until(world.now + (60 if seed % 3 else 1_000) * MS)
    node.thaw()
    watch(world, SECOND)
    demand_service(world, "after the sleep")


def guard_forgets(seed: int, rules: Rules) -> None:
    """A candidate is cut off from the leader; the third node's guard loses its page."""
    world = calm(seed, rules)
    candidate, third = followers(world)
    isolate(world, candidate, but=(third,))
    world.run_until(world.now + 240 * MS)  # P is nearly over, R is not: no log has grown
    for _ in range(5):
        third.guard.perish(page=True)
        world.run_until(world.now + 35 * MS)
    world.run_until(world.now + SECOND)


def transfer_comes_late(seed: int, rules: Rules) -> None:
    """A candidate begins at once while a quorum is bound to the leader."""
    world = calm(seed, rules)
    leading = leader(world)
    candidate, third = followers(world)
    isolate(world, candidate, but=(third,))
    world.run_until(world.now + 300 * MS)  # P is over, R is not: no log has grown
    ballot = leading.kernel.page.office  # type: ignore[union-attr]
    candidate.daemon.streams.add(leading.id)
    candidate.daemon.peer_message(leading.id, TransferOffice(ballot=ballot, successor=candidate.id))
    world.run_until(world.now + SECOND)


def silent_daemon_is_evicted(seed: int, rules: Rules) -> None:
    """A node whose daemon is gone for good is evicted; its guard is well."""
    world = calm(seed, rules)
    node = followers(world)[0]
    node.daemon.kill()
    node.daemon.forget()
    node.guard.daemon_gone()
    world.daemon_died(node.id)
    world.run_until(world.now + 100 * MS)
    world.ask(leader(world).id, 1, EvictNode(node=NodeId(node.id)))
    watch(world, 2 * SECOND)


def daemon_of_the_leader_hangs(seed: int, rules: Rules) -> None:
    """Somebody else leads soon."""
    world = calm(seed, rules)
    hung = leader(world)
    hung.daemon.hold()
    world.run_until(world.now + 2 * SECOND)
    if not any(node is not hung for node in world.leaders()):
        world.fail("I9: nobody decides while a daemon hangs")


def streams_of_the_leader_break(seed: int, rules: Rules) -> None:
    """The heartbeats pass, the others reach each other: one of them leads, and nothing stops."""
    world = calm(seed, rules, nodes=3 + seed % 3)
    cut = leader(world)
    leases = {node.id: node.kernel.page.lease for node in world.nodes.values() if node.kernel.page}
    for node in followers(world):
        world.network.cut_stream(cut.id, node.id)
    world.refresh_streams()
    watch(world, 4 * SECOND)
    if not any(node is not cut for node in world.leaders()):
        world.fail("I9: nobody decides while the streams of the leader are broken")
    for node in world.nodes.values():
        if node.kernel.page is None or node.kernel.page.lease != leases[node.id]:
            world.fail(f"I10: n{node.id} lost its lease")


def profile_gets_shorter(seed: int, rules: Rules) -> None:
    """The leader dies just after the change; a lease of the former profile still runs."""
    world = calm(seed, rules, profile="wan")
    node = followers(world)[seed % 2]
    leading = leader(world)
    world.ask(leading.id, 1, ChangeCluster(profile="fast"))
    world.run_until(world.now + 60 * MS)
    leading.power_off("fault")
    isolate(world, node)
    world.run_until(world.now + SECOND)
    leading.power_on()  # so that somebody can win
    watch(world, 7 * SECOND)


def profile_gets_longer(seed: int, rules: Rules) -> None:
    """The leader dies before any daemon heard of the change; its guard knew, as acks came in."""
    world = calm(seed, rules, nodes=5)
    leading = leader(world)
    others = followers(world)
    for other in others:
        world.network.cut_stream(leading.id, other.id)
    world.daemon_died(leading.id)
    world.run_until(world.now + 10 * MS)
    page = leading.kernel.page
    assert page is not None
    beat = leading.true_time(page.leader_end - held(page.promise))
    while beat < world.now + 5 * MS:
        beat += page.heartbeat
    world.run_until(beat - (seed % 12) * MS // 4)
    world.ask(leading.id, 1, ChangeCluster(profile="wan"))
    world.run_until(world.now + 20 * MS)
    leading.power_off("fault")
    isolate(world, max((n for n in others if n.kernel.cells), key=lambda node: node.run_end))
    watch(world, 2 * SECOND)


def long_promise_is_forgotten(seed: int, rules: Rules) -> None:
    """A node that was off when the profile grew is back, without streams, and loses its page.

    The leader's lease would rest on it alone when the leader is cut off, too.
    """
    world = calm(seed, rules)
    leading = leader(world)
    other, late = followers(world)
    late.power_off("fault")
    ask(world, leading, ChangeCluster(profile="wan"))
    world.run_until(world.now + 8 * SECOND)
    assert leading in world.leaders(), seed
    for node in (leading, other):
        world.network.cut_stream(late.id, node.id)
    world.refresh_streams()
    late.power_on()
    isolate(world, other)
    world.run_until(world.now + 3_300 * MS)
    mend(world)
    isolate(world, leading)
    late.guard.perish(page=True)
    watch(world, 3 * SECOND)


def guard_arms_late(seed: int, rules: Rules) -> None:
    """Arming takes long, then the node is cut off and freezes."""
    world = calm(seed, rules)
    node = followers(world)[0]
    world.slow_arm_per_thousand = 1_000
    world.run_until(world.now + 55 * MS)
    isolate(world, node)
    watch(world, (180 + 40 * (seed % 4)) * MS)
    node.freeze()
    watch(world, SECOND)


def successor_is_cut_off(seed: int, rules: Rules) -> None:
    """The daemon of the leader dies; whoever is in office next is cut off soon after."""
    world = calm(seed, rules)
    former = leader(world)
    former.daemon.perish()
    while not any(node is not former for node in world.leaders()):
        world.run_until(world.now + MS)
    successor = next(node for node in world.leaders() if node is not former)
    world.run_until(world.now + (1 + seed % 20) * MS)
    isolate(world, successor)
    watch(world, SECOND)


def host_dies_before_the_end(seed: int, rules: Rules) -> None:
    """A node is cut off, and what runs there dies slowly.

    Its host, which would begin to kill before the end of the lease, too, is dead when it matters.
    """
    world = calm(seed, rules)
    world.kill_ns_max = 45 * MS
    node = followers(world)[seed % 2]
    isolate(world, node)
    world.run_until(world.now + 250 * MS)
    node.host.perish()
    watch(world, SECOND)


def guard_dies_after_an_ack(seed: int, rules: Rules) -> None:
    """The guard on which alone the leader's lease rests acknowledges, and dies at that instant."""
    world = calm(seed, rules)
    away, bound = followers(world)
    isolate(world, away)
    world.run_until(world.now + 600 * MS)

    def acknowledges(effect: LeaseEffect) -> bool:
        return isinstance(effect, SendPeer) and isinstance(effect.message, Ack)

    bound.guard.dies_after = acknowledges
    reach(world, lambda: not bound.guard.alive, 200 * MS)
    watch(world, SECOND)


def open_comes_twice(seed: int, rules: Rules) -> None:
    """A guard loses its page right after it opened a lease; a copy of the OPEN is still under way.

    The noise begins when the node is in need of a lease.
    """
    world = calm(seed, rules)
    node = followers(world)[seed % 2]
    node.suspend()
    world.run_until(world.now + 60 * MS)
    node.thaw()
    reach(world, lambda: not lease(node), 200 * MS)
    world.network.double_per_thousand, world.network.slow_per_thousand = 1_000, 400
    reach(world, lambda: lease(node) != 0, SECOND)
    node.guard.perish(page=True)
    world.run_until(world.now + 500 * MS)
    world.network.heal()
    world.run_until(world.now + SECOND)


SCENES: dict[str, Callable[[int, Rules], None]] = {
    "attested-generation": old_order_comes_late,
    "attest-when-empty": close_comes_early,
    "slept": machine_sleeps,
    "restart-wait": guard_forgets,
    "promise-while-renewed": transfer_comes_late,
    "exclude-stops-grants": silent_daemon_is_evicted,
    "daemon-progress": daemon_of_the_leader_hangs,
    "arm-in-time": guard_arms_late,
    "own-lease-cut": successor_is_cut_off,
    "former-profile": profile_gets_shorter,
    "shorter-profile-first": profile_gets_longer,
    "leader-has-streams": streams_of_the_leader_break,
    "attest-ballot": machine_sleeps,
    "kill-before-end": host_dies_before_the_end,
    "page-before-ack": guard_dies_after_an_ack,
    "own-incarnation": open_comes_twice,
    "promise-known": long_promise_is_forgotten,
}
"""Rule -> the situation in which it acts."""
