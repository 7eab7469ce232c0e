"""Which node a group goes to, and why not to the others.

Rules:
    Usable is a member that is up, leased, connected, not paused, stopping or leaving. A group with
    preferred owners goes along the list: preferred owners in their order, then all others by id;
    after a failure beginning behind the failing node, wrapping. A group without preference goes to
    the usable node with the fewest groups, ties by id. Nodes on which the group failed since it
    was last online come last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leitwolf.model.events import NotChosen
from leitwolf.model.ids import NO_NODE, GroupPhase, NodeId, NodeStatus
from leitwolf.model.observations import NodeView, Observations
from leitwolf.model.state import Group, Node, State

__all__ = ["Candidates", "Placement", "candidates", "unusable"]

NOT_CHOSEN_MAX = 7
"""Reasons kept with one placement: all of a cluster of eight. Keeps the entry that moves a
thousand groups at once below the limit of an entry."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """Usable nodes in the order in which the group takes them, and why the others are none."""

    usable: tuple[NodeId, ...]
    refused: dict[NodeId, NotChosen]
    later: dict[NodeId, NotChosen]
    """Why each usable node but the first comes later."""

    @property
    def first(self) -> NodeId:
        """The best node, NO_NODE when there is none."""
        return self.usable[0] if self.usable else NO_NODE

    def not_chosen(self, chosen: NodeId = NO_NODE) -> tuple[NotChosen, ...]:
        """Return why every node but ``chosen`` was not chosen, in the order of their ids."""
        reasons = self.refused | self.later
        found = [reasons[node] for node in sorted(reasons) if node != chosen]
        return tuple(found[:NOT_CHOSEN_MAX])


def unusable(node: Node, view: NodeView | None) -> tuple[str, str] | None:
    """Return code and text of why no group can be placed on a node now, None when one can."""
    if node.status is NodeStatus.LEAVING:
        return "leaving", f"{node.name} leaves the cluster"
    if not node.up or view is None or view.away or not view.leased:
        return "down", f"{node.name} is down"
    if node.status is NodeStatus.LEARNER:
        return "learner", f"{node.name} is not a full member yet"
    if node.paused:
        return "paused", f"{node.name} is paused"
    if node.stopping:
        return "stopping", f"{node.name} is about to stop"
    if not view.connected:
        return "not-connected", f"the daemon of {node.name} is not connected"
    return None


class Placement:
    """What all placements of one plan have in common."""

    def __init__(self, nodes: Mapping[int, Node], state: State, seen: Observations) -> None:
        """Look at every node once.

        Args:
            nodes: as they are after the changes that the plan has made so far.
            state: for the number of groups that each node owns.
            seen: observations.
        """
        self._names = {node.id: node.name for node in nodes.values()}
        self._order = sorted(self._names)
        self._refused: dict[NodeId, NotChosen] = {}
        self.usable: set[NodeId] = set()
        for node in nodes.values():
            reason = unusable(node, seen.nodes.get(node.id))
            if reason is None:
                self.usable.add(node.id)
            else:
                self._refused[node.id] = NotChosen(node=node.id, code=reason[0], text=reason[1])
        self._groups = dict.fromkeys(self._names, 0)
        for group in state.groups.values():
            if group.phase is not GroupPhase.STOPPED and group.owner in self._groups:
                self._groups[group.owner] += 1

    def moved(self, old: NodeId, new: NodeId) -> None:
        """Count a group that the plan places."""
        if old in self._groups:
            self._groups[old] -= 1
        if new in self._groups:
            self._groups[new] += 1

    def choose(
        self,
        group: Group,
        *,
        after: NodeId = NO_NODE,
        leaving: NodeId = NO_NODE,
        last: NodeId = NO_NODE,
        target: NodeId = NO_NODE,
        revisit: bool = True,
    ) -> Candidates:
        """Return where the group may go.

        Args:
            group: the group.
            after: the failing node: the list is begun behind it.
            leaving: node that the group is to leave; it is no candidate.
            last: node that the group has left; it comes behind all others.
            target: node that was chosen before: it comes first if it is usable.
            revisit: nodes on which the group failed are candidates, the last ones.
        """
        refused = dict(self._refused)
        if leaving in self.usable:
            text = f"the group leaves {self._names[leaving]}"
            refused[leaving] = NotChosen(node=leaving, code="current-owner", text=text)
        listed = self._listed(group, after)
        fresh = [node for node in listed if node not in group.visited and node not in refused]
        failed = [node for node in listed if node in group.visited and node not in refused]
        for nodes in (fresh, failed):
            if last in nodes:
                nodes.remove(last)
                nodes.append(last)
        if not revisit or fresh:
            for node in failed:
                text = f"{group.id} failed on {self._names[node]}"
                refused[node] = NotChosen(node=node, code="failed-there", text=text)
        found = [*fresh, *failed] if revisit else fresh
        if target in found:
            found.remove(target)
            found.insert(0, target)
        return Candidates(tuple(found), refused, self._later(group, found, refused, last))

    def _listed(self, group: Group, after: NodeId) -> list[NodeId]:
        if not group.preferred:
            return sorted(self._order, key=lambda node: (self._groups[node], node))
        preferred = [node for node in group.preferred if node in self._names]
        listed = preferred + [node for node in self._order if node not in preferred]
        if after in listed:
            at = listed.index(after) + 1
            listed = listed[at:] + listed[:at]
        return listed

    def _later(
        self,
        group: Group,
        found: list[NodeId],
        refused: Mapping[NodeId, NotChosen],
        last: NodeId,
    ) -> dict[NodeId, NotChosen]:
        reasons: dict[NodeId, NotChosen] = {}
        for node in found[1:]:
            if node in refused:
                continue
            name, first = self._names[node], self._names[found[0]]
            if node == last:
                code, text = "current-owner", f"the group was on {name} until now"
            elif group.preferred:
                code = "not-preferred-first"
                text = f"{name} comes behind {first} in the order of owners"
            elif self._groups[node] > self._groups[found[0]]:
                code = "more-groups"
                text = f"{name} owns {self._groups[node]}, {first} {self._groups[found[0]]} groups"
            else:
                code = "higher-id"
                text = f"{name} owns as many groups as {first}, which has the lower number"
            reasons[node] = NotChosen(node=node, code=code, text=text)
        return reasons


def candidates(
    state: State, group: Group, seen: Observations, exclude: NodeId = NO_NODE
) -> Candidates:
    """Return where a group may go now, beginning behind ``exclude``, which is no candidate."""
    placement = Placement(state.nodes, state, seen)
    return placement.choose(group, after=exclude, leaving=exclude)
