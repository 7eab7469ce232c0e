"""The guard's page on a tmpfs: one writer, any number of readers, survives its writer.

Rules

- The first 8 bytes are the sequence: odd while a write is under way. The page is kept twice; the
  sequence says which copy is valid, and a write goes to the other one. So a writer that is killed
  or frozen in the middle of a write leaves the page before it valid and whole: what that write was
  to make true (an acknowledgement, say) has not happened yet.
- A reader takes the sequence, the valid copy and the sequence again, and reads once more when it
  moved by more than one write. The CRC of the page tells what is left: a foreign file, or memory
  that is seen out of order.

Standard library only: the guard imports this module.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

from leitwolf.system import clock
from leitwolf.wire.page import PAGE_BYTES, LeasePage, pack_page, unpack_page
from leitwolf.wire.permit import believed

__all__ = ["NotVolatile", "PageReader", "PageWriter", "map_page", "require_volatile"]

_COPY_AT = (64, 2_048)
_COPY_BYTES = PAGE_BYTES - _COPY_AT[1]
_READS_MAX = 64
_TMPFS_MAGIC = 0x01021994
_RAMFS_MAGIC = 0x858458F6
_STATFS_BYTES = 256
"""struct statfs has 120 bytes on 64 bit machines; f_type is its first word."""


class NotVolatile(OSError):
    """The runtime directory is on a disk: what it holds would survive a boot and block on I/O."""

    code = "runtime-not-volatile"


def require_volatile(folder: Path) -> None:
    """Check that a folder is on a tmpfs.

    Raises:
        NotVolatile: it is not; the text says what to do.
        OSError: it cannot be examined.
    """
    library = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if library.statfs(os.fsencode(folder), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(folder))
    kind = ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF
    if kind not in (_TMPFS_MAGIC, _RAMFS_MAGIC):
        raise NotVolatile(
            f"'{folder}' is not on a tmpfs (file system type {kind:#x}): choose another with "
            "--runtime, mount a tmpfs there, or allow it: LEITWOLF_VOLATILE=no"
        )


def map_page(path: Path, *, writable: bool) -> mmap.mmap | None:
    """Map a file of one page, shared; made if it is to be written.

    Returns:
        None: to be read only, and not there or too short.

    Raises:
        OSError: the file cannot be opened or made.
    """
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY)
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        if writable:
            # Backed with memory now: a full tmpfs must not raise SIGBUS at the first write.
            os.posix_fallocate(descriptor, 0, PAGE_BYTES)
        elif os.fstat(descriptor).st_size < PAGE_BYTES:
            return None
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        return mmap.mmap(descriptor, PAGE_BYTES, mmap.MAP_SHARED, access)
    finally:
        os.close(descriptor)


class PageWriter:
    """The page as the guard writes it; the file is made if it is not there.

    Args:
        path: the file, on a tmpfs.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        page = map_page(path, writable=True)
        if page is None:
            raise FileNotFoundError(path)
        self._map = page
        self._view = memoryview(page)
        # One store of 8 bytes; struct would write byte by byte.
        self._sequence = self._view[:8].cast("Q")
        if self._sequence[0] & 1:
            # The former writer died in a write: back to the copy before it.
            self._sequence[0] -= 1

    def read(self, boot_id: bytes) -> LeasePage | None:
        """Return what the former writer left, None when that is no page of this boot."""
        at = _COPY_AT[self._sequence[0] >> 1 & 1]
        return unpack_page(bytes(self._view[at : at + _COPY_BYTES]), boot_id)

    def write(self, page: LeasePage) -> None:
        """Write the page; it is the valid one when this returns."""
        body = pack_page(page)
        sequence = self._sequence[0]
        at = _COPY_AT[(sequence + 2) >> 1 & 1]
        self._sequence[0] = sequence + 1
        self._view[at : at + len(body)] = body
        self._sequence[0] = sequence + 2

    def close(self) -> None:
        """Unmap; the page stays."""
        self._sequence.release()
        self._view.release()
        self._map.close()


class PageReader:
    """The page as everybody else reads it; tolerates that the file is made or replaced later.

    Args:
        path: the file.
        boot_id: of this boot; None: read from the kernel.
    """

    def __init__(self, path: Path, boot_id: bytes | None = None) -> None:
        self._path = path
        self._name = str(path)
        self._boot_id = clock.boot_id() if boot_id is None else boot_id
        self._map: mmap.mmap | None = None
        self._identity: tuple[int, int] = (0, 0)
        self._known: tuple[int, LeasePage] | None = None
        """Sequence and page of the last reading: of the same sequence there is only one page."""

    def read(self) -> LeasePage | None:
        """Return the page, None when there is none of this boot.

        Raises:
            OSError: the file is there and cannot be opened.
        """
        page = self._current()
        if page is None:
            return None
        view = memoryview(page)
        sequences = view[:8].cast("Q")
        try:
            for _ in range(_READS_MAX):
                before = sequences[0]
                if self._known is not None and self._known[0] == before:
                    return self._known[1]
                at = _COPY_AT[before >> 1 & 1]
                body = bytes(view[at : at + _COPY_BYTES])
                # The valid copy is written again only by the write after the next.
                if sequences[0] - (before & ~1) >= 3:
                    continue
                found = unpack_page(body, self._boot_id)
                if found is not None:
                    self._known = (before, found)
                    return found
            return None
        finally:
            sequences.release()
            view.release()

    def believed(self) -> LeasePage | None:
        """Return the page without leases of before a sleep of the machine (L1), None as above.

        Raises:
            OSError: the file is there and cannot be opened.
        """
        found = self.read()
        return None if found is None else believed(found, clock.now())

    def close(self) -> None:
        """Unmap."""
        if self._map is not None:
            self._map.close()
            self._map = self._known = None

    def _current(self) -> mmap.mmap | None:
        """Return the mapping of the file that has this name now."""
        try:
            status = os.stat(self._name)  # noqa: PTH116  # read for every event of the daemon
        except FileNotFoundError:
            self.close()
            return None
        if status.st_size < PAGE_BYTES:  # access would raise SIGBUS
            self.close()
            return None
        identity = (status.st_dev, status.st_ino)
        if self._map is None or identity != self._identity:
            self.close()
            self._map = map_page(self._path, writable=False)
            self._identity = identity
        return self._map
