"""Directed runs in which quorum is forced: what operators do when the majority is gone for good.

Each shows a situation in which one rule of forced quorum acts, or one that it must survive. Unless
a run says otherwise the operator is right: who is declared down is down.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from tests.sim_calm import (
    MS,
    SECOND,
    calm,
    followers,
    isolate,
    leader,
    log_end,
    mend,
    reach,
    slow_disk,
    watch,
)

from leitwolf.core.rules import Rules
from leitwolf.model.commands import Answer, Command, ForceQuorum, PauseNode, SetQuorum, WishGroup
from leitwolf.model.ids import GroupId, NodeId, Wish
from leitwolf.model.views import ForceView
from leitwolf.sim.node import SimNode
from leitwolf.sim.scenario import demand_service
from leitwolf.sim.world import World

__all__ = ["FORCED", "SURVIVED"]

SILENCE_S = 4
HEALED_S = 30


def ordered(world: World, node: SimNode, command: Command, number: int = 77) -> Answer:
    """Ask a node and wait for the answer, for a while."""
    world.answers.pop(number, None)
    world.ask(node.id, number, command)
    reach(world, lambda: number in world.answers, 40 * SECOND)
    return world.answers[number]


def force(world: World, *nodes: SimNode) -> Answer:
    """Force a quorum of these nodes on the first of them."""
    named = tuple(NodeId(node.id) for node in nodes)
    return ordered(world, nodes[0], ForceQuorum(nodes=named, others_down=True))


def forced(world: World, *nodes: SimNode) -> None:
    """Force a quorum of these nodes, which must not be refused."""
    answer = force(world, *nodes)
    demand(world, answer.refusal is None, f"refused: {answer.refusal}")


def freshness(node: SimNode) -> tuple[int, int]:
    return log_end(node), node.id


def sent_on(world: World, answer: Answer, freshest: SimNode) -> None:
    """A force was refused, and the refusal names the node that holds newer entries."""
    name, refusal = f"n{freshest.id}", answer.refusal
    said = (refusal.code, refusal.text, refusal.hint) if refusal is not None else ()
    expected = f"{name} holds newer entries than this node", f"do the same on {name}"
    demand(world, said == ("fresher-node", *expected), f"answered {answer}")


def die(world: World, nodes: list[SimNode]) -> None:
    """Nodes lose their power for good, and long enough ago."""
    for node in nodes:
        node.power_off("for good")
    world.run_until(world.now + SILENCE_S * SECOND)


def come_back(world: World, last: SimNode, lost: list[SimNode]) -> None:
    """Those who were declared down are switched on, and heal into the history of ``last``."""
    for node in lost:
        node.power_on()
    world.run_until(world.now + HEALED_S * SECOND)
    healed(world, last, lost)


def on_at_once(seed: int, rules: Rules, nodes: int, quorum: str) -> World:
    """A calm cluster with another kind of quorum, whose nodes were on at once."""
    world = World(seed=seed, nodes=nodes, quorum=quorum, rules=rules)
    for node in world.nodes.values():
        node.power_on()
    world.run_until(5 * SECOND)
    demand_service(world, "after the start")
    return world


def survivor(seed: int, rules: Rules, *, nodes: int = 3) -> tuple[World, SimNode, list[SimNode]]:
    """All but one node lose their power for good, and long enough ago."""
    world = calm(seed, rules, nodes=nodes)
    last = followers(world)[seed % (nodes - 1)]
    lost = [node for node in world.nodes.values() if node is not last]
    die(world, lost)
    return world, last, lost


def serves(world: World, node: SimNode) -> bool:
    """Whether a node runs all groups."""
    return len({cell.order.group for cell in node.active_cells()}) == 3


def last_one_goes_on(seed: int, rules: Rules) -> None:
    """The last of three nodes is forced; the others come back with their logs and heal."""
    world, last, lost = survivor(seed, rules)
    forced(world, last)
    reach(world, lambda: serves(world, last), 5 * SECOND)
    demand(world, leader(world) is last, "another one leads")
    for node in lost:
        node.power_on()
    watch(world, 2 * SECOND)
    world.run_until(world.now + HEALED_S * SECOND)
    healed(world, last, lost)


def healed(world: World, last: SimNode, others: list[SimNode]) -> None:
    """All nodes are in the history that was forced, with new storages, and vote in it."""
    demand_service(world, "after healing")
    lineages = {node.lineage for node in world.nodes.values()}
    demand(world, lineages == {last.lineage}, f"histories {lineages}")
    core = leader(world).daemon.core
    assert core is not None
    voting = {(one.id.node, one.id.storage) for one in core.quorum.config.acceptors}
    storages = {(node.id, node.storage.name) for node in world.nodes.values()}
    demand(world, voting == storages, f"{voting} vote instead of {storages}")
    for node in others:
        demand(world, node.replaces, f"n{node.id} kept the log of its former history")


# --- what must be survived -----------------------------------------------------------------------


def two_of_five_go_on(seed: int, rules: Rules) -> None:
    """Two nodes are named; the one that is not asked obeys, and both vote."""
    world = calm(seed, rules, nodes=5)
    first, second, *lost = sorted(followers(world), key=lambda node: (node.id + seed) % 5)
    lost.append(leader(world))
    die(world, lost)
    forced(world, first, second)
    world.run_until(world.now + 3 * SECOND)
    demand(world, leader(world) in (first, second), "another one leads")
    come_back(world, first, lost)


def others_come_back_meanwhile(seed: int, rules: Rules) -> None:
    """Those who were declared down are switched on while the silence is waited for, or just after.

    Either they are heard and nothing is forced, or they meet a history that is to be followed.
    """
    world, last, lost = survivor(seed, rules)
    named = (NodeId(last.id),)
    world.ask(last.id, 77, ForceQuorum(nodes=named, others_down=True))
    world.run_until(world.now + 3_300 * MS + (seed * 37 % 40) * 25 * MS)
    for node in lost:
        node.power_on()
    watch(world, 3 * SECOND)
    world.run_until(world.now + HEALED_S * SECOND)
    demand_service(world, "after the race")
    demand(world, len({node.lineage for node in world.nodes.values()}) == 1, "two histories")
    answer = world.answers[77]
    done = world.checker.histories > 1
    codes = ("others-heard", "quorum-exists")
    refused = answer.refusal is not None and answer.refusal.code in codes
    demand(world, done or refused, f"answered {answer}")


def crashes_at_every_step(seed: int, rules: Rules) -> None:
    """Daemons die at any effect while quorum is forced; in the end it is, or was not begun."""
    world = calm(seed, rules, nodes=5)
    first, second, *lost = followers(world)
    lost.append(leader(world))
    die(world, lost)
    named = (NodeId(first.id), NodeId(second.id))
    world.ask(first.id, 77, ForceQuorum(nodes=named, others_down=True))
    world.run_until(world.now + 3_900 * MS)
    world.crash_per_million = dict.fromkeys(("guard", "daemon", "host"), 30_000)
    world.run_until(world.now + 3 * SECOND)
    world.crash_per_million = {}
    world.run_until(world.now + 5 * SECOND)
    if world.checker.histories == 1 and not first.lineage:
        forced(world, first, second)
    world.run_until(world.now + 5 * SECOND)
    demand(world, leader(world) in (first, second), "nobody leads the forced half")
    come_back(world, first, lost)


def dies_before_the_first_entry_is_durable(seed: int, rules: Rules) -> None:
    """The write got there or was lost: a history has a leader, and the guard helps it."""
    world, last, lost = survivor(seed, rules)
    slow_disk(last, 400, 400)
    order = ForceQuorum(nodes=(NodeId(last.id),), others_down=True)
    world.ask(last.id, 77, order)
    reach(world, lambda: bool(last.lineage), 10 * SECOND)
    world.run_until(world.now + 200 * MS)
    last.daemon.perish()
    last.disk_slow_until = 0
    lost[seed % 2].power_on()
    world.run_until(world.now + 10 * SECOND)
    demand(world, world.leaders(), "nobody leads")


def entries_that_others_lack(seed: int, rules: Rules) -> None:
    """The majority went on without the forced node and committed more, then died: that is lost."""
    world = calm(seed, rules)
    last, other = followers(world)
    leading = leader(world)
    isolate(world, last)
    world.run_until(world.now + 2 * SECOND)
    wish = WishGroup(group=GroupId("g1"), wish=Wish.OFFLINE)
    demand(world, ordered(world, other, wish).refusal is None, "not answered")
    for node in (leading, other):
        node.power_off("for good")
    mend(world)
    world.run_until(world.now + SILENCE_S * SECOND)
    forced(world, last)
    reach(world, lambda: serves(world, last), 5 * SECOND)
    come_back(world, last, [leading, other])
    demand(world, serves_somewhere(world), "the wish that was lost is back")


def serves_somewhere(world: World) -> bool:
    cells = [cell for node in world.nodes.values() for cell in node.active_cells()]
    return len({cell.order.group for cell in cells}) == 3


def majority_was_declared_dead(seed: int, rules: Rules) -> None:
    """The operator is wrong: the others live behind a cut. When it is mended they give way."""
    world = calm(seed, rules)
    world.checker.truthful = False
    last = followers(world)[seed % 2]
    isolate(world, last)
    world.run_until(world.now + SILENCE_S * SECOND)
    forced(world, last)
    reach(world, lambda: serves(world, last), 5 * SECOND)
    world.run_until(world.now + 2 * SECOND)
    mend(world)
    watch(world, 2 * SECOND)
    world.checker.truthful = True
    world.checker.active()
    world.run_until(world.now + HEALED_S * SECOND)
    healed(world, last, [node for node in world.nodes.values() if node is not last])


def two_forced_halves(seed: int, rules: Rules) -> None:
    """A cluster of four splits, both halves are forced: neither takes the other for its own."""
    world = calm(seed, rules, nodes=4)
    world.checker.truthful = False
    halves = [[world.nodes[1], world.nodes[2]], [world.nodes[3], world.nodes[4]]]
    for node in halves[0]:
        isolate(world, node, but=tuple(halves[0]))
    for node in halves[1]:
        isolate(world, node, but=tuple(halves[1]))
    world.run_until(world.now + SILENCE_S * SECOND)
    for half in halves:
        forced(world, *half)
    world.run_until(world.now + 2 * SECOND)
    mend(world)
    world.run_until(world.now + 5 * SECOND)
    demand(world, len(world.leaders()) == 2, "one half gave way without being told")
    demand(world, world.nodes[1].lineage != world.nodes[3].lineage, "the halves mixed")
    for node in halves[seed % 2]:
        node.give_way(halves[1 - seed % 2][0].lineage)
        world.run_until(world.now + SECOND)
    world.checker.truthful = True
    world.run_until(world.now + HEALED_S * SECOND)
    healed(world, halves[1 - seed % 2][0], halves[seed % 2])


def disk_is_lost(seed: int, rules: Rules) -> None:
    """The shared disk dies: everything stops, and the freshest replica is the way out.

    A follower that was cut off meanwhile lacks an entry. Asked, it names who does not.
    """
    world = on_at_once(seed, rules, 3, "disk")
    [disk] = world.witnesses.values()
    stale = followers(world)[seed % 2]
    isolate(world, stale)
    world.run_until(world.now + SECOND)
    wish = WishGroup(group=GroupId("g1"), wish=Wish.OFFLINE)
    demand(world, ordered(world, leader(world), wish).refusal is None, "not answered")
    disk.unreached.update(world.nodes)
    world.run_until(world.now + SECOND)
    mend(world)
    world.run_until(world.now + SILENCE_S * SECOND)
    demand(world, not world.leaders(), "somebody leads without the disk")
    first, *others = sorted(world.nodes.values(), key=freshness, reverse=True)
    demand(world, others[-1] is stale and log_end(stale) < log_end(first), "no node is stale")
    show = ForceQuorum(nodes=tuple(NodeId(node.id) for node in world.nodes.values()))
    plan = ordered(world, stale, show).data["plan"]
    view = msgspec.json.decode(plan, type=ForceView)
    told = (view.code, view.index, view.known)
    demand(world, told == ("fresher-node", log_end(stale), log_end(first)), f"told {view}")
    sent_on(world, force(world, stale, first, *others[:-1]), first)
    forced(world, first, *others)
    world.run_until(world.now + 5 * SECOND)
    demand_service(world, "without the disk")
    state = world.state()
    lost = state is None or state.groups[GroupId("g1")].wish != Wish.OFFLINE
    demand(world, not lost, "what the freshest replica held is lost")
    disk.unreached.clear()
    world.run_until(world.now + 3 * SECOND)
    demand_service(world, "with a disk of a former history")


def stale_node_and_tag_witness(seed: int, rules: Rules) -> None:
    """A node that lacks what the witness knows of is refused; forced, it goes on all the same."""
    world = on_at_once(seed, rules, 2, "tag-witness")
    stale = followers(world)[0]
    other = leader(world)
    stale.power_off("maintenance")
    world.run_until(world.now + 2 * SECOND)
    ordered(world, other, WishGroup(group=GroupId("g1"), wish=Wish.OFFLINE))
    world.run_until(world.now + 3 * SECOND)
    other.power_off("for good")
    stale.power_on()
    world.run_until(world.now + SILENCE_S * SECOND)
    demand(world, not world.leaders(), "a stale node leads")
    answer = ordered(world, stale, ForceQuorum(nodes=(NodeId(stale.id),)))
    view = msgspec.json.decode(answer.data["plan"], type=ForceView)
    holder = f"n{other.id}"
    demand(world, view.known > view.index and view.known_at == holder, f"told {view}")
    forced(world, stale)
    reach(world, lambda: serves(world, stale), 5 * SECOND)


def leader_lives_at_the_witness(seed: int, rules: Rules) -> None:
    """The link of two nodes is cut, the leader lives on with the disk: its stamp moves."""
    world = on_at_once(seed, rules, 2, "disk-witness")
    cut_off = followers(world)[0]
    isolate(world, cut_off)
    world.run_until(world.now + SILENCE_S * SECOND)
    answer = force(world, cut_off)
    refused = answer.refusal is not None and answer.refusal.code == "witness-moves"
    demand(world, refused, f"answered {answer}")
    demand(world, leader(world) is not cut_off, "the node that was cut off leads")


# --- what needs a rule ---------------------------------------------------------------------------


def forced_while_others_live(seed: int, rules: Rules) -> None:
    """Streams are cut, guards still hear each other: the others live, so nothing is forced."""
    world = calm(seed, rules)
    last = followers(world)[seed % 2]
    for other in world.nodes.values():
        if other is not last:  # heartbeats of the leader do not come, everything else does
            world.network.cut(other.id, last.id)
    world.refresh_streams()
    world.run_until(world.now + 6 * SECOND)
    mend_one_way(world, last)
    force(world, last)
    watch(world, 2 * SECOND)


def mend_one_way(world: World, node: SimNode) -> None:
    """Let a node that does not lead be heard again, and the leader not."""
    for other in followers(world):
        if other is not node:
            world.network.heal()
            isolate(world, node, but=(other,))


def forced_too_early(seed: int, rules: Rules) -> None:
    """The others die at this moment, one of them frozen with its addresses still open."""
    world = calm(seed, rules)
    last, other = followers(world)
    leading = leader(world)
    isolate(world, last)
    world.run_until(world.now + 6 * SECOND)
    other.power_off("for good")
    leading.freeze()
    world.ask(last.id, 77, ForceQuorum(nodes=(NodeId(last.id),), others_down=True))
    watch(world, SECOND)


def stale_node_is_asked(seed: int, rules: Rules) -> None:
    """Of two nodes that are left the one that lacks entries is asked."""
    world = calm(seed, rules, nodes=5)
    stale, fresh, *lost = followers(world)
    lost.append(leader(world))
    isolate(world, stale)
    world.run_until(world.now + 2 * SECOND)
    ordered(world, fresh, PauseNode(node=NodeId(lost[0].id), paused=True))
    world.run_until(world.now + SECOND)
    for node in lost:
        node.power_off("for good")
    mend(world)
    world.run_until(world.now + SILENCE_S * SECOND)
    answer = force(world, stale, fresh)
    world.run_until(world.now + 2 * SECOND)
    if rules.holds("force-freshest"):
        sent_on(world, answer, fresh)


def obedient_node_alone_with_the_disk(seed: int, rules: Rules) -> None:
    """A node that obeyed is cut off; the lost disk comes back to it alone."""
    world = on_at_once(seed, rules, 4, "disk")
    [disk] = world.witnesses.values()
    disk.unreached.update(world.nodes)
    world.run_until(world.now + SILENCE_S * SECOND)
    away, first, second, third = sorted(world.nodes.values(), key=log_end)
    die(world, [away])
    named = tuple(NodeId(node.id) for node in (first, second, third))
    asked = max((first, second, third), key=log_end)
    world.ask(asked.id, 77, ForceQuorum(nodes=named, others_down=True))
    obedient = next(node for node in (first, second, third) if node is not asked)
    reach(world, lambda: bool(obedient.lineage), 8 * SECOND)
    isolate(world, obedient)
    disk.unreached.discard(obedient.id)
    world.run_until(world.now + 3 * SECOND)
    world.network.heal()
    world.refresh_streams()
    world.run_until(world.now + 3 * SECOND)


def two_halves_and_the_former_disk(seed: int, rules: Rules) -> None:
    """Both halves of four nodes are forced; the disk comes back, and each wants to use it again."""
    world = on_at_once(seed, rules, 4, "disk")
    world.checker.truthful = False
    [disk] = world.witnesses.values()
    disk.unreached.update(world.nodes)
    halves = [[world.nodes[1], world.nodes[2]], [world.nodes[3], world.nodes[4]]]
    for half in halves:
        for node in half:
            isolate(world, node, but=tuple(half))
    world.run_until(world.now + SILENCE_S * SECOND)
    for half in halves:
        forced(world, *sorted(half, key=log_end, reverse=True))
    world.run_until(world.now + 2 * SECOND)
    disk.unreached.clear()
    again = SetQuorum(witness="disk", storage="5ead0000", location="sim:shared", alone=True)
    for number, half in enumerate(halves):
        world.ask(half[0].id, 90 + number, again)
        world.run_until(world.now + 3 * SECOND)
    codes = {
        answer.refusal and answer.refusal.code
        for answer in (world.answers.get(90), world.answers.get(91))
        if answer is not None
    }
    demand(world, codes == {"witness-used"}, f"answered {codes}")


def prevented_nodes_stay_alone(seed: int, rules: Rules) -> None:
    """Two of three nodes are started to join only: they wait for the third, then serve."""
    world = calm(seed, rules)
    for node in world.nodes.values():
        node.power_off("maintenance")
    for number in (1, 2):
        world.nodes[number].join_only = True
        world.nodes[number].power_on()
    world.run_until(world.now + 5 * SECOND)
    demand(world, not world.leaders(), "L11: a node that was to join only leads")


def demand(world: World, condition: object, text: str) -> None:
    """Break the run if this is not so."""
    if not condition:
        world.fail(text)


FORCED: dict[str, Callable[[int, Rules], None]] = {
    "lineage": two_forced_halves,
    "lineage-nonce": two_forced_halves,
    "close-before-answer": majority_was_declared_dead,
    "force-silence": forced_while_others_live,
    "force-wait": forced_too_early,
    "force-freshest": stale_node_is_asked,
    "forced-entry-first": obedient_node_alone_with_the_disk,
    "join-only": prevented_nodes_stay_alone,
}
"""Rule -> the run in which an invariant breaks without it."""

SURVIVED: tuple[Callable[[int, Rules], None], ...] = (
    last_one_goes_on,
    two_of_five_go_on,
    others_come_back_meanwhile,
    crashes_at_every_step,
    dies_before_the_first_entry_is_durable,
    entries_that_others_lack,
    disk_is_lost,
    two_halves_and_the_former_disk,
    stale_node_and_tag_witness,
    leader_lives_at_the_witness,
    *dict.fromkeys(FORCED.values()),
)
"""Runs in which nothing may break."""
