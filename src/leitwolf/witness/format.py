"""Formatting of shared disks."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import msgspec

from leitwolf.model.errors import Conflict, WitnessError
from leitwolf.system.durable import sync_folder
from leitwolf.witness.device import Device, open_device
from leitwolf.witness.disk import read_header
from leitwolf.witness.inspect import demand_unwritten
from leitwolf.witness.layout import (
    HALF_BYTES,
    REGION_BYTES_DEFAULT,
    UNIT_BYTES,
    VERSION,
    Geometry,
    Header,
    encode_block,
    encode_header,
    unwritten,
)
from leitwolf.witness.signatures import INSPECTED_BYTES, what_stands

__all__ = ["Formatted", "format_disk", "stamp_anew", "write_structure"]

_CHUNK_BYTES = 4 << 20
_TIMEOUT_S = 30.0

Progress = Callable[[str], None]


class Formatted(msgspec.Struct, frozen=True, kw_only=True):
    """What formatting did."""

    location: str
    cluster: str
    disk: str
    """UUID of this formatting."""
    nodes_max: int
    region_bytes: int
    used_bytes: int
    found: str
    """What stood there before and is gone; '': nothing."""


def _silent(text: str) -> None:
    del text


def _make_file(path: Path, size: int, progress: Progress) -> None:
    """Make a file of zeros, every block of it written.

    Raises:
        WitnessError: it cannot be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            try:
                _fill(file, size, progress)
            except BaseException:  # interrupted, too: what is left is a device that is too small
                path.unlink()
                raise
        sync_folder(path.parent)
    except OSError as error:
        raise WitnessError(
            f"cannot make {path} of {size} bytes: {error.strerror}",
            code="witness-denied",
            hint="another folder, fewer nodes (--nodes), or smaller regions (--region)",
        ) from error


def _fill(file: BinaryIO, size: int, progress: Progress) -> None:
    """Write zeros, durably; what is known not to fit is not begun.

    Not by posix_fallocate: where a file system cannot do that (shares), it writes a byte to every
    block, one after the other.

    Raises:
        OSError: there is no room for them, or they cannot be written.
    """
    room = os.fstatvfs(file.fileno())
    # One of no blocks at all does not tell (FUSE).
    if room.f_blocks > 0 and room.f_bavail * room.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    zeros = bytes(_CHUNK_BYTES)
    for offset in range(0, size, _CHUNK_BYTES):
        file.write(zeros[: size - offset])
        _tell(progress, offset, size)
    file.flush()
    os.fsync(file.fileno())


def _is_file(location: str) -> bool:
    return not location.startswith("iscsi:") and Path(location).is_file()


def _wipe(device: Device, geometry: Geometry, progress: Progress) -> None:
    """Write zeros over all regions, so that no later write has to allocate."""
    end, start = geometry.needed_bytes, geometry.region_offset(0, 0)
    zeros = bytes(_CHUNK_BYTES)
    for offset in range(start, end, _CHUNK_BYTES):
        device.write(offset, zeros[: min(_CHUNK_BYTES, end - offset)])
        _tell(progress, offset - start, end - start)


def _tell(progress: Progress, done: int, size: int) -> None:
    """Tell how much is written, now and then."""
    if done % (16 * _CHUNK_BYTES) == 0:
        progress(f"writing zeros: {done * 100 // size} %")


def write_structure(device: Device, header: Header, wipe_progress: Progress | None) -> None:
    """Write everything. The headers go first and come back last, see :func:`format_disk`.

    Raises:
        WitnessError: the device does not keep what is written.
    """
    geometry = Geometry(header.nodes_max, header.region_bytes)
    for half in (0, HALF_BYTES):
        device.write(half, bytes(HALF_BYTES))
    if wipe_progress is not None:
        _wipe(device, geometry, wipe_progress)
    for slot in range(header.nodes_max):
        for copy in (0, 1):
            offset = geometry.block_offset(slot, copy)
            device.write(offset, encode_block(unwritten(slot), header.disk, offset))
    image = encode_header(header)
    for half in (HALF_BYTES, 0):
        device.write(half, image)
    if any(device.read(half, UNIT_BYTES) != image for half in (0, HALF_BYTES)):
        raise WitnessError("the device does not keep what is written", code="witness-unfit")


def format_disk(
    location: str,
    *,
    cluster: str,
    nodes_max: int = 8,
    region_bytes: int = REGION_BYTES_DEFAULT,
    force: bool = False,
    create: bool = False,
    progress: Progress = _silent,
) -> Formatted:
    """Make a quorum disk for a cluster.

    The headers go first and come back last: a formatting that was interrupted is no quorum disk.

    Args:
        location: path of a block device or file, or ``iscsi://portal[:port]/target/lun``.
        cluster: UUID of the cluster.
        nodes_max: highest number of a node, 1..64.
        region_bytes: for the state of one node, twice; a multiple of 4096.
        force: whatever the device holds is lost.
        create: make a file that is not there.
        progress: is told what takes long.

    Raises:
        InvalidConfig: nodes_max or region_bytes.
        Conflict: ``disk-in-use``, it holds something, and ``force`` is not given.
        WitnessError: it is too small, or does not do what it must.
    """
    geometry = Geometry(nodes_max, region_bytes)
    made = create and not location.startswith("iscsi:") and not Path(location).exists()
    if made:
        _make_file(Path(location), geometry.needed_bytes, progress)
    device = open_device(location, timeout_s=_TIMEOUT_S, exclusive=True)
    try:
        if device.size < geometry.needed_bytes:
            raise WitnessError(
                f"{location} has {device.size} bytes; {nodes_max} nodes with regions of "
                f"{region_bytes} bytes need {geometry.needed_bytes} bytes",
                code="witness-unfit",
                hint="a larger device, fewer nodes (--nodes), or smaller regions (--region)",
            )
        found = what_stands(device.read(0, INSPECTED_BYTES))
        if found and not force:
            raise Conflict(
                f"{location} holds {found}",
                code="disk-in-use",
                hint="everything on it is lost with --force",
            )
        header = Header(
            version=VERSION,
            cluster=cluster,
            disk=str(uuid4()),
            nodes_max=nodes_max,
            region_bytes=region_bytes,
        )
        wipe = _is_file(location) and not made
        write_structure(device, header, progress if wipe else None)
    finally:
        device.close()
    return Formatted(
        location=location,
        cluster=cluster,
        disk=header.disk,
        nodes_max=nodes_max,
        region_bytes=region_bytes,
        used_bytes=geometry.needed_bytes,
        found=found,
    )


def stamp_anew(location: str) -> Header:
    """Give a disk on which nobody wrote since it was formatted another UUID; return its header.

    Who brings a disk in does so, so that no two parts of a cluster ever wish for the same one: the
    part that comes first may not have written yet.

    Raises:
        WitnessError: the device is gone, is no quorum disk, or does not do what it must.
        Conflict: ``witness-used``.
    """
    device = open_device(location, timeout_s=_TIMEOUT_S, exclusive=True)
    try:
        header = read_header(device)
        demand_unwritten(device, header, location)
        fresh = msgspec.structs.replace(header, disk=str(uuid4()))
        write_structure(device, fresh, None)
    finally:
        device.close()
    return fresh
