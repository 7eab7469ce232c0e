"""The canonical form of a node: equal for two nodes that will behave alike from now on.

Left out is what only counts (serial numbers of questions and calls) or tells an instant, as this
world has none. Positions in the log's queue of writes count from what is durable.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from functools import cache
from hashlib import blake2b

import msgspec

SKIPPED = {
    "QuorumNode": {"now", "output", "rules"},
    "LeaseNode": {"now", "output", "rules"},
    "Standing": {
        *("page", "_fold", "rules", "now", "me", "boot", "signals", "_calls", "_nonces"),
        *("_judged", "_may_campaign", "named_commit", "rank_delay_ns"),
    },
    "QuorumCore": {"_passives_of"},
    "Candidate": {"_ranked"},
    "DiskAcceptor": {
        *("_serial", "acceptor", "_timing", "_health_at", "reached_since", "_sign_at"),
        *("_writes", "_appended"),  # far below their limits
        "moved_from",
    },
    "CasAcceptor": {
        *("_serial", "acceptor", "_timing", "_health_at", "reached_since", "_sign_at"),
        "moved_from",
    },
    "Outbox": {"_write_at"},
    "Executor": {"_serial", "_outlets"},
    "Pending": {"serial"},
    "Ledger": {"now", "raw", "rules", "_effects", "_written"},
}
"""By class: fields that only count or measure, or follow from others."""
INSTANTS = {
    "Standing": {"promised_at"},
    "Candidate": {
        *("_serial", "_attempts", "_retry_at", "_started_at", "_freed_at"),
        *("_leader_seen_at", "_freed"),
    },
    "Campaign": {"serial", "deadline", "resend_at", "willing"},
    "DiskAcceptor": {"_begun", "looked_at", "_seen"},
    "CasAcceptor": {"_begun", "looked_at", "_seen"},
    "Progress": {"heard", "sent"},
    "Pending": {"started"},
}
"""By class: fields that mean nothing where there is no time."""
POSITIONS = {
    *("position", "durable_position", "_submitted", "_under_way", "durable", "_prepare_after"),
    "_copied_at",
}
_PLAIN = (int, str, bytes, bool, type(None), float, Enum, msgspec.Struct)


class Canon:
    """Writes one object graph down."""

    def __init__(self, durable: int, *, timeless: bool) -> None:
        self._durable = durable
        self._timeless = timeless
        self._parts: list[str] = []
        self._met: dict[int, int] = {}

    @classmethod
    def of(cls, root: object, durable: int, *, timeless: bool) -> bytes:
        """Return a digest of everything that ``root`` will act by."""
        canon = cls(durable, timeless=timeless)
        canon._write(root)
        return blake2b("".join(canon._parts).encode(), digest_size=16).digest()

    def _write(self, value: object) -> None:
        parts = self._parts
        if isinstance(value, _PLAIN) or hasattr(value, "_fields"):
            parts.append(repr(value))
        elif isinstance(value, (list, tuple, deque)):
            parts.append("(")
            for item in value:
                self._write(item)
                parts.append(",")
            parts.append(")")
        elif isinstance(value, dict):
            parts.append("{")
            for key in sorted(value, key=repr):
                parts.append(f"{key!r}:")
                self._write(value[key])
            parts.append("}")
        elif isinstance(value, (set, frozenset)):
            parts.append(f"{sorted(map(repr, value))}")
        else:
            self._object(value)

    def _object(self, value: object) -> None:
        name = type(value).__name__
        number = self._met.setdefault(id(value), len(self._met))
        self._parts.append(f"<{name}{number}")
        if number == len(self._met) - 1:
            skipped, slots = _plan(type(value), self._timeless)
            for field in slots:
                self._field(field, getattr(value, field))
            for field, held in getattr(value, "__dict__", {}).items():
                if field not in skipped:
                    self._field(field, held)
        self._parts.append(">")

    def _field(self, field: str, value: object) -> None:
        self._parts.append(f" {field}=")
        if field in POSITIONS and isinstance(value, int):
            self._parts.append(str(max(0, value - self._durable)))
        elif field == "_waiting":
            for after, _, effect in sorted(value, key=lambda item: item[:2]):
                bare = msgspec.structs.replace(effect, after=0)
                if hasattr(bare, "serial"):
                    bare = msgspec.structs.replace(bare, serial=0)
                self._parts.append(f"{after - self._durable}:{bare!r}")
        elif field in ("_marks", "replies"):
            for after, *rest in value:
                self._parts.append(f"{max(0, after - self._durable)}:{rest!r}")
        elif field == "_queue":
            for item in value:
                self._parts.append(f"{item.position - self._durable}")
                self._write(getattr(item, "records", item))
        else:
            self._write(value)


@cache
def _plan(kind: type, timeless: bool) -> tuple[set[str], tuple[str, ...]]:
    """Return which fields of a class do not count, and which of its slots do."""
    skipped = SKIPPED.get(kind.__name__, set())
    if timeless:
        skipped = skipped | INSTANTS.get(kind.__name__, set())
    slots = [slot for base in kind.__mro__ for slot in getattr(base, "__slots__", ())]
    return skipped, tuple(slot for slot in slots if slot not in skipped)
