"""A disk or witness that a node refuses is shown on all nodes, with who refuses it and why."""

from __future__ import annotations

import pytest
from tests.sim_calm import SECOND, ask, followers, leader, started

from leitwolf.core.quorum.passive import Passive
from leitwolf.daemon.storage_views import blind, findings
from leitwolf.daemon.views import quorum_view
from leitwolf.model.commands import SetVotes
from leitwolf.model.ids import NodeId
from leitwolf.ports.witness import WitnessFault, WitnessResult

SAID = "x cannot be used: fresh reads: reads are stale"


finish = Passive._finish


def refused(one: Passive, started: int, result: WitnessResult) -> None:
    """Take what cannot be reached for unfit."""
    fault = isinstance(result, WitnessFault)
    finish(one, started, WitnessFault(code="witness-unfit", text=SAID) if fault else result)


@pytest.mark.parametrize(
    ("quorum", "check"), [("disk", "quorum disk check"), ("tag-witness", "witness test")]
)
def test_a_refusal_is_told_of_the_node_that_refuses(
    monkeypatch: pytest.MonkeyPatch, quorum: str, check: str
) -> None:
    """It alone may have mounted it otherwise: to replace it is not the first thing to try."""
    world = started(quorum, 3)
    monkeypatch.setattr(Passive, "_finish", refused)
    other = next(node for node in world.nodes.values() if node is not leader(world))
    [place] = world.witnesses.values()
    place.unreached.add(other.id)
    world.run_until(world.now + 7 * SECOND)
    for node in world.nodes.values():
        [found] = findings(node.daemon.core, lambda number: f"n{number}")
        assert found.code == "witness-unfit"
        assert blind(node.daemon.core) == {other.id: {60_000}}
        assert found.text == f"n{other.id} refuses n60000: {SAID}"
        assert found.fix.startswith(f"on n{other.id}: leitwolf {check} ")


@pytest.mark.parametrize("everywhere", [False, True])
def test_what_one_node_alone_finds_replaced_is_its_own_fault(
    monkeypatch: pytest.MonkeyPatch, everywhere: bool
) -> None:
    """A share that is not mounted there: whoever replaced the witness would lose a whole one."""

    def empty(one: Passive, started: int, result: WitnessResult) -> None:
        fault = WitnessFault(code="witness-unformatted", text="x holds nothing any more")
        finish(one, started, fault if isinstance(result, WitnessFault) else result)

    world = started("tag-witness", 3)
    monkeypatch.setattr(Passive, "_finish", empty)
    other = next(node for node in world.nodes.values() if node is not leader(world))
    [place] = world.witnesses.values()
    place.unreached.update(world.nodes if everywhere else {other.id})
    world.run_until(world.now + 7 * SECOND)
    for node in world.nodes.values():
        [found] = findings(node.daemon.core, lambda number: f"n{number}")
        assert found.code == "witness-unformatted"
        if everywhere:
            assert found.fix == "leitwolf quorum replace"
        else:
            assert found.text.startswith(f"n{other.id} finds something else")
            assert found.fix.startswith(f"on n{other.id}: see what is mounted")


@pytest.mark.parametrize("sees", [False, True])
def test_what_a_node_said_that_looks_no_more_counts_no_more(
    monkeypatch: pytest.MonkeyPatch, sees: bool
) -> None:
    """A node that has no vote any more: neither is it blind for ever, nor is the witness whole."""

    def empty(one: Passive, started: int, result: WitnessResult) -> None:
        fault = WitnessFault(code="witness-unformatted", text="x holds nothing any more")
        finish(one, started, fault if isinstance(result, WitnessFault) else result)

    world = started("full-witness", 3)
    first, other = leader(world), followers(world)[-1]
    [place] = world.witnesses.values()
    if not sees:
        place.unreached.add(other.id)
        world.run_until(world.now + 7 * SECOND)
        assert blind(first.daemon.core) == {other.id: {60_000}}
    ask(world, first, SetVotes(weights={NodeId(other.id): 0}))
    world.run_until(world.now + 2 * SECOND)
    assert not blind(first.daemon.core)
    assert not findings(first.daemon.core, str)
    monkeypatch.setattr(Passive, "_finish", empty)
    place.unreached.update(world.nodes)
    world.run_until(world.now + 7 * SECOND)
    [found] = findings(first.daemon.core, lambda number: f"n{number}")
    assert (found.code, found.fix) == ("witness-unformatted", "leitwolf quorum replace")
    assert blind(first.daemon.core).keys() == world.nodes.keys() - {other.id}


def test_a_witness_that_the_leader_alone_does_not_reach_is_there() -> None:
    """It may fail, or the leader may; without the other node the leader could not go on by it."""
    world = started("full-witness", 2)
    first, [other] = leader(world), followers(world)
    [place] = world.witnesses.values()
    place.unreached.add(first.id)
    world.run_until(world.now + 7 * SECOND)
    assert leader(world) is first
    for node in (first, other):
        core = node.daemon.core
        assert core is not None
        view = quorum_view(core, node.kernel.page, node.raw(), worst_stall=0, realtime=True)
        assert view.survives == (
            f"n{first.id} or the witness may fail, not n{other.id} "
            "(no node would be left that reaches what it needs)"
        )
        [witness] = [one for one in view.members if one.kind == "object"]
        assert witness.connected is (node is other), "what this node itself reaches"
