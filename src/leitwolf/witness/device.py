"""Devices that hold a shared disk: block devices and files by O_DIRECT; iSCSI by a library.

Every write is durable when it returns, and no cache of this machine is between: a read shows what
other machines wrote.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from leitwolf.model.errors import WitnessError
from leitwolf.witness.layout import UNIT_BYTES
from leitwolf.witness.mounts import check_mount, find_mount
from leitwolf.witness.reservations import Admit, Control, KernelReservations, key_of

__all__ = ["Device", "DirectFile", "open_device"]

_BUFFER_BYTES = 1 << 20
_MEMORY_FILE_SYSTEMS = {"tmpfs", "ramfs", "devtmpfs"}
_FLOCK = "hhqqi0q"
"""struct flock: type, whence, start, length, pid."""

_LOCKS_OFFSET = 1 << 62
"""Where locks of blocks begin: behind all data. SMB servers refuse reads of what another machine
has locked, and every node reads the blocks of all."""

_CODES = {
    errno.EACCES: "witness-denied",
    errno.EPERM: "witness-denied",
    errno.EROFS: "witness-denied",
    errno.EINVAL: "witness-unfit",
    errno.EOPNOTSUPP: "witness-unfit",
    errno.EBADE: "witness-fenced",  # what the kernel makes of a reservation conflict
}
"""Everything else means that the device does not answer."""


class Device(Protocol):
    """A device, opened. Offsets and lengths are multiples of 4096. Used by one thread at a time.

    Failures are :class:`leitwolf.model.errors.WitnessError`.
    """

    @property
    def size(self) -> int:
        """Length in bytes."""
        ...

    @property
    def unfenced(self) -> str:
        """Why it cannot keep a node from writing, '': it can. Known when it is claimed."""
        ...

    def claim(self, cluster: str, node: int, offset: int, admit: Admit) -> None:
        """Make sure that no other process writes as this node, and no other cluster.

        Args:
            cluster: UUID of the cluster.
            node: the own number.
            offset: of the node's block; nobody else writes it.
            admit: see :data:`leitwolf.witness.reservations.Admit`.
        """
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from the device itself."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data``; it is durable when this returns. Not retried."""
        ...

    def fence(self, nodes: tuple[int, ...]) -> None:
        """Take the right to write from other nodes; only where :attr:`unfenced` is ''."""
        ...

    def close(self) -> None:
        """Release the device; a second call does nothing."""
        ...


class DirectFile:
    """A block device or regular file, past the page cache (O_DIRECT, O_DSYNC)."""

    def __init__(
        self,
        path: Path,
        *,
        write: bool = True,
        exclusive: bool = False,
        control: Control = fcntl.ioctl,
    ) -> None:
        """Open it.

        Args:
            path: of a block device or regular file.
            write: else read-only.
            exclusive: refuse a block device that is mounted or part of something (LVM, RAID).
            control: the system call for reservations.

        Raises:
            WitnessError: it cannot be opened, or gives no direct and durable access.
        """
        self._path = path
        self._fd = -1
        flags = os.O_CLOEXEC | os.O_DIRECT | ((os.O_RDWR | os.O_DSYNC) if write else os.O_RDONLY)
        with self._explained("open"):
            block = stat.S_ISBLK(path.stat().st_mode)
            if not block:
                self._refuse_unfit(write=write)
            elif exclusive:
                flags |= os.O_EXCL
            self._fd = os.open(path, flags)
            self._size = os.lseek(self._fd, 0, os.SEEK_END)
        self._block = block
        self._claimed: tuple[str, int] | None = None
        self._reservations = KernelReservations(self._fd, str(path), control)
        self._unfenced = self._reservations.lacking() if block else "a file has no reservations"
        self._buffer = mmap.mmap(-1, _BUFFER_BYTES)
        self._view = memoryview(self._buffer)

    def _refuse_unfit(self, *, write: bool) -> None:
        """Refuse what is no file, or a file on whose writes or locks nobody can rely."""
        place = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        try:
            regular, mount = stat.S_ISREG(os.fstat(place).st_mode), find_mount(place)
        finally:
            os.close(place)
        if not regular:
            raise WitnessError(
                f"{self._path} is neither a block device nor a file", code="witness-unfit"
            )
        if mount is not None and mount.kind in _MEMORY_FILE_SYSTEMS:
            raise WitnessError(
                f"{self._path} is in memory ({mount.kind}): nothing there survives a crash",
                code="witness-unfit",
                hint="use a block device, or a file on a disk or share",
            )
        if mount is not None and write:
            # Who brings it in refuses what is local.
            check_mount(mount, str(self._path), local=True, disk=True)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            code = _CODES.get(error.errno or 0, "witness-unreachable")
            hint = ""
            if error.errno == errno.EINVAL:
                hint = "the file system or device has no direct I/O (O_DIRECT) in units of 4096"
            elif error.errno == errno.EBUSY:
                hint = "it is mounted, or part of LVM, RAID or device-mapper"
            raise WitnessError(
                f"cannot {what} {self._path}: {error.strerror}", code=code, hint=hint
            ) from error

    @property
    def path(self) -> Path:
        """By which it was opened."""
        return self._path

    @property
    def is_file(self) -> bool:
        """It is no block device: only locks keep two processes apart."""
        return not self._block

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    @property
    def unfenced(self) -> str:
        """Why it cannot keep a node from writing, '': it can."""
        return self._unfenced

    def claim(self, cluster: str, node: int, offset: int, admit: Admit) -> None:
        """Lock what stands for the node's block; register its key where there are reservations.

        The kernel frees the lock when the process ends.

        Raises:
            WitnessError: ``witness-denied``, another process holds it; what ``admit`` raises.
        """
        start = _LOCKS_OFFSET + offset
        lock = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, UNIT_BYTES, 0)
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, lock)
        except OSError as error:
            raise WitnessError(
                f"{self._path} is used by another process as node {node} ({error.strerror})",
                code="witness-denied",
                hint="a write of it may still be on its way; end it first",
            ) from error
        if self._unfenced:
            admit()
            return
        with self._explained("reserve"):
            self._unfenced = self._reservations.claim(key_of(cluster, node), admit)
        self._claimed = cluster, node

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from the device itself."""
        parts = []
        with self._explained("read"):
            for start in range(offset, offset + length, _BUFFER_BYTES):
                with self._view[: min(_BUFFER_BYTES, offset + length - start)] as part:
                    if os.preadv(self._fd, [part], start) != len(part):
                        raise OSError(errno.EIO, "it is shorter than it was")
                    parts.append(bytes(part))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data``; it is durable when this returns."""
        with self._explained("write"):
            for start in range(0, len(data), _BUFFER_BYTES):
                with self._view[: min(_BUFFER_BYTES, len(data) - start)] as part:
                    part[:] = data[start : start + len(part)]
                    if os.pwrite(self._fd, part, offset + start) != len(part):
                        raise OSError(errno.EIO, "it took only a part of the data")

    def fence(self, nodes: tuple[int, ...]) -> None:
        """Remove the keys of nodes: from now on the device refuses their writes.

        Raises:
            WitnessError: ``witness-fenced``, this node was fenced itself.
        """
        if self._claimed is None:
            raise WitnessError(f"{self._path} was not claimed", code="witness-denied")
        cluster, own = self._claimed
        with self._explained("fence on"):
            for node in nodes:
                self._reservations.fence(key_of(cluster, own), key_of(cluster, node))

    def close(self) -> None:
        """Release file and buffer."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._view.release()
            self._buffer.close()


def open_device(
    location: str, *, timeout_s: float, write: bool = True, exclusive: bool = False
) -> Device:
    """Open the device that a location names.

    Args:
        location: path of a block device or file, or ``iscsi://portal[:port]/target/lun``.
        timeout_s: limit of one command where the device has such (iSCSI).
        write: else read-only.
        exclusive: refuse a block device that something else uses.

    Raises:
        WitnessError: there is no such device, or it is unfit.
    """
    if location.startswith("iscsi:"):
        from leitwolf.witness.iscsi import IscsiDevice  # noqa: PLC0415 — needs a C library

        return IscsiDevice(location, timeout_s=timeout_s)
    return DirectFile(Path(location), write=write, exclusive=exclusive)
