"""Changes and states as bytes, the same on every node."""

from __future__ import annotations

import hashlib

import msgspec
from msgspec.structs import replace

from leitwolf.model.errors import InvariantError
from leitwolf.model.events import Change
from leitwolf.model.state import Node, State

__all__ = ["decode", "decode_change", "digest", "encode", "encode_change"]

_CANONICAL = msgspec.msgpack.Encoder(order="deterministic")
"""Keys of dictionaries sorted, fields in the order of their definition."""
_CHANGE = msgspec.msgpack.Decoder(Change)


class _Canonical(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A state whose nodes stand in a sorted list: the encoder sorts keys of text only."""

    rest: State
    nodes: tuple[Node, ...]


_STATE = msgspec.msgpack.Decoder(_Canonical)


def encode_change(change: Change) -> bytes:
    """Return a change as the payload of an entry."""
    return _CANONICAL.encode(change)


def decode_change(payload: bytes) -> Change:
    """Return the change in the payload of an entry.

    Raises:
        InvariantError: the payload is no change of this version.
    """
    try:
        return _CHANGE.decode(payload)
    except msgspec.MsgspecError as error:
        raise InvariantError(f"payload of a log entry cannot be read: {error}") from error


def encode(state: State) -> bytes:
    """Return the state as bytes, equal for equal states."""
    nodes = tuple(state.nodes[key] for key in sorted(state.nodes))
    return _CANONICAL.encode(_Canonical(replace(state, nodes={}), nodes))


def decode(data: bytes) -> State:
    """Return the state in these bytes (of a snapshot).

    Raises:
        InvariantError: the bytes are no state of this version.
    """
    try:
        found = _STATE.decode(data)
    except msgspec.MsgspecError as error:
        raise InvariantError(f"encoded state cannot be read: {error}") from error
    return replace(found.rest, nodes={node.id: node for node in found.nodes})


def digest(state: State) -> str:
    """Return the SHA-256 of the encoded state, hexadecimal; nodes compare it."""
    return hashlib.sha256(encode(state)).hexdigest()
