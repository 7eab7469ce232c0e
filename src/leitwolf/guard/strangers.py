"""Who sends heartbeats that no key of this cluster opens: another cluster, or a former member.

They are dropped like everything else that is not authentic; people should know of them, as the
other side takes an address of this node for one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from leitwolf.wire.guard import Stranger, StrangersReport

__all__ = ["Strangers"]

_FORGET_NS = 60_000_000_000
"""Silent for so long, it is gone."""
_LOOK_NS = 1_000_000_000
_REPEAT_NS = 10_000_000_000
"""A daemon that was started meanwhile learns of them, and of the counts."""
_FEWEST = 3
"""Datagrams that make a stranger: a single one may be an old one of a replaced key."""
_STRANGERS_MAX = 8
"""Addresses kept: a flood of forged ones costs nothing more."""


@dataclass(slots=True)
class _Known:
    heard: int
    count: int = 0


class Strangers:
    """Counts by address. Instants are RAW ns."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._look_at = 0
        self._repeat_at = 0
        self._told: tuple[str, ...] = ()

    def note(self, now: int, address: str) -> None:
        """A heartbeat under a foreign key came from ``address``."""
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _STRANGERS_MAX:
                return
            known = self._known[address] = _Known(now)
        known.heard = now
        known.count += 1

    def news(self, now: int) -> StrangersReport | None:
        """Return what is to be told: when somebody came or is gone, and now and then."""
        if now < self._look_at:
            return None
        self._look_at = now + _LOOK_NS
        for address in [
            one for one, known in self._known.items() if now - known.heard > _FORGET_NS
        ]:
            del self._known[address]
        present = {one: known for one, known in self._known.items() if known.count >= _FEWEST}
        named = tuple(sorted(present))
        if named == self._told and (not named or now < self._repeat_at):
            return None
        self._told, self._repeat_at = named, now + _REPEAT_NS
        return StrangersReport(tuple(Stranger(one, present[one].count) for one in named))
