"""What a change of a network must not take away."""

from __future__ import annotations

import pytest
from tests.policy_world import World

from leitwolf.core.membership.roster import guard_configuration, interconnects
from leitwolf.model import events
from leitwolf.model.commands import (
    AddGroup,
    NewResource,
    Refusal,
    SetNetwork,
    TellAbility,
)
from leitwolf.model.ids import GroupId, NetworkRole, NodeId, ResourceId
from leitwolf.model.quorum import QuorumConfig

BOTH, CLIENT, HEART = NetworkRole.BOTH, NetworkRole.CLIENT, NetworkRole.INTERCONNECT
LAN = ("192.0.2.0/24", "2001:db8::/64")


def network(name: str, role: NetworkRole, *subnets: str) -> SetNetwork:
    return SetNetwork(name=name, subnets=subnets or LAN, role=role)


def refused(world: World, command: SetNetwork) -> Refusal:
    """Return the refusal of a command, which changes nothing."""
    before = world.state
    found = world.command(command)
    assert isinstance(found, Refusal)
    assert world.state is before
    return found


def told(world: World, number: int, name: str, address: str) -> None:
    """Let a node tell its address on a network that came later."""
    world.do(TellAbility(node=NodeId(number), realtime=True, addresses={name: address}))


def virtual(world: World, address: str, network: str = "") -> None:
    """Add group web with an address."""
    parameters = {"address": address} | ({"network": network} if network else {})
    resource = NewResource(
        resource=ResourceId("web-ip"), type="ip_address", parameters=parameters, depends=()
    )
    world.do(AddGroup(group=GroupId("web"), resources=(resource,)))


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_the_last_interconnect_is_not_taken_away(nodes: int) -> None:
    """No heartbeat and no stream would be left, or of a single node no way to join it."""
    world = World(nodes)
    found = refused(world, network("client", CLIENT))
    assert (found.code, found.field) == ("last-interconnect", "role")
    assert "it is the only interconnect" in found.text
    assert "network set NAME --subnet SUBNET --role interconnect" in found.hint
    assert "leitwolf network set client --role both" in found.hint
    world.do(network("client", HEART))


def test_another_interconnect_counts_when_every_node_has_an_address_on_it() -> None:
    """Until then the refusal names who has none."""
    world = World(3)
    world.do(network("heart", HEART, "10.2.0.0/24"))
    for number in (1, 3):
        told(world, number, "heart", f"10.2.0.{number}")
    found = refused(world, network("client", CLIENT))
    assert found.code == "last-interconnect"
    assert "none: node2 on heart" in found.text
    told(world, 2, "heart", "10.2.0.2")
    world.do(network("client", CLIENT))
    found = refused(world, network("heart", CLIENT, "10.2.0.0/24"))
    assert found.code == "last-interconnect"


def test_an_interconnect_that_nobody_uses_can_always_go() -> None:
    """Also where the nodes share none: it is not what they hear each other by."""
    world = World(2)
    world.do(network("heart", HEART, "10.2.0.0/24"))
    world.do(network("heart", CLIENT, "10.2.0.0/24"))


@pytest.mark.parametrize("subnets", [("192.0.3.0/24",), ("192.0.2.0/31",), ("2001:db8::/64",)])
def test_the_subnets_of_an_interconnect_keep_the_addresses_of_its_nodes(
    subnets: tuple[str, ...],
) -> None:
    """Who joins later must find them, and they are where the others send to."""
    found = refused(World(3), network("client", BOTH, *subnets))
    assert (found.code, found.field) == ("network-in-use", "subnets")
    assert "node node" in found.text


@pytest.mark.parametrize(
    ("address", "command", "said"),
    [
        ("2001:db8::a/64", network("client", BOTH, "192.0.2.0/24"), "lies in no subnet"),
        ("192.0.2.200/24", network("client", BOTH, "192.0.2.0/25"), "lies in no subnet"),
        ("192.0.2.100/24", network("client", BOTH, "192.0.2.0/25"), "wider than its subnet"),
        ("192.0.2.100/24", network("client", HEART), "lies in no subnet"),
    ],
    ids=["family", "outside", "wider", "role"],
)
def test_a_virtual_address_keeps_a_network_for_its_clients(
    address: str, command: SetNetwork, said: str
) -> None:
    """The refusal names group, resource, address and what to do."""
    world = World(3)
    virtual(world, address)
    found = refused(world, command)
    assert (found.code, found.field) == ("network-in-use", "subnets")
    assert f"resource web-ip of group web has the address {address}" in found.text
    assert said in found.text
    assert "leitwolf resource set web-ip address=ADDRESS" in found.hint


def test_an_address_on_a_named_network_keeps_that_one() -> None:
    """Also if another one has its subnet for clients; of a named interface nothing is known."""
    world = World(3)
    virtual(world, "192.0.2.100/24", network="client")
    assert "network = client carries no clients" in refused(world, network("client", HEART)).text
    world = World(3)
    virtual(world, "198.51.100.1/24", network="eth7")
    world.do(network("client", HEART))
    world.do(network("eth7", HEART, "10.9.0.0/24"))


def test_an_address_that_was_outside_before_hinders_nothing() -> None:
    """The change makes nothing worse: it may be the very one that mends it."""
    world = World(3)
    virtual(world, "10.3.0.9/24", network="eth7")
    world.do(network("eth7", HEART, "10.3.0.0/24"))
    world.do(network("client", BOTH, *LAN, "198.51.100.0/24"))


# --- numbers of links ----------------------------------------------------------------------------


def test_a_link_keeps_its_number_whatever_becomes_of_the_others() -> None:
    """A heartbeat names its link by it, and nodes learn of a change one after the other."""
    world = World(2)
    assert interconnects(world.state) == ["client"]
    world.do(network("another", HEART, "10.2.0.0/24"))
    assert interconnects(world.state) == ["client", "another"]
    for number in (1, 2):
        told(world, number, "another", f"10.2.0.{number}")
    world.do(network("client", CLIENT))
    assert interconnects(world.state) == ["", "another"]
    configuration = guard_configuration(world.state, QuorumConfig(acceptors=()), NodeId(1))
    assert configuration is not None
    assert configuration.addresses == ("", "10.2.0.1")
    assert [peer.addresses for peer in configuration.peers] == [("", "10.2.0.2")]
    world.do(network("back", BOTH, "10.3.0.0/24"))
    assert interconnects(world.state) == ["", "another", "back"]
    world.do(network("client", BOTH, "192.0.2.0/24", "2001:db8::/64", "10.4.0.0/24"))
    assert interconnects(world.state) == ["client", "another", "back"]


def test_the_networks_of_the_forming_are_links_in_the_order_of_their_names() -> None:
    """Also when one of them is changed later, or becomes an interconnect only then."""
    world = World(1)
    for name, role in (("a", HEART), ("e", HEART), ("b", CLIENT)):
        subnet = f"10.{ord(name)}.0.0/24"
        world.apply(events.NetworkSet(name=name, subnets=(subnet,), role=role))
    assert interconnects(world.state) == ["a", "client", "e"]
    world.do(network("client", HEART))
    world.do(network("e", BOTH, "10.101.0.0/24"))
    assert interconnects(world.state) == ["a", "client", "e"]
    world.do(network("client", BOTH))
    world.do(network("b", HEART, "10.98.0.0/24"))
    world.do(network("a", CLIENT, "10.97.0.0/24"))
    assert interconnects(world.state) == ["", "client", "e", "b"]


def test_there_are_as_many_links_as_a_heartbeat_can_name() -> None:
    """The next network is refused; one that was a link before is not."""
    world = World(1)
    world.apply(
        events.NetworkSet(name="last", subnets=("10.1.0.0/24",), role=CLIENT, link=255),
    )
    found = refused(world, network("next", HEART, "10.2.0.0/24"))
    assert (found.code, found.field) == ("too-many", "role")
    world.do(network("last", HEART, "10.1.0.0/24"))
