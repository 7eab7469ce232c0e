"""Which further failures the quorum survives."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from leitwolf.model.ids import NodeId
from leitwolf.model.quorum import Acceptor
from leitwolf.model.state import State

__all__ = ["Survival", "is_quorum", "survives"]


class Survival(msgspec.Struct, frozen=True, kw_only=True):
    """What may still fail without the cluster losing its quorum."""

    quorum: bool
    """There is one now."""
    failures: int
    """So many nodes may fail one after the other, whichever they are."""
    nodes: tuple[NodeId, ...]
    """Nodes whose failure alone is survived."""
    text: str


def is_quorum(acceptors: Iterable[Acceptor], alive: Collection[int]) -> bool:
    """Return whether the acceptors on these nodes have more than half of the votes."""
    total = present = 0
    for acceptor in acceptors:
        total += acceptor.weight
        if acceptor.id.node in alive:
            present += acceptor.weight
    return 2 * present > total


def survives(state: State, alive: Collection[int] | None = None) -> Survival:
    """Return which further failures the cluster survives.

    Args:
        state: quorum configuration and nodes.
        alive: nodes that can be reached; None: those that are up.
    """
    if alive is None:
        alive = {node.id for node in state.nodes.values() if node.up}
        if state.quorum is not None:
            alive |= {a.id.node for a in state.quorum.acceptors if a.kind != "node"}
    configurations = []
    if state.quorum is not None:
        configurations.append(state.quorum.acceptors)
        if state.quorum.former is not None:
            configurations.append(state.quorum.former)

    def holds(present: Collection[int]) -> bool:
        return bool(configurations) and all(
            is_quorum(acceptors, present) for acceptors in configurations
        )

    if not holds(alive):
        return Survival(quorum=False, failures=0, nodes=(), text="there is no quorum now")
    weights: dict[int, int] = dict.fromkeys(alive, 0)
    for acceptors in configurations:
        for acceptor in acceptors:
            if acceptor.id.node in weights:
                weights[acceptor.id.node] = max(weights[acceptor.id.node], acceptor.weight)
    voting = sorted(
        (node for node in weights if weights[node]), key=lambda node: (-weights[node], node)
    )
    single = tuple(NodeId(node) for node in sorted(voting) if holds(set(alive) - {node}))
    failures = 0
    while failures < len(voting) and holds(set(alive) - set(voting[: failures + 1])):
        failures += 1
    if failures:
        text = f"any {failures} of {len(voting)} that vote may fail" + (
            "" if failures == 1 else ", one after the other"
        )
    elif single:
        names = ", ".join(
            state.nodes[node].name if node in state.nodes else "the disk or witness"
            for node in single
        )
        text = f"only one of these may fail: {names}"
    else:
        text = "none that votes may fail"
    return Survival(quorum=True, failures=failures, nodes=single, text=text)
