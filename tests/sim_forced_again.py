"""Directed runs in which something else happens while quorum is forced, or a force gets stuck.

As in ``tests/sim_forced.py`` the operator is right unless a run says otherwise. No force may end so
that only a power switch helps: it is refused, or it is reached, or a command finishes it.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.sim_calm import (
    MS,
    SECOND,
    calm,
    followers,
    isolate,
    leader,
    mend,
    owners,
    reach,
    slow_disk,
    watch,
)
from tests.sim_forced import SILENCE_S, demand, die, force, forced, on_at_once, ordered

from leitwolf.core.rules import Rules
from leitwolf.model.commands import Answer, ForceQuorum, PauseNode, SetVotes
from leitwolf.model.ids import NodeId
from leitwolf.sim.node import SimNode
from leitwolf.sim.world import World

__all__ = ["AGAIN", "AGAIN_SURVIVED"]


def two_of_five(seed: int, rules: Rules) -> tuple[World, SimNode, SimNode, list[SimNode]]:
    """Two of five nodes are left; the others lost their power long enough ago."""
    world = calm(seed, rules, nodes=5)
    first, second, *lost = followers(world)
    lost.append(leader(world))
    die(world, lost)
    return world, first, second, lost


def begin(world: World, number: int, *nodes: SimNode) -> None:
    """Force a quorum of these nodes on the first of them; nobody waits for the answer."""
    named = tuple(NodeId(node.id) for node in nodes)
    world.ask(nodes[0].id, number, ForceQuorum(nodes=named, others_down=True))


def code(answer: Answer | None) -> str:
    """Why something was refused, '' if it was done, '?' while it is not answered."""
    if answer is None:
        return "?"
    return answer.refusal.code if answer.refusal is not None else ""


def one_leads(world: World, among: tuple[SimNode, ...], within: int = 6 * SECOND) -> None:
    """One of these nodes comes to lead, and all of them are in one history."""
    reach(world, lambda: bool(world.leaders()), within)
    world.run_until(world.now + 2 * SECOND)
    demand(world, leader(world) in among, "L11: another one leads")
    demand(world, len({node.lineage for node in among}) == 1, "L11: they are in two histories")


# --- meanwhile -----------------------------------------------------------------------------------


def two_force_at_once(seed: int, rules: Rules) -> None:
    """Two operators name the same two nodes, each on another one: one of them has his way."""
    world, first, second, _ = two_of_five(seed, rules)
    begin(world, 71, first, second)
    world.run_until(world.now + seed % 5 * 500 * MS)
    begin(world, 72, second, first)
    world.run_until(world.now + 12 * SECOND)
    codes = sorted(code(world.answers.get(number)) for number in (71, 72))
    demand(world, codes in (["", "force-running"], ["", "quorum-exists"]), f"L11: answered {codes}")
    one_leads(world, (first, second))


def others_find_a_quorum_meanwhile(seed: int, rules: Rules) -> None:
    """Others come back during the silence, and reach only the named node that was not asked."""
    world, first, second, lost = two_of_five(seed, rules)
    isolate(world, first, but=(second,))
    begin(world, 71, first, second)
    world.run_until(world.now + (2_000 + seed % 5 * 150) * MS)
    for node in lost[:2]:
        node.power_on()
    world.run_until(world.now + 6 * SECOND)
    refused = code(world.answers.get(71))
    demand(world, refused in ("others-heard", "quorum-exists"), f"L11: answered {refused}")
    demand(world, not first.lineage, "L11: a node left the cluster that lives")
    demand(world, leader(world) is not first, "I9: no quorum was found")


def ordered_before_it_is_durable(seed: int, rules: Rules) -> None:
    """A stream comes up while the first entry is being written; the write is lost in a crash."""
    world, first, second, _ = two_of_five(seed, rules)
    slow_disk(first, 3_000, 3_000)
    begin(world, 71, first, second)
    reach(world, lambda: bool(first.lineage), 10 * SECOND)
    isolate(world, second)
    reach(world, lambda: second.id not in first.daemon.streams, 2 * SECOND)
    mend(world)
    world.run_until(world.now + 100 * MS)
    first.storage._unsynced.clear()
    first.daemon.perish()
    first.disk_slow_until = 0
    world.run_until(world.now + 2 * SECOND)
    begun = first.lineage == second.lineage or not second.lineage
    demand(world, begun, "L11: a node is in a history that nobody began")


# --- a leader that only its witness shows --------------------------------------------------------


def cut_off_without_a_vote(seed: int, rules: Rules) -> None:
    """A node that never leads is cut off; the only other one lives on with the witness."""
    world = on_at_once(seed, rules, 3, ("disk-witness", "full-witness")[seed % 2])
    cut_off = followers(world)[0]
    votes = SetVotes(weights={NodeId(cut_off.id): 0})
    demand(world, code(ordered(world, leader(world), votes)) == "", "the votes are refused")
    world.run_until(world.now + 3 * SECOND)
    gone = next(node for node in world.nodes.values() if node is not cut_off)
    gone.power_off("for good")
    isolate(world, cut_off)
    world.run_until(world.now + SILENCE_S * SECOND)
    demand(world, leader(world) not in (cut_off, gone), "nobody lives on with the witness")
    refused = code(force(world, cut_off))
    demand(world, refused == "witness-moves", f"L11: answered {refused}")


def cut_off_from_a_leader_that_needs_no_witness(seed: int, rules: Rules) -> None:
    """Votes follow who is there: the leader took the other one's and disarmed its witness."""
    kinds = ("disk-witness", "full-witness", "tag-witness")
    world = World(seed=seed, nodes=2, quorum=kinds[seed % 3], dynamic=True, rules=rules)
    for node in world.nodes.values():
        node.power_on()
    world.run_until(5 * SECOND)
    cut_off = followers(world)[0]
    isolate(world, cut_off)
    world.run_until(world.now + 12 * SECOND)  # the last entries of its new votes are written
    refused = code(force(world, cut_off))
    demand(world, refused == "witness-moves", f"L11: answered {refused}")
    demand(world, leader(world) is not cut_off, "L11: the node that was cut off leads")


# --- a force that gets stuck ---------------------------------------------------------------------


def stuck(world: World, number: int, node: SimNode, other: SimNode) -> None:
    """Force a quorum of two nodes, the second of which dies before it heard of it."""
    begin(world, number, node, other)
    reach(world, lambda: bool(node.lineage), 10 * SECOND)
    other.power_off("for good")
    reach(world, lambda: bool(node.daemon.shown.lineage), SECOND)
    demand(world, not other.storage.load().lineage, "it obeyed already")


def two_that_got_stuck(seed: int, rules: Rules) -> None:
    """Two forces got stuck apart: forced again, naming both, they are one."""
    world = calm(seed, rules, nodes=5)
    one, other, third, fourth = followers(world)
    die(world, [leader(world)])
    isolate(world, one, but=(third,))
    isolate(world, third, but=(one,))
    world.run_until(world.now + SILENCE_S * SECOND)
    stuck(world, 71, one, third)
    stuck(world, 72, other, fourth)
    mend(world)
    world.run_until(world.now + SILENCE_S * SECOND)
    demand(world, not world.leaders(), "somebody leads with one of two votes")
    asked, named = (one, other) if seed % 2 else (other, one)
    if code(force(world, asked, named)) == "fresher-node":
        forced(world, named, asked)
    one_leads(world, (one, other))


def stuck_and_behind(seed: int, rules: Rules) -> None:
    """A force got stuck on a node that lacks entries: it goes on with who has them, not before."""
    world = calm(seed, rules, nodes=5)
    stale, fresh, third, fourth = followers(world)
    isolate(world, stale, but=(third,))
    isolate(world, third, but=(stale,))
    world.run_until(world.now + 2 * SECOND)
    pause = PauseNode(node=NodeId(fourth.id), paused=True)
    demand(world, code(ordered(world, fresh, pause)) == "", "not answered")
    world.run_until(world.now + SECOND)
    die(world, [leader(world), fourth])
    stuck(world, 71, stale, third)
    mend(world)
    world.run_until(world.now + SILENCE_S * SECOND)
    refused = code(force(world, stale, fresh))
    demand(world, refused == "fresher-node", f"L11: answered {refused}")
    forced(world, fresh, stale)
    one_leads(world, (stale, fresh))
    state = world.state()
    demand(world, state and state.nodes[NodeId(fourth.id)].paused, "I2: the pause is lost")


def living_majority_hears_a_stuck_force(seed: int, rules: Rules) -> None:
    """Two of five are forced, wrongly, and come to nothing: the others serve on when they meet."""
    world = calm(seed, rules, nodes=5)
    world.checker.truthful = False
    majority = {node.id for node in world.nodes.values()}
    first, second = sorted(followers(world), key=lambda node: node.id)[-2:]
    majority -= {first.id, second.id}
    isolate(world, first, but=(second,))
    isolate(world, second, but=(first,))
    world.run_until(world.now + SILENCE_S * SECOND)
    begin(world, 71, first, second)
    reach(world, lambda: second.storage.promised.node == first.id, 10 * SECOND)
    slow_disk(second, 1 << 30, 1 << 30)
    reach(world, lambda: first.leader_until() > world.now, 2 * SECOND)
    demand(world, not first.daemon.shown.established, "its first entry is committed already")
    active = owners(world, majority)
    demand(world, active, "the majority serves nothing")
    mend(world)
    until = world.now + 3 * SECOND
    while world.now < until:
        watch(world, 100 * MS)
        demand(world, owners(world, majority) == active, "I10: the majority stopped something")


AGAIN: dict[str, Callable[[int, Rules], None]] = {
    "force-in-turn": two_force_at_once,
    "force-asks-again": others_find_a_quorum_meanwhile,
    "order-after-durable": ordered_before_it_is_durable,
    "force-looks": cut_off_without_a_vote,
    "leader-shows": cut_off_from_a_leader_that_needs_no_witness,
    "force-compares-shared": stuck_and_behind,
    "heartbeat-when-established": living_majority_hears_a_stuck_force,
}
"""Rule -> the run that goes wrong without it."""

AGAIN_SURVIVED: tuple[Callable[[int, Rules], None], ...] = (two_that_got_stuck, *AGAIN.values())
"""Runs in which nothing may break."""
