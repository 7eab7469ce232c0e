"""Checks that commands share. Each raises :class:`Refused`, which only ``judge`` catches."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

import msgspec

from leitwolf.core.policy.dependencies import depth, find_cycle
from leitwolf.core.policy.placement import unusable
from leitwolf.model.commands import Refusal
from leitwolf.model.events import Cause, Event
from leitwolf.model.ids import GroupId, NetworkRole, NodeId, ResourceId
from leitwolf.model.limits import DEPENDENCY_DEPTH_MAX, NAME_LENGTH_MAX
from leitwolf.model.observations import Observations
from leitwolf.model.state import Group, Network, Node, Resource, State
from leitwolf.model.types import address_of, problems

__all__ = [
    "Judged",
    "Refused",
    "check_address",
    "check_depends",
    "check_name",
    "check_parameters",
    "check_range",
    "check_reachable",
    "check_usable",
    "find_group",
    "find_node",
    "find_resource",
    "judged",
    "parse_address",
    "parse_subnet",
]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What a command means: events to append as one change; none when nothing is to be done."""

    events: tuple[Event, ...]
    because: Cause
    data: dict[str, str] = {}
    """Goes into the answer, for example the id of a new node."""


class Refused(Exception):
    """The command is refused."""

    def __init__(
        self, code: str, text: str, *, hint: str = "", field: str = "", retryable: bool = False
    ) -> None:
        super().__init__(text)
        self.refusal = Refusal(code=code, text=text, hint=hint, field=field, retryable=retryable)


def judged(events: Iterable[Event], text: str, data: Mapping[str, str] | None = None) -> Judged:
    """Return what a command means; ``text`` says in the imperative what was asked for."""
    because = Cause(code="command", text=text)
    return Judged(events=tuple(events), because=because, data=dict(data or {}))


def check_name(value: str, field: str) -> None:
    """Check the name of a new object."""
    if not _NAME.fullmatch(value) or len(value) > NAME_LENGTH_MAX:
        shown = value if len(value) <= NAME_LENGTH_MAX else value[:NAME_LENGTH_MAX] + "..."
        raise Refused(
            "invalid-name",
            f"{field} = {shown!r} is no name",
            hint=(
                f"1..{NAME_LENGTH_MAX} characters of a-z, 0-9, '.', '_', '-'; "
                "the first a letter or digit"
            ),
            field=field,
        )


def check_range(value: int, field: str, low: int, high: int, hint: str = "") -> None:
    """Check a number."""
    if not low <= value <= high:
        raise Refused(
            "out-of-range",
            f"{field} = {value} is out of its range {low}..{high}",
            hint=hint or f"choose a value of {low}..{high}",
            field=field,
        )


def find_group(state: State, name: GroupId) -> Group:
    """Return a group that is there to stay."""
    group = state.groups.get(name)
    if group is None:
        known = ", ".join(sorted(state.groups)) or "none yet"
        raise Refused(
            "unknown-group", f"there is no group {name}", hint=f"groups: {known}", field="group"
        )
    if group.removing:
        raise Refused(
            "group-removing",
            f"group {name} is being removed",
            hint="wait until it is gone",
            field="group",
            retryable=True,
        )
    return group


def find_resource(state: State, name: ResourceId) -> Resource:
    """Return a resource whose group is there to stay."""
    resource = state.resources.get(name)
    if resource is None:
        known = ", ".join(sorted(state.resources)[:20]) or "none yet"
        raise Refused(
            "unknown-resource",
            f"there is no resource {name}",
            hint=f"resources: {known}",
            field="resource",
        )
    find_group(state, resource.group)
    return resource


def find_node(state: State, node: NodeId, field: str = "node") -> Node:
    """Return a node."""
    found = state.nodes.get(node)
    if found is None:
        known = ", ".join(
            f"{each.id} {each.name}"
            for each in sorted(state.nodes.values(), key=lambda each: each.id)
        )
        raise Refused(
            "unknown-node", f"there is no node {node}", hint=f"nodes: {known}", field=field
        )
    return found


_UNUSABLE = {
    "leaving": ("node-leaving", "choose another node"),
    "down": ("node-down", "start it, or choose another node"),
    "learner": ("node-learner", "wait until it has caught up"),
    "paused": ("node-paused", "leitwolf node resume {name}"),
    "stopping": ("node-stopping", "wait until it is back, or choose another node"),
    "not-connected": ("node-not-connected", "see whether its daemon runs; or wait"),
}


def check_usable(node: Node, seen: Observations) -> None:
    """Check that groups can be placed on a node now."""
    reason = unusable(node, seen.nodes.get(node.id))
    if reason is not None:
        code, hint = _UNUSABLE[reason[0]]
        retryable = code in ("node-down", "node-not-connected", "node-learner")
        raise Refused(
            code, reason[1], hint=hint.format(name=node.name), field="node", retryable=retryable
        )


# --- resources -----------------------------------------------------------------------------------


def check_parameters(
    state: State, resource: ResourceId, type_name: str, parameters: Mapping[str, str]
) -> None:
    """Check the parameters of a resource by its type, and its address by the networks."""
    for problem in problems(type_name, parameters):
        raise Refused(
            problem.code,
            f"resource {resource}: {problem.text}",
            hint=problem.hint,
            field=problem.field,
        )
    address = address_of(parameters)
    if address is not None:
        check_address(state, resource, address, parameters.get("network", ""))


def check_address(
    state: State,
    resource: ResourceId,
    address: ipaddress.IPv4Interface | ipaddress.IPv6Interface,
    network: str,
) -> None:
    """Check that a virtual address is unique and lies where clients can reach it.

    ``network``: name of a network of the cluster; any other name is that of an interface, which
    the operator answers for.
    """
    for other in state.resources.values():
        taken = address_of(other.parameters)
        if other.id != resource and taken is not None and taken.ip == address.ip:
            raise Refused(
                "address-in-use",
                f"address = {address.ip} belongs to resource {other.id} of group {other.group}",
                hint="give every resource its own address",
                field="address",
            )
    for node in state.nodes.values():
        if str(address.ip) in {_canonical(own) for own in node.addresses.values()}:
            raise Refused(
                "address-in-use",
                f"address = {address.ip} is the own address of node {node.name}",
                hint="take an address that no machine has",
                field="address",
            )
    check_reachable(state.networks, address, network)


def check_reachable(
    networks: Mapping[str, Network],
    address: ipaddress.IPv4Interface | ipaddress.IPv6Interface,
    network: str,
) -> None:
    """Check that a virtual address lies in one of these networks that carries clients.

    ``network``: as of :func:`check_address`.
    """
    clients = {
        each.name: each for each in networks.values() if each.role is not NetworkRole.INTERCONNECT
    }
    if network and network not in networks:
        return
    if network and network not in clients:
        raise Refused(
            "address-outside",
            f"network = {network} carries no clients",
            hint=f"leitwolf network set {network} --role both",
            field="network",
        )
    searched = [clients[network]] if network else list(clients.values())
    subnets = [parse_subnet(text, "subnets") for each in searched for text in each.subnets]
    around = [subnet for subnet in subnets if address.ip in subnet]
    if not around:
        shown = ", ".join(str(subnet) for subnet in sorted(subnets, key=str)) or "none"
        raise Refused(
            "address-outside",
            f"address = {address.ip} lies in no subnet of a client network (subnets: {shown})",
            hint="choose an address in one of them, or name an interface in network",
            field="address",
        )
    if all(address.network.prefixlen < subnet.prefixlen for subnet in around):
        narrow = f"{address.ip}/{around[0].prefixlen}"
        raise Refused(
            "invalid-prefix",
            f"address = {address} is wider than its subnet {around[0]}: its owner would look for "
            f"all of {address.network} on that network",
            hint=f"{narrow}, or name an interface in network",
            field="address",
        )


def _canonical(address: str) -> str:
    """Return a node's address as the address alone, in its normal form."""
    try:
        return str(ipaddress.ip_address(address.partition("/")[0]))
    except ValueError:
        return address


def parse_subnet(text: str, field: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return a subnet."""
    try:
        if "/" not in text:
            raise ValueError("its prefix length is missing")  # noqa: TRY301 — one answer for all
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise Refused(
            "invalid-subnet",
            f"{field}: {text!r} is no subnet ({error})",
            hint="for example 192.0.2.0/24 or 2001:db8::/64",
            field=field,
        ) from error


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of a node."""
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise Refused(
            "invalid-address",
            f"{text!r} is no IP address",
            hint="for example 192.0.2.1 or 2001:db8::1",
            field="addresses",
        ) from error


def check_depends(
    group: GroupId,
    resource: ResourceId,
    depends: tuple[ResourceId, ...],
    others: Mapping[ResourceId, tuple[ResourceId, ...]],
) -> None:
    """Check new dependencies of a resource.

    Args:
        group: its group, for texts.
        resource: the resource.
        depends: what it shall depend on.
        others: the dependencies of the other resources of the group.
    """
    for name in depends:
        if name != resource and name not in others:
            raise Refused(
                "dependency-unknown",
                f"{resource} cannot depend on {name}: group {group} has no such resource",
                hint="a resource depends only on resources of its own group",
                field="depends",
            )
    providers = {**others, resource: tuple(dict.fromkeys(depends))}
    if cycle := find_cycle(providers):
        raise Refused(
            "dependency-cycle",
            f"dependencies would run in a circle: {' -> '.join(cycle)}",
            hint="leave out one of these dependencies",
            field="depends",
        )
    if (found := depth(providers)) > DEPENDENCY_DEPTH_MAX:
        raise Refused(
            "dependency-depth",
            f"the chain of dependencies of {resource} would have {found} links",
            hint=f"at most {DEPENDENCY_DEPTH_MAX}",
            field="depends",
        )
