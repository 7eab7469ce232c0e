"""The bytes of the value that a share, object store, etcd or witness daemon keeps for a cluster."""

from __future__ import annotations

import msgspec

from leitwolf.model.errors import WitnessError
from leitwolf.model.witness import CasObject

__all__ = ["decode_object", "encode_object"]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(CasObject)


def encode_object(value: CasObject) -> bytes:
    """Return a value as it is to be kept."""
    return _encoder.encode(value)


def decode_object(data: bytes, location: str) -> CasObject:
    """Return the value that was read at a location.

    Raises:
        WitnessError: ``witness-damaged``, it is no such value.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WitnessError(
            f"what {location} holds cannot be read: {error}", code="witness-damaged"
        ) from error
