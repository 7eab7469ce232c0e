"""Is a file fit to be a shared disk? Asked before it votes, on a scratch file beside it.

Two processes open it as two nodes would: past all caches, with the lock of a node's block. What
one wrote the other must read at once, and the lock of one must keep the other out. The mount must
be one that other machines see.

A disk in use is tried by each node in its own place (:func:`try_place`): that needs no room and no
right to make files, leaves nothing behind, and takes a few reads and writes only, for an owner may
have to renew meanwhile. So the second opening is in the same process there: past the page cache,
and with locks of openings (OFD), that makes no difference.

What this does not guarantee: that another machine sees the same. Every node looks by itself whether
it finds the disk there (``leitwolf quorum status``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from leitwolf.model.errors import WitnessError
from leitwolf.witness.device import Device, DirectFile
from leitwolf.witness.layout import UNIT_BYTES
from leitwolf.witness.mounts import Mount, check_mount, find_mount
from leitwolf.witness.otherprocess import OtherProcess
from leitwolf.witness.selftest import Check, SelfTestReport

__all__ = ["Place", "try_file", "try_place"]

_UNITS = 16
_ROUNDS = 8
_PLACE_ROUNDS = 2


class Place:
    """The scratch file, as one node has it open."""

    def __init__(self, path: str) -> None:
        self._device = DirectFile(Path(path))

    def read(self, offset: int) -> bytes:
        """Return the unit at ``offset``."""
        return self._device.read(offset, UNIT_BYTES)

    def write(self, offset: int, data: bytes) -> None:
        """Write a unit."""
        self._device.write(offset, data)

    def claims(self, offset: int) -> bool:
        """Take the lock of the unit at ``offset``; False: somebody else has it."""
        return _claims(self._device, offset)

    def close(self) -> None:
        """Close the file."""
        self._device.close()


def _claims(file: DirectFile, offset: int) -> bool:
    try:
        file.claim("", 1, offset, lambda: None)
    except WitnessError as error:
        if error.code == "witness-denied":
            return False
        raise
    return True


def try_file(path: Path, *, local: bool) -> SelfTestReport:
    """Try the place of a file, with a scratch file beside it.

    Args:
        path: of the file that is to be the shared disk.
        local: a file system of one machine is allowed.

    Raises:
        WitnessError: ``witness-unfit``, the mount cannot be relied on; else nothing can be made
            there.
    """
    scratch = path.with_name(f".{path.name}.selftest-{os.urandom(8).hex()}")
    with _scratch(scratch, local=local), contextlib.ExitStack() as stack:
        first = Place(str(scratch))
        stack.callback(first.close)
        second = OtherProcess(Place, str(scratch))
        stack.callback(second.close)
        checks: list[Check] = []
        for name, wrong, right in (
            ("fresh reads", _fresh(first, second), "each process reads at once what either wrote"),
            ("locks", _locked(first, second), "the lock of one process keeps the other out"),
        ):
            checks.append(Check(name=name, ok=not wrong, found=wrong or right))
        return SelfTestReport(ok=all(check.ok for check in checks), checks=tuple(checks))


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WitnessError(
            f"cannot make {path} for the self-test: {error.strerror}", code="witness-denied"
        ) from error


def _fill(descriptor: int) -> Mount | None:
    """Give the scratch file its size, close it; return on what it is."""
    try:
        os.posix_fallocate(descriptor, 0, _UNITS * UNIT_BYTES)
        os.fsync(descriptor)
        return find_mount(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _scratch(path: Path, *, local: bool) -> Iterator[None]:
    with _explained(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with _explained(path):
            mount = _fill(descriptor)
        if mount is not None:
            check_mount(mount, str(path.parent), local=local, disk=True)
        yield
    finally:
        path.unlink(missing_ok=True)


def _fresh(first: Place, second: OtherProcess) -> str:
    """Return what is wrong with reads, '': nothing."""
    for number in range(_ROUNDS):
        offset, data = number * UNIT_BYTES, os.urandom(UNIT_BYTES)
        if number % 2:
            second.call("write", offset, data)
            seen = first.read(offset)
        else:
            first.write(offset, data)
            seen = second.call("read", offset)
        if seen != data:
            return "another process reads an old value: reads are stale"
    return ""


def _locked(first: Place, second: OtherProcess) -> str:
    """Return what is wrong with locks, '': nothing."""
    if not first.claims(0):
        return "a lock that nobody holds is refused"
    if second.call("claims", 0):
        return "two processes hold the lock of one block"
    if not second.call("claims", UNIT_BYTES):
        return "the lock of one block keeps others from their own"
    return ""


def try_place(device: Device, *, needed: int, spare: int, claimed: int) -> SelfTestReport:
    """Try an opened disk in a unit that only this node uses, and that holds nothing now.

    Args:
        device: opened for writing, and claimed.
        needed: bytes that the disk must have.
        spare: offset of the unit.
        claimed: offset of the block for which the device was claimed.

    Raises:
        WitnessError: the device does not answer, or denies access.
    """
    size = device.size
    steps = [("size", "" if size >= needed else f"{size} bytes, its header says {needed}")]
    if size >= needed:
        with contextlib.ExitStack() as stack:
            other = None
            if isinstance(device, DirectFile):
                other = DirectFile(device.path, write=device.is_file)  # to write: for the locks
                stack.callback(other.close)
            steps.append(("fresh reads", _kept(device, other or device, spare)))
            if other is not None and other.is_file:
                steps.append(("locks", _kept_out(other, claimed, spare)))
    checks = tuple(Check(name=name, ok=not wrong, found=wrong or "well") for name, wrong in steps)
    return SelfTestReport(ok=all(check.ok for check in checks), checks=checks)


def _kept(device: Device, other: Device, spare: int) -> str:
    """Return what is wrong with reads behind writes, '': nothing."""
    other.read(spare, UNIT_BYTES)  # what caches would give again
    for _ in range(_PLACE_ROUNDS):
        data = os.urandom(UNIT_BYTES)
        device.write(spare, data)
        if device.read(spare, UNIT_BYTES) != data:
            return "what was written is not what is read"
        if other.read(spare, UNIT_BYTES) != data:
            return "another opening reads an old value: reads are stale"
    return ""


def _kept_out(other: DirectFile, claimed: int, spare: int) -> str:
    """Return what is wrong with locks, '': nothing."""
    if _claims(other, claimed):
        return "two openings hold the lock of one block"
    if not _claims(other, spare):
        return "a lock that nobody holds is refused"
    return ""
