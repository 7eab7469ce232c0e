"""Which further failures the quorum survives: at once, and one after the other.

*At once* means before the votes are adapted: what counts are the votes of this moment. *One after
the other* means that dynamic votes follow each loss before the next one; in strict mode, where
nobody's vote is taken, both are the same.

A node that does not reach a disk or witness cannot lead by its vote, though others may: with two
nodes, of which one alone reaches the witness, the other one's death is survived and its own is not.
A node without a vote cannot lead where others have one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import combinations

import msgspec

from leitwolf.core.membership.votes import casting_holder, wanted_acceptors, within_reach
from leitwolf.core.quorum.predicate import contenders
from leitwolf.model.ids import NodeId
from leitwolf.model.quorum import Acceptor, QuorumConfig
from leitwolf.model.state import State

__all__ = ["Loss", "Survival", "is_quorum", "survives", "unable"]

_PAIRS_OF_MAX = 9
"""Pairs of so many are told at most: eight nodes and a witness."""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """One failure, or two at once, and what becomes of the quorum."""

    lost: tuple[NodeId, ...]
    survived: bool
    reason: str
    """Why it is not survived, '': it is."""


class Survival(msgspec.Struct, frozen=True, kw_only=True):
    """What may still fail without the cluster losing its quorum."""

    quorum: bool
    """There is one now."""
    failures: int
    """So many of those that vote may fail at once, whichever they are."""
    in_turn: int
    """So many of all may fail one after the other, whichever they are."""
    losses: tuple[Loss, ...]
    """Of each one that is there; of each two that vote, where some are survived and some not."""
    text: str

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        """Those whose failure alone is survived."""
        return tuple(loss.lost[0] for loss in self.losses if loss.survived and len(loss.lost) == 1)


def is_quorum(acceptors: Iterable[Acceptor], alive: Collection[int]) -> bool:
    """Return whether the acceptors on these nodes have more than half of the votes."""
    total = present = 0
    for acceptor in acceptors:
        total += acceptor.weight
        if acceptor.id.node in alive:
            present += acceptor.weight
    return 2 * present > total


class _Votes:
    """The votes of every configuration in force, who may lead, and who cannot by whose."""

    def __init__(
        self, config: QuorumConfig | None, blind: Mapping[NodeId, frozenset[NodeId]]
    ) -> None:
        parts = (config.acceptors, config.former) if config is not None else ()
        self.configurations = tuple(acceptors for acceptors in parts if acceptors is not None)
        self.blind = blind
        self.nodes = {one.node for one in contenders(config)} if config is not None else set()

    def weight(self, one: int) -> int:
        """Return the votes of an acceptor, in the configuration in which it has more."""
        return max(
            (a.weight for acceptors in self.configurations for a in acceptors if a.id.node == one),
            default=0,
        )

    def holds(self, alive: Collection[int]) -> bool:
        """Return whether those alive are a quorum of a node among them that can lead."""
        able = {frozenset(alive) - self._unseen(one) for one in self.nodes & set(alive)}
        return any(self._are_quorum(within) for within in able)

    def leads(self, one: NodeId, alive: Collection[int]) -> bool:
        """Return whether those of ``alive`` that this node reaches are a quorum."""
        return self._are_quorum(frozenset(alive) - self._unseen(one))

    def _are_quorum(self, within: Collection[int]) -> bool:
        return all(is_quorum(acceptors, within) for acceptors in self.configurations)

    def missed(self, one: int) -> tuple[int, bool, int]:
        """Return a key by which those come first whose loss costs most."""
        sees = one in self.nodes and not self._unseen(one)
        return -self.weight(one), not sees, one

    def _unseen(self, one: int) -> frozenset[NodeId]:
        return self.blind.get(NodeId(one), frozenset())

    def reason(self, lost: Collection[int], alive: Collection[int]) -> str:
        """Return why a quorum is lost with these; '': it is not."""
        left = frozenset(alive) - frozenset(lost)
        if self.holds(left):
            return ""
        for acceptors in self.configurations:
            if is_quorum(acceptors, left):
                continue
            total = sum(acceptor.weight for acceptor in acceptors)
            have = sum(acceptor.weight for acceptor in acceptors if acceptor.id.node in left)
            share = f"{have} of {total} votes would be left"
            alone = [a for a in acceptors if a.id.node in lost] if len(lost) == 1 else []
            if any(one.weight == total for one in alone):
                return "it holds the only vote" if total == 1 else "it holds all votes"
            casting = any(one.weight > 1 for one in alone)
            return f"it has the casting vote: {share}" if casting else share
        if self.nodes & left:
            return "no node would be left that reaches what it needs"
        return "no node would be left that can lead"


def survives(
    state: State,
    alive: Collection[int] | None = None,
    blind: Mapping[NodeId, frozenset[NodeId]] | None = None,
) -> Survival:
    """Return which further failures the cluster survives.

    Args:
        state: quorum configuration, wish and nodes.
        alive: nodes, disks and witnesses that can be reached; None: nodes that are up, and all
            disks and witnesses.
        blind: the disks and witnesses that a node does not reach, by node; None: all reach all.
    """
    config = state.quorum
    if alive is None:
        alive = {node.id for node in state.nodes.values() if node.up}
        if config is not None:
            alive |= {a.id.node for a in config.acceptors if a.kind != "node"}
    votes, alive = _votes(state, alive, blind or {})
    if not votes.holds(alive):
        text = "there is no quorum now"
        return Survival(quorum=False, failures=0, in_turn=0, losses=(), text=text)
    voting = sorted((one for one in alive if votes.weight(one)), key=votes.missed)
    losses = [_loss(votes, (one,), alive) for one in sorted(alive)]
    failures = 0
    while failures < len(voting) and votes.holds(alive - set(voting[: failures + 1])):
        failures += 1
    if failures == 1 and len(voting) <= _PAIRS_OF_MAX:
        pairs = [_loss(votes, pair, alive) for pair in combinations(sorted(voting), 2)]
        losses += pairs if any(pair.survived for pair in pairs) else []
    in_turn = _in_turn(state, votes, alive) if state.wish.dynamic else failures
    found = Survival(quorum=True, failures=failures, in_turn=in_turn, losses=tuple(losses), text="")
    return msgspec.structs.replace(found, text=_text(state, found, voting))


def unable(
    state: State, alive: Collection[int], blind: Mapping[NodeId, frozenset[NodeId]]
) -> frozenset[NodeId]:
    """Return the nodes that could not lead with those alive, as they do not reach what they need.

    Args:
        state: quorum configuration and nodes.
        alive: nodes, disks and witnesses that can be reached.
        blind: the disks and witnesses that a node does not reach, by node.
    """
    votes, alive = _votes(state, alive, blind)
    return frozenset(node for node in blind if not votes.leads(node, alive))


def _votes(
    state: State, alive: Collection[int], blind: Mapping[NodeId, frozenset[NodeId]]
) -> tuple[_Votes, frozenset[int]]:
    """Return the votes in force, and who of those alive can confirm by them."""
    votes = _Votes(state.quorum, blind)
    return votes, frozenset(
        one.node
        for acceptors in votes.configurations
        for one in within_reach(state, acceptors, alive)
    )


def _loss(votes: _Votes, lost: tuple[int, ...], alive: frozenset[int]) -> Loss:
    reason = votes.reason(lost, alive)
    return Loss(lost=tuple(NodeId(one) for one in lost), survived=not reason, reason=reason)


def _in_turn(state: State, votes: _Votes, alive: frozenset[int]) -> int:
    """Count losses one after the other, each time of the one that is missed most."""
    nodes = [a.id for a in votes.configurations[0] if a.kind == "node"]
    everyone = {identity.node for identity in nodes}
    if state.wish.witness is not None:
        everyone.add(state.wish.witness.id.node)
    holder = casting_holder(votes.configurations[0]) or state.leader
    count = 0
    while all(votes.holds(alive - {one}) for one in alive):
        alive -= {min(alive, key=votes.missed)}
        count += 1
        wanted = wanted_acceptors(state.wish, nodes, everyone - alive, holder)
        adapted = _Votes(QuorumConfig(acceptors=wanted), votes.blind)
        if adapted.holds(alive):
            votes, holder = adapted, casting_holder(wanted)
    return count


def _text(state: State, found: Survival, voting: list[int]) -> str:
    """Return the whole in one line."""
    if found.failures:
        some = "one" if found.failures == 1 else f"{found.failures} at once"
        text = f"any {some} of {len(voting)} that vote may fail"
        if found.in_turn > found.failures:
            text += f", any {found.in_turn} one after the other"
        return text
    singles = [loss for loss in found.losses if loss.lost[0] in voting]
    may = " or ".join(_name(state, loss.lost[0]) for loss in singles if loss.survived)
    not_ = [
        f"{_name(state, loss.lost[0])} ({loss.reason})" for loss in singles if not loss.survived
    ]
    if not may:
        return f"none that votes may fail: {'; '.join(not_)}"
    return f"{may} may fail, not {' nor '.join(not_)}"


def _name(state: State, one: int) -> str:
    if one in state.nodes:
        return state.nodes[one].name
    config = state.quorum
    acceptors = (*config.acceptors, *(config.former or ())) if config is not None else ()
    disks = {acceptor.id.node for acceptor in acceptors if acceptor.kind == "disk"}
    return "the disk" if one in disks else "the witness"
