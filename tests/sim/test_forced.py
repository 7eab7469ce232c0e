"""Forced and prevented quorum: what must be survived, and random disasters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.effort import part
from tests.sim_forced import SURVIVED
from tests.sim_forced_again import AGAIN_SURVIVED

from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.sim.scenario import Outcome, Setting, simulate

SCENES = (*SURVIVED, *AGAIN_SURVIVED)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_what_operators_meet(scene: Callable[[int, Rules], None]) -> None:
    """Every situation in which a quorum is forced ends well, or is refused."""
    for seed in range(2):
        scene(seed, ALL_RULES)


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_what_operators_meet_at_other_times(scene: Callable[[int, Rules], None]) -> None:
    """The same at many other moments."""
    for seed in range(2, 2 + part(38)):
        print(f"seed {seed}")
        scene(seed, ALL_RULES)


def disaster(seed: int, nodes: int, quorum: str, *, dynamic: bool = False) -> Outcome:
    setting = Setting(nodes=nodes, mix="forced", chaos_s=60, quorum=quorum, dynamic=dynamic)
    outcome = simulate(seed, setting)
    assert outcome.ok, f"simulate({seed}, {setting})\n{outcome.violation}"
    return outcome


@pytest.mark.parametrize(
    ("nodes", "quorum", "dynamic"),
    [(3, "majority", False), (5, "majority", False), (4, "majority", True), (3, "disk", False)],
)
def test_random_disasters(nodes: int, quorum: str, dynamic: bool) -> None:
    """Machines die, parts are forced, rightly or not, and come back: histories stay whole."""
    outcomes = [disaster(seed, nodes, quorum, dynamic=dynamic) for seed in range(4)]
    healed = [one for one in outcomes if any("gives way" in line for line in one.trace)]
    assert healed, "nothing was ever forced"


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("nodes", [2, 3, 4, 5])
@pytest.mark.parametrize("quorum", ["majority", "disk", "disk-witness", "tag-witness"])
def test_many_random_disasters(nodes: int, quorum: str) -> None:
    """The same for longer, with every kind of quorum."""
    for seed in range(100, 100 + part(40)):
        disaster(seed, nodes, quorum)
