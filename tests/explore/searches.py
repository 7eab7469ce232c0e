"""The searches by name, and what each rule is for: the search that goes wrong without it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.effort import part
from tests.explore.lease_model import LeaseBounds, LeaseModel
from tests.explore.quorum_model import Bounds, QuorumModel

DISK = Bounds(nodes=2, shared="disk", weight=0, cut=True, rounds=2, entries=2)
THREE = Bounds(nodes=3, rounds=1, entries=2)
LEASES = LeaseBounds(nodes=2, shared="disk", weight=0, cut=True, beats=5, freezes=1, lates=0)

QUICK: dict[str, Bounds] = {
    "disk": DISK,
    "disk-crash": replace(DISK, served=True, rounds=1, crashes=1),
    "three-nodes": THREE,
    "leases": LEASES,
}
"""Complete in seconds."""
LONG: dict[str, Bounds] = {
    "disk-long": replace(DISK, rounds=3, entries=3),
    "disk-crash-long": replace(DISK, served=True, crashes=1),
    "disk-fault": replace(DISK, served=True, faults=1),
    "disk-and-nodes": replace(DISK, weight=1, cut=False, rounds=1),
    "tag-and-nodes": Bounds(nodes=2, shared="tag", rounds=1, entries=2),
    "object": replace(DISK, shared="full"),
    "three-nodes-long": replace(THREE, rounds=2),
    "three-nodes-crash": replace(THREE, candidates=2, entries=1, crashes=1, repeats=False),
    "change": Bounds(nodes=3, rounds=2, entries=1, change=(3,), repeats=False),
    "leases-long": replace(LEASES, beats=part(6, least=5), lates=1),
}
"""Complete in minutes."""
SEARCHES = QUICK | LONG


@dataclass(frozen=True)
class Mutant:
    """What is switched off, and where that goes wrong."""

    search: str
    rules: frozenset[str] = frozenset()
    copies: int = 2
    crashes: int = 0
    """More than the search has."""


MUTANTS: dict[str, Mutant] = {
    "R1": Mutant("three-nodes", frozenset({"promise-above", "fence-before-promise"})),
    "R1-object": Mutant("object", frozenset({"object-promise"})),
    "R2": Mutant("three-nodes", frozenset({"up-to-date"})),
    "R2-tag": Mutant("tag-and-nodes", frozenset({"tag-compare"})),
    "R3": Mutant("three-nodes", frozenset({"accept-at-promised"})),
    "R4": Mutant("three-nodes-crash", frozenset({"durable-before-reply"})),
    "R4-leader": Mutant("three-nodes-crash", frozenset({"leader-durable-counts"})),
    "R5-disk": Mutant("leases", frozenset({"stamp-wait"})),
    "P2-second-copy": Mutant("disk-crash-long", copies=1, crashes=1),
    "P3": Mutant("disk", frozenset({"disk-reread"})),
    "P3-stamp": Mutant("leases-long", frozenset({"disk-reread"})),
    "P4": Mutant("disk", frozenset({"disk-adopt"})),
    "joint-AND": Mutant("change", frozenset({"joint-and"})),
}
"""R1 needs two: the floor of the guard would refuse an older ballot as well."""


def model(bounds: Bounds) -> QuorumModel:
    """Return what is to be searched."""
    return LeaseModel(bounds) if isinstance(bounds, LeaseBounds) else QuorumModel(bounds)


def mutated(name: str) -> QuorumModel:
    """Return the model of a mutant."""
    mutant = MUTANTS[name]
    bounds = SEARCHES[mutant.search]
    return model(
        replace(
            bounds,
            switched_off=mutant.rules,
            copies=mutant.copies,
            crashes=bounds.crashes + mutant.crashes,
        )
    )
