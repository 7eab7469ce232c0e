"""Every rule is needed: without it a test sees the harm.

Many rules fall to random faults of a mix that suits them. Where chance is too rare a directed run
(``tests/sim_*.py``) brings the one situation about in which the rule acts. A few act in moments at
shared disks and witnesses which the simulator does not meet: one core meets them whose disk the
test plays (``tests/unit/test_disk_acceptor.py``), or a search of all runs does
(``tests/explore/searches.py``). Nothing may break in the same run with all rules.
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType

import pytest
from tests.explore.searches import MUTANTS
from tests.sim import test_quorum_kinds, test_rolled_back, test_takeover
from tests.sim_elections import ELECTIONS
from tests.sim_forced import FORCED
from tests.sim_forced_again import AGAIN
from tests.sim_needed import SEEDS_MAX, broken, by_chance, missed
from tests.sim_scenes import SCENES
from tests.sim_votes import VOTES
from tests.unit import test_disk_acceptor

from leitwolf.core.rules import RULES, Rules
from leitwolf.sim.scenario import Setting

DIRECTED = SCENES | ELECTIONS | VOTES | FORCED | AGAIN


# --- random runs ---------------------------------------------------------------------------------


def setting(mix: str, nodes: int = 3, spares: int = 0) -> Setting:
    return Setting(nodes=nodes, spares=spares, mix=mix, chaos_s=20, liveness=False)


RANDOM: dict[str, Setting] = {
    "freed-mark": setting("all"),
    "renew-self-first": setting("all"),
    "lease-from-send": setting("all"),
    "rates": setting("all"),
    "host-permit": setting("guards"),
    "candidate-own-promise": setting("all"),
    "floor": setting("guards"),
    "release-stops-counting": setting("daemons"),
    "lease-ended-stays-closed": setting("guards"),
    "fence-before-promise": setting("guards"),
    "floor-before-accept": setting("guards"),
    "truncate-conflict": setting("guards"),
    "accept-at-promised": setting("guards"),
    "attest-after-stopped": setting("hosts"),
    "joint-lease": setting("members", spares=2),
    "horizon": setting("network", nodes=5),
    "durable-before-reply": setting("blackouts"),
    "config-at-append": setting("members", spares=2),
    "joint-and": setting("members", spares=2),
    "learner-no-vote": setting("members", spares=2),
    "leader-durable-counts": setting("all"),
    "noop-first": setting("all"),
    "answer-after-commit": setting("all"),
}
"""Rule -> the runs that need it.

``joint-and``: votes change one at a time, so that a majority of the old members and one of the new
meet anyway. What is seen is an entry that counts as committed and lacks a quorum of one of them.
"""


def switched_off_in(module: ModuleType) -> set[str]:
    """Return the rules that tests of a module get as their parameter ``rule``, each by itself."""
    marks = [mark for test in vars(module).values() for mark in getattr(test, "pytestmark", ())]
    given = [mark.args[1] for mark in marks if mark.args and mark.args[0] == "rule"]
    return {rule for rules in given for rule in rules}


def test_every_rule_is_accounted_for() -> None:
    """Each rule is the parameter of a test, or of a search, that shows what breaks without it."""
    here = sys.modules[__name__]
    elsewhere = (test_quorum_kinds, test_rolled_back, test_takeover, test_disk_acceptor)
    tested = set().union(*map(switched_off_in, (here, *elsewhere)))
    alone = [mutant.rules for mutant in MUTANTS.values() if len(mutant.rules) == 1]
    assert tested.union(*alone) == RULES.keys()
    assert not RANDOM.keys() & DIRECTED.keys()


# --- directed runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", sorted(DIRECTED))
def test_a_directed_run_needs_the_rule(rule: str) -> None:
    """With all rules nothing breaks in several seeds; without this one an invariant does."""
    scene = DIRECTED[rule]
    for seed in range(5):
        assert broken(scene, seed, Rules()) == "", seed
    run = functools.partial(broken, scene)
    assert not (why := missed(rule, run, range(SEEDS_MAX // 5))), why


@pytest.mark.long
@pytest.mark.parametrize("rule", sorted(RANDOM))
def test_random_faults_need_the_rule(rule: str) -> None:
    """Within 200 seeds an invariant breaks without the rule, and with all of them none does."""
    assert not (why := missed(rule, by_chance(RANDOM[rule]), range(SEEDS_MAX))), why


# --- what counts ---------------------------------------------------------------------------------


def test_an_error_of_the_mutated_path_does_not_count() -> None:
    """A missing key is no broken invariant; nor is one that breaks with all rules as well."""

    def fails(seed: int, rules: Rules) -> str:
        return f"KeyError at core/node.py:{seed}: 2" if rules.off else ""

    assert "KeyError" in missed("floor", fails, range(3))
    assert "with all rules, too" in missed("floor", lambda *_: "I3: two leaders", range(3))
    assert "nothing breaks" in missed("floor", lambda *_: "", range(3))
    assert missed("floor", lambda _, rules: "I3: two" if rules.off else "", range(3)) == ""
