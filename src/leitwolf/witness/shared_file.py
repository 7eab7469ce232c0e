"""A file under a lock, read and written past the caches of this machine.

The lock is a byte-range lock of the open file (OFD): that is what NFS carries to the server. flock
is not. It is held by the very file that is written: NFS 4 servers refuse writes of a machine whose
lock they took away, and Linux does not take it again by itself.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from leitwolf.model.errors import WitnessError
from leitwolf.witness.mounts import check_lock_loss, check_mount, find_mount

__all__ = ["BLOCK_BYTES", "SharedFile", "open_folder", "sync_folder"]

BLOCK_BYTES = 4_096
"""Unit of reads and writes, for O_DIRECT."""

_WHOLE_FILE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EINTR)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_PAUSE_S_MIN = 0.002
_PAUSE_S_MAX = 0.05


def open_folder(path: Path, *, local: bool) -> int:
    """Open the folder of a file and check that its file system is shared.

    Raises:
        WitnessError: it is not there (``witness-unreachable``), or unfit.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        denied = error.errno in {errno.EACCES, errno.EPERM}
        raise WitnessError(
            f"share:{path}: cannot open {path.parent}: {error.strerror}",
            code="witness-denied" if denied else "witness-unreachable",
            hint="is it mounted, and may root of this machine use it?",
        ) from error
    try:
        mount = find_mount(folder)
        if mount is not None:
            check_lock_loss(mount, str(path))  # first: no option of such a mount helps
            check_mount(mount, str(path), local=local, disk=False)
    except BaseException:
        os.close(folder)
        raise
    return folder


def sync_folder(folder: int) -> None:
    """Make the names in an open folder durable; shares that cannot do so on request do it anyway.

    Raises:
        OSError: it failed.
    """
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise


class SharedFile:
    """The file, opened anew and locked by this object alone. A context manager.

    Raises:
        OSError: it cannot be opened; FileNotFoundError: there is none and ``create`` is false.
        WitnessError: somebody else held the lock until ``deadline``, or there are no locks.
    """

    def __init__(self, path: Path, folder: int, *, create: bool, deadline: float) -> None:
        self._path = path
        while True:
            self._descriptor = _open(path.name, folder, create=create)
            try:
                self._lock(deadline)
                present = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
                if os.path.samestat(present, os.fstat(self._descriptor)):
                    return
            except FileNotFoundError:
                pass
            except BaseException:
                self.close()
                raise
            self.close()  # removed, or replaced, while this one waited for its lock
            if time.monotonic() > deadline:
                raise WitnessError(
                    f"share:{path}: is replaced all the time", code="witness-unreachable"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _lock(self, deadline: float) -> None:
        pause_s = _PAUSE_S_MIN
        while True:
            try:
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _WHOLE_FILE)
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    raise WitnessError(
                        f"share:{self._path}: no byte-range locks: {error.strerror}",
                        code="witness-unfit",
                        hint="NFS 4 with locks; the server may have them switched off",
                    ) from error
                if error.errno not in _TAKEN:
                    raise
            else:
                return
            if time.monotonic() + pause_s > deadline:
                raise WitnessError(
                    f"share:{self._path}: another machine holds its lock",
                    code="witness-unreachable",
                    hint="a machine that died keeps it until the server gives up on it",
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S_MAX)

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes (rounded up to blocks); zeros stand for what is not there."""
        size = -(-length // BLOCK_BYTES) * BLOCK_BYTES
        with mmap.mmap(-1, size) as buffer:  # page-aligned, as O_DIRECT demands
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_DONTNEED)
            done = 0
            while done < size:
                with memoryview(buffer) as whole, whole[done:] as rest:
                    step = os.preadv(self._descriptor, [rest], offset + done)
                done += step
                if step == 0 or step % BLOCK_BYTES:  # the end of the file
                    break
            return buffer[:]

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data``, filled up with zeros to whole blocks."""
        size = -(-len(data) // BLOCK_BYTES) * BLOCK_BYTES
        with mmap.mmap(-1, size) as buffer:
            buffer[: len(data)] = data
            done = 0
            while done < size:
                with memoryview(buffer) as whole, whole[done:] as rest:
                    step = os.pwritev(self._descriptor, [rest], offset + done)
                if step == 0:
                    raise OSError(errno.EIO, "the share takes no more bytes")
                done += step

    def sync(self) -> None:
        """Make what was written durable on the server."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file, which releases the lock; a second call does nothing."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def _open(name: str, folder: int, *, create: bool) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    try:
        return os.open(name, flags | os.O_DIRECT, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # no O_DIRECT here: reads rely on open and lock
            raise
    return os.open(name, flags, 0o600, dir_fd=folder)
