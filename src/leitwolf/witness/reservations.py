"""Reservations (SCSI-3 persistent, NVMe): who may write to a LUN, kept by the LUN itself.

Rules
    S3 Every node registers a key of its own; the reservation (write exclusive, registrants only)
       refuses the writes of everybody else. Removing a key fences its node, whatever it does.
    S4 Within one opening a key that vanished is not registered again: the node was fenced.
    S5 A registration counts only when the disk, read after it, does not say that the node was
       evicted; else it is withdrawn. Who evicts writes that to the disk first and removes the key
       then. So at least one of both sees the other, whatever was frozen in between.

Theory of operation
    A key has 48 bits for the cluster and 16 for the node, so that keys of others are never removed.
    The kernel does reservations on whole disks (SCSI, NVMe, device-mapper on top of them) by the
    ``IOC_PR_*`` calls of ``linux/pr.h``. They do not tell which keys there are; a removal that
    finds none answers like one by a node that is fenced itself, so the own key is asked for then.

What this does not guarantee: anything on a disk that says that it has no reservations.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from collections.abc import Callable
from hashlib import blake2b

from leitwolf.model.errors import WitnessError

__all__ = ["Admit", "Control", "KernelReservations", "family_of", "key_of"]

Admit = Callable[[], None]
"""Raises when the disk says that this node was evicted (S5)."""
Control = Callable[[int, int, bytearray], int]
"""ioctl: returns 0 or a status, raises OSError."""

_WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 3
_IGNORE_KEY = 1
_CONFLICT, _CHECK_CONDITION = 0x18, 0x02
"""SCSI status in the low byte of what the call returns; older kernels set bits above it."""
_REGISTRATION = struct.Struct("<QQII")
"""Old key, new key, flags, padding."""
_RESERVATION = struct.Struct("<QII")
"""Key, type, flags."""
_PREEMPTION = struct.Struct("<QQII")
"""Own key, key to remove, type, flags: as the kernel passes them on.

Documentation/block/pr.rst says it of ``old_key`` and ``new_key`` the other way round; so asked, no
key is ever removed.
"""


def _number(call: int, layout: struct.Struct) -> int:
    """Return _IOW('p', call, layout) of linux/ioctl.h, as most architectures have it."""
    return 1 << 30 | layout.size << 16 | ord("p") << 8 | call


_REGISTER = _number(200, _REGISTRATION)
_RESERVE = _number(201, _RESERVATION)
_RELEASE = _number(202, _RESERVATION)
_PREEMPT = _number(203, _PREEMPTION)
_PREEMPT_ABORT = _number(204, _PREEMPTION)

_LACKING = {
    errno.EOPNOTSUPP: "the disk has no reservations",
    errno.ENOTTY: "the disk has no reservations",
    errno.EINVAL: "the disk has no reservations",
    errno.EPERM: "a part of a disk cannot be reserved; use the whole disk",
}


def family_of(cluster: str) -> int:
    """Return the upper 48 bits of the keys of a cluster, never 0."""
    family = int.from_bytes(blake2b(cluster.encode(), digest_size=6).digest(), "big")
    return family or 1


def key_of(cluster: str, node: int) -> int:
    """Return the reservation key of a node."""
    return family_of(cluster) << 16 | node


def _reservation(key: int) -> bytes:
    return _RESERVATION.pack(key, _WRITE_EXCLUSIVE_REGISTRANTS_ONLY, 0)


def _done(status: int) -> bool:
    return status == 0  # a lost path has zeros in the low byte


def _conflicts(status: int) -> bool:
    return status & 0xFF == _CONFLICT


class KernelReservations:
    """Reservations of a block device, by the kernel."""

    def __init__(self, descriptor: int, name: str, control: Control = fcntl.ioctl) -> None:
        """Ask nothing yet.

        Args:
            descriptor: of the open device.
            name: of the device, for texts.
            control: the system call.
        """
        self._descriptor = descriptor
        self._name = name
        self._control = control

    def lacking(self) -> str:
        """Return why the device has no reservations, '': it has.

        A release by a key that nobody has changes nothing: a device with reservations answers that
        it conflicts. The target of the Linux kernel (LIO) answers who is not registered that the
        unit fails. Then a registration of no key in place of none asks again, which changes nothing
        on a SCSI disk either.
        """
        try:
            status = self._call(_RELEASE, _reservation(0))
            if status & 0xFF == _CHECK_CONDITION:
                status = self._register(0, 0, 0)
        except OSError as error:
            return _LACKING.get(error.errno or 0, f"reservations fail: {error.strerror}")
        return (
            ""
            if _done(status) or _conflicts(status)
            else f"the disk refuses reservations ({status:#x})"
        )

    def claim(self, key: int, admit: Admit) -> str:
        """Register ``key`` and see that the device is reserved for those who are registered.

        Returns:
            Why the device takes no registration, '': it did. The kernel asks for such as outlive a
            loss of power (APTPL), which not every target has.

        Raises:
            WitnessError: what ``admit`` raises; ``witness-unfit``, the device refuses.
        """
        status = self._register(0, key, _IGNORE_KEY)
        if not _done(status):
            admit()
            return f"the disk takes no registration that outlives a power loss ({status:#x})"
        try:
            admit()
        except WitnessError:
            self._register(key, 0, 0)
            raise
        status = self._call(_RESERVE, _reservation(key))
        if not _done(status) and not _conflicts(status):  # another node may hold it
            raise WitnessError(
                f"{self._name} takes no reservation (status {status:#x})", code="witness-unfit"
            )
        return ""

    def fence(self, key: int, victim: int) -> None:
        """Remove the key ``victim`` and end what its node has on its way.

        Args:
            key: the own one.
            victim: to be removed; it may be gone already.

        Raises:
            WitnessError: ``witness-fenced``, this node was fenced itself; ``witness-unfit``, the
                device refuses.
        """
        order = _PREEMPTION.pack(key, victim, _WRITE_EXCLUSIVE_REGISTRANTS_ONLY, 0)
        for call in (_PREEMPT_ABORT, _PREEMPT):  # not every disk can abort
            try:
                status = self._call(call, order)
            except OSError:
                if call == _PREEMPT:
                    raise
                continue
            if _done(status):
                return
            if _conflicts(status):
                break
        if _conflicts(status) and _done(self._register(key, key, 0)):
            return  # the own key is there, so it was the other one that is not
        if _conflicts(status):
            raise WitnessError(
                f"{self._name}: the key of this node was removed", code="witness-fenced"
            )
        raise WitnessError(
            f"{self._name} did not remove a key (status {status:#x})", code="witness-unfit"
        )

    def _register(self, old: int, new: int, flags: int) -> int:
        return self._call(_REGISTER, _REGISTRATION.pack(old, new, flags, 0))

    def _call(self, number: int, order: bytes) -> int:
        """Return the status; a call that only told that something changed is made again."""
        # Something that may be changed: only then the status comes back.
        status = self._control(self._descriptor, number, bytearray(order))
        if status & 0xFF == _CHECK_CONDITION:
            status = self._control(self._descriptor, number, bytearray(order))
        return status
