"""A backup: the cluster state in one file, with everything that tells what it is.

Layout, little-endian::

    magic     16 bytes
    format    u32
    length    u64   of the body
    body            a Backup in MessagePack
    digest    32 bytes: SHA-256 over all of it

Rules:

- Nothing of a file counts before its digest fits, the state decodes and is of the index, cluster
  and size that the backup says.
- A backup holds no secret of the cluster: no key of its authority, of a node or of heartbeats, no
  token, no credentials of a witness. Parameters of resources are in it as they are.

Theory of operation: what is restored is another cluster with the same services (it gets a new UUID
and new keys), for the old one may live on somewhere. So nothing that proves membership in the old
one is of use, and a stolen backup opens nothing.
"""

from __future__ import annotations

import hashlib
import struct

import msgspec

from leitwolf.model.errors import InvalidConfig, InvariantError
from leitwolf.model.state import State
from leitwolf.state.codec import decode, digest, encode
from leitwolf.wire.ballot import Ballot

__all__ = ["BACKUP_BYTES_MAX", "FORMAT", "Backup", "decode_backup", "encode_backup", "take_backup"]

FORMAT = 1
BACKUP_BYTES_MAX = 64 << 20
"""The largest state is a quarter of it."""

_MAGIC = b"LEITWOLF-BACKUP\n"
_START = struct.Struct("<16sIQ")
_DIGEST_BYTES = 32


class Backup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state of a cluster at one entry, and where it comes from."""

    product: str
    """Version of Leitwolf that made it."""
    cluster: str
    """UUID of the cluster."""
    name: str
    node: str
    """On which node it was made."""
    fresh: bool
    """A quorum confirmed the entry that says so: nothing that was confirmed before is missing."""
    wall: int
    """Wall clock, ns since 1970."""
    index: int
    """Of the last entry that the state holds."""
    ballot: Ballot
    hash: str
    """SHA-256 of the whole state there, as nodes compare it."""
    state: bytes
    """The state without keys and tokens."""

    def content(self) -> State:
        """Return the state.

        Raises:
            InvariantError: it is none of this version.
        """
        return decode(self.state)


def take_backup(
    state: State, *, product: str, node: str, fresh: bool, wall: int, ballot: Ballot
) -> Backup:
    """Return a backup of a state."""
    public = msgspec.structs.replace(state, authority=b"", keys=(), keys_stage="", tokens={})
    return Backup(
        product=product,
        cluster=state.uuid,
        name=state.name,
        node=node,
        fresh=fresh,
        wall=wall,
        index=state.index,
        ballot=ballot,
        hash=digest(state),
        state=encode(public),
    )


def encode_backup(backup: Backup) -> bytes:
    """Return the content of a backup file."""
    body = msgspec.msgpack.encode(backup)
    content = _START.pack(_MAGIC, FORMAT, len(body)) + body
    return content + hashlib.sha256(content).digest()


def decode_backup(data: bytes, *, name: str, product: str) -> Backup:
    """Return the backup in a file, checked as a whole.

    Args:
        data: the content of the file.
        name: of the file, for the errors.
        product: this version of Leitwolf.

    Raises:
        InvalidConfig: ``backup-foreign`` it is no backup; ``backup-newer`` a later version made it;
            ``backup-truncated`` its end is missing; ``backup-damaged`` something in it is wrong.
    """
    if not data.startswith(_MAGIC):
        text = f"{name} is no backup of Leitwolf"
        raise InvalidConfig(text, code="backup-foreign", hint="leitwolf backup FILE makes one")
    if len(data) < _START.size:
        raise _truncated(name, len(data), _START.size)
    _, version, length = _START.unpack_from(data)
    if version != FORMAT:
        raise InvalidConfig(
            f"{name} has format {version}; this version reads format {FORMAT}",
            code="backup-newer",
            hint="use the version of Leitwolf that made it, or a later one",
        )
    needed = _START.size + length + _DIGEST_BYTES
    if len(data) < needed:
        raise _truncated(name, len(data), needed)
    end = _START.size + length
    if len(data) != needed or hashlib.sha256(data[:end]).digest() != data[end:]:
        raise _damaged(name, "its digest does not fit")
    try:
        backup = msgspec.msgpack.decode(data[_START.size : end], type=Backup)
        state = backup.content()
    except (msgspec.MsgspecError, UnicodeDecodeError, InvariantError) as error:
        # The digest fits: whoever wrote it meant it so.
        raise InvalidConfig(
            f"{name} cannot be read by version {product}: {error}",
            code="backup-newer",
            hint="use the version of Leitwolf that made it, or a later one",
        ) from error
    if (state.index, state.uuid, state.name) != (backup.index, backup.cluster, backup.name):
        raise _damaged(name, "its state is not the one that it names")
    return backup


def _truncated(name: str, found: int, needed: int) -> InvalidConfig:
    return InvalidConfig(
        f"{name} ends too early: it has {found} bytes of {needed}",
        code="backup-truncated",
        hint="use another copy of it",
    )


def _damaged(name: str, reason: str) -> InvalidConfig:
    return InvalidConfig(
        f"{name} is damaged: {reason}", code="backup-damaged", hint="use another copy of it"
    )
