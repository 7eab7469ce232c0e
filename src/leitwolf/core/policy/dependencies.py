"""Which resource needs which, within one group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from leitwolf.model.errors import check
from leitwolf.model.ids import ResourceId
from leitwolf.model.state import Resource

__all__ = ["dependents", "depth", "find_cycle", "graph", "levels", "order"]

Graph = Mapping[ResourceId, tuple[ResourceId, ...]]
"""From each resource to its providers."""


def graph(resources: Iterable[Resource]) -> dict[ResourceId, tuple[ResourceId, ...]]:
    """Return the dependencies of these resources; providers not among them are left out."""
    found = {resource.id: resource.depends for resource in resources}
    return {
        name: tuple(provider for provider in depends if provider in found)
        for name, depends in found.items()
    }


def find_cycle(providers: Graph) -> tuple[ResourceId, ...]:
    """Return a cycle as the names along it, the first one again at its end; () when none is."""
    done: set[ResourceId] = set()
    for start in sorted(providers):
        path: list[ResourceId] = []
        pending = [(start, iter(providers[start]))]
        path.append(start)
        while pending:
            name, rest = pending[-1]
            following = next(rest, None)
            if following is None:
                done.add(name)
                path.pop()
                pending.pop()
            elif following in path:
                return (*path[path.index(following) :], following)
            elif following not in done:
                path.append(following)
                pending.append((following, iter(providers.get(following, ()))))
    return ()


def levels(providers: Graph) -> list[tuple[ResourceId, ...]]:
    """Return the resources level by level: each needs only those of earlier levels.

    Raises:
        InvariantError: there is a cycle; commands that would make one are refused.
    """
    left = {name: set(depends) for name, depends in providers.items()}
    found: list[tuple[ResourceId, ...]] = []
    while left:
        level = tuple(sorted(name for name, needs in left.items() if not needs))
        check(level, f"dependencies in a circle: {' -> '.join(find_cycle(providers))}")
        for name in level:
            del left[name]
        for needs in left.values():
            needs.difference_update(level)
        found.append(level)
    return found


def order(providers: Graph) -> list[ResourceId]:
    """Return the resources so that each comes behind what it needs; ties by name."""
    return [name for level in levels(providers) for name in level]


def depth(providers: Graph) -> int:
    """Return the number of levels."""
    return len(levels(providers))


def dependents(providers: Graph) -> dict[ResourceId, tuple[ResourceId, ...]]:
    """Return for each resource those that need it directly."""
    found: dict[ResourceId, list[ResourceId]] = {name: [] for name in providers}
    for name in sorted(providers):
        for provider in providers[name]:
            found[provider].append(name)
    return {name: tuple(users) for name, users in found.items()}
