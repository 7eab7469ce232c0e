"""Networks in ``status``: which works as seen from a node, and one reason each."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.sim_calm import calm, leader
from tests.unit.api_support import group_view, node_line, resource_view, status_view

from leitwolf.cli import render
from leitwolf.core.membership.roster import interconnects
from leitwolf.core.node import Node
from leitwolf.core.rules import ALL_RULES
from leitwolf.daemon import networks
from leitwolf.daemon.link_views import told_of
from leitwolf.daemon.network_views import network_views
from leitwolf.daemon.networks import Machine, OwnSide, own_sides
from leitwolf.daemon.views import status_view as status_of
from leitwolf.model.ids import NetworkRole, NodeId
from leitwolf.model.state import Network
from leitwolf.model.views import LinkView, NetworkView, ProofView
from leitwolf.system.interfaces import InterfaceAddress, interface_faults
from leitwolf.system.rtnetlink import ADDRESS_PROTOCOL
from leitwolf.wire.guard import LinkState

NETWORKS = (("client", ("192.0.2.0/24", "2001:db8::/64")), ("storage", ("10.9.9.0/24",)))


def found(interface: str, address: str, protocol: int = 0) -> InterfaceAddress:
    return InterfaceAddress(interface, address, "", protocol)


@pytest.mark.parametrize(
    ("addresses", "faults", "side"),
    [
        (
            [found("eth0", "2001:db8::1"), found("eth0", "192.0.2.1")],
            {"eth0": ""},
            OwnSide("192.0.2.1", "eth0", ""),
        ),
        (
            [found("eth0", "192.0.2.1")],
            {"eth0": "has no carrier"},
            OwnSide("192.0.2.1", "eth0", "eth0 has no carrier, here"),
        ),
        (
            [found("eth0", "192.0.2.1"), found("eth1", "2001:db8::1")],
            {"eth0": "is down", "eth1": ""},
            OwnSide("2001:db8::1", "eth1", ""),
        ),
        (
            [found("eth0", "192.0.2.1")],
            {},
            OwnSide("192.0.2.1", "eth0", "eth0 is gone, here"),
        ),
        (
            [found("eth0", "192.0.2.80", ADDRESS_PROTOCOL), found("eth1", "10.0.0.1")],
            {"eth0": "", "eth1": ""},
            OwnSide("", "", "this node has no address in it"),
        ),
    ],
)
def test_the_own_side_of_a_network(
    addresses: list[InterfaceAddress], faults: dict[str, str], side: OwnSide
) -> None:
    """One that works comes first, then IPv4; a virtual address is not the machine's own."""
    sides = own_sides(addresses, faults, NETWORKS)
    assert sides["client"] == side
    assert sides["storage"].fault == "this node has no address in it"


def test_the_machine_is_looked_at_anew_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for every question; and where the kernel refuses, nothing is said of it."""
    clock, looks = [0.0], list[float]()
    faults = {"eth0": ""}

    def look() -> dict[str, str]:
        looks.append(clock[0])
        return faults

    monkeypatch.setattr(networks, "interface_addresses", lambda: [found("eth0", "192.0.2.1")])
    monkeypatch.setattr(networks, "interface_faults", look)
    monkeypatch.setattr(networks.time, "monotonic", lambda: clock[0])
    machine = Machine()
    assert not machine.sides(NETWORKS)["client"].fault
    faults = {"eth0": "is down"}
    assert not machine.sides(NETWORKS)["client"].fault
    clock[0] = 1.0
    assert machine.sides(NETWORKS)["client"].fault == "eth0 is down, here"
    assert looks == [0.0, 1.0]

    def refuse() -> dict[str, str]:
        raise PermissionError

    monkeypatch.setattr(networks, "interface_faults", refuse)
    clock[0] = 2.0
    assert machine.sides(NETWORKS) == {}


def test_the_kernel_tells_what_keeps_an_interface_from_carrying() -> None:
    """Of each one by name; the loopback of a running machine carries."""
    faults = interface_faults()
    assert faults["lo"] == ""
    assert set(faults.values()) <= {"", "is down", "has no carrier"}


@pytest.fixture(scope="module")
def core() -> Node:
    """The leader of three nodes."""
    core = leader(calm(1, ALL_RULES)).daemon.core
    assert core is not None
    return core


def shown(core: Node, *, up: tuple[bool, ...], fault: str = "", away: int = 0) -> NetworkView:
    """The interconnect, with links to the other nodes up or down."""
    state = core.state
    others = [node for node in sorted(state.nodes) if node != core.me]
    links = {
        (node, 0): LinkState(node=node, link=0, up=works, age=1, round_trip=1)
        for node, works in zip(others, up, strict=False)
    }
    if away:
        gone = replace(state.nodes[NodeId(others[away - 1])], up=False)
        state = replace(state, nodes={**state.nodes, gone.id: gone})
    name = interconnects(state)[0]
    sides = {name: OwnSide("10.0.0.1", "eth1", fault)}
    views = network_views(state, core.me, links, sides, told_of(core.paths, core.me))
    return next(one for one in views if one.name == name)


def test_an_interconnect_is_as_good_as_its_links(core: Node) -> None:
    """Down when it reaches nobody; who is not reached by it is named, unless that node is down."""
    _, last = [core.state.nodes[node] for node in sorted(core.state.nodes) if node != core.me]
    good = shown(core, up=(True, True))
    assert (good.up, good.reason) == (True, "10.0.0.1 on eth1")
    partly = shown(core, up=(True, False))
    assert (partly.up, partly.reason) == (True, f"{last.name} not reached by it")
    assert shown(core, up=(True, False), away=2).reason == "10.0.0.1 on eth1"
    nobody = shown(core, up=(False, False))
    assert (nobody.up, nobody.reason) == (False, "no other node is reached by it")
    alone = shown(core, up=())
    assert (alone.up, alone.reason) == (True, "10.0.0.1 on eth1")
    cut = shown(core, up=(True, True), fault="eth1 has no carrier, here")
    assert (cut.up, cut.reason) == (False, "eth1 has no carrier, here")


def test_a_client_network_can_be_down(core: Node) -> None:
    """No link tells it: the own address and carrier do, and else what the log has."""
    network = Network(name="client", subnets=("192.0.2.0/24",), role=NetworkRole.CLIENT)
    state = replace(core.state, networks={"client": network})
    for side, up, reason in (
        (OwnSide("192.0.2.1", "eth0", ""), True, "192.0.2.1 on eth0"),
        (OwnSide("192.0.2.1", "eth0", "eth0 is down, here"), False, "eth0 is down, here"),
        (OwnSide("", "", "this node has no address in it"), False, "this node has no address"),
    ):
        [view] = network_views(state, core.me, {}, {"client": side}, {})
        assert (view.up, view.reason.startswith(reason)) == (up, True), view.reason
    [view] = network_views(state, core.me, {}, {}, {})
    assert (view.up, view.reason) == (True, "not known here")


# --- the tree ------------------------------------------------------------------------------------


def test_three_nodes_and_five_groups_fit_a_screen() -> None:
    """24 lines of 100 columns; groups that are well take one line each, what is not is unfolded."""
    ip = resource_view("ip", type="ip_address", parameters={"address": "192.0.2.10/24"})
    long = {"command": "/usr/lib/postgresql/15/bin/postgres -D /var/lib/postgresql/15/main " * 2}
    app = resource_view("postgres-app", parameters=long)
    well = [group_view(app, ip, id=f"group{number}", owner="n1") for number in range(4)]
    bad = replace(app, state="failed", reason="exited with 1 after 3 restarts")
    failed = group_view(bad, ip, id="group4", status="failed", reason="failed on all nodes")
    links = (LinkView(network="lan", up=True, round_trip_ms=0.4),) * 2
    views = [
        NetworkView(name=name, subnets=("192.0.2.0/24",), role=name, up=True, reason="x on eth0")
        for name in ("client", "interconnect", "interconnect2")
    ]
    view = status_view(
        survives="any one of them may fail",
        advice="three nodes are better than two",
        nodes=(node_line(1), node_line(2, links=links), node_line(3, links=links)),
        networks=tuple(views),
        groups=(*well, failed),
    )
    lines = render.status(view).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    assert "  ● group0  online on n1  postgres-app, 192.0.2.10/24  started" in lines
    assert "  ✗ group4  failed on n2  failed on all nodes" in lines
    [line] = [line for line in lines if "✗ postgres-app" in line]
    assert line.startswith("    ├ ✗ postgres-app  process /usr/lib/")
    assert line.endswith("…  exited with 1 after 3 restarts")
    few = render.status(replace(view, groups=well[:2])).splitlines()
    assert len([line for line in few if "● ip  ip_address 192.0.2.10/24" in line]) == 2


def test_a_link_tells_what_gets_through(core: Node) -> None:
    """Heartbeats by UDP and the daemons' stream by TCP, each for itself."""
    other = next(node for node in sorted(core.state.nodes) if node != core.me)
    links = {
        (other, number): LinkState(node=other, link=number, up=up, age=1, round_trip=1)
        for number, up in enumerate((True, False))
    }
    proof = ProofView(address=True, process=False, data=False)
    view = status_of(
        core,
        links=links,
        streams={other: (1,)},
        sides={},
        fresh=True,
        leased=True,
        proof=proof,
        stopped=(),
    )
    [line] = [node for node in view.nodes if node.id == other]
    assert [(link.up, link.stream) for link in line.links] == [(True, False), (False, True)]
