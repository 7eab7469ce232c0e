"""Deterministic randomness for the simulator: one seed decides everything.

SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Entropy"]

T = TypeVar("T")
_MASK = (1 << 64) - 1


class Entropy:
    """A stream of numbers that its seed determines."""

    def __init__(self, seed: int) -> None:
        """Begin the stream of ``seed``."""
        self._state = (seed * 0x9E3779B97F4A7C15 + 0x1234567) & _MASK

    def bits(self) -> int:
        """Return 64 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        word = self._state
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
        return word ^ (word >> 31)

    def between(self, low: int, high: int) -> int:
        """Return a whole number in low..high, both included."""
        return low + self.bits() % (high - low + 1)

    def chance(self, per_thousand: int) -> bool:
        """Return True with this probability in thousandths."""
        return per_thousand > 0 and self.bits() % 1000 < per_thousand

    def choice(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[self.bits() % len(items)]

    def split(self) -> Entropy:
        """Return an independent stream."""
        return Entropy(self.bits())
