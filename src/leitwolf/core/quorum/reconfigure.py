"""Which configuration may follow which: old, joint, new; learners in between.

Rules:

- Voters and weights change only through a joint configuration, whose ``former`` is exactly the
  configuration in force. From a joint one only its own final configuration leads on.
- Learners come and go at any time, and so do disks and witnesses of weight 0: they have no vote.
- The leader proposes one change at a time, and none before its own first entry committed
  (:mod:`leitwolf.core.quorum.leadership`); otherwise two changes could be under way that do not
  know of each other.
"""

from __future__ import annotations

from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.errors import InvalidConfig
from leitwolf.model.limits import NODES_MAX
from leitwolf.model.quorum import Acceptor, QuorumConfig

__all__ = ["verify_change"]


def _verify_acceptors(acceptors: tuple[Acceptor, ...], field: str) -> None:
    ids = [acceptor.id for acceptor in acceptors]
    if len(set(ids)) != len(ids):
        raise InvalidConfig("an acceptor is named twice", field=field)
    if len({identity.node for identity in ids}) != len(ids):
        raise InvalidConfig("a node votes with two storages", field=field)
    if any(acceptor.weight < 0 for acceptor in acceptors):
        raise InvalidConfig("a weight is negative; weights are 0 or more", field=field)
    if not any(acceptor.weight > 0 for acceptor in acceptors):
        raise InvalidConfig("nobody has a vote; give one acceptor a weight above 0", field=field)


def _voting(config: QuorumConfig) -> set[Acceptor]:
    return {acceptor for acceptor in config.acceptors if acceptor.weight or acceptor.kind == "node"}


def verify_change(current: QuorumConfig, proposed: QuorumConfig, rules: Rules = ALL_RULES) -> None:
    """Check that ``proposed`` may follow ``current``; ``rules``: switched off in tests.

    Raises:
        InvalidConfig: it contradicts itself, or is no allowed step; names the field.
    """
    _verify_acceptors(proposed.acceptors, "acceptors")
    voting = {acceptor.id for acceptor in proposed.acceptors}
    if len(set(proposed.learners)) != len(proposed.learners) or voting & set(proposed.learners):
        raise InvalidConfig("a learner is named twice, or votes as well", field="learners")
    if len(proposed.acceptors) + len(proposed.learners) > NODES_MAX:
        raise InvalidConfig(f"more than {NODES_MAX} acceptors and learners", field="acceptors")
    if current.former is not None:
        if proposed.former is not None or set(proposed.acceptors) != set(current.acceptors):
            raise InvalidConfig(
                "a joint configuration is followed by its own final one", field="former"
            )
        return
    if proposed.former is None:
        if _voting(proposed) != _voting(current) and rules.holds("votes-jointly"):
            raise InvalidConfig("votes change through a joint configuration only", field="former")
    elif set(proposed.former) != set(current.acceptors):
        raise InvalidConfig("former is not the configuration in force", field="former")
