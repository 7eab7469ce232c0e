"""Files as the quorum log needs them; implemented on the machine and by the simulator's disk.

Failures are ``OSError`` with the ``errno`` of the system call: ENOSPC and EDQUOT mean that there is
no space and nothing was changed that was durable before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

__all__ = ["SECTOR_BYTES", "File", "FileSystem"]

SECTOR_BYTES = 512
"""The largest unit that every disk writes as a whole or not at all."""


class File(Protocol):
    """An open file. Not shared between threads."""

    def size(self) -> int:
        """Return the length of the file in bytes."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset``; fewer only at the end of the file."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Write all of ``data`` at ``offset``; not durable before :meth:`sync`."""
        ...

    def sync(self) -> None:
        """Make everything written to this file durable (fdatasync).

        After an error nobody knows what is durable, and a second call may lie: never retry (A2).
        """
        ...

    def close(self) -> None:
        """Release the file; does not make anything durable."""
        ...


class FileSystem(Protocol):
    """Folders and names. Changes of names are durable after :meth:`sync_folder`."""

    def make_folder(self, path: Path) -> None:
        """Create the folder and its parents, for its owner alone; no error if it exists."""
        ...

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder, sorted; none when there is no such folder."""
        ...

    def open(self, path: Path, *, create: bool = False, write: bool = True) -> File:
        """Open a file; ``create`` makes it new and empty, whatever was there.

        Raises:
            FileNotFoundError: it is not there, and ``create`` was not asked for.
        """
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file or folder in one step, replacing a file that has the name."""
        ...

    def remove(self, path: Path) -> None:
        """Remove the name of a file."""
        ...

    def sync_folder(self, path: Path) -> None:
        """Make the names in this folder durable."""
        ...

    def modified_ns(self, path: Path) -> int:
        """Return when the file was written last: wall clock, nanoseconds, for ages only."""
        ...

    def lock(self, path: Path) -> File:
        """Create the file if need be and hold it alone until it is closed or the process ends.

        Raises:
            BlockingIOError: another process holds it.
        """
        ...
