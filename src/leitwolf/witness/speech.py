"""What is said between a node and the witness daemon, and the token that introduces a node.

Inside TLS 1.3 a frame is a length (u32, big endian) and that much MessagePack. The caller compares
the fingerprint of the certificate before he says anything. He begins with :class:`Hello`; until it
is answered with ``ok`` the daemon reads no more than ``HELLO_BYTES_MAX`` and does nothing for him.
Then every :class:`Ask` is answered by one :class:`Reply`.
"""

from __future__ import annotations

import hashlib
import os
import struct
from enum import StrEnum
from typing import TypeVar

import msgspec

from leitwolf.model.errors import InvalidConfig
from leitwolf.model.limits import CAS_BYTES_MAX
from leitwolf.peers.word import format_word, parse_word

__all__ = [
    "FRAME_BYTES_MAX",
    "HELLO_BYTES_MAX",
    "LENGTH_BYTES",
    "PROTOCOL",
    "Ask",
    "Code",
    "Hello",
    "Kind",
    "Reply",
    "WitnessToken",
    "decode",
    "digest",
    "frame",
    "length_of",
    "new_token",
    "parse_witness_token",
]

PROTOCOL = 1
HELLO_BYTES_MAX = 1_024
FRAME_BYTES_MAX = CAS_BYTES_MAX + 1_024
LENGTH_BYTES = 4
_LENGTH = struct.Struct(">I")
_SECRET_BYTES = 16
_TOKEN = struct.Struct(f"{_SECRET_BYTES}s{hashlib.sha256().digest_size}s")
_PREFIX = "leitwolfw1-"
_TOKEN_CHARACTERS_MAX = 256

T = TypeVar("T", bound=msgspec.Struct)


class Kind(StrEnum):
    """What is asked for."""

    GET = "get"
    PUT = "put"
    REMOVE = "remove"


class Code(StrEnum):
    """How it went."""

    OK = "ok"
    NONE = "none"
    """There is no value."""
    CONFLICT = "conflict"
    """The version is another one: nothing was changed."""
    DENIED = "denied"
    PROTOCOL = "protocol"
    """Malformed, or of another version."""
    DAMAGED = "damaged"
    """What the witness kept for this cluster is damaged."""
    FAILED = "failed"
    """The disk of the witness refused; nothing was changed."""


class Hello(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who calls."""

    protocol: int
    name: str
    """Of the cluster."""
    secret: bytes
    scratch: str = ""
    """'': the real value; else the name of a scratch value, 1..63 letters, digits and '-'."""

    def __repr__(self) -> str:
        return f"Hello(name={self.name!r}, secret=...)"


class Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request."""

    kind: Kind
    expected: str | None = None
    data: bytes = b""


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Its answer."""

    code: Code
    version: str = ""
    data: bytes = b""
    text: str = ""


def frame(message: msgspec.Struct) -> bytes:
    """Return a message as it goes over the wire."""
    body = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(body)) + body


def length_of(head: bytes, most: int) -> int:
    """Return the length that the first four bytes of a frame announce.

    Raises:
        ValueError: it is above ``most``.
    """
    (length,) = _LENGTH.unpack(head)
    if length > most:
        raise ValueError(f"a frame of {length} bytes, at most {most} are allowed here")
    return int(length)


def decode(body: bytes, kind: type[T]) -> T:
    """Return a message.

    Raises:
        ValueError: it is none of this kind.
    """
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, OverflowError, RecursionError) as error:
        raise ValueError(f"malformed {kind.__name__}: {error}") from error


class WitnessToken(msgspec.Struct, frozen=True, kw_only=True):
    """What a node must know to speak with a witness daemon."""

    secret: bytes
    fingerprint: str
    """SHA-256 of the witness's certificate, 64 hex digits."""

    def __repr__(self) -> str:
        return f"WitnessToken(secret=..., fingerprint={self.fingerprint!r})"

    def __str__(self) -> str:
        return format_word(_PREFIX, self.secret + bytes.fromhex(self.fingerprint))


def new_token(fingerprint: str) -> WitnessToken:
    """Return a token with a new secret."""
    return WitnessToken(secret=os.urandom(_SECRET_BYTES), fingerprint=fingerprint)


def parse_witness_token(text: str) -> WitnessToken:
    """Return the contents of a token.

    Raises:
        InvalidConfig: it is truncated, garbled or no token (code ``token-malformed``).
    """
    try:
        body = parse_word(_PREFIX, text, _TOKEN_CHARACTERS_MAX)
        secret, fingerprint = _TOKEN.unpack(body)
    except (ValueError, struct.error) as error:
        raise InvalidConfig(
            f"this is not a whole witness token: {error}",
            code="token-malformed",
            hint="copy all of it, or make a new one on the witness: leitwolf witness token NAME",
            field="token",
        ) from error
    return WitnessToken(secret=secret, fingerprint=fingerprint.hex())


def digest(secret: bytes) -> str:
    """Return what the witness stores of a secret."""
    return hashlib.sha256(b"leitwolf witness token " + secret).hexdigest()
