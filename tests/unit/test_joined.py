"""What a node that has just joined tells of what it lacks."""

from __future__ import annotations

from tests.policy_world import World

from leitwolf.daemon.joined import shortcomings
from leitwolf.model.events import NodeDown
from leitwolf.model.ids import NodeId
from leitwolf.peers.join import Unanswered

ME = NodeId(4)


def unanswered(*nodes: int) -> list[Unanswered]:
    return [Unanswered(node, "192.0.2.4", f"192.0.2.{node}", 6474) for node in nodes]


def test_a_node_that_hears_nobody_says_which_port_is_blocked_where() -> None:
    """And that it does not vote: it is a member, and of no use yet."""
    world = World(3)
    world.apply(World.new_node(4))
    port, vote = shortcomings(world.state, ME, unanswered(1, 2, 3), ())
    assert port == (
        "this node is a member, but hears nobody: UDP port 6474 is blocked between 192.0.2.4 and "
        "192.0.2.1, 192.0.2.2, 192.0.2.3; open it in the firewalls of both sides"
    )
    assert vote == "this node has no vote yet: leitwolf status says when it has"


def test_who_is_heard_by_now_or_down_is_not_told_of() -> None:
    """A probe before the own guard ran proves little about later."""
    world = World(3)
    me = NodeId(3)
    assert shortcomings(world.state, me, unanswered(1, 2), {1, 2}) == []
    (line,) = shortcomings(world.state, me, unanswered(1, 2), {1})
    assert "a member, but does not hear node2: UDP port 6474 is blocked" in line
    world.apply(NodeDown(node=NodeId(2), attested=True))
    assert shortcomings(world.state, me, unanswered(2), {1}) == []


def test_many_addresses_are_counted_and_an_own_fault_is_told() -> None:
    """A line has an end; who cannot even ask says why."""
    world = World(8)
    me = NodeId(8)
    (line,) = shortcomings(world.state, me, unanswered(1, 2, 3, 4, 5, 6), {7})
    assert "192.0.2.4, 2 more; open it" in line
    fault = Unanswered(0, "192.0.2.8", "", 6474, "Permission denied")
    (line,) = shortcomings(world.state, me, [fault], ())
    assert line == "UDP 6474 on 192.0.2.8 (this node): Permission denied"
    assert shortcomings(world.state, me, [fault], {1}) == []
