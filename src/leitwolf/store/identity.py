"""Whose log a folder holds, and how a log is set aside."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import msgspec

from leitwolf.model.errors import StorageError
from leitwolf.ports.files import FileSystem
from leitwolf.store.files import OsFileSystem

__all__ = [
    "IDENTITY_NAME",
    "StoreIdentity",
    "quarantine",
    "quarantined",
    "read_identity",
    "same_identity",
    "write_identity",
]

IDENTITY_NAME = "identity.json"
_QUARANTINE = "quarantine"
_OS_FILES = OsFileSystem()


class StoreIdentity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cluster, node and storage that a log belongs to."""

    cluster: str
    """UUID of the cluster."""
    node: int
    storage: str
    """UUID of this storage, made with the log: a wiped disk is another acceptor."""


class _IdentityFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    identity: StoreIdentity
    digest: str


_FORMAT = 1


def _digest(identity: StoreIdentity) -> str:
    return sha256(msgspec.msgpack.encode(identity)).hexdigest()


def write_identity(directory: Path, identity: StoreIdentity, files: FileSystem) -> None:
    """Write the identity durably; it is what makes a folder a log.

    Raises:
        OSError: as the file system says.
    """
    content = _IdentityFile(format=_FORMAT, identity=identity, digest=_digest(identity))
    temporary = directory / f"{IDENTITY_NAME}.tmp"
    file = files.open(temporary, create=True)
    try:
        file.write(0, msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        file.sync()
    finally:
        file.close()
    files.rename(temporary, directory / IDENTITY_NAME)
    files.sync_folder(directory)


def read_identity(directory: Path, files: FileSystem) -> StoreIdentity:
    """Return whose log this is.

    Raises:
        StorageError: ``no-log`` there is none; ``identity-damaged`` the file is unreadable;
            ``format-unknown`` a later version wrote it.
    """
    try:
        file = files.open(directory / IDENTITY_NAME, write=False)
    except FileNotFoundError as error:
        raise StorageError(
            f"There is no quorum log in {directory}.",
            code="no-log",
            hint="Form a cluster on this node, or join one.",
        ) from error
    try:
        content = file.read(0, file.size())
    finally:
        file.close()
    try:
        decoded = msgspec.json.decode(content, type=_IdentityFile)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(directory, str(error)) from error
    if decoded.format != _FORMAT:
        raise StorageError(
            f"The quorum log in {directory} has format {decoded.format}; "
            f"this version reads format {_FORMAT}.",
            code="format-unknown",
            hint="Start the version that wrote it, or a later one.",
        )
    if decoded.digest != _digest(decoded.identity):
        raise _damaged(directory, "its digest does not fit")
    return decoded.identity


def _damaged(directory: Path, reason: str) -> StorageError:
    return StorageError(
        f"{directory / IDENTITY_NAME} is damaged: {reason}.",
        code="identity-damaged",
        hint="Set the log aside and let this node join again; its peers hold the log.",
    )


def same_identity(directory: Path, found: StoreIdentity, expected: StoreIdentity) -> None:
    """Refuse a log that belongs to somebody else.

    Raises:
        StorageError: ``foreign-storage``, naming every difference.
    """
    names = ("cluster", "node", "storage")
    differences = [
        f"{name} {getattr(found, name)} instead of {getattr(expected, name)}"
        for name in names
        if getattr(found, name) != getattr(expected, name)
    ]
    if differences:
        raise StorageError(
            f"The quorum log in {directory} belongs to another owner: {', '.join(differences)}.",
            code="foreign-storage",
            hint="A state directory must never be copied between nodes or clusters. Set it aside "
            "and let this node join again.",
        )


def quarantine(directory: Path, files: FileSystem = _OS_FILES) -> Path:
    """Set a log aside, as a whole and unchanged, and return where it is now; never delete it.

    Raises:
        OSError: as the file system says; the log is where it was.
    """
    folder = directory.parent / _QUARANTINE
    files.make_folder(folder)
    taken = set(files.names(folder))
    number = 1
    while f"{directory.name}.{number}" in taken:
        number += 1
    target = folder / f"{directory.name}.{number}"
    files.rename(directory, target)
    files.sync_folder(folder)
    files.sync_folder(directory.parent)
    return target


def quarantined(directory: Path, files: FileSystem = _OS_FILES) -> list[Path]:
    """Return where the logs are that were set aside from ``directory``."""
    folder = directory.parent / _QUARANTINE
    return [folder / name for name in files.names(folder)]
