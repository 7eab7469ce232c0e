"""The daemon's connections on its own node: nothing reaches a new guard before the hello."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from leitwolf.daemon.cluster import Cluster
from leitwolf.daemon.packets import PacketLink
from leitwolf.wire.ballot import Ballot
from leitwolf.wire.guard import GUARD, DaemonHello, Follow


def test_a_lost_connection_is_told_before_the_next_one_is_up(tmp_path: Path) -> None:
    """Else what the loss leads to (the configuration, say) goes to the next guard as first word."""
    told: list[str] = []

    async def run() -> None:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server.bind(str(tmp_path / "s"))
        server.listen(4)
        up_twice = asyncio.Event()

        def up() -> None:
            told.append("up")
            if told.count("up") == 2:
                up_twice.set()

        link = PacketLink(
            tmp_path / "s",
            on_up=up,
            on_packet=lambda _: None,
            on_lost=lambda: told.append("lost"),
        )
        task = asyncio.create_task(link.run())
        while not link.up:
            await asyncio.sleep(0)
        server.accept()[0].close()
        await asyncio.wait_for(up_twice.wait(), 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0)
        server.close()

    asyncio.run(run())
    assert told[:3] == ["up", "lost", "up"]


def test_nothing_is_sent_to_a_guard_before_the_hello() -> None:
    """A guard drops a client that does not say first who it is; so it would do for ever."""
    cluster: Any = Cluster.__new__(Cluster)
    sent: list[object] = []
    cluster.guard = SimpleNamespace(send=lambda packet: sent.append(GUARD.decode(packet)))
    follow, hello = Follow(Ballot(1, 2, 3)), DaemonHello(Ballot(1, 1, 1))
    for _ in range(2):
        sent.clear()
        cluster._guard_up()
        for command in (follow, hello, follow):
            cluster.ask_guard(command)
        assert sent == [hello, follow]
