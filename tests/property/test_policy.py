"""Properties of fold and policy under random histories, with hosts that run what they are told.

Each node has a host, a runner and an applied state that may be behind the log. A node whose lease
ends loses everything that it runs before the leader sees it as away, as the guards guarantee.
A failing example names its seed.
"""

from __future__ import annotations

from collections import deque
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.policy_world import AWAY, DISCONNECTED, UP, World

from leitwolf.core.policy import Runner, candidates, plan
from leitwolf.model.commands import (
    Command,
    MoveGroup,
    PauseNode,
    RecoverGroup,
    RemoveGroup,
    WishGroup,
    WishResource,
)
from leitwolf.model.events import GroupPlaced
from leitwolf.model.ids import GroupId, GroupPhase, NodeId, ResourceId, ResourceState, Wish
from leitwolf.model.observations import (
    CloseGroup,
    GroupAttested,
    HostOrder,
    ResourceReport,
    StartResource,
    StopResource,
)
from leitwolf.model.state import State
from leitwolf.state import SECOND, decode_change, digest, encode_change, fold_change

NODES = 3
GROUPS = {
    "web": {"web-ip": (), "web-fs": (), "web-app": ("web-ip", "web-fs")},
    "mail": {"mail-app": ()},
}
RUNNING = (ResourceState.ONLINE_PENDING, ResourceState.ONLINE, ResourceState.OFFLINE_PENDING)


class Machine:
    """One node: applied state, runner and host."""

    def __init__(self, world: World, me: int) -> None:
        self.world = world
        self.me = NodeId(me)
        self.state = State()
        self.runner = Runner()
        self.inventory: dict[ResourceId, ResourceReport] = {}
        self.attested: dict[GroupId, int] = {}
        self.queue: deque[HostOrder] = deque()
        self.lease = me
        self.lease_index = 0

    def apply(self, count: int) -> None:
        for _ in range(count):
            index = self.state.index + 1
            if index in self.world.log:
                self.state = fold_change(self.state, index, self.world.log[index])

    def order(self) -> None:
        found = self.runner.orders(
            self.state, self.me, self.lease, self.lease_index, self.inventory, self.attested
        )
        self.queue.extend(found)

    def execute(self) -> None:
        if not self.queue:
            return
        match self.queue.popleft():
            case StartResource() as start:
                allowed = start.lease == self.lease != 0
                allowed = allowed and start.generation > self.attested.get(start.group, 0)
                self.report(
                    start, ResourceState.ONLINE_PENDING if allowed else ResourceState.FAILED
                )
            case StopResource() as stop:
                self.report(stop, ResourceState.OFFLINE)
            case CloseGroup() as close:
                if not self.runs(close.group):
                    self.attested[close.group] = close.generation

    def report(self, order: StartResource | StopResource, state: ResourceState) -> None:
        known = self.inventory.get(order.resource)
        stop = isinstance(order, StopResource) and known is not None
        report = ResourceReport(
            resource=order.resource,
            group=order.group,
            lease=self.lease,
            generation=known.generation if stop and known else order.generation,
            attempt=order.attempt
            if isinstance(order, StartResource)
            else (known.attempt if known else 0),
            state=state,
            code="x",
            text="",
        )
        self.inventory[order.resource] = report
        self.runner.reported(report)

    def progress(self, choice: int) -> None:
        """Let a starting resource come online, or any running one fail."""
        found = [each for each in self.inventory.values() if each.state in RUNNING]
        if not found:
            return
        report = found[choice % len(found)]
        new = ResourceState.FAILED if choice % 5 == 0 else ResourceState.ONLINE
        report = ResourceReport(
            **{name: getattr(report, name) for name in report.__struct_fields__} | {"state": new}
        )
        self.inventory[report.resource] = report
        self.runner.reported(report)

    def tell(self) -> None:
        seen = self.runner.differences(self.state, self.me, self.inventory, self.attested)
        for report in seen.reports if seen else ():
            group = self.world.state.groups.get(getattr(report, "group", GroupId("")))
            if group is None or group.owner != self.me:
                continue
            if isinstance(report, ResourceReport):
                self.world.reports[report.resource] = report
            elif isinstance(report, GroupAttested):
                self.world.attested[report.group] = report.generation

    def end_of_lease(self) -> None:
        self.lease = 0
        self.inventory = {}
        self.queue.clear()
        self.runner = Runner()
        self.world.see(self.me, AWAY)

    def runs(self, group: str) -> bool:
        return any(
            each.group == group and each.state in RUNNING for each in self.inventory.values()
        )


class Cluster:
    """The machines and the leader's world."""

    def __init__(self) -> None:
        self.world = World(NODES)
        for name, resources in GROUPS.items():
            self.world.add(name, resources=resources)
        self.machines = [Machine(self.world, number) for number in range(1, NODES + 1)]
        self.leases = NODES
        self.generations = dict.fromkeys(GROUPS, 0)
        self.heal()
        for name in GROUPS:
            self.generations[name] = self.world.group(name).generation

    def step(self, kind: int, a: int, b: int) -> None:
        machine = self.machines[a % NODES]
        match kind:
            case 0:
                self.decide(b)
            case 1:
                machine.apply(b % 5 + 1)
            case 2:
                machine.order()
            case 3:
                machine.execute()
            case 4:
                machine.progress(b)
            case 5:
                machine.tell()
            case 6 if b % 4 == 0:
                machine.end_of_lease()
            case 7:
                self.lease(machine)
            case 8:
                self.ask(a, b)
            case 9:
                self.world.now += (b % 1_000) * SECOND
            case 10:
                machine.runner = Runner()  # a new connection to the host: what runs is adopted
                machine.queue.clear()
            case 11 if machine.lease:
                self.world.see(machine.me, DISCONNECTED if b % 3 == 0 else UP)
            case 12:
                machine.apply(1_000)
                machine.order()
                for _ in range(b % 6):
                    machine.execute()
                    self.check()
                machine.progress(b)
                machine.tell()
            case _:
                pass

    def decide(self, prefix: int) -> None:
        """Plan, and apply a prefix of it: the leader may be gone before the rest is appended."""
        found = self.world.plan().changes
        assert found == self.world.plan().changes, "the same input gives the same plan"
        for planned in found[: prefix % 4 or len(found)]:
            for event in planned.events:
                if isinstance(event, GroupPlaced):
                    view = self.world.views[event.node]
                    assert view.connected
                    assert view.leased
                    assert not view.away
                    assert not self.world.state.nodes[event.node].paused
                    assert event.generation > self.generations[event.group]
                    self.generations[event.group] = event.generation
            self.world.apply(*planned.events, because=planned.because)

    def lease(self, machine: Machine) -> None:
        """Open a lease as the leader does: the end of the old one must be in the log."""
        if machine.lease == 0 and not self.world.state.nodes[machine.me].up:
            self.leases += 1
            machine.lease = self.leases
            machine.lease_index = self.world.state.index
            self.world.see(machine.me, UP)

    def ask(self, a: int, b: int) -> None:
        group = GroupId(sorted(GROUPS)[a % 2])
        wish = Wish.ONLINE if b % 2 else Wish.OFFLINE
        resource = ResourceId(sorted(GROUPS[group])[b % len(GROUPS[group])])
        found: list[Command] = [
            MoveGroup(group=group, node=NodeId(b % (NODES + 1))),
            WishGroup(group=group, wish=wish),
            WishResource(resource=resource, wish=wish),
            PauseNode(node=NodeId(b % NODES + 1), paused=a % 3 > 0, drain=b % 2 == 0),
            RecoverGroup(group=group),
        ]
        if b % 97 == 0:
            found = [RemoveGroup(group=group, force=True)]
        self.world.command(found[(a * 7 + b) % len(found)])

    def check(self) -> None:
        for name in GROUPS:
            running = [machine.me for machine in self.machines if machine.runs(name)]
            assert len(running) <= 1, f"{name} runs on {running}"

    def heal(self) -> None:
        """All nodes up, nothing paused, everything wished online; nothing fails any more."""
        for machine in self.machines:
            if machine.lease:
                self.world.see(machine.me, UP)
        for _ in range(30):
            self.world.settle()
            for machine in self.machines:
                self.lease(machine)
                self.world.command(PauseNode(node=machine.me, paused=False))
            for name, resources in GROUPS.items():
                group = GroupId(name)
                self.world.command(WishGroup(group=group, wish=Wish.ONLINE))
                for resource in resources:
                    self.world.command(
                        WishResource(resource=ResourceId(resource), wish=Wish.ONLINE)
                    )
            for machine in self.machines:
                machine.apply(1_000)
                machine.order()
                while machine.queue:
                    machine.execute()
                    self.check()
                for choice in range(1, 1 + len(machine.inventory)):
                    machine.progress(choice * 5 + 1)
                for report in list(machine.inventory.values()):
                    if report.state is ResourceState.ONLINE_PENDING:
                        online = ResourceReport(
                            **{field: getattr(report, field) for field in report.__struct_fields__}
                            | {"state": ResourceState.ONLINE}
                        )
                        machine.inventory[report.resource] = online
                        machine.runner.reported(online)
                machine.tell()


WEIGHTS = {0: 20, 1: 8, 2: 8, 3: 12, 4: 6, 5: 8, 6: 3, 7: 6, 8: 8, 9: 1, 10: 2, 11: 3, 12: 25}
"""How often each kind of step is taken; histories of single small steps lead nowhere."""
Steps = list[tuple[int, int, int]]


def history(seed: int) -> Steps:
    """Return the steps of a history; the seed decides everything."""
    chance = Random(seed)
    kinds = chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=chance.randrange(20, 250))
    return [(kind, chance.randrange(12), chance.randrange(1_000)) for kind in kinds]


SEEDS = st.integers(0, 2**32 - 1)
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)


@QUICK
@given(SEEDS)
def test_a_group_never_runs_twice_and_comes_back(seed: int) -> None:
    """Whatever happens in whatever order: one owner; and after healing everything is online."""
    cluster = Cluster()
    for kind, a, b in history(seed):
        cluster.step(kind, a, b)
        cluster.check()
    cluster.heal()
    for name in GROUPS:
        group = cluster.world.state.groups.get(GroupId(name))
        if group is None or group.removing:
            continue  # removed on the way
        assert group.phase is GroupPhase.ACTIVE
        for resource in cluster.world.members(name):
            assert resource.state is ResourceState.ONLINE, resource
            assert cluster.machines[group.owner - 1].runs(name)
    assert cluster.world.plan().changes == ()


@QUICK
@given(SEEDS, st.integers(0, 999))
def test_every_prefix_of_a_plan_converges(seed: int, cut: int) -> None:
    """A leader that dies in the middle of a plan leaves nothing that the next one cannot finish."""
    cluster = Cluster()
    for kind, a, b in history(seed):
        cluster.step(kind, a, b)
    world = cluster.world
    found = world.plan().changes
    for planned in found[: cut % (len(found) + 1)]:
        world.apply(*planned.events, because=planned.because)
    world.settle()  # asserts that a second plan is empty
    seen = world.seen()
    for group in world.state.groups.values():
        if group.phase is GroupPhase.STOPPED:
            assert not group.removing
            usable = candidates(world.state, group, seen).usable
            assert group.wish is Wish.OFFLINE or not usable
        else:
            assert not world.views[group.owner].away


@QUICK
@given(SEEDS)
def test_the_fold_is_the_same_everywhere(seed: int) -> None:
    """Folding the encoded log anew gives the same state, to the hash, at every entry."""
    cluster = Cluster()
    for kind, a, b in history(seed):
        cluster.step(kind, a, b)
    state, quorum = State(), cluster.world.state.quorum
    for index, change in cluster.world.log.items():
        again = decode_change(encode_change(change))
        assert again == change
        state = fold_change(state, index, again, quorum if index == 1 else None)
    assert digest(state) == digest(cluster.world.state)
    assert plan(state, cluster.world.seen(), cluster.world.now) == cluster.world.plan()
