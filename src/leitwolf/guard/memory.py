"""What a guard leaves for the next one beside its page: the configuration, on the tmpfs.

With it a restarted guard answers heartbeats within milliseconds, before the daemon is back.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from leitwolf.wire.guard import GUARD, Configure
from leitwolf.wire.layout import LayoutError

__all__ = ["recall", "remember"]


def remember(path: Path, boot_id: bytes, configuration: Configure) -> None:
    """Write the configuration; the file is whole or the former one.

    Raises:
        OSError: no space on the tmpfs.
    """
    body = boot_id + GUARD.encode(configuration)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(zlib.crc32(body).to_bytes(4, "big") + body)
    fresh.rename(path)


def recall(path: Path, boot_id: bytes) -> Configure | None:
    """Return the configuration of the predecessor, None when there is none of this boot."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    body = data[4:]
    if data[:4] != zlib.crc32(body).to_bytes(4, "big") or body[:16] != boot_id:
        return None
    try:
        found = GUARD.decode(body[16:])
    except LayoutError:  # of another version
        return None
    return found if isinstance(found, Configure) else None
