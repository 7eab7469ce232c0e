"""What the host of a node is told, and what a node tells the leader."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.policy_world import World

from leitwolf.core.policy import Runner, differences
from leitwolf.model import events
from leitwolf.model.commands import (
    ChangeResource,
    MoveGroup,
    RemoveResource,
    StopNode,
    WishGroup,
    WishResource,
)
from leitwolf.model.ids import GroupId, NodeId, ResourceId, ResourceState, Wish
from leitwolf.model.observations import (
    CloseGroup,
    GroupAttested,
    HostOrder,
    ResourceReport,
    StartResource,
    StopResource,
)
from leitwolf.state import SECOND

WEB = GroupId("web")
ONLINE, OFFLINE, FAILED = ResourceState.ONLINE, ResourceState.OFFLINE, ResourceState.FAILED
STARTING, STOPPING = ResourceState.ONLINE_PENDING, ResourceState.OFFLINE_PENDING
CHAIN = {"web-ip": (), "web-fs": (), "web-app": ("web-ip", "web-fs")}


class Host:
    """A host that does what it is told, one report at a time, and the runner that tells it."""

    def __init__(self, world: World, me: int = 1) -> None:
        self.world = world
        self.me = NodeId(me)
        self.runner = Runner()
        self.inventory: dict[ResourceId, ResourceReport] = {}
        self.attested: dict[GroupId, int] = {}
        self.lease = 1
        self.lease_index = 0

    def orders(self) -> list[HostOrder]:
        return self.runner.orders(
            self.world.state,
            self.me,
            self.lease,
            self.lease_index,
            self.inventory,
            self.attested,
        )

    def names(self) -> list[str]:
        """Return the orders as words."""
        found = []
        for order in self.orders():
            match order:
                case StartResource():
                    found.append(f"start {order.resource} {order.generation}.{order.attempt}")
                case StopResource():
                    found.append(f"stop {order.resource} {order.generation}")
                case CloseGroup():
                    found.append(f"close {order.group} {order.generation}")
        return found

    def report(self, name: str, state: ResourceState, code: str = "x", **fields: int) -> None:
        resource = self.world.resource(name)
        report = ResourceReport(
            resource=resource.id,
            group=resource.group,
            lease=self.lease,
            generation=fields.get("generation", self.world.group(resource.group).generation),
            attempt=fields.get("attempt", resource.attempt),
            state=state,
            code=code,
            text="",
        )
        self.inventory[report.resource] = report
        self.runner.reported(report)

    def log_shows(self) -> None:
        """Let the leader take in what differs."""
        seen = differences(self.world.state, self.me, self.inventory, self.attested)
        for report in seen.reports if seen else ():
            if isinstance(report, ResourceReport):
                self.world.reports[report.resource] = report
            elif isinstance(report, GroupAttested):
                self.world.attested[report.group] = report.generation
        self.world.settle()


@pytest.fixture
def host() -> Host:
    """Group web is placed on node1; nothing was ordered yet."""
    world = World()
    world.add("web", resources=CHAIN)
    world.settle()
    return Host(world)


def online(host: Host) -> None:
    """Bring the group online."""
    host.orders()
    host.report("web-ip", ONLINE)
    host.report("web-fs", ONLINE)
    host.orders()
    host.report("web-app", ONLINE)
    host.log_shows()
    assert host.orders() == []


def test_resources_start_in_the_order_of_their_dependencies(host: Host) -> None:
    """Independent ones at once; a dependent when all its providers are online."""
    assert host.names() == ["start web-fs 1.0", "start web-ip 1.0"]
    assert host.names() == [], "no order is repeated"
    host.report("web-ip", STARTING)
    host.report("web-fs", ONLINE)
    assert host.names() == []
    host.report("web-ip", ONLINE)
    assert host.names() == ["start web-app 1.0"]


@pytest.mark.parametrize("change", ["no lease", "behind", "attested", "other node"])
def test_nothing_starts_without_every_permission(host: Host, change: str) -> None:
    """Lease, index of the lease, generation and ownership must all be right."""
    if change == "no lease":
        host.lease = 0
    elif change == "behind":
        host.lease_index = host.world.state.index + 1
    elif change == "attested":
        host.attested[WEB] = 1
    else:
        host.me = NodeId(2)
    assert host.names() == []


def test_what_runs_is_adopted(host: Host) -> None:
    """A new daemon finds everything running and orders nothing."""
    online(host)
    host.runner = Runner()
    assert host.names() == []


def test_a_state_that_is_behind_stops_nothing_newer(host: Host) -> None:
    """A daemon that came back with an old state leaves newer generations and attempts alone."""
    before = host.world.state
    online(host)
    host.world.do(MoveGroup(group=WEB, node=NodeId(2)))
    host.world.attest("web")
    host.world.settle()
    host.world.do(MoveGroup(group=WEB, node=NodeId(1)))
    host.world.attest("web")
    host.world.settle()
    for name in CHAIN:
        host.report(name, ONLINE)
    assert host.inventory[ResourceId("web-ip")].generation == 3
    host.world.state = before
    host.runner = Runner()
    assert host.names() == []


def test_stopping_begins_with_the_dependents(host: Host) -> None:
    """A wish for offline stops the group from its end."""
    online(host)
    host.world.do(WishGroup(group=WEB, wish=Wish.OFFLINE))
    assert host.names() == ["stop web-app 1"]
    assert host.names() == []
    host.report("web-app", STOPPING)
    assert host.names() == []
    host.report("web-app", OFFLINE)
    assert host.names() == ["stop web-ip 1", "stop web-fs 1"]


def test_an_unwanted_provider_takes_its_dependents_along(host: Host) -> None:
    """What needs it cannot be online; what does not, stays."""
    online(host)
    host.world.do(WishResource(resource=ResourceId("web-ip"), wish=Wish.OFFLINE))
    assert host.names() == ["stop web-app 1"]
    host.report("web-app", OFFLINE)
    assert host.names() == ["stop web-ip 1"]
    host.report("web-ip", OFFLINE)
    assert host.names() == []
    host.log_shows()
    assert host.world.resource("web-app").cause.code == "unwanted"
    host.world.do(WishResource(resource=ResourceId("web-ip"), wish=Wish.ONLINE))
    assert host.names() == ["start web-ip 1.0"]


def test_closing_stops_everything_and_then_closes(host: Host) -> None:
    """The close follows the last stops; nothing is ordered twice."""
    online(host)
    host.world.do(MoveGroup(group=WEB, node=NodeId(2)))
    assert host.names() == ["stop web-app 1"]
    host.report("web-app", OFFLINE)
    assert host.names() == ["stop web-ip 1", "stop web-fs 1", "close web 1"]
    host.report("web-ip", OFFLINE)
    assert host.names() == []
    host.report("web-fs", OFFLINE)
    assert host.names() == []
    host.attested[WEB] = 1
    host.log_shows()
    assert host.world.group("web").owner == 2
    assert host.names() == []


def test_an_orderly_stop_of_the_only_node_stops_dependents_first() -> None:
    """Nobody can take the group, so it is closed here; when the node goes on it starts again."""
    world = World(1)
    world.add("web", resources=CHAIN)
    world.settle()
    host = Host(world)
    online(host)
    world.do(StopNode(node=NodeId(1)))
    world.settle()
    assert host.names() == ["stop web-app 1"]
    host.report("web-app", STOPPING)
    host.log_shows()
    assert host.names() == [], "the others wait for it, however long it takes"
    host.report("web-app", OFFLINE)
    host.log_shows()
    assert host.names() == ["stop web-ip 1", "stop web-fs 1", "close web 1"]
    host.report("web-ip", OFFLINE)
    host.report("web-fs", OFFLINE)
    host.attested[WEB] = 1
    host.log_shows()
    assert host.names() == []
    world.do(StopNode(node=NodeId(1), stopping=False))
    world.settle()
    assert host.names() == ["start web-fs 2.0", "start web-ip 2.0"]


def test_a_start_under_way_counts_as_running_when_the_group_closes(host: Host) -> None:
    """The host may be starting it this moment: it is stopped before the group is closed."""
    assert host.names() == ["start web-fs 1.0", "start web-ip 1.0"]
    host.world.do(MoveGroup(group=WEB, node=NodeId(2)))
    assert host.names() == ["stop web-ip 1", "stop web-fs 1", "close web 1"]
    host.report("web-fs", OFFLINE)
    host.report("web-ip", OFFLINE)
    assert host.names() == []


def test_a_close_that_a_failed_stop_prevented_is_ordered_again(host: Host) -> None:
    """The host forgot it with the failure; it is told anew when all is off, not before."""
    online(host)
    host.world.do(MoveGroup(group=WEB, node=NodeId(2)))
    host.orders()
    host.report("web-app", OFFLINE)
    assert host.names() == ["stop web-ip 1", "stop web-fs 1", "close web 1"]
    host.report("web-ip", OFFLINE)
    host.report("web-fs", FAILED, code="stop-timeout")
    assert host.names() == []
    host.report("web-fs", OFFLINE)
    assert host.names() == ["close web 1"]


def test_a_resource_that_cannot_be_stopped_is_not_closed(host: Host) -> None:
    """No attest is asked for, and the stop is not ordered over and over."""
    online(host)
    host.world.do(MoveGroup(group=WEB, node=NodeId(2)))
    host.orders()
    host.report("web-app", FAILED, code="stop-timeout")
    assert host.names() == ["stop web-ip 1", "stop web-fs 1"]
    host.report("web-fs", OFFLINE)
    host.report("web-ip", OFFLINE)
    assert host.names() == []
    host.report("web-app", OFFLINE)
    assert host.names() == ["close web 1"]


def test_a_stop_that_fails_is_not_ordered_over_and_over(host: Host) -> None:
    """Whatever the code of the failure; and what crosses the order does not answer it."""
    online(host)
    host.world.do(MoveGroup(group=WEB, node=NodeId(2)))
    assert host.names() == ["stop web-app 1"]
    for state, code in ((FAILED, "exited"), (STOPPING, "stopping"), (FAILED, "input-output")):
        host.report("web-app", state, code=code)
        assert "stop web-app 1" not in host.names()
    host.report("web-fs", OFFLINE)
    host.report("web-ip", OFFLINE)
    assert host.names() == [], "not closed while something may run"
    host.report("web-app", OFFLINE)
    assert host.names() == ["close web 1"]


def test_the_next_attempt_may_begin_after_a_stop_that_failed(host: Host) -> None:
    """The host cleans up before it starts; the decision is the policy's."""
    online(host)
    host.report("web-ip", FAILED)
    assert host.names() == ["stop web-app 1"]
    host.report("web-app", FAILED, code="stop-timeout")
    host.log_shows()
    assert host.world.group("web").failed_at >= 0
    host.world.now += 3_600 * SECOND
    host.world.settle()
    assert host.names() == ["start web-ip 1.1"]
    host.report("web-ip", ONLINE)
    host.log_shows()
    assert host.names() == ["start web-app 1.1"]
    assert host.names() == []


def test_an_older_stop_does_not_hide_a_newer_generation(host: Host) -> None:
    """A host that runs a newer generation answers an older stop with what it runs."""
    online(host)
    stray = host.inventory[ResourceId("web-app")]
    host.inventory[ResourceId("web-app")] = replace(stray, generation=0)
    assert host.names() == ["stop web-app 0"]
    host.report("web-app", ONLINE)
    host.world.do(WishGroup(group=WEB, wish=Wish.OFFLINE))
    assert host.names() == ["stop web-app 1"]


def test_a_restart_in_place_cycles_the_dependents(host: Host) -> None:
    """The dependents stop first, then the next attempt starts, then they come back."""
    online(host)
    host.report("web-ip", FAILED)
    assert host.names() == ["stop web-app 1"]
    host.log_shows()
    assert host.world.resource("web-ip").attempt == 1
    assert host.names() == [], "the provider waits for its dependents"
    host.report("web-app", OFFLINE)
    assert host.names() == ["start web-ip 1.1"]
    host.log_shows()
    assert host.world.resource("web-app").cause.code == "dependency-cycled"
    host.report("web-ip", ONLINE)
    host.log_shows()
    assert host.names() == ["start web-app 1.0"]


def test_a_failed_resource_waits_for_the_decision(host: Host) -> None:
    """Only the log begins another attempt."""
    online(host)
    host.report("web-app", FAILED)
    assert host.names() == []
    host.log_shows()
    assert host.names() == ["start web-app 1.1"]
    assert host.names() == []


def test_new_parameters_restart_what_runs(host: Host) -> None:
    """The old one stops, then the new one starts; both under the same generation."""
    online(host)
    host.world.do(
        ChangeResource(resource=ResourceId("web-app"), parameters={"command": "/bin/other"})
    )
    assert host.names() == ["stop web-app 1"]
    host.report("web-app", OFFLINE, attempt=0)
    (start,) = host.orders()
    assert isinstance(start, StartResource)
    assert (start.attempt, start.parameters["command"]) == (1, "/bin/other")


def test_new_parameters_of_a_provider_cycle_its_dependents(host: Host) -> None:
    """What runs with the old parameters does not count as online any more."""
    online(host)
    host.world.do(
        ChangeResource(resource=ResourceId("web-fs"), parameters={"command": "/bin/other"})
    )
    assert host.names() == ["stop web-app 1"]
    host.report("web-app", OFFLINE)
    assert host.names() == ["stop web-fs 1"]
    host.report("web-fs", OFFLINE, attempt=0)
    assert host.names() == ["start web-fs 1.1"]


def test_a_late_report_answers_no_newer_order(host: Host) -> None:
    """Attempt 0 failing once more says nothing about attempt 1."""
    online(host)
    host.report("web-app", FAILED)
    host.log_shows()
    assert host.names() == ["start web-app 1.1"]
    host.report("web-app", FAILED, attempt=0)
    assert host.names() == []


def test_a_group_is_not_closed_while_a_removed_resource_of_it_runs(host: Host) -> None:
    """The attest is about everything that ever ran under the generation."""
    online(host)
    name = ResourceId("web-app")
    kept = host.inventory[name]
    host.world.do(WishResource(resource=name, wish=Wish.OFFLINE))
    host.report("web-app", OFFLINE)
    host.log_shows()
    host.world.do(RemoveResource(resource=name))
    host.inventory[name] = kept
    host.world.do(MoveGroup(group=WEB, node=NodeId(2)))
    assert host.names() == ["stop web-app 1", "stop web-ip 1", "stop web-fs 1"]
    host.report("web-ip", OFFLINE)
    host.report("web-fs", OFFLINE)
    assert host.names() == []
    del host.inventory[name]
    assert host.names() == ["close web 1"]


def test_what_does_not_belong_here_is_stopped(host: Host) -> None:
    """Groups of other nodes, older generations and removed resources."""
    online(host)
    host.world.do(MoveGroup(group=WEB, node=NodeId(2)))
    host.world.attest("web")
    host.world.settle()
    assert host.names() == ["stop web-app 1", "stop web-fs 1", "stop web-ip 1"]
    assert host.names() == []
    for name in CHAIN:
        host.report(name, OFFLINE, generation=1)
    assert host.names() == []


def test_an_older_generation_stops_before_the_new_one_starts(host: Host) -> None:
    """Both never run side by side, on one node either."""
    online(host)
    host.world.see(1, replace(host.world.views[NodeId(1)], leased=False, away=True))
    host.world.settle()
    host.world.see(1, replace(host.world.views[NodeId(1)], leased=True, away=False))
    host.world.settle()
    host.world.do(MoveGroup(group=WEB, node=NodeId(1)))
    host.world.attest("web")
    host.world.settle()
    assert host.world.group("web").generation == 3
    assert host.names() == ["stop web-app 1", "stop web-fs 1", "stop web-ip 1"]
    host.report("web-ip", OFFLINE, generation=1)
    assert host.names() == ["start web-ip 3.0"]


def test_a_removed_resource_is_stopped(host: Host) -> None:
    """What the log does not know any more does not run any more."""
    online(host)
    name = ResourceId("web-app")
    host.world.do(WishResource(resource=name, wish=Wish.OFFLINE))
    host.orders()
    host.report("web-app", OFFLINE)
    host.log_shows()
    kept = host.inventory[name]
    host.world.do(RemoveResource(resource=name))
    assert host.names() == []
    host.inventory[name] = replace(kept, state=ONLINE)
    assert host.names() == ["stop web-app 1"]


def test_a_group_and_a_resource_may_have_the_same_name() -> None:
    """Orders about the one are not taken for orders about the other."""
    world = World()
    world.add("web", resources={"web": ()})
    world.settle()
    host = Host(world)
    assert host.names() == ["start web 1.0"]
    host.report("web", ONLINE)
    host.world.do(MoveGroup(group=WEB, node=NodeId(2)))
    assert host.names() == ["stop web 1", "close web 1"]
    host.report("web", OFFLINE)
    assert host.names() == []


def test_the_first_online_is_marked_for_the_duplicate_probe(host: Host) -> None:
    """At creation and after the operator's offline, never at move or restart."""
    first = [order.first for order in host.orders() if isinstance(order, StartResource)]
    assert first == [True, True]
    host.report("web-ip", ONLINE)
    host.report("web-fs", ONLINE)
    host.log_shows()
    host.world.do(MoveGroup(group=WEB, node=NodeId(2)))
    host.world.attest("web")
    host.world.settle()
    second = Host(host.world, me=2)
    assert [order.first for order in second.orders() if isinstance(order, StartResource)] == [
        False,
        False,
    ]


# --- differences ---------------------------------------------------------------------------------


def test_only_what_the_log_does_not_show_is_told(host: Host) -> None:
    """Reports are repeated until they are in the log, then no more."""
    assert differences(host.world.state, host.me, {}, {}) is None
    host.orders()
    host.report("web-ip", ONLINE)
    seen = differences(host.world.state, host.me, host.inventory, {})
    assert seen is not None
    assert [report.state for report in seen.reports if isinstance(report, ResourceReport)] == [
        ONLINE
    ]
    host.log_shows()
    assert differences(host.world.state, host.me, host.inventory, {}) is None


def test_what_the_host_does_not_know_is_told_as_offline(host: Host) -> None:
    """A host that lost a resource says so, and the runner starts it again."""
    online(host)
    del host.inventory[ResourceId("web-app")]
    host.log_shows()
    assert host.world.resource("web-app").state is OFFLINE
    assert host.world.resource("web-app").cause.code == "not-running"
    assert host.names() == ["start web-app 1.0"]


def test_an_answer_for_what_was_never_run_is_told(host: Host) -> None:
    """A host that knows nothing of it answers a stop with attempt 0: it does not run."""
    online(host)
    host.report("web-app", FAILED)
    host.log_shows()
    host.report("web-app", ONLINE)
    host.log_shows()
    host.report("web-app", OFFLINE, attempt=0)
    host.log_shows()
    assert host.world.resource("web-app").state is OFFLINE


def test_an_attempt_that_the_host_has_not_begun_is_no_difference(host: Host) -> None:
    """The log is ahead of the host then."""
    online(host)
    host.report("web-app", FAILED)
    host.log_shows()
    assert host.world.resource("web-app").attempt == 1
    assert differences(host.world.state, host.me, host.inventory, {}) is None


def test_the_attest_is_told_until_the_group_is_placed(host: Host) -> None:
    """A new leader learns of it too."""
    online(host)
    host.world.apply(
        events.GroupClosing(
            group=WEB,
            target=NodeId(2),
            cause=host.world.group("web").cause,
            failover=False,
        )
    )
    for name in CHAIN:
        host.report(name, OFFLINE)
    host.attested[WEB] = 1
    seen = differences(host.world.state, host.me, host.inventory, host.attested)
    assert seen is not None
    assert GroupAttested(group=WEB, generation=1) in seen.reports
