"""The own side of each network: by which address and interface, and whether it works."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from leitwolf.system.interfaces import (
    InterfaceAddress,
    interface_addresses,
    interface_faults,
    lasting,
)

__all__ = ["Machine", "OwnSide", "own_addresses", "own_sides"]

_LOOK_S = 0.5
"""Who asks more often than that gets the same answer: looking takes the kernel's time."""


class OwnSide(NamedTuple):
    """This machine's side of a network."""

    address: str
    """'': it has none there."""
    interface: str
    fault: str
    """Why nothing gets through here, '': it does."""


def own_addresses(
    addresses: list[InterfaceAddress], networks: Iterable[tuple[str, tuple[str, ...]]]
) -> dict[str, str]:
    """Return this machine's address on each network that it has one on, IPv4 before IPv6."""
    own: dict[str, str] = {}
    usable = lasting(addresses)
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


def own_sides(
    addresses: list[InterfaceAddress],
    faults: Mapping[str, str],
    networks: Iterable[tuple[str, tuple[str, ...]]],
) -> dict[str, OwnSide]:
    """Return this machine's side of each network: one that works before one that does not.

    Args:
        addresses: of this machine.
        faults: of its interfaces, as :func:`interface_faults` returns them.
        networks: names and subnets.
    """
    sides: dict[str, OwnSide] = {}
    for name, subnets in networks:
        spans = [ipaddress.ip_network(subnet) for subnet in subnets]
        found = [
            OwnSide(item.address, item.interface, faults.get(item.interface, "is gone"))
            for item in lasting(addresses)
            if any(ipaddress.ip_address(item.address) in span for span in spans)
        ]
        found.sort(key=lambda side: (bool(side.fault), ":" in side.address))
        side = found[0] if found else OwnSide("", "", "this node has no address in it")
        if side.address and side.fault:
            side = side._replace(fault=f"{side.interface} {side.fault}, here")
        sides[name] = side
    return sides


class Machine:
    """The interfaces of this machine, looked at when somebody asks."""

    def __init__(self) -> None:
        self._looked_at = float("-inf")
        self._addresses: list[InterfaceAddress] = []
        self._faults: dict[str, str] = {}

    def sides(self, networks: Iterable[tuple[str, tuple[str, ...]]]) -> dict[str, OwnSide]:
        """Return this machine's side of each network; nothing where the kernel does not tell."""
        at = time.monotonic()
        if at - self._looked_at > _LOOK_S:
            try:
                self._addresses, self._faults = interface_addresses(), interface_faults()
            except OSError:
                return {}
            self._looked_at = at
        return own_sides(self._addresses, self._faults, networks)
