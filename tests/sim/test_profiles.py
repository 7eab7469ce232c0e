"""The timing profile changes while the cluster runs: no lease ends by it, all are waited for."""

from __future__ import annotations

import itertools

import pytest

from leitwolf.core.lease import PROFILES
from leitwolf.model.commands import ChangeCluster
from leitwolf.sim.scenario import Setting, demand_service, simulate
from leitwolf.sim.world import World

MS = 1_000_000
SECOND = 1_000 * MS
ORDER = sorted(PROFILES, key=lambda name: PROFILES[name].run)


def running(profile: str, seed: int = 1) -> World:
    world = World(seed=seed, nodes=3, profile=profile)
    for node in world.nodes.values():
        node.power_on()
    world.run_until(10 * SECOND)
    demand_service(world, "after the start")
    return world


def leases(world: World) -> list[int]:
    return [node.kernel.page.lease for node in world.nodes.values() if node.kernel.page]


def acted_by(world: World) -> set[int]:
    """Return R as the guards have it, in ms."""
    pages = [node.kernel.page for node in world.nodes.values()]
    return {page.run // MS for page in pages if page}


@pytest.mark.parametrize(("former", "wanted"), [*itertools.permutations(ORDER, 2)])
def test_no_lease_ends_when_the_profile_changes(former: str, wanted: str) -> None:
    """The shorter one holds until the longest lease is over, then the new one alone."""
    world = running(former)
    before = leases(world)
    (leader,) = world.leaders()
    world.ask(leader.id, 1, ChangeCluster(profile=wanted))
    shorter, longer = sorted((PROFILES[former].run_ms, PROFILES[wanted].run_ms))
    world.run_until(world.now + (longer - 100) * MS)
    assert acted_by(world) == {shorter}
    world.ask(leader.id, 2, ChangeCluster(profile=former))
    world.run_until(world.now + 2 * SECOND)
    refusal = world.answers[2].refusal
    assert refusal is not None
    assert (refusal.code, refusal.retryable) == ("profile-changing", True)
    assert acted_by(world) == {PROFILES[wanted].run_ms}
    world.run_until(world.now + 6 * SECOND)
    assert leases(world) == before
    assert {page.kill // MS for n in world.nodes.values() if (page := n.kernel.page)} == {
        PROFILES[wanted].kill_ms
    }
    core = leader.daemon.core
    assert core is not None
    assert core.state.profile_former == ""


def test_a_node_with_a_lease_is_waited_for() -> None:
    """Its daemon does not know of the change yet, so its guard remembers no longer promise."""
    world = running("default")
    (leader,) = world.leaders()
    other = next(node for node in world.nodes.values() if node is not leader)
    for node in world.nodes.values():
        world.network.cut_stream(node.id, other.id)
    world.refresh_streams()
    world.run_until(world.now + SECOND)
    world.ask(leader.id, 1, ChangeCluster(profile="virtual"))
    world.run_until(world.now + 5 * SECOND)
    assert acted_by(world) == {PROFILES["default"].run_ms}
    world.network.heal()
    world.refresh_streams()
    world.run_until(world.now + 3 * SECOND)
    assert acted_by(world) == {PROFILES["virtual"].run_ms}


def test_of_two_profiles_one_is_longer_in_everything() -> None:
    """So "the shorter" and "the longer" of two are well defined."""
    for one, other in itertools.pairwise(ORDER):
        shorter, longer = PROFILES[one], PROFILES[other]
        assert shorter.heartbeat < longer.heartbeat
        assert shorter.promise < longer.promise
        assert shorter.kill <= longer.kill


@pytest.mark.parametrize("seed", range(4))
def test_random_changes_of_the_profile_are_safe(seed: int) -> None:
    """Together with dying machines, lost pages and partitions."""
    outcome = simulate(seed, Setting(nodes=3 + 2 * (seed % 2), mix="profiles", chaos_s=20))
    assert outcome.ok, outcome.violation
