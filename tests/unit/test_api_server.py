"""The server on its Unix socket: what it takes, and from whom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.api_support import FakeService

from leitwolf.api import serve_unix
from leitwolf.api.server import WholeAnswers

BODY = b"[" + b"1," * 400_000 + b"1]"


@contextlib.asynccontextmanager
async def connected(
    folder: Path,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server of its own."""
    path = folder / "api.sock"
    server = asyncio.ensure_future(serve_unix(FakeService(), path))
    while not path.exists():
        await asyncio.sleep(0.005)
    async with asyncio.timeout(20):
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(path))
                break
            except OSError:
                await asyncio.sleep(0.005)
        yield reader, writer
        writer.close()
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)


@pytest.mark.asyncio
@pytest.mark.parametrize("endless", [b"x: " + b"a" * 1_000, b"x: a\r\n" * 150])
async def test_headers_without_end_are_cut_off(tmp_path: Path, endless: bytes) -> None:
    """One long header or many: the connection ends instead of the memory."""
    async with connected(tmp_path) as (reader, writer):
        writer.write(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                writer.write(endless)
                await writer.drain()
            assert await reader.read() == b""  # not cut off: this waits for ever


@pytest.mark.asyncio
async def test_bodies_count_for_themselves(tmp_path: Path) -> None:
    """A body larger than the limit of headers is read, and the connection goes on behind it."""
    async with connected(tmp_path) as (reader, writer):
        head = b"POST /v1/command HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
        for _ in range(2):
            writer.write(head % len(BODY) + BODY)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith((b"HTTP/1.1 422 ", b"HTTP/1.1 400 "))
            length = int(answer.partition(b"content-length: ")[2].split(b"\r\n")[0])
            await reader.readexactly(length)


class Taken(asyncio.Transport):
    """A transport that keeps what is written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def test_head_and_body_of_an_answer_are_one_write() -> None:
    """Each answer wakes its client once."""
    taken = Taken()
    whole = WholeAnswers(taken)
    for _ in range(2):
        whole.write(HEAD)
        assert not taken.writes
        whole.write(b"{}")
        assert taken.writes == [HEAD + b"{}"]
        taken.writes.clear()


def test_what_has_no_length_or_no_body_is_not_held_back() -> None:
    """Lines of progress go out at once; a head alone goes when its answer or connection ends."""
    taken = Taken()
    whole = WholeAnswers(taken)
    whole.write(CHUNKED)
    whole.write(b"2\r\n{}\r\n")
    assert taken.writes == [CHUNKED, b"2\r\n{}\r\n"]
    whole.write(HEAD)
    whole.flush()
    whole.write(HEAD)
    whole.close()
    assert taken.writes[2:] == [HEAD, HEAD]
    assert taken.closed


@pytest.mark.asyncio
async def test_a_head_is_answered_without_a_body(tmp_path: Path) -> None:
    """HEAD gets its answer, and the connection goes on behind it."""
    async with connected(tmp_path) as (reader, writer):
        for _ in range(2):
            writer.write(b"HEAD /v1/status HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
