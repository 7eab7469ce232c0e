"""Which networks a node uses: chosen when the cluster is formed, found again when a node joins."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from leitwolf.model.errors import InvalidConfig
from leitwolf.model.events import NetworkSet
from leitwolf.model.ids import NetworkRole
from leitwolf.system.interfaces import InterfaceAddress
from leitwolf.system.rtnetlink import ADDRESS_PROTOCOL

__all__ = ["choose_networks", "own_addresses"]


def _by_interface(addresses: Iterable[InterfaceAddress]) -> dict[str, list[InterfaceAddress]]:
    found: dict[str, list[InterfaceAddress]] = {}
    for item in addresses:
        if item.protocol != ADDRESS_PROTOCOL:
            found.setdefault(item.interface, []).append(item)
    return found


def _interface_of(wanted: str, found: Mapping[str, list[InterfaceAddress]], field: str) -> str:
    if wanted in found:
        return wanted
    try:
        subnet = ipaddress.ip_network(wanted, strict=False)
    except ValueError as error:
        raise InvalidConfig(
            f"{field} = {wanted!r} is neither an interface with an address nor a subnet; "
            f"interfaces: {', '.join(found) or 'none'}",
            field=field,
        ) from error
    for interface, addresses in found.items():
        if any(ipaddress.ip_address(item.address) in subnet for item in addresses):
            return interface
    raise InvalidConfig(f"{field} = {wanted}: this machine has no address in it", field=field)


def choose_networks(
    addresses: list[InterfaceAddress], interconnect: tuple[str, ...], client: tuple[str, ...]
) -> list[NetworkSet]:
    """Return the networks of a new cluster.

    Nothing given: every interface with an address carries both heartbeats and clients. Otherwise
    the interfaces that were named, each in the roles for which it was.

    Raises:
        InvalidConfig: a name fits no interface, or the machine has no network at all.
    """
    found = _by_interface(addresses)
    if not found:
        raise InvalidConfig(
            "this machine has no network address besides loopback", field="interconnect"
        )
    if not interconnect and not client:
        chosen = dict.fromkeys(found, NetworkRole.BOTH)
    else:
        chosen = {}
        for wanted in interconnect:
            chosen[_interface_of(wanted, found, "interconnect")] = NetworkRole.INTERCONNECT
        for wanted in client:
            interface = _interface_of(wanted, found, "client")
            both = interface in chosen or not interconnect
            chosen[interface] = NetworkRole.BOTH if both else NetworkRole.CLIENT
    counts: dict[str, int] = {}
    networks = []
    for interface, role in chosen.items():
        base = "lan" if role is NetworkRole.BOTH else role.value
        counts[base] = counts.get(base, 0) + 1
        name = base if counts[base] == 1 else f"{base}{counts[base]}"
        subnets = tuple(dict.fromkeys(item.subnet for item in found[interface]))
        networks.append(NetworkSet(name=name, subnets=subnets, role=role))
    return networks


def own_addresses(
    addresses: list[InterfaceAddress], networks: Iterable[tuple[str, tuple[str, ...]]]
) -> dict[str, str]:
    """Return this machine's address on each network that it has one on, IPv4 before IPv6."""
    own: dict[str, str] = {}
    usable = [item for item in addresses if item.protocol != ADDRESS_PROTOCOL]
    for name, subnets in networks:
        spans = [ipaddress.ip_network(subnet) for subnet in subnets]
        inside = [
            item.address
            for item in usable
            if any(ipaddress.ip_address(item.address) in span for span in spans)
        ]
        inside.sort(key=lambda address: ":" in address)
        if inside:
            own[name] = inside[0]
    return own
