"""On what kind of file system a file is, and whether its locks and writes can be relied on."""

from __future__ import annotations

from pathlib import Path

import msgspec

from leitwolf.model.errors import WitnessError

__all__ = ["Mount", "check_lock_loss", "check_mount", "find_mount"]

_LOCAL = frozenset(
    {
        "aufs", "bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "jfs", "nilfs2",
        "overlay", "ramfs", "squashfs", "tmpfs", "vfat", "exfat", "xfs", "zfs",
    }
)  # fmt: skip
_NFS = frozenset({"nfs", "nfs4"})
_SMB = frozenset({"cifs", "smb3"})
_LOCKING = frozenset({"fuse.ceph", "fuse.ceph-fuse", "fuse.glusterfs", "fuse.juicefs", "fuse.mfs"})
"""Of file systems in user space those that carry locks to all machines; where one does not do it
itself, the kernel keeps them on this machine, and nothing shows it."""
_AS_DISK = (
    "let a file there be a disk, in which each node writes for itself alone: "
    "leitwolf quorum disk format FILE --create; leitwolf quorum set disk FILE --witness"
)


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``/proc/self/mountinfo``."""

    point: str
    kind: str
    options: frozenset[str]
    """Of the mount and of the file system."""


def find_mount(descriptor: int) -> Mount | None:
    """Return on what an open file or folder is, None: the kernel does not tell.

    It is looked up by the descriptor, not by the path: a file system that is mounted or unmounted
    meanwhile does not matter.
    """
    try:
        info = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    number = next((line.split()[1] for line in info.splitlines() if line[:7] == "mnt_id:"), "")
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, behind = left.split(), right.split()
        if fields[0] == number and behind:
            return Mount(
                point=fields[4],
                kind=behind[0],
                options=frozenset([*fields[5].split(","), *behind[-1].split(",")]),
            )
    return None


def check_lock_loss(mount: Mount, path: str) -> None:
    """Refuse a file system that does the writes of a machine that lost its lock meanwhile.

    After a connection was lost, Linux opens files on SMB anew by their names and takes their locks
    again, and the write under way is done as if nothing had been.

    Raises:
        WitnessError: it is of that kind (code ``witness-unfit``).
    """
    if mount.kind in _SMB:
        raise WitnessError(
            f"{path}: SMB takes writes of who lost his lock",
            code="witness-unfit",
            hint=_AS_DISK,
        )


def check_mount(mount: Mount, path: str, *, local: bool, disk: bool) -> None:
    """Refuse a file system on which another machine cannot see, or can overtake, our writes.

    Args:
        mount: what :func:`find_mount` found.
        path: for errors.
        local: file systems of one machine are allowed.
        disk: the file is a shared disk, not the value of a witness: hints name what is fit for it.

    Raises:
        WitnessError: it is unfit (code ``witness-unfit``); the text says why.
    """

    def unfit(why: str, hint: str) -> WitnessError:
        return WitnessError(f"{path}: {why}", code="witness-unfit", hint=hint)

    kind, options = mount.kind, mount.options
    laboratory = "--local" if disk else "?local=yes"
    if kind in _LOCAL and not local:
        raise unfit(
            f"it is on {kind} (mounted at {mount.point}), which is of this machine alone",
            f"mount the share; only in a laboratory on one machine: add {laboratory}",
        )
    if kind in {"9p", "virtiofs"} or (kind.startswith("fuse") and kind not in _LOCKING):
        raise unfit(
            f"{kind} (mounted at {mount.point}) may keep locks on this machine",
            "use NFS 4.1 or SMB 3.1, mounted by the kernel"
            if disk
            else f"use NFS 4.1, mounted by the kernel; on SMB {_AS_DISK}",
        )
    if kind in _NFS:
        version = next((text[5:] for text in options if text.startswith("vers=")), "4")
        if version.startswith(("2", "3")):
            raise unfit(
                f"NFS version {version} takes writes of who lost his lock", "mount it with vers=4.1"
            )
        locks = next((text[11:] for text in options if text.startswith("local_lock=")), "none")
        if "nolock" in options or locks not in {"none", "flock"}:
            raise unfit("locks stay on this machine", "mount it without nolock and local_lock")
    if kind in _SMB:
        if "nobrl" in options:
            raise unfit("locks stay on this machine", "mount it without nobrl")
        if "cache=loose" in options:
            raise unfit("reads may be stale", "mount it with cache=strict or cache=none")
        if "vers=1.0" in options:
            raise unfit("SMB version 1 reopens files without their locks", "mount it with vers=3.1")
