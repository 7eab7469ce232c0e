"""The checker of histories: what it accepts and what it must not."""

from __future__ import annotations

import itertools
import random

import pytest
from tests.linearizable import Kind, Operation, linearizable, unexplained


def read(called: int, returned: int, value: int) -> Operation:
    return Operation(Kind.READ, called, returned, value)


def write(called: int, returned: int | None, value: int) -> Operation:
    return Operation(Kind.WRITE, called, returned, value)


def swap(
    called: int, returned: int | None, expected: int, value: int, *, done: bool = True
) -> Operation:
    return Operation(Kind.SWAP, called, returned, value, expected, done)


GOOD = {
    "nothing": [],
    "one after another": [write(0, 1, 5), read(2, 3, 5)],
    "a read beside a write sees either": [write(0, 9, 5), read(1, 2, 0), read(3, 4, 5)],
    "an unknown write that happened": [write(0, None, 5), read(8, 9, 5)],
    "an unknown write that did not": [write(0, None, 5), read(8, 9, 0)],
    "an unknown write that happened late": [write(0, None, 5), read(2, 3, 0), read(8, 9, 5)],
    "a swap of two that met": [swap(0, 9, 0, 1), swap(0, 9, 0, 2, done=False), read(10, 11, 1)],
    "a swap that was refused rightly": [write(0, 1, 5), swap(2, 3, 0, 6, done=False)],
    "an unknown swap": [swap(0, None, 0, 7), read(5, 6, 7)],
}
BAD = {
    "a lost write": [write(0, 1, 5), read(2, 3, 0)],
    "a value from nowhere": [read(0, 1, 4)],
    "back in time": [write(0, 9, 5), read(1, 2, 5), read(3, 4, 0)],
    "an unknown write seen and gone": [write(0, None, 5), read(2, 3, 5), read(4, 5, 0)],
    "an unknown write seen before its call": [read(0, 1, 5), write(2, None, 5)],
    "two swaps of the same value": [swap(0, 9, 0, 1), swap(0, 9, 0, 2)],
    "a swap that was refused wrongly": [swap(0, 1, 0, 1, done=False)],
    "a swap over a later write": [write(0, 1, 5), swap(2, 3, 0, 6)],
    "an unknown swap over a later write": [
        write(0, 1, 5),
        swap(2, None, 0, 6),
        read(8, 9, 6),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_history_with_an_explanation_is_accepted(name: str) -> None:
    """Whatever order its operations are listed in."""
    for order in itertools.permutations(GOOD[name]):
        assert linearizable(list(order), 0)


@pytest.mark.parametrize("name", BAD)
def test_a_history_without_one_is_not(name: str) -> None:
    """The operations that cannot follow are named."""
    assert unexplained(BAD[name], 0)


def test_it_agrees_with_trying_every_order() -> None:
    """On small random histories, good and bad, as a search without any cleverness says."""
    verdicts = set()
    for seed in range(3_000):
        source = random.Random(seed)
        history = []
        for _ in range(source.randrange(1, 6)):
            called = source.randrange(6)
            returned = source.choice([None, called + source.randrange(4)])
            kind = source.choice(list(Kind))
            if kind is Kind.READ:
                returned = called if returned is None else returned
            value, expected = source.randrange(3), source.randrange(3)
            done = returned is None or source.random() < 0.5
            history.append(Operation(kind, called, returned, value, expected, done))
        want = by_every_order(history)
        assert linearizable(history, 0) == want, (seed, [str(one) for one in history])
        verdicts.add(want)
    assert verdicts == {True, False}


def by_every_order(history: list[Operation]) -> bool:
    known = [one for one in history if one.returned is not None]
    unknown = [one for one in history if one.returned is None]
    for count in range(len(unknown) + 1):
        for happened in itertools.combinations(unknown, count):
            for order in itertools.permutations([*known, *happened]):
                if explains(order):
                    return True
    return False


def explains(order: tuple[Operation, ...]) -> bool:
    value: int | None = 0
    for number, one in enumerate(order):
        if any(later.end < one.called for later in order[number + 1 :]):
            return False
        value = one.apply(value)
        if value is None:
            return False
    return True
