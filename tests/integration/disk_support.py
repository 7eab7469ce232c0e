"""Quorum disks that all nodes of a world share, and that can be lost and come back whole."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from lab.disk import DISK_BYTES, shared_disk
from lab.world import CLIENT, World
from tests.integration.target_support import Target

__all__ = ["Disk", "Loop", "San", "loop", "san"]

_MEMORY = Path("/dev/shm")
_PORT = 3260
_SET_STATUS64, _GET_STATUS64 = 0x4C04, 0x4C05
_STATUS_BYTES, _LIMIT_OFFSET = 232, 32
"""struct loop_info64 and its lo_sizelimit."""


class Disk(Protocol):
    """A disk, formatted by nobody yet."""

    @property
    def location(self) -> str:
        """As ``leitwolf quorum set disk`` takes it."""
        ...

    def lose(self) -> None:
        """From now on every read and write fails."""
        ...

    def find(self) -> None:
        """It is back, with all that stood there."""
        ...

    def clear(self) -> None:
        """No cluster uses it any more: forget who has registered (``sg_persist --clear``)."""
        ...


class Loop:
    """A loop device; it is lost by making it too short for what is wanted of it."""

    def __init__(self, device: Path) -> None:
        self._device = device

    @property
    def location(self) -> str:
        return str(self._device)

    def lose(self) -> None:
        self._limit(4096)

    def find(self) -> None:
        self._limit(0)

    def clear(self) -> None:
        pass  # a loop device has no reservations

    def _limit(self, size: int) -> None:
        descriptor = os.open(self._device, os.O_RDONLY)
        try:
            status = bytearray(fcntl.ioctl(descriptor, _GET_STATUS64, bytes(_STATUS_BYTES)))
            struct.pack_into("Q", status, _LIMIT_OFFSET, size)
            fcntl.ioctl(descriptor, _SET_STATUS64, bytes(status))
        finally:
            os.close(descriptor)


class San:
    """A LUN of a target on the clients' machine; it is lost by killing the target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lost = False

    @property
    def location(self) -> str:
        return self.target.location

    def lose(self) -> None:
        self.target.stop()
        self._lost = True

    def find(self) -> None:
        if self._lost:
            self.target.start()
        else:
            self.target.signal(signal.SIGCONT)  # a test that failed may have left it frozen
        self._lost = False

    def clear(self) -> None:
        self.target.stop()  # its registrations are in memory
        self.target.start()


@contextmanager
def loop(world: World, name: str = "quorum-disk") -> Iterator[Loop]:
    """Have a block device that every node sees."""
    with shared_disk(world, name) as device:
        yield Loop(device)


@contextmanager
def san(world: World) -> Iterator[San]:
    """Have a SAN on the clients' machine, its LUN in memory."""
    folder = world.folder / "san"
    folder.mkdir()
    enter = world.enter_network(CLIENT)
    lun = _MEMORY / f"leitwolf-{os.getpid()}.lun"
    target = Target(
        folder, DISK_BYTES, host=world.address(CLIENT), port=_PORT, enter=enter, lun=lun
    )
    try:
        target.start()
        yield San(target)
    finally:
        target.stop()
        lun.unlink()
