"""What a node writes down without a quorum: lease over, stopped, killed. A bounded ring of lines.

A line survives the death of every process at once, and a power loss once the kernel wrote it back.
Nothing here waits for the disk: no sync is ever called, the file is allocated when it is made, and
one line is one write into the page cache. The oldest line gives way to the newest.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from google_crc32c import extend as crc32c_extend

from leitwolf.model.errors import StorageError
from leitwolf.ports.files import FileSystem
from leitwolf.store.files import OsFileSystem

__all__ = ["LINE_BYTES_MAX", "LocalLine", "LocalRecorder"]

_SLOT_BYTES = 256
_SLOTS = 512
_SLOT = struct.Struct("<IQqH")
LINE_BYTES_MAX = _SLOT_BYTES - _SLOT.size
"""Longer lines are cut: they are told to people, not parsed."""
_CUT = "…"
_OS_FILES = OsFileSystem()


class LocalLine(NamedTuple):
    """One line; ``serial`` grows by one per line for the life of the file."""

    serial: int
    at_wall_ns: int
    text: str


class LocalRecorder:
    """A bounded ring file of lines.

    Args:
        path: the file; made when it is not there, made anew when its length is wrong.
        files: the file system.

    Raises:
        StorageError: ``storage-io``, also from every method.
    """

    def __init__(self, path: Path, files: FileSystem = _OS_FILES) -> None:
        self._path = path
        self._files = files
        try:
            self._file = files.open(path, create=path.name not in files.names(path.parent))
            if self._file.size() != _SLOT_BYTES * _SLOTS:
                self._file.close()
                self._file = files.open(path, create=True)
                self._file.write(0, bytes(_SLOT_BYTES * _SLOTS))
            self._serial = max((line.serial for line in self.read()), default=0)
        except OSError as error:
            raise self._failure(error) from error

    def append(self, at_wall_ns: int, text: str) -> None:
        """Write a line; ``at_wall_ns`` is UTC in nanoseconds, for people only."""
        data = text.encode()
        if len(data) > LINE_BYTES_MAX:
            room = LINE_BYTES_MAX - len(_CUT.encode())
            data = (data[:room].decode(errors="ignore") + _CUT).encode()
        serial = self._serial + 1
        content = _SLOT.pack(0, serial, at_wall_ns, len(data))[4:] + data
        slot = crc32c_extend(0, content).to_bytes(4, "little") + content
        try:
            self._file.write(serial % _SLOTS * _SLOT_BYTES, slot.ljust(_SLOT_BYTES, b"\0"))
        except OSError as error:
            raise self._failure(error) from error
        self._serial = serial

    def read(self) -> list[LocalLine]:
        """Return the lines that are there, oldest first; what a crash tore is left out."""
        try:
            data = self._file.read(0, _SLOT_BYTES * _SLOTS)
        except OSError as error:
            raise self._failure(error) from error
        lines = []
        for offset in range(0, len(data) - _SLOT_BYTES + 1, _SLOT_BYTES):
            crc, serial, at_wall_ns, length = _SLOT.unpack_from(data, offset)
            start = offset + _SLOT.size
            if length > LINE_BYTES_MAX or serial == 0:
                continue
            if crc32c_extend(0, data[offset + 4 : start + length]) == crc:
                text = data[start : start + length].decode(errors="replace")
                lines.append(LocalLine(serial, at_wall_ns, text))
        return sorted(lines)

    def clear(self, up_to: int | None = None) -> None:
        """Forget the lines up to serial ``up_to`` (None: all), after they went into the log."""
        for line in self.read():
            if up_to is None or line.serial <= up_to:
                try:
                    self._file.write(line.serial % _SLOTS * _SLOT_BYTES, bytes(_SLOT_BYTES))
                except OSError as error:
                    raise self._failure(error) from error

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _failure(self, error: OSError) -> StorageError:
        return StorageError(f"Local recorder {self._path}: {error}.", code="storage-io")
