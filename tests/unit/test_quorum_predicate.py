"""The quorum predicate and the steps of reconfiguration, as tables."""

from __future__ import annotations

import itertools

import pytest
from tests.quorum_world import acceptors, configuration, identity

from leitwolf.core.quorum import agreed, is_quorum, verify_change, voters
from leitwolf.core.quorum.predicate import contenders
from leitwolf.core.rules import Rules
from leitwolf.model.errors import InvalidConfig
from leitwolf.model.ids import NodeId
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig


def weighted(*weights: int) -> tuple[Acceptor, ...]:
    return tuple(
        Acceptor(id=identity(node), weight=weight) for node, weight in enumerate(weights, start=1)
    )


def ids(*nodes: int) -> set[AcceptorId]:
    return {identity(node) for node in nodes}


@pytest.mark.parametrize(
    ("weights", "have", "quorum"),
    [
        ((1,), (1,), True),
        ((1,), (), False),
        ((1, 1), (1,), False),
        ((1, 1), (1, 2), True),
        ((1, 1, 1), (1, 3), True),
        ((1, 1, 1), (3,), False),
        ((1, 1, 1, 1), (1, 2), False),
        ((1, 1, 1, 1), (1, 2, 4), True),
        ((1,) * 8, (1, 2, 3, 4), False),
        ((1,) * 8, (1, 2, 3, 4, 5), True),
        ((2, 1, 1), (1,), False),
        ((2, 1, 1), (1, 3), True),
        ((3, 1, 1), (1,), True),
        ((1, 0, 0), (1,), True),
        ((1, 0, 0), (2, 3), False),
        ((0, 0), (1, 2), False),
        ((), (), False),
        ((1, 1, 1), (1, 7, 8, 9), False),
    ],
)
def test_majority_of_the_weight(
    weights: tuple[int, ...], have: tuple[int, ...], quorum: bool
) -> None:
    """More than half of the weight is a quorum; strangers and missing weight never are."""
    assert is_quorum(weighted(*weights), ids(*have)) is quorum


@pytest.mark.parametrize(
    ("new", "former", "have", "quorum"),
    [
        ((1, 2, 3), (1, 2, 3), (1, 2), True),
        ((2, 3, 4), (1, 2, 3), (2, 3), True),
        ((4, 5, 6), (1, 2, 3), (1, 2), False),
        ((4, 5, 6), (1, 2, 3), (4, 5, 6), False),
        ((4, 5, 6), (1, 2, 3), (1, 2, 4, 5), True),
        ((1, 2), (1,), (1,), False),
        ((1,), (1, 2), (1,), False),
    ],
)
def test_a_change_needs_both(
    new: tuple[int, ...], former: tuple[int, ...], have: tuple[int, ...], quorum: bool
) -> None:
    """During a change old and new configuration must both agree."""
    config = QuorumConfig(acceptors=acceptors(*new), former=acceptors(*former))
    assert agreed(config, ids(*have)) is quorum
    if not quorum and (agreed(configuration(*new), ids(*have)) or len(former) == 1):
        assert agreed(config, ids(*have), Rules.without("joint-and"))


def test_two_quorums_share_an_acceptor() -> None:
    """Any two quorums of neighbouring configurations have an acceptor of some weight in common."""
    nodes = range(1, 5)
    sets = [ids(*s) for size in range(5) for s in itertools.combinations(nodes, size)]
    for weights in itertools.product((0, 1, 2), repeat=4):
        old = QuorumConfig(acceptors=weighted(*weights))
        new = QuorumConfig(acceptors=weighted(*reversed(weights)))
        joint = QuorumConfig(acceptors=new.acceptors, former=old.acceptors)
        for one, other in ((old, old), (old, joint), (joint, joint), (joint, new)):
            left = [s for s in sets if agreed(one, s)]
            right = [s for s in sets if agreed(other, s)]
            assert all(a & b for a in left for b in right), (weights, one, other)


def test_learners_and_other_disks_do_not_vote() -> None:
    """A learner counts nothing, and neither does a node whose storage is another one."""
    config = configuration(1, 2, learners=(3,))
    wiped = AcceptorId(NodeId(2), "another disk")
    assert not agreed(config, ids(1, 3))
    assert not agreed(config, {identity(1), wiped})
    assert agreed(config, ids(1, 2))
    assert voters(config) == (identity(1), identity(2))
    assert agreed(config, ids(1, 3), Rules.without("learner-no-vote"))


ONE_TWO = configuration(1, 2)
JOINT = QuorumConfig(acceptors=acceptors(1, 2, 3), former=acceptors(1, 2))


@pytest.mark.parametrize(
    ("current", "proposed"),
    [
        (ONE_TWO, configuration(1, 2, learners=(3,))),
        (configuration(1, 2, learners=(3,)), JOINT),
        (JOINT, configuration(1, 2, 3)),
        (ONE_TWO, QuorumConfig(acceptors=weighted(1, 0), former=acceptors(1, 2))),
        (JOINT, configuration(1, 2, 3, learners=(4,))),
    ],
)
def test_allowed_steps(current: QuorumConfig, proposed: QuorumConfig) -> None:
    """Learners come and go; votes go through joint, and from there to its own final."""
    verify_change(current, proposed)


@pytest.mark.parametrize(
    ("current", "proposed", "field"),
    [
        (ONE_TWO, configuration(1, 2, 3), "former"),
        (ONE_TWO, configuration(1), "former"),
        (ONE_TWO, QuorumConfig(acceptors=weighted(2, 1)), "former"),
        (ONE_TWO, QuorumConfig(acceptors=acceptors(1, 2, 3), former=acceptors(1)), "former"),
        (JOINT, JOINT, "former"),
        (JOINT, configuration(1, 2), "former"),
        (ONE_TWO, QuorumConfig(acceptors=(), former=acceptors(1, 2)), "acceptors"),
        (ONE_TWO, QuorumConfig(acceptors=weighted(0, 0), former=acceptors(1, 2)), "acceptors"),
        (ONE_TWO, QuorumConfig(acceptors=weighted(1, -1), former=acceptors(1, 2)), "acceptors"),
        (ONE_TWO, QuorumConfig(acceptors=acceptors(1, 1), former=acceptors(1, 2)), "acceptors"),
        (ONE_TWO, configuration(1, 2, learners=(2,)), "learners"),
        (ONE_TWO, configuration(1, 2, learners=(3, 3)), "learners"),
        (ONE_TWO, configuration(1, 2, learners=tuple(range(3, 66))), "acceptors"),
    ],
)
def test_refused_steps(current: QuorumConfig, proposed: QuorumConfig, field: str) -> None:
    """Whatever leaves two configurations that need not meet is refused, naming the field."""
    with pytest.raises(InvalidConfig) as refused:
        verify_change(current, proposed)
    assert refused.value.field == field


def test_who_may_lead() -> None:
    """Those with a vote; all where a disk or witness decides alone; in a change both parts."""
    nodes = weighted(1, 0, 1)
    witness = Acceptor(id=AcceptorId(NodeId(60_000), "share"), kind="object")
    voting = (identity(1), identity(3))
    assert contenders(QuorumConfig(acceptors=nodes)) == voting
    assert contenders(QuorumConfig(acceptors=(*nodes, witness))) == voting
    alone = (*weighted(0, 0, 0), witness)
    everyone = (identity(1), identity(2), identity(3))
    assert contenders(QuorumConfig(acceptors=alone)) == everyone
    assert contenders(QuorumConfig(acceptors=nodes, former=alone)) == everyone
    assert contenders(QuorumConfig(acceptors=())) == ()
