"""Requests of users, as one node handles them: decided here, passed to the leader, or refused."""

from __future__ import annotations

import msgspec

from leitwolf.core.effects import Effect, Reply, Request, Send
from leitwolf.core.force import Force
from leitwolf.core.governor import Governor
from leitwolf.model.commands import Answer, ForceQuorum, Refusal
from leitwolf.model.errors import check
from leitwolf.model.ids import NodeId
from leitwolf.model.limits import REQUESTS_PENDING_MAX
from leitwolf.model.observations import Forward, ForwardAnswer
from leitwolf.model.state import State

__all__ = ["RequestRouter"]


class RequestRouter:
    """The half of :class:`leitwolf.core.node.Node` that users talk to."""

    me: NodeId
    state: State
    governor: Governor | None
    connected: set[NodeId]
    force: Force
    _effects: list[Effect]
    _wall_base: int
    """Wall clock minus RAW, ns."""
    _requests: dict[int, NodeId]
    """Requests of this node that wait for an answer, with the node that decides them."""

    @property
    def leader(self) -> NodeId:
        """The node in office as far as this one knows, 0: none."""
        raise NotImplementedError

    def _wall(self, now: int) -> int:
        raise NotImplementedError

    def _request(self, now: int, request: Request) -> None:
        self._wall_base = request.wall - now
        if len(self._requests) >= REQUESTS_PENDING_MAX:
            text = f"{REQUESTS_PENDING_MAX} requests wait already"
            self._refuse(request.id, Refusal(code="overload", text=text, retryable=True))
        elif isinstance(request.command, ForceQuorum) and self.governor is None:
            self.force.request(now, request)
        elif self.governor is not None:
            self._requests[request.id] = self.me
            self._decide(now, request.id, self.me, request)
        elif self.leader and self.leader in self.connected:
            self._requests[request.id] = self.leader
            forward = Forward(**msgspec.structs.asdict(request))
            self._effects.append(Send(node=self.leader, message=forward))
        else:
            self._refuse(request.id, self._no_quorum())

    def _no_quorum(self) -> Refusal:
        lacking = sorted(
            node.name
            for node in self.state.nodes.values()
            if node.id != self.me and node.id not in self.connected
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

    def _forwarded(self, now: int, origin: NodeId, forward: Forward) -> None:
        if self.governor is None:
            refusal = Refusal(
                code="not-leader", text="the leader changed meanwhile", retryable=True
            )
            answer = ForwardAnswer(id=forward.id, answer=Answer(refusal=refusal))
            self._effects.append(Send(node=origin, message=answer))
            return
        request = Request(**msgspec.structs.asdict(forward))
        self._decide(now, forward.id, origin, request)

    def _decide(self, now: int, request_id: int, origin: NodeId, request: Request) -> None:
        check(self.governor is not None, "a request is decided by the leader only")
        if self.governor is not None:
            self.governor.request(now, self._wall(now), request_id, origin, request)

    def _fail_forwarded(self, node: NodeId) -> None:
        for request in [one for one, decides in self._requests.items() if decides == node]:
            del self._requests[request]
            self._refuse(
                request,
                Refusal(
                    code="outcome-unknown",
                    text="the connection to the leader broke; the request may have been done",
                    hint="look at the state before asking again",
                    retryable=True,
                ),
            )
