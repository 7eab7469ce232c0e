"""A disk that forgets what was not synced, tears it, fills up, fails and rots. Pure.

Theory of operation
    A file has durable sectors and, for every sector written since its last sync, all versions that
    it went through. :meth:`FaultyDisk.crash` keeps one version of each such sector, chosen by the
    caller's entropy: the durable one, the last, or any between, so unsynced writes are lost, torn
    and reordered, sector by sector. Names change in order; a crash keeps the unsynced changes up
    to some point, as a journalling file system does. A name survives with whatever of its file's
    content was synced.

    After a failed sync the file shows what was written, yet counts it as clean: the next sync
    succeeds and does not write it. That is what Linux does, and why a sync is never retried.

What this does not guarantee: a sector that is written in part (every disk writes sectors as a
whole, see :data:`leitwolf.ports.files.SECTOR_BYTES`), and names that change out of order.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from leitwolf.model.errors import check
from leitwolf.ports.files import SECTOR_BYTES

__all__ = ["DiskFile", "FaultyDisk", "PowerCut"]

Choose = Callable[[int], int]
"""Entropy: returns one of 0 .. n - 1."""


class PowerCut(BaseException):  # nobody may handle it as an error
    """The power failed in the middle of an operation; only :meth:`FaultyDisk.crash` helps."""


class _Inode:
    """A file's content: what programs see, what is durable, and what is between."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.durable = bytearray()
        self.versions: dict[int, list[bytes]] = {}
        self.modified_ns = 0
        self.unreadable: set[int] = set()

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if len(self.seen) < end:
            self.seen.extend(bytes(end - len(self.seen)))
        self.seen[offset:end] = data
        for sector in range(offset // SECTOR_BYTES, -(-end // SECTOR_BYTES)):
            start = sector * SECTOR_BYTES
            version = bytes(self.seen[start : start + SECTOR_BYTES])
            self.versions.setdefault(sector, []).append(version)

    def sync(self) -> None:
        for sector, versions in self.versions.items():
            self._settle(sector, versions[-1])
        self.versions.clear()

    def _settle(self, sector: int, version: bytes) -> None:
        start = sector * SECTOR_BYTES
        if len(self.durable) < start + len(version):
            self.durable.extend(bytes(start + len(version) - len(self.durable)))
        self.durable[start : start + len(version)] = version

    def forget(self) -> None:
        """What is unsynced counts as clean, though it never reached the disk."""
        self.versions.clear()

    def crash(self, choose: Choose) -> None:
        for sector, versions in sorted(self.versions.items()):
            choice = choose(len(versions) + 1)
            if choice:
                self._settle(sector, versions[choice - 1])
        self.seen = bytearray(self.durable)
        self.versions.clear()


class DiskFile:
    """An open file of a :class:`FaultyDisk`, see :class:`leitwolf.ports.files.File`."""

    def __init__(self, disk: FaultyDisk, inode: _Inode, generation: int, locked: str = "") -> None:
        self._disk = disk
        self._inode = inode
        self._generation = generation
        self._locked = locked

    def _alive(self) -> None:
        check(self._generation == self._disk.generation, "a file was used across a crash")

    def size(self) -> int:
        """Return the length in bytes."""
        self._alive()
        return len(self._inode.seen)

    def read(self, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset``; EIO where a sector is unreadable."""
        self._alive()
        sectors = range(offset // SECTOR_BYTES, -(-(offset + length) // SECTOR_BYTES))
        if any(sector in sectors for sector in self._inode.unreadable):
            raise OSError(errno.EIO, "sector is unreadable")
        return bytes(self._inode.seen[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Write; a power cut may come after any part of it."""
        self._alive()
        self._disk.need(offset + len(data) - len(self._inode.seen))
        if self._disk.step("write"):
            self._inode.write(offset, data)
            raise PowerCut
        self._inode.write(offset, data)
        self._disk.clock_ns += 1
        self._inode.modified_ns = self._disk.clock_ns

    def sync(self) -> None:
        """Make the content durable; a failure loses it for ever."""
        self._alive()
        try:
            if self._disk.step("sync"):
                raise PowerCut
        except OSError:
            self._inode.forget()
            raise
        self._inode.sync()

    def close(self) -> None:
        """Release the file, and its lock."""
        if self._locked:
            self._disk.unlock(self._locked)
            self._locked = ""


class FaultyDisk:
    """A file system in memory with the faults of real ones.

    Args:
        capacity: bytes that all files together may have.

    Attributes:
        fail: operation number -> errno: that operation fails.
        cut_at: number of the operation during which the power fails, -1: none.
        operations: how many operations were done: writes, syncs, and changes of names.
        trace: what they were.
    """

    def __init__(self, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.fail: dict[int, int] = {}
        self.cut_at = -1
        self.operations = 0
        self.trace: list[str] = []
        self.generation = 0
        self.clock_ns = 0
        self._names: dict[str, _Inode] = {}
        self._folders: set[str] = set()
        self._durable: dict[str, _Inode] = {}
        self._pending: list[dict[str, _Inode]] = []
        self._locks: set[str] = set()

    # --- faults ----------------------------------------------------------------------------------

    def step(self, what: str) -> bool:
        """Count an operation; return whether the power fails during it."""
        number = self.operations
        self.operations += 1
        self.trace.append(what)
        if number in self.fail:
            raise OSError(self.fail[number], f"operation {number} ({what}) fails")
        return number == self.cut_at

    def need(self, more: int) -> None:
        """Refuse to grow a file beyond the capacity."""
        used = sum(len(inode.seen) for inode in self._names.values())
        if more > 0 and used + more > self.capacity:
            raise OSError(errno.ENOSPC, "no space on the simulated disk")

    def crash(self, choose: Choose) -> None:
        """Lose power and come back: ``choose`` decides what of the unsynced state survived."""
        kept = choose(len(self._pending) + 1)
        self._names = dict(self._pending[kept - 1] if kept else self._durable)
        self._durable = dict(self._names)
        self._pending.clear()
        for inode in dict.fromkeys(self._names.values()):
            inode.crash(choose)
        self.kill()

    def kill(self) -> None:
        """The process dies, the machine lives: locks and open files go, contents stay."""
        self._locks.clear()
        self.generation += 1
        self.cut_at = -1
        self.fail.clear()

    def flip(self, path: Path, bit: int) -> None:
        """Rot: turn over one bit of a file, durable and seen."""
        inode = self._names[str(path)]
        for content in (inode.seen, inode.durable):
            if bit // 8 < len(content):
                content[bit // 8] ^= 1 << bit % 8

    def make_unreadable(self, path: Path, sector: int) -> None:
        """Rot: a sector gives EIO from now on."""
        self._names[str(path)].unreadable.add(sector)

    def content(self, path: Path) -> bytes:
        """Return what a program would read; counts as no operation."""
        return bytes(self._names[str(path)].seen)

    # --- the file system -------------------------------------------------------------------------

    def _change(self, names: dict[str, _Inode], what: str) -> None:
        cut = self.step(what)
        self._names = names
        self._pending.append(names)
        if cut:
            raise PowerCut

    def make_folder(self, path: Path) -> None:
        """Create folders; they are durable at once."""
        self._folders.add(str(path))

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder."""
        start = f"{folder}/"
        return sorted(
            {name[len(start) :].split("/")[0] for name in self._names if name.startswith(start)}
        )

    def open(self, path: Path, *, create: bool = False, write: bool = True) -> DiskFile:
        """Open a file; ``create`` gives the name a new and empty one."""
        key = str(path)
        check(write or not create, "a file made to be read only")
        if create:
            inode = _Inode()
            self._change({**self._names, key: inode}, f"create {path.name}")
        elif key not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", key)
        return DiskFile(self, self._names[key], self.generation)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file, or a folder with everything in it."""
        old, new = str(source), str(target)
        moved = {
            (new + name[len(old) :] if name == old or name.startswith(f"{old}/") else name): inode
            for name, inode in self._names.items()
            if name != new
        }
        if moved.keys() == self._names.keys():
            raise FileNotFoundError(errno.ENOENT, "no such file", old)
        self._change(moved, f"rename {source.name} {target.name}")

    def remove(self, path: Path) -> None:
        """Remove a name."""
        key = str(path)
        if key not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", key)
        names = {name: inode for name, inode in self._names.items() if name != key}
        self._change(names, f"remove {path.name}")

    def sync_folder(self, path: Path) -> None:
        """Make all changes of names durable (a journal is flushed as a whole)."""
        if self.step(f"sync folder {path.name}"):
            raise PowerCut
        self._durable = dict(self._names)
        self._pending.clear()

    def modified_ns(self, path: Path) -> int:
        """Return a counter that grows with every write."""
        return self._names[str(path)].modified_ns

    def lock(self, path: Path) -> DiskFile:
        """Hold a lock until it is closed or the process dies."""
        key = str(path)
        if key in self._locks:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked", key)
        self._locks.add(key)
        return DiskFile(self, _Inode(), self.generation, key)

    def unlock(self, key: str) -> None:
        """Give a lock back."""
        self._locks.discard(key)
