"""One TLS stream to one peer: handshake, frames, signs of life.

After TLS the certificate's fingerprint must be admitted; who is not admitted hears a rejection and
nothing else. Then hello and welcome cross both ways (:mod:`leitwolf.peers.frames`), then messages.
Broken input ends the stream and is counted.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol, cast

from leitwolf.model.errors import ProtocolError
from leitwolf.model.limits import PEER_FRAME_BYTES_MAX
from leitwolf.peers.frames import (
    CONTROL_BYTES_MAX,
    PING,
    PROTOCOL,
    Code,
    Framer,
    Hello,
    Rejected,
    Rejection,
    Welcome,
    decode_control,
    encode_control,
    frame,
    protocol_of,
)
from leitwolf.peers.identity import fingerprint
from leitwolf.system.clock import next_multiple

__all__ = ["BACKLOG_BYTES_MAX", "Counters", "Ending", "PeerStream", "StreamOwner", "Timing"]

BACKLOG_BYTES_MAX = 64 << 20
"""A peer that is this far behind is dropped; the core sends again what it still needs."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of streams, in seconds."""

    ping: float = 0.2
    """A stream on which nothing was sent for so long carries an empty frame."""
    silence: float = 1.0
    """A stream on which nothing was heard for so long is broken."""
    connect: float = 1.0
    handshake: float = 3.0
    """TLS, hello and welcome together."""
    join: float = 10.0
    """A whole join, the commit of the new node included."""
    retry_min: float = 0.02
    retry_max: float = 0.5
    retry_rejected: float = 2.0
    knock: float = 1.0
    """A node that should dial, but has not for so long, is called once in such a time."""


@dataclass(slots=True)
class Counters:
    """What went wrong on the TCP port since the start."""

    malformed: int = 0
    oversized: int = 0
    silent: int = 0
    """Streams dropped because nothing was heard."""
    overrun: int = 0
    """Streams dropped because the peer did not read."""
    handshakes_failed: int = 0
    """TLS or handshake not finished in time, or the certificate is of another authority."""
    turned_away: int = 0
    """Connections closed at once because too many were under way."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Peers and joiners that this node rejected, by code."""

    def count_rejection(self, code: str) -> None:
        """Count a peer or joiner that was rejected."""
        self.rejected[str(code)] = self.rejected.get(str(code), 0) + 1

    def count_broken(self, error: ProtocolError) -> None:
        """Count input that was none."""
        if error.code == "oversized":
            self.oversized += 1
        else:
            self.malformed += 1


class Ending(Enum):
    """How a stream ended, for the pause before the next attempt."""

    BROKEN = auto()
    """Before it was established."""
    REJECTED = auto()
    """By either side."""
    LOST = auto()
    """After it was established."""


class StreamOwner(Protocol):
    """What a stream needs of the network that it belongs to."""

    counters: Counters
    timing: Timing

    def admitted(self, fingerprint: str) -> int | None:
        """Return the node whose certificate this is, None: nobody's."""

    def own_hello(self) -> Hello:
        """Return the present hello of this node."""

    def judge(self, hello: Hello) -> Rejection | None:
        """Return why the peer with this hello is not served."""

    def stream_begun(self, stream: PeerStream) -> None:
        """Take note that TLS is done and the handshake begins."""

    def stream_established(self, stream: PeerStream) -> None:
        """Take note that messages can flow."""

    def stream_received(self, stream: PeerStream, data: bytes) -> None:
        """Take a message.

        Raises:
            ProtocolError: it is none.
        """

    def stream_rejected(self, stream: PeerStream, reason: Rejection) -> None:
        """Take note that the peer rejected this node."""

    def stream_refused(self, stream: PeerStream, reason: Rejection) -> None:
        """Take note that this node rejected the peer."""

    def stream_ended(self, stream: PeerStream) -> None:
        """Take note that the stream is gone."""

    def fail(self, error: BaseException) -> None:
        """Take note of an error that must end the daemon."""


class _Phase(Enum):
    TLS = auto()
    HELLO = auto()
    WELCOME = auto()
    ESTABLISHED = auto()
    REJECTED = auto()
    ENDED = auto()


class PeerStream(asyncio.Protocol):
    """One stream.

    Args:
        owner: the network.
        link: number of the interconnect link.
        expected: the node that was dialled; None: the stream was accepted.
    """

    def __init__(self, owner: StreamOwner, link: int, expected: int | None) -> None:
        loop = asyncio.get_running_loop()
        self.link = link
        self.node = expected or 0
        self.fingerprint = ""
        self.hello: Hello | None = None
        """Of the peer, once it was accepted."""
        self.settled: asyncio.Future[None] = loop.create_future()
        """Done when the stream is established or ended."""
        self.ended: asyncio.Future[Ending] = loop.create_future()
        self._owner = owner
        self._expected = expected
        self._loop = loop
        self._phase = _Phase.TLS
        self._framer = Framer(CONTROL_BYTES_MAX)
        self._sent_at = self._heard_at = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._ending = Ending.BROKEN

    # --- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Check the certificate and say hello (called when TLS is done)."""
        self._transport = cast("asyncio.Transport", transport)
        self._phase = _Phase.HELLO
        try:
            self._owner.stream_begun(self)
            self._begin()
        except BaseException as error:
            self._owner.fail(error)
            raise

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        self._heard_at = self._loop.time()
        if self._phase is _Phase.ENDED:
            return
        try:
            self._framer.push(data)
            self._take_frames()
        except ProtocolError as error:
            self._owner.counters.count_broken(error)
            self.abort()
        except BaseException as error:
            self._owner.fail(error)
            raise

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's name
        """Tell the owner."""
        if self._timer is not None:
            self._timer.cancel()
        if self._phase in (_Phase.HELLO, _Phase.WELCOME):
            self._owner.counters.handshakes_failed += 1
        self._phase = _Phase.ENDED
        self._settle()
        if not self.ended.done():
            self.ended.set_result(self._ending)
        try:
            self._owner.stream_ended(self)
        except BaseException as error:
            self._owner.fail(error)
            raise

    # --- for the network -------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send a message; a stream that is not established drops it."""
        if self._phase is not _Phase.ESTABLISHED:
            return
        self._write(frame(data))
        if self._transport.get_write_buffer_size() > BACKLOG_BYTES_MAX:
            self._owner.counters.overrun += 1
            self.abort()

    def abort(self) -> None:
        """End the stream at once; the owner is told soon."""
        if self._phase not in (_Phase.TLS, _Phase.ENDED):
            self._transport.abort()
        self._phase = _Phase.ENDED

    # --- handshake -------------------------------------------------------------------------------

    def _begin(self) -> None:
        certificate = self._transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self.fingerprint = fingerprint(certificate)
        node = self._owner.admitted(self.fingerprint)
        self._timer = self._loop.call_later(self._owner.timing.handshake, self._too_slow)
        if node is None or (self._expected is not None and node != self._expected):
            self._reject(
                Rejection(
                    code=Code.NOT_ADMITTED,
                    text="this node's certificate is not one of the cluster's members",
                    hint="it was evicted, or has not joined: join it with a new token",
                )
            )
            return
        self.node = node
        self._write(frame(encode_control(self._owner.own_hello())))

    def _too_slow(self) -> None:
        if self._phase is not _Phase.REJECTED:
            self._owner.counters.handshakes_failed += 1
        self.abort()

    def _take_frames(self) -> None:
        while self._phase is not _Phase.ENDED:
            data = self._framer.pop()
            if data is None:
                return
            if self._phase is _Phase.ESTABLISHED:
                if data:
                    self._owner.stream_received(self, data)
            else:
                self._take_control(data)

    def _take_control(self, data: bytes) -> None:
        if self._phase is _Phase.HELLO and self._other_version(data):
            return
        message = decode_control(data)
        if isinstance(message, Rejected):
            self._ending = Ending.REJECTED
            self._owner.stream_rejected(self, message.reason)
            self.abort()
        elif self._phase is _Phase.REJECTED:
            return  # said before the peer heard that it is rejected
        elif isinstance(message, Hello) and self._phase is _Phase.HELLO:
            self._take_hello(message)
        elif isinstance(message, Welcome) and self._phase is _Phase.WELCOME:
            self._establish()
        else:
            raise ProtocolError(
                f"{type(message).__name__} while waiting for {self._phase.name}", code="malformed"
            )

    def _other_version(self, data: bytes) -> bool:
        """Reject a hello of another version, whatever else stands in it."""
        try:
            protocol = protocol_of(data)
        except ProtocolError:
            return False  # a Rejected has no version; what is nothing at all is found out later
        if protocol == PROTOCOL:
            return False
        self._reject(
            Rejection(
                code=Code.VERSION_MISMATCH,
                text=f"peer protocol {protocol} is not spoken here, only {PROTOCOL}",
                hint="install the same version of Leitwolf on all nodes",
            )
        )
        return True

    def _take_hello(self, hello: Hello) -> None:
        if hello.node != self.node:
            raise ProtocolError(
                f"node {self.node} says that it is node {hello.node}", code="malformed"
            )
        reason = self._owner.judge(hello)
        if reason is not None:
            self._reject(reason)
            return
        self.hello = hello
        self._phase = _Phase.WELCOME
        self._write(frame(encode_control(Welcome())))

    def _reject(self, reason: Rejection) -> None:
        """Say why not, and let the peer close: closing first could lose what was said."""
        self._owner.counters.count_rejection(reason.code)
        self._ending = Ending.REJECTED
        self._write(frame(encode_control(Rejected(reason=reason))))
        self._phase = _Phase.REJECTED
        self._owner.stream_refused(self, reason)

    def _establish(self) -> None:
        self._phase = _Phase.ESTABLISHED
        self._ending = Ending.LOST
        self._framer.limit = PEER_FRAME_BYTES_MAX
        if self._timer is not None:
            self._timer.cancel()
        self._await_tick()
        self._settle()
        self._owner.stream_established(self)

    # --- signs of life ---------------------------------------------------------------------------

    def _tick(self) -> None:
        """Send a ping if nothing was sent; end the stream if nothing was heard."""
        timing = self._owner.timing
        now = self._loop.time()
        if now - self._heard_at > timing.silence:
            self._owner.counters.silent += 1
            self.abort()
            return
        if now - self._sent_at >= timing.ping * 0.9:
            self._write(PING)
        self._await_tick()

    def _await_tick(self) -> None:
        at = next_multiple(self._loop.time(), self._owner.timing.ping)
        self._timer = self._loop.call_at(at, self._tick)

    def _write(self, data: bytes) -> None:
        self._sent_at = self._loop.time()
        self._transport.write(data)

    def _settle(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)
