"""Requests that were forwarded are answered once, by whom they went to, whatever becomes of it."""

from __future__ import annotations

from leitwolf.core.effects import FromPeer, PeerLost, PeerUp, Reply, Request, Requests, Send
from leitwolf.core.messages import Append
from leitwolf.core.node import Node
from leitwolf.model.commands import Answer, IssueToken
from leitwolf.model.ids import NodeId
from leitwolf.model.log import Entry
from leitwolf.model.observations import Forward, ForwardAnswer
from leitwolf.model.quorum import AcceptorId
from leitwolf.sim.forming import formed_log
from leitwolf.wire.ballot import Ballot, Key
from leitwolf.wire.page import LeasePage

_PAGES = [LeasePage(boot_id=bytes(16))]
"""The guard's page; the newest counts."""


def _follower() -> Node:
    log = formed_log(nodes=3, groups=1, links=1, profile="default")
    node = Node(
        me=AcceptorId(NodeId(1), "disk1"), loaded=log, page=lambda: _PAGES[-1], now=1_000_000
    )
    for peer in (2, 3):
        node.step(2_000_000, PeerUp(node=peer))
    _led_by(node, 2, log.entries[-1])
    return node


def _led_by(node: Node, leader: int, last: Entry) -> None:
    """Let ``node`` hear of a leader of a round of its own."""
    ballot = Ballot(0, 80 + leader, leader)
    _PAGES.append(LeasePage(boot_id=bytes(16), floor=ballot))
    message = Append(
        ballot=ballot,
        previous=Key(last.ballot, last.index),
        entries=(),
        commit=last.index,
    )
    node.step(3_000_000, FromPeer(node=leader, message=message))
    assert node.leader == leader


def _ask(node: Node, number: int) -> list[Reply]:
    command = IssueToken(digest=f"{number:064x}", lifetime_s=60)
    request = Request(id=number, command=command, by="test", wall=0)
    effects = node.step(4_000_000, Requests(requests=(request,)))
    return [effect for effect in effects if isinstance(effect, Reply)]


def test_a_request_to_a_former_leader_is_given_up_when_that_is_lost() -> None:
    """It was forgotten when another went to the next leader, and blocked a place for ever."""
    log = formed_log(nodes=3, groups=1, links=1, profile="default")
    node = _follower()
    assert not _ask(node, 1)
    _led_by(node, 3, log.entries[-1])
    assert not _ask(node, 2)
    effects = node.step(5_000_000, PeerLost(node=2))
    (reply,) = [effect for effect in effects if isinstance(effect, Reply)]
    assert reply.id == 1
    assert reply.answer.refusal is not None
    assert reply.answer.refusal.code == "outcome-unknown"


def test_an_answer_counts_only_from_the_node_that_was_asked() -> None:
    """Another node answers somebody else's request, which happens to have the same number."""
    node = _follower()
    _ask(node, 1)
    answer = ForwardAnswer(id=1, answer=Answer(index=7))
    assert not node.step(5_000_000, FromPeer(node=3, message=answer))
    effects = node.step(5_000_000, FromPeer(node=2, message=answer))
    assert Reply(id=1, answer=Answer(index=7)) in effects


def test_an_answer_is_sent_again_by_a_new_stream() -> None:
    """It may have gone with the former one, which the node that asked did not ask by."""
    node, second = _follower(), 1_000_000_000
    command = IssueToken(digest="0" * 64, lifetime_s=60)

    def answers(at: int, *events: PeerLost | PeerUp | FromPeer) -> list[int]:
        effects = [effect for event in events for effect in node.step(at, event)]
        sent = [effect for effect in effects if isinstance(effect, Send)]
        assert all(effect.node == 3 for effect in sent if isinstance(effect.message, ForwardAnswer))
        return [one.message.id for one in sent if isinstance(one.message, ForwardAnswer)]

    for number in range(1, 400):
        asked = Forward(id=number, command=command, by="test", wall=0)
        at = second if number < 399 else 10 * second
        assert answers(at, FromPeer(node=3, message=asked)) == [number]
    lost, up = PeerLost(node=3), PeerUp(node=3)
    assert not answers(11 * second, PeerLost(node=2), PeerUp(node=2))
    assert answers(11 * second, lost, up) == list(range(144, 400))
    assert answers(32 * second, lost, up) == [399]
    assert not answers(41 * second, lost, up)
