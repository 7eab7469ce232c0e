"""Whether a history of one register could have come about one operation after another.

Each operation takes effect at one instant between its call and its return. One whose outcome is
not known took effect at some instant after its call, or never. The search is Wing and Gong's, with
the cache of Lowe: a set of operations that took effect, and the value after them, is tried once.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Kind", "Operation", "linearizable", "unexplained"]

_NEVER = 1 << 62
_STATES_MAX = 60_000
"""A history that takes longer is taken for one without an explanation, and shown."""


class Kind(Enum):
    """What was asked for."""

    READ = "read"
    WRITE = "write"
    SWAP = "swap"
    """Write if the value still is what was expected."""


@dataclass(frozen=True)
class Operation:
    """One operation as its client saw it; instants in any unit."""

    kind: Kind
    called: int
    returned: int | None
    """None: nobody knows whether it took effect."""
    value: int
    """Read, or to be written."""
    expected: int = 0
    """Of a swap."""
    done: bool = True
    """Of a swap: it was not refused."""

    @property
    def end(self) -> int:
        return _NEVER if self.returned is None else self.returned

    def apply(self, value: int) -> int | None:
        """Return the value after it took effect; None: with this value before it cannot have."""
        match self.kind:
            case Kind.READ:
                return value if value == self.value else None
            case Kind.WRITE:
                return self.value
            case Kind.SWAP:
                if self.returned is None:
                    return self.value if value == self.expected else value
                if self.done != (value == self.expected):
                    return None
                return self.value if self.done else value

    def __str__(self) -> str:
        until = "?" if self.returned is None else str(self.returned)
        what = {
            Kind.READ: f"read {self.value}",
            Kind.WRITE: f"write {self.value}",
            Kind.SWAP: f"swap {self.expected} for {self.value}{'' if self.done else ': refused'}",
        }[self.kind]
        return f"{self.called:>15} .. {until:>15}  {what}"


def linearizable(history: list[Operation], initial: int) -> bool:
    """Return whether there is an order that explains every outcome."""
    return not unexplained(history, initial)


def unexplained(history: list[Operation], initial: int) -> list[Operation]:
    """Return the operations among which no order explains the next one; []: all is explained."""
    told = {one.value for one in history if one.kind is Kind.READ}
    told |= {one.expected for one in history if one.kind is Kind.SWAP}
    # What is unknown need not have happened: without what nobody saw the search is short. Only
    # where something cannot follow, a refusal say, what was called last before it is let happen.
    chosen = [one for one in history if one.returned is not None or one.value in told]
    spare = [one for one in history if one.returned is None and one.value not in told]
    spare.sort(key=lambda one: one.called)
    while lost := _search(chosen, initial):
        until = min(one.end for one in lost)
        number = sum(one.called <= until for one in spare)
        if not number:
            return _search(history, initial) if spare else lost
        chosen.append(spare.pop(number - 1))
    return []


def _search(history: list[Operation], initial: int) -> list[Operation]:
    operations = sorted(history, key=lambda operation: operation.called)
    wanted = sum(1 << n for n, one in enumerate(operations) if one.returned is not None)
    seen = {(0, initial)}
    stack = [(0, initial)]
    best = 0
    while stack and len(seen) < _STATES_MAX:
        done, value = stack.pop()
        if done & wanted == wanted:
            return []
        if (done & wanted).bit_count() > (best & wanted).bit_count():
            best = done
        for number in _next(operations, done):
            after = operations[number].apply(value)
            state = (done | 1 << number, after)
            if after is not None and state not in seen:
                seen.add(state)
                stack.append((done | 1 << number, after))
    return [operations[number] for number in _next(operations, best)]


def _next(operations: list[Operation], done: int) -> list[int]:
    """Return what may take effect next: what was called before everything left had returned."""
    found: list[int] = []
    first_return = _NEVER
    number = (~done & (done + 1)).bit_length() - 1
    while number < len(operations) and operations[number].called <= first_return:
        if not done >> number & 1:
            found.append(number)
            first_return = min(first_return, operations[number].end)
        number += 1
    return [n for n in found if operations[n].called <= first_return]
