"""Members that a node whose log lacks them is told of: one of them may be its leader. Pure.

Rules:

- A member that is asked for its vote by a node whose log is behind tells it which members it may
  lack, as far as they are committed; once for each stream, and again when they change.
- What is told counts for whom to hear and to talk to, and until the own log says who that is.

Theory of operation: a node that starts knows entries of which it does not know that they are
committed, and learns it only from members that stand in them, so those are heard, too. A node that
was off while another one joined lacks even those: it rejects that one as a stranger, also when it
leads, and nobody else feeds it. Being heard gives no vote (``docs/adr/0009-foreseen-members.md``).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from leitwolf.core.effects import Send
from leitwolf.core.messages import PreProbe, QuorumMessage
from leitwolf.model.ids import NodeId
from leitwolf.model.observations import Acquaint
from leitwolf.model.state import Node, State
from leitwolf.wire.ballot import Key

__all__ = ["Acquaintances"]


class Acquaintances:
    """Whom this node was told of, and whom it told others of."""

    def __init__(self, holds: Callable[[Key], bool]) -> None:
        """``holds``: whether the own log goes on from a key."""
        self._holds = holds
        self._heard: dict[int, Node] = {}
        self._told: dict[NodeId, tuple[Node, ...]] = {}
        self._widened: tuple[State, State] | None = None
        """A state of the log, and the same with those whom it lacks."""

    def answer(self, node: NodeId, message: QuorumMessage, state: State) -> list[Send]:
        """Return what a node is to be told that asks for this one's vote; mostly nothing.

        Args:
            node: who sent ``message``.
            message: whatever it is.
            state: what is committed here.
        """
        if not isinstance(message, PreProbe):
            return []
        # Logs that parted did so who knows where.
        known = message.key.index if self._holds(message.key) else 0
        lacking = tuple(one for one in state.nodes.values() if one.changed > known)
        if not lacking or self._told.get(node) == lacking:
            return []
        self._told[node] = lacking
        return [Send(node=node, message=Acquaint(nodes=lacking))]

    def lost(self, node: NodeId) -> None:
        """The stream is gone: what was told there may be forgotten."""
        self._told.pop(node, None)

    def heard(self, message: Acquaint) -> None:
        """Take in what a member says."""
        self._heard = {**self._heard, **{node.id: node for node in message.nodes}}
        self._widened = None

    def widen(self, state: State) -> State:
        """Return ``state`` with the nodes of which its log does not know yet."""
        if self._widened is None or self._widened[0] is not state:
            lacked = [one for one in self._heard.values() if one.id > state.node_serial]
            self._heard = {one.id: one for one in lacked}
            nodes = {**state.nodes, **self._heard}
            wide = msgspec.structs.replace(state, nodes=nodes) if lacked else state
            self._widened = state, wide
        return self._widened[1]
