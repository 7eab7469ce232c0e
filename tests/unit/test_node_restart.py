"""A node that starts again knows whom to listen to, although it knows of no commit."""

from __future__ import annotations

from leitwolf.core.effects import AskGuard, FromGuard
from leitwolf.core.node import Node
from leitwolf.model.ids import NodeId
from leitwolf.model.log import Loaded
from leitwolf.model.quorum import AcceptorId
from leitwolf.sim.forming import formed_log
from leitwolf.wire.guard import Configure, GuardHello


def started(loaded: Loaded, me: int = 1) -> Node:
    return Node(
        me=AcceptorId(NodeId(me), f"disk{me}"), loaded=loaded, page=lambda: None, now=1_000_000
    )


def uncommitted() -> Loaded:
    log = formed_log(nodes=3, groups=1, links=1, profile="default")
    return Loaded(promised=log.promised, entries=log.entries, commit=0)


def test_members_of_an_uncommitted_entry_are_listened_to() -> None:
    """Only they can tell that the entry is committed; shut out, the node would stay alone."""
    node = started(uncommitted())
    assert not node.state.nodes
    assert sorted(node.acquainted) == [1, 2, 3]
    effects = node.step(2_000_000, FromGuard(report=GuardHello(incarnation=7, remembers=True)))
    asked = [item.command for item in effects if isinstance(item, AskGuard)]
    configured = next(item for item in asked if isinstance(item, Configure))
    assert [peer.node for peer in configured.peers] == [2, 3]


def test_nothing_is_done_because_of_an_uncommitted_entry() -> None:
    """Groups of an entry that may never be committed are unknown to what starts resources."""
    assert not started(uncommitted()).state.groups
