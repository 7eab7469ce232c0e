"""The real file system: the only module of the store that knows the operating system."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from leitwolf.system.durable import sync_folder

__all__ = ["OsFile", "OsFileSystem"]


class OsFile:
    """A file of the operating system, see :class:`leitwolf.ports.files.File`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def size(self) -> int:
        """Return the length in bytes."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset``."""
        parts = []
        while length > 0:
            part = os.pread(self._descriptor, length, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        """Write all of ``data`` at ``offset``."""
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):
            step = os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)
            if step == 0:
                raise OSError(errno.EIO, "the disk takes no more bytes")
            written += step

    def sync(self) -> None:
        """Make the contents durable, and of the metadata what is needed to read them."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class OsFileSystem:
    """Folders of the operating system, see :class:`leitwolf.ports.files.FileSystem`."""

    def make_folder(self, path: Path) -> None:
        """Create the folder and its parents, and make their names durable."""
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
            self.sync_folder(folder.parent)

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder, sorted; none when there is no such folder."""
        try:
            return sorted(path.name for path in folder.iterdir())
        except FileNotFoundError:
            return []

    def open(self, path: Path, *, create: bool = False, write: bool = True) -> OsFile:
        """Open a file; ``create`` makes it new and empty."""
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_RDWR if write else os.O_RDONLY)
        if create:
            flags |= os.O_CREAT | os.O_TRUNC
        return OsFile(os.open(path, flags, 0o600))

    def rename(self, source: Path, target: Path) -> None:
        """Rename in one step."""
        source.rename(target)

    def remove(self, path: Path) -> None:
        """Remove a file's name."""
        path.unlink()

    def sync_folder(self, path: Path) -> None:
        """Make the names in this folder durable."""
        sync_folder(path)

    def modified_ns(self, path: Path) -> int:
        """Return the time of the last write, wall clock, nanoseconds."""
        return path.stat().st_mtime_ns

    def lock(self, path: Path) -> OsFile:
        """Hold the file alone; the kernel releases it when the process ends."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise
        return OsFile(descriptor)
