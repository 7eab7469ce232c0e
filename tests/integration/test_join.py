"""A new node joins by token: the happy path, every refusal, blocked ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.peer_support import (
    CLUSTER,
    PORT,
    Cluster,
    Daemon,
    Raw,
    address,
    lone_server,
    running,
    socket_listens,
    until,
)

from leitwolf.guard.seal import KeyRing, Opener, Sealer
from leitwolf.model.errors import (
    Conflict,
    HandshakeRejected,
    LeitwolfError,
    NoQuorum,
    NotPermitted,
    PeerUnreachable,
    ProtocolError,
    RequestTimeout,
)
from leitwolf.peers import join
from leitwolf.peers.admission import JoinGate
from leitwolf.peers.authority import issue_certificate, new_node_key
from leitwolf.peers.frames import (
    PROTOCOL,
    AuthorityShown,
    Code,
    JoinedMember,
    JoinGrant,
    JoinHello,
    JoinRequest,
    Rejected,
    Rejection,
    encode_control,
    frame,
)
from leitwolf.peers.identity import (
    fingerprint,
    fingerprint_of_pem,
    load_contexts,
    save_identity,
)
from leitwolf.peers.join import Joiner, check_udp, identity_of, request_join
from leitwolf.peers.stream import Timing
from leitwolf.peers.token import JoinToken, digest, format_token, new_secret, parse_token
from leitwolf.wire.heartbeat import PEER, Probe, ProbeReply

SECRET = new_secret()
KEY = new_node_key("third")


def token_of(cluster: Cluster, *addresses: str, secret: bytes = SECRET) -> JoinToken:
    """A token as it arrives: through its printed form."""
    identity = cluster.identities[1]
    return parse_token(
        format_token(
            JoinToken(
                cluster=cluster.uuid,
                name="web",
                port=PORT,
                addresses=addresses or (address(2, 0),),
                authority=fingerprint_of_pem(identity.authority_certificate),
                secret=secret,
            )
        )
    )


def joiner() -> Joiner:
    return Joiner(
        name="third",
        uuid=str(uuid.uuid4()),
        storage="storage-3",
        request=KEY.request,
        addresses={"127.0.0.0/8": address(3, 0)},
        realtime=False,
        stall_ms=7,
    )


def grant_of(cluster: Cluster, request: JoinRequest) -> JoinGrant:
    identity = cluster.identities[1]
    return JoinGrant(
        node=3,
        cluster=cluster.uuid,
        cluster_name="web",
        port=PORT,
        profile="default",
        certificate=issue_certificate(
            identity.authority_certificate, identity.authority_key, request.request, "n3"
        ),
        authority_certificate=identity.authority_certificate,
        authority_key=identity.authority_key,
        heartbeat_keys=identity.heartbeat_keys,
        links=("lan",),
        addresses={"lan": address(3, 0)},
        members=(
            JoinedMember(node=1, name="one", addresses={}, fingerprint="f" * 64),
            JoinedMember(
                node=2, name="two", addresses={"lan": address(2, 0)}, fingerprint="f" * 64
            ),
        ),
    )


class Guard(asyncio.DatagramProtocol):
    """Answers probes as the guard of node 2 does."""

    def __init__(self, keys: bytes) -> None:
        ring = KeyRing.parse(keys)
        self._sealer, self._opener = Sealer(ring, 2), Opener(ring, [3])

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        opened = self._opener.open(data)
        assert opened is not None
        probe = PEER.decode(opened[2])
        assert isinstance(probe, Probe)
        reply = ProbeReply(sent=probe.sent, incarnation=probe.incarnation)
        self._transport.sendto(b"noise", addr)
        self._transport.sendto(self._sealer.seal(opened[1], PEER.encode(reply)), addr)


@contextlib.asynccontextmanager
async def guard(cluster: Cluster) -> AsyncIterator[None]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Guard(cluster.identities[1].heartbeat_keys), (address(2, 0), PORT)
    )
    try:
        yield
    finally:
        transport.close()
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_join_makes_a_member(tmp_path: Path) -> None:
    """With a token a new node gets all it needs, and then streams with the members."""
    async with lone_server(tmp_path) as (cluster, two), guard(cluster):
        two.on_join = lambda request: grant_of(cluster, request)
        told: list[str] = []
        grant = await request_join(token_of(cluster), joiner(), told.append)
        request = two.requests[0]
        assert digest(request.secret) == digest(SECRET)
        assert request.name == "third"
        assert request.addresses == {"127.0.0.0/8": address(3, 0)}
        assert (request.realtime, request.stall_ms) == (False, 7)
        assert told == [
            f"calling TCP {PORT} on {address(2, 0)}",
            "the node belongs to cluster web; asking to be admitted",
            "joined cluster web as node 3",
        ]
        save_identity(tmp_path / "3", identity_of(grant, KEY.key))
        load_contexts(tmp_path / "3")
        two.members[fingerprint_of_pem(grant.certificate)] = 3
        cluster.members[fingerprint_of_pem(grant.certificate)] = 3
        three = Daemon(cluster, 3)
        two.configure(3)
        three.configure(3)
        async with running(three):
            await until(lambda: 3 in two.network.connected() and 2 in three.network.connected())


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (Code.TOKEN_EXPIRED, NotPermitted),
        (Code.TOKEN_USED, NotPermitted),
        (Code.TOKEN_FOREIGN, NotPermitted),
        (Code.NAME_TAKEN, Conflict),
        (Code.ADDRESS_TAKEN, Conflict),
        (Code.VERSION_MISMATCH, HandshakeRejected),
        (Code.NO_QUORUM, NoQuorum),
        ("some-new-code", HandshakeRejected),
    ],
)
async def test_refusals_come_through(tmp_path: Path, code: str, error: type[LeitwolfError]) -> None:
    """What the daemon refuses arrives as the right kind of error, with code, text and hint."""
    async with lone_server(tmp_path) as (cluster, two):
        two.on_join = lambda request: Rejection(code=code, text="no", hint="do this")
        with pytest.raises(error) as caught:
            await request_join(token_of(cluster), joiner(), lambda text: None)
        assert (caught.value.code, caught.value.text, caught.value.hint) == (code, "no", "do this")
        assert two.network.counters.rejected == {code: 1}


@pytest.mark.asyncio
async def test_token_of_another_cluster(tmp_path: Path) -> None:
    """The node refuses a cluster uuid that is not its own, before it shows or hears anything."""
    async with lone_server(tmp_path / "1") as (_, two):
        other = Cluster(tmp_path / "2", 1, cluster=str(uuid.uuid4()))
        with pytest.raises(NotPermitted) as caught:
            await request_join(token_of(other), joiner(), lambda text: None)
        assert caught.value.code == Code.TOKEN_FOREIGN
        assert two.requests == []


@pytest.mark.asyncio
async def test_authority_is_not_shown_to_callers_of_another_cluster(tmp_path: Path) -> None:
    """A caller that does not name this cluster hears that, and nothing else."""
    async with lone_server(tmp_path), Raw(None) as raw:
        raw.send(frame(encode_control(JoinHello(cluster=str(uuid.uuid4())))))
        answer = await raw.receive()
        assert isinstance(answer, Rejected)
        assert answer.reason.code == Code.TOKEN_FOREIGN


@pytest.mark.asyncio
async def test_secret_is_not_shown_to_another_authority(tmp_path: Path) -> None:
    """A node that claims the cluster but not its authority never hears the secret."""
    async with lone_server(tmp_path / "1") as (_, two):
        other = Cluster(tmp_path / "2", 1)
        with pytest.raises(NotPermitted) as caught:
            await request_join(token_of(other), joiner(), lambda text: None)
        assert caught.value.code == Code.TOKEN_FOREIGN
        assert two.requests == []


@pytest.mark.asyncio
async def test_shown_authority_must_have_issued_the_certificate(tmp_path: Path) -> None:
    """Showing the right authority's certificate without one issued by it is not enough."""
    ours, impostor = Cluster(tmp_path / "1", 1), Cluster(tmp_path / "2", 2)
    two = Daemon(impostor, 2)
    two.network.authority = load_contexts(tmp_path / "1" / "1").authority
    assert fingerprint(two.network.authority) == token_of(ours).authority
    two.configure(2)
    async with running(two):
        await until(lambda: socket_listens(address(2, 0)))
        with pytest.raises(NotPermitted) as caught:
            await request_join(token_of(ours), joiner(), lambda text: None)
        assert caught.value.code == Code.TOKEN_FOREIGN
        assert two.requests == []


@pytest.mark.asyncio
async def test_grant_with_a_foreign_certificate_is_refused(tmp_path: Path) -> None:
    """A grant must carry certificates of the pinned authority."""
    async with lone_server(tmp_path / "1") as (cluster, two):
        other = Cluster(tmp_path / "2", 1)
        two.on_join = lambda request: grant_of(other, request)
        with pytest.raises(ProtocolError):
            await request_join(token_of(cluster), joiner(), lambda text: None)


@pytest.mark.asyncio
async def test_other_versions_are_named(tmp_path: Path) -> None:
    """A joiner of another version hears which one is spoken here."""
    async with lone_server(tmp_path), Raw(None) as raw:
        raw.send(frame(encode_control(JoinHello(protocol=PROTOCOL + 7, cluster=CLUSTER))))
        answer = await raw.receive()
        assert isinstance(answer, Rejected)
        assert answer.reason.code == Code.VERSION_MISMATCH
        assert str(PROTOCOL + 7) in answer.reason.text


@pytest.mark.asyncio
async def test_blocked_ports_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every address is tried; each failure names protocol, port, address and what to do."""
    monkeypatch.setattr(join, "_CONNECT_S", 0.3)
    cluster = Cluster(tmp_path, 1)
    silent, closed = address(98, 0), address(97, 0)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((silent, PORT))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex((silent, PORT))
        token = token_of(cluster, silent, closed)
        with pytest.raises(PeerUnreachable) as caught:
            await request_join(token, joiner(), lambda text: None)
    assert (
        f"TCP {PORT} on {silent}: connection timed out — open it in the firewall"
        in caught.value.text
    )
    assert f"TCP {PORT} on {closed}: connection refused" in caught.value.text


@pytest.mark.asyncio
async def test_dead_member_is_passed_over(tmp_path: Path) -> None:
    """When the first member of the token is dead the next one answers."""
    async with lone_server(tmp_path) as (cluster, two), guard(cluster):
        two.on_join = lambda request: grant_of(cluster, request)
        token = token_of(cluster, address(97, 0), address(2, 0))
        grant = await request_join(token, joiner(), lambda text: None)
        assert grant.node == 3


@pytest.mark.asyncio
async def test_answer_that_never_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A join without an answer says that it may be repeated."""
    monkeypatch.setattr(join, "_ANSWER_S", 0.5)
    async with lone_server(tmp_path) as (cluster, two):
        never = asyncio.Event()

        async def hang(request: JoinRequest, host: str) -> JoinGrant | Rejection:
            await never.wait()
            return Rejection(code="late", text="late")

        two.network.on_join = hang
        with pytest.raises(RequestTimeout, match="no answer") as caught:
            await request_join(token_of(cluster), joiner(), lambda text: None)
        assert "repeat" in caught.value.hint
        never.set()


@pytest.mark.asyncio
async def test_connection_that_breaks(tmp_path: Path) -> None:
    """A join whose time is over on the answering side ends with an error that says so."""
    async with lone_server(tmp_path, Timing(join=0.3)) as (cluster, two):
        asked, never = asyncio.Event(), asyncio.Event()

        async def hang(request: JoinRequest, host: str) -> JoinGrant | Rejection:
            asked.set()
            await never.wait()
            return Rejection(code="late", text="late")

        two.network.on_join = hang
        while not asked.is_set():  # its time may be over before, where the machine stands still
            with pytest.raises(LeitwolfError) as caught:
                await request_join(token_of(cluster), joiner(), lambda text: None)
        assert isinstance(caught.value, RequestTimeout)
        assert "broke" in caught.value.text
        never.set()


@pytest.mark.asyncio
async def test_one_request_per_connection(tmp_path: Path) -> None:
    """A second request, or anything but join, ends the connection and is counted."""
    async with lone_server(tmp_path) as (cluster, two), Raw(None) as raw:
        asked = asyncio.Event()

        async def wait(request: JoinRequest, host: str) -> JoinGrant | Rejection:
            two.requests.append(request)
            await asked.wait()
            return Rejection(code="late", text="late")

        two.network.on_join = wait
        raw.send(frame(encode_control(JoinHello(cluster=cluster.uuid))))
        assert isinstance(await raw.receive(), AuthorityShown)
        request = JoinRequest(
            secret=SECRET,
            name="n",
            uuid="u",
            storage="s",
            request=b"",
            addresses={},
            realtime=True,
            stall_ms=0,
        )
        raw.send(frame(encode_control(request)) * 2)
        assert await raw.rest() == b""
        assert two.network.counters.malformed == 1
        assert len(two.requests) <= 1
        asked.set()


@pytest.mark.asyncio
async def test_oversized_request_is_refused(tmp_path: Path) -> None:
    """A join request is bounded to 64 KiB."""
    async with lone_server(tmp_path) as (cluster, two), Raw(None) as raw:
        raw.send(frame(encode_control(JoinHello(cluster=cluster.uuid))))
        await raw.receive()
        raw.send(frame(bytes((64 << 10) + 1)))
        assert await raw.rest() == b""
        assert two.network.counters.oversized == 1


def test_gate_bounds_joins_at_once_and_in_a_row() -> None:
    """Four at a time, twenty in ten seconds; time opens the gate again."""
    now = 0.0
    gate = JoinGate(lambda: now)
    assert [gate.enter() for _ in range(5)] == [True] * 4 + [False]
    gate.leave()
    assert gate.enter()
    for _ in range(4):
        gate.leave()
    for _ in range(15):
        assert gate.enter()
        gate.leave()
    assert not gate.enter()
    now = 10.1
    assert gate.enter()


@pytest.mark.asyncio
async def test_too_many_joins_are_told_to_wait(tmp_path: Path) -> None:
    """Beyond the rate a caller hears join-busy; callers that are gone do not count as under way."""
    async with lone_server(tmp_path) as (cluster, two):
        answers = []
        for _ in range(21):
            async with Raw(None) as raw:
                raw.send(frame(encode_control(JoinHello(cluster=cluster.uuid))))
                answers.append(await raw.receive())
            await until(lambda: two.network.gate._under_way == 0)
        assert isinstance(answers[10], AuthorityShown)
        assert isinstance(answers[-1], Rejected)
        assert answers[-1].reason.code == Code.BUSY


@pytest.mark.asyncio
async def test_blocked_udp_is_named(tmp_path: Path) -> None:
    """A guard that does not answer is named with port, address and node; the others are not."""
    cluster = Cluster(tmp_path, 2)
    request = JoinRequest(
        secret=SECRET,
        name="n",
        uuid="u",
        storage="s",
        request=KEY.request,
        addresses={},
        realtime=True,
        stall_ms=0,
    )
    grant = grant_of(cluster, request)
    async with guard(cluster):
        assert await check_udp(grant) == ()
    problems = await check_udp(grant, timeout_s=0.3)
    assert len(problems) == 1
    assert f"UDP {PORT} on {address(2, 0)}: no answer from node 2" in problems[0].text
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((address(3, 0), PORT))
        problems = await check_udp(grant, timeout_s=0.3)
    assert tuple(one.text for one in problems) == (
        f"UDP {PORT} on {address(3, 0)} (this node): {os.strerror(98)}",
    )
