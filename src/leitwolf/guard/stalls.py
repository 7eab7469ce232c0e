"""How late the passes of this process are: what the guard knows of its own stalls."""

from __future__ import annotations

__all__ = ["Stalls"]

_SLOT_NS = 5_000_000_000
_SLOTS = 12


class Stalls:
    """Worst lateness since the start and in about the last minute, in ns.

    Args:
        now: instant of the start, RAW ns.
    """

    def __init__(self, now: int) -> None:
        self.peak = 0
        self._slots = [0] * _SLOTS
        self._turn = now // _SLOT_NS

    def note(self, now: int, late: int) -> None:
        """Count a pass that began ``late`` ns after its deadline."""
        turn = now // _SLOT_NS
        for passed in range(self._turn + 1, min(turn, self._turn + _SLOTS) + 1):
            self._slots[passed % _SLOTS] = 0
        self._turn = turn
        at = turn % _SLOTS
        self._slots[at] = max(self._slots[at], late)
        self.peak = max(self.peak, late)

    @property
    def recent(self) -> int:
        """Worst lateness of about the last minute."""
        return max(self._slots)
