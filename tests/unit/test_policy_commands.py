"""What commands mean and why they are refused."""

from __future__ import annotations

import pytest
from tests.policy_world import AWAY, DISCONNECTED, World

from leitwolf.core.policy import Judged, judge
from leitwolf.model import events
from leitwolf.model.commands import (
    AddGroup,
    AddNode,
    AddResource,
    ChangeCluster,
    ChangeGroup,
    ChangeResource,
    Command,
    EvictNode,
    IssueToken,
    MoveGroup,
    NewResource,
    PauseNode,
    RecoverGroup,
    Refusal,
    RemoveGroup,
    RemoveResource,
    SetNetwork,
    TellAbility,
    TransferLeader,
    WishGroup,
    WishResource,
)
from leitwolf.model.ids import (
    GroupId,
    GroupPhase,
    NetworkRole,
    NodeId,
    ResourceId,
    ResourceState,
    Wish,
)
from leitwolf.model.types import TYPES, problems, value_of

WEB = GroupId("web")
TOKEN = "a" * 64
ONLINE, OFFLINE, FAILED = ResourceState.ONLINE, ResourceState.OFFLINE, ResourceState.FAILED


@pytest.fixture
def world() -> World:
    """Three nodes; group web with web-ip and web-app on it is online on node1."""
    world = World()
    world.do(
        AddGroup(
            group=WEB,
            resources=(
                new("web-app", depends=("web-ip",)),
                address("web-ip", "192.0.2.10/24"),
            ),
        )
    )
    world.settle()
    world.report_all("web", ONLINE)
    world.settle()
    return world


def new(name: str, depends: tuple[str, ...] = (), **parameters: str) -> NewResource:
    return NewResource(
        resource=ResourceId(name),
        type="process",
        parameters={"command": "/bin/server"} | parameters,
        depends=tuple(ResourceId(each) for each in depends),
    )


def address(name: str, value: str, network: str = "") -> NewResource:
    parameters = {"address": value} | ({"network": network} if network else {})
    return NewResource(resource=ResourceId(name), type="ip_address", parameters=parameters)


def group(name: str, *resources: NewResource, **settings: object) -> AddGroup:
    return AddGroup(group=GroupId(name), resources=resources, **settings)  # type: ignore[arg-type]


def resource(name: str, *depends: str) -> AddResource:
    return AddResource(
        group=WEB,
        resource=ResourceId(name),
        type="process",
        parameters={"command": "x"},
        depends=tuple(ResourceId(each) for each in depends),
    )


def joining(**fields: object) -> AddNode:
    values: dict[str, object] = {
        "name": "node4",
        "uuid": "uuid4",
        "storage": "disk4",
        "addresses": {"client": "192.0.2.4"},
        "fingerprint": "f" * 64,
        "token": TOKEN,
    }
    return AddNode(**values | fields)  # type: ignore[arg-type]


def subnet(name: str, *subnets: str) -> SetNetwork:
    return SetNetwork(name=name, subnets=subnets, role=NetworkRole.CLIENT)


BAD: list[tuple[Command, str, str]] = [
    # command, code, word in its text or hint
    (group("Web!"), "invalid-name", "a-z"),
    (group("x" * 64), "invalid-name", "63"),
    (group("web"), "group-exists", "web"),
    (group("new", restart_threshold=-1), "out-of-range", "0..1000"),
    (group("new", failover_threshold=-2), "out-of-range", "-1..1000"),
    (group("new", retry_period_s=-2), "out-of-range", "retry_period_s = -2"),
    (group("new", preferred=(NodeId(9),)), "unknown-node", "node3"),
    (group("new", preferred=(NodeId(1), NodeId(1))), "duplicate-node", "once"),
    (group("new", new("web-app")), "resource-exists", "group web"),
    (group("new", new("a"), new("a")), "resource-exists", "twice"),
    (group("new", new("a", ("b",)), new("b", ("a",))), "dependency-cycle", "a -> b -> a"),
    (group("new", new("a", ("web-ip",))), "dependency-unknown", "own group"),
    (group("new", new("a", stop_timeout_ms="soon")), "invalid-parameter", "0..3600000"),
    (group("new", new("a", color="red")), "unknown-parameter", "command"),
    (group("new", address("a", "192.0.2.10/24")), "address-in-use", "web-ip"),
    (
        group("new", address("a", "192.0.2.77/24"), address("b", "192.0.2.77/24")),
        "address-in-use",
        "resource a",
    ),
    (group("new", address("a", "192.0.2.2/24")), "address-in-use", "node2"),
    (group("new", address("a", "198.51.100.1/24")), "address-outside", "192.0.2.0/24"),
    (group("new", address("a", "192.0.2.20")), "invalid-parameter", "prefix"),
    (group("new", address("a", "192.0.2.20/16")), "invalid-prefix", "192.0.2.20/24"),
    (
        AddResource(group=WEB, resource=ResourceId("a"), type="disk", parameters={}),
        "unknown-type",
        "ip_address, process",
    ),
    (
        AddResource(group=WEB, resource=ResourceId("a"), type="process", parameters={}),
        "missing-parameter",
        "command",
    ),
    (resource("a", "a"), "dependency-cycle", "a -> a"),
    (ChangeGroup(group=GroupId("none")), "unknown-group", "web"),
    (ChangeGroup(group=WEB, restart_period_s=0), "out-of-range", "restart_period_s"),
    (RemoveGroup(group=WEB), "group-online", "--force"),
    (MoveGroup(group=WEB, node=NodeId(9)), "unknown-node", "node1"),
    (WishResource(resource=ResourceId("x"), wish=Wish.ONLINE), "unknown-resource", "web-app"),
    (RemoveResource(resource=ResourceId("web-ip")), "needed-by", "web-app"),
    (RemoveResource(resource=ResourceId("web-app")), "resource-online", "offline"),
    (
        ChangeResource(resource=ResourceId("web-ip"), depends=(ResourceId("web-app"),)),
        "dependency-cycle",
        "web-app -> web-ip -> web-app",
    ),
    (
        ChangeResource(resource=ResourceId("web-app"), parameters={"user": ""}),
        "unknown-parameter",
        "command",
    ),
    (
        ChangeResource(resource=ResourceId("web-app"), parameters={"command": ""}),
        "missing-parameter",
        "command",
    ),
    (PauseNode(node=NodeId(9), paused=True), "unknown-node", "node1"),
    (joining(token="b" * 64), "token-unknown", "leitwolf token"),
    (joining(name="node1"), "node-exists", "another name"),
    (joining(uuid="uuid1"), "node-exists", "evict"),
    (joining(storage="disk1"), "node-exists", "copy"),
    (joining(addresses={"client": "192.0.2.1"}), "node-exists", "node1"),
    (joining(addresses={"client": "192.0.2.10"}), "node-exists", "web-ip"),
    (joining(addresses={"client": "198.51.100.4"}), "address-outside", "192.0.2.0/24"),
    (joining(addresses={"other": "192.0.2.4"}), "unknown-network", "client"),
    (joining(addresses={}), "invalid-address", "client"),
    (joining(addresses={"client": "node4.example"}), "invalid-address", "192.0.2.1"),
    (joining(fingerprint="00"), "invalid-digest", "64"),
    (joining(name="Node 4"), "invalid-name", "a-z"),
    (EvictNode(node=NodeId(9)), "unknown-node", "node1"),
    (IssueToken(digest="zz", lifetime_s=60), "invalid-digest", "64"),
    (IssueToken(digest=TOKEN, lifetime_s=60), "token-exists", "known"),
    (IssueToken(digest="b" * 64, lifetime_s=0), "out-of-range", "1..604800"),
    (subnet("new", "192.0.2.128/25"), "network-overlap", "client"),
    (subnet("new", "192.0.0.0/16"), "network-overlap", "client"),
    (subnet("new", "10.0.0.1/24"), "invalid-subnet", "192.0.2.0/24"),
    (subnet("new", "10.0.0.0"), "invalid-subnet", "prefix length is missing"),
    (subnet("new"), "out-of-range", "1..16"),
    (subnet("client", "10.0.0.0/24"), "network-in-use", "node1"),
    (ChangeCluster(profile="warp"), "unknown-profile", "default"),
    (ChangeCluster(name="-"), "invalid-name", "a-z"),
    (TransferLeader(node=NodeId(9)), "unknown-node", "node1"),
]


@pytest.mark.parametrize(
    ("command", "code", "word"), BAD, ids=[f"{type(c).__name__}-{code}" for c, code, _ in BAD]
)
def test_bad_commands_are_refused_with_code_and_fix(
    world: World, command: Command, code: str, word: str
) -> None:
    """A refusal has a stable code, names what is wrong and says what to do; nothing changes."""
    world.do(IssueToken(digest=TOKEN, lifetime_s=60))
    before = world.state
    found = world.command(command)
    assert isinstance(found, Refusal)
    assert found.code == code
    assert word in f"{found.text} {found.hint}"
    assert world.state is before


def test_nodes_tell_their_addresses_on_a_network_that_came_later(world: World) -> None:
    """Without them a second interconnect would be a name; what peers use now stays as it is."""
    world.do(SetNetwork(name="ic2", subnets=("10.2.0.0/24",), role=NetworkRole.INTERCONNECT))
    former = world.state.nodes[NodeId(1)].addresses
    told = {"client": "192.0.2.99", "ic2": "10.2.0.1"}
    tell = TellAbility(node=NodeId(1), realtime=True, addresses=told)
    assert "node1 has an address on ic2" in world.do(tell).because.text
    assert world.state.nodes[NodeId(1)].addresses == former | {"ic2": "10.2.0.1"}
    assert world.do(tell).events == ()
    for at, code in (("10.2.0.1", "node-exists"), ("10.3.0.2", "address-outside")):
        found = world.command(TellAbility(node=NodeId(2), realtime=True, addresses={"ic2": at}))
        assert isinstance(found, Refusal)
        assert found.code == code


def test_a_profile_that_a_node_cannot_hold_is_refused(world: World) -> None:
    """Nodes tell whether they have real-time scheduling; who did not tell is no obstacle."""
    assert world.do(TellAbility(node=NodeId(1), realtime=True)).events
    assert world.do(TellAbility(node=NodeId(1), realtime=True)).events == ()
    world.do(ChangeCluster(profile="fast"))
    world.apply(events.ProfileSettled())
    world.do(TellAbility(node=NodeId(2), realtime=False))
    found = world.command(ChangeCluster(profile="default"))
    assert isinstance(found, Refusal)
    assert (found.code, found.field) == ("profile-too-short", "profile")
    assert "no real-time scheduling on node2: profile default: P = 260 ms, needs" in found.text
    assert "run Leitwolf as root on node2" in found.hint
    assert world.do(ChangeCluster(profile="virtual")).events


@pytest.mark.parametrize(
    ("profile", "realtime", "stall_ms", "said", "hint"),
    [
        ("default", None, 900, "", ""),
        ("default", True, 30, "", ""),
        ("virtual", False, 0, "", ""),
        (
            "default",
            False,
            0,
            "node4 has no real-time scheduling: profile default: P = 260 ms, needs at least 612 ms",
            "run Leitwolf as root on node4, or on a member: leitwolf set --profile virtual",
        ),
        (
            "fast",
            True,
            120,
            "node4 stalls: profile fast: P = 150 ms, needs at least 222 ms (3 H 60 + worst stall 1",
            "on a member: leitwolf set --profile virtual, or ask again a minute after",
        ),
        ("virtual", True, 600, "node4 stalls: profile virtual: P = ", "leitwolf set --profile wan"),
        ("wan", True, 9_000, "worst stall 9000", "ask again a minute after"),
    ],
)
def test_who_cannot_hold_the_profile_does_not_join(
    world: World, profile: str, realtime: bool | None, stall_ms: int, said: str, hint: str
) -> None:
    """The refusal says what the profile needs, what the machine shows, and both ways out of it."""
    world.do(IssueToken(digest=TOKEN, lifetime_s=60))
    if profile != "default":
        world.do(ChangeCluster(profile=profile))
        world.apply(events.ProfileSettled())
    found = world.command(joining(realtime=realtime, stall_ms=stall_ms))
    if not said:
        assert isinstance(found, Judged)
        return
    assert isinstance(found, Refusal)
    assert (found.code, found.field) == ("profile-too-short", "profile")
    assert said in found.text
    assert hint in found.hint
    assert TOKEN in world.state.tokens


NOTHING: list[Command] = [
    WishGroup(group=WEB, wish=Wish.ONLINE),
    WishResource(resource=ResourceId("web-ip"), wish=Wish.ONLINE),
    MoveGroup(group=WEB, node=NodeId(1)),
    RecoverGroup(group=WEB),
    PauseNode(node=NodeId(1), paused=False),
    ChangeGroup(group=WEB, restart_threshold=1),
    ChangeResource(resource=ResourceId("web-app"), parameters={"command": "/bin/server"}),
    ChangeResource(resource=ResourceId("web-app"), depends=(ResourceId("web-ip"),)),
    ChangeCluster(name="test", profile="default"),
    TransferLeader(node=NodeId(2)),
    SetNetwork(name="client", subnets=("192.0.2.0/24", "2001:db8::/64"), role=NetworkRole.BOTH),
]


@pytest.mark.parametrize("command", NOTHING, ids=lambda command: type(command).__name__)
def test_what_is_so_already_needs_no_entry(world: World, command: Command) -> None:
    """Asking twice is not an error and leaves no trace."""
    assert world.do(command).events == ()


# --- groups --------------------------------------------------------------------------------------


def test_a_group_comes_with_its_resources_in_one_change(world: World) -> None:
    """All or nothing; resources stand behind what they depend on, empty values are left out."""
    found = world.do(group("mail", new("m2", ("m1",), user=""), new("m1")))
    added = [each for each in found.events if isinstance(each, events.ResourceAdded)]
    assert [each.resource for each in added] == ["m1", "m2"]
    assert added[1].parameters == {"command": "/bin/server"}
    assert world.group("mail").wish is Wish.ONLINE


def test_an_empty_value_is_wrong_where_a_value_is_needed() -> None:
    """An empty value of a new resource counts as not given."""
    world = World()
    found = world.command(group("web", new("a", command="")))
    assert isinstance(found, Refusal)
    assert found.code == "missing-parameter"


def test_a_group_is_removed_offline_or_by_force(world: World) -> None:
    """Removing goes through closing, so that the owner attests; nothing else works meanwhile."""
    world.do(WishGroup(group=WEB, wish=Wish.OFFLINE))
    found = world.command(RemoveGroup(group=WEB))
    assert isinstance(found, Refusal), "still running"
    world.report_all("web", OFFLINE)
    world.settle()
    world.do(RemoveGroup(group=WEB))
    assert world.group("web").phase is GroupPhase.CLOSING
    found = world.command(WishGroup(group=WEB, wish=Wish.ONLINE))
    assert isinstance(found, Refusal)
    assert found.code == "group-removing"


def test_moves_need_a_node_that_can_take_the_group(world: World) -> None:
    """Down, paused, disconnected and leaving targets are refused, each with its reason."""
    world.see(2, AWAY)
    world.settle()
    world.see(3, DISCONNECTED)
    for node, code in ((2, "node-down"), (3, "node-not-connected")):
        found = world.command(MoveGroup(group=WEB, node=NodeId(node)))
        assert isinstance(found, Refusal)
        assert (found.code, found.retryable) == (code, True)
    found = world.command(MoveGroup(group=WEB, node=NodeId(0)))
    assert isinstance(found, Refusal)
    assert found.code == "no-candidate"
    assert "node2 is down" in found.text
    world.do(PauseNode(node=NodeId(3), paused=True, drain=False))
    found = world.command(MoveGroup(group=WEB, node=NodeId(3)))
    assert isinstance(found, Refusal)
    assert found.code == "node-paused"
    assert found.hint == "leitwolf node resume node3"


def test_a_move_does_not_begin_while_the_owner_cannot_hear_of_it(world: World) -> None:
    """The group runs on; closing it would only make it unusable."""
    world.see(1, DISCONNECTED)
    found = world.command(MoveGroup(group=WEB, node=NodeId(2)))
    assert isinstance(found, Refusal)
    assert found.code == "owner-not-connected"


def test_a_stopped_group_is_moved_by_placing_it(world: World) -> None:
    """Nothing is closed where nothing runs."""
    world.do(group("idle", wish=Wish.OFFLINE))
    found = world.do(MoveGroup(group=GroupId("idle"), node=NodeId(3)))
    assert isinstance(found.events[0], events.GroupPlaced)
    assert world.group("idle").owner == 3


def test_a_move_under_way_can_be_redirected(world: World) -> None:
    """A second move changes the target; the same one again changes nothing."""
    world.do(MoveGroup(group=WEB, node=NodeId(2)))
    assert world.do(MoveGroup(group=WEB, node=NodeId(2))).events == ()
    world.do(MoveGroup(group=WEB, node=NodeId(3)))
    assert world.group("web").target == 3


def test_asking_a_failed_group_online_tries_it_again(world: World) -> None:
    """The wish is what it was; the attempt is new."""
    world.do(ChangeGroup(group=WEB, restart_threshold=0, failover_threshold=0))
    world.report("web-app", FAILED)
    world.settle()
    assert world.group("web").failed_at >= 0
    found = world.do(WishGroup(group=WEB, wish=Wish.ONLINE))
    assert [type(each).__name__ for each in found.events] == ["ResourceMoved", "GroupRecovered"]


# --- resources -----------------------------------------------------------------------------------


def test_an_online_resource_cannot_begin_to_need_an_offline_one(world: World) -> None:
    """It would have to stop at once."""
    world.do(resource("more"))
    found = world.command(
        ChangeResource(
            resource=ResourceId("web-app"), depends=(ResourceId("web-ip"), ResourceId("more"))
        )
    )
    assert isinstance(found, Refusal)
    assert found.code == "provider-offline"


def test_the_depth_of_dependencies_is_limited() -> None:
    """A chain of a hundred links is enough for anybody."""
    world = World()
    chain = [new("r0"), *(new(f"r{n}", (f"r{n - 1}",)) for n in range(1, 101))]
    found = world.command(group("deep", *chain))
    assert isinstance(found, Refusal)
    assert found.code == "dependency-depth"
    world.do(group("deep", *chain[:100]))


def test_a_resource_that_is_not_wanted_any_more_can_be_removed(world: World) -> None:
    """Offline by wish and in fact."""
    name = ResourceId("web-app")
    world.do(WishResource(resource=name, wish=Wish.OFFLINE))
    world.report("web-app", OFFLINE)
    world.settle()
    world.do(RemoveResource(resource=name))
    assert name not in world.state.resources


def test_an_address_on_a_named_interface_is_the_operators_business() -> None:
    """Neither subnet nor network is known then; uniqueness is still checked."""
    world = World()
    world.do(group("a", address("a-ip", "198.51.100.1/24", network="eth7")))
    found = world.command(group("b", address("b-ip", "198.51.100.1/16", network="eth8")))
    assert isinstance(found, Refusal)
    assert found.code == "address-in-use"
    world.do(SetNetwork(name="heart", subnets=("10.0.0.0/24",), role=NetworkRole.INTERCONNECT))
    found = world.command(group("b", address("b-ip", "10.0.0.9/24", network="heart")))
    assert isinstance(found, Refusal)
    assert (found.code, found.field) == ("address-outside", "network")


def test_an_ipv6_address_is_compared_in_its_normal_form() -> None:
    """Two spellings are one address."""
    world = World()
    world.do(group("a", address("a-ip", "2001:db8::a/64")))
    found = world.command(group("b", address("b-ip", "2001:DB8:0::000a/64")))
    assert isinstance(found, Refusal)
    assert found.code == "address-in-use"


# --- nodes ---------------------------------------------------------------------------------------


def test_joining_uses_up_the_token_and_tells_the_id(world: World) -> None:
    """A token pays for one node; ids count on."""
    world.do(IssueToken(digest=TOKEN, lifetime_s=60))
    found = world.do(joining())
    assert found.data == {"node": "4"}
    assert world.state.nodes[4].name == "node4"
    again = world.command(joining(name="node5", uuid="uuid5", storage="disk5"))
    assert isinstance(again, Refusal)
    assert again.code == "token-unknown"


def test_eviction_that_would_break_the_quorum_is_refused(world: World) -> None:
    """With one of three nodes down, only that one may be evicted."""
    world.see(3, AWAY)
    world.settle()
    found = world.command(EvictNode(node=NodeId(2)))
    assert isinstance(found, Refusal)
    assert found.code == "not-enough-voters"
    assert "start node3" in found.hint
    assert isinstance(world.command(EvictNode(node=NodeId(3))), Judged)
    assert world.do(EvictNode(node=NodeId(3))).events == ()


def test_the_last_node_cannot_be_evicted() -> None:
    """A cluster ends by destroying it."""
    found = World(1).command(EvictNode(node=NodeId(1)))
    assert isinstance(found, Refusal)
    assert found.code == "last-node"


def test_leadership_goes_to_reachable_members_only(world: World) -> None:
    """Learners and unreachable nodes cannot lead."""
    world.see(2, DISCONNECTED)
    found = world.command(TransferLeader(node=NodeId(2)))
    assert isinstance(found, Refusal)
    assert found.code == "node-not-connected"
    world.apply(World.new_node(4))
    found = world.command(TransferLeader(node=NodeId(4)))
    assert isinstance(found, Refusal)
    assert found.code == "node-learner"


def test_judging_changes_nothing(world: World) -> None:
    """A command is judged without side effects, twice alike."""
    command = MoveGroup(group=WEB, node=NodeId(2))
    seen = world.seen()
    assert judge(world.state, command, seen) == judge(world.state, command, seen)


# --- types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("command", "/bin/sh -c 'a b'", True),
        ("command", "/bin/sh -c 'a", False),
        ("user", "www-data", True),
        ("user", "a b", False),
        ("environment", "A=1 B='2 3'", True),
        ("environment", "A", False),
        ("working_directory", "/srv", True),
        ("working_directory", "srv", False),
        ("stop_signal", "SIGQUIT", True),
        ("stop_signal", "15", True),
        ("stop_signal", "STOPPED", False),
        ("stop_signal", "99", False),
        ("stop_timeout_ms", "0", True),
        ("stop_timeout_ms", "-1", False),
        ("stop_timeout_ms", "9" * 30, False),
        ("stop_timeout_ms", "٣", False),
        ("check_tcp", "127.0.0.1:80", True),
        ("check_tcp", "[::1]:80", True),
        ("check_tcp", "localhost:80", True),
        ("check_tcp", "80", False),
        ("check_tcp", "::1:80", False),
        ("check_tcp", "[::1:80", False),
        ("check_tcp", "127.0.0.1:0", False),
        ("check_tcp", "web.example:80", False),
        ("check_http", "http://127.0.0.1:8080/health", True),
        ("check_http", "http://[2001:db8::1]/", True),
        ("check_http", "https://127.0.0.1/", False),
        ("check_http", "http://web.example/", False),
        ("check_http", "http://127.0.0.1:99999/", False),
        ("check_failures", "0", False),
        ("output_bytes_max", "4095", False),
        ("command", "x" * 8_193, False),
        ("command", "a\0b", False),
    ],
)
def test_values_of_process_parameters(name: str, value: str, *, right: bool) -> None:
    """Each kind of value is checked before anything is stored."""
    found = problems("process", {"command": "x", name: value})
    assert (found == []) is right
    if not right:
        assert (found[0].code, found[0].field) == ("invalid-parameter", name)


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("192.0.2.10/24", True),
        ("192.0.2.10/32", True),
        ("2001:db8::1/64", True),
        ("192.0.2.255/24", False),
        ("192.0.2.0/24", False),
        ("224.0.0.1/24", False),
        ("127.0.0.1/8", False),
        ("0.0.0.0/0", False),
        ("192.0.2.10/255.255.255.0", False),
        ("192.0.2.10/33", False),
        ("fe80::1%eth0/64", False),
        ("web/24", False),
    ],
)
def test_values_of_addresses(value: str, *, right: bool) -> None:
    """A virtual address has a prefix length and can be reached."""
    assert (problems("ip_address", {"address": value}) == []) is right


def test_only_one_check_may_be_given() -> None:
    """Two checks could contradict each other."""
    found = problems(
        "process", {"command": "x", "check_tcp": "127.0.0.1:1", "check_command": "true"}
    )
    assert [each.code for each in found] == ["invalid-parameter"]


def test_defaults_are_values_that_may_be_given() -> None:
    """Every documented default passes its own check."""
    for kind in TYPES.values():
        needed = {"process": {"command": "x"}, "ip_address": {"address": "192.0.2.1/24"}}
        for parameter in kind.parameters:
            if parameter.default:
                given = needed[kind.name] | {parameter.name: parameter.default}
                assert problems(kind.name, given) == []
                assert value_of(kind.name, {}, parameter.name) == parameter.default
    assert value_of("process", {"user": "www"}, "user") == "www"
