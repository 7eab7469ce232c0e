"""What a command about a network means, and what it must not take away."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from leitwolf.core.membership.roster import link_numbers
from leitwolf.core.policy.checks import (
    Judged,
    Refused,
    check_name,
    check_reachable,
    judged,
    parse_address,
    parse_subnet,
)
from leitwolf.model import commands, events
from leitwolf.model.ids import NetworkRole
from leitwolf.model.observations import Observations
from leitwolf.model.state import Network, State
from leitwolf.model.types import address_of

__all__ = ["set_network"]

_SUBNETS_MAX = 16
"""Of one network; a machine with more addresses on one wire is a router."""
_LINKS_MAX = 256
"""A heartbeat names its link by one byte."""


def set_network(state: State, command: commands.SetNetwork, _seen: Observations) -> Judged:
    """Add or change a network."""
    check_name(command.name, "name")
    if not 1 <= len(command.subnets) <= _SUBNETS_MAX:
        raise Refused(
            "out-of-range",
            f"network {command.name} has {len(command.subnets)} subnets",
            hint=f"1..{_SUBNETS_MAX}",
            field="subnets",
        )
    subnets = [parse_subnet(text, "subnets") for text in command.subnets]
    for other in state.networks.values():
        if other.name != command.name:
            _check_apart(subnets, other)
    for node in state.nodes.values():
        text = node.addresses.get(command.name)
        if text and not any(parse_address(text) in subnet for subnet in subnets):
            raise Refused(
                "network-in-use",
                f"node {node.name} has the address {text} on {command.name}, outside of "
                f"{', '.join(command.subnets)}",
                hint="keep the subnet of every node's address",
                field="subnets",
            )
    text = f"set network {command.name}"
    known = state.networks.get(command.name)
    normal = tuple(str(subnet) for subnet in subnets)
    if known is not None and known.subnets == normal and known.role is command.role:
        return judged([], text)
    changed = events.NetworkSet(
        name=command.name, subnets=normal, role=command.role, link=_link_of(state, command)
    )
    if known is None:
        return judged([changed], text)
    after = Network(name=command.name, subnets=normal, role=command.role)
    if known.role is not NetworkRole.CLIENT and command.role is NetworkRole.CLIENT:
        _check_interconnects(state, command.name)
    _check_virtual(state, {**state.networks, command.name: after})
    return judged([changed], text)


def _link_of(state: State, command: commands.SetNetwork) -> int:
    """Return the number of a network's link: the one that it has, or the next; -1: it has none."""
    numbers = link_numbers(state)
    if command.name in numbers or command.role is NetworkRole.CLIENT:
        return numbers.get(command.name, -1)
    number = max(numbers.values(), default=-1) + 1
    if number >= _LINKS_MAX:
        raise Refused(
            "too-many",
            f"{_LINKS_MAX} networks carry heartbeats, or did so once",
            hint="take one of them again: leitwolf network set NAME --role interconnect",
            field="role",
        )
    return number


def _check_apart(
    subnets: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network], other: Network
) -> None:
    """Check that none of these subnets overlaps with one of another network."""
    for text in other.subnets:
        taken = parse_subnet(text, "subnets")
        for subnet in subnets:
            first, last = subnet.network_address, subnet.broadcast_address
            if first in taken or last in taken or taken.network_address in subnet:
                raise Refused(
                    "network-overlap",
                    f"{subnet} overlaps with {taken} of network {other.name}",
                    hint=f"change network {other.name} first",
                    field="subnets",
                )


def _check_interconnects(state: State, without: str) -> None:
    """Check that every node has an address on one interconnect, also without this one.

    Else no heartbeat would reach some node, and no later command a quorum; a single node could let
    nobody join.
    """
    nodes = sorted(state.nodes.values(), key=lambda node: node.id)
    if not any(without in node.addresses for node in nodes):
        return
    missing = []
    for network in sorted(state.networks.values(), key=lambda network: network.name):
        if network.name == without or network.role is NetworkRole.CLIENT:
            continue
        absent = [node.name for node in nodes if network.name not in node.addresses]
        if not absent:
            return
        missing.append(f"{', '.join(absent)} on {network.name}")
    if missing:
        problem = f"on no other interconnect has every node an address (none: {'; '.join(missing)})"
        hint = "give every node an address there, and wait until leitwolf status shows its link"
    else:
        problem = "it is the only interconnect"
        hint = (
            "first add another one, in which every node has an address: "
            "leitwolf network set NAME --subnet SUBNET --role interconnect"
        )
    raise Refused(
        "last-interconnect",
        f"without {without} the nodes could not hear each other: {problem}",
        hint=f"{hint}; or let {without} carry both: "
        f"leitwolf network set {without} --role {NetworkRole.BOTH}",
        field="role",
    )


def _check_virtual(state: State, networks: Mapping[str, Network]) -> None:
    """Check that every virtual address that clients can reach still can be with these networks."""
    for resource in sorted(state.resources.values(), key=lambda resource: resource.id):
        address = address_of(resource.parameters)
        if address is None:
            continue
        network = resource.parameters.get("network", "")
        try:
            check_reachable(networks, address, network)
        except Refused as after:
            try:
                check_reachable(state.networks, address, network)
            except Refused:
                continue  # it was no better before
            raise Refused(
                "network-in-use",
                f"resource {resource.id} of group {resource.group} has the address {address}: "
                f"{after.refusal.text}",
                hint=(
                    "keep a client network with the subnet of this address, or give the resource "
                    f"another one first: leitwolf resource set {resource.id} address=ADDRESS"
                ),
                field="subnets",
            ) from after
