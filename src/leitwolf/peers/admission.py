"""The answering side of a join: what a caller without a certificate may say.

One hello, one request, at most 64 KiB each, in ten seconds; a few at a time. Nothing of the cluster
is told before the daemon accepted the token, except the authority's certificate, which is public,
and that only to callers who name this cluster.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, cast

from leitwolf.model.errors import ProtocolError
from leitwolf.peers.frames import (
    CONTROL_BYTES_MAX,
    PROTOCOL,
    AuthorityShown,
    Code,
    Control,
    Framer,
    JoinGrant,
    JoinHello,
    JoinRequest,
    Rejected,
    Rejection,
    decode_control,
    encode_control,
    frame,
    protocol_of,
)
from leitwolf.peers.stream import Counters, Timing

__all__ = ["Admission", "AdmissionOwner", "JoinGate", "OnJoin"]

OnJoin = Callable[[JoinRequest, str], Awaitable[JoinGrant | Rejection]]
"""Given a request and the caller's address: admit the node (commit it), or say why not."""

_JOINS_AT_ONCE_MAX = 4
_JOINS_PER_WINDOW_MAX = 20
_WINDOW_S = 10.0
_LINGER_S = 1.0


class JoinGate:
    """Lets few joins in at a time: a secret is not to be guessed here, nor the log to be flooded.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun: collections.deque[float] = collections.deque()
        self._under_way = 0

    def enter(self) -> bool:
        """Tell whether one more may begin; if so :meth:`leave` must follow."""
        now = self._clock()
        while self._begun and now - self._begun[0] > _WINDOW_S:
            self._begun.popleft()
        if self._under_way >= _JOINS_AT_ONCE_MAX or len(self._begun) >= _JOINS_PER_WINDOW_MAX:
            return False
        self._begun.append(now)
        self._under_way += 1
        return True

    def leave(self) -> None:
        """One is over."""
        self._under_way -= 1


class AdmissionOwner(Protocol):
    """What an admission needs of the network."""

    counters: Counters
    timing: Timing
    cluster: str
    authority: bytes
    gate: JoinGate
    on_join: OnJoin

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work beside; its errors end the daemon."""

    def fail(self, error: BaseException) -> None:
        """Take note of an error that must end the daemon."""


class Admission(asyncio.Protocol):
    """One caller without a certificate."""

    def __init__(self, owner: AdmissionOwner) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owner = owner
        self._framer = Framer(CONTROL_BYTES_MAX)
        self._entered = False
        self._greeted = False
        self._answered = False
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to listen (called when TLS is done)."""
        self._transport = cast("asyncio.Transport", transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._owner.timing.join, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if self._answered or self._transport.is_closing():
            return
        try:
            self._framer.push(data)
            while not self._answered and (part := self._framer.pop()) is not None:
                self._take(part)
        except ProtocolError as error:
            self._owner.counters.count_broken(error)
            self._transport.abort()
        except BaseException as error:
            self._owner.fail(error)
            raise

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's name
        """Clean up; a commit under way goes on, the joiner asks again with the same token."""
        if self._timer is not None:
            self._timer.cancel()
        if self._entered:
            self._owner.gate.leave()
        if not self.ended.done():
            self.ended.set_result(None)

    def _take(self, data: bytes) -> None:
        if not self._greeted:
            self._greet(data)
            return
        message = decode_control(data)
        if not isinstance(message, JoinRequest) or self._work is not None:
            raise ProtocolError("one join request is expected here", code="malformed")
        self._work = self._owner.spawn(self._join(message))

    def _greet(self, data: bytes) -> None:
        protocol = protocol_of(data)
        if protocol != PROTOCOL:
            self._reject(
                Rejection(
                    code=Code.VERSION_MISMATCH,
                    text=f"peer protocol {protocol} is not spoken here, only {PROTOCOL}",
                    hint="install the version of Leitwolf that the cluster runs",
                )
            )
            return
        message = decode_control(data)
        if not isinstance(message, JoinHello):
            raise ProtocolError("only join is spoken without a certificate", code="malformed")
        if message.cluster != self._owner.cluster:
            self._reject(
                Rejection(
                    code=Code.TOKEN_FOREIGN,
                    text="the token is of another cluster than the one that answers here",
                    hint="make a token on a node of the cluster that you want to join",
                )
            )
            return
        self._entered = self._owner.gate.enter()
        if not self._entered:
            self._reject(
                Rejection(
                    code=Code.BUSY,
                    text="too many nodes try to join at once",
                    hint="try again in ten seconds",
                )
            )
            return
        self._greeted = True
        self._send(AuthorityShown(certificate=self._owner.authority))

    async def _join(self, request: JoinRequest) -> None:
        host = str(self._transport.get_extra_info("peername")[0])
        answer = await self._owner.on_join(request, host)
        if isinstance(answer, Rejection):
            self._reject(answer)
        else:
            self._answer(answer)

    def _reject(self, reason: Rejection) -> None:
        self._owner.counters.count_rejection(reason.code)
        self._answer(Rejected(reason=reason))

    def _answer(self, message: Control) -> None:
        """Say the last word, and let the caller close: closing first could lose it."""
        if self._transport.is_closing():
            return
        self._answered = True
        self._send(message)
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LINGER_S, self._transport.abort)

    def _send(self, message: Control) -> None:
        self._transport.write(frame(encode_control(message)))
