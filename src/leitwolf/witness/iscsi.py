"""An iSCSI LUN as a device, without the kernel's initiator: no mount, no multipath, no dead ends.

Rules
    S1 Every write is on stable storage when it is acknowledged: FUA where the LUN has it, else the
       cache is written out behind it.
    S2 After a command that failed to answer the session is dropped. The next command logs in anew
       under the same session id, by which the target ends what was on its way (A4).
    S3 All nodes of the cluster register a key of their own; the reservation (write exclusive,
       registrants only) refuses the writes of everybody else. Preempting a key fences its node.
    S4 Within one opening a key that vanished beside a reservation is not registered again: the node
       was fenced. Opening the disk anew registers it; who may open it is for others to decide.
"""

from __future__ import annotations

import math
import re
import secrets
import struct
from dataclasses import dataclass
from hashlib import blake2b

from leitwolf.model.errors import WitnessError
from leitwolf.witness.layout import UNIT_BYTES
from leitwolf.witness.libiscsi import GOOD, RESERVATION_CONFLICT, UNIT_ATTENTION, Reply, Session

__all__ = ["IscsiDevice", "Lun", "key_of", "parse_location"]

_PORT_DEFAULT = 3260
_CHUNK_BYTES = 256 << 10
"""Data of one command: targets take at least that."""
_WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
_READ_16, _WRITE_16, _SYNCHRONIZE_16, _SERVICE_IN_16 = 0x88, 0x8A, 0x91, 0x9E
_RESERVE_IN, _RESERVE_OUT, _MODE_SENSE_6 = 0x5E, 0x5F, 0x1A
_READ_KEYS, _READ_RESERVATION = 0, 1
_RESERVE, _PREEMPT, _REGISTER_ANYWAY = 1, 4, 6
_CACHING_PAGE = 0x08
_FUA = 0x08
_DPOFUA = 0x10
_WRITE_CACHE = 0x04
_KEYS_BYTES = 8 + 8 * 256
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


def _family(cluster: str) -> int:
    """Return the upper 48 bits of the keys of a cluster, never 0."""
    family = int.from_bytes(blake2b(cluster.encode(), digest_size=6).digest(), "big")
    return family or 1


def key_of(cluster: str, node: int) -> int:
    """Return the reservation key of a node: 48 bits for the cluster, 16 for the node."""
    return _family(cluster) << 16 | node


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
        self._claimed: tuple[str, int] | None = None
        self._block_bytes = 512
        self._forced_access = self._cached = True
        capacity = self._good(struct.pack(">BB8xI2x", _SERVICE_IN_16, 0x10, 32), room=32)
        last, self._block_bytes = struct.unpack_from(">QI", capacity)
        if not self._block_bytes or UNIT_BYTES % self._block_bytes:
            raise WitnessError(
                f"{location} has blocks of {self._block_bytes} bytes", code="witness-unfit"
            )
        self._size: int = (last + 1) * self._block_bytes
        self._ask_for_cache()

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
        if reply.status == RESERVATION_CONFLICT:
            raise WitnessError(
                f"{self._location} refuses this node: its reservation key was removed",
                code="witness-fenced",
                hint="the node was evicted, or the LUN is reserved by something else",
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
        kind = _WRITE_EXCLUSIVE_REGISTRANTS_ONLY if action != _REGISTER_ANYWAY else 0
        cdb = struct.pack(">BBB2xIx", _RESERVE_OUT, action, kind, 24)
        return self._command(cdb, struct.pack(">QQ8x", key, other)).status

    def keys(self) -> list[int]:
        """Return the registered keys."""
        data = self._good(
            struct.pack(">BB5xHx", _RESERVE_IN, _READ_KEYS, _KEYS_BYTES), b"", _KEYS_BYTES
        )
        count = min(struct.unpack_from(">I", data, 4)[0], _KEYS_BYTES - 8) // 8
        return list(struct.unpack_from(f">{count}Q", data, 8))

    def reservation(self) -> tuple[int, int] | None:
        """Return key and type of the reservation, None when there is none."""
        data = self._good(struct.pack(">BB5xHx", _RESERVE_IN, _READ_RESERVATION, 32), b"", 32)
        if not struct.unpack_from(">I", data, 4)[0]:
            return None
        return struct.unpack_from(">Q", data, 8)[0], data[21] & 0x0F

    def claim(self, cluster: str, node: int, offset: int) -> None:
        """Log in as the node, register its key, and see that the reservation is the cluster's.

        Raises:
            WitnessError: ``witness-foreign``, somebody else has reserved the LUN.
        """
        del offset
        self.close()
        self._initiator = f"iqn.2026-01.org.leitwolf:{cluster}:{node}"
        self._qualifier = node
        key = key_of(cluster, node)
        self._register(key)
        self._reserve(cluster, key)
        self._claimed = cluster, node

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
        if found[0] >> 16 != _family(cluster):
            raise self._foreign(found)

    def _foreign(self, found: tuple[int, int] | None) -> WitnessError:
        held = "by nobody" if found is None else f"with key {found[0]:#x}, type {found[1]}"
        return WitnessError(
            f"{self._location} is reserved {held}, not by this cluster",
            code="witness-foreign",
            hint="every cluster needs a disk of its own",
        )

    def _claim_again(self, cluster: str, node: int) -> None:
        """Register a new session's key, unless the node was fenced meanwhile (S4)."""
        key = key_of(cluster, node)
        self._claimed = None  # what follows must not come back here
        try:
            self._refuse_fenced(key)
            self._register(key)
            self._reserve(cluster, key)
        except WitnessError:
            self.close()
            raise
        finally:
            self._claimed = cluster, node

    def _refuse_fenced(self, key: int) -> None:
        if key not in self.keys() and self.reservation() is not None:
            raise WitnessError(
                f"{self._location}: the key of this node was removed", code="witness-fenced"
            )

    def preempt(self, cluster: str, node: int) -> None:
        """Remove the key of a node: from now on its writes are refused.

        Raises:
            WitnessError: ``witness-fenced``, this node was fenced itself.
        """
        own = self._claimed
        if own is None:
            raise WitnessError("the LUN was not claimed", code="witness-denied")
        victim = key_of(cluster, node)
        if victim not in self.keys():
            return
        if self._reserve_out(_PREEMPT, key_of(*own), victim) != GOOD and victim in self.keys():
            raise WitnessError(
                f"{self._location} did not remove the key of node {node}", code="witness-fenced"
            )

    def close(self) -> None:
        """Log out; registration and reservation stay."""
        if self._session is not None:
            self._session.close(logout=True)
            self._session = None
