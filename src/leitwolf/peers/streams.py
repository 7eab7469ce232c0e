"""Streams to all peers on all interconnect links.

Rules

- The node with the lower id dials, one stream per link. One that does not is knocked at now and
  then: perhaps it does not know the caller any more, and then says so.
- Which stream is used for sending is decided here: the first that was up, as long as its link is
  not reported down; then at once another.
- A change of the stream is reported as lost and up: what was under way may be lost or overtaken.
- Only admitted nodes get past the handshake; callers without a certificate may only join.
- Errors that are no errors of the network (a broken invariant in a callback) come out of
  :meth:`PeerNetwork.run` and end the daemon.

What this does not guarantee: delivery. A message may be lost whenever a stream ends or changes, and
may then arrive late. It arrives whole, unaltered, and from the node that sent it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from leitwolf.model.errors import MALFORMED, ProtocolError, check
from leitwolf.model.history import HistoryStanding
from leitwolf.model.limits import PEER_FRAME_BYTES_MAX
from leitwolf.peers.admission import Admission, JoinGate, OnJoin
from leitwolf.peers.frames import Code, Hello, Rejection
from leitwolf.peers.identity import TlsContexts
from leitwolf.peers.sockets import dialling_socket, listening_socket, tune
from leitwolf.peers.stream import Counters, Ending, PeerStream, Timing

__all__ = ["PeerCallbacks", "PeerCodec", "PeerNetwork"]

_ENTERING_MAX = 64
"""Connections in their handshake, of callers at addresses that are no peer's."""
_ENTERING_PER_HOST_MAX = 16
"""The same of one address; a peer has one per link."""
_LISTEN_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class PeerCodec:
    """How messages of the cores become bytes.

    ``decode`` raises msgspec.MsgspecError, ValueError, OverflowError or RecursionError for input
    that is no message.
    """

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCallbacks:
    """What the daemon does and knows; called in the event loop, must not block."""

    on_message: Callable[[int, Any], None]
    """A message of a node came in."""
    on_up: Callable[[int], None]
    """A node can be sent to."""
    on_lost: Callable[[int], None]
    """A node cannot be sent to any more, or (up follows at once) its stream changed."""
    on_rejected: Callable[[int, str, str], None]
    """A node rejected this one: node, code, text."""
    on_refused: Callable[[int, str, str], None]
    """This node rejected another one: node (0: not known), code, text."""
    on_join: OnJoin
    admitted: Callable[[str], int | None]
    """The node with a certificate of this fingerprint, in the log; None: nobody."""
    examine: Callable[[Hello], Rejection | None]
    """Whether the storage in a hello is known and kept its promises."""
    hello: Callable[[], Hello]
    """The present hello of this node: what is durable."""


class PeerNetwork:
    """All streams of this daemon.

    Args:
        node: own id.
        cluster: uuid of the cluster.
        port: TCP port of every node.
        contexts: TLS.
        codec: of messages.
        callbacks: the daemon's part.
        timing: in seconds.
    """

    def __init__(
        self,
        *,
        node: int,
        cluster: str,
        port: int,
        contexts: TlsContexts,
        codec: PeerCodec,
        callbacks: PeerCallbacks,
        timing: Timing | None = None,
    ) -> None:
        self.node = node
        self.cluster = cluster
        self.port = port
        self.authority = contexts.authority
        self.timing = timing or Timing()
        self.counters = Counters()
        self.on_join = callbacks.on_join
        self.listen_faults: dict[str, str] = {}
        """Own addresses that cannot be listened on, and why."""
        self._contexts = contexts
        self._codec = codec
        self._calls = callbacks
        self._addresses: tuple[str, ...] = ()
        self._peers: dict[int, tuple[str, ...]] = {}
        self._streams: dict[int, dict[int, PeerStream]] = {}
        self._active: dict[int, PeerStream] = {}
        self._down: set[tuple[int, int]] = set()
        self._handshaking: set[PeerStream] = set()
        self._entering: Counter[str] = Counter()
        self._workers: dict[tuple[str, int, int, str, str], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._closing = False
        self._session = os.urandom(8)

    # --- for the daemon --------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve and dial until cancelled.

        Raises:
            BaseException: what a callback raised.
        """
        loop = asyncio.get_running_loop()
        check(self._failure is None, "a peer network runs once")
        self._failure = loop.create_future()
        self.gate = JoinGate(loop.time)
        try:
            self._arrange()
            await self._failure
        finally:
            await self._close()

    def configure(self, addresses: tuple[str, ...], peers: Mapping[int, tuple[str, ...]]) -> None:
        """Set who is where; replaces the former configuration as a whole, keeps what stays.

        Args:
            addresses: own address on each link, '' where there is none.
            peers: of every other node, its address on each link, '' where it has none.
        """
        self._addresses = addresses
        self._peers = {node: links for node, links in peers.items() if node != self.node}
        self._down = {(node, link) for node, link in self._down if node in self._peers}
        if self._failure is not None:
            self._arrange()

    def send(self, node: int, message: Any) -> bool:
        """Send a message on the node's present stream; False: there is none."""
        stream = self._active.get(node)
        if stream is None:
            return False
        data = self._codec.encode(message)
        check(0 < len(data) <= PEER_FRAME_BYTES_MAX, f"message of {len(data)} bytes")
        stream.send(data)
        return True

    def link_down(self, node: int, link: int) -> None:
        """The guard hears nothing of a node on a link: use another one if there is any."""
        self._down.add((node, link))
        self._choose(node)

    def link_up(self, node: int, link: int) -> None:
        """The guard hears a node on a link."""
        self._down.discard((node, link))
        self._choose(node)

    def connected(self) -> dict[int, int]:
        """Return the nodes that can be sent to, and the link in use for each."""
        return {node: stream.link for node, stream in self._active.items()}

    def history(self, node: int) -> HistoryStanding:
        """Return in which history a node is, as it said when its stream in use was made."""
        stream = self._active.get(node)
        hello = stream.hello if stream is not None else None
        return hello.history if hello is not None else HistoryStanding()

    def examine_again(self) -> None:
        """End the streams of nodes that would not be let in any more."""
        for streams in list(self._streams.values()):
            for stream in list(streams.values()):
                if stream.hello is not None and self.judge(stream.hello) is not None:
                    stream.abort()

    def renew(self) -> None:
        """Make all streams anew: what this node says in its hello has changed."""
        standing = [stream for streams in self._streams.values() for stream in streams.values()]
        for stream in (*standing, *self._handshaking):
            stream.abort()

    def links(self) -> dict[int, tuple[int, ...]]:
        """Return the links on which a stream to each node stands."""
        return {node: tuple(sorted(streams)) for node, streams in self._streams.items() if streams}

    # --- for streams and admissions --------------------------------------------------------------

    def admitted(self, fingerprint: str) -> int | None:
        """Return the configured peer whose certificate this is."""
        node = self._calls.admitted(fingerprint)
        return node if node in self._peers else None

    def own_hello(self) -> Hello:
        """Return the present hello of this node."""
        return msgspec.structs.replace(self._calls.hello(), session=self._session)

    def judge(self, hello: Hello) -> Rejection | None:
        """Return why the peer with this hello is not served."""
        if hello.cluster != self.cluster:
            return Rejection(
                code=Code.CLUSTER_FOREIGN,
                text=f"node {hello.node} is of cluster {hello.cluster}, here is {self.cluster}",
                hint="two clusters share an interconnect address: give one of them another",
            )
        return self._calls.examine(hello)

    def stream_begun(self, stream: PeerStream) -> None:
        """Keep a stream in view while it shakes hands."""
        self._handshaking.add(stream)

    def stream_established(self, stream: PeerStream) -> None:
        """Take a stream into use."""
        self._handshaking.discard(stream)
        if self.admitted(stream.fingerprint) != stream.node:
            stream.abort()
            return
        streams = self._streams.setdefault(stream.node, {})
        former = streams.get(stream.link)
        streams[stream.link] = stream
        if former is not None:
            former.abort()
        self._choose(stream.node)

    def stream_received(self, stream: PeerStream, data: bytes) -> None:
        """Decode a message and hand it on.

        Raises:
            ProtocolError: it is none.
        """
        try:
            message = self._codec.decode(data)
        except MALFORMED as error:
            raise ProtocolError(f"no message: {error}", code="malformed") from error
        self._calls.on_message(stream.node, message)

    def stream_rejected(self, stream: PeerStream, reason: Rejection) -> None:
        """Tell the daemon that a peer rejected this node."""
        self._calls.on_rejected(stream.node, reason.code, reason.text)

    def stream_refused(self, stream: PeerStream, reason: Rejection) -> None:
        """Tell the daemon that this node rejected a peer."""
        self._calls.on_refused(stream.node, reason.code, reason.text)

    def stream_ended(self, stream: PeerStream) -> None:
        """Forget a stream, go over to another."""
        self._handshaking.discard(stream)
        streams = self._streams.get(stream.node, {})
        if streams.get(stream.link) is stream:
            del streams[stream.link]
        self._choose(stream.node)

    def fail(self, error: BaseException) -> None:
        """End :meth:`run` with this error."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work beside; its errors end :meth:`run`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    # --- which stream ----------------------------------------------------------------------------

    def _choose(self, node: int) -> None:
        """Keep the stream in use while its link is good, else take the first good one."""
        if self._closing:
            return
        streams = self._streams.get(node, {})
        present = self._active.get(node)
        usable = present if present is not None and present in streams.values() else None
        if usable is not None and (node, usable.link) not in self._down:
            return
        good = [streams[link] for link in sorted(streams) if (node, link) not in self._down]
        chosen = good[0] if good else usable or next(iter(streams.values()), None)
        if chosen is present:
            return
        if present is not None:
            del self._active[node]
            self._calls.on_lost(node)
        if chosen is not None:
            self._active[node] = chosen
            self._calls.on_up(node)

    # --- workers ---------------------------------------------------------------------------------

    def _arrange(self) -> None:
        """Start and end listeners and diallers, end streams of nodes that are gone."""
        wanted: dict[tuple[str, int, int, str, str], Callable[[], Coroutine[Any, Any, None]]] = {}
        for link, own in enumerate(self._addresses):
            if not own:
                continue
            wanted["listen", 0, link, own, ""] = _bind(self._listen, link, own)
            for node, addresses in self._peers.items():
                address = addresses[link] if link < len(addresses) else ""
                if address:
                    name = ("dial", node, link, own, address)
                    work = self._dial if self.node < node else self._knock
                    wanted[name] = _bind(work, node, link, own, address)
        for name in [name for name in self._workers if name not in wanted]:
            self._workers.pop(name).cancel()
        for name, start in wanted.items():
            if name not in self._workers:
                self._workers[name] = self.spawn(start())
        self._end_unwanted_streams()

    def _end_unwanted_streams(self) -> None:
        standing = [stream for streams in self._streams.values() for stream in streams.values()]
        for stream in (*standing, *self._handshaking):
            link_known = stream.link < len(self._addresses) and self._addresses[stream.link]
            if not link_known or self.admitted(stream.fingerprint) != stream.node:
                stream.abort()

    async def _close(self) -> None:
        """End all workers and streams, telling nobody any more."""
        self._closing = True
        for task in tuple(self._tasks):
            task.cancel()
        standing = [stream for streams in self._streams.values() for stream in streams.values()]
        ending = [stream for stream in (*standing, *self._handshaking) if not stream.ended.done()]
        for stream in ending:
            stream.abort()
        await asyncio.gather(
            *self._tasks, *(stream.ended for stream in ending), return_exceptions=True
        )

    async def _dial(self, node: int, link: int, own: str, address: str) -> None:
        """Keep one stream to a node on a link."""
        timing = self.timing
        pause = timing.retry_min
        while True:
            ending = await self._dial_once(node, link, own, address)
            if ending is Ending.LOST:
                pause = timing.retry_min
            await asyncio.sleep(timing.retry_rejected if ending is Ending.REJECTED else pause)
            pause = min(pause * 2, timing.retry_max)

    async def _knock(self, node: int, link: int, own: str, address: str) -> None:
        """Call a node that does not dial although it should."""
        while True:
            await asyncio.sleep(self.timing.knock)
            begun = any(stream.node == node for stream in self._handshaking)
            if not begun and link not in self._streams.get(node, {}):
                await self._dial_once(node, link, own, address)

    async def _dial_once(self, node: int, link: int, own: str, address: str) -> Ending:
        loop = asyncio.get_running_loop()
        try:
            connection = dialling_socket(own)
        except OSError:
            return Ending.BROKEN
        stream = PeerStream(self, link, node)
        try:
            tune(connection, self.timing.silence)
            async with asyncio.timeout(self.timing.connect):
                await loop.sock_connect(connection, (address, self.port))
            await loop.create_connection(
                lambda: stream,
                sock=connection,
                ssl=self._contexts.dial,
                server_hostname="",
                ssl_handshake_timeout=self.timing.handshake,
                ssl_shutdown_timeout=self.timing.silence,
            )
        except ssl.SSLCertVerificationError as error:
            self.counters.handshakes_failed += 1
            self._calls.on_rejected(
                node,
                Code.CERTIFICATE_FOREIGN,
                f"who answers on {address} is not of this cluster: {error.verify_message}",
            )
            return Ending.REJECTED
        except OSError:  # refused, unreachable, too slow, or no TLS: try again
            connection.close()
            return Ending.BROKEN
        except asyncio.CancelledError:
            connection.close()
            raise
        try:
            return await stream.ended
        finally:
            stream.abort()

    async def _listen(self, link: int, own: str) -> None:
        """Accept connections on one own address; wait for it when it cannot be had."""
        while True:
            try:
                listener = listening_socket(own, self.port)
            except OSError as error:
                self.listen_faults[own] = error.strerror or str(error)
                await asyncio.sleep(_LISTEN_RETRY_S)
                continue
            self.listen_faults.pop(own, None)
            with listener:
                await self._accept(listener, link)

    async def _accept(self, listener: socket.socket, link: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, caller = await loop.sock_accept(listener)
            except OSError:  # the caller is gone, or too many files are open: not for ever
                await asyncio.sleep(self.timing.retry_min)
                continue
            host = str(caller[0])
            if self._may_enter(host):
                self._entering[host] += 1
                self.spawn(self._enter(connection, host, link))
            else:
                self.counters.turned_away += 1
                connection.close()

    def _may_enter(self, host: str) -> bool:
        """Bound the connections in their handshake; strangers cannot crowd out peers."""
        if self._entering[host] >= _ENTERING_PER_HOST_MAX:
            return False
        known = {address for links in self._peers.values() for address in links}
        if host in known:
            return True
        strangers = sum(count for caller, count in self._entering.items() if caller not in known)
        return strangers < _ENTERING_MAX

    async def _enter(self, connection: socket.socket, host: str, link: int) -> None:
        """Take one connection through TLS and handshake, or through a join."""
        loop = asyncio.get_running_loop()
        entrance = _Entrance(self, link)
        try:
            tune(connection, self.timing.silence)
            await loop.connect_accepted_socket(
                lambda: entrance,
                connection,
                ssl=self._contexts.serve,
                ssl_handshake_timeout=self.timing.handshake,
                ssl_shutdown_timeout=self.timing.silence,
            )
            await entrance.over()
        except OSError:  # TLS failed or took too long
            self.counters.handshakes_failed += 1
            connection.close()
        finally:
            self._entering[host] -= 1
            if not self._entering[host]:
                del self._entering[host]


class _Entrance(asyncio.Protocol):
    """Sends an accepted connection to a stream or to an admission, by its certificate."""

    def __init__(self, network: PeerNetwork, link: int) -> None:
        self._network = network
        self._link = link
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look at the certificate (called when TLS is done)."""
        connection = self._connection = cast("asyncio.Transport", transport)
        if connection.get_extra_info("ssl_object").getpeercert(binary_form=True) is None:
            admission = Admission(self._network)
            self._over = admission.ended
            connection.set_protocol(admission)
            admission.connection_made(connection)
        else:
            stream = PeerStream(self._network, self._link, None)
            self._over = stream.settled
            connection.set_protocol(stream)
            stream.connection_made(connection)

    async def over(self) -> None:
        """Wait until the handshake or the join is over; cancelled: end the connection."""
        try:
            await asyncio.shield(self._over)
        except asyncio.CancelledError:
            self._connection.abort()
            raise


def _bind(
    work: Callable[..., Coroutine[Any, Any, None]], *arguments: object
) -> Callable[[], Coroutine[Any, Any, None]]:
    return lambda: work(*arguments)
