"""``share:/FOLDER/FILE``: a value in a file on NFS 4, or another file system that all nodes mount.

The file, in blocks of 4096 bytes: a header {magic, counter of the newest whole value, crc}, then
two slots {magic, counter, length, nonce, crc of all and of the value; value}. Value n is in slot
n mod 2, so a new value never overwrites the newest one. A put, under the lock: slot, fsync, header,
fsync, read back. A get, under the same lock: the newest slot; if the header does not know it yet,
its writer died in between, and the reader completes the put before he returns the value: whoever
saw it sees it again.

A broken slot is a torn write and does not count, unless the header says that it was whole once:
then the value is lost, and falling back to the one before would forget a promise.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from google_crc32c import value as crc32c

from leitwolf.model.errors import WitnessError
from leitwolf.model.limits import CAS_BYTES_MAX
from leitwolf.model.location import ShareLocation
from leitwolf.ports.witness import Versioned
from leitwolf.witness.shared_file import BLOCK_BYTES, SharedFile, open_folder, sync_folder

__all__ = ["ShareCas"]

T = TypeVar("T")

_MAGIC = b"LWSHARE1"
_HEADER = struct.Struct(">8sQ")
_SLOT = struct.Struct(">8sQI16s")
_CRC = struct.Struct(">I")
_SLOT_BYTES = BLOCK_BYTES + CAS_BYTES_MAX
_VALUE_OFFSET = _SLOT.size + _CRC.size


class _Slot(NamedTuple):
    """A whole value."""

    counter: int
    nonce: bytes
    data: bytes

    @property
    def version(self) -> str:
        return f"{self.counter}-{self.nonce.hex()}"

    def encode(self) -> bytes:
        head = _SLOT.pack(_MAGIC, self.counter, len(self.data), self.nonce)
        return head + _CRC.pack(crc32c(head + self.data)) + self.data


def _offset(counter: int) -> int:
    return BLOCK_BYTES + counter % 2 * _SLOT_BYTES


class ShareCas:
    """A value in a file that several machines share.

    Its calls block as long as the mount does: see :class:`leitwolf.witness.bounded.Bounded`.

    Args:
        location: where.
        timeout_s: seconds to wait for the lock.
    """

    def __init__(self, location: ShareLocation, *, timeout_s: float) -> None:
        self._path = Path(location.path)
        self._local = location.local
        self._timeout_s = timeout_s

    def get(self) -> Versioned | None:
        """Return the newest value; completes the put of a writer who died."""

        def step(file: SharedFile) -> Versioned | None:
            slot = self._newest(file)
            return None if slot is None else Versioned(data=slot.data, version=slot.version)

        return self._locked(step, create=False, missing=None)

    def put(self, data: bytes, expected: str | None) -> str | None:
        """Replace the value if its version still is ``expected``."""
        if len(data) > CAS_BYTES_MAX:
            raise WitnessError(f"{len(data)} bytes, a value has at most {CAS_BYTES_MAX}")

        def step(file: SharedFile) -> str | None:
            slot = self._newest(file)
            if expected != (None if slot is None else slot.version):
                return None
            new = _Slot((slot.counter if slot else 0) + 1, os.urandom(16), data)
            self._write(file, new)
            return new.version

        return self._locked(step, create=expected is None, missing=None)

    def remove(self) -> None:
        """Remove the file."""

        def step(_: SharedFile) -> None:
            self._path.unlink(missing_ok=True)

        self._locked(step, create=False, missing=None)

    def close(self) -> None:
        """Nothing is kept open between calls: that is what keeps reads fresh."""

    def _locked(self, step: Callable[[SharedFile], T], *, create: bool, missing: T) -> T:
        deadline = time.monotonic() + self._timeout_s
        folder = open_folder(self._path, local=self._local)
        try:
            with SharedFile(self._path, folder, create=create, deadline=deadline) as file:
                if create:
                    sync_folder(folder)
                return step(file)
        except FileNotFoundError:
            return missing
        except OSError as error:
            denied = isinstance(error, PermissionError)
            raise WitnessError(
                f"share:{self._path}: {error.strerror}",
                code="witness-denied" if denied else "witness-unreachable",
            ) from error
        finally:
            os.close(folder)

    def _newest(self, file: SharedFile) -> _Slot | None:
        """Return the newest value that counts, durable; None: there never was one."""
        head = file.read(0, BLOCK_BYTES)
        slots = [self._slot(file, number) for number in (0, 1)]
        whole = [slot for slot in slots if isinstance(slot, _Slot)]
        newest = max(whole, default=None)
        counter = self._header(head)
        if counter is not None and newest is not None and newest.counter == counter:
            return newest
        if counter == 0 and newest is None:
            return None
        # A header that is torn itself was written behind two slots that were whole.
        torn = counter is None and len(whole) + slots.count(False) == 2
        begun = counter is not None and newest is not None and newest.counter == counter + 1
        if newest is None or not (torn or begun):
            raise WitnessError(
                f"share:{self._path}: the newest value is damaged",
                code="witness-damaged",
                hint="what it held is lost: remove the file, then: leitwolf quorum replace",
            )
        self._write(file, newest)
        return newest

    def _header(self, head: bytes) -> int | None:
        """Return the counter that the header names, 0: nothing written yet, None: it is torn."""
        if not any(head):
            return 0
        magic, counter = _HEADER.unpack_from(head)
        if magic not in {_MAGIC, bytes(len(_MAGIC))}:
            raise WitnessError(
                f"share:{self._path} is a file of something else",
                code="witness-foreign",
                hint="name a file that does not exist yet",
            )
        (crc,) = _CRC.unpack_from(head, _HEADER.size)
        return int(counter) if crc == crc32c(head[: _HEADER.size]) else None

    def _slot(self, file: SharedFile, number: int) -> _Slot | bool:
        """Return a slot's value; False: it was never written, True: it is broken."""
        data = file.read(_offset(number), BLOCK_BYTES)
        if not any(data):
            return False
        magic, counter, length, nonce = _SLOT.unpack_from(data)
        if magic != _MAGIC or length > CAS_BYTES_MAX or counter % 2 != number:
            return True
        if _VALUE_OFFSET + length > BLOCK_BYTES:
            data = file.read(_offset(number), _VALUE_OFFSET + length)
        value = data[_VALUE_OFFSET : _VALUE_OFFSET + length]
        (crc,) = _CRC.unpack_from(data, _SLOT.size)
        if crc != crc32c(data[: _SLOT.size] + value):
            return True
        return _Slot(counter, nonce, value)

    def _write(self, file: SharedFile, slot: _Slot) -> None:
        """Write a value and make it count; each step durable before the next begins."""
        file.write(_offset(slot.counter), slot.encode())
        file.sync()
        head = _HEADER.pack(_MAGIC, slot.counter)
        file.write(0, head + _CRC.pack(crc32c(head)))
        file.sync()
        if self._slot(file, slot.counter % 2) != slot:
            raise WitnessError(
                f"share:{self._path}: another machine wrote in spite of the lock",
                code="witness-unfit",
                hint="NFS 4, with locks that the server enforces",
            )
