"""Requests of users, as one node handles them: decided here, passed to the leader, or refused.

Rules:

- A request of this node is answered once: by whoever decides it, or as ``outcome-unknown`` when
  the stream to the leader that got it breaks. A late answer of another node counts nothing.
- At most ``REQUESTS_PENDING_MAX`` requests of this node wait.
- What another node asked is answered again when a stream to it is up anew: the answer may have gone
  with the former one, which is not the one by which that node asked. It counts once.

What this does not guarantee: an answer in time; who asks waits as long as he likes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import msgspec

from leitwolf.core.effects import Effect, Reply, Request, Send
from leitwolf.core.force import Force
from leitwolf.core.governor import Governor
from leitwolf.model.commands import Answer, ForceQuorum, Refusal
from leitwolf.model.ids import NodeId
from leitwolf.model.limits import REQUESTS_PENDING_MAX
from leitwolf.model.observations import Forward, ForwardAnswer
from leitwolf.model.state import State

__all__ = ["RequestRouter", "Surroundings"]

_TOLD_MAX = 256
_TOLD_NS = 30_000_000_000
"""Nobody waits longer for an answer; ids are unique, also of daemons that start again."""


class Surroundings(Protocol):
    """What the router reads of the node that it belongs to."""

    @property
    def me(self) -> NodeId:
        """This node."""

    @property
    def leader(self) -> NodeId:
        """The node in office as far as this one knows, 0: none."""

    @property
    def governor(self) -> Governor | None:
        """Who decides here, None: this node has no office."""

    @property
    def connected(self) -> Collection[NodeId]:
        """Nodes with a stream, of the same history."""

    @property
    def state(self) -> State:
        """What is committed."""


class RequestRouter:
    """The part of a node that users talk to."""

    def __init__(self, node: Surroundings, force: Force) -> None:
        """Begin without requests.

        Args:
            node: read at each request.
            force: takes the one command that needs no leader.
        """
        self._node = node
        self._force = force
        self._pending: dict[int, NodeId] = {}
        """Requests of this node that wait for an answer, with the node that decides them."""
        self._told: dict[NodeId, dict[int, tuple[int, ForwardAnswer]]] = {}
        """By node, what it was answered last, by request, and when (ns)."""
        self._effects: list[Effect] = []

    def take_effects(self) -> list[Effect]:
        """Return what is to be done, and forget it."""
        effects, self._effects = self._effects, []
        return effects

    def request(self, now: int, request: Request) -> None:
        """Take a request of this node."""
        node = self._node
        if len(self._pending) >= REQUESTS_PENDING_MAX:
            text = f"{REQUESTS_PENDING_MAX} requests wait already"
            self._refuse(request.id, Refusal(code="overload", text=text, retryable=True))
        elif node.governor is not None:
            self._pending[request.id] = node.me
            node.governor.request(now, request.wall, request.id, node.me, request)
        elif isinstance(request.command, ForceQuorum):
            self._force.request(now, request)
        elif node.leader and node.leader in node.connected:
            self._pending[request.id] = node.leader
            forward = Forward(**msgspec.structs.asdict(request))
            self._effects.append(Send(node=node.leader, message=forward))
        else:
            self._refuse(request.id, self._no_quorum())

    def forwarded(self, now: int, wall: int, origin: NodeId, forward: Forward) -> None:
        """Take a request that came in on ``origin``; ``wall``: wall clock of this node, ns."""
        governor = self._node.governor
        if governor is not None:
            request = Request(**msgspec.structs.asdict(forward))
            governor.request(now, wall, forward.id, origin, request)
            return
        refusal = Refusal(code="not-leader", text="the leader changed meanwhile", retryable=True)
        answer = ForwardAnswer(id=forward.id, answer=Answer(refusal=refusal))
        self._effects.append(Send(node=origin, message=answer))

    def answered(self, node: NodeId, answer: ForwardAnswer) -> None:
        """Pass the answer of the leader on, if it is the one that was asked."""
        if self._pending.get(answer.id) == node:
            self.replied(answer.id)
            self._effects.append(Reply(id=answer.id, answer=answer.answer))

    def replied(self, request: int) -> None:
        """A request is answered."""
        self._pending.pop(request, None)

    def lost(self, node: NodeId) -> None:
        """The stream to ``node`` is gone: what it was to decide may be done or not."""
        for request in [one for one, decides in self._pending.items() if decides == node]:
            self.replied(request)
            self._refuse(
                request,
                Refusal(
                    code="outcome-unknown",
                    text="the connection to the leader broke; the request may have been done",
                    hint="look at the state before asking again",
                    retryable=True,
                ),
            )

    def told(self, now: int, node: NodeId, answer: ForwardAnswer) -> None:
        """Another node is sent the answer to its request."""
        told = self._told.setdefault(node, {})
        told.setdefault(answer.id, (now, answer))
        if len(told) > _TOLD_MAX:
            del told[next(iter(told))]

    def reached(self, now: int, node: NodeId) -> None:
        """A stream to ``node`` is up: answer it again."""
        told = self._told.pop(node, {})
        fresh = {one: what for one, what in told.items() if now - what[0] < _TOLD_NS}
        if fresh:
            self._told[node] = fresh
        self._effects += [Send(node=node, message=answer) for _, answer in fresh.values()]

    def _no_quorum(self) -> Refusal:
        node = self._node
        lacking = sorted(
            other.name
            for other in node.state.nodes.values()
            if other.id != node.me and other.id not in node.connected
        )
        missing = f"; not reachable from here: {', '.join(lacking)}" if lacking else ""
        return Refusal(
            code="no-quorum",
            text=f"this part of the cluster has no leader{missing}",
            hint="start the missing nodes or mend the interconnect; reads still answer",
            retryable=True,
        )

    def _refuse(self, request: int, refusal: Refusal) -> None:
        self._effects.append(Reply(id=request, answer=Answer(refusal=refusal)))
