"""Snapshot files: written aside, synced, renamed; checked as a whole when they are read."""

from __future__ import annotations

import errno
import struct
from hashlib import sha256
from pathlib import Path

import msgspec

from leitwolf.model.errors import StorageError
from leitwolf.model.log import Snapshot
from leitwolf.ports.files import FileSystem
from leitwolf.store.segment import SnapshotReference

__all__ = ["check_snapshot", "is_snapshot_name", "read_snapshot", "write_snapshot"]

_PREFIX = "snapshot."
_MAGIC = b"LWQSNAP1"
_START = struct.Struct("<8sQ")


def is_snapshot_name(name: str) -> bool:
    """Return whether a file name is that of a finished snapshot."""
    return name.startswith(_PREFIX) and not name.endswith(".tmp")


def check_snapshot(snapshot: Snapshot) -> None:
    """Refuse a snapshot whose state is not what its hash says.

    Raises:
        StorageError: ``snapshot-damaged``.
    """
    if sha256(snapshot.state).hexdigest() != snapshot.state_hash:
        raise StorageError(
            f"The snapshot up to entry {snapshot.last.index} does not fit its own hash.",
            code="snapshot-damaged",
        )


def write_snapshot(
    directory: Path, snapshot: Snapshot, position: int, files: FileSystem
) -> tuple[str, bytes]:
    """Store a snapshot durably under a name that was never used; return name and digest.

    Args:
        directory: of the log.
        snapshot: what to store.
        position: of the log record that will name it; makes the name unique.
        files: where to.

    Raises:
        OSError: as the file system says; nothing but a temporary file is left.
    """
    body = msgspec.msgpack.encode(snapshot)
    content = _START.pack(_MAGIC, len(body)) + body
    name = f"{_PREFIX}{snapshot.last.index:012d}-{position:012d}"
    temporary = directory / f"{name}.tmp"
    file = files.open(temporary, create=True)
    try:
        file.write(0, content)
        file.sync()
    finally:
        file.close()
    files.rename(temporary, directory / name)
    files.sync_folder(directory)
    return name, sha256(content).digest()


def read_snapshot(
    directory: Path, reference: SnapshotReference, files: FileSystem
) -> Snapshot | None:
    """Return the snapshot that the log names, None when its file is missing or damaged.

    Raises:
        OSError: it cannot be read now, for a reason that is not damage.
    """
    try:
        file = files.open(directory / reference.name, write=False)
    except FileNotFoundError:
        return None
    try:
        content = file.read(0, file.size())
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    finally:
        file.close()
    if sha256(content).digest() != reference.digest or len(content) < _START.size:
        return None
    try:
        snapshot = msgspec.msgpack.decode(content[_START.size :], type=Snapshot)
        check_snapshot(snapshot)
    except (msgspec.MsgspecError, UnicodeDecodeError, StorageError):
        return None
    return snapshot if snapshot.last == reference.last else None
