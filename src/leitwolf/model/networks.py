"""Which networks a new cluster gets, of those that a machine has."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from leitwolf.model.errors import InvalidConfig
from leitwolf.model.events import NetworkSet
from leitwolf.model.ids import NetworkRole

__all__ = ["Address", "choose_networks"]


class Address(Protocol):
    """One address of one interface."""

    @property
    def interface(self) -> str:
        """Name of the interface."""

    @property
    def address(self) -> str:
        """The address without its prefix."""

    @property
    def subnet(self) -> str:
        """The network that the prefix spans."""


A = TypeVar("A", bound=Address)


def _by_interface(addresses: Iterable[A]) -> dict[str, list[A]]:
    found: dict[str, list[A]] = {}
    for item in addresses:
        found.setdefault(item.interface, []).append(item)
    return found


def _interface_of(wanted: str, found: Mapping[str, Sequence[Address]], field: str) -> str:
    if wanted in found:
        return wanted
    try:
        subnet = ipaddress.ip_network(wanted, strict=False)
    except ValueError as error:
        raise InvalidConfig(
            f"{field} = {wanted!r} is neither an interface with an address nor a subnet",
            field=field,
            hint=_there(found),
        ) from error
    for interface, addresses in found.items():
        if any(ipaddress.ip_address(item.address) in subnet for item in addresses):
            return interface
    raise InvalidConfig(
        f"{field} = {wanted}: this machine has no address in it", field=field, hint=_there(found)
    )


def _there(found: Mapping[str, Sequence[Address]]) -> str:
    """Say what can be named instead."""
    each = (f"{name} ({', '.join(one.subnet for one in found[name])})" for name in found)
    return f"name one of these: {'; '.join(each)}"


def choose_networks(
    addresses: Sequence[Address], interconnect: tuple[str, ...], client: tuple[str, ...]
) -> list[NetworkSet]:
    """Return the networks of a new cluster.

    Nothing given: every interface with an address carries both heartbeats and clients. Otherwise
    the interfaces that were named, each in the roles for which it was.

    Args:
        addresses: of this machine, without virtual ones.
        interconnect: subnets or interfaces between the nodes.
        client: those of the clients.

    Raises:
        InvalidConfig: a name fits no interface, or the machine has no network at all.
    """
    found = _by_interface(addresses)
    if not found:
        raise InvalidConfig(
            "this machine has no network address besides loopback",
            field="interconnect",
            hint="give an interface an address that is its own: ip address add",
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
