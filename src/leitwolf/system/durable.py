"""Small files that are there as a whole after a crash, the old one or the new one, never a part.

Written beside their place, made durable, then put there; at last the folder is made durable.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["create_durably", "remove_durably", "sync_folder", "write_durably"]


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file, for its owner alone (0600), as a whole and durably.

    Raises:
        OSError: as the file system says; the former file stands, or the new one.
    """
    with _written(path.with_name(f"{path.name}.new"), data) as temporary:
        temporary.replace(path)
    sync_folder(path.parent)


def create_durably(path: Path, data: bytes) -> None:
    """Make a new file, for its owner alone (0600), as a whole and durably.

    Raises:
        FileExistsError: there is one of that name; it is left as it is.
        OSError: as the file system says.
    """
    with _written(path.with_name(f".{path.name}.{os.getpid()}.new"), data) as temporary:
        os.link(temporary, path)  # fails when there is one: nothing is ever overwritten
    sync_folder(path.parent)


def remove_durably(path: Path) -> None:
    """Remove a file, if it is there, for good.

    Raises:
        OSError: as the file system says; the file is there, or comes back after a crash.
    """
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable.

    Raises:
        OSError: as the file system says.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _written(temporary: Path, data: bytes) -> Iterator[Path]:
    temporary.unlink(missing_ok=True)  # of a crash before
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
