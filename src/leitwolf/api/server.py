"""uvicorn on a Unix socket, with the credentials of the caller (SO_PEERCRED)."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import pwd
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from leitwolf.api.app import Caller, application
from leitwolf.ports.service import Service

__all__ = ["WholeAnswers", "serve_unix"]

_READERS_GROUP = "leitwolf"
_CREDENTIALS = struct.Struct("=iII")
_PEER_GROUPS = 59
"""SO_PEERGROUPS, which the standard library does not name (Linux 4.13)."""
_PEER_GROUPS_BYTES_MAX = 1024
"""All that Python asks for; who is in more groups counts by the database of groups."""
_OVERHEAD_BYTES_MAX = 64 << 10
"""The parser itself takes headers without end."""


class WholeAnswers:
    """A transport that sends the head of an answer together with its body.

    The server writes them one after the other; each would be a system call, and wake the client.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write, or hold the head of an answer whose length is known: the body follows at once."""
        if not self._head and data.startswith(b"HTTP/1.1 ") and b"\r\ncontent-length: " in data:
            self._head = data
        else:
            self.flush(data)

    def flush(self, data: bytes = b"") -> None:
        """Write what is held, and ``data`` behind it."""
        head, self._head = self._head, b""
        if head or data:
            self._transport.write(head + data)

    def close(self) -> None:
        """Write what is held and close."""
        self.flush()
        self._transport.close()


class _CredentialProtocol(HttpToolsProtocol):
    """Puts the peer's uid and name, and whether it may read, where ``client`` of a request is.

    They are looked up once: a change of the user's name or groups shows on the next connection.
    """

    _overhead = 0
    """Bytes of the request under way that are not its body."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(WholeAnswers(transport))  # type: ignore[arg-type]  # acts as one
        connection: socket.socket = transport.get_extra_info("socket")
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user, group = _CREDENTIALS.unpack(raw)
        name = _name_of(user)
        reads = user in (0, os.geteuid()) or _reads(name, {group, *_groups_of(connection)})
        self.client = (f"{user} {name}", int(reads))

    def data_received(self, data: bytes) -> None:
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > _OVERHEAD_BYTES_MAX and not self.transport.is_closing():
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        self._overhead -= len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        self.transport.flush()  # type: ignore[attr-defined]  # the answer to HEAD has no body
        super().on_response_complete()

    def on_message_complete(self) -> None:
        self._overhead = 0
        super().on_message_complete()


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid {user}"


def _groups_of(connection: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups of the peer, (): the kernel does not tell them."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _PEER_GROUPS, _PEER_GROUPS_BYTES_MAX)
    except OSError:
        return ()
    return struct.unpack(f"={len(raw) // 4}I", raw)


def _reads(name: str, groups: set[int]) -> bool:
    """Return whether a peer is in the group of readers, by itself or by the database."""
    try:
        readers = grp.getgrnam(_READERS_GROUP)
    except KeyError:
        return False
    return readers.gr_gid in groups or name in readers.gr_mem


def _caller(request: Request) -> Caller:
    client = request.client
    if client is None:
        return Caller(name="unknown", may_read=False, may_change=False)
    user, _, name = client.host.partition(" ")
    master = int(user) in (0, os.geteuid())
    return Caller(name=name, may_read=bool(client.port), may_change=master)


class _Server(uvicorn.Server):
    """A server that leaves the signals to the daemon, and does nothing while nobody asks."""

    async def main_loop(self) -> None:
        await asyncio.get_running_loop().create_future()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_unix(service: Service, path: Path) -> None:
    """Serve the API on a Unix socket until cancelled.

    Raises:
        OSError: the socket cannot be made.
    """
    path.unlink(missing_ok=True)
    config = uvicorn.Config(
        application(service, _caller),
        http=_CredentialProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=60,
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(path, -1, grp.getgrnam(_READERS_GROUP).gr_gid)
        path.chmod(0o660)
        await _Server(config).serve(sockets=[listener])
