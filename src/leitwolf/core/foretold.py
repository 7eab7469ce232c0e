"""What a forced quorum would mean, in words and figures: who goes on, and what may be lost."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from leitwolf.core.lease.profile import MILLISECOND
from leitwolf.core.messages import ForceReport
from leitwolf.core.policy.commands_force import foretell
from leitwolf.core.quorum import QuorumCore
from leitwolf.model.commands import Refusal
from leitwolf.model.ids import NodeId
from leitwolf.model.state import State
from leitwolf.model.views import ForceGroup, ForceNode, ForceView

__all__ = ["foretold", "loss"]


def _known(
    state: State,
    quorum: QuorumCore,
    behind: Mapping[NodeId, int],
    reports: Mapping[int, ForceReport],
) -> tuple[int, str]:
    """Return the newest entry that was ever heard of, and who has it."""
    known = quorum.last_key.index, ""
    for node, report in reports.items():
        if report.key.index > known[0]:
            known = report.key.index, state.nodes[NodeId(node)].name
    for node, index in behind.items():
        if index > known[0]:
            member = state.nodes.get(node)
            known = index, member.name if member is not None else "the witness"
    return known


def loss(
    state: State,
    quorum: QuorumCore,
    behind: Mapping[NodeId, int],
    reports: Mapping[int, ForceReport] | None = None,
) -> str:
    """Return in words which entries may be lost.

    Args:
        state: who is who.
        quorum: of this node.
        behind: nodes and witnesses that hold more than this one, up to which entry.
        reports: what the named nodes said.
    """
    mine = quorum.last_key.index
    known, who = _known(state, quorum, behind, reports or {})
    if who:
        return f"the entries {mine + 1} to {known}, which {who} holds, and what came after them"
    return f"what the others decided after entry {mine}; nothing of it is known here"


def foretold(
    state: State,
    quorum: QuorumCore,
    behind: Mapping[NodeId, int],
    *,
    nodes: frozenset[NodeId],
    reports: Mapping[int, ForceReport],
    heard: Mapping[NodeId, int],
    reached: Collection[NodeId],
    wait_ns: int,
    refusal: Refusal | None,
) -> str:
    """Return the plan (a :class:`ForceView` as JSON).

    Args:
        state: who is who.
        quorum: of this node.
        behind: nodes and witnesses that hold more than this one, up to which entry.
        nodes: those that are to go on.
        reports: what they said.
        heard: how long ago (ns) each node was heard, -1: never.
        reached: nodes with which there is a stream.
        wait_ns: how long all others must be silent.
        refusal: why it would be refused.
    """
    mine = quorum.last_key.index
    known, known_at = _known(state, quorum, behind, reports)
    placed = foretell(state, nodes)

    def line(node: NodeId) -> ForceNode:
        here, report, silent = node == quorum.me.node, reports.get(node), heard[node]
        return ForceNode(
            node=state.nodes[node].name,
            here=here,
            named=node in nodes,
            answers=here or node in reached,
            heard_ms=0.0 if here else silent / MILLISECOND if silent >= 0 else -1.0,
            index=mine if here else report.key.index if report else -1,
            code=report.code if report else "",
            text=report.text if report else "",
        )

    view = ForceView(
        nodes=tuple(line(NodeId(node)) for node in sorted(state.nodes)),
        index=mine,
        known=known,
        known_at=known_at,
        loss=loss(state, quorum, behind, reports),
        groups=tuple(
            ForceGroup(group=group, node=state.nodes[node].name)
            for group, node in sorted(placed.items())
        ),
        wait_ms=wait_ns // MILLISECOND,
        code=refusal.code if refusal else "",
        text=refusal.text if refusal else "",
        hint=refusal.hint if refusal else "",
    )
    return msgspec.json.encode(view).decode()
