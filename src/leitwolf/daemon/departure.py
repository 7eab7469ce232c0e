"""What a node remembers about why it takes no part: locked out, or out of its cluster.

Two small files in the state directory. ``locked.json`` names a storage that must never vote again;
it outlives restarts, but not a restored copy of the directory: then the peers refuse it again.
``departure.json`` tells why this node is in no cluster any more; while it names no folder, the
state is still to be set aside.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from leitwolf.daemon.kept import read_kept, read_note
from leitwolf.model.errors import StorageError
from leitwolf.system.durable import remove_durably, write_durably

__all__ = [
    "LOCKED_NAME",
    "Departure",
    "Lockout",
    "forget_departure",
    "load_departure",
    "load_lockout",
    "save_departure",
    "save_lockout",
    "way_back",
]

LOCKED_NAME = "locked.json"
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
    folder: str = ""
    """Where its state was set aside, '': that is still to be done."""
    at_wall: int


def way_back(node: str) -> str:
    """Return how a node whose storage is of no use comes back into its cluster."""
    return (
        f"on {node}: leitwolf rejoin (what is there is kept in quarantine, the log comes anew);"
        f" should that find no other node: leitwolf node replace {node} on one makes a token"
    )


def save_lockout(state: Path, lockout: Lockout) -> None:
    """Remember it for as long as the storage is there.

    Raises:
        OSError: as the file system says.
    """
    write_durably(state / LOCKED_NAME, msgspec.json.encode(lockout))


def load_lockout(state: Path, storage: str) -> Lockout | None:
    """Return why this storage is locked out, None when it is not.

    Raises:
        StorageError: ``lockout-damaged``, or it cannot be read.
    """
    found = read_kept(state / LOCKED_NAME, Lockout, code="lockout-damaged")
    return found if found is not None and found.storage == storage else None


def save_departure(state: Path, departure: Departure) -> None:
    """Remember it until this node is in a cluster again.

    Raises:
        OSError: as the file system says.
    """
    write_durably(state / _DEPARTURE, msgspec.json.encode(departure))


def load_departure(state: Path) -> Departure | None:
    """Return why this node is in no cluster, or shall not be, None when nobody knows."""
    return read_note(state / _DEPARTURE, Departure)


def forget_departure(state: Path) -> None:
    """This node is in a cluster again.

    Raises:
        OSError: as the file system says.
    """
    remove_durably(state / _DEPARTURE)
