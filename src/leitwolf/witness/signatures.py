"""What stands at the beginning of a device: nothing is formatted that holds something. Pure."""

from __future__ import annotations

from typing import NamedTuple

from leitwolf.model.errors import WitnessError
from leitwolf.witness.layout import HALF_BYTES, UNIT_BYTES, decode_header

__all__ = ["INSPECTED_BYTES", "what_stands"]

INSPECTED_BYTES = HALF_BYTES + UNIT_BYTES
"""From the beginning on: the last unit is the second copy of a Leitwolf header."""


class _Signature(NamedTuple):
    offset: int
    magic: bytes
    name: str


_SIGNATURES = (
    _Signature(0, b"SBD_SBD_", "an SBD device of Pacemaker"),
    _Signature(0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    _Signature(0, b"XFSB", "an XFS file system"),
    _Signature(0x438, b"\x53\xef", "an ext2/ext3/ext4 file system"),
    _Signature(0x10040, b"_BHRfS_M", "a Btrfs file system"),
    _Signature(0x8001, b"CD001", "an ISO 9660 image"),
    _Signature(0x2000, b"OCFSV2", "an OCFS2 file system"),
    _Signature(0x10000, b"\x01\x16\x19\x70", "a GFS2 file system"),
    _Signature(0, b"hsqs", "a SquashFS image"),
    _Signature(4086, b"SWAPSPACE2", "swap space"),
    _Signature(0x1000, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID"),
    _Signature(0, b"\xfc\x4e\x2b\xa9", "a member of a Linux RAID"),
    *(_Signature(512 * n, b"LABELONE", "an LVM2 physical volume") for n in range(4)),
    _Signature(512, b"EFI PART", "a GPT partition table"),
    _Signature(4096, b"EFI PART", "a GPT partition table"),
    _Signature(3, b"NTFS    ", "an NTFS file system"),
    _Signature(3, b"EXFAT   ", "an exFAT file system"),
    _Signature(82, b"FAT32", "a FAT file system"),
    _Signature(54, b"FAT1", "a FAT file system"),
    _Signature(510, b"\x55\xaa", "an MBR partition table or boot sector"),
)
"""The more telling first: an MBR stands in front of a GPT, boot sectors look like an MBR."""


def what_stands(data: bytes) -> str:
    """Return in words what the first :data:`INSPECTED_BYTES` of a device hold, '' when zeros."""
    for offset in (0, HALF_BYTES):
        try:
            header = decode_header(data[offset : offset + UNIT_BYTES])
        except WitnessError:
            return "the quorum disk of a later version of Leitwolf"
        if header is not None:
            return f"the quorum disk of Leitwolf cluster {header.cluster}"
    for signature in _SIGNATURES:
        end = signature.offset + len(signature.magic)
        if data[signature.offset : end] == signature.magic:
            return signature.name
    return "data of unknown kind" if any(data) else ""
