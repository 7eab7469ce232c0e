"""Who is a quorum: the weighted, joint predicate, and why any two quorums share an acceptor.

A set S of acceptors is a quorum of one configuration C when ``2 * weight(S) > weight(C)``.

*One configuration.* Let S and T be quorums of C. Then ``weight(S) + weight(T) > weight(C)``, and
``weight(S & T) = weight(S) + weight(T) - weight(S | T) > weight(C) - weight(C) = 0``: they share an
acceptor of positive weight. Without any weight there is no quorum (``0 > 0`` is false).

*A change of configuration.* A joint configuration has two parts, old and new, and a set is its
quorum only when it is one of both. So every joint quorum shares an acceptor with every quorum of
old alone, of new alone, and with every other joint quorum. Configurations follow each other only as
old, joint, new (:mod:`leitwolf.core.quorum.reconfigure`), one change at a time; hence two
configurations by which anybody may decide at the same time are neighbours, and what was decided
under one is known to an acceptor of every quorum of the other.

*What this rests on.* An acceptor is a node together with its storage: votes name both, so a node
with a new disk never counts as the acceptor that forgot.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig

__all__ = ["agreed", "contenders", "is_quorum", "member_nodes", "voters", "witnesses"]


def is_quorum(acceptors: Iterable[Acceptor], have: Collection[AcceptorId], extra: int = 0) -> bool:
    """Return whether ``have`` is a quorum of one configuration.

    Args:
        acceptors: the configuration.
        have: ids of those who agree; ids that are not in the configuration count nothing.
        extra: weight counted beside them; only a broken rule makes it other than 0.
    """
    total = 0
    weight = extra
    for acceptor in acceptors:
        total += acceptor.weight
        if acceptor.id in have:
            weight += acceptor.weight
    return 2 * weight > total


def agreed(config: QuorumConfig, have: Collection[AcceptorId], rules: Rules = ALL_RULES) -> bool:
    """Return whether ``have`` is a quorum of every active configuration."""
    extra = 0
    if not rules.holds("learner-no-vote"):
        extra = sum(1 for learner in config.learners if learner in have)
    new = is_quorum(config.acceptors, have, extra)
    if config.former is None:
        return new
    old = is_quorum(config.former, have, extra)
    if not rules.holds("joint-and"):
        return new or old
    return new and old


def voters(config: QuorumConfig) -> tuple[AcceptorId, ...]:
    """Return the acceptors with a vote in any active configuration, ordered."""
    acceptors = (*config.acceptors, *(config.former or ()))
    return tuple(sorted({acceptor.id for acceptor in acceptors if acceptor.weight > 0}))


def member_nodes(config: QuorumConfig) -> tuple[int, ...]:
    """Return the ids of all nodes that get appends: acceptors of kind node, and learners."""
    acceptors = (*config.acceptors, *(config.former or ()))
    nodes = {acceptor.id.node for acceptor in acceptors if acceptor.kind == "node"}
    return tuple(sorted(nodes | {learner.node for learner in config.learners}))


def witnesses(config: QuorumConfig) -> tuple[Acceptor, ...]:
    """Return the acceptors that are no nodes, of every active configuration, ordered by id.

    One whose weight changes is told with the larger one.
    """
    acceptors = sorted((*config.acceptors, *(config.former or ())), key=lambda one: one.weight)
    found = {acceptor.id: acceptor for acceptor in acceptors if acceptor.kind != "node"}
    return tuple(found[identity] for identity in sorted(found))


def contenders(config: QuorumConfig) -> tuple[AcceptorId, ...]:
    """Return the nodes that may lead, ordered: those with a vote.

    Where no node has one (a disk or witness decides alone) all may. Where nodes have, every quorum
    holds one of them, so a node without, as of a distant site, need not lead.
    """
    able: set[AcceptorId] = set()
    for acceptors in (config.acceptors, config.former or ()):
        nodes = [acceptor for acceptor in acceptors if acceptor.kind == "node"]
        voting = [acceptor for acceptor in nodes if acceptor.weight > 0]
        passive = any(acceptor.kind != "node" and acceptor.weight > 0 for acceptor in acceptors)
        able.update(acceptor.id for acceptor in (nodes if passive and not voting else voting))
    return tuple(sorted(able))
