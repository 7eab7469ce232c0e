"""What a node remembers about why it takes no part: locked out, or out of its cluster.

Two small files in the state directory. ``locked.json`` names a storage that must never vote again;
it outlives restarts, but not a restored copy of the directory: then the peers refuse it again.
``departure.json`` only tells people why this node is in no cluster any more.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from leitwolf.model.errors import StorageError

__all__ = [
    "Departure",
    "Lockout",
    "forget_departure",
    "load_departure",
    "load_lockout",
    "save_departure",
    "save_lockout",
    "way_back",
    "write_durably",
]

_LOCKED = "locked.json"
_DEPARTURE = "departure.json"


class Lockout(msgspec.Struct, frozen=True, kw_only=True):
    """Peers proved that a storage forgot what it promised, or do not know it."""

    storage: str
    code: str
    text: str
    at_wall: int
    addresses: tuple[str, ...] = ()
    """Where the others were, for the way back."""

    def error(self, node: str) -> StorageError:
        """Return it as the fault of a daemon, with the way out."""
        return StorageError(
            f"locked out of the cluster: {self.text}", code=self.code, hint=way_back(node)
        )


class Departure(msgspec.Struct, frozen=True, kw_only=True):
    """The last cluster of this node and how it ended here."""

    cluster: str
    reason: str
    folder: str
    """Where its state was set aside."""
    at_wall: int


def way_back(node: str) -> str:
    """Return how a node whose storage is of no use comes back into its cluster."""
    return (
        f"on {node}: leitwolf rejoin (what is there is kept in quarantine, the log comes anew);"
        f" should that find no other node: leitwolf node replace {node} on one makes a token"
    )


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file as a whole and durably.

    Raises:
        OSError: as the file system says.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_lockout(state: Path, lockout: Lockout) -> None:
    """Remember it for as long as the storage is there.

    Raises:
        OSError: as the file system says.
    """
    write_durably(state / _LOCKED, msgspec.json.encode(lockout))


def load_lockout(state: Path, storage: str) -> Lockout | None:
    """Return why this storage is locked out, None when it is not.

    Raises:
        OSError: the file cannot be read.
        msgspec.DecodeError: it is damaged.
    """
    path = state / _LOCKED
    if not path.exists():
        return None
    found = msgspec.json.decode(path.read_bytes(), type=Lockout)
    return found if found.storage == storage else None


def save_departure(state: Path, departure: Departure) -> None:
    """Remember it until this node is in a cluster again.

    Raises:
        OSError: as the file system says.
    """
    write_durably(state / _DEPARTURE, msgspec.json.encode(departure))


def load_departure(state: Path) -> Departure | None:
    """Return why this node is in no cluster, None when nobody knows."""
    try:
        return msgspec.json.decode((state / _DEPARTURE).read_bytes(), type=Departure)
    except (OSError, msgspec.MsgspecError):  # told to people only
        return None


def forget_departure(state: Path) -> None:
    """This node is in a cluster again."""
    (state / _DEPARTURE).unlink(missing_ok=True)
