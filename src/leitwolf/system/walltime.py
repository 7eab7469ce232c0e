"""Wall time for people. Nothing is decided by it."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["local_time"]


def local_time(wall: int) -> str:
    """Return a time (UTC, ns) as this machine's people and its journal write it, with the zone."""
    moment = datetime.fromtimestamp(wall // 1_000_000_000, UTC).astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S}.{wall // 1_000_000 % 1_000:03d} {moment:%Z}"
