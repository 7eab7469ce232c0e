"""Votes that follow who is there, played out: down to the last node and back, splits, deaths."""

from __future__ import annotations

import pytest
from tests.sim_calm import MS, SECOND, cut, leader, mend, owners, started
from tests.sim_forced import HEALED_S, die, forced
from tests.sim_votes import config, dynamic, notices_at, settled, votes

from leitwolf.model.commands import ChangeGroup, EvictNode, MoveGroup, SetQuorum, SetVotes, StopNode
from leitwolf.model.ids import GroupId, NodeId
from leitwolf.model.witness import WITNESS_ID_MIN
from leitwolf.sim.node import SimNode
from leitwolf.sim.scenario import Setting, demand_service, simulate
from leitwolf.sim.storage import Storage
from leitwolf.sim.world import World

W = WITNESS_ID_MIN


def ask(world: World, serial: int, command: object) -> None:
    """Ask the leader, who must not refuse."""
    world.ask(leader(world).id, -serial, command)  # type: ignore[arg-type]
    world.run_until(world.now + 500 * MS)
    assert world.answers[-serial].refusal is None, world.answers[-serial]


def followers(world: World) -> list[SimNode]:
    """Nodes that run and do not lead."""
    leading = leader(world)
    return [node for node in world.nodes.values() if node.powered and node is not leading]


def lose(world: World, victim: SimNode) -> None:
    victim.power_off("test")
    world.run_until(world.now + 3 * SECOND)
    demand_service(world, f"without n{victim.id}")


@pytest.mark.parametrize("quorum", ["majority", "full-witness", "tag-witness", "disk-witness"])
@pytest.mark.parametrize("who", ["leader", "follower"])
def test_four_nodes_down_to_the_last_and_back(quorum: str, who: str) -> None:
    """One after the other dies; the last one has every group, and all come back.

    Without a witness the node with the casting vote must be the last of two.
    """
    world = dynamic(4, quorum)
    for left in (3, 2, 1):
        holder = max(votes(world).items(), key=lambda item: item[1])
        victims = [node for node in world.nodes.values() if node.powered]
        if left == 1 and holder[1] == 2:
            victims = [node for node in victims if node.id != holder[0]]
        leads = leader(world)
        victim = leads if who == "leader" and leads in victims else victims[-1]
        lose(world, leads if victim is leads else next(n for n in victims if n is not leads))
    last = leader(world)
    assert {node for node, weight in votes(world).items() if weight} == {last.id}
    elections = world.checker.elections
    for node in world.nodes.values():
        node.power_on()
    world.run_until(world.now + 10 * SECOND)
    weights = votes(world)
    assert sum(weights.values()) == 5
    assert all(weights.values())
    assert (weights[last.id] == 2) is (quorum == "majority")
    assert world.checker.elections == elections, "coming back costs no office"
    demand_service(world, "with everybody back")


def test_strict_votes_stop_at_the_second_death() -> None:
    """Three of four are needed, whoever is gone since when."""
    world = started("majority", 4)
    lose(world, followers(world)[0])
    followers(world)[-1].power_off("test")
    world.run_until(world.now + 3 * SECOND)
    assert not world.leaders()
    assert not owners(world, set(world.nodes))


def test_two_deaths_at_once_are_not_survived_and_heal() -> None:
    """Before the votes follow, the votes of the moment decide."""
    world = dynamic(4)
    holder = leader(world)
    assert votes(world)[1] == 2
    victims = [
        world.nodes[1],
        next(n for n in world.nodes.values() if n is not holder and n.id > 1),
    ]
    for victim in victims:
        victim.power_off("test")
    world.run_until(world.now + 4 * SECOND)
    assert not world.leaders()
    assert not owners(world, set(world.nodes))
    for victim in victims:
        victim.power_on()
    world.run_until(world.now + 8 * SECOND)
    demand_service(world, "after both came back")


@pytest.mark.parametrize("preferred", [1, 2, 3, 4])
def test_of_two_halves_the_preferred_one_goes_on(preferred: int) -> None:
    """Wherever the leader is, the half with the casting vote lives, the other one stops."""
    world = dynamic(4)
    ask(world, 1, SetVotes(prefer=NodeId(preferred)))
    settled(world, {node: 1 + (node == preferred) for node in world.nodes})
    side = {preferred, preferred % 4 + 1}
    cut(world, side)
    world.run_until(world.now + 4 * SECOND)
    assert leader(world).id in side
    assert owners(world, set(world.nodes)) <= side
    assert owners(world, side)
    mend(world)
    settled(world, {node: 1 + (node == preferred) for node in world.nodes}, 12 * SECOND)
    demand_service(world, "whole again")


def test_a_distant_site_never_votes_and_never_matters() -> None:
    """Its loss changes no vote; it follows, and it cannot make a quorum."""
    world = dynamic(3)
    ask(world, 1, SetVotes(weights={NodeId(3): 0}))
    world.run_until(world.now + 2 * SECOND)
    weights = votes(world)
    assert weights[3] == 0
    assert sorted(weights.values()) == [0, 1, 2]
    known = config(world)
    lose(world, world.nodes[3])
    assert config(world) == known, "nothing follows its loss"
    world.nodes[3].power_on()
    holder = max(weights, key=lambda node: weights[node])
    world.run_until(world.now + 5 * SECOND)
    world.nodes[holder].power_off("test")
    world.run_until(world.now + 4 * SECOND)
    assert not world.leaders(), "one of three votes and a node of weight 0"


@pytest.mark.parametrize("quorum", ["majority", "full-witness"])
def test_a_leader_that_is_given_weight_0_hands_over(quorum: str) -> None:
    """One that votes leads, without an outage; also where a witness votes beside the nodes."""
    world = dynamic(3, quorum)
    first, starts = leader(world), world.checker.starts
    ask(world, 1, SetVotes(weights={NodeId(first.id): 0}))
    world.run_until(world.now + 3 * SECOND)
    assert leader(world) is not first
    assert votes(world)[first.id] == 0
    assert world.checker.starts == starts
    demand_service(world, "led by a node that votes")


def test_the_only_voter_dies_and_returns() -> None:
    """Nobody else may begin; when it is back everything goes on."""
    world = dynamic(2)
    last = leader(world)
    lose(world, followers(world)[0])
    assert votes(world)[last.id] == 1
    other = next(node for node in world.nodes.values() if node is not last)
    last.power_off("test")
    other.power_on()
    world.run_until(world.now + 6 * SECOND)
    assert not world.leaders()
    assert not owners(world, set(world.nodes))
    last.power_on()
    world.run_until(world.now + 10 * SECOND)
    demand_service(world, "with the voter back")
    assert votes(world) == {last.id: 2, other.id: 1}


def test_a_node_that_comes_and_goes_changes_votes_ever_more_rarely() -> None:
    """Out for 2 s, in for 4 s, for two minutes: a handful of changes, no election, no restart."""
    world = dynamic(3)
    first, elections, starts = leader(world), world.checker.elections, world.checker.starts
    restless = next(node for node in followers(world) if not node.active_cells())
    changes, known = [], config(world).acceptors
    begin = world.now
    for _ in range(20):
        for duration, disturb in ((2, lambda: cut(world, {restless.id})), (4, lambda: mend(world))):
            disturb()
            until = world.now + duration * SECOND
            while world.now < until:
                world.run_until(world.now + 50 * MS)
                if config(world).acceptors != known:
                    changes.append((world.now - begin) // SECOND)
                    known = config(world).acceptors
    assert 4 <= len(changes) <= 8, changes
    assert changes[-1] < 40, "it waits for more than it stays, in the end"
    assert leader(world) is first
    assert world.checker.elections == elections
    assert world.checker.starts == starts
    demand_service(world, "in the end")


STAGES = ("joint", "joint committed", "before final", "final", "final committed")


def stage(node: SimNode) -> str:
    """How far the change of votes of a leader is."""
    core = node.daemon.core
    if core is None or core.governor is None:
        return ""
    quorum = core.quorum
    kind = "joint" if quorum.config.former is not None else "final"
    return f"{kind} committed" if quorum.config_committed else kind


def until_stage(world: World, node: SimNode, wanted: str) -> None:
    assert world.run_to(lambda: stage(node) == wanted, 3 * SECOND)


@pytest.mark.parametrize("quorum", ["majority", "full-witness"])
@pytest.mark.parametrize("dies_at", STAGES)
def test_the_leader_dies_at_each_step_of_a_change(dies_at: str, quorum: str) -> None:
    """The next leader ends what was begun, and takes the vote of the dead one, too."""
    for seed in range(1, 4):
        world = dynamic(5, quorum, seed=seed)
        first = leader(world)
        lost = followers(world)[0]
        lost.power_off("test")
        until_stage(world, first, "joint")
        if dies_at == "before final":
            world.run_until(world.now + 415 * MS)
        else:
            until_stage(world, first, dies_at)
        first.power_off("test")
        world.run_until(world.now + 4 * SECOND)
        demand_service(world, f"seed {seed}: without both")
        weights = votes(world)
        assert weights[lost.id] == weights[first.id] == 0, (seed, weights)
        assert sum(weights.values()) % 2
        lost.power_on()
        first.power_on()
        world.run_until(world.now + 9 * SECOND)
        assert sum(votes(world).values()) == 5, (seed, votes(world))
        demand_service(world, f"seed {seed}: all are back")


@pytest.mark.parametrize("before_ms", [-300, -60, -5, 5, 60, 300])
def test_a_lost_voter_returns_just_while_its_vote_is_taken(before_ms: int) -> None:
    """Whichever comes first, nothing stops and it has its vote again."""
    world = dynamic(3)
    first, elections = leader(world), world.checker.elections
    lost = followers(world)[0]
    cut(world, {lost.id})
    world.run_until(world.now + 900 * MS)
    world.run_until(max(world.now, notices_at(first) - before_ms * MS))
    mend(world)
    world.run_until(world.now + 7 * SECOND)
    assert set(votes(world).values()) == {1}
    assert world.checker.elections == elections
    demand_service(world, "after it came back")


def test_votes_do_without_a_lost_witness_and_take_it_back() -> None:
    """Four nodes and a share: its loss gives one node the casting vote, its return takes it."""
    world = dynamic(4, "full-witness")
    first, elections, starts = leader(world), world.checker.elections, world.checker.starts
    [witness] = world.witnesses.values()
    settled(world, {1: 1, 2: 1, 3: 1, 4: 1, W: 1})
    witness.unreached.update(world.nodes)
    settled(world, {node: 1 + (node == first.id) for node in world.nodes} | {W: 0}, 9 * SECOND)
    witness.unreached.clear()
    settled(world, {1: 1, 2: 1, 3: 1, 4: 1, W: 1}, 9 * SECOND)
    assert world.checker.elections == elections
    assert world.checker.starts == starts
    lose(world, followers(world)[0])
    assert votes(world)[W] == 0
    lose(world, followers(world)[0])
    assert votes(world)[W] == 1


def test_a_witness_that_is_lost_unseen_does_not_hold_votes_up() -> None:
    """Three nodes do not need it, and nobody looked: its loss shows when it is to vote."""
    world = dynamic(3, "full-witness")
    [witness] = world.witnesses.values()
    assert votes(world)[W] == 0
    witness.unreached.update(world.nodes)
    first, lost = leader(world), followers(world)[0]
    lost.power_off("test")
    expected = {node: 1 + (node == first.id) for node in world.nodes}
    settled(world, {**expected, lost.id: 0, W: 0}, 9 * SECOND)
    demand_service(world, "with two nodes")


def test_a_node_that_stops_in_order_is_no_loss() -> None:
    """Two nodes without witness: the one with the casting vote stops, the other goes on alone."""
    world = dynamic(2)
    holder = world.nodes[max(votes(world), key=lambda node: votes(world)[node])]
    [other] = [node for node in world.nodes.values() if node is not holder]
    world.ask(holder.id, -1, StopNode(node=NodeId(holder.id)))
    settled(world, {holder.id: 0, other.id: 1})
    world.run_until(world.now + SECOND)
    assert leader(world) is other, "it is handed over"
    elections = world.checker.elections
    holder.power_off("test")
    world.run_until(world.now + 3 * SECOND)
    assert world.checker.elections == elections
    demand_service(world, "with the other one")
    holder.power_on()
    settled(world, {holder.id: 1, other.id: 2}, 10 * SECOND)
    demand_service(world, "with both")


def test_from_strict_to_dynamic_and_back_without_an_outage() -> None:
    """Nothing stops, nobody is elected."""
    world = started("majority", 4)
    first, elections, starts = leader(world), world.checker.elections, world.checker.starts
    ask(world, 1, SetVotes(dynamic=True))
    settled(world, {node: 1 + (node == first.id) for node in world.nodes})
    ask(world, 2, SetVotes(dynamic=False))
    settled(world, dict.fromkeys(world.nodes, 1))
    assert (world.checker.elections, world.checker.starts) == (elections, starts)


def test_the_kind_of_quorum_changes_with_dynamic_votes() -> None:
    """A share comes in, decides alone, goes: votes follow each time, without an outage."""
    world = dynamic(3)
    first, elections, starts = leader(world), world.checker.elections, world.checker.starts
    share = SetQuorum(witness="object", storage="00000001", location="sim:1")
    ask(world, 1, share)
    settled(world, {1: 1, 2: 1, 3: 1, W: 0})
    alone = SetQuorum(witness="object", storage="00000001", location="sim:1", alone=True)
    ask(world, 2, alone)
    settled(world, {1: 0, 2: 0, 3: 0, W: 1})
    ask(world, 3, share)
    settled(world, {1: 1, 2: 1, 3: 1, W: 0})
    ask(world, 4, SetQuorum())
    settled(world, {1: 1, 2: 1, 3: 1})
    assert leader(world) is first
    assert (world.checker.elections, world.checker.starts) == (elections, starts)


def test_an_evicted_node_leaves_an_odd_number() -> None:
    """The casting vote comes and goes with the members."""
    world = dynamic(4)
    victim = next(node for node in followers(world) if votes(world)[node.id] == 1)
    ask(world, 1, EvictNode(node=NodeId(victim.id)))
    world.run_until(world.now + 4 * SECOND)
    assert set(votes(world).values()) == {1}
    assert victim.id not in votes(world)


@pytest.mark.parametrize("dead", [0, 1])
def test_a_node_whose_vote_is_needed_for_it_is_evicted(dead: int) -> None:
    """Strict votes: one of two, and one of four of which another one is dead."""
    world = started("majority", 2 + 2 * dead)
    victim = followers(world)[0]
    for other in followers(world)[1 : 1 + dead]:
        other.power_off("test")
    world.run_until(world.now + 2 * SECOND)
    ask(world, 1, EvictNode(node=NodeId(victim.id)))
    world.run_until(world.now + 4 * SECOND)
    assert victim.id not in votes(world)
    assert config(world).former is None


@pytest.mark.timeout(60)
def test_an_evicted_leader_goes_on_while_nobody_can_take_over() -> None:
    """The other node stands still, then is gone: the office stays until it is back."""
    world = World(seed=1, nodes=2, groups=0, quorum="full-witness", dynamic=True)
    world.nodes[1].power_on()
    world.later(200 * MS, world.nodes[2].power_on)
    world.run_until(4 * SECOND)
    first = leader(world)
    [other] = followers(world)
    other.freeze()
    world.ask(first.id, -1, EvictNode(node=NodeId(first.id)))
    world.run_until(world.now + 3 * SECOND)
    assert world.answers[-1].refusal is None
    other.power_off("test")
    world.run_until(world.now + 2 * SECOND)
    assert leader(world) is first
    other.power_on()
    world.run_until(world.now + 12 * SECOND)
    assert leader(world) is other
    assert set(votes(world)) == {other.id, W}


@pytest.mark.parametrize("quorum", ["majority", "disk-witness"])
def test_nodes_that_come_back_with_other_storages_wedge_nothing(quorum: str) -> None:
    """They lag behind a stream of changes; their former storages get no vote back meanwhile."""
    world = dynamic(3, quorum)
    first = leader(world)
    others = followers(world)
    for victim in others:
        lose(world, victim)
    for node in others:
        node.replaces = (node.storage.name,)
        node.storage = Storage(f"{node.storage.name}+")
        node.power_on()
    formers = {former for node in others for former in node.replaces}
    for number in range(4_000):
        world.ask(
            first.id, number, ChangeGroup(group=GroupId("g1"), restart_threshold=number % 6 + 1)
        )
        world.run_until(world.now + MS)
        votes_of_formers = [a.weight for a in config(world).acceptors if a.id.storage in formers]
        assert not any(votes_of_formers), (world.now / SECOND, votes_of_formers)
    world.run_until(world.now + 6 * SECOND)
    assert leader(world) is first
    assert all(votes(world)[node.id] for node in others)


def test_a_group_stays_where_it_is_while_votes_are_taken() -> None:
    """Only what ran on the lost node starts elsewhere."""
    world = dynamic(4)
    first = leader(world)
    for number in (1, 2, 3):
        ask(world, number, MoveGroup(group=GroupId(f"g{number}"), node=NodeId(first.id)))
    world.run_until(world.now + SECOND)
    starts = world.checker.starts
    for _ in range(2):
        lose(world, followers(world)[0])
        assert leader(world) is first
    assert world.checker.starts == starts


@pytest.mark.parametrize("quorum", ["majority", "full-witness", "disk-witness", "disk"])
@pytest.mark.parametrize("nodes", [2, 4])
def test_random_faults(quorum: str, nodes: int) -> None:
    """All faults, with commands about votes at the worst of times."""
    for seed in range(1, 5):
        setting = Setting(
            nodes=nodes, quorum=quorum, dynamic=True, mix="votes", chaos_s=20, spares=1
        )
        outcome = simulate(seed, setting)
        assert outcome.ok, f"seed {seed} {setting}: {outcome.violation}"


def test_a_distant_site_that_is_forced_votes_until_the_others_are_back() -> None:
    """Its weight of 0 would leave nobody; how votes are given outlasts the force."""
    world = dynamic(3)
    ask(world, 1, SetVotes(weights={NodeId(3): 0}))
    world.run_until(world.now + 2 * SECOND)
    site, lost = world.nodes[3], [world.nodes[1], world.nodes[2]]
    die(world, lost)
    forced(world, site)
    world.run_until(world.now + 5 * SECOND)
    assert leader(world) is site
    assert votes(world) == {3: 1}
    demand_service(world, "at the distant site")
    for node in lost:
        node.power_on()
    world.run_until(world.now + HEALED_S * SECOND)
    weights = votes(world)
    assert weights[3] == 0
    assert sorted(weights.values()) == [0, 1, 2]
    demand_service(world, "with the main site back")
