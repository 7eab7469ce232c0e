"""Peer streams over real TLS on loopback addresses."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import ssl
import struct
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.peer_support import (
    PATIENCE_S,
    PORT,
    TIMING,
    Cluster,
    Daemon,
    Raw,
    Relay,
    address,
    hello_of,
    lone_server,
    pair,
    running,
    until,
)

from leitwolf.model.errors import InvariantError
from leitwolf.peers import stream as stream_module
from leitwolf.peers.frames import (
    PROTOCOL,
    Code,
    Rejected,
    Rejection,
    encode_control,
    frame,
)
from leitwolf.peers.identity import (
    joiner_context,
)
from leitwolf.peers.sockets import dialling_socket, listening_socket
from leitwolf.peers.stream import Timing
from leitwolf.wire.ballot import Ballot

# --- messages ------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_three_nodes_connect_and_keep_order(tmp_path: Path) -> None:
    """All pairs come up once, and messages arrive whole, in order, from the right node."""
    cluster = Cluster(tmp_path, 3)
    daemons = [Daemon(cluster, node) for node in (1, 2, 3)]
    for daemon in daemons:
        daemon.configure(3)
    async with running(*daemons):
        await until(lambda: all(len(d.network.connected()) == 2 for d in daemons))
        for serial in range(500):
            for daemon in daemons:
                for peer in daemon.network.connected():
                    assert daemon.network.send(peer, [daemon.node, serial])
        await until(lambda: all(len(d.messages) == 1000 for d in daemons))
        for daemon in daemons:
            for peer in {1, 2, 3} - {daemon.node}:
                heard = [message for node, message in daemon.messages if node == peer]
                assert heard == [[peer, serial] for serial in range(500)]
            assert sorted(daemon.events) == [("up", n) for n in (1, 2, 3) if n != daemon.node]


@pytest.mark.asyncio
async def test_large_messages_pass(tmp_path: Path) -> None:
    """Messages near the limit of a frame pass; one above it is a broken invariant."""
    async with pair(tmp_path) as (one, two):
        big = b"x" * ((4 << 20) - 10)
        for _ in range(5):
            one.network.send(2, [big])
        one.network.send(2, [1])
        await until(lambda: len(two.messages) == 6)
        assert two.messages[0] == (1, [big])
        with pytest.raises(InvariantError):
            one.network.send(2, [b"x" * (4 << 20)])


@pytest.mark.asyncio
async def test_send_to_nobody_says_so(tmp_path: Path) -> None:
    """Sending to a node without a stream returns False."""
    async with pair(tmp_path) as (one, _):
        assert one.network.send(7, [1]) is False


@pytest.mark.asyncio
async def test_an_idle_stream_stays(tmp_path: Path) -> None:
    """Empty frames keep an idle stream from being taken for broken."""
    quick = Timing(ping=0.05, silence=0.6, connect=30, handshake=30)
    async with pair(tmp_path, timing=quick) as (one, two):
        for _ in range(10):
            stood = await idle(0.2)  # what was before this has shown itself by then
            while not (one.network.connected() and two.network.connected()):
                stood = max(stood, await idle(0.01))
            one.events.clear()
            two.events.clear()
            if max(stood, await idle(1.5)) < 0.3:
                break
            # This machine stood still: then nobody sent anything, and a stream may end.
        assert one.events == two.events == []
        assert one.messages == two.messages == []


async def idle(seconds: float) -> float:
    """Do nothing for a while; return for how long at a stretch this process stood still."""
    loop = asyncio.get_running_loop()
    end, last, longest = loop.time() + seconds, loop.time(), 0.0
    while last < end:
        await asyncio.sleep(0.01)
        now = loop.time()
        last, longest = now, max(longest, now - last)
    return longest


@pytest.mark.asyncio
async def test_error_in_a_callback_ends_the_network(tmp_path: Path) -> None:
    """What a callback raises is not swallowed by the event loop: run() raises it."""
    cluster = Cluster(tmp_path, 2)
    one, two = Daemon(cluster, 1), Daemon(cluster, 2)
    one.configure(2)
    two.configure(2)

    def broken(node: int, message: Any) -> None:
        raise InvariantError("broken")

    two.on_message = broken
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with running(one):
        run = asyncio.create_task(two.network.run())
        await until(one.network.connected)
        one.network.send(2, [1])
        with pytest.raises(InvariantError, match="broken"):
            await asyncio.wait_for(run, PATIENCE_S)


# --- links ---------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_link_reported_down_is_left_at_once(tmp_path: Path) -> None:
    """After link_down the next message goes over the other link, told as lost and up."""
    async with pair(tmp_path, links=2) as (one, two):
        assert one.network.links() == {2: (0, 1)}
        before = one.network.connected()[2]
        one.network.link_down(2, before)
        assert one.network.connected() == {2: 1 - before}
        assert one.events == [("up", 2), ("lost", 2), ("up", 2)]
        one.network.send(2, [1])
        await until(lambda: two.messages == [(1, [1])])
        one.network.link_down(2, 1 - before)
        assert one.network.connected() == {2: 1 - before}, "a bad stream is better than none"
        one.network.link_up(2, before)
        assert one.network.connected() == {2: before}
        one.network.link_up(2, 1 - before)
        assert one.network.connected() == {2: before}, "no going back without need"


@pytest.mark.asyncio
async def test_dead_network_is_noticed_and_left(tmp_path: Path) -> None:
    """A link that swallows everything is left after the silence, though nobody closed anything."""
    cluster = Cluster(tmp_path, 2)
    quick = Timing(ping=0.1, silence=0.7, connect=30, handshake=30)
    one, two = Daemon(cluster, 1, quick), Daemon(cluster, 2, quick)
    relay_address = address(52, 0)
    one.configure(2, 2, n2l0=relay_address)
    two.configure(2, 2)
    async with Relay(relay_address, address(2, 0)) as relay, running(one, two):
        await until(
            lambda: one.network.links() == {2: (0, 1)} and two.network.links() == {1: (0, 1)}
        )
        one.network.link_down(2, 1)
        one.network.link_up(2, 1)
        assert one.network.connected() == {2: 0}
        relay.open.clear()
        await until(lambda: one.network.links() == {2: (1,)} and two.network.links() == {1: (1,)})
        assert one.network.connected() == {2: 1}
        assert one.network.counters.silent >= 1

        def heard() -> bool:
            one.network.send(2, [1])  # again when the machine stood still and the stream ended
            return (1, [1]) in two.messages

        await until(heard)
        relay.open.set()
        await until(lambda: one.network.links() == {2: (0, 1)})


@pytest.mark.asyncio
async def test_restarted_peer_comes_back(tmp_path: Path) -> None:
    """When the peer's daemon ends the node is lost; when it runs again the node is up."""
    cluster = Cluster(tmp_path, 2)
    one, two = Daemon(cluster, 1), Daemon(cluster, 2)
    one.configure(2)
    two.configure(2)
    async with running(one):
        async with running(two):
            await until(one.network.connected)
        await until(lambda: not one.network.connected())
        again = Daemon(cluster, 2)
        again.configure(2)
        async with running(again):
            await until(lambda: one.network.connected() and again.network.connected())
        assert one.events[:3] == [("up", 2), ("lost", 2), ("up", 2)]


@pytest.mark.asyncio
async def test_links_come_and_go_by_configuration(tmp_path: Path) -> None:
    """Adding a link opens a stream on it; removing a link or a peer ends its streams."""
    async with pair(tmp_path) as (one, two):
        one.configure(2, 2)
        two.configure(2, 2)
        await until(lambda: one.network.links() == {2: (0, 1)})
        one.network.configure(("", address(1, 1)), {2: ("", address(2, 1))})
        await until(lambda: one.network.links() == {2: (1,)})
        assert one.network.connected() == {2: 1}
        one.network.configure(("", address(1, 1)), {})
        await until(lambda: one.network.links() == {} and two.network.links() == {})
        assert one.events[-1] == ("lost", 2)


def test_sockets_of_both_families() -> None:
    """IPv4 and IPv6: call from the own address, listen also where there is no address."""
    for own, absent in (("127.0.0.1", "192.0.2.77"), ("::1", "2001:db8::77")):
        listening_socket(absent, PORT).close()
        with listening_socket(own, 0) as listener, dialling_socket(own) as caller:
            caller.setblocking(True)
            caller.connect((own, listener.getsockname()[1]))
            listener.setblocking(True)
            accepted, peer = listener.accept()
            accepted.close()
            assert peer[0] == own


@pytest.mark.asyncio
async def test_accepting_side_gives_up_a_link(tmp_path: Path) -> None:
    """A link that only the accepting side dropped from its configuration carries nothing there."""
    async with pair(tmp_path, links=2) as (one, two):
        two.network.configure(("", address(2, 1)), {1: ("", address(1, 1))})
        await until(lambda: two.network.links() == {1: (1,)})
        await until(lambda: one.network.links() == {2: (1,)})


@pytest.mark.asyncio
async def test_taken_port_is_reported_and_waited_for(tmp_path: Path) -> None:
    """A port in use by another program is named, and taken over when it becomes free."""
    cluster = Cluster(tmp_path, 2)
    two = Daemon(cluster, 2)
    two.configure(2)
    one = Daemon(cluster, 1)
    one.configure(2)
    other = socket.create_server((address(2, 0), PORT))
    async with running(one, two):
        with other:
            await until(lambda: address(2, 0) in two.network.listen_faults)
            assert "in use" in two.network.listen_faults[address(2, 0)]
        await until(one.network.connected)
        assert two.network.listen_faults == {}


@pytest.mark.asyncio
async def test_a_peer_that_does_not_read_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsent data is bounded: beyond it the stream is dropped and counted."""
    monkeypatch.setattr(stream_module, "BACKLOG_BYTES_MAX", 1 << 20)
    cluster = Cluster(tmp_path, 2)
    one, two = Daemon(cluster, 1), Daemon(cluster, 2)
    relay_address = address(52, 0)
    one.configure(2, 1, n2l0=relay_address)
    two.configure(2)
    async with Relay(relay_address, address(2, 0)) as relay, running(one, two):
        await until(one.network.connected)
        relay.open.clear()
        sent = 0
        while one.network.counters.overrun == 0:
            one.network.send(2, [b"x" * 65536])
            sent += 1
            assert sent < 1000
        await until(lambda: ("lost", 2) in one.events)
        relay.open.set()
        await until(lambda: one.events[-1] == ("up", 2))


# --- who is not let in ---------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_evicted_node_is_told_and_nothing_else(tmp_path: Path) -> None:
    """A node that is not admitted any more hears so, again and again, and never comes up."""
    cluster = Cluster(tmp_path, 2)
    one, two = Daemon(cluster, 1), Daemon(cluster, 2)
    one.configure(2)
    two.configure(2)
    two.members.clear()
    async with running(one, two):
        await until(lambda: len(one.rejections) >= 2)
        assert one.rejections[0][:2] == (2, Code.NOT_ADMITTED)
        assert one.events == two.events == []
        assert two.network.counters.rejected[Code.NOT_ADMITTED] >= 2


@pytest.mark.asyncio
async def test_node_that_is_no_peer_is_refused(tmp_path: Path) -> None:
    """A node of the log that is not among the configured peers is not served."""
    cluster = Cluster(tmp_path, 2)
    one, two = Daemon(cluster, 1), Daemon(cluster, 2)
    one.configure(2)
    two.network.configure((address(2, 0),), {})
    async with running(one, two):
        await until(lambda: one.rejections)
        assert one.rejections[0][:2] == (2, Code.NOT_ADMITTED)
        assert one.events == two.events == []


@pytest.mark.asyncio
async def test_wrong_node_at_an_address_is_refused(tmp_path: Path) -> None:
    """Who dials node 2 and reaches node 3 takes it for neither."""
    cluster = Cluster(tmp_path, 3)
    # Node 3, which is not dialled, does not knock: by its own calls the two would meet.
    patient = dataclasses.replace(TIMING, knock=1_000)
    one, three = Daemon(cluster, 1, patient), Daemon(cluster, 3, patient)
    one.network.configure((address(1, 0),), {2: (address(3, 0),), 3: ("",)})
    three.configure(3)
    async with running(one, three):
        await until(lambda: three.rejections)
        assert three.rejections[0][:2] == (1, Code.NOT_ADMITTED)
        assert one.events == three.events == []


@pytest.mark.asyncio
async def test_eviction_ends_the_stream(tmp_path: Path) -> None:
    """When a member is evicted, the next configuration ends its stream."""
    async with pair(tmp_path) as (one, two):
        two.members.clear()
        two.configure(2)
        await until(lambda: one.rejections)
        assert two.events == [("up", 1), ("lost", 1)]


@pytest.mark.asyncio
async def test_other_cluster_is_refused_by_its_certificate(tmp_path: Path) -> None:
    """A second cluster on the same addresses: neither side comes up, the dialler is told why."""
    ours, theirs = Cluster(tmp_path / "1", 2), Cluster(tmp_path / "2", 2)
    one, two = Daemon(ours, 1), Daemon(theirs, 2)
    one.configure(2)
    two.configure(2)
    async with running(one, two):
        await until(lambda: one.rejections)
        assert one.rejections[0][:2] == (2, Code.CERTIFICATE_FOREIGN)
        await until(lambda: two.network.counters.handshakes_failed)
        assert one.events == two.events == []


@pytest.mark.asyncio
async def test_other_cluster_uuid_is_refused(tmp_path: Path) -> None:
    """The same authority but another cluster uuid is refused; both sides hear it."""
    cluster = Cluster(tmp_path, 2)
    one, two = Daemon(cluster, 1), Daemon(cluster, 2)
    one.network.cluster = str(uuid.uuid4())
    one.configure(2)
    two.configure(2)
    async with running(one, two):
        await until(lambda: one.rejections and two.rejections)
        assert {code for _, code, _ in one.rejections + two.rejections} == {Code.CLUSTER_FOREIGN}
        assert one.events == two.events == []


@pytest.mark.asyncio
async def test_restored_state_is_locked_out(tmp_path: Path) -> None:
    """A node whose storage shows less than before is refused by whom it showed more."""
    cluster = Cluster(tmp_path, 2)
    one, two = Daemon(cluster, 1), Daemon(cluster, 2)
    one.configure(2)
    two.configure(2)
    two.promised = Ballot(1, 9, 2)
    async with running(one):
        async with running(two):
            await until(one.network.connected)
        restored = Daemon(cluster, 2)
        restored.configure(2)
        restored.promised = Ballot(1, 8, 2)
        async with running(restored):
            await until(lambda: restored.rejections)
            assert restored.rejections[0][:2] == (1, Code.STATE_ROLLED_BACK)
            assert restored.events == []
            await until(lambda: len(restored.rejections) >= 5)
            restored.promised = Ballot(1, 20, 2)
            await until(lambda: len(restored.rejections) >= 7)
            assert restored.events == [], "what it forgot does not come back by promising anew"


@pytest.mark.asyncio
async def test_wiped_storage_is_refused(tmp_path: Path) -> None:
    """What the daemon's examine() says is what the other side hears, from whichever side."""
    cluster = Cluster(tmp_path, 2)
    one, two = Daemon(cluster, 1), Daemon(cluster, 2)
    one.configure(2)
    two.configure(2)
    one.refusal = Rejection(code=Code.STORAGE_UNKNOWN, text="wiped")
    async with running(one, two):
        await until(lambda: two.rejections)
        assert two.rejections[0] == (1, Code.STORAGE_UNKNOWN, "wiped")
        assert one.events == two.events == []


@pytest.mark.asyncio
@pytest.mark.parametrize("protocol", [PROTOCOL + 1, PROTOCOL - 1])
async def test_other_version_is_told_apart_from_garbage(tmp_path: Path, protocol: int) -> None:
    """A hello of another protocol version, with fields unknown here, is answered by its code."""
    async with lone_server(tmp_path) as (cluster, two), Raw(cluster) as raw:
        await raw.receive()
        future = {"kind": "Hello", "protocol": protocol, "novel": {"a": [1]}}
        raw.send(frame(msgspec.msgpack.encode(future)))
        answer = await raw.receive()
        assert isinstance(answer, Rejected)
        assert answer.reason.code == Code.VERSION_MISMATCH
        assert two.network.counters.malformed == 0


@pytest.mark.asyncio
async def test_claiming_another_node_id_is_refused(tmp_path: Path) -> None:
    """The node in the hello must be that of the certificate."""
    async with lone_server(tmp_path) as (cluster, two), Raw(cluster) as raw:
        await raw.receive()
        raw.send(hello_of(two).replace(b"\xa4node\x01", b"\xa4node\x03"))
        assert await raw.rest() == b""
        assert two.network.counters.malformed == 1
        assert two.events == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("data", "counter"),
    [
        (struct.pack(">I", (64 << 10) + 1), "oversized"),
        (struct.pack(">I", 0xFFFFFFFF), "oversized"),
        (frame(b""), "malformed"),
        (frame(b"\xc1"), "malformed"),
        (frame(b"\x91" * 5000), "malformed"),
        (frame(msgspec.msgpack.encode({"kind": "Welcome"})), "malformed"),
        (frame(msgspec.msgpack.encode({"kind": "JoinRequest"})), "malformed"),
    ],
)
async def test_garbage_instead_of_a_hello_ends_the_stream(
    tmp_path: Path, data: bytes, counter: str
) -> None:
    """Oversized and malformed frames end the stream and are counted, before the handshake."""
    async with lone_server(tmp_path) as (cluster, two), Raw(cluster) as raw:
        await raw.receive()
        raw.send(data)
        assert await raw.rest() == b""
        await until(lambda: getattr(two.network.counters, counter) == 1)
        assert two.events == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("data", "counter"),
    [
        (struct.pack(">I", (4 << 20) + 1), "oversized"),
        (frame(b"\xc1"), "malformed"),
        (frame(msgspec.msgpack.encode({"no": "message"})), "malformed"),
        (frame(b"\x91" * 5000), "malformed"),
    ],
)
async def test_garbage_instead_of_a_message_ends_the_stream(
    tmp_path: Path, data: bytes, counter: str
) -> None:
    """The same after the handshake; the node is lost, good messages before it were delivered."""
    async with lone_server(tmp_path) as (cluster, two), Raw(cluster) as raw:
        await raw.receive()
        raw.send(hello_of(two))
        await raw.receive()
        raw.send(frame(encode_control(stream_module.Welcome())))
        raw.send(frame(msgspec.msgpack.encode([1])) + data + frame(msgspec.msgpack.encode([2])))
        await until(lambda: two.events == [("up", 1), ("lost", 1)])
        assert two.messages == [(1, [1])]
        assert getattr(two.network.counters, counter) == 1


@pytest.mark.asyncio
async def test_messages_before_the_welcome_are_refused(tmp_path: Path) -> None:
    """No message counts before both sides welcomed each other."""
    async with lone_server(tmp_path) as (cluster, two), Raw(cluster) as raw:
        await raw.receive()
        raw.send(hello_of(two) + frame(msgspec.msgpack.encode([1])))
        await until(lambda: two.network.counters.malformed == 1)
        assert two.messages == []
        assert two.events == []


@pytest.mark.asyncio
async def test_slow_handshakes_end(tmp_path: Path) -> None:
    """Who connects and says nothing is dropped, with TLS and without."""
    async with lone_server(tmp_path, Timing(handshake=0.3)) as (cluster, two):
        silent, writer = await asyncio.open_connection(address(2, 0), PORT)
        for _ in range(10):
            # A machine that stands still meanwhile is too slow as well.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                async with Raw(cluster) as raw:
                    await raw.receive()
                    assert await raw.rest() == b""
                    break
        else:
            pytest.fail("nobody was let in")
        async with asyncio.timeout(PATIENCE_S):
            assert await silent.read() == b""
        writer.close()
        await until(lambda: two.network.counters.handshakes_failed >= 2)


@pytest.mark.asyncio
async def test_strangers_cannot_hold_the_door(tmp_path: Path) -> None:
    """Connections in their handshake are bounded per address; a member still gets in."""
    async with lone_server(tmp_path) as (cluster, two):
        writers = []
        for _ in range(40):
            _, writer = await asyncio.open_connection(
                address(2, 0), PORT, local_addr=(address(99, 0), 0)
            )
            writers.append(writer)
        await until(lambda: two.network.counters.turned_away >= 20)
        one = Daemon(cluster, 1)
        one.configure(2)
        async with running(one):
            await until(one.network.connected)
        for writer in writers:
            writer.transport.abort()


@pytest.mark.asyncio
async def test_without_a_certificate_nothing_but_join(tmp_path: Path) -> None:
    """A caller without a certificate is told nothing by itself, and a hello gets it nowhere."""
    async with lone_server(tmp_path) as (_, two):
        async with Raw(None) as raw:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(raw.reader.read(1), 0.2)
        async with Raw(None) as raw:
            raw.send(hello_of(two))
            assert await raw.rest() == b""
        assert two.network.counters.malformed == 1
        assert two.events == []


@pytest.mark.asyncio
async def test_foreign_certificate_gets_no_answer(tmp_path: Path) -> None:
    """A certificate of another authority is thrown out by TLS, its caller may not join."""
    async with lone_server(tmp_path / "1") as (_, two):
        foreign = Cluster(tmp_path / "2", 1)
        context = joiner_context()
        folder = foreign.folder / "1" / "pki"
        context.load_cert_chain(folder / "node.crt", folder / "node.key")

        async def call() -> None:
            reader, writer = await asyncio.open_connection(
                address(2, 0), PORT, ssl=context, server_hostname=""
            )
            try:
                await asyncio.wait_for(reader.readexactly(1), PATIENCE_S)
            finally:
                writer.transport.abort()

        with pytest.raises((ssl.SSLError, asyncio.IncompleteReadError)):
            await call()
        await until(lambda: two.network.counters.handshakes_failed == 1)
