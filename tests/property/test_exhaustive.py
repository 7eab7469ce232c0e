"""Every run of the real quorum core within small bounds: nothing breaks, and each rule is needed.

A counterexample is printed in words, with the command that replays it (``tests/explore``).
"""

from __future__ import annotations

import pytest
from tests.explore.engine import Model, Outcome, explore, replay
from tests.explore.searches import LONG, MUTANTS, QUICK, SEARCHES, model, mutated

STATES_MAX = 3_000_000


def searched(name: str, what: Model, states_max: int = STATES_MAX) -> Outcome:
    """Search, and print what was found."""
    outcome = explore(what, states_max)
    print(f"{name}: {outcome}")
    if outcome.path:
        print("\n".join(replay(what, outcome.path)))
        print("python -m tests.explore", name, "--path", ".".join(map(str, outcome.path)))
    return outcome


@pytest.mark.parametrize("name", sorted(QUICK))
def test_no_run_breaks_anything(name: str) -> None:
    """All states within the bounds were seen, and none is broken."""
    outcome = searched(name, model(QUICK[name]))
    assert not outcome.broken
    assert outcome.complete
    assert outcome.states > 1_000


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", sorted(LONG))
def test_no_longer_run_breaks_anything(name: str) -> None:
    """The same with wider bounds."""
    outcome = searched(name, model(LONG[name]))
    assert not outcome.broken
    assert outcome.complete


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_rule_that_is_switched_off_is_missed(name: str) -> None:
    """The search finds a run that goes wrong, and replaying it goes wrong at the same place."""
    what = mutated(name)
    outcome = searched(name, what, 100_000)
    assert outcome.broken
    lines = replay(what, outcome.path)
    assert lines[-1] == f"BROKEN: {outcome.broken}"
    assert len(lines) == len(outcome.path) + 1


def test_the_search_sees_what_must_be_seen() -> None:
    """In the quick searches entries commit and both nodes lead: there is something to break."""
    for name in ("disk", "three-nodes"):
        what = model(SEARCHES[name])
        explore(what)
        watched = what.watched()
        assert max(len(seen.committed) for seen in watched) >= SEARCHES[name].entries
        assert max(len(seen.elected) for seen in watched) >= 2
