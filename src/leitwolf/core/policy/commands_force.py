"""What forced quorum means to the policy: what would start where, and how nodes come back."""

from __future__ import annotations

from leitwolf.core.policy.checks import Judged, Refused, find_node, judged
from leitwolf.core.policy.plan import plan
from leitwolf.model import commands, events
from leitwolf.model.ids import GroupId, NodeId
from leitwolf.model.observations import NodeView, Observations
from leitwolf.model.state import State
from leitwolf.state import fold_change

__all__ = ["force_quorum", "foretell", "replace_storage"]


def force_quorum(_state: State, _command: commands.ForceQuorum, _seen: Observations) -> Judged:
    """Refuse: whoever judges commands leads, so there is a quorum."""
    raise Refused(
        "quorum-exists",
        "this part of the cluster has a leader",
        hint="nothing is to be forced: leitwolf quorum status",
    )


def replace_storage(state: State, command: commands.ReplaceStorage, seen: Observations) -> Judged:
    """Let a node that gave way go on with an empty log: it learns, then votes again."""
    node = find_node(state, command.node)
    text = f"let {node.name} go on with an empty log"
    if node.storage == command.storage:
        return judged([], text)
    if node.storage != command.former:
        raise Refused(
            "storage-unknown",
            f"{node.name} had another storage than the one that it set aside",
            hint=f"leitwolf node evict {node.name}, then leitwolf rejoin TOKEN on it",
        )
    view = seen.nodes.get(node.id)
    if view is not None and view.leased:
        text = f"{node.name} still holds a run-lease of its former storage"
        raise Refused("still-leased", text, hint="it ends by itself", retryable=True)
    return judged([events.NodeChanged(node=node.id, storage=command.storage)], text)


def foretell(state: State, nodes: frozenset[NodeId]) -> dict[GroupId, NodeId]:
    """Return where which group would be started if these nodes went on alone."""
    views = {
        node.id: NodeView(
            leased=node.id in nodes, connected=node.id in nodes, away=node.id not in nodes
        )
        for node in state.nodes.values()
    }
    seen = Observations(nodes=views, resources={}, attested={})
    for _ in range(3):  # nodes come up, then groups are placed on them
        decided = plan(state, seen, state.time)
        for planned in decided.changes:
            change = events.Change(
                events=planned.events, because=planned.because, by="", time=state.time, wall=0
            )
            state = fold_change(state, state.index + 1, change)
    return {group.id: group.owner for group in state.groups.values() if group.owner in nodes}
