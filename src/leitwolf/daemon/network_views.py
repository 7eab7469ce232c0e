"""Views of networks: which works as seen from this node, and why not."""

from __future__ import annotations

from collections.abc import Mapping

from leitwolf.core.membership.roster import interconnects
from leitwolf.daemon.link_views import Told, pair_views, troubles
from leitwolf.daemon.networks import OwnSide
from leitwolf.model.ids import NetworkRole, NodeId
from leitwolf.model.state import Network, State
from leitwolf.model.views import NetworkView, PairView
from leitwolf.wire.guard import LinkState

__all__ = ["network_views"]

Links = Mapping[tuple[int, int], LinkState]


def network_views(
    state: State,
    me: NodeId,
    links: Links,
    sides: Mapping[str, OwnSide],
    told: Told,
    *,
    every_pair: bool = False,
) -> tuple[NetworkView, ...]:
    """Return all networks by name.

    Args:
        state: as this node knows it.
        me: this node.
        links: newest link reports of its guard, by node and link number.
        sides: this machine's side of each network; of one that is left out nothing is known.
        told: whom this node hears, and whom the others within reach say that they hear.
        every_pair: show also the pairs of nodes that hear each other.
    """
    pairs = {
        name: tuple(pair_views(state, name, told, every_pair=every_pair))
        for name in interconnects(state)
        if name
    }
    return tuple(
        _view(state, me, item, links, sides, pairs.get(item.name, ()))
        for item in sorted(state.networks.values(), key=lambda item: item.name)
        if item.role in NetworkRole
    )


def _view(
    state: State,
    me: NodeId,
    network: Network,
    links: Links,
    sides: Mapping[str, OwnSide],
    pairs: tuple[PairView, ...],
) -> NetworkView:
    own, names = state.nodes.get(me), interconnects(state)
    told = own.addresses.get(network.name, "") if own is not None else ""
    missing = "" if told or network.name not in names else "this node has no address in it"
    side = sides.get(network.name) or OwnSide(told, "", missing)
    fault, reason = side.fault, side.address or "not known here"
    if side.interface:
        reason += f" on {side.interface}"
    if not fault and network.name in names:
        fault, silent = _reached(state, me, names.index(network.name), links)
        reason = "; ".join([*silent, *troubles(state, me, pairs)]) or reason
    return NetworkView(
        name=network.name,
        subnets=network.subnets,
        role=network.role.value,
        up=not fault,
        reason=fault or reason,
        pairs=pairs,
    )


def _reached(state: State, me: NodeId, number: int, links: Links) -> tuple[str, list[str]]:
    """Return what is wrong with an interconnect, '': nothing; else whom it does not reach."""
    known = {node: link for (node, link_number), link in links.items() if link_number == number}
    others = [node for node in state.nodes.values() if node.id != me and node.id in known]
    if not others:
        return "", []
    if not any(known[node.id].up for node in others):
        return "no other node is reached by it", []
    # Of a node that is down that is told already.
    silent = [node.name for node in others if node.up and not known[node.id].up]
    return "", [f"{', '.join(silent)} not reached by it"] if silent else []
