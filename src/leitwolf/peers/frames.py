"""What is said on a peer stream, and how it is cut into frames.

A frame is a length (u32, big endian) and that many bytes. Inside TLS each side begins with
:class:`Hello` and answers the other's with :class:`Welcome` or :class:`Rejected`. After both
welcomes the frames hold messages of the cores, in the codec that the network was given; an empty
frame says only that the sender is alive. A caller without a certificate speaks join instead:
:class:`JoinHello`, answered by :class:`AuthorityShown`, then :class:`JoinRequest`, answered by
:class:`JoinGrant`; or :class:`Rejected` at any point.

All of it is MessagePack. The protocol number is read before anything else, so that nodes of other
versions are told apart from broken ones.
"""

from __future__ import annotations

import hashlib
import struct
from enum import StrEnum

import msgspec

from leitwolf.model.errors import MALFORMED, ProtocolError, check
from leitwolf.model.history import HistoryStanding
from leitwolf.wire.ballot import Ballot, Key
from leitwolf.wire.lineage import Lineage

__all__ = [
    "CONTROL_BYTES_MAX",
    "PING",
    "PROTOCOL",
    "AuthorityShown",
    "Code",
    "Control",
    "Framer",
    "Hello",
    "JoinGrant",
    "JoinHello",
    "JoinRequest",
    "JoinedMember",
    "Rejected",
    "Rejection",
    "Welcome",
    "decode_control",
    "encode_control",
    "frame",
    "protocol_of",
]

PROTOCOL = 3
"""Version of the peer protocol; nodes speak only with nodes of the same one."""
CONTROL_BYTES_MAX = 64 << 10
"""Largest frame before a stream is established; a grant of 64 members has about 20 KiB."""

_LENGTH = struct.Struct(">I")
_LENGTH_MAX = 0xFFFF_FFFF


class Code(StrEnum):
    """Why a peer or joiner was rejected."""

    CLUSTER_FOREIGN = "cluster-foreign"
    CERTIFICATE_FOREIGN = "certificate-foreign"
    VERSION_MISMATCH = "version-mismatch"
    NOT_ADMITTED = "not-admitted"
    STORAGE_UNKNOWN = "storage-unknown"
    STORAGE_REPLACED = "storage-replaced"
    HISTORY_BEHIND = "history-behind"
    HISTORY_SUPERSEDED = "history-superseded"
    FORCE_UNFINISHED = "force-unfinished"
    TWO_FORCED_HALVES = "two-forced-halves"
    STATE_ROLLED_BACK = "state-rolled-back"
    TOKEN_EXPIRED = "token-expired"  # noqa: S105  # a code, no password
    TOKEN_USED = "token-used"  # noqa: S105
    TOKEN_FOREIGN = "token-foreign"  # noqa: S105
    NAME_TAKEN = "name-taken"
    ADDRESS_TAKEN = "address-taken"
    NO_QUORUM = "no-quorum"
    BUSY = "join-busy"
    NODE_ALIVE = "node-alive"
    STILL_LEAVING = "node-leaving"
    PROOF_WRONG = "proof-wrong"


class _Control(msgspec.Struct, frozen=True, kw_only=True, tag=True, tag_field="kind"):
    pass


class Rejection(msgspec.Struct, frozen=True, kw_only=True):
    """Why a peer or joiner is not served: a stable code, what is wrong, what to do."""

    code: str
    text: str
    hint: str = ""


class Hello(_Control, frozen=True, kw_only=True):
    """Who I am, and what I durably promised and hold."""

    protocol: int = PROTOCOL
    cluster: str
    node: int
    storage: str
    promised: Ballot
    last: Key
    position: int = 0
    """Records that the storage ever wrote; never sinks."""
    chain: bytes = b""
    """Hash chain of the records up to ``position``."""
    session: bytes = b""
    """Random number of the daemon process; the network fills it in."""
    history: HistoryStanding = HistoryStanding()
    """In which history I am."""
    replaces: tuple[str, ...] = ()
    """Former storages of mine, set aside for a later history."""


class Welcome(_Control, frozen=True, kw_only=True):
    """Your hello was accepted."""


class Rejected(_Control, frozen=True, kw_only=True):
    """You are not served; the stream ends."""

    reason: Rejection


class JoinHello(_Control, frozen=True, kw_only=True):
    """I have a token of this cluster: show me its authority."""

    protocol: int = PROTOCOL
    cluster: str


class AuthorityShown(_Control, frozen=True, kw_only=True):
    """The authority's certificate (DER), which the token pins."""

    certificate: bytes


class JoinRequest(_Control, frozen=True, kw_only=True):
    """Take me in."""

    secret: bytes
    """Of the token; the joiner sends it only to a node that the pinned authority vouches for."""
    name: str
    uuid: str
    storage: str
    request: bytes
    """Certificate request (PEM)."""
    addresses: dict[str, str]
    """Own address in each subnet, for example ``{"10.0.0.0/24": "10.0.0.3"}``."""
    realtime: bool
    """My guard has real-time scheduling."""
    stall_ms: int
    """The worst stall that my guard measured lately."""
    replace: bool = False
    """Take the place of the node of this name, which lost its storage."""
    certificate: bytes = b""
    """Of that node (PEM), when it still has its key; then the secret need not be known."""
    proof: bytes = b""
    """:meth:`stated` signed by that key."""

    def stated(self, cluster: str) -> bytes:
        """Return what the proof is about: this very request, for this cluster."""
        digest = hashlib.sha256(self.secret).digest()
        return b"leitwolf rejoin\0" + _ENCODER.encode(
            (cluster, digest, self.name, self.uuid, self.storage, self.request)
        )

    def __repr__(self) -> str:
        return f"JoinRequest(name={self.name!r}, uuid={self.uuid!r}, addresses={self.addresses!r})"


class JoinedMember(msgspec.Struct, frozen=True, kw_only=True):
    """A node of the cluster, and its address on each network, by network name."""

    node: int
    name: str
    addresses: dict[str, str]
    fingerprint: str
    """SHA-256 of its certificate: by it the new node knows whom it talks to."""


class JoinGrant(_Control, frozen=True, kw_only=True):
    """You are in: all that a member has."""

    node: int
    cluster: str
    cluster_name: str
    port: int
    profile: str
    certificate: bytes
    """Of the new node (PEM)."""
    authority_certificate: bytes
    authority_key: bytes
    heartbeat_keys: bytes
    links: tuple[str, ...]
    """Names of the interconnect networks in the order of the links."""
    addresses: dict[str, str]
    """The new node's address on each network, by network name."""
    members: tuple[JoinedMember, ...]
    """The other nodes."""
    lineage: Lineage = ()
    """Of the history that the cluster is in."""

    def __repr__(self) -> str:
        return f"JoinGrant(node={self.node}, cluster={self.cluster!r}, members={self.members!r})"


Control = Hello | Welcome | Rejected | JoinHello | AuthorityShown | JoinRequest | JoinGrant


class _Versioned(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    protocol: int


_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)
_VERSION_DECODER = msgspec.msgpack.Decoder(_Versioned)


def encode_control(message: Control) -> bytes:
    """Return a control message as bytes, without the length."""
    return _ENCODER.encode(message)


def decode_control(data: bytes) -> Control:
    """Return the control message in these bytes.

    Raises:
        ProtocolError: there is none (code ``malformed``).
    """
    try:
        return _DECODER.decode(data)
    except MALFORMED as error:
        raise ProtocolError(f"no control message: {error}", code="malformed") from error


def protocol_of(data: bytes) -> int:
    """Return the protocol number of a Hello or JoinHello of any version.

    Raises:
        ProtocolError: it is neither (code ``malformed``).
    """
    try:
        return _VERSION_DECODER.decode(data).protocol
    except MALFORMED as error:
        raise ProtocolError(f"no hello: {error}", code="malformed") from error


def frame(data: bytes) -> bytes:
    """Return the data with its length before it."""
    check(len(data) <= _LENGTH_MAX, f"frame of {len(data)} bytes")
    return _LENGTH.pack(len(data)) + data


PING = frame(b"")


class Framer:
    """Cuts a byte stream into frames.

    Args:
        limit: largest frame accepted, in bytes; may be changed between frames.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def push(self, data: bytes) -> None:
        """Add received bytes; call :meth:`pop` until it returns None before the next."""
        self._buffer += data

    def pop(self) -> bytes | None:
        """Return the next whole frame, or None.

        Raises:
            ProtocolError: the next frame is above the limit (code ``oversized``).
        """
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > self.limit:
            raise ProtocolError(
                f"frame of {length} bytes, at most {self.limit} are accepted", code="oversized"
            )
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return data
