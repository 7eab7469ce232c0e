"""An iSCSI LUN as a device, without the kernel's initiator: no mount, no multipath, no dead ends.

Rules
    S1 Every write is on stable storage when it is acknowledged: FUA where the LUN has it, else the
       cache is written out behind it.
    S2 After a command that failed to answer the session is dropped. The next command logs in anew
       under the same session id, by which the target ends what was on its way (A4).
    S3, S4, S5 see :mod:`leitwolf.witness.reservations`. A target that forgot all keys, as some do
       when they are restarted, has no reservation either: then they are registered anew.
"""

from __future__ import annotations

import math
import re
import secrets
import struct
from dataclasses import dataclass

from leitwolf.model.errors import WitnessError
from leitwolf.witness.layout import UNIT_BYTES
from leitwolf.witness.libiscsi import (
    CHECK_CONDITION,
    GOOD,
    RESERVATION_CONFLICT,
    UNIT_ATTENTION,
    Reply,
    Session,
)
from leitwolf.witness.reservations import Admit, family_of, key_of

__all__ = ["IscsiDevice", "Lun", "parse_location"]

_PORT_DEFAULT = 3260
_CHUNK_BYTES = 256 << 10
"""Data of one command: targets take at least that."""
_WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
_READ_16, _WRITE_16, _SYNCHRONIZE_16, _SERVICE_IN_16 = 0x88, 0x8A, 0x91, 0x9E
_RESERVE_IN, _RESERVE_OUT, _MODE_SENSE_6 = 0x5E, 0x5F, 0x1A
_READ_KEYS, _READ_RESERVATION = 0, 1
_REGISTER, _RESERVE, _PREEMPT, _PREEMPT_ABORT, _REGISTER_ANYWAY = 0, 1, 4, 5, 6
_CACHING_PAGE = 0x08
_FUA = 0x08
_DPOFUA = 0x10
_WRITE_CACHE = 0x04
_KEYS_BYTES = 8 + 8 * 256
_READ_KEYS_CDB = struct.pack(">BB5xHx", _RESERVE_IN, _READ_KEYS, _KEYS_BYTES)
_LOCATION = re.compile(
    r"iscsi://(?P<host>\[[^\]]+\]|[^/:]+)(:(?P<port>\d+))?/(?P<target>[^/]+)/(?P<lun>\d+)"
)


@dataclass(frozen=True, slots=True)
class Lun:
    """Where a LUN is."""

    portal: str
    target: str
    number: int


def parse_location(location: str) -> Lun:
    """Return the LUN that ``iscsi://portal[:port]/target/lun`` names.

    Raises:
        WitnessError: ``witness-unfit``, it is not of this form.
    """
    found = _LOCATION.fullmatch(location)
    if found is None:
        raise WitnessError(
            f"{location} is not of the form iscsi://portal[:port]/target/lun", code="witness-unfit"
        )
    portal = f"{found['host']}:{found['port'] or _PORT_DEFAULT}"
    return Lun(portal, found["target"], int(found["lun"]))


class IscsiDevice:
    """A LUN, see :class:`leitwolf.witness.device.Device`."""

    def __init__(self, location: str, *, timeout_s: float) -> None:
        """Log in and ask the LUN what it is.

        Raises:
            WitnessError: not reachable, or of a block size that does not divide 4096.
        """
        self._location = location
        self._lun = parse_location(location)
        self._timeout_s = max(1, math.ceil(timeout_s))
        self._initiator = "iqn.2026-01.org.leitwolf:tools"
        self._qualifier = secrets.randbits(16)  # tools must not end each other's sessions
        self._session: Session | None = None
        self._claimed: tuple[str, int, Admit] | None = None
        self._block_bytes = 512
        self._forced_access = self._cached = True
        try:
            self._size = self._ask_for_size()
            self._ask_for_cache()
            known = self._command(_READ_KEYS_CDB, room=_KEYS_BYTES).status == GOOD
        except BaseException:
            self.close()  # nobody else knows the session
            raise
        self._unfenced = "" if known else "the LUN has no persistent reservations"

    def _ask_for_size(self) -> int:
        capacity = self._good(struct.pack(">BB8xI2x", _SERVICE_IN_16, 0x10, 32), room=32)
        last, self._block_bytes = struct.unpack_from(">QI", capacity)
        if not self._block_bytes or UNIT_BYTES % self._block_bytes:
            raise WitnessError(
                f"{self._location} has blocks of {self._block_bytes} bytes", code="witness-unfit"
            )
        return int((last + 1) * self._block_bytes)

    def _ask_for_cache(self) -> None:
        """Find out how a write becomes durable (S1); a LUN that does not say gets both."""
        reply = self._command(
            struct.pack(">BBBxBx", _MODE_SENSE_6, 0x08, _CACHING_PAGE, 64), room=64
        )
        page = reply.data[4 + reply.data[3] :] if reply.status == GOOD else b""
        if len(page) > 2 and page[0] & 0x3F == _CACHING_PAGE:
            self._forced_access = bool(reply.data[2] & _DPOFUA)
            self._cached = bool(page[2] & _WRITE_CACHE) and not self._forced_access
        else:
            self._forced_access, self._cached = False, True

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    # --- commands

    def _login(self) -> Session:
        if self._session is None:
            self._session = Session(
                self._lun.portal,
                self._lun.target,
                self._lun.number,
                initiator=self._initiator,
                qualifier=self._qualifier,
                timeout_s=self._timeout_s,
            )
            if self._claimed is not None:
                self._claim_again(*self._claimed)
        return self._session

    def _command(self, cdb: bytes, out: bytes = b"", room: int = 0) -> Reply:
        """Have a command done; repeat it once when it only brought a unit attention."""
        session = self._login()
        try:
            reply = session.command(cdb, out=out, room=room)
            if reply.sense == UNIT_ATTENTION:
                reply = session.command(cdb, out=out, room=room)
        except WitnessError:
            session.close(logout=False)
            self._session = None
            raise
        return reply

    def _good(self, cdb: bytes, out: bytes = b"", room: int = 0) -> bytes:
        reply = self._command(cdb, out, room)
        if reply.status == RESERVATION_CONFLICT and self._claimed is not None:
            raise self._fenced()
        if reply.status == RESERVATION_CONFLICT:
            raise WitnessError(
                f"{self._location} is reserved for the nodes of a cluster",
                code="witness-denied",
                hint="clear its reservations when no cluster uses it any more: sg_persist --clear",
            )
        if reply.status != GOOD:
            raise WitnessError(
                f"{self._location}: SCSI command {cdb[0]:#04x} failed, status {reply.status}, "
                f"sense {reply.sense}",
                code="witness-unreachable",
            )
        return reply.data

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from the LUN."""
        parts = []
        for start in range(offset, offset + length, _CHUNK_BYTES):
            size = min(_CHUNK_BYTES, offset + length - start)
            place, blocks = start // self._block_bytes, size // self._block_bytes
            parts.append(self._good(struct.pack(">BBQI2x", _READ_16, 0, place, blocks), room=size))
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        """Write ``data``; it is durable when this returns (S1)."""
        flags = _FUA if self._forced_access else 0
        for start in range(0, len(data), _CHUNK_BYTES):
            part = data[start : start + _CHUNK_BYTES]
            place = (offset + start) // self._block_bytes
            blocks = len(part) // self._block_bytes
            self._good(struct.pack(">BBQI2x", _WRITE_16, flags, place, blocks), part)
        if self._cached:
            self._good(struct.pack(">BBQI2x", _SYNCHRONIZE_16, 0, 0, 0))

    # --- reservations

    def _reserve_out(self, action: int, key: int, other: int = 0) -> int:
        registers = action in {_REGISTER, _REGISTER_ANYWAY}
        kind = 0 if registers else _WRITE_EXCLUSIVE_REGISTRANTS_ONLY
        cdb = struct.pack(">BBB2xIx", _RESERVE_OUT, action, kind, 24)
        return self._command(cdb, struct.pack(">QQ8x", key, other)).status

    def keys(self) -> list[int]:
        """Return the registered keys."""
        data = self._good(_READ_KEYS_CDB, b"", _KEYS_BYTES)
        count = min(struct.unpack_from(">I", data, 4)[0], _KEYS_BYTES - 8) // 8
        return list(struct.unpack_from(f">{count}Q", data, 8))

    def reservation(self) -> tuple[int, int] | None:
        """Return key and type of the reservation, None when there is none."""
        data = self._good(struct.pack(">BB5xHx", _RESERVE_IN, _READ_RESERVATION, 32), b"", 32)
        if not struct.unpack_from(">I", data, 4)[0]:
            return None
        return struct.unpack_from(">Q", data, 8)[0], data[21] & 0x0F

    @property
    def unfenced(self) -> str:
        """Why it cannot keep a node from writing, '': it can. One that cannot is not claimed."""
        return self._unfenced

    def claim(self, cluster: str, node: int, offset: int, admit: Admit) -> None:
        """Log in as the node, register its key, and see that the reservation is the cluster's.

        Raises:
            WitnessError: ``witness-foreign``, somebody else has reserved the LUN; what ``admit``
                raises.
        """
        del offset
        self.close()
        self._initiator = f"iqn.2026-01.org.leitwolf:{cluster}:{node}"
        self._qualifier = node
        self._enter(cluster, key_of(cluster, node), admit)
        self._claimed = cluster, node, admit

    def _enter(self, cluster: str, key: int, admit: Admit) -> None:
        """Register, and reserve when the disk does not say that the node was evicted (S5)."""
        self._register(key)
        try:
            admit()
        except WitnessError:
            self._reserve_out(_REGISTER, key, 0)
            raise
        self._reserve(cluster, key)

    def _register(self, key: int) -> None:
        status = self._reserve_out(_REGISTER_ANYWAY, 0, key)
        if status != GOOD:
            raise WitnessError(
                f"{self._location} takes no registration (status {status})",
                code="witness-unfit",
                hint="the LUN must have SCSI-3 persistent reservations",
            )

    def _reserve(self, cluster: str, key: int) -> None:
        """Have the reservation, whoever of the cluster holds it."""
        if self.reservation() is None:
            self._reserve_out(_RESERVE, key)  # refused where another node was quicker
        found = self.reservation()
        if found is None or found[1] != _WRITE_EXCLUSIVE_REGISTRANTS_ONLY:
            raise self._foreign(found)
        if found[0] >> 16 != family_of(cluster):
            raise self._foreign(found)

    def _foreign(self, found: tuple[int, int] | None) -> WitnessError:
        held = "by nobody" if found is None else f"with key {found[0]:#x}, type {found[1]}"
        return WitnessError(
            f"{self._location} is reserved {held}, not by this cluster",
            code="witness-foreign",
            hint="every cluster needs a disk of its own",
        )

    def _claim_again(self, cluster: str, node: int, admit: Admit) -> None:
        """Register a new session's key, unless the node was fenced meanwhile (S4)."""
        key = key_of(cluster, node)
        self._claimed = None  # what follows must not come back here
        try:
            if key not in self.keys() and self.reservation() is not None:
                raise self._fenced()
            self._enter(cluster, key, admit)
        except WitnessError:
            self.close()
            raise
        finally:
            self._claimed = cluster, node, admit

    def _fenced(self) -> WitnessError:
        return WitnessError(
            f"{self._location} refuses this node: its reservation key was removed",
            code="witness-fenced",
            hint="another node took the disk over, or this one was evicted",
        )

    def fence(self, nodes: tuple[int, ...]) -> None:
        """Remove the keys of nodes: from now on the LUN refuses their writes.

        Raises:
            WitnessError: ``witness-fenced``, this node was fenced itself.
        """
        if self._claimed is None:
            raise WitnessError(f"{self._location} was not claimed", code="witness-denied")
        cluster, own = self._claimed[:2]
        victims = {key_of(cluster, node) for node in nodes}
        for victim in victims.intersection(self.keys()):
            self._preempt(key_of(cluster, own), victim)
        if victims.intersection(self.keys()):
            raise self._fenced()

    def _preempt(self, key: int, victim: int) -> None:
        """Have a key removed, and what its node has on its way ended where the target can."""
        if self._reserve_out(_PREEMPT_ABORT, key, victim) == CHECK_CONDITION:
            self._reserve_out(_PREEMPT, key, victim)

    def close(self) -> None:
        """Log out; registration and reservation stay."""
        if self._session is not None:
            self._session.close(logout=True)
            self._session = None
