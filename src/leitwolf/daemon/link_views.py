"""Views of links: which two nodes hear each other on an interconnect, as both of them say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

from leitwolf.core.membership.paths import Paths
from leitwolf.model.ids import NodeId, PairState
from leitwolf.model.observations import LinkHeard
from leitwolf.model.state import Node as NodeState
from leitwolf.model.state import State
from leitwolf.model.views import EndView, PairView

__all__ = ["Told", "pair_views", "told_of", "troubles"]

Told = Mapping[NodeId, Mapping[tuple[str, NodeId], LinkHeard]]
"""By node that is within reach: whom it hears, by network and node."""

_NAMED_MAX = 2
"""Broken pairs that are named in a line; of more their number."""


def told_of(paths: Paths, me: NodeId) -> Told:
    """Return what this node hears, and what the others within reach said that they hear."""
    return {
        who: {(one.network, one.node): one for one in links}
        for who, links in {**paths.links_told, me: paths.links}.items()
    }


def pair_views(
    state: State, network: str, told: Told, *, every_pair: bool = True
) -> Iterator[PairView]:
    """Yield the pairs of nodes with an address in an interconnect, by their numbers.

    Args:
        state: as this node knows it.
        network: name of the interconnect.
        told: who hears whom.
        every_pair: else only those that do not hear each other, as far as known: 64 nodes are 2016
            pairs.
    """
    nodes = [state.nodes[node] for node in sorted(state.nodes)]
    for one, other in combinations((item for item in nodes if item.addresses.get(network)), 2):
        if every_pair or not (
            _hears(network, one, other, told) and _hears(network, other, one, told)
        ):
            yield _pair(network, one, other, told)


def _hears(network: str, listener: NodeState, speaker: NodeState, told: Told) -> bool:
    heard = told.get(listener.id, {}).get((network, speaker.id))
    return heard is not None and heard.heard


def _pair(network: str, one: NodeState, other: NodeState, told: Told) -> PairView:
    ends = (_end(network, one, other, told), _end(network, other, one, told))
    said = {end.hears for end in ends}
    if said == {True}:
        state, reason = PairState.UP, f"{one.name} and {other.name} hear each other"
    elif said == {False}:
        state, reason = PairState.DOWN, f"{one.name} and {other.name} do not hear each other"
    elif said == {None}:
        state = PairState.UNKNOWN
        reason = f"not known: {ends[0].unknown}, {ends[1].unknown}"
    elif None not in said:
        state, reason = PairState.ONE_WAY, _one_way(*ends)
    else:
        known, silent = ends if ends[1].hears is None else ends[::-1]
        state = PairState.UNKNOWN if known.hears else PairState.DOWN
        verb = "hears" if known.hears else "does not hear"
        reason = (
            f"{known.node} {verb} {silent.node}; whether {silent.node} hears {known.node} "
            f"is not known: {silent.unknown}"
        )
    deaf = [end.since_wall for end in ends if end.hears is False]
    since = max(deaf or [end.since_wall for end in ends if state is PairState.UP], default=0)
    return PairView(
        nodes=(one.name, other.name),
        state=state.value,
        reason=reason,
        since_wall=since,
        ends=ends,
    )


def _end(network: str, listener: NodeState, speaker: NodeState, told: Told) -> EndView:
    heard = told.get(listener.id, {}).get((network, speaker.id))
    if heard is not None:
        return EndView(node=listener.name, hears=heard.heard, since_wall=heard.since_wall)
    why = "has not said" if listener.id in told else "is not heard"
    return EndView(node=listener.name, unknown=f"{listener.name} {why}")


def _one_way(one: EndView, other: EndView) -> str:
    hears, deaf = (one, other) if one.hears else (other, one)
    return f"one way: {hears.node} hears {deaf.node}, {deaf.node} does not hear {hears.node}"


def troubles(state: State, me: NodeId, pairs: tuple[PairView, ...]) -> list[str]:
    """Say in few words which pairs are broken, and of which nothing is known.

    Of nodes that are down, and of those that this node does not hear, that is told already.
    """
    own = state.nodes[me].name if me in state.nodes else ""
    up = {node.name for node in state.nodes.values() if node.up}
    broken, unknown = [], []
    for pair in pairs:
        here = next((end for end in pair.ends if end.node == own), None)
        if not up.issuperset(pair.nodes) or (here is not None and not here.hears):
            continue
        if pair.state in (PairState.DOWN, PairState.ONE_WAY):
            broken.append(pair)
        elif all(end.hears is None for end in pair.ends):
            unknown.append(pair)
    told = []
    if broken:
        first, _, _ = broken[0].reason.partition(";")
        told.append(first if len(broken) == 1 else f"broken: {_names(broken)}")
    if unknown:
        told.append(unknown[0].reason if len(unknown) == 1 else f"not known: {_names(unknown)}")
    return told


def _names(pairs: list[PairView]) -> str:
    words = ", ".join("–".join(pair.nodes) for pair in pairs[:_NAMED_MAX])
    more = len(pairs) - _NAMED_MAX
    return f"{words} and {more} more" if more > 0 else words
