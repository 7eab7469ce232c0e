"""Who rejects whom, and what follows: locked out, or out of the cluster.

Rules:

- A storage that a peer knows to have forgotten something never takes part again.
- One node that does not know this one may lag behind the log; a majority of those that vote which
  does not know it has removed it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from leitwolf.core.node import Node
from leitwolf.daemon.bootstrap import Bootstrap
from leitwolf.model.ids import NodeId
from leitwolf.peers.frames import Code

__all__ = ["Rejections", "name_of"]

_LAGGING_S = 5.0
"""How long peers may not know a node that they granted: their logs reach them within moments."""


def name_of(core: Node, node: int) -> str:
    """Return the name of a node, or its number."""
    known = core.acquainted.get(node)
    return known.name if known is not None else f"node {node}"


class Rejections:
    """What one daemon knows of nodes that it rejects, or that reject it."""

    def __init__(
        self,
        node: Node,
        bootstrap: Bootstrap,
        *,
        record: Callable[[str], None],
        on_removed: Callable[[], None],
        on_locked_out: Callable[[str, str], None],
    ) -> None:
        """Know of none yet.

        Args:
            node: the core.
            bootstrap: who this node is, and whom it knew when it joined.
            record: writes a line that survives.
            on_removed: told when a majority does not know this node any more.
            on_locked_out: told code and text when this storage is refused for good.
        """
        self._node, self._bootstrap = node, bootstrap
        self._record = record
        self._on_removed, self._on_locked_out = on_removed, on_locked_out
        self._own: dict[int, str] = {}
        """Code with which this node rejects another one, until it is connected."""
        self._heard: dict[int, tuple[str, float]] = {}
        """Code with which another one rejects this node, and since when."""

    def ours(self, node: int, code: str, text: str) -> None:
        """This node rejects another one, 0: it is not known which."""
        if node and self._own.get(node) != code:
            self._own[node] = code
            self._record(f"this node rejects {name_of(self._node, node)}: {text} [{code}]")

    def theirs(self, node: int, code: str, text: str) -> None:
        """Another node rejects this one."""
        known, since = self._heard.get(node, ("", time.monotonic()))
        if known != code:
            self._record(f"{name_of(self._node, node)} rejects this node: {text} [{code}]")
        self._heard[node] = code, since
        if code in (Code.STATE_ROLLED_BACK, Code.STORAGE_UNKNOWN):
            self._on_locked_out(code, f"{name_of(self._node, node)} says: {text}")
        elif self._removed():
            self._on_removed()

    def connected(self, node: int) -> None:
        """A stream is up: nobody rejects anybody."""
        self._own.pop(node, None)
        self._heard.pop(node, None)

    def _removed(self) -> bool:
        """Return whether a majority does not know this node any more."""
        core = self._node
        voters = {acceptor.id.node for acceptor in core.quorum.config.acceptors}
        voters = voters or {NodeId(peer.node) for peer in self._bootstrap.peers}
        # A node that has just joined knows its peers from its grant; they may lag behind the log.
        until = time.monotonic() - (0.0 if core.me in core.state.nodes else _LAGGING_S)
        strangers = {
            NodeId(other)
            for other, (code, since) in self._heard.items()
            if code == Code.NOT_ADMITTED and other not in core.connected and since <= until
        }
        return 2 * len(strangers & voters) > len(voters - {core.me})
