"""A LUN with SCSI-3 persistent reservations, as hosts see it through the kernel's own interface.

Written from SPC-4 (5.9) and ``linux/pr.h``: what a registration, a reservation and a removal
change, and what each answers, also to somebody who is not registered.
"""

from __future__ import annotations

import errno
import struct

REGISTER, RESERVE, RELEASE, PREEMPT, PREEMPT_ABORT = (
    0x401870C8, 0x401070C9, 0x401070CA, 0x401870CB, 0x401870CC,
)  # fmt: skip
"""As a C compiler has them on x86-64 and arm64."""
GOOD, CONFLICT, CHECK = 0, 0x118, 0x402
"""As a kernel 6.1 gave them for a LUN of tgt: the SCSI status, and bits above it."""
REGISTRANTS_ONLY = 3
IGNORE_KEY = 1


class Lun:
    """The state that a LUN keeps; ``hosts`` are the initiators."""

    def __init__(
        self,
        *,
        reservations: bool = True,
        aborts: bool = True,
        outlives_power: bool = True,
        checks_strangers: bool = False,
    ) -> None:
        self.reservations = reservations
        self.outlives_power = outlives_power
        self.aborts = aborts
        self.checks_strangers = checks_strangers
        """As the kernel's own target, LIO: who reserves or releases unregistered gets an error (Not
        Ready, seen with 6.1) instead of a conflict."""
        self.keys: dict[str, int] = {}
        self.holder: tuple[str, int] | None = None
        self.aborted: list[str] = []

    def may_write(self, host: str) -> bool:
        """Whether the LUN takes a write of a host."""
        return self.holder is None or host in self.keys

    def leave(self, host: str) -> None:
        """Take a registration away; with the holder's the reservation ends."""
        self.keys.pop(host, None)
        if self.holder is not None and self.holder[0] == host:
            self.holder = None


class Host:
    """The system call of one host."""

    def __init__(self, lun: Lun, name: str) -> None:
        self.lun = lun
        self.name = name
        self.calls: list[int] = []
        self.attention = False
        """The next call only tells that something changed."""

    def ioctl(self, _descriptor: int, number: int, order: bytearray) -> int:
        self.calls.append(number)
        if not self.lun.reservations:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        if self.attention:
            self.attention = False
            return CHECK
        if number == REGISTER:
            if not self.lun.outlives_power:
                return CHECK
            old, new, flags, _ = struct.unpack("<QQII", order)
            return self._register(old, new, ignore=bool(flags & IGNORE_KEY))
        if number in {RESERVE, RELEASE}:
            if self.lun.checks_strangers and self.name not in self.lun.keys:
                return CHECK
            key, kind, _ = struct.unpack("<QII", order)
            return (self._reserve if number == RESERVE else self._release)(key, kind)
        assert number in {PREEMPT, PREEMPT_ABORT}
        if number == PREEMPT_ABORT and not self.lun.aborts:
            raise OSError(errno.EINVAL, "invalid argument")
        key, victim, kind, _ = struct.unpack("<QQII", order)  # as sd.c sends them: 6.1, LIO and tgt
        return self._preempt(victim, key, kind, abort=number == PREEMPT_ABORT)

    def _register(self, old: int, new: int, *, ignore: bool) -> int:
        known = self.lun.keys.get(self.name, 0)
        if not ignore and old != known:
            return CONFLICT
        if new:
            self.lun.keys[self.name] = new
        else:
            self.lun.leave(self.name)
        return GOOD

    def _reserve(self, key: int, kind: int) -> int:
        lun = self.lun
        if lun.keys.get(self.name) != key or key == 0:
            return CONFLICT
        if lun.holder is not None and lun.holder != (self.name, kind):
            return CONFLICT
        lun.holder = self.name, kind
        return GOOD

    def _release(self, key: int, kind: int) -> int:
        if self.lun.keys.get(self.name) != key or key == 0:
            return CONFLICT
        if self.lun.holder == (self.name, kind):
            self.lun.holder = None
        return GOOD

    def _preempt(self, victim: int, key: int, kind: int, *, abort: bool) -> int:
        lun = self.lun
        if lun.keys.get(self.name) != key or key == 0:
            return CONFLICT
        gone = [host for host, held in lun.keys.items() if held == victim and host != self.name]
        if not gone:
            return CONFLICT
        held = lun.holder is not None and lun.holder[0] in gone
        for host in gone:
            lun.leave(host)
            if abort:
                lun.aborted.append(host)
        if held:
            lun.holder = self.name, kind
        return GOOD
