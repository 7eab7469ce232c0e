"""Whether a node comes with the storage by which the cluster knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leitwolf.model.ids import NodeId

if TYPE_CHECKING:
    from leitwolf.core.node import Node

__all__ = ["known_instead"]


def known_instead(core: Node, node: NodeId, storage: str) -> frozenset[str]:
    """Return by which storages ``node`` is known instead of ``storage``; (): nothing is wrong.

    Only who is in charge, or hears who is, and applied what was committed, can tell: a log that
    lags behind knows former storages. Letting a wrong one in is no harm, for votes name storages.
    """
    hears = core.leader in core.connected and core.leader != node and core.current
    if not core.in_charge and not hears:
        return frozenset()
    known = (core.state.nodes.get(node), core.foreseen.nodes.get(node))
    storages = frozenset(one.storage for one in known if one is not None)
    return frozenset() if storage in storages else storages
