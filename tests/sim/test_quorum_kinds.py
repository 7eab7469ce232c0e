"""Quorums with disks and witnesses: the situations of the specification, random runs, mutants."""

from __future__ import annotations

import functools
from itertools import permutations

import pytest
from tests.sim_calm import MS, SECOND, cut, leader, log_end, owners, reach, started
from tests.sim_needed import SEEDS_MAX, broken, by_chance, missed
from tests.sim_votes import settled, votes

from leitwolf.core.effects import CallWitness
from leitwolf.core.lease.profile import PROFILES
from leitwolf.core.quorum.passive import Passive
from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.daemon.storage_views import blind, findings
from leitwolf.daemon.views import quorum_view
from leitwolf.model.commands import (
    ChangeCluster,
    ChangeGroup,
    EvictNode,
    MoveGroup,
    SetQuorum,
    TransferLeader,
)
from leitwolf.model.errors import InvariantError
from leitwolf.model.ids import GroupId, NodeId
from leitwolf.model.witness import DiskBlock
from leitwolf.ports.witness import DiskCall, RegionWrite
from leitwolf.sim.checks import Violation
from leitwolf.sim.forming import QUORUMS
from leitwolf.sim.node import SimNode
from leitwolf.sim.scenario import Setting, demand_service, simulate
from leitwolf.sim.witness import SharedDisk
from leitwolf.sim.world import World

T_D = PROFILES["default"].promise
"""Of a disk that is quick enough: P."""
SHARED = tuple(name for name in sorted(QUORUMS) if QUORUMS[name][1] is not None)


def spread(world: World) -> None:
    """Let each of the first three nodes own a group, or each of two."""
    for number in range(1, min(3, len(world.nodes)) + 1):
        command = MoveGroup(group=GroupId(f"g{number}"), node=NodeId(number))
        world.ask(leader(world).id, -20 - number, command)
    world.run_until(world.now + SECOND)
    assert owners(world, {1, 2, 3}) == world.nodes.keys() & {1, 2, 3}


# --- the situations of the specification ---------------------------------------------------------


@pytest.mark.parametrize("after_ms", [0, 13, 26, 39])
def test_owner_of_the_disk_dies(after_ms: int) -> None:
    """T_d after its last stamp, and not much later, another node adopts the log and serves."""
    world = started("disk", 2)
    first = leader(world)
    [other] = [node for node in world.nodes.values() if node is not first]
    [disk] = world.witnesses.values()
    world.run_until(world.now + after_ms * MS)
    first.power_off("test")
    silent = disk.bound_until(first.id)  # T_d after the stamp, by the fastest clock
    assert T_D - 50 * MS < silent - world.now < T_D, "it renewed in its last heartbeat"
    assert world.run_to(lambda: bool(world.leaders()), silent + 120 * MS - world.now)
    assert leader(world) is other
    assert world.now >= silent
    assert world.run_to(lambda: owners(world, {other.id}) == {other.id}, 20 * MS)
    world.run_until(world.now + SECOND)
    demand_service(world, "without the former owner")


def test_any_number_of_nodes_survives_with_the_disk() -> None:
    """Three of four die one after another; the last one leads with the disk."""
    world = started("disk", 4)
    for _ in range(3):
        leader(world).power_off("test")
        world.run_until(world.now + 2 * SECOND)
    demand_service(world, "with one node left")


@pytest.mark.parametrize("others", [1, 3])
def test_four_nodes_split_the_side_of_the_owner_goes_on(others: int) -> None:
    """2:2 and 1:3: who owns the disk continues, the other side stops."""
    world = started("disk", 4)
    owner = leader(world)
    rest = [number for number in world.nodes if number != owner.id]
    side = {owner.id, *rest[others:]}
    if others == 1:
        side = {owner.id, rest[0]}
    cut(world, side)
    world.run_until(world.now + 3 * SECOND)
    assert leader(world) is owner
    assert owners(world, set(world.nodes) - side) == set()
    assert owners(world, side)


def test_no_disk_no_cluster() -> None:
    """The owner stops within T_d; the leases that it prolonged until then end R later at most."""
    world = started("disk", 3)
    spread(world)
    first = leader(world)
    others = set(world.nodes) - {first.id}
    [witness] = world.witnesses.values()
    lost = world.now
    witness.unreached.update(world.nodes)
    world.run_until(lost + T_D)
    assert first.leader_until() <= world.now
    assert owners(world, set(world.nodes)) == others
    world.run_until(lost + PROFILES["default"].run)
    assert owners(world, others) == others, "it is more than R"
    world.run_until(lost + T_D + PROFILES["default"].run)
    for _ in range(20):
        assert not owners(world, set(world.nodes))
        assert not world.leaders()
        world.run_until(world.now + 100 * MS)
    witness.unreached.clear()
    world.run_until(world.now + 5 * SECOND)
    demand_service(world, "with its disk back")


def test_owner_without_its_path_to_the_disk_is_replaced() -> None:
    """The path of one node is not the disk: another one that reaches it takes over."""
    world = started("disk", 3)
    owner = leader(world)
    [witness] = world.witnesses.values()
    witness.unreached.add(owner.id)
    world.run_until(world.now + 3 * SECOND)
    assert leader(world) is not owner
    demand_service(world, "with a node that cannot lead")


@pytest.mark.parametrize("quorum", ["disk-witness", "full-witness", "tag-witness"])
def test_two_nodes_and_a_witness_survive_either_death(quorum: str) -> None:
    """Whoever dies, the other one goes on with the witness."""
    for dies in (True, False):
        world = started(quorum, 2)
        first = leader(world)
        [other] = [node for node in world.nodes.values() if node is not first]
        (first if dies else other).power_off("test")
        world.run_until(world.now + 2 * SECOND)
        demand_service(world, "with one node and the witness")


@pytest.mark.parametrize("quorum", ["disk-witness", "full-witness", "tag-witness"])
def test_two_nodes_and_a_witness_the_defender_wins(quorum: str) -> None:
    """The link between them is cut: the leader arms the witness and stays."""
    world = started(quorum, 2)
    first = leader(world)
    cut(world, {first.id})
    world.run_until(world.now + 3 * SECOND)
    assert leader(world) is first
    assert owners(world, set(world.nodes)) == {first.id}


@pytest.mark.parametrize("quorum", ["disk-witness", "full-witness", "tag-witness"])
def test_two_nodes_do_not_need_their_witness(quorum: str) -> None:
    """Without it both go on, and nothing stops."""
    world = started(quorum, 2)
    spread(world)
    first, starts, elections = leader(world), world.checker.starts, world.checker.elections
    [witness] = world.witnesses.values()
    witness.unreached.update(world.nodes)
    world.run_until(world.now + 5 * SECOND)
    assert leader(world) is first
    assert world.checker.elections == elections
    assert world.checker.starts == starts
    assert owners(world, set(world.nodes)) == set(world.nodes)
    demand_service(world, "without the witness")


@pytest.mark.parametrize("quorum", ["disk-witness", "full-witness", "tag-witness"])
def test_votes_of_two_nodes_follow_their_lost_witness(quorum: str) -> None:
    """Its vote goes to the leader, which then survives the other's death, too."""
    world = started(quorum, 2, dynamic=True)
    first, starts, elections = leader(world), world.checker.starts, world.checker.elections
    [other] = [node for node in world.nodes.values() if node is not first]
    [witness] = world.witnesses.values()
    number = witness.acceptor.id.node
    assert votes(world) == {first.id: 1, other.id: 1, number: 1}
    witness.unreached.update(world.nodes)
    settled(world, {first.id: 2, other.id: 1, number: 0}, 9 * SECOND)
    assert (world.checker.starts, world.checker.elections) == (starts, elections)
    other.power_off("test")
    settled(world, {first.id: 1, other.id: 0, number: 0})
    assert world.checker.elections == elections
    demand_service(world, "with one of three")


def test_four_and_a_disk_witness_leader_alone_with_the_disk() -> None:
    """Three nodes are a majority of five votes; the leader with the disk has two.

    What runs on the three runs on; only what the leader had is started elsewhere.
    """
    world = started("disk-witness", 4)
    spread(world)
    first, starts = leader(world), world.checker.starts
    before = dict(first.daemon.core.state.groups)
    assert {group.owner for group in before.values()} == {1, 2, 3}
    assert first.id in (1, 2, 3)
    cut(world, {first.id})
    world.run_until(world.now + 3 * SECOND)
    after = leader(world).daemon.core.state.groups
    assert leader(world) is not first
    assert first.id not in owners(world, set(world.nodes))
    for name, group in before.items():
        if group.owner == first.id:
            assert after[name].generation > group.generation
            assert after[name].owner != first.id
        else:
            assert (after[name].owner, after[name].generation) == (group.owner, group.generation)
    assert world.checker.starts == starts + 2, "one group of two resources"
    running = {
        cell.order.group: node.id for node in world.nodes.values() for cell in node.active_cells()
    }
    assert running == {name: group.owner for name, group in after.items()}


@pytest.mark.parametrize(("quorum", "starts"), [("tag-witness", False), ("full-witness", True)])
def test_partition_in_time(quorum: str, starts: bool) -> None:
    """A changes something while B is down, A dies, B starts alone: a tag refuses, full heals."""
    world = started(quorum, 2)
    first = leader(world)
    [other] = [node for node in world.nodes.values() if node is not first]
    other.power_off("test")
    world.run_until(world.now + 2 * SECOND)
    known = log_end(other)
    world.ask(first.id, -1, ChangeGroup(group=GroupId("g1"), restart_threshold=5))
    world.run_until(world.now + SECOND)
    answer = world.answers[-1]
    assert answer.refusal is None
    assert answer.index > known
    first.power_off("test")
    other.power_on()
    world.run_until(world.now + 5 * SECOND)
    core = other.daemon.core
    if starts:
        assert leader(world) is other
        assert core.state.groups[GroupId("g1")].restart_threshold == 5
        assert not core.behind
        demand_service(world, "with what the witness held")
        return
    assert not world.leaders()
    assert core.behind.keys() == {first.id}, "not who has what it lacks"
    newest, here = core.behind[first.id], log_end(other)
    assert newest >= answer.index > here
    view = quorum_view(core, None, other.raw(), worst_stall=0, realtime=True)
    assert view.lacking == f"n{first.id} knows entries up to {newest}, this node up to {here}"
    first.power_on()
    world.run_until(world.now + 5 * SECOND)
    assert not core.behind
    assert core.state.groups[GroupId("g1")].restart_threshold == 5
    demand_service(world, "with who had it")


def wanted(quorum: str) -> SetQuorum:
    """Another disk or witness than the one that the cluster was formed with."""
    weight, acceptor = QUORUMS[quorum]
    if acceptor is None:
        return SetQuorum()
    return SetQuorum(
        witness=acceptor.kind,
        storage="00000001",
        location="sim:1",
        full=acceptor.full,
        alone=weight == 0,
    )


@pytest.mark.parametrize(("before", "after"), [*permutations(QUORUMS, 2)])
def test_kind_of_quorum_changes_online(before: str, after: str) -> None:
    """From each kind to each other: no office and no group is lost."""
    world = started(before, 3)
    spread(world)
    first, elections, starts = leader(world), world.checker.elections, world.checker.starts
    groups = dict(first.daemon.core.state.groups)
    world.ask(first.id, -9, wanted(after))
    world.run_until(world.now + 2 * SECOND)
    assert world.answers[-9].refusal is None
    config = first.daemon.core.quorum.config
    weight, acceptor = QUORUMS[after]
    others = [(acceptor.kind, 1, acceptor.full, "00000001")] if acceptor is not None else []
    assert config.former is None
    assert [(one.kind, one.weight, one.full, one.id.storage) for one in config.acceptors] == [
        *(("node", weight, True, f"disk{number}") for number in world.nodes),
        *others,
    ]
    assert leader(world) is first
    assert (world.checker.elections, world.checker.starts) == (elections, starts)
    for name, group in first.daemon.core.state.groups.items():
        assert (group.owner, group.generation) == (groups[name].owner, groups[name].generation)
    assert owners(world, set(world.nodes)) == set(world.nodes)
    first.power_off("test")
    world.run_until(world.now + 2 * SECOND)
    demand_service(world, "by the new votes")


# --- random runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("quorum", [*SHARED, "majority"])
@pytest.mark.parametrize("nodes", [2, 4])
def test_random_faults(quorum: str, nodes: int) -> None:
    """All faults, those of shared disks and witnesses included, and changes of the quorum."""
    mix = "quorums" if quorum == "majority" else "shared"
    for seed in range(1, 5):
        outcome = simulate(seed, Setting(nodes=nodes, quorum=quorum, mix=mix, chaos_s=15))
        assert outcome.ok, f"seed {seed} {quorum} {nodes} {mix}: {outcome.violation}"


def setting(quorum: str, nodes: int, mix: str = "shared", *, liveness: bool = False) -> Setting:
    return Setting(nodes=nodes, quorum=quorum, mix=mix, chaos_s=20, liveness=liveness)


MUTANTS = {
    "stamp-wait": setting("disk", 2),
    "disk-reread": setting("disk", 2),
    "disk-adopt": setting("disk", 3),
    "tag-compare": setting("tag-witness", 2),
    "second-copy": setting("disk", 2, "rotten", liveness=True),
    "conditions-kept": setting("tag-witness", 2),
    "armed-before-counted": setting("disk", 2),
}
"""Rule -> the runs that need it. (``second-copy``: a disk that forgot is left for good.)"""


@pytest.mark.parametrize("rule", MUTANTS)
def test_mutant_is_caught(rule: str) -> None:
    """Without the rule an invariant breaks within 200 seeds, with all of them none does."""
    assert not (why := missed(rule, by_chance(MUTANTS[rule]), range(1, SEEDS_MAX + 1))), why


def candidate_stands_still(seed: int, rules: Rules) -> None:
    """It has read the disk twice and found itself alone; one that it cannot hear takes the disk."""
    world = started("disk", 3, seed=seed, rules=rules)
    first = leader(world)
    other, candidate = [node for node in world.nodes.values() if node is not first]
    [disk] = world.witnesses.values()
    call, waits = disk.call, 0

    def called(node: SimNode, order: CallWitness) -> None:
        call(node, order)
        adopts = isinstance(order.call, DiskCall) and order.call.region is not None
        if node is candidate and adopts and waits and not candidate.frozen:
            candidate.freeze()
            other.daemon.release(waits)

    disk.call = called  # type: ignore[method-assign]
    first.power_off("test")
    cut(world, {candidate.id})
    world.run_until(world.now + 230 * MS)
    waits = other.daemon.hold()
    reach(world, lambda: candidate.frozen, SECOND)
    reach(world, lambda: world.leaders() == [other], SECOND)
    world.run_until(world.now + 20 * MS)
    candidate.thaw()
    world.run_until(world.now + 500 * MS)


@pytest.mark.parametrize("rule", ["disk-claim", "fresh-reads"])
def test_a_candidate_is_seen_by_the_next_one(rule: str) -> None:
    """With all rules nothing breaks; without one of these two of them think they won."""
    run = functools.partial(broken, candidate_stands_still)
    for seed in range(1, 6):
        assert run(seed, ALL_RULES) == "", seed
    assert not (why := missed(rule, run, range(1, SEEDS_MAX + 1))), why


def disarmed_in_the_wrong_moment(seed: int, rules: Rules) -> None:
    """Acks fail again just before the witness is disarmed, and its path right after that."""
    world = started("tag-witness", 2, seed=seed, rules=rules)
    first = leader(world)
    cut(world, {first.id})
    world.run_until(world.now + 600 * MS)
    world.network.heal()
    world.refresh_streams()
    [passive] = first.daemon.core.quorum._standing.passives.values()
    while passive._calm_since < 0:
        world.run_until(world.now + MS)
    disarms_at = first.true_time(passive._calm_since + SECOND)
    world.run_until(disarms_at - (20 + seed % 60) * MS)
    cut(world, {first.id})
    while passive.armed and world.now < disarms_at + 200 * MS:
        world.run_until(world.now + MS // 5)
    [witness] = world.witnesses.values()
    witness.unreached.add(first.id)
    world.run_until(world.now + SECOND)


@pytest.mark.parametrize("rule", ["drop-before-disarm"])
def test_lease_is_given_up_before_the_witness_is_disarmed(rule: str) -> None:
    """With the rule nothing breaks; without it two leader leases overlap."""
    run = functools.partial(broken, disarmed_in_the_wrong_moment)
    for seed in range(1, 11):
        assert run(seed, ALL_RULES) == "", seed
    assert not (why := missed(rule, run, range(1, SEEDS_MAX + 1))), why


@pytest.mark.parametrize("quorum", ["disk", "engine"])
def test_a_stream_of_changes_keeps_the_office(quorum: str) -> None:
    """Renewals go on while entries are written, also when regions overflow."""
    world = started(quorum, 2)
    first, elections = leader(world), world.checker.elections
    for number in range(200):
        command = ChangeGroup(group=GroupId("g1"), restart_threshold=number % 6)
        world.ask(first.id, -100 - number, command)
        world.run_until(world.now + 15 * MS)
    assert world.checker.elections == elections
    demand_service(world, "after the changes")


# --- what a review found -------------------------------------------------------------------------


def passive(node: SimNode) -> Passive:
    """The one disk or witness of a cluster, as a node uses it."""
    [only] = node.daemon.core.quorum._standing.passives.values()
    return only


def patient(rules: Rules = ALL_RULES) -> World:
    """Two nodes and a disk, by a profile that bears a silence of more than a second."""
    world = World(seed=1, nodes=2, quorum="disk", profile="virtual", rules=rules)
    for node in world.nodes.values():
        node.power_on()
    world.run_until(12 * SECOND)
    return world


def use_disk(world: World, *, alone: bool, silence_ms: int = 0) -> None:
    """Want one and the same disk, as witness or alone."""
    command = SetQuorum(
        witness="disk", storage="00000001", location="sim:1", alone=alone, silence_ms=silence_ms
    )
    world.ask(leader(world).id, -10 - silence_ms - alone, command)
    world.run_until(world.now + 8 * SECOND)


def test_a_witness_becomes_the_quorum_alone_without_losing_the_office() -> None:
    """It votes and is disarmed: it must be armed before it decides alone."""
    world = started("majority", 3)
    first, elections = leader(world), world.checker.elections
    use_disk(world, alone=False)
    assert not passive(first).armed
    use_disk(world, alone=True)
    config = first.daemon.core.quorum.config
    assert {acceptor.weight for acceptor in config.acceptors if acceptor.kind == "node"} == {0}
    assert world.checker.elections == elections


def test_a_shorter_silence_does_not_shorten_what_counts() -> None:
    """A stamp asks for as long as the longest renewal that the guard still counts."""
    world = patient()
    use_disk(world, alone=True, silence_ms=1_120)
    first = leader(world)
    [disk] = [one for one in world.witnesses.values() if one.acceptor.id.storage == "00000001"]
    assert disk._newest(first.id).silence == 1_120 * MS
    command = SetQuorum(witness="disk", storage="00000001", location="sim:1", alone=True)
    world.ask(first.id, -2, command)
    until = world.now + 10 * SECOND
    while passive(first).silence != 900 * MS or disk._newest(first.id).silence > 1_119 * MS:
        assert world.now < until, "the silence does not change"
        world.run_until(world.now + MS)
    cut(world, {first.id})
    first.stall(first.daemon, 1_500 * MS)
    world.run_until(world.now + 3 * SECOND)  # two leader leases at once are a violation
    assert len(world.leaders()) == 1


def test_the_region_that_the_disk_names_is_never_begun_anew() -> None:
    """The path fails after the block was written: its owner looks before it writes again."""
    world = started("disk", 2)
    first = leader(world)
    [disk] = world.witnesses.values()
    known, write_block, lost = passive(first)._own.generation, disk._write_block, []

    def lose_path_after(node: SimNode, copy: int, block: DiskBlock) -> None:
        write_block(node, copy, block)
        if node is first and copy == 1 and block.generation > known and not lost:
            lost.append(block.region)
            disk.unreached.add(first.id)
            world.later(20 * MS, lambda: disk.unreached.discard(first.id))

    disk._write_block = lose_path_after
    begun = []
    write_region = disk._write_region

    def note_fresh(node: SimNode, write: RegionWrite) -> None:
        named = disk._newest(node.id)
        if write.fresh and named is not None and named.accepted.round:
            begun.append((named.region, write.region))
        write_region(node, write)

    disk._write_region = note_fresh
    for number in range(120):
        command = ChangeGroup(group=GroupId("g1"), restart_threshold=number % 6)
        world.ask(first.id, -100 - number, command)
        world.run_until(world.now + 20 * MS)
    assert lost
    assert len(begun) > 1
    assert all(named != fresh for named, fresh in begun), begun
    world.run_until(world.now + 3 * SECOND)
    demand_service(world, "after the path was back")


def test_a_removed_owner_keeps_its_stamp_until_its_lease_is_over() -> None:
    """Its guard stalls while it loses its place: nobody takes the disk before that lease ends."""
    world = started("disk", 3)
    first = leader(world)
    others = [node for node in world.nodes.values() if node is not first]
    cut(world, {first.id})
    world.run_until(world.now + 500 * MS)
    world.ask(first.id, -1, EvictNode(node=NodeId(first.id), leaving=False))
    world.run_until(world.now + 300 * MS)
    for node in (*others, first):
        node.power_off("test")
    world.run_until(world.now + 500 * MS)
    first.power_on()
    assert world.run_to(lambda: first in world.leaders(), 5 * SECOND)
    for node in others:
        node.power_on()

    def removed() -> bool:
        core = first.daemon.core.quorum if first.daemon.core else None
        return (
            core is not None
            and core.config.former is None
            and all(acceptor.id.node != first.id for acceptor in core.config.acceptors)
        )

    assert world.run_to(removed, 6 * SECOND)
    first.stall(first.guard, 150 * MS)
    world.run_until(world.now + SECOND)  # two leader leases at once are a violation


def test_a_profile_must_bear_the_silence_of_the_disk() -> None:
    """L14 holds for every later profile, too: a group would run on two nodes."""
    world = patient()
    use_disk(world, alone=True, silence_ms=1_120)
    world.ask(leader(world).id, -3, ChangeCluster(profile="fast"))
    world.run_until(world.now + SECOND)
    refusal = world.answers[-3].refusal
    assert refusal is not None
    assert refusal.code == "silence-too-long"


# --- reservations: what keeps out a node that was frozen, and one that was evicted ----------------


def hold_back(world: World, node: SimNode, *, region: bool, ms: int) -> list[int]:
    """Let the next such write of a node reach the disk late, and freeze the node with it."""
    [disk] = world.witnesses.values()
    assert isinstance(disk, SharedDisk)
    call, takes, held = disk.call, disk._takes, []

    def called(caller: SimNode, order: CallWitness) -> None:
        wanted = isinstance(order.call, DiskCall) and (
            order.call.write if region else order.call.block
        )
        if caller is node and wanted and not held:
            held.append(world.now)
            disk._takes = lambda: ms * MS
            call(caller, order)
            disk._takes = takes
            node.freeze()
        else:
            call(caller, order)

    disk.call = called
    return held


def owner_frozen_in_a_write(rules: Rules) -> None:
    """A new owner adopts what the frozen one wrote; its last write comes only then."""
    world = started("disk", 2, rules=rules)
    first = leader(world)
    held = hold_back(world, first, region=True, ms=3_000)
    world.ask(first.id, -1, ChangeGroup(group=GroupId("g1"), restart_threshold=5))
    world.run_until(world.now + 4 * SECOND)
    assert held
    assert leader(world) is not first
    first.thaw()
    world.run_until(world.now + 4 * SECOND)
    demand_service(world, "after it was thawed")


def candidate_evicted_in_a_write(rules: Rules) -> None:
    """It is frozen when it writes its promise, and evicted; the write comes only then."""
    world = started("disk", 3, rules=rules)
    first = leader(world)
    others = [node for node in world.nodes.values() if node is not first]
    rank = sorted(others, key=lambda node: (node.id <= first.id, node.id))
    held = hold_back(world, rank[0], region=False, ms=12_000)
    first.power_off("test")
    world.run_until(world.now + 2 * SECOND)
    assert held
    assert leader(world) is rank[1]
    first.power_on()
    world.run_until(world.now + 4 * SECOND)
    command = EvictNode(node=NodeId(rank[0].id), leaving=False)
    world.ask(leader(world).id, -2, command)
    world.run_until(held[0] + 7 * SECOND)
    assert rank[0].id not in leader(world).daemon.core.state.nodes
    world.run_until(held[0] + 9 * SECOND)


def evicted_while_off(quorum: str, rules: Rules) -> World:
    """A node that was off when it was evicted comes back alone."""
    world = started(quorum, 3, rules=rules)
    first = leader(world)
    gone = next(node for node in world.nodes.values() if node is not first)
    gone.power_off("test")
    world.run_until(world.now + SECOND)
    world.ask(leader(world).id, -1, EvictNode(node=NodeId(gone.id), leaving=False))
    world.run_until(world.now + 4 * SECOND)
    assert gone.id not in leader(world).daemon.core.state.nodes
    for node in world.nodes.values():
        if node is not gone:
            node.power_off("test")
    gone.power_on()
    world.run_until(world.now + 6 * SECOND)
    return world


DIRECTED = {
    "fence-former-owner": owner_frozen_in_a_write,
    "fence-evicted": candidate_evicted_in_a_write,
    "evicted-writes-nothing": lambda rules: evicted_while_off("disk", rules),
    "removed-never-leads": lambda rules: evicted_while_off("engine", rules),
}
"""Rule -> schedule in which it is needed."""


@pytest.mark.parametrize("rule", DIRECTED)
def test_what_was_frozen_or_evicted_stays_out(rule: str) -> None:
    """With the rules nothing breaks; without the one an invariant does."""
    DIRECTED[rule](ALL_RULES)
    with pytest.raises(InvariantError):
        DIRECTED[rule](Rules.without(rule))


@pytest.mark.parametrize("quorum", ["disk", "engine"])
def test_a_node_evicted_while_it_was_off_leads_nothing(quorum: str) -> None:
    """Neither by a disk nor by an object, though it alone is there."""
    assert not evicted_while_off(quorum, ALL_RULES).leaders()


# --- the silence that follows from what the disk takes --------------------------------------------


def generations(world: World) -> dict[str, int]:
    """Of the groups that the leader does not own."""
    first = leader(world)
    state = first.daemon.core.state
    return {one.id: one.generation for one in state.groups.values() if one.owner != first.id}


@pytest.mark.parametrize(("asked_ms", "codes"), [(270, []), (280, ["disk-slow"])])
def test_a_disk_slower_than_the_profile_bears_is_named(asked_ms: int, codes: list[str]) -> None:
    """By every node, as its owner told them, before anything is lost."""
    world = started("disk", 3)
    first = leader(world)
    passive(first)._timing.measured = asked_ms * MS
    world.run_until(world.now + SECOND)
    for node in world.nodes.values():
        found = findings(node.daemon.core, lambda number: f"n{number}")
        assert [one.code for one in found] == codes
    assert passive(first).silence == min(asked_ms * MS, PROFILES["default"].silence)


def owner_of_a_slow_disk_dies(rules: Rules) -> bool:
    """Calls ask for more than R bears; return whether the groups of the others went on."""
    world = started("disk", 4, rules=rules)
    world.ask(leader(world).id, -1, TransferLeader(node=NodeId(3)))
    world.run_until(world.now + SECOND)
    first = leader(world)
    before = generations(world)
    assert before
    passive(first)._timing.measured = 1_600 * MS
    world.run_until(world.now + SECOND)
    first.power_off("test")
    world.run_until(world.now + 4 * SECOND)
    after = leader(world).daemon.core.state.groups
    return all(after[GroupId(group)].generation == before[group] for group in before)


@pytest.mark.parametrize("rule", ["silence-bounded"])
def test_a_slow_disk_does_not_cost_the_groups_of_the_others(rule: str) -> None:
    """The silence stays below what R bears (L14)."""
    assert owner_of_a_slow_disk_dies(ALL_RULES)
    assert not owner_of_a_slow_disk_dies(Rules.without(rule))


def silence_falls_before_a_stall(rules: Rules) -> None:
    """A disk became faster; its owner stalls while the guard counts by what it was."""
    world = patient(rules)
    first = leader(world)
    [disk] = world.witnesses.values()
    assert isinstance(disk, SharedDisk)
    passive(first)._timing.measured = 1_120 * MS
    world.run_until(world.now + SECOND)
    stamped = disk._newest(first.id)
    assert stamped is not None
    assert stamped.silence == 1_120 * MS
    passive(first)._timing.measured = 0
    stamp = stamped.stamp
    assert world.run_to(lambda: disk._newest(first.id).stamp > stamp, SECOND)
    world.run_until(world.now + 5 * MS)
    cut(world, {first.id})
    first.stall(first.daemon, 1_500 * MS)
    world.run_until(world.now + 3 * SECOND)  # two leader leases at once are a violation


@pytest.mark.parametrize("rule", ["silence-outlasts"])
def test_a_silence_that_falls_outlasts_what_is_counted(rule: str) -> None:
    """With the rule nothing breaks; without it two leader leases overlap."""
    silence_falls_before_a_stall(ALL_RULES)
    with pytest.raises(Violation):
        silence_falls_before_a_stall(Rules.without(rule))


def test_an_owner_measures_its_disk() -> None:
    """Slow calls raise the silence that its stamps say, and quick ones lower it again."""
    world = patient()
    first = leader(world)
    [disk] = world.witnesses.values()
    takes = disk._takes
    disk._takes = lambda: 90 * MS
    assert world.run_to(lambda: passive(first).silence > 1_000 * MS, 500 * SECOND)
    times = passive(first).times
    assert times.samples >= 1_000
    assert 260 * MS < times.p999 < 310 * MS
    assert times.slow > 0
    world.run_until(world.now + SECOND)
    assert disk._newest(first.id).silence == passive(first).silence == times.wanted
    for node in world.nodes.values():
        passive(node)._standing.silence_ns = 1_000 * MS  # as with a profile that bears less
    assert passive(first).silence == 1_000 * MS
    disk._takes = takes
    assert world.run_to(lambda: passive(first).silence == 900 * MS, 900 * SECOND)


# --- who reaches it -------------------------------------------------------------------------------


@pytest.mark.parametrize("quorum", ["disk", "tag-witness"])
def test_every_node_knows_who_could_not_take_over(quorum: str) -> None:
    """A follower that lost its path says so to all before it is needed, and when it is back."""
    world = started(quorum, 3)
    world.run_until(world.now + 6 * SECOND)
    first = leader(world)
    other = next(node for node in world.nodes.values() if node is not first)
    [disk] = world.witnesses.values()

    def faults() -> set[tuple[int, int]]:
        """Who says of whom that it does not reach the disk."""
        return {
            (node.id, whom)
            for node in world.nodes.values()
            for whom, paths in [*node.daemon.core.paths.others.items(), (0, ())]
            if any(path.fault for path in paths)
        }

    for node in world.nodes.values():
        assert set(node.daemon.core.paths.others) == set(world.nodes) - {node.id}
        assert [path.fault for path in node.daemon.core.paths.own] == [""]
    disk.unreached.add(other.id)
    world.run_until(world.now + 7 * SECOND)
    assert faults() == {(node.id, other.id) for node in world.nodes.values() if node is not other}
    for node in world.nodes.values():
        [found] = findings(node.daemon.core, lambda number: f"n{number}")
        assert found.code == "path-lost"
        assert found.text.startswith(f"n{other.id} does not reach n60000 since 20")
        assert blind(node.daemon.core) == {other.id: {60_000}}
    disk.unreached.discard(other.id)
    world.run_until(world.now + 7 * SECOND)
    assert faults() == set()
    assert not findings(first.daemon.core, str)
    assert not blind(first.daemon.core)


def test_an_entry_does_not_disarm_what_the_guard_still_counts() -> None:
    """One is written in the moment in which the witness is to be disarmed: first the guard."""
    met = 0
    for offset in range(10):
        world = started("full-witness", 2)
        first = leader(world)
        cut(world, {first.id})
        world.run_until(world.now + 600 * MS)
        world.network.heal()
        world.refresh_streams()
        witness = passive(first)
        assert world.run_to(lambda: witness._calm_since >= 0, 5 * SECOND)  # noqa: B023
        write = witness._write

        def watched(*, entries: bool, renew: bool, armed: bool) -> None:
            nonlocal met
            met += entries and witness._dropping and not witness._dropped  # noqa: B023
            kept = armed or witness._dropped or not witness.armed  # noqa: B023
            assert kept, "disarmed while the guard counts it"
            write(entries=entries, renew=renew, armed=armed)  # noqa: B023

        witness._write = watched  # type: ignore[method-assign]
        world.run_until(first.true_time(witness._calm_since + SECOND) + offset * MS // 20)
        witness._feed_at = 0  # nothing was written for a while
        world.ask(first.id, -1, ChangeGroup(group=GroupId("g1"), restart_threshold=offset % 5))
        world.run_until(world.now + 500 * MS)
    assert met


def leads_after_every_crash(seed: int, rules: Rules) -> bool:
    """Power fails in each part of a commit with a tag; return whether its writer always leads."""
    world = started("tag-witness", 2, seed=seed, rules=rules)
    first = leader(world)
    [other] = [node for node in world.nodes.values() if node is not first]
    other.power_off("test")
    world.run_until(world.now + 3 * SECOND)
    for number in range(10):
        if not world.run_to(lambda: world.leaders() == [first], 5 * SECOND):
            return False
        world.run_until(world.now + 300 * MS)
        command = ChangeGroup(group=GroupId("g1"), restart_threshold=number % 6)
        world.ask(first.id, -100 - number, command)
        world.run_until(world.now + number * MS // 2)
        first.power_off("test")
        world.run_until(world.now + 100 * MS)
        first.power_on()
    return True


@pytest.mark.parametrize("rule", ["tag-durable"])
def test_a_tag_names_only_what_its_writer_has_on_its_disk(rule: str) -> None:
    """I9: a witness does not refuse for ever who lost what it wrote there."""
    seeds = range(1, 6)
    assert all(leads_after_every_crash(seed, ALL_RULES) for seed in seeds)
    assert not all(leads_after_every_crash(seed, Rules.without(rule)) for seed in seeds)


def leads_when_parted(seed: int, rules: Rules) -> bool:
    """One of four nodes is off, and the leader is cut off: the tag decides for the other two."""
    world = started("tag-witness", 4, seed=seed, rules=rules)
    followers = [node for node in world.nodes.values() if node is not leader(world)]
    followers[seed % 3].power_off("test")
    world.run_until(world.now + 3 * SECOND)
    first = leader(world)
    cut(world, {first.id})
    world.run_until(world.now + 5 * SECOND)
    return bool(world.leaders()) and leader(world) is not first


@pytest.mark.parametrize("rule", ["tag-backed"])
@pytest.mark.parametrize("seed", range(1, 4))
def test_a_tag_names_only_what_it_makes_a_quorum_for(seed: int, rule: str) -> None:
    """I9: the last entry of a leader that nobody hears does not lock the others out."""
    assert leads_when_parted(seed, ALL_RULES)
    assert not leads_when_parted(seed, Rules.without(rule))
