"""The joining side: get a node into a cluster with a token.

The joiner calls the members of its token on the one port. It shows its secret only to a node whose
certificate was issued by the authority that the token pins. After the grant it tries the UDP port
with a probe to the members' guards, since a firewall that lets TCP through may still stop the
heartbeats. No host name is resolved and no clock is compared.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from leitwolf.guard.seal import DATAGRAM_BYTES_MAX, KeyRing, Opener, Sealer
from leitwolf.model.errors import (
    Conflict,
    HandshakeRejected,
    InvalidConfig,
    LeitwolfError,
    NoQuorum,
    NotPermitted,
    PeerUnreachable,
    ProtocolError,
    RequestTimeout,
    UnavailableError,
)
from leitwolf.peers.authority import issued_by, sign
from leitwolf.peers.frames import (
    CONTROL_BYTES_MAX,
    AuthorityShown,
    Code,
    Control,
    JoinGrant,
    JoinHello,
    JoinRequest,
    Rejected,
    Rejection,
    decode_control,
    encode_control,
    frame,
)
from leitwolf.peers.identity import Identity, fingerprint, fingerprint_of_pem, joiner_context
from leitwolf.peers.sockets import family_of
from leitwolf.peers.token import JoinToken
from leitwolf.wire.heartbeat import PEER, Probe, ProbeReply
from leitwolf.wire.layout import LayoutError

__all__ = ["Joiner", "Unanswered", "check_udp", "identity_of", "request_join"]

_CONNECT_S = 3.0
_ANSWER_S = 15.0
"""The answering node has 10 s to commit the new node; its answer must still come through."""
_UDP_S = 3.0
_UDP_RETRY_S = 0.1
_LENGTH = struct.Struct(">I")

_ERRORS: dict[str, type[LeitwolfError]] = {
    Code.TOKEN_EXPIRED: NotPermitted,
    Code.TOKEN_USED: NotPermitted,
    Code.TOKEN_FOREIGN: NotPermitted,
    Code.NAME_TAKEN: Conflict,
    Code.ADDRESS_TAKEN: Conflict,
    "invalid-name": InvalidConfig,
    "profile-too-short": Conflict,
    Code.VERSION_MISMATCH: HandshakeRejected,
    Code.NO_QUORUM: NoQuorum,
    Code.BUSY: UnavailableError,
    Code.NODE_ALIVE: Conflict,
    Code.STILL_LEAVING: UnavailableError,
    Code.PROOF_WRONG: NotPermitted,
}

Progress = Callable[[str], None]


class Joiner:
    """What a new node says of itself.

    Args:
        name: of the node.
        uuid: of the node.
        storage: uuid of its storage.
        request: its certificate request (PEM), see :func:`leitwolf.peers.authority.new_node_key`.
        addresses: own address in each subnet, for example ``{"10.0.0.0/24": "10.0.0.3"}``.
        realtime: its guard has real-time scheduling.
        stall_ms: worst stall that its guard measured lately.
        replace: take the place of the node of this name, which lost its storage.
        former: certificate and key (PEM) of that node, if it still has them: a proof.
    """

    def __init__(
        self,
        *,
        name: str,
        uuid: str,
        storage: str,
        request: bytes,
        addresses: dict[str, str],
        realtime: bool,
        stall_ms: int,
        replace: bool = False,
        former: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.name = name
        self.uuid = uuid
        self.storage = storage
        self.request = request
        self.addresses = addresses
        self.realtime = realtime
        self.stall_ms = stall_ms
        self.replace = replace
        self.former = former


async def request_join(token: JoinToken, joiner: Joiner, progress: Progress) -> JoinGrant:
    """Join a cluster.

    When this returns, this node may still run as what it was: :func:`check_udp` comes after that.
    Safe to repeat with the same token and joiner when the answer got lost: the cluster grants the
    same again.

    Args:
        token: see :func:`leitwolf.peers.token.parse_token`.
        joiner: the new node.
        progress: told in words what happens.

    Raises:
        PeerUnreachable: no member of the token could be reached; names address, port and cause.
        LeitwolfError: the cluster refused, with its code: token-expired, token-used, token-foreign
            (NotPermitted), name-taken, address-taken, profile-too-short (Conflict), no-quorum
            (NoQuorum), version-mismatch (HandshakeRejected), join-busy (UnavailableError).
        RequestTimeout: no answer; the join may still be done.
        ProtocolError: what answers does not speak join.
    """
    failures = []
    for address in token.addresses:
        place = f"TCP {token.port} on {address}"
        progress(f"calling {place}")
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_connection(
                    address, token.port, ssl=joiner_context(), server_hostname=""
                )
        except OSError as error:
            failures.append(f"{place}: {_reason(error)}")
            progress(failures[-1])
            continue
        try:
            async with asyncio.timeout(_ANSWER_S):
                grant = await _converse(token, joiner, reader, writer, progress)
        except TimeoutError as error:
            raise RequestTimeout(
                f"{place}: no answer to the join request in {_ANSWER_S:.0f} s",
                hint="repeat the join with the same token",
            ) from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise RequestTimeout(
                f"{place}: the connection broke during the join",
                hint="repeat the join with the same token",
            ) from error
        finally:
            writer.transport.abort()
        progress(f"joined cluster {grant.cluster_name} as node {grant.node}")
        return grant
    raise PeerUnreachable(
        "no member of the cluster can be reached:\n" + "\n".join(failures),
        hint=f"open TCP and UDP port {token.port} between the nodes",
    )


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"something else than Leitwolf answers there ({error.reason or error})"
    if isinstance(error, TimeoutError):
        return "connection timed out — open it in the firewall"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused — is Leitwolf running there? Does the firewall reject it?"
    if isinstance(error, ConnectionError):
        return "the connection was closed — is it Leitwolf that answers there?"
    return error.strerror or str(error)


async def _converse(
    token: JoinToken,
    joiner: Joiner,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    progress: Progress,
) -> JoinGrant:
    """Say hello, check the authority, ask."""
    writer.write(frame(encode_control(JoinHello(cluster=token.cluster))))
    shown = await _receive(reader)
    if not isinstance(shown, AuthorityShown):
        raise _unexpected(shown)
    presented = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    if fingerprint(shown.certificate) != token.authority or not (
        presented and issued_by(shown.certificate, presented)
    ):
        raise NotPermitted(
            "who answers is not of the cluster that made the token; nothing was told to it",
            code=Code.TOKEN_FOREIGN,
            hint="check the address for another cluster, or make a new token",
        )
    progress(f"the node belongs to cluster {token.name}; asking to be admitted")
    request = JoinRequest(
        secret=token.secret,
        name=joiner.name,
        uuid=joiner.uuid,
        storage=joiner.storage,
        request=joiner.request,
        addresses=joiner.addresses,
        realtime=joiner.realtime,
        stall_ms=joiner.stall_ms,
        replace=joiner.replace,
    )
    if joiner.former is not None:
        certificate, key = joiner.former
        proof = sign(key, request.stated(token.cluster))
        request = msgspec.structs.replace(request, certificate=certificate, proof=proof)
    writer.write(frame(encode_control(request)))
    grant = await _receive(reader)
    if not isinstance(grant, JoinGrant):
        raise _unexpected(grant)
    try:
        pinned = fingerprint_of_pem(grant.authority_certificate) == token.authority
        issued = issued_by(shown.certificate, ssl.PEM_cert_to_DER_cert(grant.certificate.decode()))
    except ValueError as error:
        raise ProtocolError(f"the grant holds no certificates: {error}") from error
    if not pinned or not issued:
        raise ProtocolError("the certificates in the grant are not of the token's authority")
    return grant


async def _receive(reader: asyncio.StreamReader) -> Control:
    """Return the next message, raising what a rejection says."""
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > CONTROL_BYTES_MAX:
        raise ProtocolError(f"an answer of {length} bytes", code="oversized")
    message = decode_control(await reader.readexactly(length))
    if isinstance(message, Rejected):
        raise _error_of(message.reason)
    return message


def _unexpected(message: Control) -> ProtocolError:
    return ProtocolError(f"{type(message).__name__} is no answer to a join", code="malformed")


def _error_of(reason: Rejection) -> LeitwolfError:
    kind = _ERRORS.get(reason.code, HandshakeRejected)
    return kind(reason.text, code=reason.code, hint=reason.hint)


def identity_of(grant: JoinGrant, key: bytes) -> Identity:
    """Return the identity of the new node.

    Args:
        grant: from :func:`request_join`.
        key: the node's private key (PEM), of which the request was made.
    """
    return Identity(
        authority_certificate=grant.authority_certificate,
        authority_key=grant.authority_key,
        certificate=grant.certificate,
        key=key,
        heartbeat_keys=grant.heartbeat_keys,
    )


# --- UDP -----------------------------------------------------------------------------------------


class Unanswered(NamedTuple):
    """A guard that did not answer on a link."""

    node: int
    """0: none of this link could be asked."""
    own: str
    """Address that it was asked from."""
    address: str
    """Its own."""
    port: int
    fault: str = ""
    """Why none could be asked."""

    @property
    def text(self) -> str:
        """What is wrong."""
        if self.fault:
            return f"UDP {self.port} on {self.own} (this node): {self.fault}"
        return (
            f"UDP {self.port} on {self.address}: no answer from node {self.node}"
            " — open it in the firewalls of both nodes"
        )


async def check_udp(grant: JoinGrant, timeout_s: float = _UDP_S) -> tuple[Unanswered, ...]:
    """Probe the guards of all members on all links from this node's own UDP port.

    This node's guard must not run yet, since its port is used.

    Returns:
        Each address that did not answer in time; nothing when all did.
    """
    checks = []
    for link, network in enumerate(grant.links):
        own = grant.addresses.get(network, "")
        others = {
            member.node: member.addresses[network]
            for member in grant.members
            if network in member.addresses
        }
        if own and others:
            checks.append(_check_link(grant, link, own, others, timeout_s))
    return tuple(one for silent in await asyncio.gather(*checks) for one in silent)


async def _check_link(
    grant: JoinGrant, link: int, own: str, others: dict[int, str], timeout_s: float
) -> list[Unanswered]:
    with socket.socket(family_of(own), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
        try:
            channel.bind((own, grant.port))
        except OSError as error:
            return [Unanswered(0, own, "", grant.port, error.strerror or str(error))]
        silent = dict(others)
        asking = asyncio.create_task(_ask(channel, grant, link, others, silent))
        try:
            await asyncio.wait_for(_hear(channel, grant, link, silent), timeout_s)
        except TimeoutError:
            return [Unanswered(node, own, address, grant.port) for node, address in silent.items()]
        finally:
            asking.cancel()
    return []


async def _ask(
    channel: socket.socket,
    grant: JoinGrant,
    link: int,
    others: dict[int, str],
    silent: Iterable[int],
) -> None:
    """Probe the nodes that are silent, again and again: their guards may not know this node yet."""
    loop = asyncio.get_running_loop()
    sealer = Sealer(KeyRing.parse(grant.heartbeat_keys), grant.node)
    incarnation = int.from_bytes(os.urandom(7), "big")
    while True:
        for node in tuple(silent):
            probe = Probe(sent=int(loop.time() * 1e9), incarnation=incarnation)
            datagram = sealer.seal(link, PEER.encode(probe))
            try:
                await loop.sock_sendto(channel, datagram, (others[node], grant.port))
            except OSError:  # no route, or the last probe was rejected: the next may pass
                continue
        await asyncio.sleep(_UDP_RETRY_S)


async def _hear(
    channel: socket.socket, grant: JoinGrant, link: int, silent: dict[int, str]
) -> None:
    """Strike nodes that reply off ``silent`` until none is left."""
    loop = asyncio.get_running_loop()
    opener = Opener(KeyRing.parse(grant.heartbeat_keys), silent)
    while silent:
        try:
            datagram, _ = await loop.sock_recvfrom(channel, DATAGRAM_BYTES_MAX + 1)
        except OSError:  # the answer to an earlier probe that could not be delivered
            await asyncio.sleep(_UDP_RETRY_S)
            continue
        opened = opener.open(datagram)
        if opened is None or opened[1] != link:
            continue
        try:
            message = PEER.decode(opened[2])
        except LayoutError:
            continue
        if isinstance(message, ProbeReply):
            silent.pop(opened[0], None)
