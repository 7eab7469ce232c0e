"""The join token: all that a new node must know, as one word to copy.

A token names the cluster, where its members listen, the fingerprint of its authority (so the
joiner knows whom it talks to) and a secret (so the cluster knows that the joiner was invited). The
log stores only the digest of the secret. A token in hand is a key to the cluster: it works once and
expires.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import uuid as uuids

import msgspec

from leitwolf.model.errors import InvalidConfig
from leitwolf.model.limits import NAME_LENGTH_MAX
from leitwolf.peers.word import format_word, parse_word

__all__ = ["SECRET_BYTES", "JoinToken", "digest", "format_token", "new_secret", "parse_token"]

SECRET_BYTES = 16
_PREFIX = "leitwolf1-"
_ADDRESSES_MAX = 16
_PORT_MAX = 0xFFFF
_TEXT_CHARACTERS_MAX = 4_096


class _Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    cluster: bytes
    name: str
    port: int
    addresses: tuple[str, ...]
    authority: bytes
    secret: bytes


class JoinToken(msgspec.Struct, frozen=True, kw_only=True):
    """Contents of a token."""

    cluster: str
    """UUID of the cluster."""
    name: str
    """Name of the cluster, for display."""
    port: int
    """TCP and UDP port of every node."""
    addresses: tuple[str, ...]
    """Interconnect addresses of members, in the order in which to try them; 1..16."""
    authority: str
    """Fingerprint of the authority's certificate, 64 hex digits."""
    secret: bytes

    def __repr__(self) -> str:
        return f"JoinToken(cluster={self.cluster!r}, name={self.name!r}, secret=...)"


def new_secret() -> bytes:
    """Return 16 random bytes."""
    return os.urandom(SECRET_BYTES)


def digest(secret: bytes) -> str:
    """Return what the log stores of a secret: it identifies it and does not betray it."""
    return hashlib.sha256(b"leitwolf join token " + secret).hexdigest()


def format_token(token: JoinToken) -> str:
    """Return the token as one printable word: a prefix, then base64url with a checksum in it."""
    body = msgspec.msgpack.encode(
        _Body(
            uuids.UUID(token.cluster).bytes,
            token.name,
            token.port,
            token.addresses,
            bytes.fromhex(token.authority),
            token.secret,
        )
    )
    return format_word(_PREFIX, body)


def _malformed(why: str) -> InvalidConfig:
    return InvalidConfig(
        f"this is not a whole join token: {why}",
        code="token-malformed",
        hint="copy all of it, from 'leitwolf1-' to its end, or make a new one: leitwolf token",
        field="token",
    )


def parse_token(text: str) -> JoinToken:
    """Return the contents of a token; white space anywhere in it is ignored.

    Raises:
        InvalidConfig: it is truncated, garbled or no token (code ``token-malformed``).
    """
    try:
        body = parse_word(_PREFIX, text, _TEXT_CHARACTERS_MAX)
    except ValueError as error:
        raise _malformed(str(error)) from error
    try:
        return _checked(msgspec.msgpack.decode(body, type=_Body))
    except (msgspec.MsgspecError, ValueError) as error:
        raise _malformed(f"its contents are wrong: {error}") from error


def _checked(body: _Body) -> JoinToken:
    """Return the token, every field in its range.

    Raises:
        ValueError: a field is out of its range.
    """
    for address in body.addresses:
        ipaddress.ip_address(address)
    if not 1 <= len(body.addresses) <= _ADDRESSES_MAX:
        raise ValueError(f"{len(body.addresses)} addresses")
    if not 1 <= body.port <= _PORT_MAX:
        raise ValueError(f"port {body.port}")
    if not 1 <= len(body.name) <= NAME_LENGTH_MAX:
        raise ValueError("cluster name")
    if len(body.secret) != SECRET_BYTES or len(body.authority) != hashlib.sha256().digest_size:
        raise ValueError("secret or fingerprint of another length")
    return JoinToken(
        cluster=str(uuids.UUID(bytes=body.cluster)),
        name=body.name,
        port=body.port,
        addresses=body.addresses,
        authority=body.authority.hex(),
        secret=body.secret,
    )
