"""The guard's page: what must survive the guard, and what all processes of a node may read.

One file of one page on a tmpfs, mapped shared, written by the guard alone under a sequence lock:
the sequence is odd while a write is under way. A reader that sees an odd or changed sequence reads
again; a page whose CRC, magic, version or boot id is wrong is no page (the guard has no memory).
Standard library only.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from leitwolf.wire.ballot import NO_BALLOT, Ballot

__all__ = ["PAGE_BYTES", "LeasePage", "pack_page", "unpack_page"]

PAGE_BYTES = 4096
_MAGIC = b"LWGP"
_VERSION = 1
_BODY = struct.Struct("<4sHH16s 3I 3I q ? Q q q q ? 3I q 3I q q q q Q q ? q q q q")


class LeasePage(NamedTuple):
    """Contents of the guard's page. Instants are CLOCK_MONOTONIC_RAW in ns, 0: never.

    A tuple, as it is replaced, compared and packed several times at every heartbeat.
    """

    boot_id: bytes = bytes(16)
    """/proc/sys/kernel/random/boot_id; instants of another boot mean nothing."""
    floor: Ballot = NO_BALLOT
    """Nothing below this ballot is acknowledged."""
    renewed: Ballot = NO_BALLOT
    """Highest ballot renewed here: the promise is made to its owner."""
    promise_end: int = 0
    freed: bool = False
    """The promise was ended by a release."""
    lease: int = 0
    """Id of the open run-lease; 0: none, nothing may run here."""
    lease_end: int = 0
    lease_index: int = 0
    """F: nothing starts before this index is applied."""
    drift: int = 0
    """BOOTTIME - RAW at the last renewal (L1)."""
    gate: bool = False
    """Resources may be started; closed before anything is stopped (L7)."""
    office: Ballot = NO_BALLOT
    """Ballot in which this guard is in office."""
    leader_end: int = 0
    """End of the leader lease in ``office``."""
    heard: Ballot = NO_BALLOT
    """Ballot of the newest heartbeat accepted from another node."""
    heard_at: int = 0
    forgot_until: int = 0
    """While now is below this, the guard reports "no memory" (L3)."""
    fence_from: int = 0
    """While now is below this, a guard without memory refuses every fence (L3)."""
    lease_closed: int = 0
    """Highest lease id closed here."""
    incarnation: int = 0
    progress: int = 0
    """Instant of the guard's last finished pass."""
    configured: bool = False
    heartbeat: int = 0
    promise: int = 0
    run: int = 0
    kill: int = 0


def pack_page(page: LeasePage) -> bytes:
    """Return the page as bytes (without the sequence lock, see :mod:`leitwolf.system.page`)."""
    body = _BODY.pack(
        _MAGIC, _VERSION, 0, page.boot_id, *page.floor, *page.renewed, page.promise_end,
        page.freed, page.lease, page.lease_end, page.lease_index, page.drift, page.gate,
        *page.office, page.leader_end, *page.heard, page.heard_at, page.forgot_until,
        page.fence_from, page.lease_closed, page.incarnation, page.progress, page.configured,
        page.heartbeat, page.promise, page.run, page.kill,
    )  # fmt: skip
    return body + struct.pack("<I", zlib.crc32(body))


def unpack_page(data: bytes, boot_id: bytes) -> LeasePage | None:
    """Return the page in these bytes, or None when they hold no page of this boot."""
    if len(data) < _BODY.size + 4:
        return None
    body = data[: _BODY.size]
    (crc,) = struct.unpack_from("<I", data, _BODY.size)
    if zlib.crc32(body) != crc:
        return None
    values = _BODY.unpack(body)
    magic, version, _, page_boot_id = values[:4]
    if magic != _MAGIC or version != _VERSION or page_boot_id != boot_id:
        return None
    rest = values[4:]
    return LeasePage(  # type: ignore[call-arg]  # one value per field, see _BODY
        page_boot_id, Ballot(*rest[0:3]), Ballot(*rest[3:6]), *rest[6:13],
        Ballot(*rest[13:16]), rest[16], Ballot(*rest[17:20]), *rest[20:],
    )  # fmt: skip
