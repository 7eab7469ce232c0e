"""Health checks of a process: by command, by TCP connection, by HTTP request.

A check answers '' (healthy) or a short reason. It runs on the host's loop and never blocks it; the
caller bounds it in time. A check by command runs in a cell of its own, so that the guard can end it
and a hung one can be killed with all its children.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = ["Check", "Endpoint", "WebAddress", "check_http", "check_tcp", "endpoint", "web_address"]

Check = Callable[[], Awaitable[str]]
_STATUS_LINE_BYTES_MAX = 1_024
"""Longest status line accepted; servers send below 100 bytes."""


class Endpoint(NamedTuple):
    """A numeric address and a TCP port."""

    host: str
    port: int


class WebAddress(NamedTuple):
    """The parts of an http URL that a check needs."""

    endpoint: Endpoint
    host: str
    """Value of the Host header."""
    target: str
    """Path and query."""


def _numeric(host: str) -> str:
    """Return a host as an address; checks resolve no names, for a name server may be down."""
    return "127.0.0.1" if host == "localhost" else host


def endpoint(text: str) -> Endpoint:
    """Return the endpoint of a valid ``ADDRESS:PORT`` or ``[V6]:PORT``."""
    host, _, port = text.rpartition(":")
    return Endpoint(_numeric(host.removeprefix("[").removesuffix("]")), int(port))


def web_address(text: str) -> WebAddress:
    """Return the parts of a valid ``http://`` URL."""
    parts = urlsplit(text)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    where = Endpoint(_numeric(parts.hostname or ""), parts.port or 80)
    return WebAddress(where, parts.netloc, target)


async def _connect(endpoint: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await asyncio.get_running_loop().sock_connect(connection, endpoint)
    except BaseException:
        connection.close()
        raise
    return connection


async def check_tcp(endpoint: Endpoint) -> str:
    """Return '' when a connection is accepted, else why not."""
    try:
        connection = await _connect(endpoint)
    except OSError as error:
        return f"{endpoint.host}:{endpoint.port}: {os.strerror(error.errno or 0)}"
    connection.close()
    return ""


async def check_http(address: WebAddress) -> str:
    """Return '' when a GET is answered with a status of 200..399, else what came instead."""
    loop = asyncio.get_running_loop()
    request = (
        f"GET {address.target} HTTP/1.1\r\nHost: {address.host}\r\n"
        "User-Agent: leitwolf-check\r\nConnection: close\r\n\r\n"
    )
    try:
        connection = await _connect(address.endpoint)
        with connection:
            await loop.sock_sendall(connection, request.encode())
            head = b""
            while b"\n" not in head and len(head) < _STATUS_LINE_BYTES_MAX:
                part = await loop.sock_recv(connection, _STATUS_LINE_BYTES_MAX)
                if not part:
                    break
                head += part
    except OSError as error:
        return f"{address.host}: {os.strerror(error.errno or 0)}"
    words = head.split(b"\n", 1)[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return f"{address.host}: no HTTP answer"
    return "" if 200 <= int(words[1]) <= 399 else f"{address.host}: status {int(words[1])}"
