"""Daemons without cores, on loopback addresses, for tests of peer streams and join.

Each "link" is an address of its own; the addresses of a test run name its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from leitwolf.peers.authority import create_identity, issue_certificate, new_node_key
from leitwolf.peers.frames import (
    Code,
    Hello,
    JoinGrant,
    JoinRequest,
    Rejection,
    decode_control,
    encode_control,
    frame,
)
from leitwolf.peers.identity import (
    Identity,
    fingerprint_of_pem,
    joiner_context,
    load_contexts,
    save_identity,
)
from leitwolf.peers.marks import Marks
from leitwolf.peers.stream import Timing
from leitwolf.peers.streams import PeerCallbacks, PeerCodec, PeerNetwork
from leitwolf.wire.ballot import Ballot, Key

CLUSTER = str(uuid.uuid4())
PORT = 6474
BASE = f"127.{os.getpid() >> 8 & 0x7F | 0x40}.{os.getpid() & 0xFF}"
PATIENCE_S = 30.0
TIMING = Timing(silence=30, connect=30, handshake=30, retry_rejected=0.2)
"""Nothing is given up because the machine stands still for a while."""
CODEC = PeerCodec(
    encode=msgspec.msgpack.encode, decode=msgspec.msgpack.Decoder(list[int | bytes]).decode
)


def address(node: int, link: int) -> str:
    return f"{BASE}.{link * 100 + node}"


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # polls what callbacks leave behind
            await asyncio.sleep(0.005)


class Cluster:
    """Identities of a few nodes under one authority."""

    def __init__(self, folder: Path, nodes: int, cluster: str = CLUSTER) -> None:
        self.folder = folder
        self.uuid = cluster
        first = create_identity(cluster, str(uuid.uuid4()))
        self.identities = {1: first}
        for node in range(2, nodes + 1):
            key = new_node_key(str(uuid.uuid4()))
            self.identities[node] = Identity(
                authority_certificate=first.authority_certificate,
                authority_key=first.authority_key,
                certificate=issue_certificate(
                    first.authority_certificate, first.authority_key, key.request, f"n{node}"
                ),
                key=key.key,
                heartbeat_keys=first.heartbeat_keys,
            )
        for node, identity in self.identities.items():
            save_identity(folder / str(node), identity)
        self.members = {
            fingerprint_of_pem(identity.certificate): node
            for node, identity in self.identities.items()
        }


class Daemon:
    """One node's network, and what it told."""

    def __init__(self, cluster: Cluster, node: int, timing: Timing = TIMING) -> None:
        self.node = node
        self.members = dict(cluster.members)
        self.messages: list[tuple[int, Any]] = []
        self.events: list[tuple[str, int]] = []
        self.rejections: list[tuple[int, str, str]] = []
        self.refusals: list[tuple[int, str, str]] = []
        self.requests: list[JoinRequest] = []
        self.promised = Ballot(1, 1, node)
        self.last = Key(Ballot(1, 1, 1), 10)
        self.marks = Marks()
        self.refusal: Rejection | None = None
        self.on_message: Callable[[int, Any], None] = lambda node, message: self.messages.append(
            (node, message)
        )
        self.on_join: Callable[[JoinRequest], JoinGrant | Rejection] = lambda request: Rejection(
            code=Code.TOKEN_USED, text="used"
        )
        self.network = PeerNetwork(
            node=node,
            cluster=cluster.uuid,
            port=PORT,
            contexts=load_contexts(cluster.folder / str(node)),
            codec=CODEC,
            callbacks=PeerCallbacks(
                on_message=self._message,
                on_up=lambda node: self.events.append(("up", node)),
                on_lost=lambda node: self.events.append(("lost", node)),
                on_rejected=lambda *rejection: self.rejections.append(rejection),
                on_refused=lambda *refusal: self.refusals.append(refusal),
                on_join=self._join,
                admitted=self.members.get,
                examine=self._examine,
                hello=self.hello,
            ),
            timing=timing,
        )

    def hello(self) -> Hello:
        return Hello(
            cluster=self.network.cluster,
            node=self.node,
            storage=f"storage-{self.node}",
            promised=self.promised,
            last=self.last,
            chain=b"head",
        )

    def _message(self, node: int, message: Any) -> None:
        self.on_message(node, message)

    def _examine(self, hello: Hello) -> Rejection | None:
        return self.refusal or self.marks.examine(hello)

    async def _join(self, request: JoinRequest, host: str) -> JoinGrant | Rejection:
        self.requests.append(request)
        return self.on_join(request)

    def configure(self, nodes: int, links: int = 1, **others: str) -> None:
        peers = {
            node: tuple(others.get(f"n{node}l{link}", address(node, link)) for link in range(links))
            for node in range(1, nodes + 1)
        }
        self.network.configure(tuple(address(self.node, link) for link in range(links)), peers)


@contextlib.asynccontextmanager
async def running(*daemons: Daemon) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(daemon.network.run()) for daemon in daemons]
    try:
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def pair(
    folder: Path, links: int = 1, timing: Timing = TIMING
) -> AsyncIterator[tuple[Daemon, Daemon]]:
    cluster = Cluster(folder, 2)
    one, two = Daemon(cluster, 1, timing), Daemon(cluster, 2, timing)
    one.configure(2, links)
    two.configure(2, links)
    async with running(one, two):
        await until(
            lambda: all(len(d.network.links().get(3 - d.node, ())) == links for d in (one, two))
        )
        yield one, two


class Relay:
    """A TCP relay that can be made to swallow everything, as a dead network does."""

    def __init__(self, listen: str, target: str) -> None:
        self._listen, self._target = listen, target
        self._writers: list[asyncio.StreamWriter] = []
        self.open = asyncio.Event()
        self.open.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._listen, PORT)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(
                self._target, PORT, local_addr=(self._listen, 0)
            )
        except OSError:
            writer.transport.abort()
            return
        self._writers += [writer, back]
        await asyncio.gather(self._copy(reader, back), self._copy(there, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await self.open.wait()
                writer.write(data)
        if self.open.is_set():
            writer.transport.abort()


class Raw:
    """A hand-made client with any certificate, or none."""

    def __init__(self, cluster: Cluster | None, node: int = 1) -> None:
        if cluster is None:
            self._context = joiner_context()
        else:
            self._context = load_contexts(cluster.folder / str(node)).dial

    async def __aenter__(self) -> Self:
        self.reader, self._writer = await asyncio.open_connection(
            address(2, 0), PORT, ssl=self._context, server_hostname=""
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        self._writer.transport.abort()
        await asyncio.sleep(0)

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            (length,) = struct.unpack(">I", await self.reader.readexactly(4))
            return decode_control(await self.reader.readexactly(length))

    async def rest(self) -> bytes:
        """Return all that still comes until the other side closes."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except OSError:
                return b""


@contextlib.asynccontextmanager
async def lone_server(
    folder: Path, timing: Timing = TIMING
) -> AsyncIterator[tuple[Cluster, Daemon]]:
    """Node 2 of two; the test plays node 1."""
    cluster = Cluster(folder, 2)
    two = Daemon(cluster, 2, timing)
    two.configure(2)
    async with running(two):
        await until(lambda: socket_listens(address(2, 0)))
        await until(lambda: two.network.counters.handshakes_failed)
        two.network.counters.handshakes_failed = 0
        yield cluster, two


def socket_listens(host: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, PORT)) == 0


def hello_of(daemon: Daemon, **changes: Any) -> bytes:
    hello = msgspec.structs.replace(daemon.hello(), node=1, storage="storage-1", **changes)
    return frame(encode_control(hello))
