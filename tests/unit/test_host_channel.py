"""``host.sock`` against a daemon that says something else than an order."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec
import pytest

from leitwolf.host.channel import Channel, listen
from leitwolf.model.ids import GroupId, ResourceId
from leitwolf.model.observations import HostOrder, Inventory, StopResource

ORDER = StopResource(resource=ResourceId("r"), group=GroupId("g"), generation=3)
NOISE = {
    "not-msgpack": b"\xc1",
    "no-text": b"\x81\xa4kind\xa1\xff",
    "deep": b"\x82\xa4kind\xacStopResource\xa1x" + b"\x91" * 50_000 + b"\xc0",
    "unknown": msgspec.msgpack.encode({"kind": "Nonsense"}),
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
def test_noise_ends_the_connection_and_nothing_else(tmp_path: Path, noise: bytes) -> None:
    """The daemon is hung up on, whatever it sent; the next one is greeted and obeyed."""
    orders: list[HostOrder] = []
    failed: list[object] = []

    async def connect() -> socket.socket:
        loop = asyncio.get_running_loop()
        daemon = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        daemon.setblocking(False)
        await loop.sock_connect(daemon, str(tmp_path / "host.sock"))
        assert await loop.sock_recv(daemon, 1 << 16), "no greeting"
        return daemon

    async def talk() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failed.append(context))
        greeting = Inventory(resources=(), closed={})
        channel = Channel(listen(tmp_path / "host.sock"), lambda: greeting, orders.append)
        async with asyncio.timeout(30):
            with await connect() as daemon:
                await loop.sock_sendall(daemon, noise)
                assert await loop.sock_recv(daemon, 1 << 16) == b""
            with await connect() as daemon:
                await loop.sock_sendall(daemon, msgspec.msgpack.encode(ORDER))
                while not orders:
                    await asyncio.sleep(0.01)
        channel.close()

    asyncio.run(talk())
    assert (orders, failed) == ([ORDER], [])
