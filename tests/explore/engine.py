"""Breadth-first search through all states of a model: every order of everything that may happen.

A state is a small tuple that can be compared and hashed; a model lists what may happen in it and
what comes of it. The first violation found is one of the shortest. A path is the list of choices,
each the number of a step among those possible; it names a run completely.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

State = tuple[Any, ...]


class Broken(Exception):
    """Something that must never happen happened."""


@dataclass(frozen=True)
class Step:
    """One thing that may happen next."""

    label: str
    state: State
    broken: str = ""
    """What it broke, '': nothing."""


class Model(Protocol):
    """What is searched."""

    def initial(self) -> State:
        """Return where everything begins."""

    def steps(self, state: State) -> Iterator[Step]:
        """Return everything that may happen, always in the same order."""


@dataclass(frozen=True)
class Outcome:
    """What a search found."""

    states: int
    transitions: int
    depth: int
    complete: bool
    """Nothing was left to look at."""
    broken: str = ""
    path: tuple[int, ...] = ()

    def __str__(self) -> str:
        ended = "complete" if self.complete else "stopped"
        found = f"; {self.broken}" if self.broken else ""
        return (
            f"{self.states} states, {self.transitions} transitions, depth {self.depth}, "
            f"{ended}{found}"
        )


def explore(model: Model, states_max: int = 1 << 60) -> Outcome:
    """Look at every state that can be reached; stop at the first that is broken."""
    first = model.initial()
    known: dict[State, tuple[State | None, int]] = {first: (None, 0)}
    queue: deque[tuple[State, int]] = deque([(first, 0)])
    transitions, depth = 0, 0
    while queue:
        state, depth = queue.popleft()
        for choice, step in enumerate(model.steps(state)):
            transitions += 1
            if step.broken:
                path = (*_path(known, state), choice)
                return Outcome(len(known), transitions, depth + 1, False, step.broken, path)
            if step.state not in known:
                known[step.state] = (state, choice)
                queue.append((step.state, depth + 1))
        if len(known) >= states_max:
            return Outcome(len(known), transitions, depth, False)
    return Outcome(len(known), transitions, depth, True)


def _path(known: dict[State, tuple[State | None, int]], state: State) -> tuple[int, ...]:
    choices: list[int] = []
    former, choice = known[state]
    while former is not None:
        choices.append(choice)
        former, choice = known[former]
    return tuple(reversed(choices))


def replay(model: Model, path: tuple[int, ...]) -> list[str]:
    """Return what happens on a path, one line a step; the last says what broke, if anything."""
    state, lines = model.initial(), []
    for choice in path:
        step = list(model.steps(state))[choice]
        lines.append(step.label)
        if step.broken:
            lines.append(f"BROKEN: {step.broken}")
            break
        state = step.state
    return lines
